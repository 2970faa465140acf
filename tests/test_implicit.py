"""The implicit function theorem: first, second, forward and vmapped derivatives, hidden tensors, singular systems."""

from functools import partial

import pytest
import torch
from scipy.optimize import root

from diffopt_lib import SolverError, implicit
from diffopt_lib.linear import cg, dense_solve, gmres, least_norm_solve

DOUBLE = torch.float64


def residual(z, A, b):
    """z + 0.3 sin(A z) − b, with A shared or batched."""
    return z + 0.3 * torch.sin((A @ z.unsqueeze(-1)).squeeze(-1)) - b


def solve_residual(A, b):
    """The root, by fixed-point iteration on detached tensors."""
    A, b = A.detach(), b.detach()
    z = b
    for _ in range(300):
        z = b - 0.3 * torch.sin((A @ z.unsqueeze(-1)).squeeze(-1))
    return z


def layer(A, b, solve=None):
    return implicit(residual, solve_residual(A, b), A, b, solve=solve)


@pytest.fixture
def problem(device, generator):
    A = 0.4 * torch.randn(3, 3, dtype=DOUBLE, generator=generator)
    b = torch.randn(4, 3, dtype=DOUBLE, generator=generator)
    return A.to(device).requires_grad_(), b.to(device).requires_grad_()


@pytest.mark.parametrize(
    "solve",
    [None, dense_solve, least_norm_solve, partial(gmres, tolerance=1e-12)],
    ids=["default", "dense", "least_norm", "gmres"],
)
def test_first_and_second_derivatives_are_exact(problem, solve):
    f = partial(layer, solve=solve)
    assert torch.autograd.gradcheck(f, problem)
    assert torch.autograd.gradgradcheck(f, problem)


def test_forward_mode_inside_forward_mode_is_exact(problem):
    """torch runs a rule of one's own with forward mode switched off; here it is on again, at every order."""
    A, b = (t.detach() for t in problem)
    forward, reverse = torch.func.jacfwd, torch.func.jacrev
    for argument in (0, 1):
        second = forward(forward(layer, argument), argument)(A, b[0])
        torch.testing.assert_close(second, reverse(reverse(layer, argument), argument)(A, b[0]))

    def f(b):
        return layer(A, b)

    third = reverse(reverse(reverse(f)))(b[0])
    assert third.abs().max() > 0.01
    for modes in ((forward, forward, forward), (reverse, forward, forward), (forward, reverse, forward)):
        outer, middle, inner = modes
        torch.testing.assert_close(outer(middle(inner(f)))(b[0]), third)


def test_third_derivatives_are_exact(problem):
    """gradgradcheck of the gradient."""
    A, b = problem

    def gradient(b):
        return torch.autograd.grad(layer(A.detach(), b).pow(3).sum(), b, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(gradient, b[:1].detach().requires_grad_())


def test_forward_mode_is_exact(problem):
    assert torch.autograd.gradcheck(layer, problem, check_forward_ad=True, check_backward_ad=False)


def test_value_is_the_root_that_scipy_finds(problem):
    A, b = (t.detach().cpu() for t in problem)
    z = layer(*problem).detach().cpu()
    for z_i, b_i in zip(z, b, strict=True):
        expected = root(lambda v, b=b_i: residual(torch.tensor(v), A, b).numpy(), x0=b_i.numpy(), tol=1e-12)
        torch.testing.assert_close(z_i, torch.tensor(expected.x))


def test_a_shared_parameter_gets_the_sum_over_the_batch(problem):
    A, b = problem
    (shared,) = torch.autograd.grad(layer(A, b).square().sum(), A)
    copies = A.detach().expand(4, 3, 3).clone().requires_grad_()
    (each,) = torch.autograd.grad(layer(copies, b).square().sum(), copies)
    torch.testing.assert_close(shared, each.sum(0))


@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3)])
def test_any_batch_shape(batch, generator):
    A = 0.4 * torch.randn(3, 3, dtype=DOUBLE, generator=generator)
    b = torch.randn(*batch, 3, dtype=DOUBLE, generator=generator, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(A, b).sum(), b)
    z = layer(A, b.detach())
    J = torch.eye(3, dtype=DOUBLE) + 0.3 * torch.cos(A @ z.unsqueeze(-1)) * A
    expected = torch.linalg.solve(J.mT, torch.ones(*batch, 3, 1, dtype=DOUBLE)).squeeze(-1)
    torch.testing.assert_close(gradient, expected)


def test_empty_batch_gives_empty_gradients():
    A = torch.eye(3, dtype=DOUBLE, requires_grad=True)
    b = torch.zeros(0, 3, dtype=DOUBLE, requires_grad=True)
    layer(A, b).sum().backward()
    assert b.grad.shape == (0, 3)
    assert (A.grad == 0).all()


