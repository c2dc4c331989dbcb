"""Buckets whose requester pays, as Ceph has them."""

import json
from collections.abc import Iterator

import pytest
from pyarrow import fs as pafs

from raymds.errors import UsageError
from raymds.store import objects
from raymds.store import uri as storage
from raymds.store.aws import StorageConfig
from tests.s3.servers import Ceph, Server

BUCKET = "paid"
CONTENT = {"a/x": b"0123456789", "a/b/y z+#": b"deep", "c": b""}


@pytest.fixture
def reader(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody who may read another one's bucket, and pays for it."""
    if not isinstance(server, Ceph):
        pytest.skip("only Ceph has such buckets")
    client = server.client()
    client.create_bucket(Bucket=BUCKET, ACL="public-read")
    for key, data in CONTENT.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=data, ACL="public-read")
    client.put_bucket_request_payment(Bucket=BUCKET, RequestPaymentConfiguration={"Payer": "Requester"})
    user = json.loads(server.admin("user", "create", "--uid=reader", "--display-name=reader"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", user["keys"][0]["access_key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user["keys"][0]["secret_key"])
    yield
    objects.configure(StorageConfig())


def test_a_bucket_whose_requester_pays(reader: None) -> None:
    objects.configure(StorageConfig())
    with pytest.raises(UsageError, match=r"s3://paid/a/x: can't be read: no permission; .*storage.requester_pays=true"):
        storage.read("s3://paid/a/x")
    objects.configure(StorageConfig(requester_pays=True))
    assert {key: storage.read(f"s3://paid/{key}") for key in CONTENT} == CONTENT
    assert storage.read_range("s3://paid/a/x", 3, 4) == b"3456"
    assert storage.read_range("s3://paid/a/x", 8, 9) == b"89"
    assert storage.sizes("s3://paid/a/") == {"x": 10, "b/y z+#": 4}
    assert storage.sizes("s3://paid") == {key: len(data) for key, data in CONTENT.items()}
    assert storage.sizes("s3://paid/none") == {}
    assert storage.read_or_none("s3://paid/a/none") is None
    with pytest.raises(UsageError, match="s3://paid/a/none: no such file"):
        storage.read("s3://paid/a/none")
    filesystem, path = storage.resolve("s3://paid/a")
    assert filesystem.get_file_info(path).type == pafs.FileType.Directory
    found = filesystem.get_file_info(pafs.FileSelector(path))
    assert {(info.path, info.type) for info in found} == {
        ("paid/a/x", pafs.FileType.File),
        ("paid/a/b", pafs.FileType.Directory),
    }
    with pytest.raises(UsageError, match=r"s3://paid/d: can't be written: no permission"):
        storage.write("s3://paid/d", b"not its own")


def test_other_buckets_stay_as_they_are(server: Server) -> None:
    objects.configure(StorageConfig(requester_pays=True))
    uri = "s3://driving/payer/file"
    assert storage.create(uri, b"one")
    assert not storage.create(uri, b"two")
    storage.write(uri, b"three")
    assert storage.read(uri) == b"three"
    filesystem, path = storage.resolve(uri)
    assert filesystem == storage.resolve("s3://driving")[0]
    with filesystem.open_input_stream(path) as stream:
        assert (stream.read(2), stream.read()) == (b"th", b"ree")
    storage.delete(uri)
    assert not storage.exists(uri)
    objects.configure(StorageConfig())
