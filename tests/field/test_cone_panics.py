"""The package that finds a start may panic on nearly infeasible semidefinite programs, which is no Exception."""

import pytest
import torch

from diffopt_lib import SolverError
from diffopt_lib.layers import solve_cone
from diffopt_lib.layers.cone.outside import or_nothing
from diffopt_lib.layers.cones import Cones

# Two walls 10⁻⁴ short of meeting and a semidefinite cone: Clarabel 0.11.1 panics (an eigenvalue routine fails).
A = torch.tensor(
    [[0.799, 0.0209], [-0.799, -0.0209], [-1.6232, -1.0537], [0.0214, 0.2261], [0.0334, -0.9551], [-1.098, 0.4047]]
    + [[1.4254, 0.6009], [-0.5767, 0.7109], [0.3541, -0.2401], [0.8199, -0.921], [-0.3587, 0.5058], [-0.2337, 2.777]],
    dtype=torch.float64,
)
b = torch.tensor(
    [1.1013, -1.1014, -2.1033, 0.3114, -1.3, -0.4943, 4.2907, 0.254, 0.3623, 1.3286, 0.1523, 4.2124],
    dtype=torch.float64,
)
CONES = Cones(nonneg=2, psd=(4,))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_panic_outside_is_no_panic_here(batch):
    c = torch.zeros(batch, 2, dtype=torch.float64)
    with pytest.raises(SolverError):
        solve_cone(c, A, b, CONES)
    found = solve_cone(c, A, torch.stack([b] * (batch - 1) + [b + 1.0]), CONES, on_failure="nan")
    assert not found.converged[: batch - 1].any() and found.x[: batch - 1].isnan().all()


class PanicException(BaseException):
    """Named as the one that the compiled package raises."""


def test_only_panics_are_caught():
    def raises(error):
        def solve():
            raise error

        return solve

    assert or_nothing(raises(PanicException())) is None
    assert or_nothing(lambda: 3) == 3
    for error in (KeyboardInterrupt(), ValueError()):
        with pytest.raises(type(error)):
            or_nothing(raises(error))
