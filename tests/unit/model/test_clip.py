"""The model against open_clip itself, whatever its towers are, and a row's independence of its batch."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from raymds.errors import UsageError
from raymds.model import ClipWithHeads
from raymds.model.precision import trained_in
from tests.unit.model.small import CLASSES, RESNET, TEXT, TEXTS, VISION, of_config, opened, saved, trained

CONVNEXT = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
TOWERS = {  # of images, each with what makes a row random or dependent on its batch in training mode
    "batch norm": RESNET,
    "batch norm of timm": CONVNEXT | {"timm_model_name": "test_efficientnet", "timm_pool": "avg"},
    "stochastic depth": CONVNEXT | {"timm_drop_path": 0.5, "timm_drop": 0.5},
    "dropped patches": VISION | {"patch_dropout": 0.5},
}
TEXT_TOWERS = {
    "causal": {},
    "linear with bias": {"proj_bias": True},
    "no projection": {"proj_type": "none", "width": 24},
    "SigLIP": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    "CLIPA": {"no_causal_mask": True, "pool_type": "last"},
    "last, causal": {"pool_type": "last"},
    "first": {"no_causal_mask": True, "pool_type": "first"},
    "not causal": {"no_causal_mask": True},
    "eos": {"pool_type": "eos", "eos_id": 49407},
    "eos, a small id": {"pool_type": "eos", "eos_id": 269},  # "." at the end of a word
    "eos, not causal": {"pool_type": "eos", "eos_id": 49407, "no_causal_mask": True},
}


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


@pytest.mark.parametrize("more", TEXT_TOWERS.values(), ids=TEXT_TOWERS)
def test_every_text_tower_gives_open_clips_embeddings(more: dict[str, Any]) -> None:
    net = of_config(VISION, TEXT | more)
    net.check_text_tower()
    tokens, rows = net.tokenize(TEXTS), torch.arange(3)
    want = net.clip.encode_text(net.tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(net.encode_text(tokens, rows, torch.tensor([0, 1, -1])), want)
    for i, text in enumerate(TEXTS):
        alone = net.encode_text(net.tokenize([text]), torch.tensor([0]), torch.tensor([0]))
        torch.testing.assert_close(alone, want[i : i + 1])


@pytest.mark.parametrize("more", TEXT_TOWERS.values(), ids=TEXT_TOWERS)
def test_the_context_is_whole_where_a_cut_would_change_something(more: dict[str, Any]) -> None:
    causal = not more.get("no_causal_mask") and more.get("pool_type", "argmax") in {"argmax", "eos"}
    assert (of_config(VISION, TEXT | more).tokenize(["a"]).shape[1] < 16) == causal


@pytest.mark.parametrize("more", [{}, {"proj_bias": True}, {"proj_type": "none", "width": 24}], ids=str)
def test_a_head_sits_behind_any_projection(more: dict[str, Any]) -> None:
    """As a matrix that is added to the tower's own, in open_clip's text tower."""
    net = of_config(VISION, TEXT | more)
    with torch.no_grad():
        net.heads.B.normal_(generator=torch.Generator().manual_seed(0))
        got = net.encode_text(net.tokenize(TEXTS), torch.arange(3), torch.tensor([1, 1, 1]))
        text, product = net.clip.text, net.heads.A[1] @ net.heads.B[1]
        if text.text_projection is None:
            text.text_projection = torch.nn.Parameter(torch.eye(24) + product)
        elif isinstance(text.text_projection, torch.nn.Linear):
            text.text_projection.weight += product.T
        else:
            text.text_projection += product
        want = net.clip.encode_text(net.tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_text_tower_that_raymds_does_not_know_is_refused() -> None:
    """One that masks its padding gives other embeddings than those computed here: found where weights are loaded."""
    net = of_config(VISION, TEXT | {"no_causal_mask": True, "pool_type": "last"})
    net.clip.text.use_pad_mask = True
    with pytest.raises(UsageError, match="its text tower is of a kind that raymds does not know"):
        net.check_text_tower()
    with pytest.raises(UsageError, match="its text tower is of a kind that raymds does not know"):
        of_config(VISION, TEXT | {"embed_cls": True})


def test_a_text_tower_of_which_nan_comes_out_is_refused(net: ClipWithHeads, tmp_path: Path) -> None:
    state = {name: 1e30 * tensor if name.startswith("text.") else tensor for name, tensor in net.weights().items()}
    with pytest.raises(UsageError, match=r"model\.weights: no finite numbers come out of tiny-64"):
        opened(tmp_path / "w.safetensors", saved(state))


def test_a_cut_that_changes_something_is_given_up() -> None:
    """Whatever a tower is built like: what counts is whether open_clip's own embeddings come out."""
    net = of_config(VISION, TEXT | {"no_causal_mask": True})
    net._cut = True
    net.check_text_tower()
    assert net.tokenize(["a"]).shape == (1, 16)


def pictures(net: ClipWithHeads, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, net.image_size, net.image_size), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", params=["tiny-64", *TOWERS])
def tower(request: pytest.FixtureRequest) -> ClipWithHeads:
    """Heads trained, and statistics as after some training, in the mode of training as far as it can be had."""
    net = trained() if request.param == "tiny-64" else of_config(TOWERS[request.param])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        net.heads.B.normal_(generator=generator)
        for name, buffer in net.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
    net.train()
    return net.train(True)


def test_it_is_in_evaluation_mode_always(tower: ClipWithHeads) -> None:
    assert not any(part.training for part in tower.modules())
    pixels = pictures(tower, 3)
    want = tower.clip.eval().encode_image((pixels / 255 - tower.mean) / tower.std, normalize=True)
    torch.testing.assert_close(tower.encode_image(pixels), want, rtol=1e-4, atol=1e-5)


