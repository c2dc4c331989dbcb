"""What a model is: told by its own file, or by the config; never guessed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.pretrained import get_pretrained_cfg

from raymds.errors import UsageError
from raymds.model import ClipWithHeads, Identity, Preprocess, load, pack_weights, read_weights
from raymds.model.identity import Asked, Found, identify
from tests.unit.model.small import (
    CLASSES,
    TEXT,
    TINY,
    VISION,
    opened,
    saved,
    trained,
    write,
)

SAYS_NOTHING = Found("w.pt")


def said(identity: Identity) -> Found:
    """By a file that raymds wrote."""
    return Found("w.safetensors", json.loads(identity.to_json()))


def test_a_file_says_all_of_its_model(tmp_path: Path) -> None:
    """Also one of an architecture that has no name, normalised in a way of its own."""
    own = Identity("", TINY | {"quick_gelu": True}, Preprocess(32, (0.1,) * 3, (0.9,) * 3, "bilinear", "squash", 3))
    net = ClipWithHeads(own, CLASSES, 4, seed=0)
    told = net.describe({"weather": {"foggy": ["fog.", "it is foggy."]}}, "abc")
    path = write(tmp_path / "w.safetensors", pack_weights(net, identity=told))
    again = load("", path, CLASSES, None, seed=0)
    assert again.identity == replace(own, prompts={"weather": {"foggy": ["fog.", "it is foggy."]}}, parent="abc")
    assert again.preprocess == own.preprocess
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encode_image(pixels), net.encode_image(pixels))


def test_the_files_words(tmp_path: Path) -> None:
    """The names that other programs may read in its metadata."""
    path = write(tmp_path / "w.safetensors", pack_weights(trained()))
    about = read_weights(path).found.metadata
    assert about["architecture"] == "tiny-64"
    assert about["activation"] == "gelu"
    assert about["classes"] == CLASSES
    assert about["preprocess"]["mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    assert about["preprocess"]["size"] == 64
    assert about["prompts"] == {}
    assert about["parent"] is None


def test_words_of_a_parent_stay_beside_new_ones() -> None:
    net = trained()
    net.identity = replace(net.identity, prompts={"scene": {"city": ["c"]}, "weather": {"foggy": ["old"]}})
    told = net.describe({"weather": {"foggy": ["new"]}}, None)
    assert told.prompts == {"scene": {"city": ["c"]}, "weather": {"foggy": ["new"]}}


def test_a_name_that_contradicts_the_file_is_an_error(tmp_path: Path) -> None:
    data = pack_weights(trained())
    with pytest.raises(UsageError, match=r"model\.name=ViT-B-32: .*w\.bin says that it is tiny-64 with gelu; leave"):
        opened(tmp_path / "w.bin", data, "ViT-B-32")
    opened(tmp_path / "w.bin", data, "tiny-64")


@pytest.mark.parametrize("beside", [Asked("ViT-B-16"), Asked("ViT-B-16", activation="gelu"), Asked(activation="gelu")])
def test_quickgelus_twin_contradicts(beside: Asked) -> None:
    own = said(identify(Asked("ViT-B-16-quickgelu"), None))
    with pytest.raises(UsageError, match=r"says (that it is ViT-B-16-quickgelu with )?quickgelu"):
        identify(beside, own)


def test_a_tag_that_contradicts_the_file_is_an_error() -> None:
    own = said(identify(Asked("ViT-B-16", "openai"), None))
    for tag in ("laion2b_s34b_b88k", "datacomp_xl_s13b_b90k"):
        with pytest.raises(UsageError, match=rf"model\.pretrained={tag}: has another preprocessing or activation"):
            identify(Asked(pretrained=tag), own)
    other = said(identify(Asked("ViT-L-14", "laion2b_s32b_b82k"), None))
    with pytest.raises(UsageError, match=r"model\.pretrained=laion400m_e31: has another preprocessing"):
        identify(Asked(pretrained="laion400m_e31"), other)


def test_every_published_tag_is_taken_over_and_says_so_again() -> None:
    """Preprocessing and activation of open_clip's own table; the same config fits the file that comes of it."""
    for name, tag in open_clip.list_pretrained():
        if "roberta" in name:  # its text tower comes from a hub
            continue
        own, want = identify(Asked(name, tag), SAYS_NOTHING), get_pretrained_cfg(name, tag)
        assert {key: getattr(own.preprocess, key) for key in ("mean", "std", "interpolation", "resize_mode")} == {
            key: want[key] for key in ("mean", "std", "interpolation", "resize_mode")
        }
        assert own.preprocess.size == own.model_cfg["vision_cfg"].get("image_size", 224)
        assert (own.activation == "quickgelu") == bool(want.get("quick_gelu")), (name, tag)
        found = said(own)
        assert identify(Asked(), found) == own
        assert identify(Asked(name, tag), found) == own


DAMAGED = {
    "no list of words": {"prompts": [1]},
    "no words": {"prompts": None},
    "config": {"model_cfg": 3},
    "config without towers": {"model_cfg": {"embed_dim": 128}},
    "a tower": {"model_cfg": {"embed_dim": 128, "vision_cfg": 3, "text_cfg": {}}},
    "no width": {"model_cfg": {"vision_cfg": {}, "text_cfg": {}}},
    "size": {"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": "big"}, "text_cfg": {}}},
    "oblong": {"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": [32, 64]}, "text_cfg": {}}},
    "unknown": {"model_cfg": {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT, "audio_cfg": {}}},
    "preprocessing": {"preprocess": 3},
    "preprocessing's values": {"preprocess": {"resize_mode": "crop"}},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_metadata_is_named(tmp_path: Path, damage: dict[str, Any]) -> None:
    net = trained()
    about = json.loads(net.identity.to_json()) | damage
    with pytest.raises(UsageError, match=r"w\.bin: \S+|can't build it"):
        opened(tmp_path / "w.bin", saved(net.weights(), about), "")


@pytest.mark.parametrize("missing", ["architecture", "preprocess", "prompts", "parent"])
def test_metadata_that_is_not_whole_is_named(tmp_path: Path, missing: str) -> None:
    net = trained()
    about = {key: value for key, value in json.loads(net.identity.to_json()).items() if key != missing}
    with pytest.raises(UsageError, match=r"w\.bin: its metadata is damaged"):
        opened(tmp_path / "w.bin", saved(net.weights(), about), "")


@pytest.mark.parametrize("text", ["[1]", "null", "3", '"x"', "{"])
def test_metadata_of_another_kind_is_named(tmp_path: Path, text: str) -> None:
    data = safetensors.torch.save(trained().weights(), {"raymds": text})
    with pytest.raises(UsageError, match=r"w\.bin: its metadata is damaged"):
        opened(tmp_path / "w.bin", data)
