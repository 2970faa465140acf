"""What users of cvxpy layers run into, each rebuilt in our own words; where it was reported stands behind it."""

import copy
import time

import cvxpy as cp
import numpy as np
import pytest
import torch

from diffopt_lib import SolverError
from diffopt_lib.layers import from_cvxpy

DOUBLE = torch.float64


def double(value):
    return torch.tensor(value, dtype=DOUBLE)


class TestScalars:
    """Scalar parameters and variables, with and without a batch (cvxgrp/cvxpylayers#145, cvxgrp/diffcp#57)."""

    def test_a_scalar_parameter_without_a_batch(self):
        x, a = cp.Variable(3), cp.Parameter()
        layer = from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cp.sum(x) == 1.5]), [a], [x])
        torch.testing.assert_close(layer(double(4.0))[0], double([0.5, 0.5, 0.5]))

    def test_a_scalar_variable_without_a_batch(self):
        t, a = cp.Variable(), cp.Parameter(3)
        a_value = double([1.0, -2.0, 4.0]).requires_grad_()
        (found,) = from_cvxpy(cp.Problem(cp.Minimize(cp.square(t - a[0] * 1 + a[2]))), [a], [t])(a_value)
        assert found.shape == ()
        torch.testing.assert_close(found, double(-3.0))
        torch.testing.assert_close(torch.autograd.grad(found, a_value)[0], double([1.0, 0.0, -1.0]))

    def test_both_scalar_in_a_cone_program(self):
        """min exp(t) − a t has t = log a."""
        t, a = cp.Variable(), cp.Parameter(nonneg=True)
        layer = from_cvxpy(cp.Problem(cp.Minimize(cp.exp(t) - a * t)), [a], [t])
        torch.testing.assert_close(layer(double(3.0))[0], double(3.0).log())
        torch.testing.assert_close(layer(double([2.0, 5.0]))[0], double([2.0, 5.0]).log())

    def test_log_barrier_with_a_scalar_weight(self):
        """min a x − log x has x = 1/a (cvxgrp/diffcp#58)."""
        x, a = cp.Variable(), cp.Parameter(pos=True)
        a_value = double(0.25).requires_grad_()
        (found,) = from_cvxpy(cp.Problem(cp.Minimize(a * x - cp.log(x))), [a], [x])(a_value)
        torch.testing.assert_close(found, double(4.0))
        torch.testing.assert_close(torch.autograd.grad(found, a_value)[0], double(-16.0))

    def test_a_matrix_of_one_row_and_a_batch_of_one(self):
        X, a = cp.Variable((1, 2)), cp.Parameter((1, 1))
        layer = from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(X - a))), [a], [X])
        assert layer(double([[2.0]]))[0].shape == (1, 2) and layer(double([[[2.0]]]))[0].shape == (1, 1, 2)


class TestCasts:
    """A network is cast as a whole; the problem that one of its layers solves stays what it is."""

    WEIGHTS = np.array([0.7654321, 1e5, -0.1111111])

    def layer(self):
        x, p = cp.Variable(3), cp.Parameter(3)
        return from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [self.WEIGHTS @ x == 2]), [p], [x])

    @pytest.mark.parametrize("cast", ["float", "half", "bfloat16", "double"])
    def test_constants_are_not_rounded(self, cast):
        p = double([0.4, -0.2, 0.9])
        (exact,) = self.layer()(p)
        model = torch.nn.Sequential(self.layer())
        getattr(model, cast)()
        torch.testing.assert_close(model(p)[0], exact, rtol=0, atol=0)
        assert abs(self.WEIGHTS @ exact.numpy() - 2) < 1e-9

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_to_a_dtype_and_back(self, dtype):
        p = double([0.4, -0.2, 0.9])
        model = torch.nn.Sequential(self.layer()).to(dtype).to(DOUBLE)
        torch.testing.assert_close(model(p)[0], self.layer()(p)[0], rtol=0, atol=0)

    def test_copies_are_exact_too(self):
        p = double([0.4, -0.2, 0.9])
        layer = self.layer().half()
        torch.testing.assert_close(copy.deepcopy(layer)(p)[0], self.layer()(p)[0], rtol=0, atol=0)

    def test_single_precision_parameters_meet_exact_constants(self):
        """The equation holds to the precision of the result, for constants of very different size."""
        p = torch.tensor([0.4, -0.2, 0.9])
        (found,) = self.layer()(p)
        (exact,) = self.layer()(p.double())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact.float(), rtol=1e-6, atol=1e-9)

    def test_the_constants_follow_to_a_device(self):
        assert self.layer().to("meta").q.constants["value"].device.type == "meta"

    def test_a_cast_leaves_no_trace_in_the_state(self):
        assert self.layer().half().state_dict() == {}


