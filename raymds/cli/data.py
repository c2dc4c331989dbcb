"""The verbs of `raymds data`, and what the command line makes every verb's parser with."""

import argparse
from typing import Any

from raymds.cli.terminal import Terminal
from raymds.config import load
from raymds.data.config import GlyphsConfig, IngestConfig, RetrieveConfig, ScenesConfig
from raymds.errors import UsageError
from raymds.store import objects

CYCLE_KEYS = ("model.weights", "data.uri", "task.target", "run.uri")  # that a cycle's preset has to have
OVERRIDES = "settings as key=value, with dots: optim.lr=1e-5"


def scenes(options: argparse.Namespace, terminal: Terminal) -> int:
    """Render a data set of driving scenes."""
    from raymds.scenes import dataset as scene_set
    from raymds.train.cluster import cpus

    config = load(ScenesConfig, options.preset, options.overrides)
    data = scene_set.make(options.uri, config, cpus(), terminal.show)
    return _made(options.uri, data, terminal)


def glyphs(options: argparse.Namespace, terminal: Terminal) -> int:
    """Draw a data set of things in hundreds of classes."""
    from raymds.scenes import dataset as scene_set
    from raymds.train.cluster import cpus

    config = load(GlyphsConfig, None, options.overrides)
    data = scene_set.make_glyphs(options.uri, config, cpus(), terminal.show)
    return _made(options.uri, data, terminal)


