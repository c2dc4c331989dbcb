"""Invariant 2: the same gradients on 1, 2 and 4 gloo ranks, in fp64, to 1e-10."""

import dataclasses
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as td
import torch.multiprocessing as mp

from raymds import dist
from raymds.config import Config
from raymds.data.loader import Loader
from raymds.data.shards import DataSet
from raymds.model import load
from raymds.tasks import resolve
from raymds.train.cycle import ConstrainedCycle, build_sampler

STEPS = 2


def run_rank(rank: int, ranks: int, folder: str, config: Config) -> None:
    """Two steps in fp64; rank 0 writes the gradients and weights it ends with."""
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{folder}/rendezvous-{ranks}", rank=rank, world_size=ranks)
    data = DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    train = data.load("train")
    net = load("tiny-64", config.model.weights, tasks.heads, config.model.head_rank, 0).double()
    sampler = build_sampler(train, tasks, config)
    training = ConstrainedCycle(net, train, tasks, sampler, config)
    training.measure_old()
    loader = Loader(train, lambda step: sampler.batch(step).share(rank, ranks), 64, 0)
    result: dict[str, torch.Tensor] = {}
    absent = False
    for step in range(STEPS):
        loaded = loader.get(step)
        absent |= len(set(sampler.batch(step).example_task) - set(loaded.batch.example_task)) > 0
        training.step(loaded)
        for name, parameter in training._learner.names.items():
            assert parameter.grad is not None, name
            result[f"{step}.{name}"] = parameter.grad.clone()
    result |= {f"state.{name}": value for name, value in training.state_dict().items()}
    result["absent"] = dist.all_reduce_sum(torch.tensor(float(absent)))
    if rank == 0:
        torch.save(result, f"{folder}/{ranks}.pt")
    td.destroy_process_group()


@pytest.fixture(scope="module")
def gradients(
    data_uri: str, old_weights: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, torch.Tensor]]:
    from raymds.config import load as load_config  # noqa: PLC0415
    from tests.conftest import overrides  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("ranks")
    # 9 positives, 10 negatives, 3 of 13 tasks with 5 examples each: uneven on 2 and 4 ranks, with absent tasks.
    settings = ["objective.batch=19", "objective.positive_share=0.47", "constraints.tasks_per_step=3"]
    settings += ["constraints.images_per_task=5", "constraints.slack=-0.2", "optim.clip=1e9"]
    config = load_config(Config, None, [*overrides(data_uri, old_weights, str(folder)), *settings])
    multiprocessing.set_forkserver_preload([__name__])  # imports once for all ranks
    results = {}
    for ranks in (1, 2, 4):
        arguments = (ranks, str(folder), dataclasses.replace(config))
        mp.start_processes(run_rank, arguments, nprocs=ranks, start_method="forkserver")
        results[ranks] = torch.load(Path(folder) / f"{ranks}.pt", weights_only=True)
    return results


@pytest.mark.parametrize("ranks", [2, 4])
def test_gradients_do_not_depend_on_the_number_of_ranks(
    gradients: dict[int, dict[str, torch.Tensor]], ranks: int
) -> None:
    one, many = gradients[1], gradients[ranks]
    assert many["absent"] > 0  # the case that a task is absent from a rank did occur
    compared = [name for name in one if name.startswith(("0.", "1.", "state.u", "state.log_s"))]
    assert len(compared) > 50
    for name in compared:
        want = one[name].nan_to_num(0.0)
        scale = max(1.0, float(want.abs().max()))
        assert float((many[name].nan_to_num(0.0) - want).abs().max()) <= 1e-10 * scale, name
    assert any(float(one[name].abs().max()) > 1e-4 for name in compared)
