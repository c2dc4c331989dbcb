"""Cycles of the benchmarks, many in a row, at their smallest."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_cycles_of_the_benchmarks_run_at_their_smallest(cluster: None, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(FOLDER / "datasets.py"), str(tmp_path), "digits", "--small"], check=True)
    folder, preset = tmp_path / "digits", tmp_path / "digits/eight.yaml"
    content = yaml.safe_load(preset.read_text())
    content["task"]["retained"], content["objective"]["batch"] = 8, 8
    content["constraints"] = {"images_per_task": 2}
    content["optim"] |= {"steps": 2, "warmup": 1}
    content["select"]["every"] = 1
    preset.write_text(yaml.safe_dump(content))

    def shares(out: str) -> dict[str, dict[str, float]]:
        settings = ["--points", "1", "--solvers", "hinge", "multiplicative", "--losses", "error", "--json", out]
        command = [sys.executable, str(FOLDER / "carry_over.py"), str(tmp_path / "kept"), str(preset), *settings]
        subprocess.run(command, check=True)
        found: dict[str, dict[str, float]] = json.loads(Path(out).read_text())
        return found

    first = shares(str(tmp_path / "first.json"))
    assert set(first) == {"hinge, error", "multiplicative, error"}
    assert all(share in {0.0, 1.0} for by_preset in first.values() for share in by_preset.values())
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.json")}
    assert len(kept) == 2
    assert shares(str(tmp_path / "again.json")) == first
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing was trained again
    searched = [str(folder / "data"), content["model"]["weights"], str(tmp_path / "searched"), "--preset", str(preset)]
    out = tmp_path / "search.json"
    command = [sys.executable, str(FOLDER / "search_cycles.py"), *searched, "--trials", "2", "--json", str(out)]
    subprocess.run(command, check=True)
    assert json.loads(out.read_text())["trials"] == 2
    shared = {name: content[name] for name in ("data", "task", "constraints")}
    cycles = [{"task": {"target": target}} for target in ("digit:eight", "digit:one")]
    plan, weights = tmp_path / "plan.yaml", content["model"]["weights"]
    plan.write_text(yaml.safe_dump({"uri": "unused", "model": weights, "base": shared, "cycles": cycles}))
    command = [sys.executable, str(FOLDER / "plans.py"), str(plan), str(tmp_path / "plans"), "--small"]
    subprocess.run([*command, "--methods", "none", "--json", str(out)], check=True)
    found = json.loads(out.read_text())["none"]
    assert [row["held"] for row in found["cycles"]] == [8, 8 + (found["cycles"][0]["outcome"] == "new")]


def test_benchmarks_of_ranks_checkpoints_and_loaders_run_at_their_smallest(tmp_path: Path) -> None:
    jobs = {
        "scaling": ["--steps", "1"],
        "checkpoints": ["--steps", "120"],
        "loader": ["--images", "64", "--batch", "16", "--repeats", "1"],
    }
    for name, arguments in jobs.items():
        out = tmp_path / f"{name}.json"
        subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), *arguments, "--json", str(out)], check=True)
        assert json.loads(out.read_text())
