"""The image: what is in it, what it leaves out, and in which order it is made."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import ray
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.cluster.files import CLUSTER, ROOT

TEXT = (CLUSTER / "Dockerfile").read_text()
# One instruction a line, comments left out.
LINES = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ").splitlines()


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ").strip() for line in LINES if line.startswith(f"{name} ")]


def test_it_has_no_known_flaw() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_it_has_the_programs_that_ray_calls() -> None:
    (install,) = (line for line in instructions("RUN") if "apt-get" in line)
    # ssh and rsync from the head to workers, netbase for the names of ports, wget for KubeRay's probes.
    assert {"openssh-client", "rsync", "netbase", "wget", "ca-certificates", "bash"} <= set(install.split())


@functools.cache
def requirements() -> list[str]:
    """What the Dockerfile's own line writes of pyproject.toml."""
    (line,) = (line for line in instructions("RUN") if "requirements.txt" in line)
    write = line.partition("&&")[0].replace("python -c", f"{sys.executable} -c").replace("> requirements.txt", "")
    written = subprocess.run(["bash", "-c", write], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return written.splitlines()


@functools.cache
def brought() -> set[str]:
    """The names of the distributions that are installed with these requirements."""
    found: set[tuple[str, str]] = set()
    open_ones = [(Requirement(line), extra) for line in requirements() for extra in ("", *Requirement(line).extras)]
    while open_ones:
        requirement, extra = open_ones.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for text in importlib.metadata.requires(name) or []:
            inner = Requirement(text)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                open_ones += [(inner, each) for each in ("", *inner.extras)]
    return {name for name, _ in found}


def imported(folder: Path) -> set[str]:
    """The modules that the files of a folder import, but for Ray's own and Python's."""
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    return {name for name in names if name.partition(".")[0] not in {"ray", *sys.stdlib_module_names}}


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_it_has_the_packages_that_rays_launcher_imports_on_the_head(provider: str) -> None:
    needed = imported(Path(ray.__file__).parent / "autoscaler" / "_private" / provider)
    assert needed & {"boto3", "googleapiclient"}
    there = set()
    for name in brought():
        files = importlib.metadata.files(name) or []
        there |= {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    assert needed <= there


def test_each_package_it_installs_is_pinned() -> None:
    pinned = {canonicalize_name(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}
    assert brought() - {"setuptools"} <= pinned  # which is a tool of pip, and comes in the version that torch asks for


def test_a_change_of_the_code_makes_the_last_layers_alone_anew() -> None:
    packages = next(number for number, line in enumerate(LINES) if "--requirement" in line)
    copied = {
        source: number for number, line in enumerate(LINES) if line.startswith("COPY ") for source in line.split()[1:-1]
    }
    assert {source for source, number in copied.items() if number < packages} == {"constraints.txt", "pyproject.toml"}
    assert copied["raymds"] > packages


def test_what_it_copies_is_sent_to_the_builder_and_nothing_else() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    def sent(path: str) -> bool:
        kept = True
        for rule in rules:  # the last that fits counts, for a folder and what is below it
            pattern = rule.removeprefix("!").removeprefix("**/")
            parts = path.split("/")
            above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
            if any(fnmatch(each, pattern) for each in (parts if "**/" in rule else above)):
                kept = rule.startswith("!")
        return kept

    for source in (source for line in instructions("COPY") for source in line.split()[:-1]):
        assert (ROOT / source).exists() and sent(source), source
    assert sent("raymds/cli/main.py") and not sent("raymds/cli/__pycache__/main.cpython-311.pyc")
    for path in ("data/mine/train.parquet", "demo", ".git/config", ".venv/bin/python", "tests/conftest.py"):
        assert not sent(path), path


def test_its_user_is_not_root_and_owns_the_folder_it_works_in() -> None:
    assert instructions("USER") == ["1000"]
    work = instructions("WORKDIR")[-1]
    assert any(f"install --directory --owner ray --group ray {work}" in line for line in instructions("RUN"))
    assert LINES.index("USER 1000") > max(number for number, line in enumerate(LINES) if line.startswith("RUN "))


def test_its_environment_finds_gkes_driver_and_asks_for_no_gpu() -> None:
    (environment,) = instructions("ENV")
    variables = dict(entry.split("=", 1) for entry in environment.split())
    assert variables["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"
    assert variables["PATH"].startswith("/usr/local/nvidia/bin:")
    assert "NVIDIA_VISIBLE_DEVICES" not in variables
    assert variables["HOME"] == "/home/ray"  # where the launcher looks for it
