"""The AWS environment as people have it: keys of processes, roles and files that are renewed, proxies, certificates."""

import errno
import os
import pickle
import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from raymds.errors import UsageError
from raymds.store import objects
from raymds.store import uri as storage
from raymds.store.aws import StorageConfig

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
ASSUMED = b"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>AKROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>role-token</SessionToken>
<Expiration>2999-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser><Arn>a</Arn><AssumedRoleId>i</AssumedRoleId>
</AssumedRoleUser></AssumeRoleResult></AssumeRoleResponse>"""


class Store:
    """An S3 service, a proxy to one and STS at once, that says what it was asked; `answer` may refuse a request."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, str]] = []  # path, host, access key, token
        self.answer: Callable[[str], bytes | None] = lambda key: None
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                signed = self.headers.get("Authorization", "")
                key = signed.partition("Credential=")[2].partition("/")[0]
                store.asked.append((self.path, self.headers["Host"], key, self.headers.get("X-Amz-Security-Token", "")))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                refused = store.answer(key)
                body = ASSUMED if self.command == "POST" else refused or b"content"
                body = b"" if self.command == "DELETE" else body
                self.send_response(400 if refused else 200 if body else 204)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

            do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815 - as the server calls them

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        return self.server.server_address[1]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """A store, and a machine of somebody with `~/.aws` and no other credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        if not name.endswith(("_CALCULATION", "_VALIDATION")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    started = Store()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{started.port}")
    objects.configure(StorageConfig(retries=1))
    yield started
    monkeypatch.undo()
    objects.configure(StorageConfig())
    started.server.shutdown()
    started.server.server_close()


def test_keys_of_a_process(store: Store, tmp_path: Path) -> None:
    said = '{"Version": 1, "AccessKeyId": "AKPROCESS", "SecretAccessKey": "s", "SessionToken": "t"}'
    (tmp_path / "said.json").write_text(said)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path}/said.json\n")
    assert storage.read("s3://driving/a") == b"content"
    assert {(key, token) for _, _, key, token in store.asked} == {("AKPROCESS", "t")}


def test_keys_of_a_role(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[base]\naws_access_key_id = AKBASE\naws_secret_access_key = s\n")
    role = "role_arn = arn:aws:iam::123456789012:role/reader\nsource_profile = base\nregion = eu-west-1\n"
    (tmp_path / "config").write_text(f"[profile reader]\n{role}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKVARIABLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    objects.configure(StorageConfig(retries=1, profile="reader"))
    assert storage.read("s3://driving/a") == b"content"
    assert store.asked[0][2] == "AKBASE"  # of STS
    travelled = pickle.dumps(objects.filesystem("s3://driving/a"))
    objects.configure(StorageConfig())  # as in a process of Ray's that has no settings
    filesystem, path = pickle.loads(travelled)
    with filesystem.open_input_file(path) as file:
        assert file.read() == b"content"
    filesystem.delete_file(path)
    asked = [key for _, _, key, _ in store.asked if key != "AKBASE"]
    assert asked and set(asked) == {"AKROLE"}


def test_a_profile_that_is_not_there(store: Store) -> None:
    objects.configure(StorageConfig(profile="nobody"))
    with pytest.raises(UsageError, match=r"\(nobody\) could not be found; check storage.profile") as error:
        storage.read("s3://driving/a")
    assert str(error.value).count("check storage.profile") == 1


def test_a_process_that_fails(store: Store, tmp_path: Path) -> None:
    for process in ("false", "/no/such/program", "echo no-json"):
        (tmp_path / "config").write_text(f"[default]\ncredential_process = {process}\n")
        objects.configure(StorageConfig(retries=1))
        with pytest.raises(UsageError, match=r"no credentials: .*check storage.profile and ~/.aws, or sign in again"):
            storage.read("s3://driving/a")


@pytest.mark.parametrize("proxy", ["http://", "ftp://proxy:1", "http://proxy:port"])
def test_a_proxy_that_is_none(store: Store, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(UsageError, match=f"HTTP_PROXY={proxy}: has to be a URL"):
        storage.read("s3://driving/a")


def test_an_expired_token_is_said_and_waited_for(store: Store, tmp_path: Path) -> None:
    """The file of the profile is renewed a moment later, as tools that sign in do."""
    entry = "[default]\naws_access_key_id = {}\naws_secret_access_key = s\naws_session_token = t\n"
    (tmp_path / "credentials").write_text(entry.format("AKOLD"))
    store.answer = lambda key: EXPIRED if key == "AKOLD" else None
    with pytest.raises(UsageError, match=r"s3://driving at .*: the session token has expired; renew it"):
        storage.read("s3://driving/a")
    heard: list[dict[str, Any]] = []

    def hear(record: dict[str, Any]) -> None:
        heard.append(record)
        (tmp_path / "credentials").write_text(entry.format("AKNEW"))

    objects.configure(StorageConfig(retries=1, patience=30), hear)
    assert storage.read("s3://driving/a") == b"content"
    assert [record["event"] for record in heard] == ["phase", "pause"]
    assert "the session token has expired" in heard[0]["phase"]


def test_a_file_system_travels_without_keys(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKSECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
    filesystem, path = storage.resolve("s3://driving/a")
    sent = pickle.dumps(filesystem)
    assert b"SECRET" not in sent
    assert b"secret" not in sent
    with pickle.loads(sent).open_input_stream(path) as file:
        assert file.read() == b"content"


def test_a_proxy_and_a_store_of_virtual_hosts(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.nowhere.test")
    monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{store.port}")
    (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = virtual\n")
    assert storage.read("s3://driving/a") == b"content"
    assert {host for _, host, _, _ in store.asked} == {"driving.s3.nowhere.test"}
    monkeypatch.setenv("NO_PROXY", "s3.nowhere.test")
    objects.configure(StorageConfig(retries=1))
    with pytest.raises(UsageError, match="can't be reached"):
        storage.read("s3://driving/a")


def test_certificates_of_ones_own(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"), "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *made, *names], check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    store.server.socket = context.wrap_socket(store.server.socket, server_side=True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{store.port}")
    with pytest.raises(UsageError, match="can't be reached"):
        storage.read("s3://driving/a")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "cert.pem"))
    objects.configure(StorageConfig(retries=1))
    assert storage.read("s3://driving/a") == b"content"
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere.pem")
    objects.configure(StorageConfig(retries=1))
    with pytest.raises(UsageError, match=re.escape("AWS_CA_BUNDLE=/nowhere.pem: no such file of certificates")):
        storage.read("s3://driving/a")


def test_a_file_system_without_hard_links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    uri = str(tmp_path / "file")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read(uri) == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
