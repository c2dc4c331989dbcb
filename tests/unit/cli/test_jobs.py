"""What a job is submitted with, where to, and what is said where that can't be."""

import signal
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from raymds.cli import jobs
from raymds.cli.main import main
from raymds.cli.terminal import Terminal
from raymds.config import Config, load
from raymds.errors import UsageError
from raymds.ledger.signature import VARIABLE

DASHBOARD = "http://127.0.0.1:8265"


class Client:
    """A cluster whose answers are given."""

    version = "2.60.1"
    error: Exception | None = None
    addresses: ClassVar[list[str | None]] = []

    def __init__(self) -> None:
        self.addresses.append(jobs.os.environ.get("RAY_API_SERVER_ADDRESS"))
        self.submitted: dict[str, Any] = {}
        self.running: list[Any] = []
        if self.error:
            raise self.error

    def _do_request(self, method: str, path: str) -> Any:
        assert (method, path) == ("GET", "/api/version")
        return SimpleNamespace(json=lambda: {"version": "4", "ray_version": self.version})

    def list_jobs(self) -> list[Any]:
        return self.running

    def submit_job(self, **given: Any) -> str:
        self.submitted = given
        return "raysubmit_new"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # set, so that what connect() exports is undone
    made = type("Made", (Client,), {"addresses": []})
    monkeypatch.setattr(jobs, "JobSubmissionClient", made)
    return made


@pytest.fixture
def config() -> Config:
    needed = ["data.uri=s3://b/data", "model.weights=s3://b/w.safetensors", "run.uri=s3://b/run"]
    return load(Config, "demo", needed)


def test_the_address_that_is_given_wins(client: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:8265")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    jobs.connect(DASHBOARD)
    assert client.addresses == [DASHBOARD]


def test_an_address_of_a_variable_that_is_not_set(client: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", DASHBOARD)
    with pytest.raises(UsageError, match=r"^--address: is empty; give the URL"):
        jobs.connect("")
    assert client.addresses == []


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "ray://10.0.0.1:10001", "auto", "http://", "127.0.0.1:8265"])
def test_an_address_of_another_kind(client: type[Client], monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    with pytest.raises(UsageError, match=rf"^--address {address}: is no URL of a cluster's dashboard; give"):
        jobs.connect(address)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
    with pytest.raises(UsageError, match=rf"^RAY_API_SERVER_ADDRESS={address}: is no URL"):
        jobs.connect(None)
    assert client.addresses == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("refused\nmore"), "no Ray cluster answers there: refused; give the URL of its dashboard"),
        (AuthenticationError("401"), "the cluster refuses the token; set RAY_AUTH_MODE=token"),
        (RuntimeError("404"), "no Ray cluster answers there: 404"),
        (ValueError("no JSON"), "no Ray cluster answers there: no JSON"),
    ],
)
def test_what_does_not_answer(client: type[Client], error: Exception, message: str) -> None:
    client.error = error
    with pytest.raises(UsageError, match=rf"^--address {DASHBOARD}: {message}"):
        jobs.connect(DASHBOARD)


@pytest.mark.parametrize("version", ["2.9.3", "2.59.0", "1.13.0"])
def test_an_older_ray(client: type[Client], version: str) -> None:
    client.version = version
    with pytest.raises(UsageError, match=rf"runs Ray {version}; raymds needs 2\.60 or later"):
        jobs.connect(DASHBOARD)


def test_a_job_has_its_options_and_variables(client: type[Client], config: Config) -> None:
    cluster: Any = jobs.connect(DASHBOARD)
    variables = ["TOKENIZERS_PARALLELISM=false", "A=b=c", "EMPTY=", "MONKEY=1", "BYPASS=1", "RAY_AUTH_TOKEN_PATH=/t"]
    assert jobs.submit(cluster, "finetune", config, ["--accept-old"], variables) == "raysubmit_new"
    assert cluster.submitted["entrypoint"] == "python -m raymds.cli finetune preset.yaml --json --accept-old"
    assert cluster.submitted["metadata"] == {"raymds": "finetune", "run": "s3://b/run"}
    expected = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "A": "b=c", "EMPTY": ""}
    expected |= {"MONKEY": "1", "BYPASS": "1", "RAY_AUTH_TOKEN_PATH": "/t"}
    assert cluster.submitted["runtime_env"]["env_vars"] == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY=x", "--env AWS_SECRET_ACCESS_KEY: holds a credential"),
        ("AWS_ACCESS_KEY_ID=x", "--env AWS_ACCESS_KEY_ID: holds a credential"),
        ("hf_token=x", "--env hf_token: holds a credential"),
        ("DB_PASSWORD=x", "--env DB_PASSWORD: holds a credential"),
        ("HTTPS_PROXY=http://ann:secret@proxy", "--env HTTPS_PROXY: holds a credential"),
        ("SSH_PASSPHRASE=x", "--env SSH_PASSPHRASE: holds a credential"),
        ("MYSQL_PWD=x", "--env MYSQL_PWD: holds a credential"),
        ("MY_API_KEY2=x", "--env MY_API_KEY2: holds a credential"),
        ("PGPASSWORD=x", "--env PGPASSWORD: holds a credential"),
        ("HFTOKEN=x", "--env HFTOKEN: holds a credential"),
        ("CLIENTSECRET=x", "--env CLIENTSECRET: holds a credential"),
        ("GITHUB_PAT=x", "--env GITHUB_PAT: holds a credential"),
        ("ORIGIN=https://secret@github.com/x", "--env ORIGIN: holds a credential"),
        ("DB=postgres://u:p/w@h/db", "--env DB: holds a credential"),
        ("NAME", "--env NAME: has to be NAME=VALUE"),
        ("=x", "--env =x: has to be NAME=VALUE"),
        ("A B=x", "--env A B=x: has to be NAME=VALUE"),
    ],
)
def test_variables_that_are_refused(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}") as found:
        jobs.variable(given)
    assert "secret@" not in str(found.value)


