"""What a file of others is: told by what lies beside it, by its digest, or by the config; never guessed."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import factory

from raymds.errors import UsageError
from raymds.model import Preprocess, load, pack_weights, read_weights
from raymds.model import identity as module
from raymds.model.identity import Asked, Found, identify
from raymds.store import uri as storage
from tests.unit.model.small import (
    CLASSES,
    TEXTS,
    TINY,
    VISION,
    of_config,
    open_clips,
    opened,
    pickled,
    saved,
    trained,
    write,
)

SAYS_NOTHING = Found("w.pt")


@pytest.fixture
def twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two small architectures as open_clip's pairs: one config, either activation."""
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, more in {"tiny-twin": {}, "tiny-twin-quickgelu": {"quick_gelu": True}}.items():
        (folder / f"{name}.json").write_text(json.dumps(TINY | more))
    open_clip.add_model_config(folder)
    yield
    monkeypatch.undo()
    assert "tiny-twin" not in open_clip.list_models()


def foreign(folder: Path, config: Any) -> str:
    """Weights of the small architecture, and an open_clip_config.json beside them."""
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "open_clip_config.json").write_text(text)
    state = {n: t for n, t in of_config(VISION).weights().items() if not n.startswith("heads.")}
    return write(folder / "open_clip_model.safetensors", saved(state))


def test_a_config_beside_the_weights_is_read(tmp_path: Path) -> None:
    fit = {"size": [224, 224], "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    config = {"model_cfg": TINY | {"quick_gelu": True}, "preprocess_cfg": fit | {"resize_mode": "squash"}}
    net = load("", foreign(tmp_path, config), CLASSES, None, seed=0)
    assert net.preprocess == Preprocess(32, (0.5,) * 3, (0.5,) * 3, "bilinear", "squash")  # the size is the network's
    assert net.identity.activation == "quickgelu"
    theirs = open_clip.create_model(f"local-dir:{tmp_path}", force_custom_text=True).eval()
    want = theirs.encode_text(net.tokenizer(TEXTS), normalize=True)
    got = net.encode_text(net.tokenize(TEXTS), torch.arange(3), torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(got, want)


def test_the_architecture_beside_the_weights_gets_its_name() -> None:
    """Whatever the config spells out of what open_clip takes anyway."""
    config = factory.get_model_config("ViT-B-16-quickgelu")
    config["vision_cfg"] |= {"mlp_ratio": 4.0, "head_width": 64, "patch_dropout": 0.0}
    own = identify(Asked(), Found("w.pt", config={"model_cfg": config | {"custom_text": False}}))
    assert (own.architecture, own.activation) == ("ViT-B-16-quickgelu", "quickgelu")
    assert own.preprocess == Preprocess(224)
    other = Found("w.pt", config={"model_cfg": config | {"embed_dim": 7}})
    assert identify(Asked(), other).architecture == ""
    with pytest.raises(UsageError, match=r"model\.name=ViT-B-16: w\.pt says that it is ViT-B-16-quickgelu"):
        identify(Asked("ViT-B-16"), Found("w.pt", config={"model_cfg": config}))


@pytest.mark.parametrize(
    "config",
    ["{", "[]", "{}", {"model_cfg": 3}, {"model_cfg": {"embed_dim": 8}}, {"model_cfg": TINY, "preprocess_cfg": 3}],
    ids=str,
)
def test_a_damaged_config_beside_the_weights_is_named(tmp_path: Path, config: Any) -> None:
    with pytest.raises(UsageError, match=r"open_clip_config\.json"):
        load("", foreign(tmp_path, config), CLASSES, None, seed=0)


def test_a_config_of_other_weights_is_an_error(tmp_path: Path) -> None:
    wider = TINY | {"vision_cfg": VISION | {"width": 64}}
    path = foreign(tmp_path, {"model_cfg": wider})
    with pytest.raises(UsageError, match=r"holds another architecture than the architecture of its open_clip_config"):
        load("", path, CLASSES, None, seed=0)


def test_a_file_of_raymds_does_not_ask_what_lies_beside_it(tmp_path: Path) -> None:
    foreign(tmp_path, "{")
    assert opened(tmp_path / "w.safetensors", pack_weights(trained()), "").identity.architecture == "tiny-64"


def test_openais_files_are_known_by_their_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickled({"a.b": torch.ones(1), "c": torch.ones(1)})
    monkeypatch.setitem(module._OPENAI, storage.sha256(data), "ViT-B-16")
    found = read_weights(write(tmp_path / "w.pt", data)).found
    own = identify(Asked(), found)
    assert (own.architecture, own.activation) == ("ViT-B-16-quickgelu", "quickgelu")
    with pytest.raises(UsageError, match=r"model\.name=ViT-B-16: .*says that it is ViT-B-16-quickgelu"):
        identify(Asked("ViT-B-16"), found)


def test_the_table_of_digests_is_open_clips() -> None:
    """The digests stand in OpenAI's own program, for nine models."""
    assert module._OPENAI["5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"] == "ViT-B-16"
    assert module._OPENAI["afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"] == "RN50"
    assert len(module._OPENAI) == 9
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in module._OPENAI)


@pytest.mark.usefixtures("twins")
def test_openais_three_entries_decide_the_activation(tmp_path: Path) -> None:
    state = {n: t for n, t in of_config(VISION).weights().items() if not n.startswith("heads.")}
    three = {"input_resolution": 32, "context_length": 16, "vocab_size": 49408}
    data = pickled(state | three)
    for name in ("tiny-twin", "tiny-twin-quickgelu"):
        own = opened(tmp_path / "w.pt", data, name).identity
        assert (own.architecture, own.activation) == ("tiny-twin-quickgelu", "quickgelu")
    with pytest.raises(UsageError, match=r"model\.activation=gelu stands for GELU|stands for QuickGELU, model\.activ"):
        opened(tmp_path / "w.pt", data, "tiny-twin", activation="gelu")


@pytest.mark.usefixtures("twins")
def test_where_nothing_decides_the_run_stops_and_asks(tmp_path: Path) -> None:
    state = {n: t for n, t in of_config(VISION).weights().items() if not n.startswith("heads.")}
    data = pickled(state)
    with pytest.raises(UsageError, match=r"Give model\.name=tiny-twin-quickgelu .*model\.activation=gelu") as caught:
        opened(tmp_path / "w.pt", data, "tiny-twin")
    assert "model.name=tiny-twin with" in str(caught.value)
    quick = opened(tmp_path / "w.pt", data, "tiny-twin-quickgelu")
    plain = opened(tmp_path / "w.pt", data, "tiny-twin", activation="gelu")
    also_quick = opened(tmp_path / "w.pt", data, "tiny-twin", activation="quickgelu")
    assert also_quick.identity == quick.identity
    assert (plain.identity.architecture, plain.identity.activation) == ("tiny-twin", "gelu")
    for net in (quick, plain):
        theirs = open_clip.create_model(net.identity.architecture, load_weights=False, force_custom_text=True).eval()
        theirs.load_state_dict(state)
        got = net.encode_text(net.tokenize(TEXTS), torch.arange(3), torch.zeros(3, dtype=torch.int64))
        torch.testing.assert_close(got, theirs.encode_text(net.tokenizer(TEXTS), normalize=True))
    with pytest.raises(UsageError, match=r"tiny-twin-quickgelu stands for QuickGELU, model\.activation=gelu for GELU"):
        opened(tmp_path / "w.pt", data, "tiny-twin-quickgelu", activation="gelu")


@pytest.mark.usefixtures("twins")
def test_the_same_config_fits_the_file_that_comes_of_it(tmp_path: Path) -> None:
    state = {n: t for n, t in of_config(VISION).weights().items() if not n.startswith("heads.")}
    net = opened(tmp_path / "w.pt", pickled(state), "tiny-twin", activation="quickgelu")
    again = opened(tmp_path / "w.safetensors", pack_weights(net), "tiny-twin", activation="quickgelu")
    assert again.identity == net.identity


def test_a_tag_decides_the_activation_as_published() -> None:
    """Also of weights whose architecture has the plain name."""
    for tag, name in {
        "openai": "ViT-B-32-quickgelu",
        "laion400m_e32": "ViT-B-32-quickgelu",
        "laion2b_e16": "ViT-B-32",
    }.items():
        assert identify(Asked("ViT-B-32", tag), SAYS_NOTHING).architecture == name
    with pytest.raises(UsageError, match=r"ViT-B-32-quickgelu stands for QuickGELU, model\.pretrained=laion2b_e16 for"):
        identify(Asked("ViT-B-32-quickgelu", "laion2b_e16"), SAYS_NOTHING)


def test_preprocessing_on_which_published_weights_differ_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"differ in their preprocessing.*model\.pretrained=TAG.*laion2b_s32b_b82k"):
        identify(Asked("ViT-L-14", activation="gelu"), SAYS_NOTHING)
    own = identify(Asked("ViT-L-14", "laion2b_s32b_b82k"), SAYS_NOTHING)
    assert own.preprocess == Preprocess(224, (0.5,) * 3, (0.5,) * 3)
    agreed = identify(Asked("PE-Core-B-16"), SAYS_NOTHING).preprocess
    assert (agreed.mean, agreed.interpolation, agreed.resize_mode) == ((0.5,) * 3, "bilinear", "squash")


