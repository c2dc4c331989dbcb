"""How a class whose images are gone fares: with real examples, held by the old model's answers, and with nothing.

    python benchmarks/without_data.py WEIGHTS DIR [--gone weather:snowy] [--seed 0] [--small] [--json FILE]

WEIGHTS is an old model of the rendered scenes, such as `raymds demo` makes (demo/old/weights.safetensors). DIR/data has
the demo's scenes, DIR/gone the same without the class in train; val and test are alike. Three cycles of the demo
follow, each in a run directory of DIR, so the same command goes on after a break. What each delivers, or where it
delivers nothing its nearest candidate, is measured on test with all classes. --small is a minute, for tests.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from makers import cores, silent

from raymds.config import Config, load
from raymds.data.config import ScenesConfig
from raymds.scenes import dataset
from raymds.scenes.render import ATTRIBUTES
from raymds.store import uri as storage
from raymds.train import driver
from raymds.train.measure import certify_models

TARGET = "weather:foggy"  # of the demo
SMALL = ["objective.batch=16", "optim.steps=4", "optim.warmup=1", "select.every=2", "task.retained=20"]


def made(folder: Path, gone: str, small: bool) -> dict[str, str]:
    """The two data sets, made where they are not there: name -> URI."""
    attribute, _, label = gone.partition(":")
    rows = ["rows.train=300", "rows.val=60", "rows.test=60"] if small else []
    uris = {name: str(folder / name) for name in ("data", "gone")}
    for name, without in (("data", []), ("gone", [f"frequencies.{attribute}.{label}=0"])):
        dataset.make(uris[name], load(ScenesConfig, "demo-scenes", [*rows, *without]), cores(), silent)
    return uris


def ways(gone: str, uris: dict[str, str]) -> dict[str, list[str]]:
    """What each of the three cycles has of its own."""
    attribute, others = gone.partition(":")[0], [name for name in ATTRIBUTES if name != gone.partition(":")[0]]
    kept = [f"{attribute}:{label}" for label in ATTRIBUTES[attribute] if f"{attribute}:{label}" not in (gone, TARGET)]
    return {
        "examples": [f"data.uri={uris['data']}"],
        "old answers": [f"data.uri={uris['gone']}", f"task.without_data=[{gone}]"],
        "nothing": [f"data.uri={uris['gone']}", f"task.protect=[{', '.join([*kept, *others])}]"],
    }


def measured(config: Config, gone: str, whole: Config) -> dict[str, Any]:
    """A cycle, and what its model does on test; `whole` has all classes protected."""
    outcome = driver.cell(config, silent, storage.join(config.run.uri, "old"), None, nearest=True)
    refused = storage.join(config.run.uri, "rejected.safetensors")
    new = outcome["outcome"] == "new"
    certificate = certify_models(whole, outcome["weights"] if new else refused, "test", silent)
    tasks = {task["task"]: task for task in certificate["tasks"]}
    own = tasks.pop(gone)
    figures = {key: own[key] for key in ("n", "old", "new", "delta", "negative_flips")}
    target, worst = certificate["target"]["delta"], min(task["delta"] for task in tasks.values())
    return {"outcome": outcome["outcome"], "gone": figures, "target": target, "worst": worst}


def main() -> None:
    """Make, train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gone", default="weather:snowy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    folder = given.folder.absolute()
    uris = made(folder, given.gone, given.small)
    shared = [f"model.weights={given.weights}", f"run.seed={given.seed}", *(SMALL if given.small else [])]
    whole = load(Config, "demo", [*shared, f"data.uri={uris['data']}", "run.uri=unused"])
    found = {}
    print(f"{'held by':14}{'outcome':>9}{'old %':>8}{'new %':>8}{'Δ points':>10}{'target':>9}{'worst other':>13}")
    for name, own in ways(given.gone, uris).items():
        run = folder / f"{name.replace(' ', '-')}-{given.seed}"
        row = found[name] = measured(load(Config, "demo", [*shared, *own, f"run.uri={run}"]), given.gone, whole)
        shares = [100 * row["gone"][key] for key in ("old", "new", "delta")]
        print(
            f"{name:14}{row['outcome']:>9}{shares[0]:>8.1f}{shares[1]:>8.1f}{shares[2]:>+10.1f}"
            f"{100 * row['target']:>+9.1f}{100 * row['worst']:>+13.1f}",
            flush=True,
        )
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
