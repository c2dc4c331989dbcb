"""A ledger in a bucket: two processes that append at once, on a store with and one without conditional writes."""

import pytest

from raymds.ledger import audit
from raymds.ledger.chain import Ledger
from raymds.store import uri as storage
from tests.s3.servers import BUCKET, Ceph, Server
from tests.unit.ledger.test_chain import append, check_whole, write_at_once


@pytest.fixture
def uri(server: Server, request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name.partition('[')[0]}"


def test_two_processes_that_append_at_once_lose_nothing(server: Server, uri: str) -> None:
    """Fewer where the store lets both write, as writers then wait for each other."""
    append(Ledger(uri, "first"), "x")
    entries = 200 if isinstance(server, Ceph) else 5
    write_at_once(uri, entries)
    check_whole(uri, entries)
    assert audit.verify(Ledger(uri))[1] == []


def test_whether_a_store_has_conditional_writes_is_found_out(server: Server, uri: str) -> None:
    assert storage.exclusive(uri) == isinstance(server, Ceph)
    assert storage.sizes(uri) == {}
