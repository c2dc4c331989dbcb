"""What follows the last step of a cycle: diagnosis, choice among the candidates, certificate, weights."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.report_config import CheckpointConsistencyMode
from torch import Tensor

from raymds import model
from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.log import records
from raymds.method import dist
from raymds.method.certificate import certify
from raymds.method.verdict import refusal
from raymds.model.files import tensors_digest
from raymds.store import uri as storage
from raymds.tasks import Tasks
from raymds.train import checkpoint, cycle, flips, select
from raymds.train.emit import Emit
from raymds.train.evaluate import Evaluation, evaluate, evidence, label_sets, paired

KEPT = 5  # candidates that Ray keeps beside the last checkpoint


@dataclass(frozen=True)
class Candidate:
    """One that Ray keeps, in its checkpoint of this name."""

    name: str
    step: int
    record: select.Record


def checkpoint_uri(config: Config, name: str) -> str:
    """Where a checkpoint lies in the run directory."""
    return storage.join(config.run.uri, "checkpoints", "train", name)


def uri_of(config: Config, found: Any) -> str:
    """Where a checkpoint that Ray knows lies."""
    return checkpoint_uri(config, _name(found))


def _name(found: Any) -> str:
    return PurePosixPath(found.path).name


def written() -> list[Any]:
    """The checkpoints that Ray keeps, with their metrics, once all that were reported are written."""
    return list(ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED))


def evaluation(step: int, record: select.Record, seconds: float) -> dict[str, Any]:
    """What a log says of a candidate."""
    return {"event": "eval", "step": step, **record, "seconds": seconds}


def record_of(evaluation: dict[str, Any]) -> select.Record:
    """The record in what a log says of a candidate."""
    return {key: value for key, value in evaluation.items() if key not in {"event", "step", "seconds", "beside"}}


def candidates(
    config: Config, w_old: dict[str, Tensor], measure: Callable[[dict[str, Tensor]], select.Record], emit: Emit
) -> list[Candidate]:
    """The candidates that were kept, from the lowest score on, all of them measured on val, the same on all ranks.

    Those that were not, beside the training, are measured now. Ray keeps them however many there are; of all the best
    `KEPT` and the last are those that a run has that measures each of them when it is made.
    """
    device = torch.device(ray.train.torch.get_device())
    data = json.dumps([asdict(candidate) for candidate in _known(config)]).encode() if dist.rank() == 0 else None
    found = [Candidate(**entry) for entry in json.loads(dist.broadcast_bytes(data, device) or b"[]")]
    if not all(candidate.record for candidate in found):
        emit.end_beside()
    for i, candidate in enumerate(found):
        if not candidate.record:
            emit.phase(f"measuring the candidate of step {candidate.step}")
            begin = time.perf_counter()
            record = measure(candidate_of(config, candidate, w_old))
            emit.beside(evaluation(candidate.step, record, time.perf_counter() - begin))
            found[i] = Candidate(candidate.name, candidate.step, record)
    ordered = sorted(found, key=lambda candidate: (select.score(candidate.record), candidate.step))
    last = max((candidate.step for candidate in ordered), default=0)
    return [candidate for i, candidate in enumerate(ordered, 1) if i > len(ordered) - KEPT or candidate.step == last]


def _known(config: Config) -> list[Candidate]:
    """The candidates that Ray keeps, by step, with what it or the log knows of them; an empty record else."""
    reports = [report for report in written() if "record" in report.metrics]
    logged: dict[int, select.Record] = {}
    if any(report.metrics["record"] is None for report in reports):
        logged = {r["step"]: record_of(r) for r in records(config.run.uri) if r["event"] == "eval"}
    by_step = sorted(reports, key=lambda report: report.metrics["step"])
    known = [(report, report.metrics["step"], report.metrics["record"]) for report in by_step]
    return [Candidate(_name(r.checkpoint), step, record or logged.get(step, {})) for r, step, record in known]


def choose(
    config: Config,
    candidates: Sequence[Candidate],
    w_old: dict[str, Tensor],
    measure: Callable[[dict[str, Tensor]], select.Record],
) -> select.Choice[Candidate] | None:
    """The choice among candidates, interpolating where the config allows it."""

    def towards(candidate: Candidate) -> Callable[[float], select.Record]:
        weights = candidate_of(config, candidate, w_old)
        return lambda alpha: measure(select.interpolate(w_old, weights, alpha))

    measured = [(candidate, candidate.record) for candidate in candidates]
    return select.choose(measured, towards if config.select.interpolate else None)


def candidate_of(config: Config, candidate: Candidate, w_old: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a candidate among the checkpoints that were kept, which rank 0 reads for all.

    `w_old`, on the CPU, says on the other ranks which tensors there are.
    """
    found, device = w_old, torch.device(ray.train.torch.get_device())
    if dist.rank() == 0:
        _, weights, state = checkpoint.load(checkpoint_uri(config, candidate.name))
        found = cycle.candidate_weights(weights, state)
    return {name: dist.broadcast(found[name].to(device)).cpu() for name in w_old}


