"""One server of each kind for all tests of this folder."""

from collections.abc import Iterator

import pytest

from raymds.store import objects
from raymds.store.aws import StorageConfig
from tests.s3.servers import Server, running


@pytest.fixture(scope="session", params=["rclone", "ceph"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, and the environment of somebody who uses it."""
    with running(request.param, tmp_path_factory.mktemp(request.param)) as started, pytest.MonkeyPatch.context() as env:
        for name, value in started.environment.items():
            env.setenv(name, value)
        yield started


@pytest.fixture(autouse=True)
def _fresh_clients(server: Server) -> Iterator[None]:
    """Clients remember credentials and what they found out about a bucket."""
    objects.configure(StorageConfig())
    yield
    objects.configure(StorageConfig())
