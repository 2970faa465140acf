"""Unrolled optimizers: same iterates as torch.optim, exact derivatives, memory that grows as promised."""

import math

import numpy as np
import pytest
import torch

from diffopt_lib import SGD, Adam, unroll
from diffopt_lib.memory import peak_memory

DOUBLE = torch.float64


def objective(y, b):
    return (0.5 * y.square() + y.pow(4) / 8 - b * y).sum(-1) + 0.1 * y.prod(-1)


@pytest.fixture
def point(device, generator):
    y0 = torch.randn(4, 3, dtype=DOUBLE, generator=generator).to(device).requires_grad_()
    b = torch.randn(4, 3, dtype=DOUBLE, generator=generator).to(device).requires_grad_()
    return y0, b


OPTIMIZERS = {
    "sgd": (lambda lr: SGD(lr), lambda y: torch.optim.SGD([y], lr=0.05)),
    "momentum": (lambda lr: SGD(lr, 0.8), lambda y: torch.optim.SGD([y], lr=0.05, momentum=0.8)),
    "adam": (lambda lr: Adam(lr), lambda y: torch.optim.Adam([y], lr=0.05)),
}


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_iterates_equal_those_of_torch_optim(name, checkpoint, point):
    y0, b = (t.detach() for t in point)
    ours, theirs = OPTIMIZERS[name]
    y = y0.clone().requires_grad_()
    optimizer = theirs(y)
    for _ in range(20):
        optimizer.zero_grad()
        objective(y, b).sum().backward()
        optimizer.step()
    out = unroll(objective, y0, b, optimizer=ours(0.05), steps=20, checkpoint=checkpoint)
    torch.testing.assert_close(out, y.detach())


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_derivatives_in_guess_context_and_learning_rate_are_exact(name, checkpoint, point):
    lr = torch.tensor(0.05, dtype=DOUBLE, device=point[0].device, requires_grad=True)

    def f(y0, b, lr):
        return unroll(objective, y0, b, optimizer=OPTIMIZERS[name][0](lr), steps=6, checkpoint=checkpoint)

    y0, b = (t[:2].detach().requires_grad_() for t in point)
    assert torch.autograd.gradcheck(f, (y0, b, lr))
    assert torch.autograd.gradgradcheck(f, (y0, b, lr))


def test_momentum_and_betas_get_gradients_too(point):
    y0, b = point
    beta = torch.tensor(0.7, dtype=DOUBLE, device=y0.device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: unroll(objective, y0, b, optimizer=SGD(0.05, m), steps=4), beta)
    assert torch.autograd.gradcheck(
        lambda m: unroll(objective, y0, b, optimizer=Adam(0.05, (m, 0.99)), steps=4, checkpoint=True), beta
    )


@pytest.mark.parametrize("checkpoint", [False, True])
def test_closed_over_tensors_get_gradients(checkpoint, point):
    y0, b = point
    out = unroll(objective, y0, b, optimizer=SGD(0.05), steps=7, checkpoint=checkpoint)
    expected = torch.autograd.grad(out.square().sum(), b)
    hidden = unroll(lambda y: objective(y, b), y0, optimizer=SGD(0.05), steps=7, checkpoint=checkpoint)
    torch.testing.assert_close(torch.autograd.grad(hidden.square().sum(), b), expected)


def test_gradient_descent_on_a_quadratic_has_the_closed_form(generator):
    """y_K = (I − α Q)ᴷ y₀ + (I − (I − α Q)ᴷ) Q⁻¹ b, so ∂y_K/∂b and ∂y_K/∂y₀ are known matrices."""
    M = torch.randn(3, 3, dtype=DOUBLE, generator=generator)
    Q = M @ M.T + torch.eye(3, dtype=DOUBLE)
    alpha, K = 0.1, 15
    contraction = torch.linalg.matrix_power(torch.eye(3, dtype=DOUBLE) - alpha * Q, K)

    def f(y0, b):
        return unroll(lambda y, b: 0.5 * (y @ Q * y).sum(-1) - (b * y).sum(-1), y0, b, optimizer=SGD(alpha), steps=K)

    y0, b = torch.randn(2, 3, dtype=DOUBLE, generator=generator)
    J0, Jb = torch.autograd.functional.jacobian(f, (y0, b))
    torch.testing.assert_close(J0, contraction)
    torch.testing.assert_close(Jb, torch.linalg.solve(Q, torch.eye(3, dtype=DOUBLE) - contraction))


def test_truncation_keeps_the_value_and_the_bias_shrinks_geometrically():
    """f = ½ (y − x)²: each kept step multiplies the bias of ∂y/∂x = 1 by 1 − α."""
    x = torch.tensor([1.3], dtype=DOUBLE, requires_grad=True)
    y0 = torch.zeros(1, dtype=DOUBLE)
    for kept in (0, 1, 3, 10):
        out = unroll(lambda y, x: 0.5 * (y - x).square().sum(-1), y0, x, optimizer=SGD(0.2), steps=60, truncate=kept)
        gradient = torch.autograd.grad(out.sum(), x)[0] if kept else torch.zeros(1, dtype=DOUBLE)
        torch.testing.assert_close(gradient, torch.tensor([1 - 0.8**kept], dtype=DOUBLE))
        torch.testing.assert_close(out, x, rtol=1e-5, atol=1e-5)


