"""What is exported is used by a program without raymds, and says of every image what was certified."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP

from raymds.cli.main import main
from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import RaymdsError, UsageError
from raymds.model import ClipWithHeads, Identity, Preprocess, pack_weights
from raymds.release import delivered, onnx_file
from raymds.release.export import export
from raymds.store import uri as storage
from raymds.tasks import resolve
from raymds.train.evaluate import evaluate
from tests.conftest import silent, trained_heads

# A program of someone who has open_clip, safetensors and Pillow, and the folder of the export.
SCRIPT = """
import io, json, sys
import open_clip, torch
import pyarrow.parquet as pq
from PIL import Image
from safetensors.torch import load_file

folder, data = sys.argv[1:]
torch.set_num_threads(1)
torch.backends.mha.set_fastpath_enabled(False)
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
classifier, labels = load_file(f"{folder}/classifier.safetensors"), json.load(open(f"{folder}/labels.json"))
manifest = json.load(open(f"{data}/manifest.json"))
rows = [row for shard in manifest["splits"]["test"] for row in pq.read_table(f"{data}/{shard['file']}").to_pylist()]
pixels = torch.stack([preprocess(Image.open(io.BytesIO(row["image"]))) for row in rows])
with torch.no_grad():
    embedding = model.eval().encode_image(pixels, normalize=True)
cosines = {attribute: embedding @ matrix.T for attribute, matrix in classifier.items()}
said = {a: [labels["classes"][a][i] for i in cosine.argmax(dim=1)] for a, cosine in cosines.items()}
onnx = None
if "onnx" in labels:
    import onnxruntime
    session = onnxruntime.InferenceSession(f"{folder}/{labels['onnx']['file']}")
    about = labels["onnx"]
    names = about["cosines"]
    outputs = session.run([about["embedding"], *names.values()], {about["input"]["name"]: pixels.numpy()})
    onnx = {
        "said": {a: [labels["classes"][a][i] for i in o.argmax(axis=1)] for a, o in zip(names, outputs[1:])},
        "apart": {a: float((torch.from_numpy(o) - cosines[a]).abs().max()) for a, o in zip(names, outputs[1:])},
        "embedding": float((torch.from_numpy(outputs[0]) - embedding).abs().max()),
    }
