"""Three closed forms against the optimisation problems they solve, their proofs' consequences, and extreme inputs."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from diffopt_lib.layers import relu, sigmoid, softargmax
from diffopt_lib.layers.activations import relu_problem, sigmoid_problem, softargmax_problem

DOUBLE = torch.float64
LAYERS = {
    "relu": (relu, relu_problem, 1.0),
    "sigmoid": (sigmoid, sigmoid_problem, 1.0),
    "softargmax": (softargmax, softargmax_problem, 1.0),
    "cold softargmax": (lambda x: softargmax(x, tau=0.3), softargmax_problem, 0.3),
}


@pytest.fixture
def x(device, generator):
    return 2 * torch.randn(4, 6, dtype=DOUBLE, generator=generator).to(device)


@pytest.mark.parametrize("name", LAYERS)
def test_closed_form_solves_the_problem_that_cvxpy_solves(name, generator):
    layer, problem, tau = LAYERS[name]
    for x in 2 * torch.randn(3, 5, dtype=DOUBLE, generator=generator):
        variable = cp.Variable(5)
        objective, constraints = problem.cvxpy(variable, x.numpy(), tau)
        cp.Problem(cp.Minimize(objective), constraints).solve(solver=cp.CLARABEL)
        y = layer(x)
        np.testing.assert_allclose(y.numpy(), variable.value, atol=1e-4)

        # The torch objective is the one that CVXPY was given, and theirs is no better than ours.
        variable.value = variable.value.clip(1e-12, None if problem is not sigmoid_problem else 1 - 1e-12)
        optimum = problem.objective(torch.tensor(variable.value), x, tau).item()
        np.testing.assert_allclose(optimum, objective.value, rtol=1e-12)
        np.testing.assert_allclose(problem.objective(y, x, tau).item(), optimum, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_no_feasible_point_is_better(name, x, generator):
    layer, problem, tau = LAYERS[name]
    y = layer(x)
    assert problem.violation(y).max() < 1e-12
    other = torch.rand(200, 4, 6, dtype=DOUBLE, generator=generator).to(x.device)
    if problem is softargmax_problem:
        other = other / other.sum(-1, keepdim=True)
    assert problem.violation(other).max() < 1e-12
    assert (problem.objective(other, x, tau) >= problem.objective(y, x, tau) - 1e-12).all()


def test_violation_sees_infeasible_points():
    assert relu_problem.violation(torch.tensor([1.0, -0.5])) == 0.5
    assert sigmoid_problem.violation(torch.tensor([0.5, 1.25])) == 0.25
    assert softargmax_problem.violation(torch.tensor([0.5, 0.25])) == 0.25


@pytest.mark.parametrize("name", LAYERS)
def test_first_and_second_derivatives(name, x):
    layer = LAYERS[name][0]
    x = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_jacobians_read_off_the_problem(x):
    row = x[0]
    y = softargmax(row, tau=0.7)
    J = torch.autograd.functional.jacobian(lambda x: softargmax(x, tau=0.7), row)
    torch.testing.assert_close(J, (torch.diag(y) - torch.outer(y, y)) / 0.7)
    s = sigmoid(row)
    torch.testing.assert_close(torch.autograd.functional.jacobian(sigmoid, row), torch.diag(s * (1 - s)))
    torch.testing.assert_close(torch.autograd.functional.jacobian(relu, row), torch.diag((row > 0).to(DOUBLE)))


def test_derivative_of_relu_at_its_kink_is_zero():
    x = torch.zeros(1, requires_grad=True)
    relu(x).sum().backward()
    assert x.grad == 0


def test_temperature_gets_its_gradient_and_broadcasts(x):
    tau = torch.tensor([[0.5], [1.0], [2.0], [4.0]], dtype=DOUBLE, device=x.device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda tau: softargmax(x, tau), tau)
    for i in range(4):
        torch.testing.assert_close(softargmax(x, tau)[i], softargmax(x[i], tau[i].item()))


def test_cold_limit_shares_the_top_between_ties_and_hot_limit_is_uniform():
    x = torch.tensor([1.0, 3.0, 3.0, -2.0], dtype=DOUBLE)
    torch.testing.assert_close(softargmax(x, 1e-3), torch.tensor([0, 0.5, 0.5, 0], dtype=DOUBLE))
    torch.testing.assert_close(softargmax(x, 1e9), torch.full((4,), 0.25, dtype=DOUBLE))


@pytest.mark.parametrize("tau", [1e-3, 1.0, 1e3])
def test_softargmax_ignores_a_common_shift_and_scales_with_temperature(tau, x):
    torch.testing.assert_close(softargmax(x + 7, tau), softargmax(x, tau))
    torch.testing.assert_close(softargmax(3 * x, 3 * tau), softargmax(x, tau))


def test_float32_at_ten_thousand(device):
    x = torch.tensor([[1e4, -1e4, 9999.0, 0.0]], device=device, requires_grad=True)
    for layer in (relu, sigmoid, softargmax, lambda x: softargmax(x, 1e-3), lambda x: softargmax(x, 1e4)):
        y = layer(x)
        exact = layer(x.double())
        torch.testing.assert_close(y.double(), exact, rtol=1e-6, atol=1e-7)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 3), (2, 0, 3), (2, 5, 3)])
def test_any_batch_shape_and_dim(shape, dtype, device, generator):
    x = torch.randn(shape, dtype=dtype, generator=generator).to(device)
    for layer in (relu, sigmoid, softargmax):
        assert layer(x).shape == x.shape and layer(x).dtype == dtype
    for dim in range(x.ndim):
        if x.shape[dim]:
            y = softargmax(x, dim=dim)
            torch.testing.assert_close(y.sum(dim), torch.ones_like(y.sum(dim)))
            torch.testing.assert_close(y, softargmax(x.movedim(dim, -1)).movedim(-1, dim))


def test_scalars_are_fine_for_elementwise_layers():
    assert relu(torch.tensor(-1.0)) == 0
    assert sigmoid(torch.tensor(0.0)) == 0.5


def test_vmap_and_jacrev(x):
    for layer in (relu, sigmoid, softargmax):
        torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
        J = torch.func.vmap(torch.func.jacrev(layer))(x)
        assert J.shape == (4, 6, 6)


class TestBadInput:
    @pytest.mark.parametrize("layer", [relu, sigmoid, softargmax])
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_not_finite(self, layer, bad):
        with pytest.raises(ValueError, match="x must be finite, got 1 NaN or infinite entries out of 2"):
            layer(torch.tensor([1.0, bad]))

    @pytest.mark.parametrize("layer", [relu, sigmoid, softargmax])
    def test_not_floating_or_not_a_tensor(self, layer):
        with pytest.raises(ValueError, match="x must be float32 or float64, got torch.int64"):
            layer(torch.tensor([1, 2]))
        with pytest.raises(ValueError, match="x must be a torch tensor, got list"):
            layer([1.0, 2.0])

    @pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
    def test_bad_temperature(self, tau):
        with pytest.raises(ValueError, match="tau must be"):
            softargmax(torch.ones(2), tau)

    def test_temperatures_that_differ_between_the_entries_of_one_vector(self):
        x = torch.ones(3, 3)
        for tau, dim in ((torch.ones(3), -1), (torch.ones(3, 3), 1), (torch.ones(3, 1), 0)):
            with pytest.raises(ValueError, match="tau must have size 1 along dim"):
                softargmax(x, tau, dim)
        assert softargmax(x, torch.ones(3), 0).shape == (3, 3)

    def test_nothing_to_choose_from(self):
        with pytest.raises(ValueError, match="at least one entry"):
            softargmax(torch.ones(2, 0))
        with pytest.raises(ValueError, match="at least one entry"):
            softargmax(torch.tensor(1.0))
