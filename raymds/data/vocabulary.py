"""What the vocabularies of a data set and the labels of its rows have to be, before a file is written."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raymds.data import doubles
from raymds.errors import UsageError

RESERVED = {"id", "image", "caption", "group", *doubles.COLUMNS}  # columns of a shard that are no attribute

Vocabularies = Mapping[str, Sequence[str]]  # attribute -> classes


def check_rows(rows: Iterable[Any], attributes: Vocabularies) -> None:
    """UsageError for an attribute with a reserved name, and for a row of other types or with other labels."""
    taken = RESERVED & set(attributes)
    if taken:
        raise UsageError(f"attributes: {min(taken)!r} can't name an attribute, shards have such a column; rename it")
    for row in rows:
        texts = isinstance(row.id, str) and isinstance(row.caption, str) and isinstance(row.group, str | None)
        if not texts or isinstance(row.image, str | None):
            raise UsageError(f"row {row.id}: id, caption and group (or None) have to be text, the image encoded bytes")
        missing = next((attribute for attribute in attributes if attribute not in row.attributes), None)
        if missing is not None:
            raise UsageError(f"row {row.id}: has no {missing}; give a label, None where it is undefined")
        for attribute, label in row.attributes.items():
            if label is not None and label not in attributes.get(attribute, ()):
                raise UsageError(f"row {row.id}: {attribute}={label!r} is not in the vocabulary")


def check_classes(attributes: Vocabularies, shards: Sequence[Any]) -> None:
    """UsageError for a class that is there twice, or that a shard has and the vocabulary has not."""
    for attribute, classes in attributes.items():
        known = set(classes)
        if len(known) < len(classes):
            again = next(label for label in classes if list(classes).count(label) > 1)
            raise UsageError(f"attributes: {attribute} has {again!r} twice; leave one of the two out")
        for shard in shards:
            if not isinstance(shard.classes, dict):  # of a large data set, which was checked when it was made
                continue
            more = shard.classes.get(attribute, {}).keys() - known
            if more:
                raise UsageError(f"{shard.file}: has {attribute}={min(more)!r}, which is not in the vocabulary; add it")


def check_groups(uri: str, tables: Mapping[str, Any]) -> None:
    """UsageError where a group stands in two splits."""
    first: dict[str, str] = {}
    for split, table in tables.items():
        for group in table["group"].drop_null().unique().to_pylist():
            if first.setdefault(group, split) != split:
                raise UsageError(
                    f"{uri}: group {group!r} has rows in {first[group]} and in {split}, which are alike, so it is not "
                    "published; leave those of one split out, or, if they are two groups, give them two names"
                )
