"""The one switch of iterative solvers, on square roots: z² = θ, whose derivatives are known."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from diffopt_lib.gradient import check_gradient, solve_differentiably

DOUBLE = torch.float64


def equation(z, theta):
    return z.square() - theta


def root(theta, gradient, z0=None, steps=8, rate=None):
    """√θ by Newton's method, or with a fixed step length ``rate``, and the number of steps."""

    def last(z, theta):
        return -equation(z, theta) / (2 * z.detach()) if rate is None else -rate * equation(z, theta)

    def algorithm(f, z, theta):
        for _ in range(steps):
            z = z - (f(z, theta) / (2 * z) if rate is None else rate * f(z, theta))
        return z, torch.full_like(z[..., 0], steps)

    return solve_differentiably(
        gradient,
        algorithm,
        equation,
        torch.ones_like(theta) if z0 is None else z0,
        (theta,),
        residual=equation,
        solve=None,
        update=lambda z, theta, rest: last(z, *theta),
    )


@pytest.fixture
def theta(generator):
    return (0.5 + torch.rand(4, 2, dtype=DOUBLE, generator=generator)).requires_grad_()


@pytest.mark.parametrize("gradient", ["implicit", "unroll", "one_step"])
def test_value_and_first_derivative_of_a_converged_newton_method(gradient, theta):
    z, steps = root(theta, gradient)
    torch.testing.assert_close(z, theta.sqrt())
    assert (steps == 8).all() and not steps.requires_grad
    (g,) = torch.autograd.grad(z.sum(), theta)
    torch.testing.assert_close(g, 0.5 / theta.sqrt())


@pytest.mark.parametrize("gradient", ["implicit", "unroll"])
def test_exact_ones_have_second_derivatives(gradient, theta):
    assert gradcheck(lambda t: root(t, gradient)[0], theta)
    assert gradgradcheck(lambda t: root(t, gradient)[0], theta)


def test_unrolling_alone_differentiates_the_iterate_that_was_reached_and_the_start(theta):
    z0 = torch.ones_like(theta).requires_grad_()
    z, _ = root(theta, "unroll", z0, steps=1)  # z = (z₀ + θ/z₀)/2
    g, g0 = torch.autograd.grad(z.sum(), (theta, z0))
    torch.testing.assert_close(g, torch.full_like(g, 0.5))
    torch.testing.assert_close(g0, (1 - theta.detach()) / 2)
    for gradient in ("implicit", "one_step"):
        (g0,) = torch.autograd.grad(root(theta, gradient, z0)[0].sum(), z0, allow_unused=True)
        assert g0 is None


def test_one_step_of_a_slow_method_is_biased_by_as_much_as_it_contracts(theta):
    rate = 0.1
    z, _ = root(theta, "one_step", steps=400, rate=rate)
    torch.testing.assert_close(z, theta.sqrt())
    (g,) = torch.autograd.grad(z.sum(), theta)
    exact, contraction = 0.5 / theta.sqrt(), 1 - 2 * rate * theta.sqrt()
    torch.testing.assert_close(g, (1 - contraction) * exact)


def test_unknown_switches_are_named_with_the_known_ones():
    with pytest.raises(ValueError, match="gradient must be one of 'implicit', 'unroll', 'one_step', got 'exact'"):
        check_gradient("exact")
    with pytest.raises(ValueError, match="'truncated', got 'exact'"):
        check_gradient("exact", "truncated")
    check_gradient("truncated", "truncated")