GOOD = {
    "PSD": [[2.0, 1.0], [1.0, 0.5]],
    "NSD": [[-2.0, 1.0], [1.0, -0.5]],
    "symmetric": [[0.0, -4.0], [-4.0, 1.0]],
    "diag": [[3.0, 0.0], [0.0, -1.0]],
    "integer": [[3.0, 0.0], [-7.0, 1.0]],
    "boolean": [[1.0, 0.0], [0.0, 1.0]],
    "nonneg": [[0.0, 2.0], [3.0, 1.0]],
    "nonpos": [[0.0, -2.0], [-3.0, -1.0]],
    "pos": [[0.1, 2.0], [3.0, 1.0]],
    "neg": [[-0.1, -2.0], [-3.0, -1.0]],
}
BAD = {
    "PSD": [[2.0, 1.1], [1.1, 0.5]],
    "NSD": [[-2.0, 1.1], [1.1, -0.5]],
    "symmetric": [[0.0, -4.0], [-4.1, 1.0]],
    "diag": [[3.0, 0.0], [0.2, -1.0]],
    "integer": [[3.0, 0.0], [-7.5, 1.0]],
    "boolean": [[1.0, 0.0], [2.0, 1.0]],
    "nonneg": [[0.0, 2.0], [3.0, -1.0]],
    "nonpos": [[0.0, -2.0], [3.0, -1.0]],
    "pos": [[0.0, 2.0], [3.0, -1.0]],
    "neg": [[0.0, -2.0], [3.0, -1.0]],
}


