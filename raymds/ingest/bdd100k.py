"""BDD100K as it is downloaded: official archives, newer labels, copies with other folders, one JSON an image."""

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from raymds.errors import UsageError
from raymds.ingest.sources import Entry, Images, Plan, Shares, deal
from raymds.store import uri as storage
from raymds.store.names import is_note

# Attribute -> class -> how a caption says it. `undefined` is no class: METHOD 8.
ATTRIBUTES = {
    "weather": {name: name for name in ("clear", "partly cloudy", "overcast", "rainy", "snowy", "foggy")},
    "scene": {
        "city street": "a city street",
        "highway": "a highway",
        "residential": "a residential area",
        "parking lot": "a parking lot",
        "gas stations": "a gas station",
        "tunnel": "a tunnel",
    },
    "timeofday": {"daytime": "in the daytime", "dawn/dusk": "at dawn or dusk", "night": "at night"},
}
_THREADS = 16  # label files read at a time, where every image has one


def bdd100k(images: str, labels: Sequence[str], shares: Shares) -> Plan:
    """BDD100K with the attributes weather, scene and timeofday (METHOD 8).

    `images` is a folder that holds the images of train and of val at any depth; `labels` is a folder that holds the
    label files at any depth, or the two files of train and val. METHOD 8 lists `gas stations` as a scene like any
    other, so it is a class here; it has a few dozen images, and a cycle that does not know it says so in task.classes.
    Frames of one video (`videoName` in the labels) are a group.
    """
    found, official, said = Images(images), {}, []
    for split, (where, entries) in zip(("train", "val"), _labelled(labels), strict=True):
        placed = [_placed(found, entry, split) for entry in entries]
        there = sum(path is not None for path in placed)
        if not there:
            raise UsageError(
                f"--images {images}: none of the images of {where}, like {entries[0].id}, is there among "
                f"{len(found.paths)} images; give the folder that they are in"
            )
        said.append(f"{there:,} of {len(entries):,} {split} images in {found.folder(placed)}, labels in {where}")
        missing = f"{split}/{{}}".format
        official[split] = [e._replace(image=path or missing(e.image)) for e, path in zip(entries, placed, strict=True)]
    vocabularies = {attribute: list(phrases) for attribute, phrases in ATTRIBUTES.items()}
    return deal("bdd100k", images, vocabularies, official["train"], official["val"], shares, said)


def _placed(images: Images, entry: Entry, split: str) -> str | None:
    """The path of an entry's image below the folder of images; of several that of the split, and of 100k."""
    places = images.named(entry.id)

    def better(path: str) -> tuple[bool, bool, str]:
        folders = PurePosixPath(path).parts[:-1]
        return split not in folders, "100k" not in folders, path

    return min(places, key=better, default=None)


def _labelled(labels: Sequence[str]) -> Iterator[tuple[str, list[Entry]]]:
    """What is labelled as train, and as val: where the labels are, and the entries."""
    if len(labels) > 2:
        raise UsageError(f"--labels: give one folder, or the label files of train and val; there are {len(labels)}")
    listed = storage.sizes(labels[0]) if len(labels) == 1 else {}
    there = sorted(path for path in listed if path.endswith(".json") and not is_note(path))
    for number, split in enumerate(("train", "val")):
        if len(labels) == 2:
            yield labels[number], _checked(_items(labels[number]), labels[number])
            continue
        # bdd100k_labels_images_train.json, det_train.json, det_v2_train_release.json, train.json; not drivable, lanes
        files = [
            path
            for path in there
            if re.fullmatch(rf"(bdd100k_labels_images_|det_|det_v2_)?{split}(_release)?\.json", path.rpartition("/")[2])
        ]
        single = [path for path in there if split in PurePosixPath(path).parts[:-1]]
        if files:
            file = storage.join(labels[0], min(files, key=lambda path: ("det" in path, len(path), path)))
            yield file, _checked(_items(file), file)
        elif single:
            with ThreadPoolExecutor(_THREADS) as pool:
                read = pool.map(lambda path: _items(storage.join(labels[0], path)), single)
                items = [item for found in read for item in found]
            folder = storage.join(labels[0], single[0].rpartition("/")[0])
            yield folder, _checked(items, folder)
        else:
            raise UsageError(
                f"--labels {labels[0]}: no labels of {split} in it; looked for bdd100k_labels_images_{split}.json, "
                f"det_{split}.json, det_v2_{split}_release.json, {split}.json, or a folder {split} of single ones"
            )


def _items(file: str) -> list[Any]:
    """Labelled images of a file: a list, an object with one under `frames`, or the object of one image."""
    content = storage.read(file)
    needed = {"frames", "name", "videoName", "attributes", *ATTRIBUTES}
    try:
        # Boxes and polygons fill gigabytes of the official files: what is not needed is dropped while it is parsed.
        parsed = json.loads(content, object_hook=lambda found: {key: found[key] for key in needed & found.keys()})
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not JSON: {error}") from None
    if isinstance(parsed, dict) and {"name", "attributes"} <= parsed.keys():
        return [parsed]
    listed = parsed.get("frames") if isinstance(parsed, dict) else parsed
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{file}: has to be a JSON list of labelled images, or an object with that list under frames")
    return listed


def _checked(items: Sequence[Any], where: str) -> list[Entry]:
    entries = [_entry(item, f"{where}: entry {number}, counted from 0,") for number, item in enumerate(items)]
    for index, attribute in enumerate(ATTRIBUTES):
        told = any(isinstance(item.get("attributes"), dict) and attribute in item["attributes"] for item in items)
        if not told or (not any(entry.labels[index] for entry in entries) and len(entries) > len(ATTRIBUTES) ** 3):
            raise UsageError(f"{where}: no entry has attributes.{attribute}; these are no labels of BDD100K's images")
    return entries


def _entry(item: Any, where: str) -> Entry:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str) or not name:
        raise UsageError(f"{where} has no name (the image's file name)")
    name = name if "." in name else f"{name}.jpg"  # the files of single images leave it out
    given = item.get("attributes")
    if not isinstance(given, dict | None):
        raise UsageError(f"{where} ({name}): attributes has to be an object or null, and is {given!r}")
    labels: dict[str, str | None] = {}
    for attribute, phrases in ATTRIBUTES.items():
        value = given.get(attribute) if isinstance(given, dict) else None  # some entries have null
        if value not in (*phrases, "undefined", None):
            raise UsageError(f"{where} ({name}): {attribute}={value!r} is none of {', '.join(phrases)}, undefined")
        labels[attribute] = None if value == "undefined" else value
    weather, scene, timeofday = (labels[attribute] for attribute in ATTRIBUTES)
    caption = "a dashcam photo"
    caption += f" of {ATTRIBUTES['scene'][scene]}" if scene else ""
    caption += f" {ATTRIBUTES['timeofday'][timeofday]}" if timeofday else ""
    caption += f", the weather is {weather}" if weather else ""
    video = item.get("videoName")  # of sets that have several frames of one
    return Entry(name, name, f"{caption}.", tuple(labels.values()), video if isinstance(video, str) and video else None)
