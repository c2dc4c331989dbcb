"""What the cluster has decides what the config leaves open, and bounds what it asks for."""

import math

import pytest
from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import ResourceRequestStrategy
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import OngoingRequest, _compute_reservations
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2.api.config import ScalingConfig

from raymds.config import Config, load, to_yaml
from raymds.errors import UsageError
from raymds.run import RunDirectory
from raymds.store import uri as storage
from raymds.train.placement import Room, concurrent, per_worker, placed, require_memory, spare


def machine(cpus: float, gpus: float = 0, count: float = 1) -> Room:
    return Room((({"CPU": cpus, "GPU": gpus}, count),))


def run(config: Config, **changes: object) -> Config:
    for name, value in changes.items():
        setattr(config.run, name, value)
    return config


def test_what_is_asked_for_is_kept(config: Config) -> None:
    asked = run(config, workers=2, cpus_per_worker=3, gpus_per_worker=1, precision="tf32")
    assert placed(asked, machine(8, 4)).run == config.run


def test_a_run_goes_on_in_the_precision_it_was_begun_in(config: Config) -> None:
    with_gpu, without = machine(8, 4), machine(8)
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
    directory.claim(placed(config, machine(8, 4)))


def test_gpus_are_used_where_there_are_any(config: Config) -> None:
    assert placed(config, machine(8, 4)).run.gpus_per_worker == 1
    assert placed(config, machine(8)).run.gpus_per_worker == 0


def test_cpus_of_a_machine_are_shared_out_by_its_gpus(config: Config) -> None:
    assert placed(config, machine(8, 4)).run.cpus_per_worker == 2
    assert placed(config, machine(7, 2)).run.cpus_per_worker == 3
    assert placed(run(config, gpus_per_worker=0.5), machine(16, 1)).run.cpus_per_worker == 8
    assert placed(run(config, gpus_per_worker=2, workers=1), machine(16, 8)).run.cpus_per_worker == 4
    uneven = Room((({"CPU": 32.0}, 1), ({"CPU": 16.0, "GPU": 1.0}, 1), ({"CPU": 24.0, "GPU": 4.0}, 1)))
    most = placed(run(config, gpus_per_worker=1, workers=0), uneven).run
    assert (most.cpus_per_worker, most.workers) == (6, 5)
    assert placed(run(config, gpus_per_worker=0), machine(16, 1)).run.cpus_per_worker == 1
    assert placed(run(config, gpus_per_worker=1, cpus_per_worker=3), machine(16, 1)).run.cpus_per_worker == 3


def test_what_only_gpus_multiply_in_is_refused_without_them(config: Config) -> None:
    config.select.precision = "tf32"
    assert placed(config, machine(8, 4)).select.precision == "tf32"
    with pytest.raises(UsageError, match=r"select\.precision=tf32: is a precision of GPUs, .* is 0; give fp32"):
        placed(config, machine(8))


def test_as_many_workers_as_there_is_room_and_work_for(config: Config) -> None:
    run(config, workers=0)
    assert placed(config, machine(4)).run.workers == 4
    assert placed(config, machine(9, 3)).run.workers == 3
    assert placed(run(config, cpus_per_worker=2, gpus_per_worker=0), machine(9)).run.workers == 4
    assert placed(run(config, cpus_per_worker=1), machine(999)).run.workers == 8  # positives of a batch of 16


