"""What follows the last step of a cycle: diagnosis, choice among the candidates, certificate, weights."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import Tensor

from raymds import model
from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.method import dist
from raymds.method.certificate import certify
from raymds.method.verdict import refusal
from raymds.model.files import tensors_digest
from raymds.store import uri as storage
from raymds.tasks import Tasks
from raymds.train import checkpoint, cycle, flips, select
from raymds.train.emit import Emit
from raymds.train.evaluate import Evaluation, evaluate, evidence, label_sets, paired


def checkpoint_uri(config: Config, name: str) -> str:
    """Where a checkpoint lies in the run directory."""
    return storage.join(config.run.uri, "checkpoints", "train", name)


def uri_of(config: Config, found: Any) -> str:
    """Where a checkpoint that Ray knows lies."""
    return checkpoint_uri(config, PurePosixPath(found.path).name)


def candidates_kept() -> list[Any]:
    """The checkpoints kept that were measured on val, with their metrics."""
    return [report for report in ray.train.get_all_reported_checkpoints() if "record" in report.metrics]


def choose(
    config: Config, w_old: dict[str, Tensor], measure: Callable[[dict[str, Tensor]], select.Record]
) -> select.Choice[Any] | None:
    """The choice among the checkpoints that were kept, interpolating where the config allows it."""

    def towards(candidate: Any) -> Callable[[float], select.Record]:
        weights = candidate_of(config, candidate, w_old)
        return lambda alpha: measure(select.interpolate(w_old, weights, alpha))

    candidates = [(report, report.metrics["record"]) for report in candidates_kept()]
    return select.choose(candidates, towards if config.select.interpolate else None)


def candidate_of(config: Config, candidate: Any, w_old: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a candidate among the checkpoints that were kept, which rank 0 reads for all.

    `w_old`, on the CPU, says on the other ranks which tensors there are.
    """
    found, device = w_old, torch.device(ray.train.torch.get_device())
    if dist.rank() == 0:
        _, weights, state = checkpoint.load(uri_of(config, candidate.checkpoint))
        found = cycle.candidate_weights(weights, state)
    return {name: dist.broadcast(found[name].to(device)).cpu() for name in w_old}


def delivered(
    config: Config,
    data: DataSet,
    tasks: Tasks,
    net: model.ClipWithHeads,
    w_old: dict[str, Tensor],
    choice: select.Choice[Any] | None,
    emit: Emit,
    *,
    trial: bool,
    nearest: bool,
) -> dict[str, Any]:
    """What a choice, or none, leads to: `choice` with what `certified` finds; for a `trial` its weights alone.

    Without a choice also `candidates`, and with `nearest` what `certified` finds of the one nearest to a choice.
    """
    if choice is None:
        kept = candidates_kept()
        none = {"choice": None, "candidates": [report.metrics for report in kept]}
        if trial or not nearest:
            return none
        best = max(kept, key=lambda report: select.score(report.metrics["record"]))
        return none | certified(config, data, tasks, net, w_old, candidate_of(config, best, w_old), emit, chosen=False)
    weights = select.interpolate(w_old, candidate_of(config, choice.candidate, w_old), choice.alpha)
    chosen = {"step": choice.candidate.metrics["step"], "alpha": choice.alpha, "record": choice.record}
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
    ) | evidence(data, "test", tasks, config.constraints, old, new)
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
