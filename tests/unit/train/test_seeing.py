"""What TensorBoard's event files hold."""

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.proto.event_pb2 import Event

from raymds.run import RunDirectory
from raymds.train.seeing import Boards


def tags(folder: Path) -> Counter[str]:
    """How many values each tag has, by the format of TFRecord: length, its checksum, an event, its checksum."""

    def events(data: bytes) -> Iterator[Any]:
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]

    (file,) = folder.iterdir()
    return Counter(value.tag for event in events(file.read_bytes()) for value in event.summary.value)


def boards_of(folder: Path, m: int) -> Counter[str]:
    """A run with m protected tasks: an evaluation, in which the last tasks lost most, and steps around it."""
    tasks = [f"scene:{k}" for k in range(m)]
    entries = [{"task": task, "new": 0.5, "delta": -k / m} for k, task in enumerate(tasks)]
    target = {"task": "weather:foggy", "new": 0.6, "delta": 0.1}
    boards = Boards(RunDirectory(str(folder)))
    boards.add({"event": "start", "step": 0, "tasks": tasks})
    for step in range(1, 7):
        values = {kind: np.full(m, float(step)) for kind in ("h", "u", "lambda")}
        boards.add({"event": "step", "step": step, "loss": 0.5, "seconds": {"data": 0.1}, **values})
        if step == 3:
            boards.add({"event": "eval", "step": step, "target": target, "tasks": entries, "devsafety": -1.0})
    boards.flush()
    boards.close()
    return tags(folder / "tensorboard")


def test_few_tasks_have_a_line_each(tmp_path: Path) -> None:
    found = boards_of(tmp_path, 50)
    assert found["lambda/scene_7"] == found["u/scene_49"] == found["seconds/data"] == 6
    assert found["delta/scene_7"] == 1
    assert len(found) == 3 * 50 + 2 + 2 * 51 + 1  # h, u, λ; loss, seconds; accuracy, delta with the target's; devsafety


def test_of_364_tasks_there_are_quantiles_and_the_five_that_lost_most(tmp_path: Path) -> None:
    found = boards_of(tmp_path, 364)
    assert len(found) == 3 * (5 + 5) + 2 + 2 * (5 + 5 + 1) + 1
    assert found["u/median"] == found["lambda/max"] == 6
    named = {tag: number for tag, number in found.items() if tag.startswith("u/scene")}
    assert named == {f"u/scene_{k}": 3 for k in range(359, 364)}  # since the evaluation