@pytest.mark.parametrize(
    ("changes", "room", "message"),
    [
        (
            {"workers": 8, "gpus_per_worker": 1},
            machine(64, 4),
            r"run\.workers=8: asks for 8 workers with 16 CPUs and 1 GPUs each, 4 of them fit "
            r"\(machines: 1 with 64 CPUs and 4 GPUs\); lower run\.workers to 4, or set run\.autoscaling",
        ),
        ({"workers": 4, "cpus_per_worker": 2}, machine(6), r"3 of them fit .*; lower run\.workers to 3"),
        (
            {"workers": 4, "min_workers": 3},
            machine(2),
            r"run\.min_workers=3: .* 2 of them fit .*; lower run\.min",
        ),
        ({"workers": 0, "min_workers": 3}, machine(2), r"run\.min_workers=3: asks for 3 .* 2 of them fit"),
        # Four cores on as many machines are none for a worker of four.
        ({"workers": 1, "cpus_per_worker": 4}, machine(1, count=4), r"none of them fit .*; lower run\.cpus_per_worker"),
        ({"workers": 0}, machine(0), r"asks for 1 workers .*, none of them fit .*; lower run\.cpus_per_worker"),
        ({"workers": 0}, Room(()), r"none of them fit \(machines: none\)"),
    ],
)
def test_what_is_missing_is_said(config: Config, changes: dict[str, object], room: Room, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        placed(run(config, **changes), room)


def test_the_images_of_a_step_have_to_fit_on_a_machine(config: Config) -> None:
    two = Room((({"CPU": 8.0, "memory": 2.0 * 2**30}, 4), ({"CPU": 8.0, "memory": 2.0**40}, 0)))
    run(config, workers=4).objective.batch = 4 * (2**31 // (3 * 64**2))
    require_memory(config, two, 64)
    require_memory(config, machine(8), 4096)  # nobody says what it has
    with pytest.raises(UsageError, match=r"^objective\.batch=699048: .* 9 GiB for each of 4 workers, .* than 2 GiB;"):
        require_memory(config, two, 136)


@pytest.mark.parametrize(
    ("changes", "room", "expected"),
    [
        ({"workers": 2}, machine(3), True),
        ({"workers": 2}, machine(2), False),
        ({"workers": 2, "cpus_per_worker": 2}, machine(3, count=2), False),  # two cores are left, on two machines
        ({"workers": 2, "gpus_per_worker": 1}, machine(8, 2), False),
        ({"workers": 2, "gpus_per_worker": 1}, machine(8, 3), True),
        ({"workers": 2, "min_workers": 1}, machine(8), False),
        ({"workers": 2, "autoscaling": True}, machine(8), False),
        ({"workers": 0}, machine(4), False),
    ],
)
def test_where_one_worker_more_has_room_candidates_are_measured_there(
    config: Config, changes: dict[str, object], room: Room, expected: bool
) -> None:
    assert spare(placed(run(config, **changes), room), room) == expected
    config.select.every = config.optim.steps
    assert not spare(placed(config, room), room)  # the only candidate is the last one


def test_a_machine_may_hold_a_part_of_what_another_does(config: Config) -> None:
    mixed = Room((({"CPU": 7.0, "GPU": 1.0}, 2), ({"CPU": 4.0}, 1), ({"CPU": 0.0}, 1)))
    assert placed(run(config, workers=0, cpus_per_worker=3, gpus_per_worker=0), mixed).run.workers == 5
    assert placed(run(config, workers=0, cpus_per_worker=3, gpus_per_worker=1), mixed).run.workers == 2
    tenths = run(config, workers=0, cpus_per_worker=0.1, gpus_per_worker=0)
    assert placed(tenths, machine(0.6)).run.workers == 6  # 0.6 / 0.1 is a hair below 6


def test_a_cluster_that_grows_is_counted_as_it_may_become(config: Config) -> None:
    run(config, autoscaling=True, workers=0)
    assert placed(config, machine(8, 1, count=4)).run.workers == 4
    assert placed(config, machine(8, 1, count=math.inf)).run.workers == 8  # positives of a batch of 16
    with pytest.raises(UsageError, match=r"run\.workers=8: .* 4 of them fit \(the cluster grows to .*4 with 8 CPUs"):
        placed(run(config, workers=8), machine(8, 1, count=4))


def test_machines_without_number_that_hold_no_worker_count_for_nothing(config: Config) -> None:
    mixed = Room((({"CPU": 8.0}, math.inf), ({"CPU": 8.0, "GPU": 1.0}, 4)))
    run(config, autoscaling=True, workers=0)
    assert placed(config, mixed).run.workers == 4
    with pytest.raises(UsageError, match=r"run\.workers=7: .* 4 of them fit .*any number of machines with 8 CPUs"):
        placed(run(config, workers=7), mixed)


@pytest.mark.parametrize("key", ["cpus_per_worker", "gpus_per_worker"])
def test_a_share_that_ray_does_not_give(config: Config, key: str) -> None:
    with pytest.raises(UsageError, match=rf"run\.{key}=1e-320: has to be .*0\.0001 or more"):
        placed(run(config, workers=0, **{key: 1e-320}), machine(8, 1))


def test_a_cluster_that_says_nothing_of_its_growth_leaves_nothing_open(config: Config) -> None:
    """As KubeRay's and the launcher's at zero: what is given is waited for, whatever there is."""
    nothing = Room((({"CPU": 0.0}, 1),), known=False)
    run(config, autoscaling=True, workers=8)
    with pytest.raises(UsageError, match=r"run\.gpus_per_worker: can't be left open .*; give 0 or 1"):
        placed(config, nothing)
    assert placed(run(config, gpus_per_worker=1), nothing).run.workers == 8
    with pytest.raises(UsageError, match=r"run\.workers: can't be left open .*; give a number"):
        placed(run(config, workers=0), nothing)


def test_an_elastic_run_begins_with_fewer(config: Config) -> None:
    assert placed(run(config, workers=4, min_workers=2), machine(2)).run.workers == 4


@pytest.mark.parametrize(("share", "workers"), [(0.1, 10), (0.2, 5), (0.3, 3), (0.01, 100), (0.5, 2), (1, 1)])
def test_an_elastic_run_has_all_workers_that_fit(config: Config, share: float, workers: int) -> None:
    """Counted by Ray: what its coordinator reserves on one machine, and how many its policy finds in that."""
    run(config, workers=workers, min_workers=1, cpus_per_worker=share, gpus_per_worker=share)
    asked = per_worker(config)
    scaling = ScalingConfig(num_workers=(1, workers), use_gpu=True, resources_per_worker=asked)
    request = OngoingRequest(0, [asked] * workers, 1, frozenset(), 0, {}, [{}] * workers, ResourceRequestStrategy.PACK)
    reserved = _compute_reservations(request, {"machine": {"CPU": 1.0, "GPU": 1.0}})
    assert ElasticScalingPolicy(scaling)._count_possible_workers(reserved) == workers


@pytest.mark.parametrize(
    ("settings", "room", "workers", "at_once"),
    [
        (["run.workers=1", "search.concurrency=4"], machine(2), 1, 2),
        (["run.workers=2"], machine(2), 2, 1),
        (["run.workers=0"], machine(6), 6, 1),
        (["run.workers=0", "search.concurrency=3"], machine(6), 2, 3),
        (["run.workers=2", "run.gpus_per_worker=1"], machine(64, 8), 2, 4),
        (
            ["run.workers=2", "run.gpus_per_worker=0", "run.autoscaling=true", "search.concurrency=5"],
            Room((({"CPU": 2.0}, 1),), known=False),
            2,
            5,
        ),
        (["run.workers=2", "run.autoscaling=true", "search.concurrency=5"], machine(4, count=2), 2, 4),
        (["run.workers=2", "run.autoscaling=true", "search.trials=9"], machine(4, count=math.inf), 2, 9),
    ],
)
def test_no_more_trials_at_once_than_fit(settings: list[str], room: Room, workers: int, at_once: int) -> None:
    placed_config, found = concurrent(load(Config, None, settings), room)
    assert (placed_config.run.workers, found) == (workers, at_once)