class TestTransforms:
    @pytest.fixture
    def batch(self, generator):
        A = 0.4 * torch.randn(5, 3, 3, dtype=DOUBLE, generator=generator)
        return A, torch.randn(5, 3, dtype=DOUBLE, generator=generator)

    def test_vmap_equals_a_loop(self, batch):
        out = torch.func.vmap(layer)(*batch)
        torch.testing.assert_close(out, torch.stack([layer(A, b) for A, b in zip(*batch, strict=True)]))

    @pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd])
    def test_vmapped_jacobians_equal_autograd_ones(self, batch, transform):
        J_A, J_b = torch.func.vmap(transform(layer, argnums=(0, 1)))(*batch)
        for i, (A, b) in enumerate(zip(*batch, strict=True)):
            expected_A, expected_b = torch.autograd.functional.jacobian(layer, (A, b))
            torch.testing.assert_close(J_A[i], expected_A)
            torch.testing.assert_close(J_b[i], expected_b)

    @pytest.mark.parametrize("outer", [torch.func.jacrev, torch.func.jacfwd])
    @pytest.mark.parametrize("inner", [torch.func.jacrev, torch.func.jacfwd])
    def test_hessians_by_every_combination_of_modes(self, batch, outer, inner):
        def loss(b):
            return layer(batch[0][0], b).pow(2).sum()

        H = torch.func.vmap(outer(inner(loss)))(batch[1])
        expected = torch.stack([torch.autograd.functional.hessian(loss, b) for b in batch[1]])
        torch.testing.assert_close(H, expected)

    def test_vmap_over_one_argument_only(self, batch):
        A, b = batch[0][0], batch[1]
        out = torch.func.vmap(layer, in_dims=(None, 0))(A, b)
        torch.testing.assert_close(out, layer(A, b))
        out = torch.func.vmap(layer, in_dims=(0, None), out_dims=1)(batch[0], b[0])
        torch.testing.assert_close(out, torch.stack([layer(A, b[0]) for A in batch[0]], dim=1))

    def test_singular_elements_are_reported_under_jacrev_too(self):
        def flat(x):
            return implicit(lambda z, x: 0 * z - 0 * x, torch.zeros_like(x), x)

        with pytest.raises(SolverError, match="singular"):
            torch.func.vmap(torch.func.jacrev(flat))(torch.ones(2, 1, dtype=DOUBLE))


class TestHiddenTensors:
    """What the residual closes over is differentiated like what it is given."""

    def test_closed_over_leaf_and_non_leaf_get_their_gradients(self, problem):
        A, b = problem
        expected = torch.autograd.grad(layer(A, b).square().sum(), (A, b))
        z = solve_residual(A, b)
        doubled = 2 * A
        hidden = implicit(lambda z: residual(z, doubled / 2, b), z)
        torch.testing.assert_close(torch.autograd.grad(hidden.square().sum(), (A, b)), expected)

    def test_second_derivatives_of_closed_over_tensors(self, problem):
        A, b = problem
        assert torch.autograd.gradgradcheck(
            lambda A, b: implicit(lambda z: residual(z, A, b), solve_residual(A, b)), (A, b)
        )

    def test_parameters_of_a_module(self, generator):
        network = torch.nn.Linear(3, 3, dtype=DOUBLE)
        with torch.no_grad():
            network.weight.mul_(0.3)
        z = torch.zeros(2, 3, dtype=DOUBLE)
        for _ in range(100):
            z = torch.tanh(network(z)).detach()
        loss = implicit(lambda z: z - torch.tanh(network(z)), z).square().sum()
        gradients = torch.autograd.grad(loss, list(network.parameters()))

        W, c = network.weight, network.bias
        explicit = implicit(lambda z, W, c: z - torch.tanh(z @ W.T + c), z, W, c).square().sum()
        torch.testing.assert_close(gradients, torch.autograd.grad(explicit, (W, c)))
        assert all(g.abs().max() > 0 for g in gradients)

    def test_closures_inside_func_transforms(self, problem):
        A, b = (t.detach() for t in problem)

        def hidden(A):
            return implicit(lambda z: residual(z, A, b), solve_residual(A, b)).square().sum()

        expected = torch.func.grad(lambda A: layer(A, b).square().sum())(A)
        torch.testing.assert_close(torch.func.grad(hidden)(A), expected)

    def test_a_dependence_that_cannot_be_followed_raises(self):
        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return 2 * x

            @staticmethod
            def backward(ctx, g):
                return 2 * g

        c = torch.ones(3, requires_grad=True)
        with pytest.raises(ValueError, match="pass that tensor as an argument"):
            implicit(lambda z: z - Double.apply(c), torch.full((3,), 2.0))