def retrieve(options: argparse.Namespace, terminal: Terminal) -> int:
    """Choose target pairs and negatives from a caption corpus in Parquet."""
    from raymds.ingest import retrieve as retrieval

    config = load(RetrieveConfig, options.preset, options.overrides, ("corpus", "out", "target"))
    data = retrieval.retrieve(config, terminal.show)
    counts = data.source["counts"]
    terminal.say(f"{config.out}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    terminal.result({"data": config.out, "counts": counts, "digest": data.digest})
    return 0


def mix(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make one data set of several, where they lie."""
    from raymds.ingest import mix as mixing

    data = mixing.mix(options.uris, options.out)
    _say_parts(data.parts, terminal)
    return _made(options.out, data, terminal, parts=data.parts)


def ingest_bdd100k(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make a data set of BDD100K; its official val becomes the test split, or test_share of all rows."""
    from raymds.ingest.bdd100k import bdd100k

    config = _ingest_config(options)
    _all_classes(config)
    plan = bdd100k(options.images, options.labels, _shares(config))
    return _ingest(options, terminal, plan, config)


def ingest_places365(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make a data set of Places365; its official val becomes the test split, or test_share of all rows."""
    from raymds.ingest.places365 import places365

    config = _ingest_config(options)
    plan = places365(options.images, options.labels or options.images, _shares(config), config.classes)
    return _ingest(options, terminal, plan, config)


def ingest_table(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make a data set of tables of images: CSV, TSV, JSON lines, Parquet."""
    from raymds.ingest.spool import Spool
    from raymds.ingest.table import table
    from raymds.store import uri as storage

    config = _ingest_config(options)
    _all_classes(config)
    with Spool(storage.join(options.out, "ingest", "images")) as spool:
        plan = table(options.rows, options.map, spool, options.images or "", _shares(config))
        return _ingest(options, terminal, plan, config)


def _shares(config: IngestConfig) -> Any:
    from raymds.ingest.sources import Shares

    return Shares(config.test_share, config.val_share, config.min_test, config.seed)


def _ingest_config(options: argparse.Namespace) -> IngestConfig:
    config = load(IngestConfig, None, options.overrides)
    objects.configure(config.storage)
    return config


def _all_classes(config: IngestConfig) -> None:
    """UsageError where some classes are asked for, of which only Places365 has more than a cycle may want."""
    if config.classes:
        raise UsageError("classes: is of places365 alone; leave other rows out of the table, or use task.classes")


def _ingest(options: argparse.Namespace, terminal: Terminal, plan: Any, config: IngestConfig) -> int:
    from raymds.ingest import ingest
    from raymds.train.cluster import start_ray

    for line in plan.said:
        terminal.say(line)
    start_ray(terminal.show)
    data = ingest.run(options.out, plan, config, terminal.show)
    return _made(options.out, data, terminal, broken=data.source["broken"])


def _say_parts(parts: list[dict[str, Any]], terminal: Terminal) -> None:
    for part in parts:
        terminal.say(f"mixed in: {part['uri']}: {_images(part['rows'])}")


def _images(rows: dict[str, int]) -> str:
    return f"{', '.join(f'{count} {split}' for split, count in rows.items())} images"


def _made(uri: str, data: Any, terminal: Terminal, **more: Any) -> int:
    rows = {split: sum(shard.rows for shard in shards) for split, shards in data.splits.items()}
    terminal.say(f"{uri}: {_images(rows)}")
    terminal.result({"data": uri, "rows": rows, "digest": data.digest, **more})
    return 0


def show(options: argparse.Namespace, terminal: Terminal) -> int:
    """Rows per split and class of a data set; with --out a contact sheet of examples."""
    from raymds.data import look

    seen = look.look(options.uri, options.split, options.out, options.seed, terminal.show)
    terminal.classes(seen)
    _say_parts(seen["parts"], terminal)
    if options.out:
        terminal.say(f"sheet: {options.out}")
    terminal.result(seen)
    return 0


def verify(options: argparse.Namespace, terminal: Terminal) -> int:
    """Check every digest, count, schema, label and image of a data set."""
    from raymds.data import look
    from raymds.data import verify as verifying
    from raymds.data.shards import DataSet
    from raymds.store import uri as storage

    draw = look.drawing(options.out) if options.out else None
    found = verifying.verify(options.uri, terminal.show)
    for line in found.lines():
        terminal.say(line)
    if draw and found.pairs:
        storage.write(options.out, draw(look.alike(DataSet.open(options.uri), found.pairs)))
        terminal.say(f"those that look alike, side by side: {options.out}")
    terminal.result(
        {
            "data": options.uri,
            "count": found.count,
            "problems": found.problems,
            "beside": found.beside,
            "alike": found.alike,
            "near": found.near,
        }
    )
    return 2 if found.count else 0


def add(verbs: Any) -> None:
    """The parsers of `raymds data`."""
    data = verbs.add_parser("data", help="make, show, verify data sets").add_subparsers(metavar="VERB", required=True)
    example = "raymds data scenes data/scenes rows.train=20000 frequencies.weather.foggy=0.01"
    verb = verb_parser(data, "scenes", scenes, example)
    verb.add_argument("uri", metavar="URI", help="directory of the data set")
    verb.add_argument("--preset", help="YAML file, or the name of a built-in preset (demo-scenes)")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)

    verb = verb_parser(data, "glyphs", glyphs, "raymds data glyphs data/glyphs 'frequencies.red striped star=0.05'")
    verb.add_argument("uri", metavar="URI", help="directory of the data set")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)

    _ingest_verbs(data)
    verb = verb_parser(data, "mix", mix, "raymds data mix data/bdd100k data/fog --out data/mixed")
    verb.add_argument("uris", nargs="+", metavar="URI", help="directory of a data set, two of them or more")
    verb.add_argument("--out", required=True, metavar="URI", help="directory of the mix")
    verb = verb_parser(data, "show", show, "raymds data show data/scenes --out sheet.html")
    verb.add_argument("uri", metavar="URI", help="directory of the data set")
    verb.add_argument("--split", help="this split alone (default: all in the table, the first on the sheet)")
    verb.add_argument("--out", metavar="FILE", help="write a contact sheet there, .png or .html")
    verb.add_argument("--seed", type=int, default=0, help="of the examples on the sheet (default: 0)")
    verb = verb_parser(data, "verify", verify, "raymds data verify s3://bucket/bdd100k --out alike.html")
    verb.add_argument("uri", metavar="URI", help="directory of the data set")
    verb.add_argument("--out", metavar="FILE", help="write a sheet of images that look alike there, .png or .html")
    verb = verb_parser(
        data, "retrieve", retrieve, "raymds data retrieve fog.yaml corpus=s3://bucket/laion out=data/fog"
    )
    add_preset(verb)


def _ingest_verbs(data: Any) -> None:
    ingest = data.add_parser("ingest", help="make a data set of BDD100K, Places365 or a table of images")
    sources = ingest.add_subparsers(metavar="SOURCE", required=True)
    example = "raymds data ingest bdd100k --images bdd100k/images --labels bdd100k/labels --out data/bdd100k resize=256"
    verb = _ingest_verb(sources, "bdd100k", ingest_bdd100k, example)
    verb.add_argument("--images", required=True, metavar="DIR", help="folder of the images, at any depth")
    verb.add_argument(
        "--labels", required=True, action="append", metavar="DIR",
        help="folder of the label files, at any depth; or given twice: the file of train, the file of val",
    )  # fmt: skip
    example = "raymds data ingest places365 --images places365 --labels places365/labels --out data/places365"
    verb = _ingest_verb(sources, "places365", ingest_places365, example)
    verb.add_argument("--images", required=True, metavar="DIR", help="folder of the images, at any depth")
    verb.add_argument("--labels", metavar="DIR", help="folder of the list files (default: that of the images)")
    example = "raymds data ingest table --rows rows.csv --map map.yaml --out data/mine"
    verb = _ingest_verb(sources, "table", ingest_table, example)
    verb.add_argument(
        "--rows", required=True, action="append", metavar="[SPLIT=]FILE",
        help="CSV, TSV, JSON lines or Parquet, also with .gz, one image a row; may be given for every split",
    )  # fmt: skip
    verb.add_argument("--map", required=True, metavar="FILE", help="YAML: image, attributes, caption, split -> columns")
    verb.add_argument("--images", metavar="DIR", help="what paths are relative to (default: the table's)")


def _ingest_verb(sources: Any, name: str, run: Any, example: str) -> argparse.ArgumentParser:
    verb = verb_parser(sources, name, run, example)
    verb.add_argument("--out", required=True, metavar="URI", help="directory of the data set")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="settings as key=value: resize=224")
    return verb


def verb_parser(verbs: Any, name: str, run: Any, example: str) -> argparse.ArgumentParser:
    """The parser of a verb that `run(options, terminal)` does, with what every verb has."""
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=run.__doc__, description=run.__doc__, epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verb.add_argument("--json", action="store_true", help="print JSON, one record a line")
    verb.set_defaults(run=run)
    return verb


def add_preset(verb: argparse.ArgumentParser) -> None:
    """The arguments of a verb that takes a preset."""
    verb.add_argument("preset", metavar="PRESET", help="YAML file, or the name of a built-in preset")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)


def add_accept_old(verb: argparse.ArgumentParser) -> None:
    """The flag of a verb whose outcome may be the old model."""
    verb.add_argument("--accept-old", action="store_true", help="status 0, not 3, where the old model stays")


def add_take_over(verb: argparse.ArgumentParser) -> None:
    """The flag of a verb that holds a directory's lease."""
    help_text = "go on at once where another command, known to be gone, held the directory"
    verb.add_argument("--take-over", action="store_true", help=help_text)
