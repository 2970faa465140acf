"""argmin: minima that scipy finds, exact derivatives, elements that converge or fail on their own."""

import math

import pytest
import scipy.optimize
import torch

from diffopt_lib import SolverError, argmin
from diffopt_lib.linear import cg, least_norm_solve

DOUBLE = torch.float64
METHODS = ["newton", "lbfgs", "gradient_descent"]


def objective(y, b):
    """Strongly convex, not quadratic, coordinates coupled."""
    return (0.5 * y.square() + y.pow(4) / 8 - b * y).sum(-1) + 0.5 * y.sum(-1).square()


def rosenbrock(y, a):
    return (1 - y[..., 0]).square() + a[..., 0] * (y[..., 1] - y[..., 0].square()).square()


@pytest.fixture
def b(device, generator):
    return (2 * torch.randn(5, 3, dtype=DOUBLE, generator=generator)).to(device).requires_grad_()


@pytest.fixture
def y0(b):
    return torch.zeros(5, 3, dtype=DOUBLE, device=b.device)


@pytest.mark.parametrize("method", METHODS)
def test_minimum_equals_scipys(method, y0, b):
    y = argmin(objective, y0, b, method=method).y.detach().cpu()
    for y_i, b_i in zip(y, b.detach().cpu(), strict=True):
        theirs = scipy.optimize.minimize(
            lambda v, b_i=b_i: objective(torch.tensor(v), b_i).item(), x0=torch.zeros(3, dtype=DOUBLE).numpy()
        )
        torch.testing.assert_close(y_i, torch.tensor(theirs.x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_implicit_derivatives_are_exact_to_second_order(method, y0, b):
    def f(b):
        return argmin(objective, y0[:2], b, method=method, tolerance=1e-12).y

    b = b[:2].detach().requires_grad_()
    assert torch.autograd.gradcheck(f, b)
    assert torch.autograd.gradgradcheck(f, b)


@pytest.mark.parametrize("method", METHODS)
def test_unrolled_derivative_converges_to_the_implicit_one(method, y0, b):
    exact = torch.autograd.grad(argmin(objective, y0, b).y.square().sum(), b)[0]
    unrolled = argmin(objective, y0, b, method=method, gradient="unroll", tolerance=1e-10).y
    torch.testing.assert_close(torch.autograd.grad(unrolled.square().sum(), b)[0], exact, rtol=1e-5, atol=1e-6)


def test_one_step_derivative_is_exact_for_newton_and_a_contraction_factor_off_for_gradient_descent(y0, b):
    exact = torch.autograd.grad(argmin(objective, y0, b).y.sum(), b)[0]
    newton = torch.autograd.grad(argmin(objective, y0, b, gradient="one_step").y.sum(), b)[0]
    torch.testing.assert_close(newton, exact)

    # On ½ q (y − x)² the last update is y − α q (y − x): the one-step derivative is α q instead of 1.
    x = torch.tensor([[2.0], [3.0]], dtype=DOUBLE, requires_grad=True)
    q = torch.tensor([[1.0], [4.0]], dtype=DOUBLE)
    out = argmin(
        lambda y, x, q: (q * (y - x).square() / 2).sum(-1),
        torch.zeros(2, 1, dtype=DOUBLE),
        x,
        q,
        method="gradient_descent",
        gradient="one_step",
    )
    gradient = torch.autograd.grad(out.y.sum(), x)[0]
    assert (gradient > 0).all() and (gradient <= 1 + 1e-12).all()
    assert (1 - gradient).max() > 1e-3
    torch.testing.assert_close(out.y, x, rtol=1e-8, atol=1e-8)


def test_value_gradient_is_the_envelope_theorems(y0, b):
    """d/db f(y*(b), b) = ∂f/∂b at y*, which is −y* here."""
    solution = argmin(objective, y0, b)
    gradient = torch.autograd.grad(solution.value.sum(), b)[0]
    torch.testing.assert_close(gradient, -solution.y.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_quadratic_has_the_closed_form_solution_and_jacobian(method, generator):
    M = torch.randn(4, 4, dtype=DOUBLE, generator=generator)
    Q = M @ M.T + torch.eye(4, dtype=DOUBLE)

    def solve(x):
        return argmin(lambda y, x: 0.5 * (y @ Q * y).sum(-1) - (x * y).sum(-1), torch.zeros_like(x), x, method=method).y

    x = torch.randn(4, dtype=DOUBLE, generator=generator)
    torch.testing.assert_close(solve(x), torch.linalg.solve(Q, x), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(torch.autograd.functional.jacobian(solve, x), torch.linalg.inv(Q))


class TestIndependentElements:
    def test_a_hard_element_neither_slows_nor_spoils_the_others(self):
        """Rosenbrock valleys from easy to a = 10⁴: each converges in its own number of iterations."""
        a = torch.tensor([[1.0], [10.0], [1e4]], dtype=DOUBLE)
        start = torch.tensor([-1.2, 1.0], dtype=DOUBLE)
        together = argmin(rosenbrock, start, a)
        torch.testing.assert_close(together.y, torch.ones(3, 2, dtype=DOUBLE), rtol=1e-5, atol=1e-5)
        for i in range(3):
            alone = argmin(rosenbrock, start, a[i])
            assert together.iterations[i] == alone.iterations
            torch.testing.assert_close(together.y[i], alone.y)
        assert together.iterations[2] > 3 * together.iterations[0]

    def test_finished_elements_leave_the_batch(self):
        sizes = []

        def watched(y, a):
            sizes.append(y.shape[0])
            return rosenbrock(y, a)

        a = torch.tensor([[1.0], [1.0], [1.0], [1e4]], dtype=DOUBLE)
        argmin(watched, torch.tensor([-1.2, 1.0], dtype=DOUBLE).expand(4, 2), a)
        assert sizes.count(1) > sizes.count(4)

    def test_a_shared_tensor_that_looks_batched_is_not_sliced(self, generator):
        """W is (n, n) and the batch is n long: only asking f can tell that W is shared."""
        n = 3
        W = torch.randn(n, n, dtype=DOUBLE, generator=generator)
        c = torch.tensor([[0.1], [1.0], [30.0]], dtype=DOUBLE)

        def f(y, W, c):
            return (c[..., 0] * (y @ W.T).pow(4).sum(-1)) + 0.5 * (y - 1).square().sum(-1)

        together = argmin(f, torch.zeros(n, n, dtype=DOUBLE), W, c)
        for i in range(n):
            torch.testing.assert_close(together.y[i], argmin(f, torch.zeros(n, dtype=DOUBLE), W, c[i]).y)

    def test_a_function_bound_to_its_batch_size_still_works(self):
        c = torch.tensor([1.0, 10.0, 1e4], dtype=DOUBLE)

        def f(y):
            return torch.stack([rosenbrock(y[i], c[i : i + 1]) for i in range(3)])

        y = argmin(f, torch.tensor([-1.2, 1.0], dtype=DOUBLE).expand(3, 2)).y
        torch.testing.assert_close(y, torch.ones(3, 2, dtype=DOUBLE), rtol=1e-5, atol=1e-5)


class TestIndefinite:
    @pytest.mark.parametrize("start", [[0.0, 1.0], [0.0, 0.0], [0.1, 5.0], [1e-9, -1.0]])
    def test_newton_leaves_saddles_and_maxima_of_a_double_well(self, start):
        solution = argmin(
            lambda y: (y[..., 0].square() - 1).square() + y[..., 1].square(), torch.tensor(start, dtype=DOUBLE)
        )
        torch.testing.assert_close(solution.y.abs(), torch.tensor([1.0, 0.0], dtype=DOUBLE), rtol=1e-8, atol=1e-8)

    def test_trust_region_steps_decrease_a_nonconvex_function_as_scipys_do(self, generator):
        """Many random starts of a quartic with saddles: every end is a minimum, with a positive definite Hessian."""

        def f(y):
            return y.pow(4).sum(-1) / 4 - y.square().sum(-1) + 0.7 * y[..., 0] * y[..., 1] + 0.3 * y[..., 2]

        starts = 2 * torch.randn(64, 3, dtype=DOUBLE, generator=generator)
        solution = argmin(f, starts)
        H = torch.func.vmap(torch.func.hessian(f))(solution.y)
        assert torch.linalg.eigvalsh(H)[:, 0].min() > 0
        assert solution.iterations.max() < 40
        theirs = scipy.optimize.minimize(lambda v: f(torch.tensor(v)).item(), starts[0].numpy())
        assert f(solution.y).min() <= theirs.fun + 1e-8

    def test_a_flat_minimum_is_found(self):
        """(y − x)⁴ has a singular Hessian at its minimum: convergence is linear and still reached."""
        x = torch.ones(2, 2, dtype=DOUBLE)
        solution = argmin(lambda y, x: (y - x).pow(4).sum(-1), torch.zeros(2, 2, dtype=DOUBLE), x)
        torch.testing.assert_close(solution.y, x, rtol=2e-3, atol=2e-3)


def test_a_step_that_lands_on_the_edge_of_the_domain_goes_back():
    """From ½, Newton's step for x = ±2, ±4 ends exactly on 0 or 1, where entropy is finite and its slope is not."""
    x = torch.tensor([[-4.0], [-2.0], [2.0], [4.0]], dtype=DOUBLE, requires_grad=True)

    def negative_entropy(y, x):
        return (torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y) - x * y).sum(-1)

    solution = argmin(negative_entropy, torch.full((1,), 0.5, dtype=DOUBLE), x)
    torch.testing.assert_close(solution.y, torch.sigmoid(x))


class TestWarmStart:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_solution_as_guess_costs_at_most_one_iteration(self, method, y0, b):
        y = argmin(objective, y0, b, method=method).y.detach()
        assert argmin(objective, y, b, method=method).iterations.max() <= 1


class TestHidden:
    def test_closed_over_module_gets_the_gradient_of_the_explicit_call(self, generator):
        torch.manual_seed(0)
        network = torch.nn.Linear(2, 2, dtype=DOUBLE)
        x = torch.randn(3, 2, dtype=DOUBLE, generator=generator)

        def f(y):
            return 0.5 * (y - network(x)).square().sum(-1) + y.pow(4).sum(-1)

        y = argmin(f, torch.zeros(3, 2, dtype=DOUBLE)).y
        found = torch.autograd.grad(y.square().sum(), list(network.parameters()))

        def g(y, W, c):
            return 0.5 * (y - (x @ W.T + c)).square().sum(-1) + y.pow(4).sum(-1)

        W, c = network.weight, network.bias
        y = argmin(g, torch.zeros(3, 2, dtype=DOUBLE), W, c).y
        torch.testing.assert_close(found, torch.autograd.grad(y.square().sum(), (W, c)))

    @pytest.mark.parametrize("gradient", ["unroll", "one_step"])
    def test_every_gradient_mode_reaches_closed_over_tensors(self, gradient, y0, b):
        explicit = argmin(objective, y0, b, gradient=gradient).y
        hidden = argmin(lambda y: objective(y, b), y0, gradient=gradient).y
        torch.testing.assert_close(torch.autograd.grad(hidden.sum(), b)[0], torch.autograd.grad(explicit.sum(), b)[0])


class TestTransforms:
    def single(self, b):
        return argmin(objective, torch.zeros(3, dtype=DOUBLE, device=b.device), b).y

    def closure(self, b):
        return argmin(lambda y: objective(y, b), torch.zeros(3, dtype=DOUBLE, device=b.device)).y

    @pytest.mark.parametrize("name", ["single", "closure"])
    def test_vmap_jacrev_jacfwd(self, name, y0, b):
        f, b = getattr(self, name), b.detach()
        torch.testing.assert_close(torch.func.vmap(f)(b), argmin(objective, y0, b).y)
        expected = torch.stack([torch.autograd.functional.jacobian(self.single, b_i) for b_i in b])
        torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(f))(b), expected)
        torch.testing.assert_close(torch.func.vmap(torch.func.jacfwd(f))(b), expected)

    def test_vmap_of_one_step(self, y0, b):
        def f(b):
            return argmin(objective, torch.zeros(3, dtype=DOUBLE, device=b.device), b, gradient="one_step").y

        J = torch.func.vmap(torch.func.jacrev(f))(b.detach())
        expected = torch.func.vmap(torch.func.jacrev(self.single))(b.detach())
        torch.testing.assert_close(J, expected)


def test_a_matrix_free_adjoint_agrees_with_the_dense_one(y0, b):
    dense = torch.autograd.grad(argmin(objective, y0, b).y.square().sum(), b)[0]
    free = torch.autograd.grad(argmin(objective, y0, b, solve=cg).y.square().sum(), b)[0]
    torch.testing.assert_close(free, dense, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_any_batch_shape(batch, generator):
    b = torch.randn(*batch, 3, dtype=DOUBLE, generator=generator, requires_grad=True)
    solution = argmin(objective, torch.zeros(3, dtype=DOUBLE), b)
    assert solution.y.shape == (*batch, 3)
    for field in (solution.value, solution.converged, solution.iterations, solution.residual):
        assert field.shape == batch
    assert solution.converged.all()
    flat = argmin(objective, torch.zeros(3, dtype=DOUBLE), b.reshape(-1, 3))
    torch.testing.assert_close(solution.y.reshape(-1, 3), flat.y)


def test_broadcast_of_guess_and_context():
    """y0 (3, 1, n), x (4, n): the batch is (3, 4)."""
    x = torch.randn(4, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    y = argmin(lambda y, x: (y - x).square().sum(-1), torch.zeros(3, 1, 2, dtype=DOUBLE), x).y
    torch.testing.assert_close(y, x.expand(3, 4, 2))


def test_an_empty_batch_gives_an_empty_solution():
    x = torch.zeros(0, 2, requires_grad=True)
    solution = argmin(lambda y, x: (y - x).square().sum(-1), torch.zeros(0, 2), x)
    assert solution.y.shape == (0, 2) and solution.value.shape == (0,) and solution.converged.shape == (0,)
    solution.y.sum().backward()
    assert x.grad.shape == (0, 2)


def test_float32_reaches_its_tolerance(y0, b):
    single = argmin(objective, y0.float(), b.float())
    assert single.y.dtype == torch.float32 and single.converged.all()
    torch.testing.assert_close(single.y.double(), argmin(objective, y0, b).y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["newton", "lbfgs"])
def test_large_values_that_hide_the_decrease_in_rounding_still_converge(method):
    """f ≈ 10⁸ with a gradient that can't reach 1e-9: the error stays at the level rounding allows."""
    x = torch.tensor([3.0, -2.0], dtype=DOUBLE)
    solution = argmin(
        lambda y, x: 1e8 + 1e8 * (y - x).square().sum(-1) + 1e7 * (y - x).pow(4).sum(-1),
        torch.zeros(2, dtype=DOUBLE),
        x,
        method=method,
    )
    assert solution.converged
    torch.testing.assert_close(solution.y, x, rtol=1e-7, atol=1e-7)


class TestFailures:
    @pytest.mark.parametrize("f", [lambda y: -y.square().sum(-1), lambda y: y.sum(-1)], ids=["concave", "linear"])
    @pytest.mark.parametrize("method", METHODS)
    def test_unbounded_problems_are_called_so(self, method, f):
        with pytest.raises(SolverError, match="unbounded below"):
            argmin(f, torch.ones(2, 2, dtype=DOUBLE), method=method)

    def test_too_few_iterations_name_the_elements(self):
        a = torch.tensor([[1.0], [1e4]], dtype=DOUBLE)
        with pytest.raises(SolverError, match="no convergence") as error:
            argmin(rosenbrock, torch.tensor([-1.2, 1.0], dtype=DOUBLE), a, max_iterations=15)
        assert error.value.indices == [(1,)]

    def test_a_value_that_is_not_finite_at_the_guess(self):
        with pytest.raises(SolverError, match="not finite"):
            argmin(lambda y: (y - y.log()).sum(-1), -torch.ones(2, dtype=DOUBLE))

    def test_nan_marks_solution_and_gradient_and_leaves_the_rest(self):
        c = torch.tensor([[1.0], [-1.0], [2.0]], dtype=DOUBLE, requires_grad=True)
        solution = argmin(
            lambda y, c: (c * y.square() / 2 - y).sum(-1), torch.zeros(3, 1, dtype=DOUBLE), c, on_failure="nan"
        )
        assert solution.converged.tolist() == [True, False, True]
        (gradient,) = torch.autograd.grad(solution.y.sum(), c)
        assert solution.y[1].isnan().all() and solution.value[1].isnan() and gradient[1].isnan().all()
        torch.testing.assert_close(solution.y[::2], 1 / c[::2])
        torch.testing.assert_close(gradient[::2], -1 / c[::2].square())

    def test_return_hands_back_the_last_iterate(self):
        a = torch.tensor([100.0], dtype=DOUBLE)
        start = torch.tensor([-1.2, 1.0], dtype=DOUBLE)
        solution = argmin(rosenbrock, start, a, max_iterations=5, on_failure="return")
        assert not solution.converged and solution.iterations == 5
        assert solution.value < rosenbrock(start, a)

    def test_a_singular_hessian_is_reported_by_the_backward_pass(self):
        """min ½ (y₁ + y₂ − x)²: a line of minimisers. The value is fine, the derivative is not determined."""

        def solve(x, **options):
            return argmin(
                lambda y, x: 0.5 * (y.sum(-1) - x[..., 0]).square(), torch.zeros(2, dtype=DOUBLE), x, **options
            ).y

        x = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
        with pytest.raises(SolverError, match="singular"):
            solve(x).sum().backward()
        with pytest.warns(UserWarning, match="least-norm"):
            (gradient,) = torch.autograd.grad(solve(x, solve=least_norm_solve).sum(), x)
        torch.testing.assert_close(gradient, torch.ones(1, dtype=DOUBLE))


class TestBadInput:
    @pytest.mark.parametrize(
        ("y0", "x", "message"),
        [
            (torch.zeros(3), torch.tensor([1.0, math.nan, 0.0]), r"x\[0\] must be finite"),
            (torch.full((3,), math.nan), torch.zeros(3), "y0 must be finite"),
            (torch.zeros(3), torch.zeros(3, dtype=DOUBLE), r"x\[0\] must have the dtype of y0"),
            (torch.zeros(2, 0), torch.zeros(2, 0), "with n ≥ 1"),
            (torch.zeros(3, dtype=torch.float16), torch.zeros(3), "y0 must be float32 or float64"),
        ],
    )
    def test_named_argument(self, y0, x, message):
        with pytest.raises(ValueError, match=message):
            argmin(lambda y, x: (y - x).square().sum(-1), y0, x)

    @pytest.mark.parametrize(
        "options", [{"method": "simplex"}, {"gradient": "magic"}, {"on_failure": "ignore"}], ids=str
    )
    def test_unknown_options(self, options):
        with pytest.raises(ValueError, match="must be one of"):
            argmin(lambda y: y.square().sum(-1), torch.zeros(2), **options)

    def test_incompatible_batch(self):
        with pytest.raises(ValueError, match="batch shape of y0"):
            argmin(lambda y: y.square().sum(), torch.zeros(2, 3))