class TestDeclaredAttributes:
    """What a parameter is declared to be is checked, as CVXPY checks it (cvxgrp/cvxpylayers#160)."""

    def layer(self, shape=(2, 2), **attributes):
        X, p = cp.Variable(shape), cp.Parameter(shape, name="p", **attributes)
        return from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(X - p))), [p], [X])

    @pytest.mark.parametrize("attribute", GOOD)
    def test_a_value_that_is_so_is_taken(self, attribute, dtype):
        value = torch.tensor(GOOD[attribute], dtype=dtype)
        torch.testing.assert_close(self.layer(**{attribute: True})(value)[0], value)

    @pytest.mark.parametrize("attribute", BAD)
    def test_a_value_that_is_not_is_refused(self, attribute):
        value = double(BAD[attribute])
        with pytest.raises(ValueError, match="p must be .*, as its cvxpy.Parameter is declared"):
            self.layer(**{attribute: True})(value)
        with pytest.raises(ValueError, match="must be"):
            cp.Parameter((2, 2), **{attribute: True}).value = value.numpy() - 1e-9 * (attribute in ("pos",))

    @pytest.mark.parametrize("attribute", ["PSD", "symmetric", "nonneg"])
    def test_one_element_of_a_batch_is_enough(self, attribute):
        with pytest.raises(ValueError, match="p must be"):
            self.layer(**{attribute: True})(double([GOOD[attribute], BAD[attribute]]))

    @pytest.mark.parametrize(("value", "good"), [([0.0, 5.0], True), ([-0.1, 5.0], False), ([1.0, 7.5], False)])
    def test_bounds_of_every_entry(self, value, good):
        layer = self.layer((2,), bounds=[0.0, np.array([1.0, 7.0])])
        if good:
            torch.testing.assert_close(layer(double(value))[0], double(value))
            return
        with pytest.raises(ValueError, match="p must be at (least|most)"):
            layer(double(value))

    def test_some_entries_may_be_integer_only(self):
        layer = self.layer((3,), integer=[(1,)])
        layer(double([0.5, 2.0, 0.5]))
        with pytest.raises(ValueError, match="p must be integer"):
            layer(double([0.5, 2.5, 0.5]))

    def test_a_scalar_that_is_declared_integer(self):
        layer = self.layer((), integer=True)
        torch.testing.assert_close(layer(double([2.0, 3.0]))[0], double([2.0, 3.0]))
        with pytest.raises(ValueError, match="p must be integer"):
            layer(double([2.0, 3.25]))

    def test_rounding_is_no_violation(self, dtype):
        """M Mᵀ of rank one, and its rounded sum with its transpose, are semidefinite and symmetric enough."""
        M = torch.randn(5, 4, 1, dtype=dtype)
        Q = M @ M.mT + 1e-7 * torch.randn(5, 4, 4, dtype=torch.float32).to(dtype) * (dtype == torch.float32)
        x, P = cp.Variable(4), cp.Parameter((4, 4), PSD=True)
        problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) + cp.sum_squares(x - 1)))
        assert torch.isfinite(from_cvxpy(problem, [P], [x])(Q)[0]).all()

    def test_a_quadratic_form_names_its_matrix(self):
        x, Q = cp.Variable(2), cp.Parameter((2, 2), PSD=True, name="Q")
        layer = from_cvxpy(cp.Problem(cp.Minimize(cp.quad_form(x, Q) + cp.sum(x))), [Q], [x])
        with pytest.raises(ValueError, match="Q must be positive semidefinite"):
            layer(double([[1.0, 0.0], [0.0, -2.0]]))
        with pytest.raises(SolverError, match="unbounded"):
            layer(double([[1.0, 0.0], [0.0, 0.0]]))

    def test_a_quadratic_form_says_what_its_parameter_must_be(self):
        x, Q = cp.Variable(2), cp.Parameter((2, 2), symmetric=True)
        with pytest.raises(ValueError, match=r"cvxpy.Parameter\(\(n, n\), PSD=True\)"):
            from_cvxpy(cp.Problem(cp.Minimize(cp.quad_form(x, Q) + cp.sum(x))), [Q], [x])


def clustering(N, d=8, seed=1):
    """Sparse subspace clustering (cvxgrp/cvxpylayers#112): N² variables, all matrices sparse."""
    X, C = cp.Parameter((d, N)), cp.Variable((N, N))
    problem = cp.Problem(cp.Minimize(cp.sum(cp.abs(C)) + 4 * cp.sum_squares(X - X @ C)), [cp.diag(C) == 0])
    g = torch.Generator().manual_seed(seed)
    data = torch.randn(d, 2, dtype=DOUBLE, generator=g) @ torch.randn(2, N, dtype=DOUBLE, generator=g)
    data = data + 0.05 * torch.randn(d, N, dtype=DOUBLE, generator=g)
    return problem, X, C, data / data.norm(dim=0)


