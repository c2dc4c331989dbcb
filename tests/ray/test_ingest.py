"""An ingest: the same bytes on any number of CPUs, also when killed and resumed; broken images are named."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from raymds.config import load
from raymds.data import shards
from raymds.data.config import IngestConfig
from raymds.data.decode import decode
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.ingest import ingest
from raymds.ingest.bdd100k import bdd100k
from raymds.ingest.ingest import Job, make_shard, shrink
from raymds.ingest.sources import Entry, Plan, Shares
from raymds.ingest.spool import Spool
from raymds.ingest.table import table
from raymds.store import uri as storage
from tests.conftest import silent

TRAIN, VAL = 30, 8
SETTINGS = ["resize=32", "rows_per_shard=5", "val_share=0.2"]


def picture(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """A smooth picture: low frequencies survive JPEG and resizing."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def saved(pixels: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def bdd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BDD100K of 38 images of 96×54 pixels; image number i is `picture(i)`."""
    root = tmp_path_factory.mktemp("bdd")
    for split, numbers in (("train", range(TRAIN)), ("val", range(TRAIN, TRAIN + VAL))):
        (root / split).mkdir()
        labels = []
        for i in numbers:
            (root / split / f"{i}.jpg").write_bytes(simplejpeg.encode_jpeg(picture(i, 96, 54), quality=95))
            attributes = {"weather": ("clear", "foggy", "undefined")[i % 3], "scene": "tunnel", "timeofday": "night"}
            labels.append({"name": f"{i}.jpg", "attributes": attributes})
        (root / f"{split}.json").write_text(json.dumps(labels if split == "train" else {"frames": labels}))
    return root


def config(*overrides: str) -> IngestConfig:
    return load(IngestConfig, None, [*SETTINGS, *overrides])


def plan(root: Path, settings: IngestConfig) -> Plan:
    return bdd100k(str(root), [str(root)], Shares(val=settings.val_share, seed=settings.seed))


def run(root: Path, uri: Path, *overrides: str, show: Any = silent) -> DataSet:
    settings = config(*overrides)
    return ingest.run(str(uri), plan(root, settings), settings, show)


