"""Projections on the simplex and softargmax with caps: the general solvers' values and Jacobians, kinks, extremes."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from allocation_problems import capped_simplex_by_qp, capped_softmax_by_cones

from diffopt_lib.layers import capped_softmax, project_capped_simplex, project_simplex, softargmax, sparsemax

DOUBLE = torch.float64
CAPS = [0.9, 0.25, 0.6, 0.1, 0.5, 0.3]
LAYERS = {
    "project_simplex": (lambda x: project_simplex(x, 1.5), 1.5),
    "sparsemax": (lambda x: sparsemax(x, 0.7), 1.0),
    "project_capped_simplex": (lambda x: project_capped_simplex(x, 2.2), 2.2),
    "project_capped_simplex, own caps": (lambda x: project_capped_simplex(x, 1.3, x.new_tensor(CAPS)), 1.3),
    "capped_softmax": (lambda x: capped_softmax(x, 0.3, 0.7), 1.0),
    "capped_softmax, own caps": (lambda x: capped_softmax(x, x.new_tensor(CAPS)), 1.0),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]


@pytest.fixture
def x(device, generator):
    return torch.randn(4, 6, dtype=DOUBLE, generator=generator).to(device)


def double(*values):
    return tuple(torch.tensor(v, dtype=DOUBLE) for v in values)


def assert_same_value_and_jacobians(ours, theirs, *arguments, tolerance):
    torch.testing.assert_close(ours(*arguments), theirs(*arguments), rtol=tolerance, atol=tolerance)
    jacobians = (torch.autograd.functional.jacobian(f, arguments) for f in (ours, theirs))
    for our, their in zip(*jacobians, strict=True):
        torch.testing.assert_close(our, their, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("total", [0.5, 1.0, 4.0])
def test_simplex_projection_equals_the_quadratic_program(total, x):
    for row in x.cpu():
        assert_same_value_and_jacobians(project_simplex, capped_simplex_by_qp, row, *double(total), tolerance=1e-9)


@pytest.mark.parametrize("tau", [0.3, 2.0])
def test_sparsemax_equals_the_quadratic_program(tau, x):
    def by_qp(x, tau):
        return capped_simplex_by_qp(x / tau, x.new_ones(()))

    for row in x.cpu():
        assert_same_value_and_jacobians(sparsemax, by_qp, row, *double(tau), tolerance=1e-9)


@pytest.mark.parametrize(("total", "upper"), [(1.3, CAPS), (0.4, CAPS), (2.2, 0.7), (2.6, CAPS)])
def test_capped_simplex_projection_equals_the_quadratic_program(total, upper, x):
    for row in x.cpu():
        assert_same_value_and_jacobians(
            project_capped_simplex, capped_simplex_by_qp, row, *double(total, upper), tolerance=1e-9
        )


@pytest.mark.parametrize(("upper", "tau"), [(0.3, 1.0), (0.3, 0.4), (CAPS, 1.0), (0.9, 2.0)])
def test_capped_softmax_equals_the_cone_program(upper, tau, x):
    for row in x.cpu()[:2]:
        assert_same_value_and_jacobians(
            capped_softmax, capped_softmax_by_cones, row, *double(upper, tau), tolerance=1e-6
        )


def test_solve_the_problems_that_cvxpy_solves(x):
    y = cp.Variable(6)
    caps = np.array(CAPS)
    exact = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
    for row in x.cpu():
        r = row.numpy()
        distance = cp.sum_squares(y - r)
        cp.Problem(cp.Minimize(distance), [cp.sum(y) == 1.5, y >= 0]).solve(cp.CLARABEL, **exact)
        np.testing.assert_allclose(project_simplex(row, 1.5).numpy(), y.value, atol=1e-6)
        cp.Problem(cp.Minimize(distance), [cp.sum(y) == 1.3, y >= 0, y <= caps]).solve(cp.CLARABEL, **exact)
        ours = project_capped_simplex(row, 1.3, row.new_tensor(CAPS))
        np.testing.assert_allclose(ours.numpy(), y.value, atol=1e-6)
        entropy = cp.sum(cp.entr(y))
        cp.Problem(cp.Maximize(r @ y + 0.5 * entropy), [cp.sum(y) == 1, y <= caps]).solve(cp.CLARABEL, **exact)
        ours = capped_softmax(row, row.new_tensor(CAPS), 0.5)
        np.testing.assert_allclose(ours.numpy(), y.value, atol=1e-4)


def test_sparsemax_in_closed_form():
    """Martins & Astudillo 2016, §2.2: of two entries at distance d the larger gets (1 + d)/2, at most 1."""
    for d in (0.0, 0.4, 1.0, 3.0):
        x = torch.tensor([d, 0.0], dtype=DOUBLE)
        largest = min((1 + d) / 2, 1)
        torch.testing.assert_close(sparsemax(x), torch.tensor([largest, 1 - largest], dtype=DOUBLE))


def test_softmax_without_effective_caps_is_softargmax(x):
    torch.testing.assert_close(capped_softmax(x, 1.0, 0.7), softargmax(x, 0.7))
    torch.testing.assert_close(capped_softmax(x, torch.inf, 0.7), softargmax(x, 0.7))


def test_what_is_above_the_cap_goes_to_the_others_in_proportion():
    p = torch.tensor([0.6, 0.3, 0.1], dtype=DOUBLE)
    y = capped_softmax(p.log(), 0.5)
    torch.testing.assert_close(y, torch.tensor([0.5, 0.375, 0.125], dtype=DOUBLE))
    y = capped_softmax(p.log(), 0.36)  # the second entry meets the cap only when it gets what the first leaves
    torch.testing.assert_close(y, torch.tensor([0.36, 0.36, 0.28], dtype=DOUBLE))


def test_jacobian_is_a_diagonal_minus_rank_one_on_the_free_entries(layer, x):
    f, _ = layer
    for row in x:
        J = torch.autograd.functional.jacobian(f, row)
        torch.testing.assert_close(J, J.mT)
        torch.testing.assert_close(J.sum(0), torch.zeros_like(row), atol=1e-12, rtol=0)
        free = J.diagonal() > 0
        d = torch.where(free, J.diagonal(), 0)
        for i in range(6):  # a bound that holds keeps holding
            assert free[i] or (J[i] == 0).all()
        assert torch.linalg.matrix_rank(J) == max(int(free.sum()) - 1, 0) or d.sum() == 0


def test_feasible_to_rounding(layer, x):
    f, total = layer
    y = f(x)
    assert (y >= 0).all()
    torch.testing.assert_close(y.sum(-1), torch.full_like(y[:, 0], total), rtol=1e-14, atol=0)
    caps = torch.tensor(CAPS, dtype=DOUBLE, device=x.device)
    assert (project_capped_simplex(x, 1.3, caps) <= caps).all() and (capped_softmax(x, caps) <= caps).all()


@pytest.mark.parametrize("name", ["project_simplex", "sparsemax", "project_capped_simplex", "capped_softmax"])
def test_first_and_second_derivatives_in_every_argument(name, x):
    x = x[:2].clone().requires_grad_()
    two = [torch.tensor(v, dtype=DOUBLE, device=x.device).requires_grad_() for v in ([0.7, 1.6], [0.4, 2.0])]
    caps = torch.tensor(CAPS, dtype=DOUBLE, device=x.device).requires_grad_()
    f, arguments = {
        "project_simplex": (project_simplex, (x, two[0])),
        "sparsemax": (sparsemax, (x, two[1])),
        "project_capped_simplex": (project_capped_simplex, (x, two[0], caps)),
        "capped_softmax": (capped_softmax, (x, caps, two[1])),
    }[name]
    assert torch.autograd.gradcheck(f, arguments, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, arguments)


def test_derivative_at_a_kink_is_that_of_the_side_where_the_entry_is_free():
    x = torch.tensor([1.0, 0.0, -1.0], dtype=DOUBLE)  # on the simplex's face, where the second entry is exactly 0
    J = torch.autograd.functional.jacobian(project_simplex, x)
    torch.testing.assert_close(J, torch.tensor([[0.5, -0.5, 0], [-0.5, 0.5, 0], [0, 0, 0]], dtype=DOUBLE))
    by_qp = torch.autograd.functional.jacobian(lambda x: capped_simplex_by_qp(x, x.new_ones(())), x)
    torch.testing.assert_close(J, by_qp)


def test_a_vertex_does_not_move(dtype):
    x = torch.tensor([5.0, 4.9, 1.0, 0.0], dtype=dtype, requires_grad=True)
    total = torch.tensor(2.0, dtype=dtype, requires_grad=True)
    y = project_capped_simplex(x, total)
    assert y.tolist() == [1, 1, 0, 0]
    for gradient in torch.autograd.grad(y[0], (x, total)):
        assert (gradient == 0).all()


def test_no_room_and_no_budget_are_exact(x, dtype):
    x = x.to(dtype).requires_grad_()
    caps = torch.tensor(CAPS, dtype=dtype, device=x.device, requires_grad=True)
    y = project_capped_simplex(x, caps.sum(), caps)
    assert (y == caps).all()
    assert (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] == 0).all()
    torch.testing.assert_close(torch.autograd.grad(y.sum(), caps)[0], torch.full_like(caps, 4.0))
    y = capped_softmax(x, 1 / 6)  # which rounds to a little less than a sixth
    assert (y == torch.tensor(1 / 6, dtype=dtype)).all()
    for y in (project_simplex(x, 0.0), project_capped_simplex(x, torch.zeros(4, dtype=dtype, device=x.device))):
        assert (y == 0).all()
        assert (torch.autograd.grad(y.sum(), x)[0] == 0).all()
    assert (project_capped_simplex(x, 0, 0.0) == 0).all()
    assert (capped_softmax(x, x.new_tensor([0, 0, 0.5, 1, 0, 0]))[:, [0, 1, 4, 5]] == 0).all()


def test_limits_of_the_temperature(x):
    largest = torch.nn.functional.one_hot(x.argmax(-1), 6).to(DOUBLE)
    torch.testing.assert_close(sparsemax(x, 1e-3), largest)
    torch.testing.assert_close(sparsemax(x, 1e6), torch.full_like(x, 1 / 6), rtol=1e-4, atol=0)
    top_two = torch.zeros_like(x).scatter(-1, x.topk(2).indices, 0.5)
    torch.testing.assert_close(capped_softmax(x, 0.5, 1e-3), top_two)
    torch.testing.assert_close(sparsemax(torch.ones(4, dtype=DOUBLE), 1e-3), torch.full((4,), 0.25, dtype=DOUBLE))


def test_projection_of_a_feasible_point_is_that_point(x):
    y = project_capped_simplex(x, 1.3)
    torch.testing.assert_close(project_capped_simplex(y, 1.3), y, rtol=0, atol=1e-15)


def test_permutation_shift_and_scale(x):
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for name in ("project_simplex", "sparsemax", "project_capped_simplex", "capped_softmax"):
        f, _ = LAYERS[name]
        torch.testing.assert_close(f(x[:, order]), f(x)[:, order])
        torch.testing.assert_close(f(x + 7), f(x))
    torch.testing.assert_close(project_capped_simplex(3 * x, 3.9, 3.0), 3 * project_capped_simplex(x, 1.3))
    torch.testing.assert_close(capped_softmax(3 * x, 0.3, 3.0), capped_softmax(x, 0.3))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("n", [6, 600])
def test_float32_is_as_good_as_float64_on_the_same_input(scale, n, device, generator):
    x = (scale * torch.randn(5, n, generator=generator)).to(device)
    caps = (4 * torch.rand(n, generator=generator).to(device) + 1) / n
    for f in (
        project_simplex,
        lambda x: sparsemax(x, 2.0**-10),
        lambda x: project_capped_simplex(x, 3),
        lambda x: project_capped_simplex(x, 0.8, caps.to(x.dtype)),
        lambda x: capped_softmax(x, 0.5, 2.0**-10),
        lambda x: capped_softmax(x, caps.to(x.dtype)),
    ):
        x32, x64 = x.clone().requires_grad_(), x.double().requires_grad_()
        y, exact = f(x32), f(x64)
        torch.testing.assert_close(y.double(), exact, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(y.double().sum(-1), exact.sum(-1), rtol=1e-6, atol=0)
        assert (y >= 0).all() and torch.isfinite(torch.autograd.grad(y.square().sum(), x32)[0]).all()


@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 6), (2, 0, 6), (2, 5, 6)])
def test_any_batch_shape(layer, shape, dtype, device, generator):
    x = torch.randn(shape, dtype=dtype, generator=generator).to(device).requires_grad_()
    y = layer[0](x)
    assert y.shape == x.shape and y.dtype == dtype and y.device == x.device
    assert torch.autograd.grad(y.sum(), x)[0].shape == shape


def test_totals_temperatures_and_caps_of_every_element(x):
    some = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=DOUBLE, device=x.device)
    caps = torch.rand(4, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)).to(x.device) + 0.7
    for i in range(4):
        torch.testing.assert_close(project_simplex(x, some)[i], project_simplex(x[i], some[i].item()))
        torch.testing.assert_close(sparsemax(x, some)[i], sparsemax(x[i], some[i].item()))
        torch.testing.assert_close(
            project_capped_simplex(x, some, caps)[i], project_capped_simplex(x[i], some[i], caps[i])
        )
        torch.testing.assert_close(
            capped_softmax(x, some[:, None].clamp_max(1), some)[i],
            capped_softmax(x[i], min(some[i].item(), 1), some[i]),
        )
    assert sparsemax(x, some[:, None]).shape == (4, 4, 6)


def test_vmap_and_both_modes_of_differentiation(layer, x):
    f, _ = layer
    torch.testing.assert_close(torch.func.vmap(f)(x), f(x))
    J = torch.stack([torch.autograd.functional.jacobian(f, row) for row in x])
    for mode in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(torch.func.vmap(mode(f))(x), J)


def test_a_million_entries(generator):
    x = torch.randn(1_000_000, generator=generator).requires_grad_()
    y = project_simplex(x, 10.0)
    assert abs(y.double().sum().item() - 10) <= 1e-5
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(
        gradient, torch.where(y > 0, 2 * (y - y[y > 0].mean()), 0).detach(), rtol=1e-4, atol=1e-6
    )
    y = capped_softmax(x, 2e-6)
    assert y.max() <= 2e-6 and abs(y.double().sum().item() - 1) <= 1e-6


class TestBadInput:
    @pytest.mark.parametrize(
        "f", [project_simplex, sparsemax, project_capped_simplex, lambda x: capped_softmax(x, 1.0)]
    )
    def test_x(self, f):
        with pytest.raises(ValueError, match="x must be finite, got 1 NaN"):
            f(torch.tensor([1.0, float("nan")]))
        with pytest.raises(ValueError, match="x must be float32 or float64"):
            f(torch.tensor([1, 2]))
        with pytest.raises(ValueError, match="n ≥ 1"):
            f(torch.ones(2, 0))

    def test_totals(self):
        x = torch.ones(2, 3)
        for bad in (-1.0, torch.tensor([1.0, -1.0])):
            with pytest.raises(ValueError, match="total must be at least 0"):
                project_simplex(x, bad)
        with pytest.raises(ValueError, match="total must be between 0 and the sum of the upper bounds"):
            project_capped_simplex(x, 3.1)
        with pytest.raises(ValueError, match="total must be finite"):
            project_simplex(x, float("inf"))

    @pytest.mark.parametrize("bad", [-0.5, float("nan"), torch.tensor([0.5, -0.5, 0.5])])
    def test_upper_bounds_that_are_negative(self, bad):
        for f in (lambda x: project_capped_simplex(x, 0.1, bad), lambda x: capped_softmax(x, bad)):
            with pytest.raises(ValueError, match="upper must be at least 0"):
                f(torch.ones(2, 3))

    def test_upper_bounds_that_leave_no_room(self):
        for bad in (0.3, torch.tensor([0.5, 0.4, 0.0])):
            with pytest.raises(ValueError, match="upper must have a sum of at least 1"):
                capped_softmax(torch.ones(2, 3), bad)

    def test_temperatures_and_shapes(self):
        x = torch.ones(2, 3)
        for f in (sparsemax, lambda x, tau: capped_softmax(x, 1.0, tau)):
            with pytest.raises(ValueError, match="tau must be positive"):
                f(x, 0.0)
            with pytest.raises(ValueError, match="must broadcast"):
                f(x, torch.ones(3))
        with pytest.raises(ValueError, match="upper must broadcast against x"):
            capped_softmax(x, torch.ones(2))
        with pytest.raises(ValueError, match="upper must have the dtype of x"):
            capped_softmax(x, torch.ones(3, dtype=DOUBLE))