def test_a_file_that_says_nothing_needs_a_name() -> None:
    with pytest.raises(UsageError, match=r"model\.name: has no value, and w\.pt does not say what it is"):
        identify(Asked(), SAYS_NOTHING)
    with pytest.raises(UsageError, match=r"model\.name: has no value, and random weights"):
        identify(Asked(), None)


def test_names_and_tags_that_open_clip_does_not_have() -> None:
    with pytest.raises(UsageError, match=r"model\.name=ViT-B/16: no such architecture; did you mean ViT-B-16\?"):
        identify(Asked("ViT-B/16"), None)
    for name in ("hf-hub:a/b", "local-dir:x", "zzz"):
        with pytest.raises(UsageError, match=rf"model\.name={name}: no such architecture"):
            identify(Asked(name), None)
    with pytest.raises(
        UsageError, match=r"model\.pretrained=laion: open_clip has no such weights of ViT-B-16; it has op"
    ):
        identify(Asked("ViT-B-16", "laion"), None)
    with pytest.raises(
        UsageError, match=r"model\.pretrained=openai: open_clip has no such weights of tiny-64; it has no"
    ):
        identify(Asked("tiny-64", "openai"), SAYS_NOTHING)


def test_random_weights_take_any_twin_as_named() -> None:
    for name in ("ViT-B-16", "ViT-B-16-quickgelu"):
        own = identify(Asked(name), None)
        assert (own.architecture, own.activation) == (name, "quickgelu" if "quick" in name else "gelu")


def test_no_weights_are_read_for_a_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", refuse)
    monkeypatch.setattr(factory, "download_pretrained", refuse)
    assert identify(Asked("ViT-B-16", "openai"), SAYS_NOTHING).architecture == "ViT-B-16-quickgelu"
    assert asdict(Preprocess(224)) == asdict(identify(Asked("ViT-B-16", "openai"), None).preprocess)


def test_a_foreign_file_takes_its_name_from_the_config(tmp_path: Path) -> None:
    own = opened(tmp_path / "w.pt", pickled(open_clips().state_dict())).identity
    assert (own.architecture, own.parent, own.prompts) == ("tiny-64", None, {})
