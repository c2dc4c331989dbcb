"""Constraint solvers: rules that turn tracked constraint values u into multipliers λ, the table of METHOD 3.

A new solver is a function here and its row in `SOLVERS`; nothing else knows them one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a config is checked by these tables in every command, most of which need no torch
    from torch import Tensor

BASELINES = (
    "gem",
    "wccl",
    "lwf",
    "focal_distillation",
    "ewc",
)  # no rules for λ; each has its row in train/baselines.py


@dataclass(frozen=True)
class Seen:
    """What a step tells a solver of the m tasks, (m,) each in fp64."""

    u: Tensor  # METHOD (11)
    before: Tensor  # u of the step before; 0 where there was none
    h: Tensor  # of this step's examples


@dataclass(frozen=True)
class Settings:
    """A solver's numbers; each solver reads those that its row in `SOLVERS` names."""

    beta: Tensor  # (m,) weight of the penalty, or of the proportional part
    start: float = 0.0  # μ of the first step, of the rules that remember one
    eta: float = 0.0  # rise of μ per step and unit of u
    rho: float = 0.0  # u at which the smoothed hinge is full
    lowest: float = 0.0  # λ of the multiplicative rule
    highest: float = float("inf")  # μ, λ of the rules that remember one


Rule = Callable[["Seen", "Tensor", "Settings"], "tuple[Tensor, Tensor]"]  # seen, μ, settings → λ, μ for the next step


@dataclass(frozen=True)
class Solver:
    """A rule, the settings that it reads, and whether it seeks feasibility (the baselines do not)."""

    rule: Rule
    reads: tuple[str, ...]
    feasible: bool = True


def squared_hinge(seen: Seen, mu: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """λ = β·max(u, 0): the gradient of the penalty β/2·max(u, 0)², the paper's choice. Ends with u = λ*/β above 0."""
    return settings.beta * seen.u.clamp(min=0), mu


def hinge(seen: Seen, mu: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """λ = β where u > 0: the exact penalty of arXiv:2504.15243."""
    return settings.beta * (seen.u > 0), mu


def smoothed_hinge(seen: Seen, mu: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """λ = β·clip(u/ρ, 0, 1), arXiv:2506.02504."""
    return settings.beta * (seen.u / settings.rho).clamp(0, 1), mu


def augmented_lagrangian(seen: Seen, mu: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """λ = max(μ + β·u, 0), then μ ← max(μ + η·u, 0): λ can stay above 0 where u is 0."""
    multiplier = (mu + settings.beta * seen.u).clamp(0, settings.highest)
    return multiplier, (mu + settings.eta * seen.u).clamp(0, settings.highest)


def pi(seen: Seen, mu: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """λ = μ ← max(μ + η·ĥ + β·(u − u of before), 0): νPI of arXiv:2406.04558 with ν = 1 − γ₂."""
    multiplier = (mu + settings.eta * seen.h + settings.beta * (seen.u - seen.before)).clamp(0, settings.highest)
    return multiplier, multiplier


def multiplicative(seen: Seen, mu: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """λ = μ ← μ·exp(η·u) within [lowest, highest] (GECO, arXiv:1810.00597)."""
    growth = (settings.eta * seen.u).exp()  # may be infinite, which 0 times it is not
    multiplier = (mu.clamp(min=settings.lowest) * growth).clamp(settings.lowest, settings.highest)
    return multiplier, multiplier


def regularize(seen: Seen, mu: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """λ = β whatever u is: the weighted sum, which ignores feasibility (baseline "RM")."""
    return settings.beta.expand_as(seen.u), mu


def none(seen: Seen, mu: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """λ = 0: plain contrastive finetuning (baseline "FLYP")."""
    return seen.u.new_zeros(seen.u.shape), mu


SOLVERS: dict[str, Solver] = {
    "squared_hinge": Solver(squared_hinge, ("beta",)),
    "hinge": Solver(hinge, ("beta",)),
    "smoothed_hinge": Solver(smoothed_hinge, ("beta", "rho")),
    "augmented_lagrangian": Solver(augmented_lagrangian, ("beta", "start", "eta", "highest")),
    "pi": Solver(pi, ("beta", "start", "eta", "highest")),
    "multiplicative": Solver(multiplicative, ("start", "eta", "lowest", "highest")),
    "regularize": Solver(regularize, ("beta",), feasible=False),
    "none": Solver(none, (), feasible=False),
}
