"""Invariant 2: equal gradients on 1, 2 and 4 gloo ranks, in fp64, to 1e-10; equal weights on 2, then 1, then 3."""

import multiprocessing
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
import torch.multiprocessing as mp

from raymds.config import Config
from raymds.config import load as load_config
from raymds.data.exchange import pin
from raymds.data.loader import Loader
from raymds.data.sampler import Sampler, shares
from raymds.data.shards import DataSet
from raymds.errors import DivergedError
from raymds.method import dist
from raymds.model import clip, load
from raymds.tasks import resolve
from raymds.train import cycle, prompts
from raymds.train.cycle import ConstrainedCycle
from raymds.train.limits import build_sampler
from tests.conftest import overrides
from tests.towers import TOWERS, write_tower

STEPS = 2
ESTIMATORS = tuple(f"state.{name}" for name in ("u", "mu", "scale", "infeasible", "log_s", "fisher"))


def join(rank: int, ranks: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)


def begin(rank: int, ranks: int, config: Config, window: int = 0) -> tuple[ConstrainedCycle, Sampler, Loader]:
    """A cycle in fp64 on one rank of a group, its split streamed in windows of as many shards."""
    data = DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    train = replace(data.load("train"), window=window)
    net = load(config.model.name, config.model.weights, tasks.heads, config.model.head_rank, 0).double()
    sampler = build_sampler(train, tasks, config)
    pin(train, sampler.recurring)
    training = ConstrainedCycle(net, train, tasks, sampler, config)
    return training, sampler, Loader(train, lambda step: sampler.batch(step).share(rank, ranks), net.preprocess, 0)


def run_rank(rank: int, ranks: int, folder: str, configs: dict[str, Config], window: int = 0) -> None:
    """Two steps in fp64 of each config; rank 0 writes the gradients and weights that they end with."""
    join(rank, ranks, f"{folder}/rendezvous-{ranks}")
    for name, config in configs.items():
        result = two_steps(rank, ranks, config, window)
        if rank == 0:
            torch.save(result, f"{folder}/{name}-{ranks}.pt")
    td.destroy_process_group()


def run_compiled(rank: int, ranks: int, folder: str, configs: dict[str, Config]) -> None:
    """As `run_rank`, with towers that are traced for a compiler, forward and backward, and then run as they are."""
    torch.compile = partial(torch.compile, backend="aot_eager")
    run_rank(rank, ranks, folder, configs)


def run_in_small_chunks(rank: int, ranks: int, folder: str, configs: dict[str, Config]) -> None:
    """As `run_rank`, with label sets large enough to be shared out, and examples that one pass may do for."""
    clip.TEXT_CHUNK = prompts.TEXT_CHUNK = 3
    clip.STEP_CHUNK = cycle.STEP_CHUNK = 5
    passes: list[int] = []
    forward = clip.ClipWithHeads.forward

    def counted(*given: Any) -> Any:
        passes.append(given[5] if len(given) > 5 else 0)
        return forward(*given)

    clip.ClipWithHeads.forward = counted  # type: ignore[method-assign]
    run_rank(rank, ranks, folder, configs)
    assert len(passes) == 2 * len(configs)
    once = [passes[2 * i + 1] > 0 for i in range(len(configs))]  # never in a first step: nothing is violated before
    assert not any(passes[::2])
    assert once == [name == "squared_hinge" for name in configs], passes


