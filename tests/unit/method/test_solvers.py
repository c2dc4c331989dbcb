"""Rules for λ: METHOD 3's table by hand, the aggregator's state, and convex problems with known multipliers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cooper
import pytest
import torch
from torch import Tensor

from raymds.method.aggregator import ConstraintAggregator
from raymds.method.solvers import SOLVERS, Seen, Settings


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def make(solver: str, tasks: int, gamma: float = 1.0, *, beta: float = 1.0, **more: float) -> ConstraintAggregator:
    run = {name: more.pop(name) for name in ("steps", "rising", "growth", "margin") if name in more}
    return ConstraintAggregator(
        torch.zeros(tasks), SOLVERS[solver], Settings(beta=t(*[beta] * tasks), **more), gamma, **run
    )


def sums(*h: float | None) -> Tensor:
    """What a step adds up of one example per task; None: the task is not sampled."""
    change = t(*[x or 0.0 for x in h])
    return torch.stack([change, t(*[float(x is not None) for x in h]), change**2])


U, MU = t(-0.5, 0.0, 0.5, 0.02), t(60.0, 1.0, 1.0, 0.0)
ONCE = t(1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("solver", "multiplier", "mu"),
    [
        ("squared_hinge", [0.0, 0.0, 50.0, 2.0], None),
        ("hinge", [0.0, 0.0, 100.0, 100.0], None),
        ("smoothed_hinge", [0.0, 0.0, 100.0, 40.0], None),
        ("augmented_lagrangian", [10.0, 1.0, 51.0, 2.0], [55.0, 1.0, 6.0, 0.2]),
        ("regularize", [100.0] * 4, None),
        ("none", [0.0] * 4, None),
    ],
)
def test_rules_give_the_multipliers_of_the_table(solver: str, multiplier: list[float], mu: list[float] | None) -> None:
    settings = Settings(beta=100 * ONCE, eta=10.0, rho=0.05)
    found, remembered = SOLVERS[solver].rule(Seen(U, U, U), MU, settings)
    assert found.tolist() == pytest.approx(multiplier)
    assert remembered.tolist() == pytest.approx(MU.tolist() if mu is None else mu)


def test_pi_adds_the_integral_of_h_and_the_change_of_u() -> None:
    seen = Seen(u=t(0.3, 0.3, -1.0), before=t(0.1, 0.5, 0.0), h=t(0.4, -0.2, -1.0))
    found, mu = SOLVERS["pi"].rule(seen, t(2.0, 5.0, 1.0), Settings(beta=t(10.0, 10.0, 10.0), eta=5.0))
    assert found.tolist() == pytest.approx([2 + 2 + 2, 5 - 1 - 2, 0])
    assert torch.equal(found, mu)


def test_multiplicative_grows_by_a_factor_within_its_limits() -> None:
    settings = Settings(beta=ONCE, eta=2.0, lowest=0.5, highest=40.0)
    found, mu = SOLVERS["multiplicative"].rule(Seen(U, U, U), t(1.0, 3.0, 3.0, 39.0), settings)
    assert found.tolist() == pytest.approx([0.5, 3.0, 3 * 2.718281828459045, 40.0])
    assert torch.equal(found, mu)
    at = t(0.0, 800.0, -800.0)  # from a start of 0, and by a factor that no number holds
    assert SOLVERS["multiplicative"].rule(Seen(at, at, at), t(0.0, 0.0, 9.0), settings)[0].tolist() == [0.5, 40.0, 0.5]


@pytest.mark.parametrize("solver", ["augmented_lagrangian", "pi", "multiplicative"])
def test_multipliers_begin_at_start(solver: str) -> None:
    limits = make(solver, 2, beta=9.0, start=3.0, eta=1.0)
    assert limits.update(sums(0.0, None))[0].tolist() == [3.0, 0.0]
    assert limits.mu.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("solver", ["augmented_lagrangian", "pi"])
def test_multipliers_that_are_remembered_stay_below_the_highest(solver: str) -> None:
    found, mu = SOLVERS[solver].rule(
        Seen(t(9.0), t(0.0), t(9.0)), t(7.0), Settings(beta=t(10.0), eta=10.0, highest=8.0)
    )
    assert (found.tolist(), mu.tolist()) == ([8.0], [8.0])


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_task_that_is_not_sampled_keeps_its_memory_and_has_no_multiplier(solver: str) -> None:
    limits = make(solver, 2, 0.5, beta=4.0, start=0.5, eta=1.0, rho=1.0, highest=50.0)
    first, _ = limits.update(sums(0.5, 0.5))
    kept = limits.u[1].item(), limits.mu[1].item()
    found, count = limits.update(sums(0.25, None))
    assert (found[1].item(), count[1].item()) == (0.0, 0.0)
    assert (limits.u[1].item(), limits.mu[1].item()) == kept
    assert solver == "none" or first[1] > 0


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_run_that_goes_on_from_its_state_has_the_same_multipliers(solver: str) -> None:
    def fresh() -> ConstraintAggregator:
        return make(
            solver, 3, 0.3, beta=4.0, start=1.0, eta=2.0, rho=0.3, lowest=0.1, highest=60.0,
            steps=8, rising=True, growth=5.0, margin=0.4,
        )  # fmt: skip

    h = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()
    h[1][1] = h[0][2] = h[1][2] = h[2][2] = h[3][2] = None  # task 2 is first seen after the stop
    whole, first, second = fresh(), fresh(), fresh()
    for step in range(4):
        for limits in (whole, first):
            limits.update(sums(*h[step]), step)
            limits.measured(torch.tensor(2.0 + step))
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for step in range(4, 8):
        want, _ = whole.update(sums(*h[step]), step)
        found, _ = second.update(sums(*h[step]), step)
        assert torch.equal(want, found)
        for limits in (whole, second):
            limits.measured(torch.tensor(7.0))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_beta_rises_by_cosine_to_its_value() -> None:
    limits = make("regularize", 1, beta=8.0, steps=100, rising=True)
    found = [float(limits.update(sums(0.0), step)[0]) for step in range(120)]
    assert 0 < found[0] < 8e-3
    assert found[49] == pytest.approx(4.0)
    assert found[24] == pytest.approx(8 * (1 - 0.5**0.5) / 2)
    assert found[99:] == pytest.approx([8.0] * 21)
    assert found[:100] == sorted(found[:100])


def test_beta_grows_for_infeasible_tasks_alone() -> None:
    limits = make("regularize", 3, beta=2.0, steps=4, growth=16.0)
    found = [limits.update(sums(0.1, -0.1, None))[0].tolist() for _ in range(4)]
    assert [row[0] for row in found] == pytest.approx([4.0, 8.0, 16.0, 32.0])
    assert [row[1] for row in found] == pytest.approx([2.0] * 4)
    assert limits.update(sums(-9.0, -0.1, 0.1))[0].tolist() == pytest.approx([32.0, 2.0, 4.0])


def test_the_measured_scale_is_a_running_mean_of_the_logarithm_and_no_part_of_the_memory() -> None:
    plain, scaled = (make("augmented_lagrangian", 2, beta=3.0, eta=0.5) for _ in range(2))
    scaled.measured(torch.tensor(100.0))
    assert float(scaled.scale) == pytest.approx(100.0)
    for limits in (plain, scaled):
        limits.update(sums(0.5, -0.5))
        assert limits.update(sums(0.5, 0.5))[0].tolist() == pytest.approx([1.75, 1.5])  # the step multiplies
    assert torch.equal(plain.mu, scaled.mu)
    scaled.measured(torch.tensor(1.0))  # a moving average of the logarithm
    for none in (0.0, math.nan, math.inf):  # a gradient of 0 has no length to compare
        scaled.measured(torch.tensor(none))
    assert float(scaled.scale) == pytest.approx(100**0.7)


@dataclass(frozen=True)
class Problem:
    """min f(w) subject to h(w) ≤ 0, with its solution and multipliers."""

    objective: Callable[[Tensor], Tensor]
    constraints: Callable[[Tensor], Tensor]
    solution: tuple[float, ...]
    multipliers: tuple[float, ...]
    start: tuple[float, float] = (3.0, -2.0)  # where the first two problems' constraints are 0, as at w_old


def squared_distance(w: Tensor) -> Tensor:
    return (w[0] - 2) ** 2 + (w[1] - 1) ** 2


PROBLEMS = {
    "active": Problem(squared_distance, lambda w: torch.stack([w[0] + w[1] - 1]), (1, 0), (2,)),
    "inactive": Problem(squared_distance, lambda w: torch.stack([w[0] - w[1] - 5]), (2, 1), (0,)),
    "both": Problem(squared_distance, lambda w: torch.stack([w[0] + w[1] - 1, w[0] - w[1] - 5]), (1, 0), (2, 0)),
    "two active": Problem(squared_distance, lambda w: torch.stack([w[0] - 1, 2 * w[1]]), (1, 0), (2, 1)),
    "circle": Problem(torch.sum, lambda w: torch.stack([w @ w - 2, w[0] - 3]), (-1, -1), (0.5, 0), (0.5, -1.0)),
}
each_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def descend(problem: Problem, limits: ConstraintAggregator, steps: int, lr: float = 0.02) -> tuple[Tensor, Tensor]:
    """Points and multipliers of every step of gradient descent: (steps, 2), (steps, m)."""
    w = t(*problem.start).requires_grad_()
    points, multipliers = [], []
    for step in range(steps):
        h = problem.constraints(w)
        multiplier, _ = limits.update(sums(*h.tolist()), step)
        (gradient,) = torch.autograd.grad(problem.objective(w) + multiplier @ h, w)
        w = (w - lr * gradient).detach().requires_grad_()
        points.append(w.detach())
        multipliers.append(multiplier)
    return torch.stack(points), torch.stack(multipliers)


@each_problem
@pytest.mark.parametrize(
    ("solver", "settings"),
    [
        ("augmented_lagrangian", {"beta": 4.0, "eta": 0.3}),
        ("pi", {"beta": 4.0, "eta": 0.3}),
        ("multiplicative", {"start": 1.0, "eta": 0.05, "lowest": 1e-4, "highest": 100.0}),
    ],
)
def test_rules_with_a_memory_end_at_the_solution_and_its_multipliers(
    problem: Problem, solver: str, settings: dict[str, float]
) -> None:
    m = len(problem.multipliers)
    points, multipliers = descend(problem, make(solver, m, 0.5, **settings), 1200)
    assert points[-1].tolist() == pytest.approx(problem.solution, abs=1e-3)
    assert multipliers[-1].tolist() == pytest.approx(problem.multipliers, abs=1e-3)


@pytest.mark.parametrize(
    ("solver", "settings"), [("squared_hinge", {"beta": 20.0}), ("smoothed_hinge", {"beta": 5.0, "rho": 0.25})]
)
@each_problem
def test_penalties_end_where_the_violation_is_the_multiplier_over_beta(
    problem: Problem, solver: str, settings: dict[str, float]
) -> None:
    beta = settings["beta"] / settings.get("rho", 1.0)
    limits = make(solver, len(problem.multipliers), 0.5, **settings)
    points, multipliers = descend(problem, limits, 800)
    w, found = points[-1].requires_grad_(), multipliers[-1]
    active = t(*problem.multipliers) > 0
    h = problem.constraints(w)
    assert limits.u.tolist() == pytest.approx(h.tolist(), abs=1e-6)
    assert limits.u[active].tolist() == pytest.approx((found / beta)[active].tolist(), abs=1e-6)
    assert found[~active].tolist() == [0.0] * int((~active).sum())
    (gradient,) = torch.autograd.grad(problem.objective(w) + found @ h, w)
    assert gradient.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert found.tolist() == pytest.approx(problem.multipliers, abs=2.5 / beta + 1e-9, rel=0.1)


@pytest.mark.parametrize(
    ("solver", "settings"), [("squared_hinge", {"beta": 20.0}), ("smoothed_hinge", {"beta": 5.0, "rho": 0.25})]
)
def test_penalties_end_at_the_biased_point_in_closed_form(solver: str, settings: dict[str, float]) -> None:
    """x = 2 − λ/2, y = 1 − λ/2 and λ = 20·(x + y − 1): λ = 40/21."""
    points, multipliers = descend(PROBLEMS["both"], make(solver, 2, **settings), 800)
    assert multipliers[-1].tolist() == pytest.approx([40 / 21, 0])
    assert points[-1].tolist() == pytest.approx([2 - 20 / 21, 1 - 20 / 21])


@each_problem
def test_the_hinge_has_the_multipliers_in_the_mean_of_its_steps(problem: Problem) -> None:
    limits = make("hinge", len(problem.multipliers), beta=5.0)
    points, multipliers = descend(problem, limits, 4000, lr=2e-3)
    assert points[-2000:].mean(0).tolist() == pytest.approx(problem.solution, abs=0.02)
    assert multipliers[-2000:].mean(0).tolist() == pytest.approx(problem.multipliers, abs=0.03)
    assert set(multipliers.unique().tolist()) <= {0.0, 5.0}


class Cooper(cooper.ConstrainedMinimizationProblem):
    """The same problem in the library cooper."""

    def __init__(self, problem: Problem, formulation: type, beta: float | None, *, remembers: bool = True) -> None:
        super().__init__()
        m = len(problem.multipliers)
        self.problem, self.w = problem, torch.nn.Parameter(t(*problem.start))
        self.limits = cooper.Constraint(
            constraint_type=cooper.ConstraintType.INEQUALITY,
            formulation_type=formulation,
            multiplier=cooper.multipliers.DenseMultiplier(m, dtype=torch.float64) if remembers else None,
            penalty_coefficient=cooper.penalty_coefficients.DensePenaltyCoefficient(t(*[beta] * m)) if beta else None,
        )

    def compute_cmp_state(self) -> cooper.CMPState:
        state = cooper.ConstraintState(violation=self.problem.constraints(self.w))
        return cooper.CMPState(loss=self.problem.objective(self.w), observed_constraints={self.limits: state})


@each_problem
@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_pi_takes_the_steps_of_coopers_nupi(problem: Problem, gamma: float) -> None:
    """Cooper starts its average at 0 where METHOD (11) starts it at ĥ: the same where the first ĥ is 0."""
    if gamma < 1:
        problem = Problem(
            problem.objective,
            lambda w, inner=problem.constraints, at=problem.start: inner(w) - inner(t(*at)),
            problem.solution,
            problem.multipliers,
            problem.start,
        )
    other = Cooper(problem, cooper.formulations.Lagrangian, None)
    primal = torch.optim.SGD([other.w], lr=0.02)
    nupi = cooper.optim.nuPI(
        other.dual_parameters(), lr=1.0, Kp=t(4.0), Ki=t(0.1), ema_nu=1 - gamma,
        init_type=cooper.optim.nuPIInitType.ZEROS, maximize=True,
    )  # fmt: skip
    rolls = cooper.optim.AlternatingDualPrimalOptimizer(other, primal, nupi)
    points, multipliers = descend(problem, make("pi", len(problem.multipliers), gamma, beta=4.0, eta=0.1), 150)
    for w, multiplier in zip(points, multipliers, strict=True):
        rolls.roll()
        torch.testing.assert_close(other.limits.multiplier.weight.data, multiplier, rtol=0, atol=1e-10)
        torch.testing.assert_close(other.w.data, w, rtol=0, atol=1e-10)
    assert (float(multipliers.max()) > 0) == (max(problem.multipliers) > 0)


@each_problem
def test_the_augmented_lagrangian_takes_coopers_steps(problem: Problem) -> None:
    other = Cooper(problem, cooper.formulations.AugmentedLagrangian, 4.0)
    rolls = cooper.optim.SimultaneousOptimizer(
        other,
        torch.optim.SGD([other.w], lr=0.02),
        torch.optim.SGD(other.dual_parameters(), lr=0.1, maximize=True),
    )
    limits = make("augmented_lagrangian", len(problem.multipliers), beta=4.0, eta=0.1)
    points, _ = descend(problem, limits, 150)
    for w in points:
        rolls.roll()
        torch.testing.assert_close(other.w.data, w, rtol=0, atol=1e-10)
    torch.testing.assert_close(other.limits.multiplier.weight.data, limits.mu, rtol=0, atol=1e-10)


@each_problem
def test_the_squared_hinge_takes_the_steps_of_coopers_quadratic_penalty(problem: Problem) -> None:
    other = Cooper(problem, cooper.formulations.QuadraticPenalty, 5.0, remembers=False)
    rolls = cooper.optim.UnconstrainedOptimizer(other, torch.optim.SGD([other.w], lr=0.02))
    points, _ = descend(problem, make("squared_hinge", len(problem.multipliers), beta=5.0), 150)
    for w in points:
        rolls.roll()
        torch.testing.assert_close(other.w.data, w, rtol=0, atol=1e-10)


@each_problem
def test_multiplicative_ends_where_coopers_augmented_lagrangian_ends(problem: Problem) -> None:
    other = Cooper(problem, cooper.formulations.AugmentedLagrangian, 4.0)
    rolls = cooper.optim.SimultaneousOptimizer(
        other, torch.optim.SGD([other.w], lr=0.02), torch.optim.SGD(other.dual_parameters(), lr=0.3, maximize=True)
    )
    for _ in range(800):
        rolls.roll()
    limits = make("multiplicative", len(problem.multipliers), start=1.0, eta=0.05, lowest=1e-4)
    points, multipliers = descend(problem, limits, 1200)
    assert points[-1].tolist() == pytest.approx(other.w.tolist(), abs=1e-3)
    assert multipliers[-1].tolist() == pytest.approx(other.limits.multiplier.weight.tolist(), abs=1e-3)
