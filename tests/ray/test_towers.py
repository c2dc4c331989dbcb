"""A model shaped like SigLIP, from training to what is handed on."""

import json
from pathlib import Path

import open_clip
import pytest
import safetensors.torch

from raymds.cli.main import main
from tests.conftest import finetune, records
from tests.towers import write_tower


@pytest.mark.usefixtures("cluster")
def test_a_siglip_is_trained_certified_and_exported(settings: list[str], tmp_path: Path) -> None:
    run, export, weights = tmp_path / "run", tmp_path / "export", write_tower("SigLIP", tmp_path)
    more = ["model.name=''", f"model.weights={weights}", "select.tolerance=0.9", "select.interpolate=false"]
    outcome = finetune(settings, run, *more, "optim.lr=1e-3")
    assert all(h == 0.0 for h in next(r["h"] for r in records(run) if r["event"] == "step").values())
    developed = run / "checkpoints/train/step-0000008/weights.safetensors"
    command = ["certify", str(run / "config.yaml"), "--old", weights, "--new"]
    assert main([*command, str(developed), "--out", str(tmp_path / "certificate.json")]) == 0
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert {task["n"] > 0 for task in certificate["tasks"]} == {True}

    model = str(run) if outcome["outcome"] == "new" else str(run / "rejected.safetensors")
    assert main(["export", model if Path(model).exists() else weights, "--to", str(export)]) == 0
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{export}")
    assert clip.text.attn_mask is None
    assert clip.text.text_projection.bias is not None
    exported = safetensors.torch.load_file(export / "open_clip_model.safetensors")
    assert "logit_bias" in exported
