"""Candidates measured on val beside the training, where a cluster holds one more worker than a run has.

Ray Train starts `validate` for one checkpoint after the other, again where its process dies, and keeps a checkpoint
until it was measured. What is found goes to the log from here (`log.measured_beside`). Whatever is not measured, as the
run stops, ends or fails here, the workers measure at the end (`ending.candidates`): nothing waits for this process.
"""

import time
from typing import Any

import ray
import torch
from ray.exceptions import TaskCancelledError

from raymds import log
from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import RaymdsError, StoppedError
from raymds.store import objects
from raymds.tasks import resolve
from raymds.train import checkpoint, cycle, ending, select
from raymds.train.evaluate import evaluate
from raymds.train.net import open_net
from raymds.train.old import OldModel


def validate(found: Any, settings: dict[str, Any], step: int, threads: int) -> dict[str, Any]:
    """`record` and `score` of the candidate in a checkpoint of a run with these `settings`, as its workers have them.

    `threads` are a worker's, as the last bits depend on them. Where it can't be measured here Ray is told that this was
    cancelled: it keeps the checkpoint, as one that is still to be measured.
    """
    monitor, left = settings["monitor"], f"step {step}: the workers measure val at the end"
    try:
        record = _measured(found, settings, step, threads)
    except StoppedError:
        raise TaskCancelledError(error_message=left) from None
    except Exception as error:
        said = str(error).strip().splitlines()[-1] if isinstance(error, RaymdsError) else repr(error)
        monitor.push.remote({"event": "note", "note": f"{left}, as beside the training it failed: {said}"})
        raise TaskCancelledError(error_message=left) from error
    return {"record": record, "score": select.score(record)}


def _measured(found: Any, settings: dict[str, Any], step: int, threads: int) -> select.Record:
    config, monitor = settings["config"], settings["monitor"]
    objects.configure(config.storage)
    known = next((record for record in log.found_beside(config.run.uri) if record["step"] == step), None)
    if known is None:  # otherwise by a process that was killed before Ray heard of it
        begin = time.perf_counter()
        torch.set_num_threads(threads)
        record = _compared(config, settings, ending.uri_of(config, found))
        known = ending.evaluation(step, record, time.perf_counter() - begin) | {"beside": True}
        log.measured_beside(config.run.uri, known)
        monitor.push.remote(known)
    return ending.record_of(known)


def _compared(config: Config, settings: dict[str, Any], uri: str) -> select.Record:
    """What `worker.run_cycle` finds of the candidate; StoppedError where it is not wanted from here any more."""
    monitor = settings["monitor"]

    def stop() -> bool:
        return not ray.get(monitor.beside.remote())

    if stop():
        raise StoppedError("stopped before measuring")
    data = DataSet.open(config.data.uri, config.data)
    tasks = resolve(config.task, data.attributes)
    net = open_net(config, tasks.heads).to(torch.device("cuda" if config.run.gpus_per_worker else "cpu"))
    old = OldModel(settings["old"], config, data, tasks, net).known_val()
    if old is None:  # its results are of one kind of processor
        raise RaymdsError("this machine's processor is another than the workers'")
    _, weights, state = checkpoint.load(uri)
    net.load_weights(cycle.candidate_weights(weights, state), uri)
    val = data.load("val", tasks.vocabularies)
    new = evaluate(net, val, tasks, config.constraints.temperature, diverging=True, stop=stop)
    return select.compare(old, new, tasks, config.select.tolerance, config.constraints.loss)