def test_an_images_cosines_are_its_own_to_the_last_bit(tower: ClipWithHeads) -> None:
    """Alone, in sixteens, behind others, before others."""
    pixels = pictures(tower, 20)
    classifiers = tower.classifiers(
        {"weather": {"clear": ["the weather is clear."], "foggy": ["the weather is foggy."]}}
    )

    def cosines(images: Tensor) -> Tensor:
        return tower.cosines(classifiers, images)["weather"]

    whole = cosines(pixels)
    assert float(whole.std()) > 0.01
    for i in (0, 6, 15, 16, 19):
        assert torch.equal(whole[i : i + 1], cosines(pixels[i : i + 1]))
    assert torch.equal(whole, torch.cat([cosines(part) for part in pixels.split(16)]))
    assert torch.equal(whole, cosines(pixels.flip(0)).flip(0))
    assert torch.equal(whole, cosines(pixels.roll(5, 0)).roll(-5, 0))
    features = tower.encode_image(pixels)
    torch.testing.assert_close(whole, features @ classifiers["weather"].T, rtol=1e-4, atol=1e-5)


def test_measuring_and_a_step_leave_every_statistic(tower: ClipWithHeads) -> None:
    before = tower.weights()
    tower.train()
    image, text = tower(pictures(tower, 4), tower.tokenize(["a", "b"]), torch.tensor([0, 1]), torch.tensor([0, -1]))
    (image[:2] * text).sum().backward()
    tower.cosines(tower.classifiers({"weather": {"foggy": ["fog"]}}), pictures(tower, 4))
    after = tower.weights()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    silent = {name for name, p in tower.named_parameters() if p.requires_grad and p.grad is None}
    assert not silent


def test_a_classifier_depends_on_no_other_attribute() -> None:
    net = trained(["weather:clear", "weather:foggy", "scene:city"])
    weather = {"clear": ["the weather is clear."], "foggy": ["the weather is foggy."]}
    alone = net.classifiers({"weather": weather})["weather"]
    both = net.classifiers({"scene": {"city": ["a far longer sentence of a city in the rain"]}, "weather": weather})
    assert torch.equal(alone, both["weather"])
    tokens = net.tokenize([sentence for (sentence,) in weather.values()])
    torch.testing.assert_close(alone, net.encode_text(tokens, torch.tensor([0, 1]), torch.tensor([0, 1])))


def test_no_images_have_no_cosines() -> None:
    net = trained()
    found = net.cosines(net.classifiers({"weather": {"clear": ["a"], "foggy": ["b"]}}), pictures(net, 0))
    assert found["weather"].shape == (0, 2)


def test_tables_are_no_matrices() -> None:
    """What is looked up or added by position."""
    assert trained().embeddings == {
        "clip.visual.class_embedding",
        "clip.visual.positional_embedding",
        "clip.text.token_embedding.weight",
        "clip.text.positional_embedding",
    }


def test_a_bias_of_the_logits_is_no_part_of_training() -> None:
    net = of_config(VISION, init_logit_bias=-10)
    assert not net.clip.logit_bias.requires_grad
    state = net.weights()
    del state["logit_bias"]
    net.load_weights(state | {"logit_scale": torch.tensor([3.0])}, "w")
    assert float(net.weights()["logit_bias"]) == -10
    assert float(net.weights()["logit_scale"]) == 3


@pytest.mark.parametrize(
    ("words", "length"),
    [
        (("wet road", "wet road"), 16),
        (("Foggy", "foggy"), 16),
        (("partly cloudy with some showers", "partly cloudy with some sun"), 8),
    ],
)
def test_classes_whose_sentences_are_the_same_to_the_model_are_named(words: tuple[str, str], length: int) -> None:
    """By themselves, to a tokenizer that knows no capitals, and where the context cuts off what differs."""
    net = of_config(VISION, TEXT | {"context_length": length})
    labels = {"snowy": ["it is snowy"], **{f"{n}": [f"it is {text}"] for n, text in enumerate(words)}}
    with pytest.raises(UsageError, match=rf"task\.prompts\.weather: .* '0' and '1' are the same .* {length} tokens"):
        net.check_prompts({"scene": {"road": ["it is snowy"]}, "weather": labels})
    net.check_prompts({"weather": {"0": ["a", "b"], "1": ["b", "a"]}, "scene": {"0": ["a", "b"]}})


def test_tokens_of_many_texts_are_the_tokenizers(net: ClipWithHeads) -> None:
    """Also where some of them are known from before."""
    texts = [*TEXTS, *(f"{text} again" for text in TEXTS), TEXTS[0]]
    for some in (TEXTS[:1], texts):
        want = net.tokenizer(some)
        tokens = net.tokenize(some)
        assert torch.equal(tokens, want[:, : tokens.shape[1]])
        assert not want[:, tokens.shape[1] :].any()


def test_what_is_measured_has_the_precision_that_is_asked_for_and_in_a_step_that_of_training() -> None:
    net = ClipWithHeads("tiny-64", CLASSES, 4, 0)
    labels = {"weather": {"clear": ["a clear sky"], "foggy": ["a picture of fog"]}}

    def cosines() -> Tensor:
        return net.cosines(net.classifiers(labels), pictures(net, 5))["weather"]

    plain = cosines()
    net.measured_in = "bf16"
    rounded = cosines()
    assert 1e-5 < float((rounded - plain).abs().max()) < 0.05
    with trained_in("fp32"):
        assert torch.equal(cosines(), plain)
    with trained_in("bf16"):
        net.measured_in = "fp32"
        assert torch.equal(cosines(), rounded)
    assert torch.equal(cosines(), plain)
