"""Weights in every form that people have, against the open_clip model that they were saved from."""

import collections
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor

from raymds.errors import UsageError
from raymds.model import ClipWithHeads, load, pack_weights, read_weights
from raymds.model.files import tensors_digest
from tests.unit.model.small import CLASSES, RESNET, TEXTS, of_config, open_clips, opened, pickled, saved, trained, write

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def source() -> Any:
    return open_clips()


@pytest.fixture(scope="module")
def state(source: Any) -> State:
    return dict(source.state_dict())


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def separate(state: State) -> State:
    """Under the names of a model with a separate text tower."""
    return {n if n.startswith(("visual.", "logit_")) else f"text.{n}": t for n, t in state.items()}


THREE = {"input_resolution": 64, "context_length": 32, "vocab_size": 629}

FORMS: dict[str, Callable[[State], bytes]] = {
    "plain": pickled,
    "written before 2020": lambda s: pickled(s, _use_new_zipfile_serialization=False),
    "ordered": lambda s: pickled(collections.OrderedDict(s)),
    "safetensors": saved,
    "separate": lambda s: saved(separate(s)),
    "open_clip's trainer": lambda s: pickled(
        {"epoch": 3, "name": "x", "state_dict": prefixed(s, "module."), "optimizer": {"state": {0: torch.ones(2)}}}
    ),
    "module": lambda s: pickled(prefixed(s, "module.")),
    "compiled": lambda s: pickled(prefixed(s, "_orig_mod.")),
    "compiled in parallel": lambda s: pickled({"state_dict": prefixed(s, "module._orig_mod.")}),
    "lightning": lambda s: pickled({"state_dict": prefixed(s, "model."), "callbacks": {}, "lr_schedulers": []}),
    "model": lambda s: pickled({"model": s, "epoch": 1, "args": {"lr": 0.1}}),
    "model_state_dict": lambda s: saved(prefixed(separate(s), "model.")),
    "nested twice": lambda s: pickled({"checkpoint": {"model": {"state_dict": s}}}),
    "parameters": lambda s: pickled({name: torch.nn.Parameter(tensor) for name, tensor in s.items()}),
    "scale (1,)": lambda s: pickled(s | {"logit_scale": s["logit_scale"].reshape(1)}),
    "double": lambda s: pickled({name: tensor.double() for name, tensor in s.items()}),
    "OpenAI's entries": lambda s: pickled(s | {name: torch.tensor(value) for name, value in THREE.items()}),
    "OpenAI's entries as numbers": lambda s: pickled(s | THREE),
    "OpenAI's entries, prefixed": lambda s: pickled(
        prefixed(s | {name: torch.tensor(value) for name, value in THREE.items()}, "module.")
    ),
    "the mask": lambda s: pickled(s | {"attn_mask": torch.zeros(32, 32)}),
    "positions": lambda s: pickled(s | {"text.embeddings.position_ids": torch.arange(32)[None]}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_every_form_gives_the_same_model(source: Any, state: State, tmp_path: Path, form: str, name: str) -> None:
    """Also with a wrong ending."""
    net = opened(tmp_path / name, FORMS[form](state))
    got = net.encode_text(net.tokenize(TEXTS), torch.arange(3), torch.tensor([0, 1, -1]))
    torch.testing.assert_close(got, source.encode_text(net.tokenizer(TEXTS), normalize=True))
    weights = net.weights()
    assert all(torch.equal(weights[name], tensor) for name, tensor in separate(state).items())
    assert tensors_digest(weights) == tensors_digest(separate(state))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(state: State, tmp_path: Path, dtype: torch.dtype) -> None:
    half = {name: tensor.to(dtype) for name, tensor in state.items()}
    found = read_weights(write(tmp_path / "w.bin", saved(half))).tensors
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    one, two = (opened(tmp_path / "w.bin", data).weights() for data in (saved(half), pickled(half)))
    assert all(torch.equal(one[name], tensor.float()) for name, tensor in separate(half).items())
    assert tensors_digest(one) == tensors_digest(two) == tensors_digest(found)


def test_a_file_without_the_scale_is_whole(state: State, tmp_path: Path) -> None:
    net = opened(tmp_path / "w.pt", pickled({n: t for n, t in state.items() if n != "logit_scale"}))
    assert torch.equal(net.weights()["text.text_projection"], state["text_projection"])


def test_a_text_projection_with_a_bias_in_the_plain_layout(tmp_path: Path) -> None:
    """Its name is `text_projection.weight`, not `text_projection`."""
    want = of_config(RESNET, TEXT_BIASED).weights()
    plain = {name.removeprefix("text."): tensor for name, tensor in want.items() if not name.startswith("heads.")}
    assert "text_projection.bias" in plain
    found = read_weights(write(tmp_path / "w.pt", pickled(plain))).tensors
    assert {name for name in want if not name.startswith("heads.")} == set(found)


TEXT_BIASED = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1, "proj_bias": True}


def test_buffers_of_a_resnet_come_along(tmp_path: Path) -> None:
    """In half precision throughout, as a script that casts every tensor leaves them: counters are whole numbers."""
    net = of_config(RESNET)
    state = {name: tensor for name, tensor in net.weights().items() if not name.startswith("heads.")}
    state["visual.bn1.running_mean"] = torch.full((8,), 0.5)
    state["visual.bn1.num_batches_tracked"] = torch.tensor(7)
    config = {"model_cfg": net.identity.model_cfg, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    again = opened(tmp_path / "w.pt", pickled({name: tensor.half() for name, tensor in state.items()}), "").weights()
    assert torch.equal(again["visual.bn1.running_mean"], state["visual.bn1.running_mean"])
    assert again["visual.bn1.num_batches_tracked"].dtype == torch.int64
    assert int(again["visual.bn1.num_batches_tracked"]) == 7


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


def numbered(data: bytes) -> bytes:
    """A header that claims more bytes than there are."""
    return (10**6).to_bytes(8, "little") + data[8:]


def endless() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["inner"] = content
    return content


INDEX = {"metadata": {"total_size": 1}, "weight_map": {"visual.proj": "model-00001-of-00002.safetensors"}}
CODE = r"can't be loaded without running code( \(it names \S+\))?; save its state_dict\(\) alone"
SEVERAL = r"holds several models: \w+, \w+; save one of them by itself"
OTHER = r"holds another architecture than tiny-64: "

NOT_FINITE = r"\S+ does not hold finite floating-point numbers"
HUGGING = "has the names of Hugging Face's transformers .*open_clip's form"

REFUSED: dict[str, tuple[Callable[[State], bytes], str]] = {
    "empty": (lambda s: b"", "damaged, or no file of weights"),
    "a byte": (lambda s: b"\0", "damaged, or no file of weights"),
    "JSON": (lambda s: b'{"model_cfg": {}}', "damaged, or no file of weights"),
    "JSON, a brace at its ninth byte": (lambda s: b'{"abc": {"b": 1}}', "damaged, or no safetensors file"),
    "a page": (lambda s: b"<!DOCTYPE html>", "damaged, or no file of weights"),
    "a pointer": (lambda s: b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
    "cut safetensors": (lambda s: saved(s)[:-4], "damaged, or no safetensors file.*copy it again"),
    "cut header": (lambda s: saved(s)[:500], "damaged, or no safetensors file.*copy it again"),
    "wrong header": (lambda s: numbered(saved(s)), "damaged, or no safetensors file.*copy it again"),
    "cut zip": (lambda s: pickled(s)[:-9000], "damaged: .*copy it again"),
    "cut old pickle": (lambda s: pickled(s, _use_new_zipfile_serialization=False)[:900], "damaged, .*copy it again"),
    "code": (lambda s: pickled({"state_dict": Harmful()}), CODE),
    "a whole module": (lambda s: pickled(torch.nn.Linear(2, 2)), CODE),
    "numpy": (lambda s: pickled({"state_dict": s, "best": np.float64(1)}), CODE),
    "a plain pickle": (lambda s: pickle.dumps({"a": 1}), CODE),
    "no tensors": (lambda s: pickled({"epoch": 1, "names": ["a"]}), "holds no tensors"),
    "a list": (lambda s: pickled([torch.ones(2)]), "holds no tensors"),
    "one tensor": (lambda s: pickled(torch.ones(2)), "holds no tensors"),
    "the average too": (lambda s: pickled({"model": s, "model_ema": s, "optimizer": {"a": torch.ones(1)}}), SEVERAL),
    "timm's average": (lambda s: pickled({"state_dict": s, "state_dict_ema": s}), SEVERAL),
    "teacher and student": (lambda s: pickled({"student": s, "teacher": s}), SEVERAL),
    "both names": (lambda s: pickled({"state_dict": s, "model": s}), SEVERAL),
    "two in one": (lambda s: pickled(prefixed(s, "model.") | prefixed(s, "ema.")), OTHER + "ema"),
    "transformers": (lambda s: saved({"vision_model.a": torch.ones(1), "text_model.b": torch.ones(1)}), HUGGING),
    "transformers within": (
        lambda s: pickled(
            {"clip.vision_model.a": torch.ones(1), "clip.text_model.b": torch.ones(1), "s": torch.ones(1)}
        ),
        HUGGING,
    ),
    "all prefixed but one": (
        lambda s: pickled({n if n == "logit_scale" else f"module.{n}": t for n, t in s.items()}),
        OTHER + "module",
    ),
    "a mistyped name": (
        lambda s: pickled({n.replace("ln_final", "ln_fnal"): t for n, t in s.items()}),
        OTHER + r"ln_fnal\.bias is \(64,\) in the file, absent in the model \(4 tensors differ\)",
    ),
    "a tower": (lambda s: pickled({n: t for n, t in s.items() if n.startswith("visual.")}), OTHER),
    "a bias more": (lambda s: pickled(s | {"logit_bias": torch.ones(1)}), OTHER + "logit_bias is"),
    "two scales": (lambda s: pickled(s | {"logit_scale": torch.ones(2)}), OTHER + r"logit_scale is \(2,\)"),
    "keys that are numbers": (lambda s: pickled({0: torch.ones(2)}), OTHER + "0 is"),
    "whole numbers": (lambda s: saved({n: (100 * t).to(torch.int8) for n, t in s.items()}), NOT_FINITE),
    "a name in both layouts": (
        lambda s: pickled(s | {"text.ln_final.bias": torch.ones(64)}),
        r"has both ln_final\.bias and text\.ln_final\.bias",
    ),
    "sparse": (lambda s: pickled(s | {"ln_final.bias": s["ln_final.bias"].to_sparse()}), r"ln_final\.bias is sparse"),
    "without content": (lambda s: pickled(s | {"ln_final.bias": s["ln_final.bias"].to("meta")}), r"\S+ has no content"),
    "a mapping in itself": (lambda s: pickled(endless()), "is nested without an end"),
    "a deep header": (
        lambda s: (200_006).to_bytes(8, "little") + b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "is nested without an end",
    ),
    "an index": (lambda s: json.dumps(INDEX).encode(), "is the index of a model in several files; join them"),
    "an indented index": (lambda s: json.dumps(INDEX, indent=2).encode(), "is the index of a model in several files"),
    "a shard": (lambda s: saved(dict(list(s.items())[:20])), OTHER + ".*or one of several shards, a file of the whole"),
    "transformers' image tower": (
        lambda s: saved({"vision_model.a": torch.ones(1), "vision_model.b": torch.ones(1)}),
        HUGGING,
    ),
    "transformers' text tower": (lambda s: pickled({"module.text_model.a": torch.ones(1)}), HUGGING),
    "no numbers": (lambda s: saved(s | {"ln_final.bias": torch.full((64,), torch.nan)}), NOT_FINITE),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cant_be_used_is_refused_in_a_sentence(state: State, tmp_path: Path, case: str) -> None:
    content, sentence = REFUSED[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, that the plain pickle is odd
        with pytest.raises(UsageError, match=rf"w\.bin: {sentence}") as caught:
            opened(tmp_path / "w.bin", content(state))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"w\.safetensors: no such file"):
        read_weights(str(tmp_path / "w.safetensors"))
    with pytest.raises(UsageError, match=r"can't be read: .*directory"):
        read_weights(str(tmp_path))


def test_torchscript_is_read(source: Any, state: State, tmp_path: Path) -> None:
    """The form of OpenAI's own files, whose digests open_clip's table has."""
    path = tmp_path / "w.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        torch.jit.save(torch.jit.trace_module(source, {"encode_text": torch.zeros(1, 32, dtype=torch.int64)}), path)
    weights = load("tiny-64", str(path), CLASSES, 4, seed=0).weights()
    assert all(torch.equal(weights[name], tensor) for name, tensor in separate(state).items())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"w\.pt: damaged: "):
        read_weights(str(path))


@pytest.fixture(scope="module")
def net() -> ClipWithHeads:
    return trained()


def test_safetensors_round_trip_with_heads(net: ClipWithHeads, tmp_path: Path) -> None:
    again = opened(tmp_path / "w.safetensors", pack_weights(net), "").weights()
    want = net.weights()
    assert set(want) == set(again)
    assert all(torch.equal(tensor, again[name]) for name, tensor in want.items())


def test_the_same_weights_give_the_same_file(net: ClipWithHeads) -> None:
    assert len({pack_weights(net) for _ in range(20)}) == 1


def test_a_file_for_others_without_the_heads_is_refused(net: ClipWithHeads, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in net.weights().items() if not name.startswith("heads.")}
    with pytest.raises(UsageError, match="exported for open_clip, without the class heads"):
        opened(tmp_path / "w.safetensors", pack_weights(net, tensors, headless=True))


def test_what_is_written_loads_in_open_clip(net: ClipWithHeads, tmp_path: Path) -> None:
    """Its trunk, by open_clip's own strict loader."""
    tensors = {name: tensor for name, tensor in net.weights().items() if not name.startswith("heads.")}
    path = write(tmp_path / "w.safetensors", pack_weights(net, tensors, headless=True))
    theirs = open_clip.create_model("tiny-64", pretrained=path, force_custom_text=True).eval()
    want = theirs.encode_text(net.tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(net.clip.encode_text(net.tokenizer(TEXTS), normalize=True), want)


def test_a_digest_changes_with_one_bit_and_not_with_the_file(net: ClipWithHeads) -> None:
    tensors = net.weights()
    digest = tensors_digest(tensors)
    assert tensors_digest(dict(reversed(tensors.items()))) == digest
    for name in ("heads.weather:foggy.A", "heads.weather:foggy.B", "heads.shared.B", "visual.proj"):
        bits = tensors[name].clone()
        bits.view(torch.int32).view(-1)[5] ^= 1
        assert tensors_digest(tensors | {name: bits}) != digest
    renamed = {name.replace("foggy", "rainy"): tensor for name, tensor in tensors.items()}
    assert tensors_digest(renamed) != digest


def test_an_untrained_head_is_no_part_of_the_digest(net: ClipWithHeads) -> None:
    tensors = net.weights()
    more = {"heads.scene:tunnel.A": torch.randn(64, 9), "heads.scene:tunnel.B": torch.zeros(9, 128)}
    assert tensors_digest(tensors | more) == tensors_digest(tensors)
