"""Verbs as jobs of a Ray cluster: submitted, followed from any terminal, with the same live progress."""

import asyncio
import json
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from raymds.config import Config, to_yaml
from raymds.errors import UsageError
from raymds.ledger.chain import Ledger
from raymds.overrides import is_secret
from raymds.store import uri as storage

Record = dict[str, Any]

_RETRY = 2.0  # seconds between tries to reach a cluster whose connection was lost
_ADDRESS = "RAY_API_SERVER_ADDRESS"
_RAY = [2, 60]  # the least version of a cluster's Ray
_PATIENCE = 120.0  # seconds without a connection until following ends; the job goes on


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the cluster at `address` (its dashboard's URL), or at that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

    UsageError naming where the address stands, if no cluster of a Ray that raymds knows answers there.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # what it uploads is no news
    if address:
        os.environ[_ADDRESS] = address  # Ray would prefer one that is exported to the one that is given
    name = next((name for name in (_ADDRESS, "RAY_ADDRESS") if os.environ.get(name)), None)
    found = os.environ[name] if name else ""
    where = f"--address {address}" if address else f"{name}={found}" if name else "--address"
    give = "give the URL of its dashboard, like --address http://127.0.0.1:8265"
    if address == "":  # of a variable that is not set; another cluster would be asked
        raise UsageError(f"--address: is empty; {give}")
    if (address or name == _ADDRESS) and not re.match(r"https?://[^/\s]+", found):
        raise UsageError(f"{where}: is no URL of a cluster's dashboard; {give}")
    try:
        client = JobSubmissionClient()
        version: str = client._do_request("GET", "/api/version").json()["ray_version"]
    except AuthenticationError as error:
        raise UsageError(
            f"{where}: the cluster refuses the token; set RAY_AUTH_MODE=token, and the "
            f"token in RAY_AUTH_TOKEN or in a file named by RAY_AUTH_TOKEN_PATH ({_first_line(error)})"
        ) from None
    except Exception as error:  # of every kind: what answers there may be any server
        raise UsageError(f"{where}: no Ray cluster answers there: {_first_line(error)}; {give}") from None
    if [int(part) for part in re.findall(r"\d+", version)[:2]] < _RAY:
        raise UsageError(f"{where}: runs Ray {version}; raymds needs {'.'.join(map(str, _RAY))} or later")
    return client


def submit(
    client: JobSubmissionClient, verb: str, config: Config, options: Sequence[str] = (), env: Sequence[str] = ()
) -> str:
    """Start a verb on the cluster with this config, its `options` and this version of raymds; the job's name.

    `env` has NAME=VALUE variables for it. Credentials are not sent: the cluster's machines have their own. UsageError
    where another job works on the run directory.
    """
    variables = {"PYTHONUNBUFFERED": "1", **dict(map(variable, env))}
    run = storage.absolute(config.run.uri).rstrip("/")
    try:
        running = client.list_jobs()
    except (RuntimeError, OSError) as error:
        raise UsageError(f"the cluster doesn't say which jobs it has: {_first_line(error)}") from None
    for other in running:
        if (other.metadata or {}).get("run") == run and not other.status.is_terminal():
            job = other.submission_id
            raise UsageError(
                f"run.uri={config.run.uri}: {job} works on it; raymds follow {job} shows it, ray job stop {job} ends "
                "it in a checkpoint"
            )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preset.yaml").write_text(to_yaml(config))
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                name: str = client.submit_job(
                    entrypoint=shlex.join(["python", "-m", "raymds.cli", verb, "preset.yaml", "--json", *options]),
                    runtime_env={
                        "working_dir": folder,
                        "py_modules": [str(Path(__file__).parents[1])],
                        "env_vars": variables,
                    },
                    metadata={"raymds": verb, "run": run},
                )
            except (RuntimeError, OSError) as error:
                # A cluster that has just started takes no job for some seconds, and says so.
                if "try again later" not in str(error) or time.monotonic() > end:
                    raise UsageError(f"the cluster takes no job: {_first_line(error)}") from None
                time.sleep(_RETRY)
            else:
                return name


def check(config: Config, env: Sequence[str]) -> None:
    """UsageError for what a job can't have, before any cluster is asked: URIs of this directory, credentials.

    Entries of a ledger get the name of whoever submits: the cluster's machines don't know it.
    """
    for item in env:
        variable(item)
    named = {
        "data.uri": config.data.uri, "data.cache": config.data.cache, "run.uri": config.run.uri,
        "model.weights": config.model.weights, "ledger.uri": config.ledger.uri, "ledger.key": config.ledger.key,
    }  # fmt: skip
    for key, uri in named.items():
        if uri and "://" not in uri and not Path(uri).is_absolute():
            raise UsageError(f"{key}={uri}: is relative to this directory, which the cluster doesn't have; give a URI")
    if config.ledger.uri:
        config.ledger.author = Ledger(config.ledger.uri, config.ledger.author).author


def variable(given: str) -> tuple[str, str]:
    """Name and value of NAME=VALUE; UsageError for a credential's, which the dashboard would show to everyone."""
    name, equals, value = given.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise UsageError(f"--env {given}: has to be NAME=VALUE")
    if is_secret(name) or re.search(r"://\S+@", value):
        raise UsageError(
            f"--env {name}: holds a credential, which the cluster's dashboard would show; its machines have their own"
        )
    return name, value


def follow(client: JobSubmissionClient, job: str, show: Callable[[Record], None], say: Callable[[str], None]) -> int:
    """Pass on a job's records and other lines from its beginning until it ends; the exit status of its verb.

    A connection that is lost is made again; nothing is shown twice.
    """
    try:
        client.get_job_status(job)  # one that is not there is an error at once
        for line in _lines(client, job):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            try:
                if isinstance(record, dict) and "event" in record:
                    show(record)
                elif line:
                    say(line)
            except (LookupError, TypeError, ValueError):  # another program's record, with other fields
                say(line)
        details = client.get_job_info(job)
    except (RuntimeError, OSError, ClientError) as error:
        raise UsageError(
            f"{job}: {_first_line(error)}; ray job list shows the cluster's jobs, raymds follow {job} this one again"
        ) from None
    if details.driver_exit_code is None and details.status != JobStatus.SUCCEEDED:
        say(f"{job}: {details.status.lower()}: {details.message}")
        return 1
    return int(details.driver_exit_code or 0)


def _lines(client: JobSubmissionClient, job: str) -> Iterator[str]:
    """Whole lines of a job's log, each once, until the job has ended."""
    shown, since = 0, time.monotonic()
    while True:
        try:
            for number, line in enumerate(_synchronous(_whole(client.tail_job_logs(job)))):
                if number >= shown:
                    shown, since = number + 1, time.monotonic()
                    yield line
            if client.get_job_status(job).is_terminal():
                return
        except (OSError, RuntimeError, ClientError):
            if time.monotonic() - since > _PATIENCE:
                raise
        time.sleep(_RETRY)


async def _whole(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    rest = ""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            yield line
    if rest:
        yield rest


def _synchronous(items: AsyncIterator[str]) -> Iterator[str]:
    async def following() -> str:
        return await anext(items)

    with asyncio.Runner() as runner:
        while True:
            try:
                yield runner.run(following())
            except StopAsyncIteration:
                return


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
