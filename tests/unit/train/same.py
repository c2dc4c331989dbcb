"""That two cycles are in the same state, bit for bit."""

import torch

from raymds.train.cycle import ConstrainedCycle


def assert_same(one: ConstrainedCycle, other: ConstrainedCycle) -> None:
    """Weights, candidate and every piece of state."""
    for name, value in one.model.weights().items():
        assert torch.equal(value, other.model.weights()[name]), name
    for name, value in one.candidate.weights().items():
        assert torch.equal(value, other.candidate.weights()[name]), name
    state = other.state_dict()
    assert state.keys() == one.state_dict().keys()
    for name, value in one.state_dict().items():
        assert torch.equal(value.nan_to_num(-7.0), state[name].nan_to_num(-7.0)), name
