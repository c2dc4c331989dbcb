"""The model against open_clip itself, the heads, and what files may hold."""

from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch

from raymds.errors import UsageError
from raymds.model import ClipWithHeads, load, pack_weights, read_weights

CLASSES = ["weather:clear", "weather:foggy"]
TEXTS = ["the weather is foggy.", "a", "driving on a highway on a partly cloudy day at night in the rain"]


@pytest.fixture(scope="module")
def net() -> ClipWithHeads:
    return ClipWithHeads("tiny-64", CLASSES, 4, seed=0)


def test_untrained_heads_leave_open_clips_model(net: ClipWithHeads) -> None:
    tokens = net.tokenize(TEXTS)
    got = net.encode_text(tokens, torch.tensor([0, 1, 2, 0]), torch.tensor([0, -1, 1, 1]))
    want = net.clip.encode_text(net.tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(got, want[[0, 1, 2, 0]])
    assert torch.equal(got[0], got[3])


def test_the_context_is_cut_after_the_longest_text(net: ClipWithHeads) -> None:
    assert net.tokenize(["a"]).shape == (1, 3)
    assert net.tokenize(TEXTS).shape[1] < 32


def test_each_class_has_its_own_head_and_others_share_one(net: ClipWithHeads) -> None:
    other = ClipWithHeads("tiny-64", CLASSES, 4, seed=0)
    with torch.no_grad():
        other.heads.B[1].add_(0.1)
    tokens = net.tokenize(TEXTS[:1])
    rows, head = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, -1])
    before, after = net.encode_text(tokens, rows, head), other.encode_text(tokens, rows, head)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])
    trunk = other._trunk(tokens)
    W = other.clip.text.text_projection + other.heads.A[1] @ other.heads.B[1]
    torch.testing.assert_close(after[1:2], torch.nn.functional.normalize(trunk @ W, dim=-1))


def test_pixels_are_normalised_as_open_clip_does(net: ClipWithHeads) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    want = net.clip.encode_image((pixels / 255 - mean) / std, normalize=True)
    torch.testing.assert_close(net.encode_image(pixels), want, rtol=1e-4, atol=1e-5)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = ClipWithHeads("tiny-64", CLASSES, 4, seed=5).weights()
    state = torch.random.get_rng_state()
    two = ClipWithHeads("tiny-64", CLASSES, 4, seed=5).weights()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_safetensors_round_trip_with_heads(net: ClipWithHeads, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(pack_weights(net))
    again = load("tiny-64", str(path), CLASSES, 4, seed=9)
    assert all(torch.equal(value, again.weights()[name]) for name, value in net.weights().items())


def test_heads_of_other_classes_start_untrained(net: ClipWithHeads, tmp_path: Path) -> None:
    trained = ClipWithHeads("tiny-64", CLASSES, 4, seed=0)
    with torch.no_grad():
        trained.heads.B.add_(1.0)
    path = tmp_path / "w.safetensors"
    path.write_bytes(pack_weights(trained))
    again = load("tiny-64", str(path), [*CLASSES, "scene:tunnel"], 4, seed=0)
    assert float(again.heads.B.detach().abs().max()) == 0.0


@pytest.mark.parametrize("wrapped", [True, False])
def test_an_open_clip_pt_file_loads_without_code(tmp_path: Path, wrapped: bool) -> None:
    """The plain CLIP layout, keys without `text.`, as open_clip saves it from a training run."""
    source = open_clip.create_model("tiny-64", load_weights=False)
    state = source.state_dict()
    assert "token_embedding.weight" in state
    path = tmp_path / "w.pt"
    torch.save({"state_dict": {f"module.{n}": v for n, v in state.items()}} if wrapped else state, path)
    net = load("tiny-64", str(path), CLASSES, 4, seed=0)
    tokens = source.encode_text(net.tokenizer(TEXTS), normalize=True)
    got = net.encode_text(net.tokenize(TEXTS), torch.arange(3), torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(got, tokens)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


def test_a_pt_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"state_dict": Harmful()}, path)
    with pytest.raises(UsageError, match=r"w\.pt: can't be loaded without running code"):
        read_weights(str(path))


def test_weights_of_another_architecture_are_named(net: ClipWithHeads, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(pack_weights(net))
    with pytest.raises(UsageError, match=r"w\.safetensors: holds another architecture than model\.name=ViT-B-32"):
        load("ViT-B-32", str(path), CLASSES, 4, seed=0)


def test_damaged_or_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(UsageError, match=r"w\.safetensors: no such file"):
        read_weights(str(path))
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{junk")
    with pytest.raises(UsageError, match=r"w\.safetensors: damaged"):
        read_weights(str(path))
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(3)})[:-2])
    with pytest.raises(UsageError, match=r"w\.safetensors: damaged"):
        read_weights(str(path))


@pytest.mark.parametrize("name", ["no-such-model", "roberta-ViT-B-32"])
def test_architectures_that_cant_be_used_are_named(name: str) -> None:
    with pytest.raises(UsageError, match=rf"model\.name={name}: "):
        ClipWithHeads(name, CLASSES, 4, seed=0)


def test_standard_architectures_build() -> None:
    net = ClipWithHeads("RN50", CLASSES, 4, seed=0)
    assert net.image_size == 224


def test_the_same_weights_give_the_same_file(net: ClipWithHeads) -> None:
    assert len({pack_weights(net) for _ in range(20)}) == 1