def delivered(
    config: Config,
    data: DataSet,
    tasks: Tasks,
    net: model.ClipWithHeads,
    w_old: dict[str, Tensor],
    candidates: Sequence[Candidate],
    choice: select.Choice[Candidate] | None,
    emit: Emit,
    *,
    trial: bool,
    nearest: bool,
) -> dict[str, Any]:
    """What a choice, or none, leads to: `choice` with what `certified` finds; for a `trial` its weights alone.

    Without a choice also `candidates`, and with `nearest` what `certified` finds of the one nearest to a choice.
    """
    if choice is None:
        found = [{"step": candidate.step, "record": candidate.record} for candidate in candidates]
        none = {"choice": None, "candidates": found}
        if trial or not nearest:
            return none
        best = max(candidates, key=lambda candidate: select.score(candidate.record))
        return none | certified(config, data, tasks, net, w_old, candidate_of(config, best, w_old), emit, chosen=False)
    weights = select.interpolate(w_old, candidate_of(config, choice.candidate, w_old), choice.alpha)
    chosen = {"step": choice.candidate.step, "alpha": choice.alpha, "record": choice.record}
    if trial:
        published = publish(config, net, weights, "weights.safetensors", developed(config, net, tasks))
        return {"choice": chosen, "weights": published}
    return {"choice": chosen, **certified(config, data, tasks, net, w_old, weights, emit)}


def certified(
    config: Config,
    data: DataSet,
    tasks: Tasks,
    net: model.ClipWithHeads,
    w_old: dict[str, Tensor],
    weights: dict[str, Tensor],
    emit: Emit,
    chosen: bool = True,
) -> dict[str, Any]:
    """The one measurement of the test split: certificate, why the old model stays (None: it does not), a few pictures.

    Publishes the weights, under another name where the old model stays; where they are not `chosen` it does anyway.
    """
    emit.phase("certifying on the test split")
    test = data.load("test", tasks.vocabularies)

    temperature, loss = config.constraints.temperature, config.constraints.loss

    def measure(name: str, state: dict[str, Tensor]) -> tuple[Evaluation, str]:
        net.load_weights(state, name)
        return evaluate(net, test, tasks, temperature), tensors_digest(net.weights())

    (before, old), (after, new) = measure("old", w_old), measure("candidate", weights)
    certificate = certify(
        paired(before, after, tasks.target, loss),
        [paired(before, after, task, loss) for task in tasks.protected],
        tolerance=config.select.tolerance,
        confidence=config.select.confidence,
        digests={},  # the driver's, who knows the run directory
    ) | evidence(data, "test", tasks, config, old, new)
    refused = refusal(certificate, config.select.require, config.select.require_target)
    name = "weights.safetensors" if chosen and not refused else "rejected.safetensors"
    return {
        "certificate": certificate,
        "refused": refused,
        "weights": publish(config, net, weights, name, developed(config, net, tasks)),
        "flips": flips.pictures(test, before, after, tasks) if dist.rank() == 0 else [],  # whose result it is
        "skipped_images": skipped({"test": test}),
    }


def developed(config: Config, net: model.ClipWithHeads, tasks: Tasks) -> model.Identity:
    """What a model that this cycle developed says of itself."""
    return net.describe(label_sets(tasks), storage.sha256(storage.read(str(config.model.weights))))


def publish(
    config: Config, net: model.ClipWithHeads, weights: dict[str, Tensor], name: str, identity: model.Identity
) -> dict[str, str]:
    """Write weights into the run directory; their URI and digest."""
    data = model.pack_weights(net, weights, identity)
    uri = storage.join(config.run.uri, name)
    if dist.rank() == 0:
        storage.write(uri, data)
    return {"uri": uri, "sha256": storage.sha256(data)}


def skipped(splits: dict[str, Split]) -> dict[str, int]:
    """Images of each split that could not be decoded, as far as any rank saw them."""
    counts = {}
    for name, split in splits.items():
        seen = torch.zeros(len(split), dtype=torch.int32)
        seen[list(split.corrupt)] = 1
        device = torch.device(ray.train.torch.get_device())
        counts[name] = int((dist.all_reduce_sum(seen.to(device)) > 0).sum())
    return counts