@pytest.mark.parametrize("status", [JobStatus.RUNNING, JobStatus.PENDING, JobStatus.STOPPED, JobStatus.FAILED])
def test_one_job_works_on_a_run_directory(client: type[Client], config: Config, status: JobStatus) -> None:
    cluster: Any = jobs.connect(DASHBOARD)
    other = SimpleNamespace(metadata={"run": "s3://b/other"}, status=JobStatus.RUNNING, submission_id="raysubmit_b")
    cluster.running = [
        SimpleNamespace(metadata=None, status=JobStatus.RUNNING, submission_id=None),
        other,
        SimpleNamespace(metadata={"run": "s3://b/run"}, status=status, submission_id="raysubmit_a"),
    ]
    if status.is_terminal():
        assert jobs.submit(cluster, "finetune", config)
        return
    with pytest.raises(UsageError, match=r"^run\.uri=s3://b/run: raysubmit_a works on it; raymds follow raysubmit_a"):
        jobs.submit(cluster, "finetune", config)
    assert cluster.submitted == {}


def test_what_a_job_can_not_have_is_said_before_a_cluster_is_asked(config: Config) -> None:
    for key, uri in (("ledger.uri", "ledger"), ("data.cache", "cache"), ("run.uri", "runs/a")):
        wrong = load(
            Config, "demo", ["data.uri=s3://b/d", "model.weights=s3://b/w", "run.uri=s3://b/r", f"{key}={uri}"]
        )
        with pytest.raises(UsageError, match=rf"^{key}={uri}: is relative to this directory"):
            jobs.check(wrong, [])
    with pytest.raises(UsageError, match="--env A_TOKEN: holds a credential"):
        jobs.check(config, ["A_TOKEN=x"])


def test_entries_of_a_ledger_are_by_who_submits(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    for number, (name, value) in enumerate((("user.name", "Ann"), ("user.email", "ann@fleet.example"))):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    config.ledger.uri = "s3://b/ledger"
    jobs.check(config, [])
    assert config.ledger.author == "Ann <ann@fleet.example>"


def test_a_key_that_does_not_reach_the_job_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, answer in (("connect", None), ("submit", "raysubmit_new"), ("follow", 0)):
        monkeypatch.setattr(jobs, name, lambda *_, answer=answer: answer)
    monkeypatch.setenv(VARIABLE, "a key")
    given = ["submit", "finetune", "demo", "data.uri=/data", "model.weights=/old", "run.uri=/run"]
    for more, said in (([], True), (["ledger.key=/key.pem"], False)):
        assert main([*given, *more]) == 0
        assert ("RAYMDS_SIGNING_KEY is not sent" in capsys.readouterr().out) is said


@pytest.mark.parametrize("error", [RuntimeError("500"), ConnectionError("gone")])
def test_a_cluster_that_does_not_list_its_jobs(
    client: type[Client], config: Config, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(_: Client) -> None:
        raise error

    cluster: Any = jobs.connect(DASHBOARD)
    monkeypatch.setattr(client, "list_jobs", fails)
    with pytest.raises(UsageError, match=f"doesn't say which jobs it has: {error}"):
        jobs.submit(cluster, "finetune", config)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_follower_that_is_stopped_says_that_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals, status: int
) -> None:
    monkeypatch.setattr(jobs, "connect", lambda address: Client())
    monkeypatch.setattr(jobs, "follow", lambda *given: signal.raise_signal(number))
    assert main(["follow", "raysubmit_a"]) == status
    said = "raymds: the job goes on: raymds follow raysubmit_a shows it again, ray job stop raysubmit_a ends it\n"
    assert capsys.readouterr().err == said


def test_another_programs_records_are_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logs of other programs have an `event`, too."""
    lines = ['{"event": "start", "user": 3}', '{"event": "title"}', '{"event": "phase", "phase": "training"}']

    class Job:
        def get_job_status(self, job: str) -> JobStatus:
            return JobStatus.SUCCEEDED

        def get_job_info(self, job: str) -> Any:
            return SimpleNamespace(driver_exit_code=0, status=JobStatus.SUCCEEDED)

    monkeypatch.setattr(jobs, "_lines", lambda client, job: iter(lines))
    terminal = Terminal()
    assert jobs.follow(cast(Any, Job()), "job", terminal.show, terminal.say) == 0
    assert capsys.readouterr().out.splitlines() == [lines[0], "  training"]
