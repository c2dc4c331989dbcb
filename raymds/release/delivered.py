"""What is delivered: a file of weights, with the run and the certificate that belong to it."""

from dataclasses import dataclass
from typing import Any

from raymds.config import Config, ModelConfig, load
from raymds.errors import UsageError
from raymds.ledger.facts import weights_of
from raymds.model import ClipWithHeads, read_weights
from raymds.model import load as load_model
from raymds.run import RunDirectory
from raymds.store import uri as storage

_CERTIFICATE = "certificate.json"


@dataclass(frozen=True)
class Delivered:
    """A file of weights and what is known of it."""

    weights: str  # URI
    config: Config | None = None  # of the run that it comes from
    certificate: dict[str, Any] | None = None  # of these very weights
    kept: str = ""  # why this is the old model, which was to be developed; empty where it is not

    def open(self) -> tuple[ClipWithHeads, str]:
        """The model with the heads of all classes that its file names, and the SHA-256 of that file.

        UsageError where it can't be used, or is not the file that the certificate is of.
        """
        asked = self.config.model if self.config else ModelConfig()
        found = read_weights(self.weights, asked.heads).found
        if self.certificate and self.certificate["digests"]["weights"] != found.sha256:
            raise UsageError(
                f"{self.weights}: is not the file that the {_CERTIFICATE} of its run is of: its SHA-256 is "
                f"{found.sha256}, not {self.certificate['digests']['weights']}; copy it again"
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
        if certificate and (certificate.get("digests") or {}).get("weights") == storage.sha256(storage.read(uri)):
            return Delivered(uri, _config(folder), certificate)
        return Delivered(uri)
    run = RunDirectory(uri)
    outcome = storage.read_json(run.path("outcome.json"))
    if outcome is None:
        raise UsageError(
            f"{uri}: no such file, and no directory of a finished run (it has no outcome.json); give one of the two"
        )
    if outcome.get("outcome") == "old":
        kept = f"the outcome of {uri} is the old model, which this is: {outcome['reason']}"
        return Delivered(outcome["weights"], _config(uri), kept=kept)
    return Delivered(weights_of(run.uri, outcome), _config(uri), storage.read_json(run.path(_CERTIFICATE)))


def _config(folder: str) -> Config:
    return load(Config, storage.join(folder, "config.yaml"), [])
