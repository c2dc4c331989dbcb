"""Several data sets as one: a manifest over their shards where they lie, and labels of its own. Nothing is copied."""

from collections.abc import Sequence
from typing import Any

from raymds.data.shards import MANIFEST, DataSet, Shard, write_manifest
from raymds.errors import UsageError
from raymds.ingest.sources import SPLITS, spelling
from raymds.store import uri as storage


def mix(uris: Sequence[str], out: str) -> DataSet:
    """Publish the rows of several data sets as one at `out`: splits and vocabularies are joined by name.

    A row has no label of an attribute that its own data set does not have. The manifest's source lists the parts, each
    with its URI, digest, rows by split and source. A mix that is there already is returned if it is of these data sets
    as they are now. UsageError where there are fewer than two, where one comes twice or can't be read, where two
    spell a class differently, and for another data set at `out`.
    """
    uris, out = [storage.absolute(uri).rstrip("/") for uri in uris], storage.absolute(out).rstrip("/")
    if len(uris) < 2:
        raise UsageError(f"data mix: give two data sets or more, here {len(uris)}")
    if out in uris:
        raise UsageError(f"--out {out}: is one of the data sets to be mixed; give another directory")
    sets = [DataSet.open(uri) for uri in uris]
    digests = [data.digest for data in sets]
    for number, data in enumerate(sets):
        if data.digest in digests[:number]:
            first = uris[digests.index(data.digest)]
            raise UsageError(f"{data.uri}: is the same data set as {first}; its rows would count twice: leave one out")
    _refuse_overlap(sets)
    source = {"made_by": "raymds data mix", "parts": [_part(data) for data in sets]}
    if storage.exists(storage.join(out, MANIFEST)):
        found = DataSet.open(out)
        if found.source != source:
            raise UsageError(f"{out}: already holds another data set; give another directory")
        return found
    for data in sets:
        data.check()
    names = [split for split in SPLITS if any(data.splits.get(split) for data in sets)]
    splits = {split: [shard for data in sets for shard in _placed(data, split)] for split in names}
    return write_manifest(out, _joined(sets), splits, source, sets)


def _refuse_overlap(sets: Sequence[DataSet]) -> None:
    """UsageError where a shard is of two data sets, one of which is a mix: its rows would count twice."""
    first: dict[str, str] = {}
    for data in sets:
        for shard in (shard for shards in data.splits.values() for shard in shards):
            other = first.setdefault(shard.sha256, data.uri)
            if other != data.uri:
                raise UsageError(
                    f"{data.uri}: has rows of {other} too ({data.file(shard).uri}), which would count twice; name each "
                    "data set once, in place of the mixes that it is in"
                )


def _part(data: DataSet) -> dict[str, Any]:
    rows = {split: sum(shard.rows for shard in shards) for split, shards in data.splits.items()}
    return {"uri": data.uri, "digest": data.digest, "rows": rows, "source": data.source}


def _placed(data: DataSet, split: str) -> list[Shard]:
    """A split's shards, each named by its URI."""
    return [Shard(**{**vars(shard), "file": data.file(shard).uri}) for shard in data.splits.get(split, [])]


def _joined(sets: Sequence[DataSet]) -> dict[str, list[str]]:
    """Attributes and classes in the order in which the data sets name them first."""
    joined: dict[str, dict[str, None]] = {}
    spelled: dict[tuple[str, ...], tuple[str, str]] = {}  # without case and blanks -> as it is spelled, and where

    def add(uri: str, *names: str) -> None:
        plain = tuple(map(spelling, names))
        before, where = spelled.setdefault(plain, (":".join(names), uri))
        if before != ":".join(names):
            raise UsageError(
                f"{uri}: has {':'.join(names)!r}, {where} has {before!r}: the same name in two spellings; make one of "
                "the two data sets again with the other's"
            )

    for data in sets:
        for attribute, labels in data.attributes.items():
            add(data.uri, attribute)
            for label in labels:
                add(data.uri, attribute, label)
            joined.setdefault(attribute, {}).update(dict.fromkeys(labels))
    return {attribute: list(labels) for attribute, labels in joined.items()}
