"""What the cluster has decides what the config leaves open, and bounds what it asks for."""

import pytest

from raymds.config import Config, load, to_yaml
from raymds.errors import UsageError
from raymds.run import RunDirectory
from raymds.store import uri as storage
from raymds.train.placement import concurrent, placed


def run(config: Config, **changes: object) -> Config:
    for name, value in changes.items():
        setattr(config.run, name, value)
    return config


def test_what_is_asked_for_is_kept(config: Config) -> None:
    asked = run(config, workers=2, gpus_per_worker=1, precision="tf32")
    assert placed(asked, {"CPU": 8, "GPU": 4}).run == config.run


def test_a_run_goes_on_in_the_precision_it_was_begun_in(config: Config) -> None:
    with_gpu, without = {"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0}
    assert placed(config, with_gpu).run.precision == "bf16"
    assert placed(config, without).run.precision == "fp32"
    directory = RunDirectory(config.run.uri)
    directory.claim(placed(config, with_gpu))
    again = placed(config, without)
    assert again.run.precision == "bf16"
    directory.claim(again)
    directory.check(config)  # as a study looks for cells that have ended
    with pytest.raises(UsageError, match=r"another config \(.*precision: bf16; .*precision: tf32"):
        directory.claim(placed(run(config, precision="tf32"), without))


def test_an_older_run_had_fp32(config: Config) -> None:
    directory = RunDirectory(config.run.uri)
    stored = "".join(line for line in to_yaml(config).splitlines(keepends=True) if "precision" not in line)
    storage.write(directory.path("config.yaml"), stored.encode())
    directory.claim(placed(config, {"CPU": 8.0, "GPU": 4.0}))


def test_gpus_are_used_where_there_are_any(config: Config) -> None:
    assert placed(config, {"CPU": 8, "GPU": 4}).run.gpus_per_worker == 1
    assert placed(config, {"CPU": 8}).run.gpus_per_worker == 0


def test_as_many_workers_as_there_is_room_and_work_for(config: Config) -> None:
    run(config, workers=0)
    assert placed(config, {"CPU": 4}).run.workers == 4
    assert placed(config, {"CPU": 9, "GPU": 3}).run.workers == 3
    assert placed(run(config, cpus_per_worker=2, gpus_per_worker=0), {"CPU": 9}).run.workers == 4
    assert placed(run(config, cpus_per_worker=1), {"CPU": 999}).run.workers == 8  # positives of a batch of 16


@pytest.mark.parametrize(
    ("changes", "resources", "message"),
    [
        ({"workers": 8, "gpus_per_worker": 1}, {"CPU": 64, "GPU": 4}, "asks for 8 GPUs, there are 4; lower .* to 4"),
        ({"workers": 4, "cpus_per_worker": 2}, {"CPU": 6}, "asks for 8 CPUs, there are 6; lower run.workers to 3"),
        ({"workers": 4, "min_workers": 3}, {"CPU": 2}, "asks for 3 CPUs, there are 2"),
    ],
)
def test_what_is_missing_is_said(
    config: Config, changes: dict[str, object], resources: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        placed(run(config, **changes), resources)
    placed(run(config, autoscaling=True), resources)


def test_an_elastic_run_begins_with_fewer(config: Config) -> None:
    assert placed(run(config, workers=4, min_workers=2), {"CPU": 2}).run.workers == 4


@pytest.mark.parametrize(
    ("settings", "resources", "workers", "at_once"),
    [
        (["run.workers=1", "search.concurrency=4"], {"CPU": 2.0}, 1, 2),
        (["run.workers=2"], {"CPU": 2.0}, 2, 1),
        (["run.workers=0"], {"CPU": 6.0}, 6, 1),
        (["run.workers=0", "search.concurrency=3"], {"CPU": 6.0}, 2, 3),
        (["run.workers=2", "run.gpus_per_worker=1"], {"CPU": 64.0, "GPU": 8.0}, 2, 4),
        (["run.workers=2", "run.autoscaling=true", "search.concurrency=5"], {"CPU": 2.0}, 2, 5),
    ],
)
def test_no_more_trials_at_once_than_fit(
    settings: list[str], resources: dict[str, float], workers: int, at_once: int
) -> None:
    placed_config, found = concurrent(load(Config, None, settings), resources)
    assert (placed_config.run.workers, found) == (workers, at_once)
