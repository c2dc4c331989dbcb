"""What a test split can show: against sums over all outcomes, and against a simulation."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import multinomial

from raymds.method.certificate import lower_bound, upper_bound
from raymds.method.power import certified, choice, kept, kept_all, outlook, proven


@pytest.mark.parametrize(("change", "tolerance"), [(-0.3, 0.0), (-0.1, 0.02), (0.0, 0.1), (0.2, 0.0), (0.0, 0.0)])
def test_chances_are_those_of_all_outcomes(change: float, tolerance: float) -> None:
    n, error, flips = 30, 0.01, 0.05
    down, up = flips + max(-change, 0), flips + max(change, 0)
    b, c = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    b, c = b[b + c <= n], c[b + c <= n]
    chance = multinomial.pmf(np.stack([b, c, n - b - c], axis=1), n, [down, up, 1 - down - up])
    expected = chance[upper_bound(b, c, n, error) < -tolerance].sum()
    assert proven(n, change, error, tolerance, flips) == pytest.approx(expected, abs=1e-7)
    expected = chance[lower_bound(b, c, n, error) >= -tolerance].sum()
    assert certified(n, change, error, tolerance, flips) == pytest.approx(expected, abs=1e-7)
    expected = chance[(c - b) / n >= -tolerance].sum()
    assert kept(n, change, tolerance, flips) == pytest.approx(expected, abs=1e-7)


def test_places365_in_a_sentence() -> None:
    said = outlook({f"place:{n}": 100 for n in range(364)}, 0.0, 0.95, "retained")
    assert said.startswith(
        "364 protected tasks with 100 test images each: a loss of 15 points in one of them is proven in 4 runs of 10, "
        "one of 30 points nearly always. "
    )
    assert "chance alone measures a loss of some task nearly always: select.require=retained refuses" in said
    assert "chance alone" not in outlook({f"place:{n}": 100 for n in range(364)}, 0.0, 0.95, "undecided")


def test_the_smallest_task_is_named_and_the_median_beside_it() -> None:
    said = outlook({"scene:tunnel": 27, "scene:highway": 2000, "scene:city": 2400}, 0.02, 0.95, "undecided")
    assert said.startswith("3 protected tasks with 27 (scene:tunnel) to 2,400 test images: a loss of ")
    assert "With the median of 2,000 images a loss of " in said
    assert "where nothing changes, " in said
    one = outlook({"scene:highway": 50_000}, 0.02, 0.95, "undecided")
    assert "A task that does not change is certified nearly always" in one


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9, 30])
@pytest.mark.parametrize("tolerance", [0.0, 0.3, 0.5, 0.9])
def test_few_images_are_spoken_of_too(n: int, tolerance: float) -> None:
    assert outlook({"w:a": n, "w:b": 3 * n}, tolerance, 0.95, "retained").startswith("2 protected tasks with ")


def test_images_said_to_certify_what_does_not_change_do_so() -> None:
    said = outlook({"w:a": 100}, 0.01, 0.95, "undecided")
    found = re.search(r"where nothing changes, ([\d,]+) images would", said)
    assert found
    images = int(found[1].replace(",", ""))
    assert certified(round(1.05 * images), 0.0, 0.05, 0.01) >= 0.95 > certified(round(0.9 * images), 0.0, 0.05, 0.01)


def test_what_chance_does_to_the_choice_is_said_where_it_does_much() -> None:
    """364 tasks of 500 images: below 0 by chance; the tolerance that is named is the first of those tried to do."""
    counts = {f"place:{n}": 500 for n in range(364)}
    said = choice(counts, 0.0)
    assert said is not None
    assert "chance alone refuses one nearly always, with select.tolerance=0.05 hardly ever." in said
    assert kept(500, 0.0, 0.05) ** 364 >= 0.95 > kept(500, 0.0, 0.03) ** 364
    assert choice(counts, 0.05) is None
    assert choice({"w:a": 10_000, "w:b": 100}, {"w:a": 0.01, "w:b": 0.1}) is None
    assert kept_all({"w:a": 50, "w:b": 100}, {"w:b": 0.1}) == kept(50, 0.0, 0.0) * kept(100, 0.0, 0.1)


def benchmark() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "certificate.py"
    spec = importlib.util.spec_from_file_location("benchmark_certificate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_at_its_smallest_agrees_with_the_sums(tmp_path: Path) -> None:
    """364 tasks of 100 images: a model that lost nothing becomes the outcome, a true loss is proven as computed."""
    file = tmp_path / "figures.json"
    benchmark().main(["--runs", "400", "--json", str(file)])
    figures = json.loads(file.read_text())
    assert figures["new"]["nothing changes"]["undecided"] >= 0.95
    assert figures["new"]["nothing changes"]["retained"] <= 0.01
    assert figures["proven"]["30"] >= 0.95
    assert figures["proven"]["15"] == pytest.approx(0.386, abs=4 * (0.386 * 0.614 / 400) ** 0.5)
    for points, share in figures["proven"].items():
        expected = proven(100, -int(points) / 100, 0.05 / 364, 0.0)
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5 + 0.02)
