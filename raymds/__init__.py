"""Develop a vision-language model further without losing anything it could do before.

From Python: `load` a delivered model and ask it, `finetune` one cycle, `certify` one model against another. What takes
seconds to import, PyTorch and Ray, is imported when it is used.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymds.config import Config
    from raymds.release.recogniser import Recogniser

__version__ = "0.1.0"
__all__ = ["__version__", "certify", "finetune", "load"]


def load(uri: str) -> "Recogniser":
    """The model of a run directory, its outcome, or of a file of weights; a path, s3:// or gs:// URI.

    It has `.classify(images)`, a dict {attribute: Prediction(label, probability, margin)} per image, `.embed(images)`,
    (B, D), `.classifier(attribute)`, (C, D), and `.classes`. UsageError where there is no model that can be used.
    """
    from raymds.release import recogniser

    return recogniser.load(uri)


def finetune(preset: "str | Mapping[str, Any] | Config", *overrides: str) -> dict[str, Any]:
    """One constrained cycle, on the Ray cluster of RAY_ADDRESS or on this machine; the content of outcome.json.

    `preset` is a YAML file, the name of a built-in preset, a dict of its sections, or a Config; `overrides` are
    `key=value`. UsageError naming the key where the config can't be used. A cycle that was stopped goes on.
    """
    from raymds.train import driver

    config = _config(preset, overrides, ("model.weights", "data.uri", "task.target", "run.uri"))
    return driver.finetune(config, lambda record: None)


def certify(
    preset: "str | Mapping[str, Any] | Config", old: str, new: str, *overrides: str, split: str = "test"
) -> dict[str, Any]:
    """The certificate of the weights `new` against the weights `old` on a split; the content of certificate.json.

    Measured on the Ray cluster of RAY_ADDRESS or, where that names none, in this process. Weights are paths or URIs;
    the preset says data set, tasks and tolerance, as for `finetune`. UsageError as there, and where a task has no
    examples in the split.
    """
    from dataclasses import replace

    from raymds.train import measure

    config = _config(preset, overrides, ("data.uri", "task.target"))
    config = replace(config, model=replace(config.model, weights=old))
    return measure.certify_models(config, new, split, lambda record: None)


def _config(
    preset: "str | Mapping[str, Any] | Config", overrides: tuple[str, ...], require: tuple[str, ...]
) -> "Config":
    from operator import attrgetter

    from raymds.config import Config, check
    from raymds.config import load as load_config
    from raymds.errors import UsageError

    if not isinstance(preset, Config):
        return load_config(Config, preset, overrides, require)
    if overrides:
        raise UsageError(f"{overrides[0]}: overrides go with a preset; change the Config itself")
    for key in require:
        if not attrgetter(key)(preset):
            raise UsageError(f"{key}: has no value")
    check(preset)
    return preset
