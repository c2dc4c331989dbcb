"""Heads go by their class's name, whatever list of classes a model is opened with."""

import io
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raymds.errors import UsageError
from raymds.model import ClipWithHeads, pack_weights
from raymds.model.files import tensors_digest
from raymds.model.heads import TaskHeads, head_names, trained_rank
from tests.unit.model.small import CLASSES, TEXTS, open_clips, opened, pickled, saved, trained

LISTS = {
    "the same": CLASSES,
    "another order": CLASSES[::-1],
    "a subset": CLASSES[1:],
    "a superset": ["scene:tunnel", *CLASSES, "weather:rainy"],
    "another attribute": ["scene:tunnel", "scene:city"],
    "none": [],
}


@pytest.fixture(scope="module")
def net() -> ClipWithHeads:
    return trained()


def heads_of(tensors: dict[str, Tensor], *classes: str) -> dict[str, Tensor]:
    return {f"heads.{c}.{part}": tensors[f"heads.{c}.{part}"] for c in classes for part in "AB"}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def embedded(net: ClipWithHeads, name: str) -> Tensor:
    """A sentence behind a class's head."""
    head = torch.tensor([net.heads.names.index(name)])
    return net.encode_text(net.tokenize(TEXTS[:1]), torch.tensor([0]), head)


@pytest.mark.parametrize("classes", LISTS.values(), ids=LISTS)
def test_any_list_of_classes_keeps_every_head(net: ClipWithHeads, tmp_path: Path, classes: list[str]) -> None:
    again = opened(tmp_path / "w.safetensors", pack_weights(net), "", classes)
    want, got = net.weights(), again.weights()
    assert equal(heads_of(want, *CLASSES, "shared"), heads_of(got, *CLASSES, "shared"))
    assert tensors_digest(got) == tensors_digest(want)
    for name in {*CLASSES, "shared"} & {*again.heads.names}:
        assert torch.equal(embedded(again, name), embedded(net, name))


@pytest.mark.parametrize("classes", LISTS.values(), ids=LISTS)
def test_heads_that_are_not_asked_for_are_carried(net: ClipWithHeads, tmp_path: Path, classes: list[str]) -> None:
    """Through a model of other classes, and back."""
    between = opened(tmp_path / "one.safetensors", pack_weights(net), "", classes)
    again = opened(tmp_path / "two.safetensors", pack_weights(between), "", CLASSES)
    assert equal(heads_of(net.weights(), *CLASSES), heads_of(again.weights(), *CLASSES))
    assert torch.equal(embedded(again, CLASSES[1]), embedded(net, CLASSES[1]))


def test_the_next_cycles_target_starts_as_the_trunk(net: ClipWithHeads, tmp_path: Path) -> None:
    again = opened(tmp_path / "w.safetensors", pack_weights(net), "", ["weather:rainy", *CLASSES])
    want = net.clip.encode_text(net.tokenizer(TEXTS[:1]), normalize=True)
    torch.testing.assert_close(embedded(again, "weather:rainy"), want)
    assert not torch.allclose(embedded(again, "weather:foggy"), want, atol=1e-2)
    assert again.heads.A.shape[2] == 4


@pytest.mark.parametrize("form", ["safetensors", "pickle", "prefixed"])
def test_heads_survive_another_program(net: ClipWithHeads, tmp_path: Path, form: str) -> None:
    """Which keeps the tensors and their names, and drops what else was in the file."""
    tensors = dict(reversed(net.weights().items()))
    data = {
        "safetensors": saved(tensors),
        "pickle": pickled(tensors),
        "prefixed": pickled({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}),
    }[form]
    again = opened(tmp_path / "w.bin", data)
    assert tensors_digest(again.weights()) == tensors_digest(net.weights())
    assert torch.equal(embedded(again, CLASSES[0]), embedded(net, CLASSES[0]))


