"""The verbs of jobs: `raymds submit` and `raymds follow`."""

import argparse
import os
from typing import Any

from raymds.cli.data import CYCLE_KEYS, add_accept_old, add_preset, add_take_over, verb_parser
from raymds.cli.terminal import Terminal
from raymds.config import Config, load
from raymds.errors import UsageError
from raymds.train.stop import Terminated

_ADDRESS = "dashboard of the cluster (default: RAY_API_SERVER_ADDRESS)"
_SUBMITTED = {"pretrain": ("data.uri", "run.uri"), "finetune": CYCLE_KEYS, "tune": CYCLE_KEYS}


def submit(options: argparse.Namespace, terminal: Terminal) -> int:
    """Run a verb as a job of a Ray cluster and follow it; the job goes on without this terminal."""
    from raymds.cli import jobs
    from raymds.ledger.signature import VARIABLE

    config = load(Config, options.preset, options.overrides, _SUBMITTED[options.verb])
    passed = [f"--{name.replace('_', '-')}" for name in ("accept_old", "take_over") if getattr(options, name)]
    if options.accept_old and options.verb == "pretrain":
        raise UsageError("--accept-old: pretrain makes an old model, so there is none that could stay")
    jobs.check(config, options.env)
    client = jobs.connect(options.address)
    job = jobs.submit(client, options.verb, config, passed, options.env)
    if VARIABLE in os.environ and not config.ledger.key:
        terminal.say(f"note: {VARIABLE} is not sent: the job signs only where the cluster's machines have the key")
    terminal.say(f"job: {job}; this terminal may go: raymds follow {job} shows it again, ray job stop {job} ends it")
    return _followed(client, job, terminal)


def follow(options: argparse.Namespace, terminal: Terminal) -> int:
    """Show a job of a Ray cluster, from its beginning until it ends."""
    from raymds.cli import jobs

    return _followed(jobs.connect(options.address), options.job, terminal)


def _followed(client: Any, job: str, terminal: Terminal) -> int:
    from raymds.cli import jobs

    try:
        return jobs.follow(client, job, terminal.show, terminal.aside)
    except (KeyboardInterrupt, Terminated) as stop:
        raise type(stop)(f"the job goes on: raymds follow {job} shows it again, ray job stop {job} ends it") from None


def add(verbs: Any) -> None:
    """Their parsers."""
    example = "raymds submit finetune jobs/presets/foggy.yaml run.uri=s3://b/run --address http://127.0.0.1:8265"
    verb = verb_parser(verbs, "submit", submit, example)
    verb.add_argument("verb", choices=sorted(_SUBMITTED), help="what the job does")
    add_preset(verb)
    add_accept_old(verb)
    add_take_over(verb)
    verb.add_argument(
        "--env", metavar="NAME=VALUE", action="append", default=[], help="variable for the job; repeatable"
    )
    verb.add_argument("--address", metavar="URL", help=_ADDRESS)
    verb = verb_parser(verbs, "follow", follow, "raymds follow raysubmit_abc --address http://127.0.0.1:8265")
    verb.add_argument("job", metavar="JOB", help="name of the job")
    verb.add_argument("--address", metavar="URL", help=_ADDRESS)
