"""CVXPY problems as layers: against CVXPY's own solutions, finite differences and cvxpylayers."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from diffopt_lib import SolverError
from diffopt_lib.layers.cvxpy_layer import from_cvxpy

DOUBLE = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def symmetric(*batch, n=3):
    M = normal(*batch, n, n)
    return M + M.mT


def least_squares():
    x, F, g = cp.Variable(4), cp.Parameter((3, 4), name="F"), cp.Parameter(3, name="g")
    objective = cp.sum_squares(F @ x - g) + 0.1 * cp.sum_squares(x)
    return cp.Problem(cp.Minimize(objective), [x >= -0.3, cp.sum(x) == 1]), [F, g], [x], [normal(2, 3, 4), normal(2, 3)]


def quadratic_form():
    x, Q, p = cp.Variable(4), cp.Parameter((4, 4), PSD=True, name="Q"), cp.Parameter(4, name="p")
    M = normal(2, 4, 4)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, Q) + p @ x), [x >= -0.1])
    return problem, [Q, p], [x], [M @ M.mT + 0.1 * torch.eye(4, dtype=DOUBLE), normal(2, 4)]


def norms():
    x, F, a = cp.Variable(4), cp.Parameter((3, 4), name="F"), cp.Parameter(4, name="a")
    problem = cp.Problem(cp.Minimize(cp.norm(x - a) + cp.norm(F @ x)), [x <= 1])
    return problem, [F, a], [x], [normal(2, 3, 4), normal(2, 4)]


def ball():
    """The epigraph variable of the norm is not unique where the constraint is inactive, which x does not mind."""
    x, a = cp.Variable(3), cp.Parameter(3, name="a")
    problem = cp.Problem(cp.Minimize(cp.norm(x - a) + 0.1 * cp.sum_squares(x)), [cp.norm(x) <= 1])
    return problem, [a], [x], [torch.stack([0.3 * normal(3), 3 * normal(3, seed=1)])]


def correlation_matrix():
    X, S = cp.Variable((3, 3), PSD=True), cp.Parameter((3, 3), symmetric=True, name="S")
    return cp.Problem(cp.Minimize(cp.norm(X - S, "fro")), [cp.diag(X) == 1]), [S], [X], [symmetric(2)]


def nuclear_norm():
    X, T, weight = cp.Variable((2, 3)), cp.Parameter((2, 3), name="T"), cp.Parameter(nonneg=True, name="weight")
    problem = cp.Problem(cp.Minimize(weight * cp.norm(X, "nuc") + cp.sum_squares(X - T)))
    return problem, [T, weight], [X], [normal(2, 2, 3), normal(2).abs() + 0.5]


def entropy():
    x, a = cp.Variable(4), cp.Parameter(4, name="a")
    return cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) + a @ x), [cp.sum(x) == 1]), [a], [x], [normal(2, 4)]


def logistic_regression():
    theta, Z = cp.Variable(2), cp.Parameter((6, 2), name="Z")
    problem = cp.Problem(cp.Minimize(cp.sum(cp.logistic(-Z @ theta)) + 0.1 * cp.sum_squares(theta)))
    return problem, [Z], [theta], [normal(2, 6, 2)]


def several_variables():
    D, t, X = cp.Variable((2, 2), diag=True), cp.Variable(), cp.Variable((2, 3))
    a, M = cp.Parameter(3, name="a"), cp.Parameter((2, 3), name="M")
    objective = cp.sum_squares(cp.diag(D) - a[:2]) + cp.square(t - a[2]) + cp.sum_squares(X - M) + cp.sum(X[0])
    return cp.Problem(cp.Minimize(objective), [t >= 0]), [a, M], [D, X, t], [normal(2, 3), normal(2, 2, 3)]


CASES = {
    f.__name__: f
    for f in (
        least_squares,
        quadratic_form,
        norms,
        ball,
        correlation_matrix,
        nuclear_norm,
        entropy,
        logistic_regression,
        several_variables,
    )
}
QUADRATIC = {"least_squares", "quadratic_form", "several_variables"}


def dense(value):
    return np.asarray(value.todense() if hasattr(value, "todense") else value)


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_that_clarabel_finds(name):
    problem, parameters, variables, values = CASES[name]()
    layer = from_cvxpy(problem, parameters, variables)
    assert layer.is_quadratic == (name in QUADRATIC)
    found = layer(*values)
    assert [tuple(t.shape) for t in found] == [(2, *v.shape) for v in variables]
    for i in range(2):
        for parameter, value in zip(parameters, values, strict=True):
            parameter.value = value[i].numpy()
        problem.solve(solver=cp.CLARABEL)
        best = problem.value
        for variable, t in zip(variables, found, strict=True):
            np.testing.assert_allclose(t[i].numpy(), dense(variable.value), atol=2e-3)
        if name != "several_variables":  # a diagonal variable only takes sparse values
            variables[0].value = found[0][i].numpy()
            assert abs(problem.objective.value - best) < 1e-6 * (1 + abs(best))


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_solving_again(name):
    problem, parameters, variables, values = CASES[name]()
    layer = from_cvxpy(problem, parameters, variables)
    values = [t.requires_grad_() for t in values]
    found = layer(*values)
    weights = [normal(*t.shape, seed=5) for t in found]

    def loss(found):
        return sum((w * t).sum() for w, t in zip(weights, found, strict=True))

    gradients = torch.autograd.grad(loss(found), values)
    directions, e = [normal(*t.shape, seed=6) for t in values], 1e-5
    for i, parameter in enumerate(parameters):
        if parameter.is_symmetric() and parameter.ndim == 2:
            directions[i] = directions[i] + directions[i].mT
            torch.testing.assert_close(gradients[i], gradients[i].mT)
    with torch.no_grad():
        up = layer(*(t + e * d for t, d in zip(values, directions, strict=True)))
        down = layer(*(t - e * d for t, d in zip(values, directions, strict=True)))
    exact = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    torch.testing.assert_close(exact, (loss(up) - loss(down)) / (2 * e), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["norms", "correlation_matrix", "entropy"])
def test_cvxpylayers_agrees(name):
    from cvxpylayers.torch import CvxpyLayer

    problem, parameters, variables, values = CASES[name]()
    ours, theirs = from_cvxpy(problem, parameters, variables), CvxpyLayer(problem, parameters, variables)
    values = [t.requires_grad_() for t in values]
    found = ours(*values)[0]
    expected = theirs(*values, solver_args={"eps": 1e-10, "max_iters": 100_000})[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    w = normal(*found.shape, seed=3)
    w = w + w.mT if name == "correlation_matrix" else w
    for g, want in zip(
        torch.autograd.grad((w * found).sum(), values),
        torch.autograd.grad((w * expected).sum(), values),
        strict=True,
    ):
        if name == "correlation_matrix":  # theirs gives a symmetric parameter's gradient to its upper triangle
            want = 0.5 * (want + want.mT)
        torch.testing.assert_close(g, want, rtol=1e-2, atol=1e-2)


def test_second_derivatives():
    problem, parameters, variables, values = norms()
    layer = from_cvxpy(problem, parameters, variables)
    values = [t[:1].requires_grad_() for t in values]
    assert torch.autograd.gradcheck(lambda *v: layer(*v)[0], values, atol=1e-5, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *v: layer(*v)[0], values, atol=1e-4, rtol=1e-3, fast_mode=True)


def test_batches_broadcast_and_an_unbatched_call_is_unbatched():
    problem, parameters, variables, (F, g) = least_squares()
    layer = from_cvxpy(problem, parameters, variables)
    assert layer(F[0], g[0])[0].shape == (4,)
    mixed = layer(F[0], g)[0]
    assert mixed.shape == (2, 4)
    torch.testing.assert_close(mixed[1], layer(F[0], g[1])[0])
    assert layer(F[:, None], g)[0].shape == (2, 2, 4)
    assert layer(F[:0], g[:0])[0].shape == (0, 4)
    torch.testing.assert_close(torch.func.vmap(lambda F, g: layer(F, g)[0])(F, g), layer(F, g)[0])


def test_the_order_of_parameters_is_the_callers():
    x = cp.Variable(2)
    a, b = cp.Parameter(2, name="a"), cp.Parameter(2, name="b")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a + 2 * b)))
    one, two = normal(2), normal(2, seed=1)
    torch.testing.assert_close(from_cvxpy(problem, [a, b], [x])(one, two)[0], one - 2 * two)
    torch.testing.assert_close(from_cvxpy(problem, [b, a], [x])(two, one)[0], one - 2 * two)


def test_a_problem_without_parameters():
    x = cp.Variable(2)
    (found,) = from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(x - 3))), [], [x])()
    torch.testing.assert_close(found, torch.full((2,), 3.0, dtype=DOUBLE))


@pytest.mark.parametrize("name", ["least_squares", "entropy"])
def test_dtype_and_device_are_the_callers(name, dtype, device):
    problem, parameters, variables, values = CASES[name]()
    layer = from_cvxpy(problem, parameters, variables)
    found = layer(*(t.to(dtype).to(device) for t in values))[0]
    assert found.dtype == dtype and found.device.type == device
    torch.testing.assert_close(found.double().cpu(), layer(*values)[0], rtol=1e-3, atol=1e-3)


def test_it_learns_inside_a_network():
    problem, parameters, variables, (F, g) = least_squares()
    layer = from_cvxpy(problem, parameters, variables)
    network = torch.nn.Linear(2, 3, dtype=DOUBLE)
    torch.nn.init.zeros_(network.weight)
    inputs = normal(16, 2)
    with torch.no_grad():
        target = layer(F[0], inputs @ normal(2, 3, seed=1))[0]
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (layer(F[0], network(inputs))[0] - target).square().sum(-1).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


class TestFailures:
    def test_infeasible_elements(self):
        x, low = cp.Variable(2), cp.Parameter(name="low")
        problem = cp.Problem(cp.Minimize(cp.norm(x - 1)), [x[0] >= low, cp.norm(x) <= 2])
        lows = torch.tensor([0.5, 3.0], dtype=DOUBLE, requires_grad=True)
        with pytest.raises(SolverError, match="infeasible"):
            from_cvxpy(problem, [low], [x])(lows)
        found = from_cvxpy(problem, [low], [x], on_failure="nan")(lows)[0]
        assert torch.isfinite(found[0]).all() and torch.isnan(found[1]).all()

    def test_a_degenerate_solution_is_reported(self):
        x, a = cp.Variable(2), cp.Parameter(2, name="a")
        problem = cp.Problem(cp.Minimize(0 * cp.norm(x) + cp.norm(a)), [cp.norm(x) <= 1])
        value = torch.ones(2, dtype=DOUBLE, requires_grad=True)
        found = from_cvxpy(problem, [a], [x])(value)[0]
        with pytest.raises(SolverError, match="not unique"):
            torch.autograd.grad(found.sum(), value)


class TestBadInput:
    def test_problems(self):
        x, a = cp.Variable(2), cp.Parameter(2, name="a")
        with pytest.raises(ValueError, match="is_dcp"):
            from_cvxpy(cp.Problem(cp.Maximize(cp.sum_squares(x))), [], [x])
        with pytest.raises(ValueError, match="is_dpp"):
            from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(x) + (a[0] * a[1]) * x[0])), [a], [x])
        integer = cp.Variable(2, integer=True)
        with pytest.raises(ValueError, match="integer"):
            from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(integer - a))), [a], [integer])
        with pytest.raises(ValueError, match="power cones"):
            from_cvxpy(cp.Problem(cp.Minimize(cp.sum(cp.power(x, 3.3, approx=False))), [x >= a]), [a], [x])
        with pytest.raises(ValueError, match="problem must be a cvxpy.Problem"):
            from_cvxpy(cp.Minimize(cp.sum(x)), [], [x])

    def test_parameters_and_variables(self):
        x, a = cp.Variable(2), cp.Parameter(2, name="a")
        problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)))
        with pytest.raises(ValueError, match="missing a"):
            from_cvxpy(problem, [], [x])
        with pytest.raises(ValueError, match="parameters must be parameters of the problem"):
            from_cvxpy(problem, [a, cp.Parameter(2)], [x])
        with pytest.raises(ValueError, match="variables must be variables of the problem"):
            from_cvxpy(problem, [a], [cp.Variable(2)])
        with pytest.raises(ValueError, match="parameters must not repeat"):
            from_cvxpy(problem, [a, a], [x])

    def test_tensors(self):
        x, a = cp.Variable(2), cp.Parameter(2, name="a", nonneg=True)
        layer = from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(x - a))), [a], [x])
        with pytest.raises(ValueError, match=r"a must have shape \(\*batch, 2\), got \(4, 3\)"):
            layer(torch.ones(4, 3))
        with pytest.raises(ValueError, match="a must be float32 or float64"):
            layer(torch.ones(2, dtype=torch.int64))
        with pytest.raises(ValueError, match="a must be finite"):
            layer(torch.tensor([1.0, float("nan")]))
        with pytest.raises(ValueError, match="a must be nonnegative"):
            layer(torch.tensor([1.0, -1.0]))
        with pytest.raises(ValueError, match="takes 1 parameters, got 2"):
            layer(torch.ones(2), torch.ones(2))