def denoising(n=600):
    """Total variation of a long signal (a QP with a band of entries)."""
    x, p, lam = cp.Variable(n), cp.Parameter(n), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - p) + lam * cp.norm1(cp.diff(x))))
    steps = torch.arange(n, dtype=DOUBLE).div(100, rounding_mode="floor") % 3
    noise = 0.2 * torch.randn(n, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    return problem, [p, lam], x, [steps + noise, double(0.7)]


class TestSparsePrograms:
    def test_clustering_is_solved_as_clarabel_solves_it(self):
        problem, X, C, data = clustering(20)
        layer = from_cvxpy(problem, [X], [C])
        assert layer.is_sparse
        (found,) = layer(data)
        X.value = data.numpy()
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
        np.testing.assert_allclose(found.numpy(), C.value, atol=1e-5)
        C.value, best = found.numpy(), problem.value
        assert problem.objective.value <= best + 1e-9

    def test_clustering_takes_at_most_twenty_times_as_long(self):
        problem, X, C, data = clustering(30)
        layer, X.value = from_cvxpy(problem, [X], [C]), data.numpy()

        def quickest(solve):
            times = []
            for _ in range(3):
                began = time.perf_counter()
                solve()
                times.append(time.perf_counter() - began)
            return min(times)

        leaf = data.clone().requires_grad_()
        ours = quickest(lambda: layer(leaf)[0].square().sum().backward())
        assert ours <= 20 * quickest(lambda: problem.solve(solver=cp.CLARABEL))

    @pytest.mark.parametrize("which", ["clustering", "denoising"])
    def test_gradients_are_those_of_the_dense_path_and_of_solving_again(self, which):
        if which == "clustering":
            problem, X, variable, data = clustering(15)
            parameters, values = [X], [data]
        else:
            problem, parameters, variable, values = denoising(250)
        layer = from_cvxpy(problem, parameters, [variable])
        values = [t.clone().requires_grad_() for t in values]
        w = torch.randn(variable.shape, dtype=DOUBLE)
        assert layer.is_sparse
        found = torch.autograd.grad((w * layer(*values)[0]).sum(), values)
        directions, e = [torch.randn_like(t) for t in values], 1e-6
        with torch.no_grad():
            up, down = (
                (w * layer(*(t + sign * e * d for t, d in zip(values, directions, strict=True)))[0]).sum()
                for sign in (1, -1)
            )
        exact = sum((g * d).sum() for g, d in zip(found, directions, strict=True))
        torch.testing.assert_close(exact, (up - down) / (2 * e), rtol=1e-4, atol=1e-6)
        layer.is_sparse = False
        expected = torch.autograd.grad((w * layer(*values)[0]).sum(), values)
        for g, want in zip(found, expected, strict=True):
            torch.testing.assert_close(g, want, rtol=1e-6, atol=1e-8)

    def test_a_batch_of_sparse_programs_with_one_infeasible(self):
        n = 300
        x, low = cp.Variable(n), cp.Parameter()
        problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x >= low, x[::2] <= 2, cp.sum(x) <= n])
        layer = from_cvxpy(problem, [low], [x])
        assert layer.is_sparse
        with pytest.raises(SolverError, match=r"infeasible.*\(1,\)"):
            layer(double([0.5, 3.0]))
        found = from_cvxpy(problem, [low], [x], on_failure="nan")(double([0.5, 3.0]))[0]
        torch.testing.assert_close(found[0], torch.ones(n, dtype=DOUBLE))
        assert torch.isnan(found[1]).all()

    def test_a_small_or_dense_program_takes_the_dense_path(self):
        x, F = cp.Variable(250), cp.Parameter((250, 250))
        small = cp.Variable(5)
        assert not from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(F @ x - 1)), [x >= 0]), [F], [x]).is_sparse
        assert not from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(small - 1)), [small >= 2]), [], [small]).is_sparse


def portfolio():
    w, mu = cp.Variable(4), cp.Parameter(4)
    constraints = [cp.sum(w) == 1, w >= 0, w[0] <= 0.4]
    problem = cp.Problem(cp.Maximize(mu @ w - cp.sum_squares(w)), constraints)
    return problem, [mu], [w], constraints, [double([1.0, 0.3, -2.0, 0.9])]


def ball():
    x, a, r = cp.Variable(3), cp.Parameter(3), cp.Parameter(nonneg=True)
    constraints = [cp.norm(x) <= r, x[2] == 0.1]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), constraints)
    return problem, [a, r], [x], constraints, [double([2.0, 1.0, -1.0]), double(0.8)]


def semidefinite():
    X, S = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
    constraints = [X >> 0, cp.diag(X) == 1]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - S)), constraints)
    return problem, [S], [X], constraints, [double([[1.0, 2.0, -1.5], [2.0, 1.0, 0.5], [-1.5, 0.5, 1.0]])]


def matrix_inequality():
    X, T = cp.Variable((2, 3)), cp.Parameter((2, 3))
    constraints = [np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]) >= X, X >= -1]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - T)), constraints)
    return problem, [T], [X], constraints, [double([[1.0, -2.0, 0.0], [0.0, 3.0, 0.7]])]


def entropy():
    x, a = cp.Variable(3), cp.Parameter(3)
    constraints = [cp.sum(x) == 1, x <= 0.5]
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) + a @ x), constraints)
    return problem, [a], [x], constraints, [double([2.0, 0.5, -0.3])]


