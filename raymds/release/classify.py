"""Labels for many images as a table: in this process, or on a cluster of Ray with a model on each of its devices.

The same rows in the same order either way, and on CPUs the same numbers to the last bit, however many there are: a row
depends on nothing but its image and the model.
"""

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import torch
from numpy.typing import NDArray

from raymds.data.decode import decode, decode_upright
from raymds.data.reader import table_bytes
from raymds.errors import UsageError
from raymds.model import Preprocess
from raymds.pool import on_cluster
from raymds.release import images
from raymds.release.images import Item
from raymds.release.recogniser import Recogniser, load, one_thread
from raymds.store import objects
from raymds.store import uri as storage
from raymds.store.aws import StorageConfig

Show = Callable[[dict[str, Any]], None]
Pixels = NDArray[np.uint8]  # (3, S, S)

_BLOCK = {"cpu": 64, "cuda": 256}  # images that are decoded, classified and reported together
_NUMBER = ":number"  # column of an image's place in the order, where blocks come back in another; no attribute's name


def classify(weights: str, model: Recogniser, items: Sequence[Item], show: Show, *, cores: int | None) -> Any:
    """A table with a row per image: `image`, per attribute `A`, `A.probability` and `A.margin`, and `error`.

    An image that can't be decoded has an error and no labels; UsageError where a bucket or data set can't be read.
    `cores` of this machine, or None for those of the Ray cluster that was joined: its machines read `weights`, the path
    or URI of `model`, too. `show` gets progress records.
    """
    model.require_classes()
    _refuse_twice(model)
    tables, done = [], 0
    for table in _on_ray(weights, items, show) if cores is None else _here(model, items, 0, cores):
        tables.append(table)
        done += len(table)
        show({"event": "progress", "what": "images classified", "done": done, "total": len(items)})
    return pa.concat_tables(tables).sort_by(_NUMBER).drop_columns([_NUMBER])


def _refuse_twice(model: Recogniser) -> None:
    """UsageError where two columns would have one name."""
    names = ["image", "error"]
    for attribute in model.classes:
        for name in (attribute, f"{attribute}.probability", f"{attribute}.margin"):
            if name in names:
                raise UsageError(
                    f"{attribute}: an attribute of the model, and {name} is another column of the table; "
                    "raymds.load(…).classify(…) in Python makes no table"
                )
            names.append(name)


def save(table: Any, uri: str) -> None:
    """Publish a table as Parquet or CSV, whichever its name ends with."""
    if uri.endswith(".parquet"):
        storage.write(uri, table_bytes(table))
        return
    buffer = io.BytesIO()
    pacsv.write_csv(table, buffer)
    storage.write(uri, buffer.getvalue())


def check_name(uri: str) -> None:
    """UsageError where a table's name has another ending than those that `save` knows."""
    if not uri.endswith((".parquet", ".csv")):
        raise UsageError(f"--out {uri}: has to end with .parquet or .csv")


def _here(model: Recogniser, items: Sequence[Item], first: int, threads: int) -> Iterator[Any]:
    """Tables of the items in blocks, numbered from `first`; `threads` blocks at a time, each computed by one."""
    size = _BLOCK[model.model.mean.device.type]
    blocks = [items[start : start + size] for start in range(0, len(items), size)]
    working: deque[Future[Any]] = deque()
    with one_thread(), ThreadPoolExecutor(threads, thread_name_prefix="classify") as pool:
        for block in blocks:
            images.ahead(block)
            working.append(pool.submit(_table, model, block, first))
            first += len(block)
            if len(working) > threads:
                yield working.popleft().result()
        while working:
            yield working.popleft().result()


def _decoded(item: Item, fit: Preprocess) -> tuple[str, Pixels | str]:
    """An image's name with its pixels, or with what is wrong with it."""
    try:
        name, encoded = images.read(item)
    except UsageError as error:
        if item.split or not storage.is_local(item.place):  # a store that is gone is no broken image
            raise
        return item.place, str(error)
    try:
        return name, fit(decode(encoded) if item.split else decode_upright(encoded)).transpose(2, 0, 1)
    except ValueError as error:
        return name, str(error)


def _table(model: Recogniser, items: Sequence[Item], first: int) -> Any:
    """The rows of one block."""
    decoded = [_decoded(item, model.model.preprocess) for item in items]
    good = [pixels for _, pixels in decoded if not isinstance(pixels, str)]
    answers = iter(model.answers(torch.from_numpy(np.stack(good))) if good else [])
    rows = [None if isinstance(pixels, str) else next(answers) for _, pixels in decoded]
    columns = {_NUMBER: pa.array(range(first, first + len(decoded))), "image": pa.array([name for name, _ in decoded])}
    for attribute in model.classes:
        said = [row and row[attribute] for row in rows]
        columns[attribute] = pa.array([p and p.label for p in said], pa.string())
        columns[f"{attribute}.probability"] = pa.array([p and p.probability for p in said], pa.float32())
        columns[f"{attribute}.margin"] = pa.array([p and p.margin for p in said], pa.float32())
    errors = [pixels if isinstance(pixels, str) else None for _, pixels in decoded]
    return pa.table([*columns.values(), pa.array(errors, pa.string())], [*columns, "error"])


class _Worker:
    """A model on one device of the cluster."""

    def __init__(self, weights: str, threads: int) -> None:
        objects.configure(StorageConfig(), lambda record: None)  # a store that is gone is waited for
        self._model, self._threads = load(weights), threads

    def __call__(self, part: Any) -> Iterator[Any]:
        """Consecutive items with their numbers, as a table -> tables of what they are."""
        items = [Item(*row) for row in zip(*(part[name].to_pylist() for name in Item._fields), strict=True)]
        return _here(self._model, items, part[_NUMBER][0].as_py(), self._threads)


def _on_ray(weights: str, items: Sequence[Item], show: Show) -> Iterator[Any]:
    """The items' tables, as they come."""
    return on_cluster(_Worker, (storage.absolute(weights),), len(items), lambda numbers: _part(items, numbers), show)


def _part(items: Sequence[Item], numbers: range) -> Any:
    """Some items as a table, with their numbers."""
    part = items[numbers.start : numbers.stop]
    return pa.table({_NUMBER: numbers} | {name: [getattr(item, name) for item in part] for name in Item._fields})