def two_steps(rank: int, ranks: int, config: Config, window: int) -> dict[str, torch.Tensor]:
    """Every parameter's gradient in two steps, and the state after them."""
    training, sampler, loader = begin(rank, ranks, config, window)
    training.measure_old()
    training.begin()
    result: dict[str, torch.Tensor] = {}
    absent, uneven = False, 0
    for step in range(STEPS):
        loaded = loader.get(step)
        absent |= len(set(sampler.batch(step).example_task) - set(loaded.batch.example_task)) > 0
        sizes = [len(rows) for rows in sampler.batch(step).dealt(ranks)[1]]
        uneven = max(uneven, max(sizes) - min(sizes))
        training.step(loaded)
        for name, parameter in training._learner.names.items():
            assert parameter.grad is not None, name
            result[f"{step}.{name}"] = parameter.grad.clone()
    result |= {f"state.{name}": value for name, value in training.state_dict().items()}
    loader.close()
    result["uneven"] = torch.tensor(float(uneven))
    return result | {"absent": dist.all_reduce_sum(torch.tensor(float(absent)))}


def go_on(rank: int, ranks: int, folder: str, config: Config, first: int, last: int) -> None:
    """Steps `first` … `last` − 1, from the state that other ranks left to the state that others will find."""
    join(rank, ranks, f"{folder}/rendezvous-{first}-{last}")
    training, sampler, loader = begin(rank, ranks, config)
    if first:
        kept = torch.load(f"{folder}/state-{first}.pt", weights_only=True)
        training.model.load_weights(kept["weights"], "state")
        training.load_state_dict(kept["state"])
    else:
        training.measure_old()
    rows = []
    for step in range(first, last):
        loaded = loader.get(step)
        share = torch.from_numpy(loaded.batch.positive)
        rows.append(dist.all_gather(share, shares(sampler.positives, ranks)))
        training.step(loaded)
    if rank == 0:
        weights = {name: value.double() for name, value in training.model.weights().items()}
        kept = {"weights": weights, "state": training.state_dict(), "rows": torch.stack(rows)}
        torch.save(kept, f"{folder}/state-{last}.pt")
    td.destroy_process_group()


def with_nan(rank: int, ranks: int, folder: str, config: Config) -> None:
    """A step in which the last rank's images come out as NaN; each rank writes how it ended."""
    join(rank, ranks, f"{folder}/rendezvous")
    training, _, loader = begin(rank, ranks, config)
    training.measure_old()
    if rank == ranks - 1:
        embed = training._learner.embed
        training._learner.embed = lambda *given: (embed(*given)[0] * torch.nan, embed(*given)[1])  # type: ignore[method-assign]
    before = training.model.weights()
    taken = training.step(loader.get(0))
    with pytest.raises(DivergedError) as ended:
        taken.metrics()
    assert all(torch.equal(value, before[name]) for name, value in training.model.weights().items())
    loader.close()
    Path(folder, f"{rank}.txt").write_text(str(ended.value))
    td.destroy_process_group()


