"""What `import raymds` offers: the README's lines run as they stand, and importing costs nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import raymds
from raymds.config import Config
from raymds.errors import UsageError

README = Path(__file__).parents[3] / "README.md"


def test_the_lines_of_the_readme_run(
    fog_run: Path, old_weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = README.read_text().split("\n## From Python\n")[1].split("```python\n")[1].split("```", maxsplit=1)[0]
    assert 5 <= len(program.strip().splitlines()) <= 12
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fog").symlink_to(fog_run)
    (tmp_path / "fog.yaml").symlink_to(fog_run / "config.yaml")  # of a finished run, whose outcome is taken as it is
    (tmp_path / "old.safetensors").symlink_to(old_weights)
    Image.new("RGB", (90, 70), (200, 30, 40)).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(program, names)


def test_importing_is_quick() -> None:
    slow = "import sys, raymds; print([m for m in ('torch', 'ray', 'numpy', 'open_clip') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", slow], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_offered_is_there() -> None:
    for name in raymds.__all__:
        assert getattr(raymds, name)


def test_a_certificate_of_a_preset_and_of_a_config(fog_run: Path, fog_config: Config, old_weights: str) -> None:
    new = str(fog_run / "weights.safetensors")
    certificate = raymds.certify(fog_config, old_weights, new)
    assert certificate["verdict"] == raymds.certify(str(fog_run / "config.yaml"), old_weights, new)["verdict"]
    assert certificate["tasks"] == raymds.certify(fog_config, old_weights, new, split="test")["tasks"]
    same = raymds.certify(fog_config, old_weights, old_weights, split="val")
    assert same["devsafety"] == 0
    assert fog_config.model.weights == old_weights  # the caller's config is as it was
    with pytest.raises(UsageError, match="overrides go with a preset"):
        raymds.certify(fog_config, old_weights, new, "select.tolerance=0.1")
    with pytest.raises(UsageError, match=r"data\.uri: has no value"):
        raymds.certify(Config(), old_weights, new)


def test_a_cycle_that_can_not_be_is_said_before_it_starts(fog_config: Config) -> None:
    with pytest.raises(UsageError, match=r"run\.uri: has no value"):
        raymds.finetune("demo", "data.uri=x", "model.weights=y")
    with pytest.raises(UsageError, match=r"optim\.lrr: unknown key"):
        raymds.finetune("demo", "optim.lrr=1")


def test_embeddings_have_unit_norm(fog_run: Path) -> None:
    model = raymds.load(str(fog_run))
    images = [np.full((40, 50, 3), grey, np.uint8) for grey in (0, 100, 200)]
    found = model.embed(images)
    assert found.shape == (3, 128)
    assert found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert model.embed([]).shape == (0, 128)
    with pytest.raises(UsageError, match="'wether': no attribute of this model, which has weather"):
        model.classifier("wether")