class TestSingular:
    def flat_layer(self, x, solve=None):
        """(z₁ + z₂, 2 z₁ + 2 z₂) = x: a singular matrix in every element."""
        return implicit(
            lambda z, x: torch.stack([z.sum(-1), 2 * z.sum(-1)], -1) - x, 0.5 * torch.ones_like(x), x, solve=solve
        )

    def test_raises_with_indices_and_condition(self):
        x = torch.tensor([[1.0, 2.0], [1.0, 2.0]], dtype=DOUBLE, requires_grad=True)
        with pytest.raises(SolverError, match="condition about") as error:
            self.flat_layer(x).sum().backward()
        assert error.value.indices == [(0,), (1,)]

    def test_only_singular_elements_are_named(self):
        scale = torch.tensor([1.0, 0.0, 1.0], dtype=DOUBLE)
        x = torch.ones(3, 1, dtype=DOUBLE, requires_grad=True)
        z = implicit(lambda z, x: scale[:, None] * (z - x), torch.ones(3, 1, dtype=DOUBLE), x)
        with pytest.raises(SolverError) as error:
            z.sum().backward()
        assert error.value.indices == [(1,)]

    def test_ill_conditioned_beyond_the_dtype_raises_in_that_dtype_only(self):
        D = torch.tensor([1.0, 1e-9], dtype=DOUBLE)
        for dtype, bad in [(torch.float64, False), (torch.float32, True)]:
            x = torch.zeros(2, dtype=dtype, requires_grad=True)
            z = implicit(lambda z, x: D.to(z.dtype) * z - x, torch.zeros(2, dtype=dtype), x)
            if bad:
                with pytest.raises(SolverError, match="ill-conditioned"):
                    z.sum().backward()
            else:
                z.sum().backward()
                torch.testing.assert_close(x.grad, 1 / D)

    def test_least_norm_solution_equals_the_pseudoinverse_and_warns(self):
        x = torch.tensor([[1.0, 2.0]], dtype=DOUBLE, requires_grad=True)
        with pytest.warns(UserWarning, match="least-norm"):
            self.flat_layer(x, solve=least_norm_solve).sum().backward()
        J = torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=DOUBLE)
        torch.testing.assert_close(x.grad[0], torch.linalg.pinv(J).T @ torch.ones(2, dtype=DOUBLE))

    def test_cg_reports_negative_curvature(self):
        x = torch.ones(2, dtype=DOUBLE, requires_grad=True)
        z = implicit(lambda z, x: -z + x, torch.ones(2, dtype=DOUBLE), x, solve=cg)
        with pytest.raises(SolverError, match="conjugate gradients"):
            z.sum().backward()


def test_structured_solver_knows_which_way_to_use_its_factorisation(generator):
    """A solver that holds the LU of D_z R, and nothing else, serves both modes and second derivatives."""
    A = torch.randn(4, 4, dtype=DOUBLE, generator=generator) + 4 * torch.eye(4, dtype=DOUBLE)
    LU, pivots = torch.linalg.lu_factor(A)
    orientations = []

    def solve(operator, b):
        orientations.append(operator.transposed)
        return torch.linalg.lu_solve(LU, pivots, b.unsqueeze(-1), adjoint=operator.transposed).squeeze(-1)

    def f(x):
        return implicit(lambda z, x: z @ A.T - x.sin(), torch.linalg.solve(A, x.detach().sin()), x, solve=solve)

    x = torch.randn(4, dtype=DOUBLE, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(f, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, x)
    assert set(orientations) == {True, False}


def test_integer_arguments_pass_through(problem):
    A, b = problem
    order = torch.tensor([2, 0, 1], device=b.device)
    z = solve_residual(A, b.detach()[:, order])
    out = implicit(lambda z, A, b, order: residual(z, A, b[:, order]), z, A, b, order)
    expected = torch.autograd.grad(layer(A, b[:, order]).square().sum(), b)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), b), expected)


class TestBadInput:
    def test_residual_of_another_shape(self):
        with pytest.raises(ValueError, match=r"residual must have the shape.*\(2,\).*\(2, 1\)"):
            implicit(lambda z: z.unsqueeze(-1), torch.zeros(2))

    def test_mixed_dtypes(self):
        with pytest.raises(ValueError, match=r"theta\[0\] must have the dtype of z"):
            implicit(lambda z, x: z - x, torch.zeros(2), torch.zeros(2, dtype=DOUBLE))

    def test_integer_z(self):
        with pytest.raises(ValueError, match="z must be float32 or float64"):
            implicit(lambda z: z, torch.zeros(2, dtype=torch.int64))


def test_structured_solver_sees_the_tensors_of_the_derivative(problem):
    """Rebuilding D_z R from (z, A, b) inside the solver gives every derivative that the default gives."""

    def solve(operator, rhs):
        z, A, _ = operator.parameters
        J = torch.eye(3, dtype=z.dtype, device=z.device) + 0.3 * torch.cos(A @ z.unsqueeze(-1)) * A
        return torch.linalg.solve(J.mT if operator.transposed else J, rhs.unsqueeze(-1)).squeeze(-1)

    def f(A, b):
        return layer(A, b, solve=solve)

    assert torch.autograd.gradcheck(f, problem, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, problem)
