"""Certificates of made-up counts, and a policy for them."""

from datetime import UTC, datetime
from typing import Any

from raymds.method.certificate import PairedCounts, certify
from raymds.method.grouped import Groups
from raymds.release.gate import Finding
from raymds.release.policy import Policy

MADE = datetime(2026, 5, 1, 12, tzinfo=UTC)
TARGET = PairedCounts("weather:foggy", 400, 100, 10, 130, 1.0, 0.5)
COUNTS = (  # task, n, right before, negative and positive flips
    ("weather:clear", 1000, 900, 5, 60),
    ("weather:rainy", 1000, 700, 20, 30),
    ("scene:tunnel", 500, 400, 4, 2),
    ("weather:rainy@timeofday:night", 200, 120, 8, 8),
)


def certificate(
    *counts: tuple[str, int, int, int, int], target: PairedCounts = TARGET, groups: Groups | None = None, **changes: Any
) -> dict[str, Any]:
    """A certificate of `counts` (or of `COUNTS`); the first task's images are in `groups`, `changes` replace fields."""
    given = [
        PairedCounts(*row, 1.0, 1.0, groups if i == 0 else None) for i, row in enumerate(counts or COUNTS)
    ]  # fmt: skip
    made = certify(target, given, tolerance=0.01, confidence=0.95, digests={"parent": "old", "weights": "new"})
    label_sets = {"weather": {"clear": [], "rainy": [], "foggy": []}, "scene": {"tunnel": [], "street": []}}
    evidence = {"measured": {"label_sets": label_sets, "split": "test"}, "data": {"created": "2026-05-01T12:00:00Z"}}
    return made | evidence | changes


def policy(**asked: Any) -> Policy:
    """One that allows the tolerance that the made-up certificates have."""
    return Policy("p.yaml", **{"tolerance": {"*": 0.01}, **asked})


def failures(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.rule, finding.task) for finding in findings if not finding.passed]