def test_truncated_to_zero_steps_carries_no_graph():
    x = torch.ones(1, requires_grad=True)
    out = unroll(lambda y, x: (y - x).square().sum(-1), torch.zeros(1), x, optimizer=SGD(0.1), steps=3, truncate=0)
    assert not out.requires_grad


def test_adam_is_finite_and_exact_where_the_gradient_vanishes():
    """At y₀ = x the first gradient is exactly 0; the step is −α g / (|g| + ε), whose derivative there is α/ε."""
    x = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    out = unroll(
        lambda y, x: 0.5 * (y - x).square().sum(-1), torch.zeros(2, dtype=DOUBLE), x, optimizer=Adam(0.1), steps=1
    )
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, torch.full((2,), 0.1 / 1e-8, dtype=DOUBLE))


def test_adam_with_an_unused_coordinate_is_finite(point):
    """A coordinate that f ignores has g = v = 0 for ever."""
    y0, b = point
    out = unroll(lambda y, b: objective(y[..., :2], b[..., :2]), y0, b, optimizer=Adam(0.05), steps=5)
    gradients = torch.autograd.grad(out.sum(), (y0, b))
    assert all(torch.isfinite(g).all() for g in gradients)
    torch.testing.assert_close(gradients[0][:, 2], torch.ones_like(gradients[0][:, 2]))


def test_memory_grows_like_steps_and_with_checkpointing_like_their_root():
    y0 = torch.zeros(2000, dtype=DOUBLE)
    x = torch.linspace(-1, 1, 2000, dtype=DOUBLE).requires_grad_()

    def peak(steps, checkpoint):
        def run():
            out = unroll(
                lambda y, x: (y - x).pow(4).sum(-1), y0, x, optimizer=SGD(0.01), steps=steps, checkpoint=checkpoint
            )
            out.sum().backward()

        return peak_memory(run)

    steps = [64, 256, 1024]
    plain = np.polyfit(np.log(steps), np.log([peak(k, False) for k in steps]), 1)[0]
    root = np.polyfit(np.log(steps), np.log([peak(k, True) for k in steps]), 1)[0]
    assert 0.9 < plain < 1.1
    assert 0.3 < root < 0.6


def test_zero_steps_return_the_guess_with_its_gradient(point):
    y0, b = point
    out = unroll(objective, y0, b, optimizer=Adam(), steps=0)
    torch.testing.assert_close(out, y0)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), y0)[0], torch.ones_like(y0))


def test_batch_elements_do_not_interact_and_guesses_broadcast(point):
    y0, b = (t.detach() for t in point)
    one_guess = unroll(objective, y0[0], b, optimizer=Adam(0.1), steps=9)
    assert one_guess.shape == (4, 3)
    for i in range(4):
        torch.testing.assert_close(one_guess[i], unroll(objective, y0[0], b[i], optimizer=Adam(0.1), steps=9))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_vmap_and_jacrev_of_an_unrolled_optimizer(checkpoint, point):
    y0, b = (t.detach() for t in point)

    def f(y0, b):
        return unroll(objective, y0, b, optimizer=SGD(0.05, 0.5), steps=5, checkpoint=checkpoint)

    torch.testing.assert_close(torch.func.vmap(f)(y0, b), f(y0, b))
    J = torch.func.vmap(torch.func.jacrev(f, argnums=1))(y0, b)
    for i in range(4):
        torch.testing.assert_close(J[i], torch.autograd.functional.jacobian(lambda b, i=i: f(y0[i], b), b[i]))


def test_float32_stays_float32(point):
    y0, b = (t.detach().float() for t in point)
    out = unroll(objective, y0, b, optimizer=Adam(0.05), steps=10)
    assert out.dtype == torch.float32
    exact = unroll(objective, y0.double(), b.double(), optimizer=Adam(0.05), steps=10)
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-4)


class TestBadInput:
    @pytest.mark.parametrize(
        ("y0", "x", "message"),
        [
            (torch.zeros(3), torch.tensor([1.0, math.nan, 0.0]), r"x\[0\] must be finite, got 1"),
            (torch.full((3,), math.inf), torch.zeros(3), "y0 must be finite"),
            (torch.zeros(3), torch.zeros(3, dtype=DOUBLE), r"x\[0\] must have the dtype of y0"),
            (torch.zeros(0), torch.zeros(0), "with n ≥ 1"),
            (torch.tensor(1.0), torch.zeros(1), "with n ≥ 1"),
            (torch.zeros(3, dtype=torch.int64), torch.zeros(3), "y0 must be float32 or float64"),
        ],
    )
    def test_named_argument_expectation_and_what_came(self, y0, x, message):
        with pytest.raises(ValueError, match=message):
            unroll(lambda y, x: (y - x).square().sum(-1), y0, x, optimizer=SGD(0.1), steps=1)

    def test_negative_steps(self):
        with pytest.raises(ValueError, match="must be at least 0, got -1"):
            unroll(lambda y: y.square().sum(-1), torch.zeros(2), optimizer=SGD(0.1), steps=-1)

    def test_value_of_another_batch_shape(self):
        with pytest.raises(ValueError, match="batch shape of y0"):
            unroll(lambda y: y.square(), torch.zeros(2, 3), optimizer=SGD(0.1), steps=1)
