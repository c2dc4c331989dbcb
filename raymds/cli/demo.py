"""The whole story on rendered driving scenes, on this machine: data, old model, cycle, certificate, report."""

import time

from raymds.cli.terminal import Terminal
from raymds.config import Config, load
from raymds.data.config import ScenesConfig
from raymds.log import records
from raymds.report import RunFiles, render
from raymds.run import RunDirectory
from raymds.scenes import dataset as scene_set
from raymds.store import uri as storage
from raymds.train import driver
from raymds.train.cluster import cpus

_OLD_SEED = 10_000  # the old model's scenes are others than those it is developed and tested on


def tell(directory: str, seed: int, terminal: Terminal) -> int:
    """Run the demo in a directory (it goes on where it was stopped) and return its exit status."""
    begin = time.perf_counter()
    names = ("data-old", "data", "old", "run", "none")
    old_data_uri, data_uri, old_uri, run_uri, bare_uri = (storage.join(directory, name) for name in names)

    terminal.heading("1/5  rendering driving scenes")
    for preset, uri, first in (("demo-scenes-old", old_data_uri, _OLD_SEED), ("demo-scenes", data_uri, 0)):
        config = load(ScenesConfig, preset, [f"seed={first + seed}"])
        scene_set.make(uri, config, cpus(), terminal.show)

    terminal.heading("2/5  an old model that has seen little fog")
    settings = [f"data.uri={old_data_uri}", f"run.seed={seed}", f"run.uri={old_uri}"]
    old = driver.pretrain(load(Config, "demo-pretrain", settings), terminal.show)

    terminal.heading("3/5  developing fog, protecting everything else")
    cycle = [f"data.uri={data_uri}", f"run.seed={seed}", f"model.weights={old['uri']}"]
    outcome = driver.finetune(load(Config, "demo", [*cycle, f"run.uri={run_uri}"]), terminal.show)

    terminal.heading("4/5  the same budget without constraints")
    # Measured seldom: how far it falls is seen at its end.
    bare = ["constraints.solver=none", "select.interpolate=false", "select.every=200", f"run.uri={bare_uri}"]
    driver.finetune(load(Config, "demo", [*cycle, *bare]), terminal.show)

    terminal.heading("5/5  certificate and report")
    run, other = RunDirectory(run_uri), RunDirectory(bare_uri)
    certificate = run.read_json("certificate.json")
    page = render(RunFiles.parse(run), RunFiles.parse(other))
    storage.write(run.path("report.html"), page.encode())
    if certificate is not None:
        terminal.certificate(certificate, f"test split, {100 * certificate['confidence']:g} % joint confidence")
    terminal.say(f"outcome: {outcome['outcome']} model: {outcome['reason']}")
    last = [record for record in records(bare_uri) if record["event"] == "eval"][-1]
    target, worst = last["target"], min(last["tasks"], key=lambda task: task["delta"])
    terminal.say(
        f"without constraints, val at step {last['step']}: {target['task']} {100 * target['delta']:+.1f} points, "
        f"{worst['task']} {100 * worst['delta']:+.1f} points"
    )
    terminal.say(f"report: {run.path('report.html')}\n{time.perf_counter() - begin:.0f} seconds in all")
    terminal.result({"outcome": outcome, "certificate": certificate, "report": run.path("report.html")})
    return 0 if outcome["outcome"] == "new" else 3
