"""What is delivered: a file of weights, with the run and the certificate that belong to it."""

from dataclasses import dataclass
from typing import Any

from raymds.config import Config, ModelConfig, load
from raymds.errors import UsageError
from raymds.ledger.entry import fits
from raymds.ledger.facts import weights_of
from raymds.model import ClipWithHeads, read_weights
from raymds.model import load as load_model
from raymds.run import RunDirectory
from raymds.store import uri as storage

_CERTIFICATE = "certificate.json"
_DIGESTS = {"digests": {"parent": str, "weights": str}}  # of a certificate
_OLD = {"weights": str, "reason": str, "parent": (str, type(None))}  # an outcome


@dataclass(frozen=True)
class Delivered:
    """A file of weights and what is known of it."""

    weights: str  # URI
    config: Config | None = None  # of the run that it comes from
    certificate: dict[str, Any] | None = None  # of these very weights
    kept: str = ""  # why this is the old model, which was to be developed; empty where it is not
    sha256: str | None = None  # of the weights by the files of their run

    def open(self) -> tuple[ClipWithHeads, str]:
        """The model with the heads of all classes that its file names, and the SHA-256 of that file.

        UsageError where it can't be used, or is not the file that its run names.
        """
        asked = self.config.model if self.config else ModelConfig()
        found = read_weights(self.weights, asked.heads).found
        if self.sha256 not in {None, found.sha256}:
            what = "old model that its run kept" if self.kept else f"file that the {_CERTIFICATE} of its run is of"
            raise UsageError(
                f"{self.weights}: is not the {what}: its SHA-256 is {found.sha256}, not {self.sha256}; copy it again"
            )
        sentences = found.metadata.get("prompts", {})
        classes = [f"{attribute}:{label}" for attribute, labels in sentences.items() for label in labels]
        try:
            model = load_model(
                asked.name, self.weights, classes, None, 0,
                pretrained=asked.pretrained, activation=asked.activation, heads=asked.heads,
            )  # fmt: skip
        except UsageError as error:
            if self.config is None and str(error).startswith("model."):
                raise UsageError(
                    f"{error}. There is no config here to give a key in: put the model's open_clip_config.json beside "
                    "the file, or give the directory of a run"
                ) from None
            raise
        return model, found.sha256


def find(uri: str) -> Delivered:
    """What a run directory or a file of weights stands for; UsageError where it is neither.

    A run stands for its outcome, which may be the old model. A file in the directory of its run has that run's
    certificate, if that is of this very file.
    """
    if storage.exists(uri):
        folder = storage.absolute(uri).rpartition("/")[0]
        certificate = storage.read_json(storage.join(folder, _CERTIFICATE))
        if certificate and fits(certificate, _DIGESTS):
            digest = certificate["digests"]["weights"]
            if digest == storage.sha256(storage.read(uri)):
                # One of two models that were certified without a run has no config.
                begun = storage.exists(storage.join(folder, "config.yaml"))
                return Delivered(uri, _config(folder) if begun else None, certificate, sha256=digest)
        return Delivered(uri)
    run = RunDirectory(uri)
    outcome = storage.read_json(run.path("outcome.json"))
    if outcome is None:
        raise UsageError(
            f"{uri}: no such file, and no directory of a finished run (it has no outcome.json); give one of the two"
        )
    certificate = run.read_json(_CERTIFICATE)
    if certificate is not None and not fits(certificate, _DIGESTS):
        raise _other(run.path(_CERTIFICATE))
    digests = certificate["digests"] if certificate else {}
    if outcome.get("outcome") == "old":
        if not fits({"parent": None, **outcome}, _OLD):
            raise _other(run.path("outcome.json"))
        kept = f"the outcome of {uri} is the old model, which this is: {outcome['reason']}"
        old = digests.get("parent", outcome.get("parent"))
        return Delivered(outcome["weights"], _config(uri), kept=kept, sha256=old)
    if not fits(outcome, {"weights": (str, {"uri": str})}):
        raise _other(run.path("outcome.json"))
    return Delivered(weights_of(run.uri, outcome), _config(uri), certificate, sha256=digests.get("weights"))


def _other(uri: str) -> UsageError:
    return UsageError(f"{uri}: is not one that raymds wrote; copy it again, or give the file of weights")


def _config(folder: str) -> Config:
    return load(Config, storage.join(folder, "config.yaml"), [])
