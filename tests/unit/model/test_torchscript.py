"""Tensors of TorchScript archives against torch's own reader, which runs their code."""

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raymds.model import torchscript
from tests.unit.model.small import open_clips


def archive(module: nn.Module, path: Path, method: str = "forward", example: Tensor | None = None) -> zipfile.ZipFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        traced = torch.jit.trace_module(module, {method: torch.ones(2, 3) if example is None else example})
        torch.jit.save(traced, path)
    return zipfile.ZipFile(path)


def by_torch(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state: dict[str, Tensor] = torch.jit.load(path).state_dict()
    return state


class Odd(nn.Module):
    """Every kind of tensor that a model may hold: views of one memory, half precision, counters, numbers."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(12.0).reshape(3, 4)
        self.turned = nn.Parameter(whole.T)
        self.part = nn.Parameter(whole[1:, 1:])
        self.narrow = nn.Linear(3, 2).half()
        self.norm = nn.BatchNorm1d(3).eval()
        self.register_buffer("scale", torch.tensor(2.5, dtype=torch.float64))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("input_resolution", torch.tensor(224))
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.ModuleList([nn.Linear(3, 1)])[0])

    def forward(self, x: Tensor) -> Tensor:
        x = (
            self.norm(x) @ self.turned[:3, :3] * self.scale.float() * self.mask
            + self.part.sum()
            + self.input_resolution
        )
        return self.narrow(x.half()).float().sum() + self.inner(x)


@pytest.mark.parametrize("make", [Odd, lambda: nn.Linear(3, 1)], ids=["odd", "linear"])
def test_it_reads_what_torch_reads(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    path = tmp_path / "w.pt"
    got = torchscript.state_dict(archive(make().eval(), path))
    want = by_torch(path)
    assert {name: value.dtype for name, value in want.items()} == {
        name: value.dtype for name, value in got.items() if isinstance(value, Tensor)
    }
    assert all(torch.equal(tensor, got[name]) for name, tensor in want.items())


def test_it_reads_a_whole_model(tmp_path: Path) -> None:
    path, source = tmp_path / "w.pt", open_clips()
    got = torchscript.state_dict(archive(source, path, "encode_text", torch.zeros(1, 32, dtype=torch.int64)))
    assert all(torch.equal(tensor, got[name]) for name, tensor in source.state_dict().items())


def test_it_knows_an_archive_by_its_members(tmp_path: Path) -> None:
    traced = archive(nn.Linear(3, 1), tmp_path / "w.pt")
    assert torchscript.is_torchscript(traced.namelist())
    buffer = io.BytesIO()
    torch.save(nn.Linear(3, 1).state_dict(), buffer)
    assert not torchscript.is_torchscript(zipfile.ZipFile(buffer).namelist())


class Harmful:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def forged(content: Any) -> zipfile.ZipFile:
    """An archive whose description is any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("w/data.pkl", pickle.dumps(content, protocol=2))
        file.writestr("w/constants.pkl", b"")
        file.writestr("w/code/x.py", b"raise SystemExit")
    return zipfile.ZipFile(buffer)


@pytest.mark.parametrize(
    "harm",
    [Harmful(exec, "raise SystemExit('code ran')"), Harmful(torch.load, "x"), Harmful(getattr, "x", "upper"), Odd],
    ids=["exec", "load", "getattr", "class"],
)
def test_nothing_of_it_is_run(harm: Any) -> None:
    with pytest.raises(pickle.UnpicklingError, match="was not expected in an archive of weights"):
        torchscript.state_dict(forged(harm))


def test_a_tensor_beyond_its_memory_is_an_error(tmp_path: Path) -> None:
    archive(nn.Linear(3, 1), tmp_path / "w.pt").close()
    with zipfile.ZipFile(tmp_path / "w.pt") as old, zipfile.ZipFile(tmp_path / "cut.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:4] if "/data/" in name else old.read(name))
    with zipfile.ZipFile(tmp_path / "cut.pt") as cut, pytest.raises(RuntimeError):
        torchscript.state_dict(cut)
