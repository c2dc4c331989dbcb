"""A model shaped like SigLIP, from training to what is handed on: a text tower that is not causal, a bias behind it."""

from pathlib import Path

import open_clip
import pytest
import safetensors.torch

from raymds.cli.main import main
from raymds.config import Config, load
from raymds.train import ending, worker
from tests.conftest import overrides, records
from tests.towers import write_tower
from tests.unit.train.conftest import Recorder, payload_of


def test_a_siglip_is_trained_certified_and_exported(
    recorder: Recorder, data_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, run, export = write_tower("SigLIP", tmp_path), tmp_path / "run", tmp_path / "export"
    settings = [*overrides(data_uri, weights, str(run)), "model.name=''", "optim.lr=1e-3", "select.interpolate=false"]
    config = load(Config, None, [*settings, "select.tolerance=0.9", "select.require=undecided"])
    result = worker.run_cycle(payload_of(config, recorder))
    assert all(h == 0.0 for h in next(r["h"] for r in records(run) if r["event"] == "step").values())
    if result["choice"] is None:  # nothing gained at the target: the last candidate is certified all the same
        winner = ending.checkpoint_uri(config, "step-0000008")
        result = worker.run_certification({"config": config, "monitor": recorder, "winner": winner})
    assert all(task["n"] > 0 for task in result["certificate"]["tasks"])

    assert main(["export", result["weights"]["uri"], "--to", str(export)]) == 0
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{export}")
    assert clip.text.attn_mask is None
    assert clip.text.text_projection.bias is not None
    assert "logit_bias" in safetensors.torch.load_file(export / "open_clip_model.safetensors")
    assert set(safetensors.torch.load_file(export / "classifier.safetensors")) == {"weather", "scene", "timeofday"}
