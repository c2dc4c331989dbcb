"""METHOD (1), (11) by hand, the aggregator, and a constrained problem with a known solution and multiplier."""

import math

import pytest
import torch
from torch import Tensor

from raymds.method import constraints
from raymds.method.aggregator import ConstraintAggregator
from raymds.method.solvers import SOLVERS, Settings

NAN = math.nan


def test_zero_shot_loss_by_hand() -> None:
    got = constraints.zero_shot_losses(torch.tensor([[0.5, 0.3], [0.1, 0.2]]), torch.tensor([0, 0]), 0.1)
    want = [-math.log(math.exp(5) / (math.exp(5) + math.exp(3))), -math.log(math.exp(1) / (math.exp(1) + math.exp(2)))]
    assert got.tolist() == pytest.approx(want)


def test_an_image_of_which_no_number_comes_out_is_wrong_whatever_its_class() -> None:
    cosine = torch.tensor([[NAN, NAN], [0.1, NAN], [0.2, 0.1]])
    assert constraints.wrong(cosine, torch.tensor([0, 1, 0])).tolist() == [1.0, 1.0, 0.0]


def test_task_sums_count_each_tasks_examples() -> None:
    found = constraints.task_sums(torch.tensor([1.0, 2.0, -4.0]), torch.tensor([2, 0, 2]), 4)
    assert found.tolist() == [[2.0, 0.0, -3.0, 0.0], [1.0, 0.0, 2.0, 0.0], [4.0, 0.0, 17.0, 0.0]]


def test_tracking_starts_each_task_at_its_own_first_estimate() -> None:
    u = constraints.track(torch.tensor([NAN, 1.0, 1.0, NAN]), torch.tensor([3.0, 3.0, NAN, NAN]), gamma=0.25)
    assert u[:3].tolist() == [3.0, 0.75 * 1 + 0.25 * 3, 1.0]
    assert math.isnan(u[3])


COSINES = torch.tensor([[0.30, 0.28], [0.30, 0.28], [0.10, 0.40]], dtype=torch.float64)  # right, right, hopeless
AFTER = torch.tensor([[0.28, 0.29], [0.28, 0.29], [0.10, 0.30]], dtype=torch.float64)  # lost, lost, less so
RIGHT = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize("loss", ["cross_entropy", "error", "flips"])
def test_no_loss_changes_where_nothing_changed(loss: str) -> None:
    held = constraints.LOSSES[loss]
    values = held.values(COSINES, RIGHT, 0.05)
    assert torch.equal(held.change(values, values.clone()), torch.zeros(3, dtype=torch.float64))


def test_one_hopeless_example_pays_for_two_lost_ones_in_cross_entropy_alone() -> None:
    changes = {
        name: held.change(held.values(AFTER, RIGHT, 0.05), held.values(COSINES, RIGHT, 0.05))
        for name, held in constraints.LOSSES.items()
    }
    assert changes["cross_entropy"].mean() < 0
    assert changes["error"].tolist() == [1.0, 1.0, 0.0]
    assert changes["flips"].tolist() == [1.0, 1.0, 0.0]


def test_a_gain_counts_in_error_and_not_in_flips() -> None:
    for name, expected in (("error", -1.0), ("flips", 0.0)):
        held = constraints.LOSSES[name]
        new, old = (held.values(torch.tensor([cosine]), RIGHT[:1], 0.05) for cosine in ([0.3, 0.2], [0.2, 0.3]))
        assert held.change(new, old).tolist() == [expected]


def aggregator(slack: list[float], beta: float, gamma: float = 0.5, margin: float = 0.0) -> ConstraintAggregator:
    settings = Settings(beta=torch.full((len(slack),), beta, dtype=torch.float64))
    return ConstraintAggregator(torch.tensor(slack), SOLVERS["squared_hinge"], settings, gamma, margin=margin)


def sums(change: list[float], count: list[float], square: list[float] | None = None) -> Tensor:
    """What a step adds up per task."""
    return torch.tensor([change, count, square or [0.0] * len(change)], dtype=torch.float64)


def test_margin_asks_for_standard_errors_of_the_examples() -> None:
    limits = aggregator([0.0, 0.1, 0.0], beta=100, gamma=1.0, margin=2 / math.sqrt(25))
    changes = torch.tensor([1.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0])  # five of task 0, three of task 1
    multiplier, _ = limits.update(constraints.task_sums(changes, torch.tensor([0] * 5 + [1] * 3), 3))
    errors = [float(part.std(correction=0)) / 5 for part in (changes[:5], changes[5:])]  # of 25, whatever a step draws
    assert multiplier.tolist() == pytest.approx([200 * errors[0], 100 * (1 / 3 - 0.1) + 200 * errors[1], 0])
    assert limits.u[:2].tolist() == pytest.approx([0.0, 1 / 3 - 0.1])  # u is METHOD (11)'s
    assert limits.update(sums([0.0] * 3, [4.0] * 3))[0].tolist() == [0.0] * 3  # nothing changed: exactly 0