@pytest.fixture(scope="module")
def config(data_uri: str, old_weights: str, tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("ranks")
    # 9 positives, 10 negatives, 3 of 13 tasks with 5 examples each: uneven on 2 and 4 ranks, with absent tasks.
    settings = ["objective.batch=19", "objective.positive_share=0.47", "constraints.tasks_per_step=3"]
    settings += ["constraints.images_per_task=5", "constraints.slack=-0.2", "optim.clip=1e9"]
    multiprocessing.set_forkserver_preload([__name__])  # imports once for all ranks
    return load_config(Config, None, [*overrides(data_uri, old_weights, str(folder)), *settings])


METHODS: dict[str, dict[str, Any]] = {
    "squared_hinge": {},
    "augmented_lagrangian": {
        "loss": "error",
        "units": "objective",
        "held_out": 0.4,
        "margin": 2.0,
        "beta": 10.0,
        "eta": 100.0,
    },
    "without data": {
        "solver": "squared_hinge",
        "loss": "error",
        "units": "objective",
        "held_out": 0.4,
        "margin": 2.0,
        "beta": 10.0,
    },
    "pi": {"beta": 10.0, "eta": 1.0, "gamma": 0.3},
    "gem": {"beta": 1.0},
    "wccl": {"beta": 1.0},
    "lwf": {"beta": 1.0},
    "focal_distillation": {"beta": 1.0},
    "ewc": {"beta": 1000.0},
}
IN_PARTS = {f"{name} in parts": name for name in ("squared_hinge", "augmented_lagrangian")}
AGAIN = {f"{name} computed again": name for name in ("augmented_lagrangian", "gem")}
OTHERS = IN_PARTS | AGAIN  # ways to compute the same
ON_FOUR = ("squared_hinge", "augmented_lagrangian", "without data", "gem", *IN_PARTS)


@pytest.fixture(scope="module")
def gradients(config: Config) -> dict[tuple[str, int], dict[str, torch.Tensor]]:
    configs = {}
    for name in (*METHODS, *OTHERS):
        configs[name] = own = deepcopy(config)
        own.run.micro_batch = 3 if name in IN_PARTS else 0
        own.run.grad_checkpointing = name in AGAIN
        method = OTHERS.get(name, name)
        own.task.without_data = ["weather:snowy", "scene"] if name == "without data" else []
        for key, value in {"solver": method, **METHODS[method]}.items():
            setattr(own.constraints, key, value)
    results = {}
    for ranks in (1, 2, 4):
        asked = {name: own for name, own in configs.items() if ranks < 4 or name in ON_FOUR}
        mp.start_processes(run_rank, (ranks, config.run.uri, asked), nprocs=ranks, start_method="forkserver")
        for name in asked:
            results[name, ranks] = torch.load(Path(config.run.uri) / f"{name}-{ranks}.pt", weights_only=True)
    return results


@pytest.mark.parametrize(
    ("method", "ranks"),
    [
        *((name, 1) for name in OTHERS),
        *((name, 2) for name in (*METHODS, *OTHERS)),
        *((name, 4) for name in ON_FOUR),
    ],
)
def test_gradients_do_not_depend_on_the_number_of_ranks(
    gradients: dict[tuple[str, int], dict[str, torch.Tensor]], method: str, ranks: int
) -> None:
    """Nor on the parts in which the towers compute them, or on what they keep of a pass."""
    one, many = gradients[OTHERS.get(method, method), 1], gradients[method, ranks]
    if ranks > 1 and method not in ("lwf", "ewc"):  # which look at no retained example
        assert many["absent"] > 0  # the case that a task is absent from a rank did occur
    compare(one, many)


def compare(one: dict[str, torch.Tensor], many: dict[str, torch.Tensor]) -> None:
    """Gradients and estimators agree to 1e-10."""
    compared = [name for name in one if name.startswith(("0.", "1.", *ESTIMATORS))]
    assert len(compared) > 50
    for name in compared:
        want = one[name].nan_to_num(0.0)
        scale = max(1.0, float(want.abs().max()))
        assert float((many[name].nan_to_num(0.0) - want).abs().max()) <= 1e-10 * scale, name
    assert any(float(one[name].abs().max()) > 1e-4 for name in compared)


def test_neither_do_those_of_other_towers(config: Config, tmp_path: Path) -> None:
    """BatchNorm, stochastic depth, dropout: none of them makes a row depend on the others, or on its rank."""
    configs = {}
    for name in TOWERS:
        configs[name] = own = deepcopy(config)
        own.model.name, own.model.weights, own.task.retained = "", write_tower(name, tmp_path), 6
    for ranks in (1, 2):
        mp.start_processes(run_rank, (ranks, str(tmp_path), configs), nprocs=ranks, start_method="forkserver")
    for name in TOWERS:
        compare(*(torch.load(tmp_path / f"{name}-{ranks}.pt", weights_only=True) for ranks in (1, 2)))


def test_neither_do_those_of_a_streamed_split(config: Config, tmp_path: Path) -> None:
    """Its negatives are dealt by their shards, and the positives so that each rank has as many pairs."""
    few = deepcopy(config)
    few.objective.batch, few.objective.positive_share = 8, 0.25  # ranks without positives, or without negatives
    few.optim.steps = 1000
    passing = deepcopy(few)
    # Far fewer positives are drawn than there are: they are streamed, too.
    passing.optim.warmup, passing.optim.steps, passing.objective.positive_share = 0, 2, 0.125
    configs = {"streamed": config, "few": few, "passing": passing}
    for ranks in (1, 2, 4):
        arguments = (ranks, str(tmp_path), configs, 2)
        mp.start_processes(run_rank, arguments, nprocs=ranks, start_method="forkserver")
    for name in configs:
        one, *others = (torch.load(tmp_path / f"{name}-{ranks}.pt", weights_only=True) for ranks in (1, 2, 4))
        for many in others:
            compare(one, many)
        assert name == "passing" or many["uneven"] > 1  # more than slices are


def test_nor_do_compiled_towers_change_them(config: Config, tmp_path: Path) -> None:
    plain, compiled, parts = (deepcopy(config) for _ in range(3))
    compiled.run.compile = parts.run.compile = True
    parts.run.micro_batch = 3
    mp.start_processes(run_rank, (1, str(tmp_path), {"plain": plain}), nprocs=1, start_method="forkserver")
    arguments = (2, str(tmp_path), {"compiled": compiled, "parts": parts})
    mp.start_processes(run_compiled, arguments, nprocs=2, start_method="forkserver")
    one, *others = (
        torch.load(tmp_path / name, weights_only=True) for name in ("plain-1.pt", "compiled-2.pt", "parts-2.pt")
    )
    for many in others:
        compare(one, many)


def test_nor_do_shared_label_sets_and_examples_that_go_through_the_towers_once(config: Config, tmp_path: Path) -> None:
    configs = {}
    for name in ("squared_hinge", "augmented_lagrangian", "without data"):
        configs[name] = own = deepcopy(config)
        own.task.without_data = ["weather:snowy", "scene"] if name == "without data" else []
        for key, value in {"solver": name, **METHODS[name]}.items():
            setattr(own.constraints, key, value)
    mp.start_processes(run_rank, (1, str(tmp_path), configs), nprocs=1, start_method="forkserver")
    plain = {name: torch.load(tmp_path / f"{name}-1.pt", weights_only=True) for name in configs}
    for ranks in (1, 2, 4):
        arguments = (ranks, str(tmp_path), configs)
        mp.start_processes(run_in_small_chunks, arguments, nprocs=ranks, start_method="forkserver")
        for name in configs:
            compare(plain[name], torch.load(tmp_path / f"{name}-{ranks}.pt", weights_only=True))


def test_a_nan_of_one_rank_ends_all_of_them_in_the_same_step(config: Config, tmp_path: Path) -> None:
    """And nobody's weights are changed: one that went on would wait for the others until its timeout."""
    mp.start_processes(with_nan, (2, str(tmp_path), config), nprocs=2, start_method="forkserver")
    one, other = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert one.startswith("step 0: the loss of weather:foggy is nan; lower optim.lr")
    assert one == other


def test_a_change_of_workers_in_mid_run_changes_nothing(config: Config, tmp_path: Path) -> None:
    """2 workers, then 1, then 3: the batches of one worker in their order, and its weights to 1e-9."""
    ends = {}
    for name, stages in (("alone", [(1, 0, 6)]), ("changing", [(2, 0, 2), (1, 2, 4), (3, 4, 6)])):
        folder = tmp_path / name
        folder.mkdir()
        for ranks, first, last in stages:
            arguments = (ranks, str(folder), config, first, last)
            mp.start_processes(go_on, arguments, nprocs=ranks, start_method="forkserver")
        parts = [torch.load(folder / f"state-{last}.pt", weights_only=True) for *_, last in stages]
        ends[name] = parts[-1]["weights"], torch.cat([part["rows"] for part in parts])
    (want, rows), (found, same_rows) = ends["alone"], ends["changing"]
    assert torch.equal(rows, same_rows)
    assert len(want) > 20
    for name, value in want.items():
        assert float((found[name] - value).abs().max()) <= 1e-9, name
