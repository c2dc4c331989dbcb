"""How rows are ordered and dealt to splits."""

import posixpath
import re
from collections import Counter

import pytest

from raymds.errors import UsageError
from raymds.ingest.sources import Entry, Shares, hold_out, one_spelling, resplit, shuffled


def ids(entries: list[Entry]) -> set[str]:
    return {entry.id for entry in entries}


def test_order_is_a_function_of_seed_and_id() -> None:
    entries = [Entry(f"{i}", "", "", ()) for i in range(50)]
    drawn = shuffled(entries, 1, "order")
    assert drawn == shuffled(reversed(entries), 1, "order")
    assert drawn not in (entries, shuffled(entries, 2, "order"), shuffled(entries, 1, "val"))
    fewer = [entry for entry in drawn if entry.id != "7"]
    assert fewer == shuffled([entry for entry in entries if entry.id != "7"], 1, "order")


def test_every_group_of_labels_gives_its_share_to_val() -> None:
    sizes = {"a": 100, "b": 30, "c": 2, "d": 1}
    entries = [Entry(f"{name}{i}", "", "", (name,)) for name, size in sizes.items() for i in range(size)]
    rest, held = hold_out(entries, 0.1, seed=0)
    assert Counter(entry.labels[0] for entry in held) == {"a": 10, "b": 3, "c": 1}
    assert sorted([*rest, *held]) == sorted(entries)
    assert ids(hold_out(reversed(entries), 0.1, seed=0)[1]) == ids(held)
    assert ids(hold_out(entries, 0.1, seed=1)[1]) != ids(held)


def test_rows_are_dealt_anew_with_enough_of_every_class() -> None:
    """BDD100K's own numbers: 143 foggy images, of which the official val has 13."""
    sizes = {"clear": 4000, "rainy": 700, "foggy": 143, "hail": 6}
    entries = [Entry(f"{name}{i}", "", "", (name, None)) for name, size in sizes.items() for i in range(size)]
    entries += [Entry(f"none{i}", "", "", (None, None)) for i in range(50)]
    found = resplit(entries, Shares(test=0.1, val=0.05, least=40))
    counts = {split: Counter(entry.labels[0] for entry in rows) for split, rows in found.items()}
    assert counts["test"] == {"clear": 400, "rainy": 70, "foggy": 40, "hail": 2, None: 5}
    assert counts["val"] == {"clear": 200, "rainy": 40, "foggy": 40, "hail": 2, None: 2}
    assert sorted(entry for rows in found.values() for entry in rows) == sorted(entries)
    assert resplit(reversed(entries), Shares(test=0.1, val=0.05, least=40)) == found
    other = resplit(entries, Shares(test=0.1, val=0.05, least=40, seed=1))
    assert {entry.id for entry in other["test"]} != {entry.id for entry in found["test"]}


def test_a_row_counts_for_all_its_classes() -> None:
    entries = [
        Entry(f"{i}", "", "", (("clear", "foggy")[i % 30 == 0], ("day", "night")[i % 3 == 0])) for i in range(900)
    ]
    found = resplit(entries, Shares(test=0.2, val=0.1, least=8))
    for split, share in (("test", 0.2), ("val", 0.1)):
        counts = Counter(label for entry in found[split] for label in entry.labels)
        assert counts["foggy"] == max(8, round(30 * share))
        assert counts["night"] >= round(300 * share)
        assert abs(counts["day"] - 600 * share) < 60


def test_a_group_stays_together() -> None:
    skies = ("clear", "foggy")
    entries = [Entry(f"{i}", "", "", (skies[i % 10 == 0],), f"drive {i // 20}") for i in range(1000)]
    found = resplit(entries, Shares(test=0.2, val=0.2, least=10))
    where: dict[int, set[str]] = {}
    for split, rows in found.items():
        for entry in rows:
            where.setdefault(int(entry.id) // 20, set()).add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert min(Counter(entry.labels[0] for entry in found["test"]).values()) >= 20


def test_two_spellings_of_a_class() -> None:
    assert one_spelling("sky", ["blue", "dark blue"]) == ["blue", "dark blue"]
    for twins in (["Foggy", "foggy"], ["dark blue", "dark  Blue"], ["dark blue", "dark_blue"], ["1", "1.0"]):
        with pytest.raises(UsageError, match=f"sky: has '{twins[0]}' and '{twins[1]}', one class in two spellings"):
            one_spelling("sky", twins)
    for first, second in (("caf\u00e9", "cafe\u0301"), ("blue", "blue\u200b"), ("blue", "\ufeffblue")):
        with pytest.raises(UsageError, match=re.escape(f"sky: has {first!a} and {second!a}, one class")):
            one_spelling("sky", [first, second])
    others = ["1", "-1", "10", "1.01", "2.0", "re-sign", "resign", "c++", "c"]
    assert one_spelling("sky", others) == others


def test_rows_of_one_image_stay_together() -> None:
    """One row for each of its captions, as in COCO; also where they are of two groups, which then stay together."""
    entries = [
        Entry(f"{i:03}", f"{'./' * (i % 2)}{i // 5}.jpg", f"caption {i}", (("x", "y")[i // 5 % 2],)) for i in range(200)
    ]
    entries += [Entry(f"g{i}", f"g{i // 2}.jpg", "", ("x",), f"drive {(i + 1) // 2}") for i in range(6)]
    found = resplit(entries, Shares(test=0.2, val=0.2, least=5))
    split_of = {posixpath.normpath(str(entry.image)): set[str]() for entry in entries} | {"drives": set()}
    for split, rows in found.items():
        for entry in rows:
            split_of["drives" if entry.group else posixpath.normpath(str(entry.image))].add(split)
    assert {len(splits) for image, splits in split_of.items() if not str(image).startswith("g")} == {1}
    assert all(len(found[split]) >= 40 for split in ("train", "val", "test"))


def test_one_group_cannot_be_dealt() -> None:
    entries = [Entry(f"{i}", f"{i}.jpg", "", ("x",), "paris") for i in range(90)]
    with pytest.raises(UsageError, match=r"1 groups are too few to be dealt .*'paris'.*give splits"):
        resplit(entries, Shares(test=0.2))
