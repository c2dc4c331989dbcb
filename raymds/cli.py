"""The command line: one subcommand, one function."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from raymds import __version__, storage
from raymds.config import Config, ScenesConfig, load
from raymds.errors import RaymdsError
from raymds.run import RunDirectory
from raymds.terminal import Terminal

_OVERRIDES = "settings as key=value, with dots: optim.lr=1e-5"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 good, 1 crash, 2 bad usage, 3 nothing feasible or violated."""
    options = _parse(arguments)
    terminal = Terminal(options.json)
    try:
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
    rows = {split: sum(shard.rows for shard in shards) for split, shards in data.splits.items()}
    terminal.say(f"{options.uri}: {', '.join(f'{count} {split}' for split, count in rows.items())} images")
    terminal.result({"data": options.uri, "rows": rows, "digest": data.digest})
    return 0


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
    certificate = RunDirectory(config.run.uri).read_json("certificate.json")
    if certificate is not None:
        terminal.certificate(certificate, f"test split, {100 * certificate['confidence']:g} % joint confidence")
    terminal.say(f"outcome: {outcome['outcome']} model: {outcome['reason']}\nweights: {outcome['weights']}")
    terminal.result({"outcome": outcome, "certificate": certificate})
    return 0 if outcome["outcome"] == "new" else 3


def certify(options: argparse.Namespace, terminal: Terminal) -> int:
    """Certificate of a new model against an old one on a test split."""
    from raymds import certifying

    config = load(Config, options.preset, [*options.overrides, f"model.weights={options.old}"], _CYCLE_KEYS[:4])
    certificate = certifying.certify_models(config, options.new, options.split, terminal.show)
    if options.out:
        storage.write_json(options.out, certificate)
    terminal.certificate(certificate, f"{options.split} split, verdict: {certificate['verdict']}")
    terminal.result({"certificate": certificate})
    return 3 if certificate["verdict"] == "violated" else 0


def report(options: argparse.Namespace, terminal: Terminal) -> int:
    """The page of pictures of a run."""
    from raymds.report import RunFiles, render

    run = RunDirectory(options.run_uri)
    beside = RunFiles.parse(RunDirectory(options.beside).read) if options.beside else None
    page = render(RunFiles.parse(run.read), beside)
    storage.write(run.path("report.html"), page.encode())
    terminal.say(f"report: {run.path('report.html')}")
    terminal.result({"report": run.path("report.html")})
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

    data = verbs.add_parser("data", help="make data sets").add_subparsers(metavar="VERB", required=True)
    example = "raymds data scenes data/scenes rows.train=20000 frequencies.weather.foggy=0.01"
    verb = _verb(data, "scenes", scenes, example)
    verb.add_argument("uri", metavar="URI", help="directory of the data set")
    verb.add_argument("--preset", help="YAML file, or the name of a built-in preset (demo-scenes)")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)

    verb = _verb(verbs, "pretrain", pretrain, "raymds pretrain demo-pretrain data.uri=data/scenes run.uri=runs/old")
    _preset(verb)

    example = "raymds finetune demo data.uri=data/scenes model.weights=runs/old/weights.safetensors run.uri=runs/fog"
    verb = _verb(verbs, "finetune", finetune, example)
    _preset(verb)

    example = "raymds certify runs/fog/config.yaml --old old.safetensors --new new.safetensors --out certificate.json"
    verb = _verb(verbs, "certify", certify, example)
    _preset(verb)
    verb.add_argument("--old", required=True, metavar="URI", help="weights of the deployed model")
    verb.add_argument("--new", required=True, metavar="URI", help="weights of the model to certify")
    verb.add_argument("--split", default="test", help="split to measure on (default: test)")
    verb.add_argument("--out", metavar="FILE", help="write the certificate there as JSON")

    verb = _verb(verbs, "report", report, "raymds report runs/fog --beside runs/none")
    verb.add_argument("run_uri", metavar="RUN", help="run directory")
    verb.add_argument("--beside", metavar="RUN", help="a run of the same budget to show beside it")
    return parser


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
