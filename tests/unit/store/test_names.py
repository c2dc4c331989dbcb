"""What people mistype in URIs and endpoints is a sentence; what a key may have is kept."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymds.config import Config, load
from raymds.errors import UsageError
from raymds.store import names, objects
from raymds.store import uri as storage
from raymds.store.objects import StorageConfig


@pytest.mark.parametrize("key", ["a/b.jpg", "day #3/what?.jpg", "[draft] {1}/a&b=c.jpg", "ü/%20.jpg", ""])
def test_a_key_keeps_all_its_letters(key: str) -> None:
    assert names.parse(f"s3://bucket/{key}") == ("s3", "bucket", f"bucket/{key}")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://", "names no bucket; give s3://bucket/prefix"),
        ("gs:///a", "names no bucket; give gs://bucket/prefix"),
        ("s3://b//x", "has two slashes in a row"),
        ("s3://b/x//y", "has two slashes in a row"),
        ("s3://b[1]/x", r"'b\[1\]' can't name a bucket"),
        ("s3://my bucket/x", "'my bucket' can't name a bucket"),
        ("s3://key:secret@bucket/x", "s3://…bucket/x: a URI holds bucket and key alone"),
        ("s3://bucket/x?endpoint_override=localhost:9000", "s3://…bucket/x: a URI holds bucket and key alone"),
    ],
)
def test_a_uri_that_is_none(uri: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        names.parse(uri)
    with pytest.raises(UsageError, match=message):
        storage.read(uri)


@pytest.mark.parametrize(
    "endpoint", ["localhost:9000", "minio", "ftp://x", "https://", "http://[x", "http://x:99999", "//x"]
)
def test_an_endpoint_that_is_none(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "has to be a URL such as https://s3.example.com:9000"
    with pytest.raises(UsageError, match=rf"storage\.endpoint=.*: {message}"):
        objects.configure(StorageConfig(endpoint=endpoint))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    objects.configure(StorageConfig())
    with pytest.raises(UsageError, match=f"AWS_ENDPOINT_URL=.*: {message}"):
        storage.read("s3://bucket/x")


@pytest.mark.parametrize(
    "endpoint", ["http://x:1/path", "http://x:1?a=b", "http://me:hidden@x:1", "http://a b:1", "http://x:1#c"]
)
def test_an_endpoint_is_scheme_host_and_port_alone(endpoint: str) -> None:
    """pyarrow would ask the host for something else than botocore does; a password is not shown."""
    with pytest.raises(UsageError, match=r"^storage\.endpoint") as error:
        objects.configure(StorageConfig(endpoint=endpoint))
    assert "hidden" not in str(error.value)
    objects.configure(StorageConfig(endpoint="http://x:1/"))


def test_a_region_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    objects.configure(StorageConfig(endpoint="http://127.0.0.1:1", region="eu central"))
    with pytest.raises(UsageError, match=r"storage\.region='eu central': has to be a region such as eu-central-1"):
        storage.read("s3://bucket/x")
    monkeypatch.setenv("AWS_REGION", "eu-west-1\n")
    objects.configure(StorageConfig(endpoint="http://127.0.0.1:1"))
    with pytest.raises(UsageError, match=r"^AWS_REGION='eu-west-1\\n': has to be a region"):
        storage.read("s3://bucket/x")


@pytest.mark.parametrize("uri", ["s3:/bucket/x", "gs:/b/x", "S3:/b/x", "file:/tmp/x", "file://host/x", "s3:"])
def test_a_slash_too_few_is_no_folder(uri: str) -> None:
    """It would be one of that name here, and the data never in the bucket."""
    for use in (storage.read, storage.absolute, lambda uri: storage.write(uri, b"")):
        with pytest.raises(UsageError, match=f"^{uri}: has to begin with {uri.partition(':')[0].lower()}://"):
            use(uri)


@pytest.mark.parametrize("name", ["a b", "a#b", "a?b", "ü", "a[1]", "100%"])
def test_a_file_uri_keeps_all_letters(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert storage.read(f"file://{tmp_path}/{name}") == b"x"
    assert storage.read(f"file://{tmp_path}/{quote(name)}") == b"x"
    assert storage.absolute(f"file://{tmp_path}/{quote(name)}") == f"{tmp_path}/{name}"


def test_no_network_and_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)

    def resolve(bucket: str) -> str:
        raise OSError("When resolving region for bucket: AWS Error NETWORK_CONNECTION during HeadBucket operation")

    monkeypatch.setattr(objects.pafs, "resolve_s3_region", resolve)
    objects.configure(StorageConfig())
    with pytest.raises(UsageError, match=r"s3://nowhere: its region can't be found out: the store can't be reached"):
        storage.read("s3://nowhere/x")


def test_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.write("~/a/b.txt", b"x")
    assert (tmp_path / "a" / "b.txt").read_bytes() == storage.read("~/a/b.txt") == b"x"
    assert storage.absolute("~/a") == f"{tmp_path}/a"
    with pytest.raises(UsageError, match=r"~nobody-here/a: "):
        storage.read("~nobody-here/a")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.uri=${foo:bar}", r"data\.uri: Unsupported interpolation type foo"),
        ("data.uri=${data.nothing}", r"data\.uri: .*data\.nothing"),
        ("data.uri=${oc.env:NOT_SET_ANYWHERE}", r"data\.uri: .*NOT_SET_ANYWHERE"),
        ("data.uri=${oc.env:AWS_SECRET_ACCESS_KEY}", "no secret may stand in it"),
        ("data.uri=x-${oc.env:'HF_TOKEN'}", "no secret may stand in it"),
    ],
)
def test_an_interpolation_that_fails_names_its_key(
    override: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "AWS_SECRET_ACCESS_KEY", "hidden")
    with pytest.raises(UsageError, match=message) as error:
        load(Config, None, [override])
    assert "hidden" not in str(error.value)


def test_an_interpolation_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "mine")
    assert (
        load(Config, None, ["data.uri=s3://${oc.env:BUCKET}/x", "run.uri=${data.uri}/run"]).run.uri == "s3://mine/x/run"
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=30), st.sampled_from(["s3://", "gs://", "", "file://", "s3:/", "~"]))
def test_any_text_is_a_uri_or_a_usage_error(text: str, scheme: str) -> None:
    def parsed(uri: str) -> Any:
        return names.parse(uri) if uri.startswith(("s3://", "gs://")) else storage.absolute(uri)

    try:
        parsed(scheme + text)
    except UsageError as error:
        assert str(error)
