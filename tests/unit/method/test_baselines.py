"""The baselines' mathematics against a solver of quadratic programs, other losses, and hand-made cases."""

import numpy as np
import pytest
import quadprog
import torch
from torch import Tensor

from raymds.method import baselines, contrastive


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def projected(target: Tensor, protected: Tensor) -> tuple[Tensor, Tensor]:
    v = baselines.gem(protected @ protected.T, protected @ target)
    return target + v @ protected, v


def nearest(target: Tensor, protected: Tensor) -> Tensor:
    """min ½‖g − g_F‖² subject to ⟨g, g_k⟩ ≥ 0 by quadprog."""
    G = protected.numpy()
    return torch.from_numpy(quadprog.solve_qp(np.eye(len(target)), target.numpy(), G.T, np.zeros(len(G)))[0])


@pytest.mark.parametrize("m", range(1, 7))
@pytest.mark.parametrize("rank", [None, 1, 2])
def test_gem_projects_as_a_quadratic_program_does(m: int, rank: int | None) -> None:
    conflicts = 0
    for seed in range(20):
        protected = random(m, 8, seed=seed)
        if rank:  # fewer directions than tasks
            protected = random(m, rank, seed=seed) @ random(rank, 8, seed=seed + 100)
        target = random(8, seed=seed + 200)
        found, v = projected(target, protected)
        assert bool((v >= 0).all())
        scale = protected.norm(dim=1) * target.norm()
        assert bool((protected @ found >= -1e-9 * scale).all())
        assert float((v * (protected @ found)).abs().max()) <= 1e-9 * float(target @ target)  # so it is the nearest
        if rank is None:  # quadprog takes dependent constraints for inconsistent ones
            torch.testing.assert_close(found, nearest(target, protected), rtol=0, atol=1e-8)
        conflicts += bool((protected @ target < 0).any())
    assert conflicts > 5


@pytest.mark.parametrize("m", [1, 3, 6])
def test_gem_leaves_a_gradient_that_conflicts_with_nothing(m: int) -> None:
    target, protected = random(8, seed=1), random(m, 8, seed=2)
    protected *= torch.sign(protected @ target)[:, None]
    found, v = projected(target, protected)
    assert v.tolist() == [0.0] * m
    assert torch.equal(found, target)


def test_gem_of_gradients_that_are_all_zero_is_zero() -> None:
    assert baselines.gem(torch.zeros(3, 3), torch.zeros(3)).tolist() == [0.0] * 3


def test_gem_of_gradients_that_are_not_finite_is_not_a_number() -> None:
    """Which the step refuses in its own words; a solver would give a zero, or its own."""
    nan, inf = torch.tensor([torch.nan, 1.0]), torch.full((2, 2), torch.inf)
    for gram, inner in ((torch.eye(2), nan), (inf, torch.ones(2)), (torch.full((2, 2), torch.nan), torch.zeros(2))):
        assert baselines.gem(gram, inner).isnan().all()


def test_gem_of_one_task_by_hand() -> None:
    """g_F = (1, −1), g_1 = (0, 2): what is left is (1, 0)."""
    found, v = projected(torch.tensor([1.0, -1.0]).double(), torch.tensor([[0.0, 2.0]]).double())
    assert (v.tolist(), found.tolist()) == (pytest.approx([0.5]), pytest.approx([1.0, 0.0]))


def test_gem_holds_tasks_whose_gradients_are_of_unlike_lengths() -> None:
    protected = random(3, 8, seed=5) * torch.tensor([[1.0], [1e-3], [1e-5]], dtype=torch.float64)
    target = -protected.sum(0) - protected[2] * 1e5 - protected[1] * 1e3
    found, _ = projected(target, protected)
    assert bool((protected @ found >= -1e-6 * protected.norm(dim=1) * target.norm()).all())


def test_masked_info_nce_is_info_nce_where_all_captions_differ() -> None:
    image, text = (torch.nn.functional.normalize(random(7, 5, seed=seed), dim=1) for seed in (0, 1))
    found = baselines.masked_info_nce(image, text, torch.tensor([5, 3, 9, 1, 0, 7, 2]), 0.1)
    torch.testing.assert_close(found, contrastive.info_nce(image, text, 0.1), rtol=1e-12, atol=0)


def test_masked_info_nce_does_not_see_negatives_of_the_same_caption() -> None:
    """With the unit matrix for text the images are the cosines of all pairs."""
    cosines, caption = random(5, 5), torch.tensor([4, 8, 4, 6, 4])
    loss = baselines.masked_info_nce(cosines, torch.eye(5).double(), caption, 0.5)
    for i in range(5):
        for j in range(5):
            other = cosines.clone()
            other[i, j] += 3.0
            changed = baselines.masked_info_nce(other, torch.eye(5).double(), caption, 0.5)
            unseen = i != j and caption[i] == caption[j]
            assert bool(changed == loss) == unseen, (i, j)


def test_masked_info_nce_equals_a_loop() -> None:
    cosines, caption, t = random(5, 5, seed=3), [4, 8, 4, 6, 4], 0.5
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if j == i or caption[j] != caption[i]]
        rows = sum(float(torch.exp((cosines[i, j] - cosines[i, i]) / t)) for j in others)
        columns = sum(float(torch.exp((cosines[j, i] - cosines[i, i]) / t)) for j in others)
        total += (np.log(rows) + np.log(columns)) / 10
    found = baselines.masked_info_nce(cosines, torch.eye(5).double(), torch.tensor(caption), t)
    assert float(found) == pytest.approx(total, rel=1e-12)


def test_masked_info_nce_of_one_caption_alone_is_zero() -> None:
    assert float(baselines.masked_info_nce(random(4, 3), random(4, 3, seed=1), torch.zeros(4), 0.1)) == 0.0


def test_distillation_of_equal_models_is_zero_with_a_gradient_of_zero() -> None:
    old = random(6, 4)
    new = old.clone().requires_grad_()
    loss = baselines.distillation(new, old, 0.05)
    assert torch.equal(loss, torch.zeros(6, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    assert float(gradient.abs().max()) <= 1e-13


def test_distillation_is_the_divergence_of_pytorch_from_the_old_model() -> None:
    old, new = random(6, 4), random(6, 4, seed=1).requires_grad_()
    found = baselines.distillation(new, old, 0.2)
    logs = [torch.log_softmax(cosine / 0.2, dim=1) for cosine in (new, old)]
    want = torch.nn.functional.kl_div(*logs, reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(loss.sum(), new)[0] for loss in (found, want)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    assert bool((found > 0).all())


def test_focus_weighs_what_the_old_model_has_right() -> None:
    old = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.3]])
    label = torch.tensor([0, 1, 1])
    assert baselines.focus(old, label).tolist() == [6.0, 1.0, 6.0]
    assert baselines.focus(old, label, 2.0).tolist() == [3.0, 1.0, 3.0]