foreign = [name for name in sys.modules if name.partition(".")[0] == "raymds"]
truth = {a: [row[a] for row in rows] for a in classifier}
print(json.dumps({"said": said, "truth": truth, "onnx": onnx, "raymds": foreign}))
"""


def outside(script: str, *arguments: str, cwd: Path | None = None) -> str:
    """What a program prints that knows nothing of this package."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, cwd=cwd or "/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(fog_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "fog"
    assert main(["export", str(fog_run), "--to", str(folder), "--onnx"]) == 0
    return folder


@pytest.fixture(scope="module")
def others(exported: Path, data_uri: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(outside(SCRIPT, str(exported), data_uri))
    return found


def test_a_program_without_raymds_finds_the_certificates_accuracies_image_by_image(
    others: dict[str, Any], fog_run: Path, fog_config: Config
) -> None:
    assert others["raymds"] == []
    certificate = json.loads((fog_run / "certificate.json").read_text())
    for task in (certificate["target"], *certificate["tasks"]):
        attribute, _, label = task["task"].partition(":")
        pairs = [p for p in zip(others["said"][attribute], others["truth"][attribute], strict=True) if p[1] == label]
        assert len(pairs) == task["n"]
        assert sum(said == truth for said, truth in pairs) / len(pairs) == task["new"]
    # The accuracies could agree by luck; what is said of each image could not.
    data = DataSet.open(fog_config.data.uri)
    tasks = resolve(fog_config.task, data.attributes)
    model, _ = delivered.find(str(fog_run)).open()
    found = evaluate(model, data.load("test"), tasks, fog_config.constraints.temperature)
    for attribute, classes in tasks.classes.items():
        assert others["said"][attribute] == [classes[i] for i in found.predicted[attribute]]


def test_the_heads_matter(fog_run: Path, fog_config: Config) -> None:
    """Otherwise the test above would hold for an export that forgets them."""
    model, _ = delivered.find(str(fog_run)).open()
    data = DataSet.open(fog_config.data.uri)
    tasks = resolve(fog_config.task, data.attributes)
    with_heads = evaluate(model, data.load("test"), tasks, 0.05).predicted
    torch.nn.init.zeros_(model.heads.B)
    without = evaluate(model, data.load("test"), tasks, 0.05).predicted
    assert any((with_heads[a] != without[a]).mean() > 0.1 for a in tasks.classes)


def test_onnx_runtime_says_the_same(others: dict[str, Any], fog_config: Config) -> None:
    assert others["onnx"]["said"] == others["said"]
    logits = {a: apart / fog_config.constraints.temperature for a, apart in others["onnx"]["apart"].items()}
    assert max(logits.values()) < 1e-3
    assert others["onnx"]["embedding"] < 1e-5


def test_every_file_is_listed_with_its_digest(exported: Path, fog_run: Path) -> None:
    index = json.loads((exported / "export.json").read_text())
    assert set(index["files"]) == {path.name for path in exported.iterdir()} - {"export.json"}
    for name, entry in index["files"].items():
        data = (exported / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert index["weights"]["sha256"] == hashlib.sha256((fog_run / "weights.safetensors").read_bytes()).hexdigest()
    assert (exported / "certificate.json").read_bytes() == (fog_run / "certificate.json").read_bytes()
    labels = json.loads((exported / "labels.json").read_text())
    assert labels["temperature"] == 0.03
    assert labels["digests"]["open_clip_model.safetensors"] == index["files"]["open_clip_model.safetensors"]["sha256"]


def test_the_same_export_again_is_the_same_and_another_model_is_refused(
    exported: Path, fog_run: Path, old_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in exported.iterdir()}
    assert main(["export", str(fog_run), "--to", str(exported), "--onnx"]) == 0
    changed = {p.name for p in exported.iterdir() if p.read_bytes() != before[p.name]}
    assert changed <= {"image_tower.onnx", "labels.json", "README.md", "export.json"}  # ONNX notes where it was made
    for content in (None, "[]", "{}", '{"weights": {"sha256": 1}}'):
        if content is not None:  # of another program
            (tmp_path / "export.json").write_text(content)
        assert main(["export", old_weights, "--to", str(exported if content is None else tmp_path)]) == 2
        said = capsys.readouterr().err
        assert "already holds an export of other weights" in said or "export.json: damaged: not a JSON object" in said


def test_raymds_does_not_take_the_export_for_the_model(
    exported: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["export", str(exported / "open_clip_model.safetensors"), "--to", str(tmp_path)]) == 2
    assert "without the class heads" in capsys.readouterr().err


def test_a_file_without_classes_is_exported_without_classifiers(
    old_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", old_weights, "--to", str(tmp_path)]) == 0
    assert "does not say its classes" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {
        "open_clip_model.safetensors", "open_clip_config.json", "README.md", "export.json"
    }  # fmt: skip


def test_an_old_outcome_exports_the_old_model_and_says_so(
    fog_run: Path, old_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.yaml", "certificate.json"):
        (tmp_path / name).write_bytes((fog_run / name).read_bytes())
    outcome = {"schema": 1, "outcome": "old", "reason": "nothing was feasible", "weights": old_weights}
    storage.write_json(str(tmp_path / "outcome.json"), outcome)
    assert main(["export", str(tmp_path), "--to", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "is the old model, which this is: nothing was feasible" in said["notes"][0]
    assert said["weights"]["sha256"] == hashlib.sha256(Path(old_weights).read_bytes()).hexdigest()
    # Certificate and settings are of the model that was not chosen.
    assert not (tmp_path / "out" / "certificate.json").exists()
    assert "## Settings" not in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "certificate.json").unlink()
    storage.write_json(str(tmp_path / "outcome.json"), {**outcome, "parent": "0" * 64})  # another lies there by now
    with pytest.raises(UsageError, match="is not the old model that its run kept"):
        export(delivered.find(str(tmp_path)), str(tmp_path / "out"), onnx=False, show=silent)


def test_weights_that_are_not_the_certified_ones_are_an_error(fog_run: Path, old_weights: str, tmp_path: Path) -> None:
    for name in ("config.yaml", "certificate.json", "outcome.json"):
        (tmp_path / name).write_bytes((fog_run / name).read_bytes())
    (tmp_path / "weights.safetensors").write_bytes(Path(old_weights).read_bytes())
    with pytest.raises(UsageError, match=r"not the file that the certificate\.json"):
        export(delivered.find(str(tmp_path)), str(tmp_path / "out"), onnx=False, show=silent)


TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
SHAPES: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "quickgelu": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True},
    "custom text": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True},
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": TEXT,
    },
    "convnext": {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "convnext_atto", "timm_model_pretrained": False, "timm_pool": "",
            "timm_proj": "linear", "timm_drop_path": 0.1, "image_size": 64,
        },
        "text_cfg": TEXT,
    },
    "siglip": {
        "embed_dim": 32, "init_logit_bias": -10, "custom_text": True,
        "vision_cfg": {**VISION, "layers": 2, "pool_type": "avg", "no_ln_pre": True},
        "text_cfg": {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
}  # fmt: skip
ONNX = {"resnet", "convnext", "siglip"}  # the tests above do it for a ViT
LABELS = {"weather": {"rainy": ["it rains."], "foggy": ["fog."], "clear": ["the sky is clear."]}}


def foreign(config: dict[str, Any], folder: Path) -> tuple[ClipWithHeads, str]:
    """A model of any shape with trained heads, and its file."""
    side = config["vision_cfg"]["image_size"]
    siglip = Preprocess(side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash")
    fit = siglip if "init_logit_bias" in config else Preprocess(side)
    heads = [f"weather:{label}" for label in LABELS["weather"]]
    net = ClipWithHeads(Identity("", config, fit, LABELS), heads, 4, seed=5)
    trained_heads(net)
    for module in net.modules():  # BatchNorm as training leaves it: its running statistics are not the initial ones
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    path = folder / "weights.safetensors"
    path.write_bytes(pack_weights(net))
    return net, str(path)


OPEN_CLIP = """
import os, sys, json, open_clip, torch, onnxruntime
from safetensors.torch import load_file
torch.set_num_threads(1)
found = {}
for folder in sys.argv[1:]:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    side = model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    pixels = torch.randn(5, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embedding = model.eval().encode_image(pixels, normalize=True)
        text = model.encode_text(torch.tensor([[49406, 320, 49407] + [0] * 13]), normalize=True)
    apart = [0.0]
    if os.path.exists(f"{folder}/image_tower.onnx"):
        session = onnxruntime.InferenceSession(f"{folder}/image_tower.onnx")
        onnx = session.run(["embedding", "weather.cosines"], {"pixels": pixels.numpy()})
        want = embedding @ load_file(f"{folder}/classifier.safetensors")["weather"].T
        apart = [float(abs(onnx[0] - embedding.numpy()).max()), float(abs(onnx[1] - want.numpy()).max())]
    found[folder] = {
        "class": type(model).__name__, "embedding": embedding.tolist(), "text": text.tolist(), "side": side,
        "scale": model.logit_scale.tolist(), "bias": None if model.logit_bias is None else model.logit_bias.tolist(),
        "transform": str(preprocess),
        "onnx": apart,
    }
print(json.dumps(found))
"""


def test_open_clip_loads_every_shape_strictly(tmp_path: Path) -> None:
    nets, folders = {}, {}
    for shape, config in SHAPES.items():
        (tmp_path / shape).mkdir()
        nets[shape], weights = foreign(config, tmp_path / shape)
        folders[shape] = str(tmp_path / shape / "out")
        export(delivered.find(weights), folders[shape], onnx=shape in ONNX, show=silent)
    everything = json.loads(outside(OPEN_CLIP, *folders.values()))
    for shape, config in SHAPES.items():
        net, found = nets[shape], everything[folders[shape]]
        assert found["class"] == (CustomTextCLIP if config.get("custom_text") else CLIP).__name__
        pixels = torch.randn(5, 3, found["side"], found["side"], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            want = torch.nn.functional.normalize(net.clip.visual(pixels), dim=-1)
            text = net.clip.encode_text(torch.tensor([[49406, 320, 49407] + [0] * 13]), normalize=True)
        assert torch.allclose(torch.tensor(found["embedding"]), want, atol=1e-5), shape
        assert torch.allclose(torch.tensor(found["text"]), text, atol=1e-5), shape
        assert found["scale"] == pytest.approx(net.clip.logit_scale.item())
        assert found["bias"] == (config.get("init_logit_bias"))
        assert max(found["onnx"]) < 1e-5, shape
        assert ("bilinear" in found["transform"] and "0.5" in found["transform"]) == (shape == "siglip")


def test_classifiers_have_unit_norm_and_go_through_their_heads(tmp_path: Path) -> None:
    net, weights = foreign(SHAPES["vit"], tmp_path)
    found = delivered.find(weights).open()[0]
    sentences = {label: texts[0] for label, texts in LABELS["weather"].items()}
    with torch.no_grad():
        got = found.classifiers(LABELS)["weather"].numpy()
        # By hand: the trunk of each sentence through W + A·B of its own class.
        trunk = net._trunk(net.tokenize(list(sentences.values())))
        rows = [
            trunk[i] @ (net.clip.text.text_projection + net.heads.A[i] @ net.heads.B[i]) for i in range(len(sentences))
        ]
    want = np.stack([(row / row.norm()).numpy() for row in rows])
    assert np.allclose(got, want, atol=1e-5)
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_an_onnx_file_that_differs_is_not_published(
    fog_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_CLOSE", 0.0)
    with pytest.raises(RaymdsError, match=r"ONNX Runtime differs from PyTorch"):
        export(delivered.find(str(fog_run)), str(tmp_path), onnx=True, show=silent)
    assert not any(tmp_path.iterdir())


def test_a_missing_onnx_is_said_with_its_remedy(
    fog_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(fog_run), "--to", str(tmp_path / "out"), "--onnx"]) == 2
    assert "pip install 'raymds[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_killed_export_is_absent(fog_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = storage.write

    def killed(uri: str, data: bytes) -> None:
        if uri.endswith("README.md"):
            raise KeyboardInterrupt
        real(uri, data)

    export(delivered.find(str(fog_run)), str(tmp_path), onnx=False, show=silent)
    monkeypatch.setattr(storage, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        export(delivered.find(str(fog_run)), str(tmp_path), onnx=False, show=silent)
    assert not (tmp_path / "export.json").exists()


def test_a_file_in_the_place_of_its_directory_is_named(old_weights: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=rf"^{tmp_path}/file/x: can't be written: {tmp_path}/file is no directory$"):
        export(delivered.find(old_weights), f"{tmp_path}/file/x", onnx=False, show=silent)