ODD = ["a:x.y", "a:x/y", "a:12:30", "a:ä 🌫", "a:shared", "a:x.A", "a:x.B", "a:x", "shared:x", "heads:x"]


def test_any_name_will_do(tmp_path: Path) -> None:
    net = trained(ODD)
    assert head_names(net.weights()) == ODD
    again = opened(tmp_path / "w.safetensors", pack_weights(net), "", ODD[::-1])
    for name in [*ODD, "shared"]:
        assert torch.equal(embedded(again, name), embedded(net, name))


def test_a_second_load_leaves_nothing_of_the_first(net: ClipWithHeads) -> None:
    again = deepcopy(net)
    plain = {name: tensor for name, tensor in net.weights().items() if not name.startswith("heads.")}
    again.load_weights(net.weights() | {f"heads.b:x.{p}": net.weights()[f"heads.shared.{p}"] for p in "AB"}, "one")
    again.load_weights(plain, "two")
    assert not again.heads.B.any()
    assert head_names(again.weights()) == CLASSES


# The heads of the authors' base models: stacked, in the order of a list that the file does not have.


@pytest.fixture(scope="module")
def authors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    A, B = torch.randn(3, 64, 4, generator=generator), torch.randn(3, 4, 128, generator=generator)
    state = open_clips().state_dict() | {"projection_fn_A": A, "projection_fn_B": B}
    return {f"model.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("listed", [CLASSES, [*CLASSES, "shared"]], ids=["without shared", "with shared"])
def test_stacked_heads_are_placed_by_a_list(authors: dict[str, Tensor], tmp_path: Path, listed: list[str]) -> None:
    """Each is open_clip's own text tower with W + A·B for its projection."""
    net = opened(tmp_path / "w.pt", pickled(authors), classes=["scene:x", *CLASSES[::-1]], heads=listed)
    for i, name in enumerate([*CLASSES, "shared"]):
        theirs = open_clips()
        with torch.no_grad():
            theirs.text_projection += authors["model.projection_fn_A"][i] @ authors["model.projection_fn_B"][i]
        want = theirs.encode_text(net.tokenizer(TEXTS[:1]), normalize=True)
        torch.testing.assert_close(embedded(net, name), want, rtol=1e-4, atol=1e-5)


def test_stacked_heads_are_dropped_where_asked(authors: dict[str, Tensor], tmp_path: Path) -> None:
    net = opened(tmp_path / "w.pt", pickled(authors), heads="drop")
    want = open_clips().encode_text(net.tokenizer(TEXTS[:1]), normalize=True)
    torch.testing.assert_close(embedded(net, "weather:foggy"), want)


def test_stacked_heads_without_names_are_refused(authors: dict[str, Tensor], tmp_path: Path) -> None:
    data = pickled(authors)
    with pytest.raises(
        UsageError, match=r"3 trained class heads.*model\.heads=\[attribute:class, …\].*model\.heads=drop"
    ):
        opened(tmp_path / "w.pt", data)
    for listed in (["a:b"], ["a:b", "a:b", "a:c"], ["a:b", "a:c", "a:d", "a:e"]):
        with pytest.raises(UsageError, match=r"model\.heads: names \d classes, .*has 3 heads; name each once"):
            opened(tmp_path / "w.pt", data, heads=listed)
    short = authors | {"model.projection_fn_A": torch.randn(2, 64, 4)}
    with pytest.raises(UsageError, match=r"projection_fn_A \(2, 64, 4\) and .* are no class heads"):
        opened(tmp_path / "w.pt", pickled(short), heads=CLASSES)


def test_untrained_stacked_heads_need_no_names(authors: dict[str, Tensor], tmp_path: Path) -> None:
    state = authors | {"model.projection_fn_B": torch.zeros(3, 4, 128)}
    assert not opened(tmp_path / "w.pt", pickled(state)).heads.B.any()


def test_a_file_of_the_first_versions_has_its_list(authors: dict[str, Tensor], tmp_path: Path) -> None:
    state = {n.removeprefix("model.").replace("projection_fn_", "heads."): t for n, t in authors.items()}
    about = {"architecture": "tiny-64", "classes": CLASSES}
    net = opened(tmp_path / "w.safetensors", saved(state, about), "", CLASSES[::-1])
    assert torch.equal(net.heads.B[0], state["heads.B"][1])
    assert torch.equal(net.heads.B[2], state["heads.B"][2])
    with pytest.raises(UsageError, match="3 trained class heads"):
        opened(tmp_path / "w.safetensors", saved(state, {"architecture": "tiny-64"}), "")


# Heads that don't fit.

WRONG = {
    "half a head": ({"heads.a:b.A": (64, 4)}, r"heads\.a:b\.A is half a head"),
    "the other half": ({"heads.a:b.B": (4, 128)}, r"heads\.a:b\.B is half a head"),
    "stacked, half": ({"heads.A": (3, 64, 4)}, r"heads\.A is half a head"),
    "another width": ({"heads.a:b.A": (65, 4), "heads.a:b.B": (4, 128)}, r"head of a:b is \(65, 4\) × \(4, 128\)"),
    "another embedding": ({"heads.a:b.A": (64, 4), "heads.a:b.B": (4, 64)}, r"head of a:b is \(64, 4\) × \(4, 64\)"),
    "turned": ({"heads.a:b.A": (4, 64), "heads.a:b.B": (128, 4)}, r"head of a:b is \(4, 64\) × \(128, 4\)"),
    "two ranks": ({"heads.a:b.A": (64, 5), "heads.a:b.B": (4, 128)}, r"head of a:b is \(64, 5\) × \(4, 128\)"),
    "vectors": ({"heads.a:b.A": (64,), "heads.a:b.B": (128,)}, r"head of a:b is \(64,\) × \(128,\)"),
    "a number": ({"heads.a:b.A": (64, 4), "heads.a:b.B": ()}, r"head of a:b is \(64, 4\) × \(\)"),
}


@pytest.mark.parametrize("classes", [["a:b"], CLASSES], ids=["asked for", "carried"])
@pytest.mark.parametrize(("shapes", "sentence"), WRONG.values(), ids=WRONG)
def test_a_trained_head_that_does_not_fit_is_an_error(
    net: ClipWithHeads, tmp_path: Path, shapes: dict[str, tuple[int, ...]], sentence: str, classes: list[str]
) -> None:
    state = net.weights() | {name: torch.ones(shape) for name, shape in shapes.items()}
    with pytest.raises(UsageError, match=rf"w\.safetensors: .*{sentence}"):
        opened(tmp_path / "w.safetensors", saved(state), classes=classes)


BROKEN = {
    "B": {"B": torch.full((4, 128), torch.nan)},
    "one number of B": {"B": torch.ones(4, 128).index_fill(0, torch.tensor([2]), torch.inf)},
    "A of a head that is trained": {"A": torch.full((64, 4), torch.nan)},
    "A of a head that is not": {"A": torch.full((64, 4), torch.nan), "B": torch.zeros(4, 128)},
    "whole numbers": {"B": torch.ones(4, 128, dtype=torch.int32)},
}


@pytest.mark.parametrize("name", ["weather:foggy", "scene:carried", "shared"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_head_without_finite_numbers_is_an_error(
    net: ClipWithHeads, tmp_path: Path, broken: dict[str, Tensor], name: str
) -> None:
    """Also of a class that is not asked for, and where B = 0 would make NaN of it."""
    head = {"A": torch.ones(64, 4), "B": torch.ones(4, 128)} | broken
    state = net.weights() | {f"heads.{name}.{part}": tensor for part, tensor in head.items()}
    with pytest.raises(UsageError, match=rf"heads\.{name}\.[AB] does not hold finite floating-point numbers"):
        opened(tmp_path / "w.safetensors", saved(state))


def test_a_rank_that_contradicts_the_file_is_an_error(net: ClipWithHeads, tmp_path: Path) -> None:
    data = pack_weights(net)
    with pytest.raises(
        UsageError, match=r"head of weather:clear has rank 4, the model's have 8; give model\.head_rank=4"
    ):
        opened(tmp_path / "w.safetensors", data, head_rank=8)
    with pytest.raises(UsageError, match=r"head of shared has rank 4.* or leave it out"):
        opened(tmp_path / "w.safetensors", data, classes=["a:b"], head_rank=8)


def test_untrained_heads_take_the_rank_that_is_asked_for(tmp_path: Path) -> None:
    data = pack_weights(ClipWithHeads("tiny-64", CLASSES, 4, seed=0))
    assert opened(tmp_path / "w.safetensors", data, head_rank=8).heads.A.shape == (3, 64, 8)
    assert opened(tmp_path / "w.safetensors", data).heads.A.shape == (3, 64, 32)


def test_heads_of_two_ranks_are_carried_but_not_stacked(tmp_path: Path) -> None:
    state = {n: t for n, t in trained().weights().items() if not n.startswith("heads.shared")}
    wide = trained(["a:b"], rank=8).weights()
    data = saved(state | heads_of(wide, "a:b"))
    one, two = (opened(tmp_path / "w.bin", data, classes=c) for c in (CLASSES, ["a:b"]))
    assert (one.heads.A.shape[2], two.heads.A.shape[2]) == (4, 8)
    assert tensors_digest(one.weights()) == tensors_digest(two.weights())
    with pytest.raises(UsageError, match="differ in theirs, and can't be asked for together"):
        opened(tmp_path / "w.bin", data, classes=["a:b", *CLASSES])


def test_new_heads_have_the_rank_of_those_that_are_only_carried(tmp_path: Path) -> None:
    """So that the cycle after this one can ask for all of them."""
    state = {n: t for n, t in trained().weights().items() if not n.startswith("heads.shared")}
    assert trained_rank(state, ["a:b"]) == 4
    assert opened(tmp_path / "w.bin", saved(state), classes=["a:b"]).heads.A.shape[2] == 4


# TaskHeads by itself.


def test_a_head_starts_as_a_function_of_seed_and_class() -> None:
    one, two = TaskHeads(["a:b", "a:c"], 64, 32, 16, 5), TaskHeads(["a:c", "a:d", "a:b"], 64, 32, 16, 5)
    assert torch.equal(one.A[0], two.A[2])
    assert torch.equal(one.A[2], two.A[3])
    assert not torch.equal(one.A[0], one.A[1])
    assert not torch.equal(one.A, TaskHeads(["a:b", "a:c"], 64, 32, 16, 6).A)
    assert not one.B.any()


def test_directions_have_the_methods_variance() -> None:
    A = TaskHeads([], 256, 8, 128, 0).A.detach()
    assert float(A.var()) * 256 == pytest.approx(1, abs=0.03)
    assert float(A.mean()) == pytest.approx(0, abs=1e-3)


def test_a_text_goes_through_its_own_head() -> None:
    heads = TaskHeads(["a:b", "a:c"], 5, 3, 2, 0).double()
    with torch.no_grad():
        heads.B.normal_(generator=torch.Generator().manual_seed(0))
    trunk = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got = heads(trunk, torch.tensor([1, -1, 0, 2]))
    want = torch.stack([trunk[t] @ heads.A[c] @ heads.B[c] for t, c in enumerate([1, 2, 0, 2])])
    torch.testing.assert_close(got, want)


def test_heads_round_trip_through_torch(net: ClipWithHeads) -> None:
    """As a checkpoint's state has them."""
    buffer = io.BytesIO(pickled(net.weights()))
    again = trained()
    with torch.no_grad():
        again.heads.B.zero_()
    again.load_weights(torch.load(buffer, weights_only=True), "checkpoint")
    assert equal(again.weights(), net.weights())
