"""The diagnosis of a run that was made before, from its last checkpoint, in this process alone."""

import math
from typing import Any

import torch

from raymds.config import Config, load
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.log import records
from raymds.model import precision
from raymds.run import RunDirectory
from raymds.store import objects
from raymds.tasks import resolve
from raymds.train import checkpoint, ending, select
from raymds.train.advice import advise, says
from raymds.train.cycle import candidate_weights
from raymds.train.diagnose import Cast, diagnose
from raymds.train.evaluate import evaluate
from raymds.train.limits import build_sampler
from raymds.train.net import open_net
from raymds.train.old import OldModel


def diagnose_run(uri: str) -> dict[str, Any]:
    """Diagnosis of the last candidate of a cycle's run directory, with what it says and what would help.

    UsageError where the directory holds no cycle, or none that has reached a checkpoint.
    """
    run = RunDirectory(uri)
    begun = run.config()
    if begun is None:
        raise UsageError(f"{uri}: holds no run (there is no config.yaml)")
    if not begun["task"].get("target"):
        raise UsageError(f"{uri}: holds no cycle: a pretraining has no constraints; give the run of a finetune")
    config = load(Config, run.path("config.yaml"), [], ("task.target", "model.weights"))
    config.run.uri = uri
    objects.configure(config.storage)
    log = [record for record in records(run.uri) if record["event"] in {"eval", "checkpoint"}]
    made = [record for record in log if record["event"] == "checkpoint"]
    if not made:
        raise UsageError(f"{uri}: has reached no checkpoint yet; the same command that began it goes on with it")
    step = made[-1]["step"]
    name = made[-1].get("name", f"step-{step:07d}")  # older logs don't say it
    _, weights, state = checkpoint.load(ending.checkpoint_uri(config, name))
    if "lambda" not in state:
        raise UsageError(f"{uri}: its checkpoints hold no λ: it was made by another version of raymds")
    data = DataSet.open(config.data.uri, config.data)
    tasks = resolve(config.task, data.attributes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = open_net(config, tasks.heads).to(device)
    precision.require({"select.precision": config.select.precision}, device)
    train, val = (data.load(split, tasks.vocabularies) for split in ("train", "val"))
    w_old, temperature = net.weights(), config.constraints.temperature
    known = OldModel(run.path("old"), config, data, tasks, net).known_val()
    old = known or evaluate(net, val, tasks, temperature)
    net.freeze(config.model.freeze.image, config.model.freeze.text)
    net.load_weights(candidate_weights(weights, state), uri)
    new = evaluate(net, val, tasks, temperature)
    names = [task.name for task in tasks.constrained]
    losses = [state[f"old_losses.{k}"] for k in range(len(names))]
    if "active" not in state and train.window:  # older versions retained others
        raise UsageError(
            f"{uri}: it was made by another version of raymds, which took other examples of so large a split"
        )
    cast = Cast(config, tasks, net, build_sampler(train, tasks, config), train, val)
    named = zip(names, state["lambda"].tolist(), strict=True)
    multiplier = {name: value for name, value in named if not math.isnan(value)}  # of a task that was ever sampled
    found = diagnose(cast, w_old, losses, multiplier, old, new)
    evals = {record["step"]: record for record in log if record["event"] == "eval"}
    found["says"] = says(found)
    outcome = run.read_json("outcome.json") or {"outcome": "new"}  # or none yet
    on_test = outcome["outcome"] == "old" and outcome.get("tested") and select.good(outcome["val"])
    refused = run.read_json("certificate.json") if on_test else None
    advice = advise(found, [evals[at] for at in sorted(evals)], refused, config.select.require)
    return {"step": step, "diagnosis": found, "advice": advice}