DUALS = {f.__name__: f for f in (portfolio, ball, semidefinite, matrix_inequality, entropy)}


class TestDualVariables:
    @pytest.mark.parametrize("name", DUALS)
    def test_values_and_signs_are_cvxpys(self, name):
        problem, parameters, variables, constraints, values = DUALS[name]()
        found = from_cvxpy(problem, parameters, variables, duals=constraints)(*values)
        for parameter, value in zip(parameters, values, strict=True):
            parameter.value = value.numpy()
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        for constraint, dual in zip(constraints, found[len(variables) :], strict=True):
            assert tuple(dual.shape) == constraint.shape
            np.testing.assert_allclose(dual.numpy(), constraint.dual_value, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("name", DUALS)
    def test_gradients_are_those_of_solving_again(self, name):
        problem, parameters, variables, constraints, values = DUALS[name]()
        layer = from_cvxpy(problem, parameters, variables, duals=constraints)
        values = [t.requires_grad_() for t in values]
        weights = [torch.randn(c.shape, dtype=DOUBLE) for c in constraints]

        def loss(values):
            found = layer(*values)[len(variables) :]
            return sum((w * dual).sum() for w, dual in zip(weights, found, strict=True))

        gradients = torch.autograd.grad(loss(values), values)
        directions, e = [torch.randn_like(t) for t in values], 1e-5
        directions = [d + d.mT if d.ndim == 2 and d.shape[0] == d.shape[1] else d for d in directions]
        with torch.no_grad():
            up, down = (loss([t + s * e * d for t, d in zip(values, directions, strict=True)]) for s in (1, -1))
        exact = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        torch.testing.assert_close(exact, (up - down) / (2 * e), rtol=1e-4, atol=1e-5)

    def test_a_multiplier_is_the_derivative_of_the_optimal_value(self):
        problem, parameters, variables, constraints, (a, r) = ball()
        layer = from_cvxpy(problem, parameters, variables, duals=constraints[:1])
        r = r.requires_grad_()
        x, dual = layer(a, r)
        (slope,) = torch.autograd.grad((x - a).square().sum(), r)
        torch.testing.assert_close(dual, -slope, rtol=1e-7, atol=1e-9)

    def test_a_constraint_with_several_dual_variables_gives_several(self):
        x, t, a = cp.Variable(2), cp.Variable(), cp.Parameter(2)
        cone = cp.SOC(t, x - a)
        problem = cp.Problem(cp.Minimize(t + cp.sum(x) / 2), [cone, x >= 0])
        found, (of_t, of_x) = from_cvxpy(problem, [a], [t], duals=[cone])(double([1.0, 2.0]))
        a.value = np.array([1.0, 2.0])
        problem.solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(of_t.numpy(), np.squeeze(cone.dual_value[0]), atol=1e-6)
        np.testing.assert_allclose(of_x.numpy(), np.squeeze(cone.dual_value[1]), atol=1e-6)

    def test_batches_and_the_sparse_path_have_them_too(self):
        n = 300
        x, p = cp.Variable(n), cp.Parameter(n)
        constraints = [x >= 0, cp.sum(x) == 1]
        problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - p)), constraints)
        layer = from_cvxpy(problem, [p], [x], duals=constraints)
        value = torch.randn(2, n, dtype=DOUBLE)
        assert layer.is_sparse
        found, lam, nu = layer(value)
        assert lam.shape == (2, n) and nu.shape == (2,)
        torch.testing.assert_close(found - value - lam + nu[:, None], torch.zeros_like(found), rtol=0, atol=1e-10)

    def test_asking_leaves_the_problem_as_it_was(self):
        problem, parameters, variables, constraints, _ = portfolio()
        from_cvxpy(problem, parameters, variables, duals=constraints)
        assert all(constraint.dual_value is None for constraint in constraints)

    def test_a_foreign_constraint_is_refused(self):
        problem, parameters, variables, *_ = portfolio()
        with pytest.raises(ValueError, match="duals must be constraints of the problem"):
            from_cvxpy(problem, parameters, variables, duals=[variables[0] >= 0])


