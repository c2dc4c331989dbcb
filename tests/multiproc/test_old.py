"""Ranks whose stores do not show the same yet: all have what rank 0 has."""

from copy import deepcopy
from pathlib import Path

import torch
import torch.distributed as td
import torch.multiprocessing as mp

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.method import dist
from raymds.tasks import resolve
from raymds.train.net import open_net
from raymds.train.old import OldModel
from tests.multiproc.test_gradients import join

LOSSES = [torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)]


def run_rank(rank: int, ranks: int, folder: str, config: Config) -> None:
    """Each rank looks into a folder of its own; what it finds is written there."""
    join(rank, ranks, f"{folder}/rendezvous")
    data = DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    known = OldModel(f"{folder}/old-{rank}", config, data, tasks, open_net(config, tasks.heads))
    measured: list[int] = []

    def measure() -> list[torch.Tensor]:
        measured.append(rank)
        return LOSSES

    first, again = known.retained(measure), known.retained(measure)
    sent = dist.broadcast(torch.arange(3.0).reshape(1, 3) if rank == 0 else torch.full((1, 3), torch.nan))
    torch.save({"first": first, "again": again, "sent": sent, "measured": len(measured)}, f"{folder}/{rank}.pt")
    td.destroy_process_group()


def test_all_ranks_have_what_rank_0_has(config: Config, tmp_path: Path) -> None:
    mp.start_processes(run_rank, (2, str(tmp_path), deepcopy(config)), nprocs=2, start_method="forkserver")
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(map(torch.equal, found["first"], LOSSES))
        assert all(map(torch.equal, found["again"], LOSSES))
        assert found["measured"] == 1
        assert found["sent"].tolist() == [[0.0, 1.0, 2.0]]
    assert not (tmp_path / "old-1").exists()
