"""How a cluster's devices are shared out, and whose errors come back."""

import math

import pytest

from raymds import pool
from raymds.errors import UsageError


@pytest.mark.parametrize(
    ("machines", "found"),
    [
        ([({"CPU": 8.0}, 1), ({"CPU": 3.5}, 1)], (3, 3, 0)),
        ([({"CPU": 64.0}, 2)], (32, 4, 0)),
        ([({"CPU": 1.0}, 3)], (3, 1, 0)),
        ([], (1, 1, 0)),  # none yet
        ([({"CPU": 16.0}, 1), ({"CPU": 8.0, "GPU": 1.0}, 1)], (1, 8, 1)),  # the head's cores are of another machine
        ([({"CPU": 8.0, "GPU": 2.0}, 1), ({"CPU": 30.0, "GPU": 4.0}, 2)], (10, 4, 1)),
        ([({"CPU": 2.0, "GPU": 4.0}, 1)], (2, 1, 1)),
        ([({"GPU": 1.0}, 1), ({"CPU": 0.5, "GPU": 1.0}, 1), ({"CPU": 32.0, "GPU": 4.0}, 1)], (4, 8, 1)),
        ([({"CPU": 4.0, "GPU": 0.0}, 1), ({"CPU": 8.0, "GPU": 1.0}, 0)], (1, 4, 0)),
        ([({"CPU": 8.0, "GPU": 1.0}, math.inf)], (math.inf, 8, 1)),
        ([({"CPU": 0.5}, math.inf), ({"CPU": 4.0}, 1)], (1, 4, 0)),
        ([({"CPU": 8.0}, math.inf), ({"memory": 1e9}, math.inf)], (math.inf, 4, 0)),
    ],
)
def test_devices_fit_their_machines(machines: pool.Machines, found: tuple[float, int, int]) -> None:
    assert pool._devices(machines) == found


def test_a_users_error_is_returned() -> None:
    own = UsageError("data.uri: nowhere")

    def failing() -> pool.Worker:
        raise own

    assert pool._Guarded(failing, 1).work(None) is own