class TestGeometricPrograms:
    """Log-log convex programs, with gp=True as in CVXPY."""

    def box(self):
        h, w, d = (cp.Variable(pos=True) for _ in range(3))
        wall, floor, ratio = (cp.Parameter(pos=True) for _ in range(3))
        constraints = [2 * (h * w + h * d) <= wall, w * d <= floor, ratio <= h / w, h / w <= 2, d / w <= 2]
        return cp.Problem(cp.Maximize(h * w * d), constraints), [wall, floor, ratio], [h, w, d], constraints

    def test_the_largest_box_is_cvxpys(self):
        problem, parameters, variables, _ = self.box()
        values = [120.0, 12.0, 0.6]
        found = from_cvxpy(problem, parameters, variables, gp=True)(*map(double, values))
        for parameter, value in zip(parameters, values, strict=True):
            parameter.value = value
        problem.solve(gp=True, solver=cp.CLARABEL)
        best = problem.value
        assert float(found[0] * found[1] * found[2]) == pytest.approx(best, rel=1e-6)

    def test_a_closed_form_and_its_gradient(self):
        """min a x + b/x has x = √(b/a)."""
        x, a, b = cp.Variable(pos=True), cp.Parameter(pos=True), cp.Parameter(pos=True)
        layer = from_cvxpy(cp.Problem(cp.Minimize(a * x + b / x)), [a, b], [x], gp=True)
        values = [double([2.0, 0.5]).requires_grad_(), double([3.0, 7.0]).requires_grad_()]
        (found,) = layer(*values)
        torch.testing.assert_close(found, (values[1] / values[0]).sqrt(), rtol=1e-8, atol=1e-8)
        for g, want in zip(
            torch.autograd.grad(found.sum(), values),
            torch.autograd.grad((values[1] / values[0]).sqrt().sum(), values),
            strict=True,
        ):
            torch.testing.assert_close(g, want, rtol=1e-6, atol=1e-6)

    def test_a_parameter_that_is_an_exponent(self):
        """min x + c/xᵖ has x = (p c)^{1/(p+1)}; c occurs as a coefficient, p as an exponent."""
        x, c, p = cp.Variable(pos=True), cp.Parameter(pos=True), cp.Parameter()
        layer = from_cvxpy(cp.Problem(cp.Minimize(x + c * x**p)), [c, p], [x], gp=True)
        values = [double(2.0).requires_grad_(), double(-1.5).requires_grad_()]
        c_value, power = values[0], -values[1]
        expected = (power * c_value) ** (1 / (power + 1))
        (found,) = layer(*values)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        gradients = (torch.autograd.grad(t, values) for t in (found, expected))
        for g, want in zip(*gradients, strict=True):
            torch.testing.assert_close(g, want, rtol=1e-6, atol=1e-6)

    def test_dual_variables_are_elasticities(self):
        """The multiplier of a monomial constraint is how the logarithm of the value answers to that of its bound."""
        x, y, a = cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(pos=True)
        constraint = x * y >= a
        layer = from_cvxpy(cp.Problem(cp.Minimize(x + 2 * y), [constraint]), [a], [x, y], duals=[constraint], gp=True)
        a_value = double(3.0).requires_grad_()
        x_found, y_found, dual = layer(a_value)
        (slope,) = torch.autograd.grad((x_found + 2 * y_found).log(), a_value)
        torch.testing.assert_close(dual, slope * a_value, rtol=1e-6, atol=1e-7)

    def test_what_is_no_geometric_program_is_refused(self):
        x, a = cp.Variable(pos=True), cp.Parameter(pos=True)
        with pytest.raises(ValueError, match="must be a geometric program"):
            from_cvxpy(cp.Problem(cp.Minimize(cp.square(x - a))), [a], [x], gp=True)
        with pytest.raises(ValueError, match="there is gp=True"):
            from_cvxpy(cp.Problem(cp.Minimize(x), [x * x >= a]), [a], [x])

    def test_a_parameter_that_is_not_positive_is_refused(self):
        x, a = cp.Variable(pos=True), cp.Parameter(pos=True, name="a")
        layer = from_cvxpy(cp.Problem(cp.Minimize(a * x + 1 / x)), [a], [x], gp=True)
        with pytest.raises(ValueError, match="a must be positive"):
            layer(double(0.0))