@pytest.fixture(scope="module")
def made(cluster: None, bdd: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """The data set of an undisturbed ingest on 2 CPUs."""
    return run(bdd, tmp_path_factory.mktemp("made"))


def read(data: DataSet, split: str) -> list[dict[str, Any]]:
    """All rows of a split, by pyarrow alone."""
    tables = [pq.read_table(Path(data.uri, shard.file)) for shard in data.splits[split]]
    return [row for table in tables for row in table.to_pylist()]


def files(uri: str | Path) -> dict[str, tuple[int, bytes]]:
    """Shards with time of change and content."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(uri).glob("*-00*.parquet")}


def test_a_data_set_holds_every_image_with_its_labels(made: DataSet) -> None:
    seen = []
    for split, rows in (("train", 24), ("val", 6), ("test", VAL)):
        found = read(made, split)
        assert len(found) == rows
        for row in found:
            number = int(row["id"].removesuffix(".jpg"))
            pixels = decode(row["image"])
            assert pixels.shape == (32, 57, 3)
            assert np.abs(pixels - picture(number, 57, 32).astype(float)).mean() < 4
            assert row["weather"] == ("clear", "foggy", None)[number % 3]
            assert ("foggy" in row["caption"]) == (number % 3 == 1)
            seen.append(number)
    assert sorted(seen) == list(range(TRAIN + VAL))
    assert sorted(seen[-VAL:]) == list(range(TRAIN, TRAIN + VAL))  # official val is test
    assert [shard.rows for shard in made.splits["train"]] == [5, 5, 5, 5, 4]
    assert made.source["made_by"] == "raymds data ingest bdd100k"
    assert (made.source["broken"], made.source["resize"], made.source["seed"]) == ([], 32, 0)


def test_parallelism_changes_nothing(made: DataSet, bdd: Path, tmp_path: Path) -> None:
    occupant = ray.remote(num_cpus=1)(type("Occupant", (), {"here": lambda self: None})).remote()
    ray.get(occupant.here.remote())  # one of the two CPUs is taken
    assert run(bdd, tmp_path / "one").digest == made.digest
    ray.kill(occupant)
    settings = config()
    for job in ingest._jobs(plan(bdd, settings), settings):  # no Ray at all
        make_shard(str(tmp_path / "none"), str(bdd), plan(bdd, settings).attributes, settings, job)
    content = {name: data for name, (_, data) in files(made.uri).items()}
    assert {name: data for name, (_, data) in files(tmp_path / "none").items()} == content


def test_seed_and_settings_make_another_data_set(made: DataSet, bdd: Path) -> None:
    assert run(bdd, Path(made.uri)).digest == made.digest  # the same one is returned
    for other in ("seed=1", "resize=16", "quality=90", "rows_per_shard=6", "val_share=0.3"):
        with pytest.raises(UsageError, match="already holds another data set; give another directory"):
            run(bdd, Path(made.uri), other)


KILLED = """
import os, signal, sys
import ray
from raymds.config import load
from raymds.ingest import ingest
from raymds.ingest.bdd100k import bdd100k
from raymds.ingest.sources import Shares

def show(record):
    if record["done"] >= 20:
        os.kill(os.getpid(), signal.SIGKILL)

address, root, uri, *overrides = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
config = load(ingest.IngestConfig, None, overrides)
ingest.run(uri, bdd100k(root, [root], Shares(val=config.val_share, seed=config.seed)), config, show)
"""


def test_killed_and_resumed_equals_undisturbed(made: DataSet, bdd: Path, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", KILLED, address, str(bdd), str(tmp_path), *SETTINGS]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    with pytest.raises(UsageError, match="no data set there"):
        DataSet.open(str(tmp_path))
    finished = sorted(path.stem for path in (tmp_path / "ingest").iterdir())
    assert len(finished) >= 4
    damaged, lost, unrecorded, *kept = [f"{name}.parquet" for name in finished]
    (tmp_path / damaged).write_bytes(b"half")
    (tmp_path / lost).unlink()
    (tmp_path / "ingest" / unrecorded.replace("parquet", "json")).unlink()
    before, records = files(tmp_path), []
    assert run(bdd, tmp_path, show=records.append).digest == made.digest
    assert (records[-1]["done"], records[-1]["total"]) == (TRAIN + VAL, TRAIN + VAL)
    after = files(tmp_path)
    assert {name: data for name, (_, data) in after.items()} == {n: d for n, (_, d) in files(made.uri).items()}
    assert all(after[name] == before[name] for name in kept)  # not written again
    for split in made.splits.values():
        assert all(storage.sha256(after[shard.file][1]) == shard.sha256 for shard in split)


def test_broken_images_are_named_and_left_out_on_request(cluster: None, tmp_path: Path) -> None:
    good = saved(picture(0, 60, 40), "PNG")
    images: dict[str, bytes] = dict.fromkeys((f"{i}.png" for i in range(20)), good)
    images |= {"3.png": b"no image", "7.png": good[: len(good) // 2], "9.png": b""}
    images["8.png"] = saved(picture(0, 60, 40), "JPEG")[:-200]
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "5.png").unlink()
    lines = "file,text,part,sky\n" + "".join(f"{i}.png,a sky,train,blue\n" for i in range(20))
    (tmp_path / "rows.csv").write_text(lines)
    (tmp_path / "map.yaml").write_text("{image: file, caption: text, split: part, attributes: [sky]}")
    rows = table([str(tmp_path / "rows.csv")], str(tmp_path / "map.yaml"), Spool(str(tmp_path / "spool")))
    uri = str(tmp_path / "set")
    with pytest.raises(UsageError) as error:
        ingest.run(uri, rows, config(), silent)
    message = str(error.value).splitlines()
    assert message[0].startswith("5 of 20 images are broken, more than max_broken=0: mend them, or leave them out")
    assert message[0].endswith("max_broken=5")
    reasons = {"3": "can't be decoded", "5": "no such file"} | dict.fromkeys("789", "can't be decoded")
    for line, (name, reason) in zip(message[1:], reasons.items(), strict=True):
        assert line.startswith(f"  {tmp_path}/{name}.png: {reason}")
    assert not storage.exists(storage.join(uri, shards.MANIFEST))
    (tmp_path / "9.png").write_bytes(good)  # mended: its shard is made again
    data = ingest.run(uri, rows, config("max_broken=4"), silent)
    assert data.source["broken"] == ["3.png", "5.png", "7.png", "8.png"]
    assert sorted(row["id"] for row in read(data, "train")) == [
        f"row-{i:07d}" for i in range(20) if i not in {3, 5, 7, 8}
    ]


def test_images_in_a_table(cluster: None, tmp_path: Path) -> None:
    images = [saved(picture(i, 60, 40), "WEBP", lossless=True) for i in range(3)]
    spool = Spool(str(tmp_path / "aside"))
    entries = [Entry(f"row-{i}", spool.add(image), "c", (None,)) for i, image in enumerate([*images, b"none"])]
    spool.flush()
    rows = Plan("table", "", {"sky": []}, {"test": entries})
    with pytest.raises(UsageError, match=r"max_broken=1\n  row-3: can't be decoded: it is no image"):
        ingest.run(str(tmp_path), rows, config(), silent)
    found = read(ingest.run(str(tmp_path), rows, config("max_broken=1"), silent), "test")
    assert len(found) == 3
    for row in found:
        expected = picture(int(row["id"].removeprefix("row-")), 48, 32).astype(float)
        assert np.abs(decode(row["image"]) - expected).mean() < 4


def test_a_users_error_in_a_task_comes_out_as_itself(cluster: None, bdd: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^\S+/file/set/\S+\.parquet: can't be written: "):
        run(bdd, tmp_path / "file" / "set")


def test_a_failing_storage_is_no_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").touch()

    def fail(uri: str) -> bytes:
        raise UsageError(f"{uri}: can't be read: access denied")

    monkeypatch.setattr(storage, "read", fail)
    job = Job("train", "train-00000.parquet", [Entry("a", "a.jpg", "c", ())], "digest")
    with pytest.raises(UsageError, match=r"a\.jpg: can't be read: access denied"):
        make_shard(str(tmp_path / "set"), str(tmp_path), {}, config(), job)


@pytest.mark.parametrize(("width", "height", "expected"), [(1280, 720, (455, 256)), (300, 900, (256, 768))])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_resizing(width: int, height: int, expected: tuple[int, int], kind: str) -> None:
    shrunk = shrink(saved(picture(1, width, height), kind), 256, 95)
    assert simplejpeg.is_jpeg(shrunk)
    pixels = decode(shrunk)
    assert pixels.shape == (expected[1], expected[0], 3)
    reference = Image.fromarray(picture(1, width, height)).resize(expected, Image.Resampling.BOX)
    assert np.abs(pixels - np.asarray(reference, float)).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_is_small_or_wanted_as_it_is_keeps_its_bytes(kind: str) -> None:
    data = saved(picture(2, 90, 64), kind)
    assert shrink(data, 64, 95) == shrink(data, 0, 95) == data
    assert shrink(data, 63, 95) != data


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_are_turned_upright(kind: str, side: int) -> None:
    upright = picture(3, 64, 96)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: turn by 90° clockwise to show it
    data = saved(np.ascontiguousarray(np.rot90(upright)), kind, exif=exif)
    pixels = decode(shrink(data, side, 95))
    assert pixels.shape == (side * 3 // 2, side, 3)
    reference = Image.fromarray(upright).resize((side, side * 3 // 2), Image.Resampling.BOX)
    assert np.abs(pixels - np.asarray(reference, float)).mean() < 4
    assert decode(shrink(data, 0, 95)).shape == upright.shape


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(4, 96, 64)).convert(mode).save(buffer, "PNG" if mode in {"RGBA", "P"} else "JPEG")
    assert decode(shrink(buffer.getvalue(), 32, 95)).shape == (32, 48, 3)


@pytest.mark.parametrize("setting", ["resize=-1", "quality=0", "rows_per_shard=0", "val_share=1", "max_broken=-1"])
def test_settings_out_of_range(setting: str) -> None:
    key, _, value = setting.partition("=")
    with pytest.raises(UsageError, match=f"^{key}={value}.*: has to "):
        load(IngestConfig, None, [setting])
