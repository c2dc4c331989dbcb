"""The command line: one subcommand, one function."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from raymds import __version__, objects, storage
from raymds.config import Config, load
from raymds.data.config import IngestConfig, RetrieveConfig, ScenesConfig
from raymds.errors import RaymdsError
from raymds.run import RunDirectory
from raymds.terminal import Terminal

_OVERRIDES = "settings as key=value, with dots: optim.lr=1e-5"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 good, 1 crash, 2 bad usage, 3 nothing feasible or violated."""
    options = _parse(arguments)
    terminal = Terminal(options.json)
    # What libraries print, Ray of a lost node for instance, is no record.
    aside = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
    try:
        with aside:
            status: int = options.run(options, terminal)
    except RaymdsError as error:
        terminal.stop()
        print(f"raymds: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        terminal.stop()
        print("raymds: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return status


def demo(options: argparse.Namespace, terminal: Terminal) -> int:
    """The whole story on rendered scenes on this machine."""
    from raymds import demo as story

    return story.tell(options.directory, options.seed, terminal)


def scenes(options: argparse.Namespace, terminal: Terminal) -> int:
    """Render a data set of driving scenes."""
    from raymds.data import scene_set

    config = load(ScenesConfig, options.preset, options.overrides)
    data = scene_set.make(options.uri, config, len(os.sched_getaffinity(0)), terminal.show)
    return _made(options.uri, data, terminal)


def retrieve(options: argparse.Namespace, terminal: Terminal) -> int:
    """Choose target pairs and negatives from a caption corpus in Parquet."""
    from raymds.data import retrieve as retrieval

    config = load(RetrieveConfig, options.preset, options.overrides, ("corpus", "out", "target"))
    data = retrieval.retrieve(config, terminal.show)
    counts = data.source["counts"]
    terminal.say(f"{config.out}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    terminal.result({"data": config.out, "counts": counts, "digest": data.digest})
    return 0


def ingest_bdd100k(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make a data set of BDD100K; its official val becomes the test split."""
    from raymds.data import sources

    config = _ingest_config(options)
    plan = sources.bdd100k(options.images, options.labels, config.seed, config.val_share)
    return _ingest(options, terminal, plan, config)


def ingest_places365(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make a data set of Places365; its official val becomes the test split."""
    from raymds.data import sources

    config = _ingest_config(options)
    plan = sources.places365(options.images, options.labels, config.seed, config.val_share)
    return _ingest(options, terminal, plan, config)


def ingest_table(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make a data set of a CSV or Parquet table of images."""
    from raymds.data import sources

    config = _ingest_config(options)
    return _ingest(options, terminal, sources.table(options.rows, options.map), config)


def _ingest_config(options: argparse.Namespace) -> IngestConfig:
    config = load(IngestConfig, None, options.overrides)
    objects.configure(config.storage)
    return config


def _ingest(options: argparse.Namespace, terminal: Terminal, plan: Any, config: IngestConfig) -> int:
    from raymds.data import ingest
    from raymds.train import driver

    driver.start_ray(terminal.show)
    data = ingest.run(options.out, plan, config, terminal.show)
    return _made(options.out, data, terminal, broken=data.source["broken"])


def _made(uri: str, data: Any, terminal: Terminal, **more: Any) -> int:
    rows = {split: sum(shard.rows for shard in shards) for split, shards in data.splits.items()}
    terminal.say(f"{uri}: {', '.join(f'{count} {split}' for split, count in rows.items())} images")
    terminal.result({"data": uri, "rows": rows, "digest": data.digest, **more})
    return 0


def show(options: argparse.Namespace, terminal: Terminal) -> int:
    """Rows per split and class of a data set; with --out a contact sheet of examples."""
    from raymds.data import look

    seen = look.look(options.uri, options.split, options.out, options.seed, terminal.show)
    terminal.classes(seen)
    if options.out:
        terminal.say(f"sheet: {options.out}")
    terminal.result(seen)
    return 0


def verify(options: argparse.Namespace, terminal: Terminal) -> int:
    """Check every digest, count, schema, label and image of a data set."""
    from raymds.data import verify as verifying

    found = verifying.verify(options.uri, terminal.show)
    for line in found.lines():
        terminal.say(line)
    terminal.result({"data": options.uri, "count": found.count, "problems": found.problems, "beside": found.beside})
    return 2 if found.count else 0


def pretrain(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make an old model by contrastive training on captions."""
    from raymds.train import driver

    config = load(Config, options.preset, options.overrides, ("model.name", "data.uri", "run.uri"))
    weights = driver.pretrain(config, terminal.show)
    terminal.say(f"weights: {weights['uri']}")
    terminal.result({"weights": weights})
    return 0


_CYCLE_KEYS = ("model.name", "model.weights", "data.uri", "task.target", "run.uri")


def finetune(options: argparse.Namespace, terminal: Terminal) -> int:
    """One constrained cycle with choice, rescue and certificate."""
    from raymds.train import driver

    config = load(Config, options.preset, options.overrides, _CYCLE_KEYS)
    outcome = driver.finetune(config, terminal.show)
    terminal.outcome(outcome, RunDirectory(config.run.uri).read_json("certificate.json"))
    return 0 if outcome["outcome"] == "new" else 3


_SUBMITTED = {"pretrain": ("model.name", "data.uri", "run.uri"), "finetune": _CYCLE_KEYS}


def submit(options: argparse.Namespace, terminal: Terminal) -> int:
    """Run a verb as a job of a Ray cluster and follow it; the job goes on without this terminal."""
    from raymds import jobs

    config = load(Config, options.preset, options.overrides, _SUBMITTED[options.verb])
    client = jobs.connect(options.address)
    job = jobs.submit(client, options.verb, config)
    terminal.say(f"job: {job}; this terminal may go: raymds follow {job} shows it again, ray job stop {job} ends it")
    return jobs.follow(client, job, terminal.show, terminal.aside)


def follow(options: argparse.Namespace, terminal: Terminal) -> int:
    """Show a job of a Ray cluster, from its beginning until it ends."""
    from raymds import jobs

    return jobs.follow(jobs.connect(options.address), options.job, terminal.show, terminal.aside)


def evaluate(options: argparse.Namespace, terminal: Terminal) -> int:
    """Accuracies of one model, task by task."""
    from raymds import measuring

    config = load(Config, options.preset, [*options.overrides, f"model.weights={options.weights}"], _CYCLE_KEYS[:4])
    measured = measuring.evaluate_model(config, options.split, terminal.show)
    terminal.accuracies(measured)
    terminal.result(measured)
    return 0


def certify(options: argparse.Namespace, terminal: Terminal) -> int:
    """Certificate of a new model against an old one on a test split."""
    from raymds import measuring

    config = load(Config, options.preset, [*options.overrides, f"model.weights={options.old}"], _CYCLE_KEYS[:4])
    certificate = measuring.certify_models(config, options.new, options.split, terminal.show)
    if options.out:
        storage.write_json(options.out, certificate)
    terminal.certificate(certificate, f"{options.split} split, verdict: {certificate['verdict']}")
    terminal.result({"certificate": certificate})
    return 3 if certificate["verdict"] == "violated" else 0


def report(options: argparse.Namespace, terminal: Terminal) -> int:
    """The page of pictures of a run."""
    from raymds import tracking
    from raymds.report import RunFiles, render

    run = RunDirectory(options.run_uri)
    beside = RunFiles.parse(RunDirectory(options.beside).read) if options.beside else None
    page = render(RunFiles.parse(run.read), beside)
    storage.write(run.path("report.html"), page.encode())
    terminal.say(f"report: {run.path('report.html')}")
    tracked = tracking.log(run, page, options.mlflow) if options.mlflow else None
    if tracked:
        terminal.say(f"MLflow: run {tracked} of experiment {tracking.EXPERIMENT}")
    terminal.result({"report": run.path("report.html"), "mlflow": tracked})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="raymds", description="Develop a vision-language model further without losing what it could do before."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    verb = _verb(verbs, "demo", demo, "raymds demo --directory demo")
    verb.add_argument("--directory", default="demo", help="where everything is written (default: demo)")
    verb.add_argument("--seed", type=int, default=0, help="of data, old model and cycle (default: 0)")

    data = verbs.add_parser("data", help="make, show, verify data sets").add_subparsers(metavar="VERB", required=True)
    example = "raymds data scenes data/scenes rows.train=20000 frequencies.weather.foggy=0.01"
    verb = _verb(data, "scenes", scenes, example)
    verb.add_argument("uri", metavar="URI", help="directory of the data set")
    verb.add_argument("--preset", help="YAML file, or the name of a built-in preset (demo-scenes)")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)

    _ingest_verbs(data)
    verb = _verb(data, "show", show, "raymds data show data/scenes --out sheet.html")
    verb.add_argument("uri", metavar="URI", help="directory of the data set")
    verb.add_argument("--split", help="this split alone (default: all in the table, the first on the sheet)")
    verb.add_argument("--out", metavar="FILE", help="write a contact sheet there, .png or .html")
    verb.add_argument("--seed", type=int, default=0, help="of the examples on the sheet (default: 0)")
    verb = _verb(data, "verify", verify, "raymds data verify s3://bucket/bdd100k")
    verb.add_argument("uri", metavar="URI", help="directory of the data set")
    verb = _verb(data, "retrieve", retrieve, "raymds data retrieve fog.yaml corpus=s3://bucket/laion out=data/fog")
    _preset(verb)

    verb = _verb(verbs, "pretrain", pretrain, "raymds pretrain demo-pretrain data.uri=data/scenes run.uri=runs/old")
    _preset(verb)

    example = "raymds finetune demo data.uri=data/scenes model.weights=runs/old/weights.safetensors run.uri=runs/fog"
    verb = _verb(verbs, "finetune", finetune, example)
    _preset(verb)

    verb = _verb(
        verbs, "evaluate", evaluate, "raymds evaluate runs/fog/config.yaml --weights new.safetensors --split val"
    )
    _preset(verb)
    verb.add_argument("--weights", required=True, metavar="URI", help="weights of the model")
    verb.add_argument("--split", default="test", help="split to measure on (default: test)")

    example = "raymds certify runs/fog/config.yaml --old old.safetensors --new new.safetensors --out certificate.json"
    verb = _verb(verbs, "certify", certify, example)
    _preset(verb)
    verb.add_argument("--old", required=True, metavar="URI", help="weights of the deployed model")
    verb.add_argument("--new", required=True, metavar="URI", help="weights of the model to certify")
    verb.add_argument("--split", default="test", help="split to measure on (default: test)")
    verb.add_argument("--out", metavar="FILE", help="write the certificate there as JSON")

    example = "raymds submit finetune jobs/presets/foggy.yaml run.uri=s3://b/run --address http://127.0.0.1:8265"
    verb = _verb(verbs, "submit", submit, example)
    verb.add_argument("verb", choices=sorted(_SUBMITTED), help="what the job does")
    _preset(verb)
    verb.add_argument("--address", metavar="URL", help="dashboard of the cluster (default: RAY_API_SERVER_ADDRESS)")
    verb = _verb(verbs, "follow", follow, "raymds follow raysubmit_abc --address http://127.0.0.1:8265")
    verb.add_argument("job", metavar="JOB", help="name of the job")
    verb.add_argument("--address", metavar="URL", help="dashboard of the cluster (default: RAY_API_SERVER_ADDRESS)")

    verb = _verb(verbs, "report", report, "raymds report runs/fog --beside runs/none")
    verb.add_argument("run_uri", metavar="RUN", help="run directory")
    verb.add_argument("--beside", metavar="RUN", help="a run of the same budget to show beside it")
    verb.add_argument("--mlflow", metavar="URI", help="log the run to the MLflow server there as well")
    return parser


def _ingest_verbs(data: Any) -> None:
    ingest = data.add_parser("ingest", help="make a data set of BDD100K, Places365 or a table of images")
    sources = ingest.add_subparsers(metavar="SOURCE", required=True)
    example = "raymds data ingest bdd100k --images bdd100k/images --labels bdd100k/labels --out data/bdd100k resize=256"
    verb = _ingest_verb(sources, "bdd100k", ingest_bdd100k, example)
    verb.add_argument("--images", required=True, metavar="DIR", help="folder of train and val, or one above it")
    verb.add_argument(
        "--labels", required=True, action="append", metavar="DIR",
        help="folder of the label files; or given twice: the file of train, the file of val",
    )  # fmt: skip
    example = "raymds data ingest places365 --images places365 --labels places365/labels --out data/places365"
    verb = _ingest_verb(sources, "places365", ingest_places365, example)
    verb.add_argument("--images", required=True, metavar="DIR", help="folder that data_256 and val_256 are in")
    verb.add_argument("--labels", required=True, metavar="DIR", help="folder of the list files")
    example = "raymds data ingest table --rows rows.csv --map map.yaml --out data/mine"
    verb = _ingest_verb(sources, "table", ingest_table, example)
    verb.add_argument("--rows", required=True, metavar="FILE", help="CSV or Parquet, one image a row")
    verb.add_argument("--map", required=True, metavar="FILE", help="YAML: image, caption, split, attributes -> columns")


def _ingest_verb(sources: Any, name: str, run: Any, example: str) -> argparse.ArgumentParser:
    verb = _verb(sources, name, run, example)
    verb.add_argument("--out", required=True, metavar="URI", help="directory of the data set")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="settings as key=value: resize=224")
    return verb


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options and overrides in any order: argparse by itself ends a list of overrides at the first option."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if any(item.startswith("-") for item in rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _verb(verbs: Any, name: str, run: Any, example: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=run.__doc__, description=run.__doc__, epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verb.add_argument("--json", action="store_true", help="print JSON, one record a line")
    verb.set_defaults(run=run)
    return verb


def _preset(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("preset", metavar="PRESET", help="YAML file, or the name of a built-in preset")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)


if __name__ == "__main__":
    sys.exit(main())
