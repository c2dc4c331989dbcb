"""Pretraining starts from the weights that it is given, and leaves alone what it does not train."""

from pathlib import Path

import torch

from raymds.config import Config, load
from raymds.model import ClipWithHeads, pack_weights, read_weights
from raymds.store import uri as storage
from raymds.train import worker
from tests.unit.train.conftest import Recorder


def test_it_goes_on_from_given_weights_and_carries_their_heads(
    recorder: Recorder, data_uri: str, tmp_path: Path
) -> None:
    net = ClipWithHeads("tiny-64", ["weather:foggy"], 4, seed=7)
    with torch.no_grad():
        net.heads.B.normal_(generator=torch.Generator().manual_seed(0))
    given = tmp_path / "given.safetensors"
    given.write_bytes(pack_weights(net))
    settings = [f"data.uri={data_uri}", f"run.uri={tmp_path / 'run'}", "objective.batch=16", "run.workers=1"]
    settings += [f"model.weights={given}", "model.freeze.text=all", "optim.lr=1e-4", "optim.warmup=0", "optim.steps=2"]
    result = worker.run_pretraining({"config": load(Config, None, settings), "monitor": recorder})
    made = read_weights(result["weights"]["uri"])
    for name, before in net.weights().items():
        trained = name.startswith("visual.")
        assert torch.equal(made.tensors[name], before) != trained, name
        assert float((made.tensors[name] - before).abs().max()) < 1e-3
    assert made.found.metadata["parent"] == storage.sha256(given.read_bytes())
    assert made.found.metadata["architecture"] == "tiny-64"
