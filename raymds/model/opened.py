"""A model from its file."""

from collections.abc import Sequence

from raymds.model.clip import ClipWithHeads
from raymds.model.files import read_weights
from raymds.model.heads import trained_rank
from raymds.model.identity import Asked, identify


def load(
    architecture: str,
    weights: str | None,
    classes: Sequence[str],
    head_rank: int | None,
    seed: int,
    *,
    pretrained: str | None = None,
    activation: str | None = None,
    heads: Sequence[str] | str | None = None,
) -> ClipWithHeads:
    """The model of a file of weights, a path or URI, or one with random weights where none is given.

    `architecture` may be empty where the file says what it is. Heads are placed by their names; a class that has none
    in the file starts untrained. `head_rank` is that of new heads: by default that of the file's, else 32. The other
    arguments are the keys of the config's section `model`.
    """
    asked = Asked(architecture, pretrained, activation)
    if not weights:
        return ClipWithHeads(identify(asked, None), classes, head_rank, seed)
    found = read_weights(weights, heads)
    rank = head_rank or trained_rank(found.tensors, classes)
    model = ClipWithHeads(identify(asked, found.found), classes, rank, seed)
    model.load_weights(found.tensors, weights)
    model.check_text_tower()
    model.note = found.found.note
    return model