def test_aggregator_hinges_the_mean_and_leaves_unsampled_tasks_alone() -> None:
    limits = aggregator([0.0, 0.0, 0.5], beta=10)
    multiplier, count = limits.update(sums([3.0, 0.0, 3.0], [2.0, 0.0, 2.0]))
    assert multiplier.tolist() == [15.0, 0.0, 10.0]  # slack is taken off the mean: 1.5 − 0.5
    assert count.tolist() == [2.0, 0.0, 2.0]
    multiplier, _ = limits.update(sums([-1.0, 4.0, 0.0], [1.0, 1.0, 0.0]))
    assert multiplier.tolist() == [2.5, 40.0, 0.0]  # task 2 keeps its u, and λ = 0 without examples
    assert limits.u.tolist() == [0.25, 4.0, 1.0]


def test_aggregator_state_survives() -> None:
    one = aggregator([0.0, 0.0], beta=1)
    one.update(sums([1.0, 0.0], [1.0, 0.0]))
    two = aggregator([0.0, 0.0], beta=1)
    two.load_state_dict(one.state_dict())
    again = sums([0.2, 0.7], [1.0, 1.0])
    assert torch.equal(one.update(again)[0], two.update(again)[0])
    assert torch.equal(one.u, two.u)


def test_a_problem_with_known_solution_and_multiplier() -> None:
    """min (x−2)² + (y−1)² subject to x + y ≤ 1: solution (1, 0), multiplier 2.

    With the penalty β/2·max(h, 0)² the minimiser violates by 2/(1 + β) and λ = β·h tends to 2 (METHOD 3).
    """
    beta = 100.0
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    limits = aggregator([0.0], beta, gamma=0.8)
    generator = torch.Generator().manual_seed(0)
    multipliers, points = [], []
    for _ in range(4000):
        h = w.sum() - 1
        noisy = h.detach() + 0.002 * torch.randn((), generator=generator, dtype=torch.float64)
        multiplier, _ = limits.update(sums([float(noisy)], [1.0]))
        objective = (w[0] - 2) ** 2 + (w[1] - 1) ** 2
        (gradient,) = torch.autograd.grad(objective + multiplier[0] * h, w)
        w = (w - 2e-3 * gradient).detach().requires_grad_()
        multipliers.append(float(multiplier))
        points.append(w.detach())
    violation = 2 / (1 + beta)
    solution = torch.stack(points[2000:]).mean(0)
    assert solution.tolist() == pytest.approx([1 + violation / 2, violation / 2], abs=1e-3)
    assert sum(multipliers[2000:]) / 2000 == pytest.approx(2 - 2 * violation / 2, abs=0.03)


def test_the_answer_on_a_class_without_examples_by_hand() -> None:
    """Three classes at τ₀ = 0.5 with logits (0, ln 2, ln 5): p of the last is 5/8, its odds 5/3."""
    cosine = torch.tensor([[0.0, 0.5 * math.log(2), 0.5 * math.log(5)]], dtype=torch.float64)
    label = torch.tensor([2])
    odds = constraints.log_odds(cosine, label, 0.5)
    assert float(odds) == pytest.approx(math.log(5 / 3))
    nats = constraints.zero_shot_losses(cosine, label, 0.5)
    old = torch.tensor([-math.log(1 / 4)], dtype=torch.float64)
    assert float(constraints.drift(nats, old)) == pytest.approx(5 / 8 - 1 / 4)
    assert float(constraints.drift(old, nats)) == pytest.approx(5 / 8 - 1 / 4)  # a rise is a drift as a fall is
    assert float(constraints.drift(nats, nats.clone())) == 0
    expected = -1 / 4 * math.log(5 / 8) - 3 / 4 * math.log(3 / 8)
    assert float(constraints.answer_losses(odds, old)) == pytest.approx(expected)


@pytest.mark.parametrize("odds", [-200.0, -1.0, 0.0, 3.0, 200.0])
def test_the_pull_towards_the_old_answer_is_the_difference_of_the_probabilities(odds: float) -> None:
    at = torch.tensor([odds], requires_grad=True)
    constraints.answer_losses(at, torch.tensor([-math.log(0.25)])).sum().backward()
    assert at.grad is not None
    assert float(at.grad) == pytest.approx(1 / (1 + math.exp(-odds)) - 0.25, abs=1e-6)
