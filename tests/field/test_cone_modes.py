"""The derivatives of cone programs: every order of the modes, and a refusal where there is none."""

import itertools

import pytest
import torch

from diffopt_lib import SolverError
from diffopt_lib.layers.cone import solve_cone
from diffopt_lib.layers.cone.outside import own_path_only
from diffopt_lib.layers.cones import Cones

DOUBLE = torch.float64
MODES = {"reverse": torch.func.jacrev, "forward": torch.func.jacfwd}


def on_the_disc(c):
    """min cᵀx over ‖x‖ ≤ 2, whose solution is −2c/‖c‖."""
    A, b = c.new_tensor([[0, 0], [-1, 0], [0, -1]]), c.new_tensor([2, 0, 0])
    return solve_cone(c, A, b, Cones(soc=(3,))).x


def on_the_matrices(c):
    """min cᵀ(p, r, q) over p + q = 1 and [[p, r], [r, q]] ⪰ 0: a disc again, for a semidefinite cone."""
    root = 2**0.5
    A = c.new_tensor([[1, 0, 1], [-1, 0, 0], [0, -root, 0], [0, 0, -1]])
    return solve_cone(c, A, c.new_tensor([1, 0, 0, 0]), Cones(zero=1, psd=(2,))).x


def on_the_matrices_in_closed_form(c):
    """p = ½ + u, q = ½ − u with u² + r² ≤ ¼, so that (u, r) is −½ of the direction of (c₁ − c₃, c₂)."""
    direction = torch.stack([c[0] - c[2], c[1]])
    u, r = -0.5 * direction / direction.norm()
    return torch.stack([0.5 + u, r, 0.5 - u])


@pytest.mark.parametrize(("outer", "inner"), list(itertools.product(MODES, MODES)))
@pytest.mark.parametrize(
    ("layer", "closed_form", "at"),
    [
        (on_the_disc, lambda c: -2 * c / c.norm(), [0.7, -1.9]),
        (on_the_matrices, on_the_matrices_in_closed_form, [0.3, 0.8, -1.1]),
    ],
)
def test_second_derivatives_in_every_order_of_the_modes(outer, inner, layer, closed_form, at):
    c = torch.tensor(at, dtype=DOUBLE)
    expected = torch.func.hessian(closed_form)(c)
    with own_path_only():
        found = MODES[outer](MODES[inner](layer))(c)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 5, 17])
@pytest.mark.parametrize("quadratic", [True, False])
def test_semidefinite_feasibility_without_an_objective_has_no_derivative(batch, quadratic):
    A = torch.tensor([[2.0, 0], [0, 1.5], [-1, -3]], dtype=DOUBLE)
    c = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    P = torch.zeros(2, 2, dtype=DOUBLE) if quadratic else None
    solution = solve_cone(c.expand(batch, -1), A, torch.tensor([1.5, 0, 2], dtype=DOUBLE), Cones(psd=(2,)), P)
    with pytest.raises(SolverError, match="not unique"):
        torch.autograd.grad(solution.x[0].sum(), c)
