"""The model that a config names, as every verb opens it."""

from raymds import model
from raymds.config import Config


def open_net(config: Config, classes: list[str], weights: str | None = None) -> model.ClipWithHeads:
    """The model of `weights`, by default those of the config, with heads of `classes`; UsageError where it can't be."""
    asked = config.model
    net = model.load(
        asked.name,
        weights or asked.weights,
        classes,
        asked.head_rank,
        config.run.seed,
        pretrained=asked.pretrained,
        activation=asked.activation,
        heads=asked.heads,
    )
    net.measured_in = config.select.precision
    return net
