"""The command line: one subcommand, one function."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from raymds import __version__
from raymds.cli import cycle as cli_cycle
from raymds.cli import data as cli_data
from raymds.cli import ledger as cli_ledger
from raymds.cli import release as cli_release
from raymds.cli import submit as cli_submit
from raymds.cli.data import CYCLE_KEYS, OVERRIDES, add_accept_old, add_preset, add_take_over, verb_parser
from raymds.cli.terminal import Terminal
from raymds.config import Config, load
from raymds.errors import RaymdsError, UsageError
from raymds.run import RunDirectory
from raymds.store import uri as storage
from raymds.train.stop import Terminated, on_sigterm

_SAY_IT = {"address", "preset"}  # arguments whose readers say of an empty one what to give
_STOPPED = "stopped; the same command goes on from what it has written"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 good, 1 crash, 2 bad usage, 3 old model or below select.require.

    130 where Ctrl-C ended it, 143 where SIGTERM did, of which training makes a checkpoint first.
    """
    options = _parse(arguments)
    terminal = Terminal(options.json)
    # What libraries print, Ray of a lost node for instance, is no record.
    aside = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
    try:
        with aside, on_sigterm(_stop):
            status: int = options.run(options, terminal)
    except RaymdsError as error:
        terminal.stop()
        print(f"raymds: {error}", file=sys.stderr)
        return error.exit_status
    except (KeyboardInterrupt, Terminated) as stop:
        terminal.stop()
        print(f"raymds: {stop.args[0] if stop.args else _STOPPED}", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    return status


def _stop() -> None:
    """What measures in this process, or prepares, ends where it is; what trains has a handler of its own."""
    raise Terminated


def demo(options: argparse.Namespace, terminal: Terminal) -> int:
    """The whole story on rendered scenes on this machine."""
    from raymds.cli import demo as story

    return story.tell(options.directory, options.seed, terminal)


def pretrain(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make an old model by contrastive training on captions."""
    from raymds.train import driver

    config = load(Config, options.preset, options.overrides, ("data.uri", "run.uri"))
    weights = driver.pretrain(config, terminal.show, options.take_over)
    terminal.say(f"weights: {weights['uri']}")
    terminal.result({"weights": weights})
    return 0


def finetune(options: argparse.Namespace, terminal: Terminal) -> int:
    """One constrained cycle with choice, rescue and certificate."""
    from raymds.train import driver

    config = load(Config, options.preset, options.overrides, CYCLE_KEYS)
    if options.dry_run:
        terminal.prepared(driver.prepare(config, terminal.show).summary())
        return 0
    return _ended(driver.finetune(config, terminal.show, options.take_over), config, options, terminal)


def tune(options: argparse.Namespace, terminal: Terminal) -> int:
    """Search for the best setting that keeps everything; an infeasible trial can't win."""
    from raymds.search import tune as tuning

    given = [item for item in (options.preset, *options.overrides) if item]
    if options.resume:
        preset, given = storage.join(options.resume, "config.yaml"), [*given, f"run.uri={options.resume}"]
        if not storage.exists(preset):
            raise UsageError(f"--resume {options.resume}: holds no search (there is no config.yaml)")
    elif given:
        preset, *given = given
    else:
        raise UsageError("give a preset, or --resume with the directory of a search to go on with")
    config = load(Config, preset, given, CYCLE_KEYS)
    if options.dry_run:
        ready, _, at_once = tuning.prepare(config, terminal.show)
        terminal.prepared(ready.summary() | {"trials": config.search.trials, "trials_at_once": at_once})
        return 0
    return _ended(tuning.search(config, terminal.show, options.take_over), config, options, terminal)


def _ended(outcome: dict[str, Any], config: Config, options: argparse.Namespace, terminal: Terminal) -> int:
    """Show an outcome; the status of the command."""
    terminal.outcome(outcome, RunDirectory(config.run.uri).read_json("certificate.json"))
    return 0 if outcome["outcome"] == "new" or options.accept_old else 3


def study(options: argparse.Namespace, terminal: Terminal) -> int:
    """Compare methods over targets, seeds and data sets: a table and plots."""
    from raymds.study import study as studying
    from raymds.study.plan import load_plan
    from raymds.study.tables import chosen, written

    plan = load_plan(options.study, options.overrides)
    if options.dry_run:
        summary = studying.prepare(plan, terminal.show)
        counts = (f"{summary[what]} {what} ({summary[f'{what}_ended']} have ended)" for what in ("cells", "trials"))
        terminal.say(f"{' and '.join(counts)}, {summary['at_once']} at a time")
        terminal.say(f"study: {plan.uri}; a dry run writes nothing")
        terminal.result({"prepared": summary})
        return 0
    found = studying.conduct(plan, terminal.show, options.take_over)
    for table in found["tables"]:
        terminal.table(*written(table))
        if chosen(table):
            terminal.say(chosen(table))
    terminal.say(f"study: {storage.join(plan.uri, 'study.html')}")
    terminal.result({"study": plan.uri, "tables": found["tables"]})
    return 0


_DRY_RUN = "check everything that can be known before the first step, say what the test split can show, and stop"


def evaluate(options: argparse.Namespace, terminal: Terminal) -> int:
    """Accuracies of one model, task by task."""
    from raymds.train import measure as measuring

    config = load(Config, options.preset, [*options.overrides, f"model.weights={options.weights}"], CYCLE_KEYS[:3])
    measured = measuring.evaluate_model(config, options.split, terminal.show)
    terminal.accuracies(measured)
    terminal.result(measured)
    return 0


def certify(options: argparse.Namespace, terminal: Terminal) -> int:
    """Certificate of a new model against an old one on a test split; status 3 where select.require asks for more."""
    if options.verify:
        return cli_ledger.verify_certificate(options, terminal)
    if not (options.preset and options.old and options.new):
        raise UsageError("give PRESET, --old and --new; or --verify with --weights and --key")
    from raymds.method.certificate import unchanged
    from raymds.method.verdict import below
    from raymds.train import measure as measuring
    from raymds.train.recorded import write_certificate

    config = load(Config, options.preset, [*options.overrides, f"model.weights={options.old}"], CYCLE_KEYS[:3])
    certificate = measuring.certify_models(config, options.new, options.split, terminal.show)
    if options.out:
        write_certificate(config, options.out, certificate)
    terminal.certificate(certificate, f"{options.split} split, verdict: {certificate['verdict']}")
    same = unchanged(certificate)
    if same:
        terminal.say(same)
    terminal.result({"certificate": certificate, "unchanged": same})
    return 3 if below(certificate["verdict"], config.select.require) else 0


def report(options: argparse.Namespace, terminal: Terminal) -> int:
    """The page of pictures of a run."""
    from raymds.ledger.entry import fits
    from raymds.report import RunFiles, render
    from raymds.report import mlflow as tracking

    run = RunDirectory(options.run_uri)
    trials: Any = (run.read_json("tune.json") or {"trials": []}).get("trials")
    if not fits(trials, [{"run": str}]):
        raise UsageError(f"{run.path('tune.json')}: is not that of a search; copy the search again")
    for trial in trials:
        if trial.get("page"):
            own = RunDirectory(run.path(trial["run"]))
            storage.write(own.path("report.html"), render(RunFiles.parse(own)).encode())
    beside = RunFiles.parse(RunDirectory(options.beside)) if options.beside else None
    page = render(RunFiles.parse(run), beside)
    storage.write(run.path("report.html"), page.encode())
    terminal.say(f"report: {run.path('report.html')}")
    tracked = tracking.log(run, page, options.mlflow) if options.mlflow else None
    if tracked:
        terminal.say(f"MLflow: run {tracked} of experiment {tracking.EXPERIMENT}")
    terminal.result({"report": run.path("report.html"), "mlflow": tracked})
    return 0


def diagnose(options: argparse.Namespace, terminal: Terminal) -> int:
    """Where the last candidate of a run stands: violations, KKT residual, conflicts, and what would help."""
    from raymds.report.standing import stands
    from raymds.train.revisit import diagnose_run

    found = diagnose_run(options.run_uri)
    told = stands(found)
    assert told is not None
    terminal.table(f"step {found['step']}", ("figure", "value", "meaning"), told["rows"])
    for sentence in [*told["says"], *told["advice"]]:
        terminal.say(sentence)
    terminal.result(found)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="raymds", description="Develop a vision-language model further without losing what it could do before."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    verb = verb_parser(verbs, "demo", demo, "raymds demo --directory demo")
    verb.add_argument("--directory", default="demo", help="where everything is written (default: demo)")
    verb.add_argument("--seed", type=int, default=0, help="of data, old model and cycle (default: 0)")

    cli_data.add(verbs)

    verb = verb_parser(
        verbs, "pretrain", pretrain, "raymds pretrain demo-pretrain data.uri=data/scenes run.uri=runs/old"
    )
    add_preset(verb)
    add_take_over(verb)

    example = "raymds finetune demo data.uri=data/scenes model.weights=runs/old/weights.safetensors run.uri=runs/fog"
    verb = verb_parser(verbs, "finetune", finetune, example)
    add_preset(verb)
    verb.add_argument("--dry-run", action="store_true", help=_DRY_RUN)
    add_accept_old(verb)
    add_take_over(verb)

    verb = verb_parser(verbs, "tune", tune, example.replace("finetune", "tune").replace("fog", "search"))
    verb.add_argument("preset", nargs="?", metavar="PRESET", help="YAML file, or the name of a built-in preset")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    verb.add_argument("--dry-run", action="store_true", help=_DRY_RUN)
    verb.add_argument("--resume", metavar="RUN", help="go on with the search in this directory, with its own preset")
    add_accept_old(verb)
    add_take_over(verb)

    verb = verb_parser(verbs, "study", study, "raymds study jobs/studies/scenes.yaml uri=studies/scenes")
    verb.add_argument("study", metavar="STUDY", help="YAML file of the study")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    verb.add_argument("--dry-run", action="store_true", help="check every cell, count cells and trials, and stop")
    add_take_over(verb)

    verb = verb_parser(verbs, "evaluate", evaluate, "raymds evaluate runs/fog/config.yaml --weights new.safetensors")
    verb.description = f"{evaluate.__doc__} {_SHARED}"
    add_preset(verb)
    verb.add_argument("--weights", required=True, metavar="URI", help="weights of the model")
    verb.add_argument("--split", default="val", help="split to measure on (default: val; looking at test wears it out)")

    _add_certify(verbs)

    cli_submit.add(verbs)
    cli_cycle.add(verbs)
    cli_release.add(verbs)
    cli_ledger.add(verbs)

    verb = verb_parser(verbs, "diagnose", diagnose, "raymds diagnose runs/fog")
    verb.add_argument("run_uri", metavar="RUN", help="run directory of a cycle")

    verb = verb_parser(verbs, "report", report, "raymds report runs/fog --beside runs/none")
    verb.add_argument("run_uri", metavar="RUN", help="run directory")
    verb.add_argument("--beside", metavar="RUN", help="a run of the same budget to show beside it")
    verb.add_argument("--mlflow", metavar="URI", help="log the run to the MLflow server there as well")
    return parser


_SHARED = "Where RAY_ADDRESS names a cluster, it does the work."


def _add_certify(verbs: Any) -> None:
    example = "raymds certify runs/fog/config.yaml --old old.safetensors --new new.safetensors --out certificate.json"
    verb = verb_parser(verbs, "certify", certify, example)
    verb.description = f"{certify.__doc__} {_SHARED}"
    verb.add_argument("preset", nargs="?", metavar="PRESET", help="YAML file, or the name of a built-in preset")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    verb.add_argument("--old", metavar="URI", help="weights of the deployed model")
    verb.add_argument("--new", metavar="URI", help="weights of the model to certify")
    verb.add_argument("--split", default="test", help="split to measure on (default: test)")
    verb.add_argument("--out", metavar="FILE", help="write the certificate there as JSON")
    cli_ledger.add_verification(verb)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options and overrides in any order: argparse by itself ends a list of overrides at the first option."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if any(item.startswith("-") for item in rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    # What a variable of the shell is that is not set: as a URI it would be the root of the file system.
    empty = next((name for name, value in vars(options).items() if value == "" and name not in _SAY_IT), None)
    if empty:
        parser.error(f"argument {empty.replace('_', '-')}: is empty; give a value")
    return options
