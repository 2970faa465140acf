"""SPO+ against the regret that it bounds, and the projected error against the gradient of the regret."""

import pytest
import torch

from diffopt_lib.layers import solve_qp
from diffopt_lib.tasks import storage, surrogates

double = torch.float64


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=double)


def regret(predicted, true):
    return storage.loss(storage.decide(predicted), true) - storage.loss(storage.decide(true), true)


def test_spo_plus_bounds_the_regret_is_convex_and_zero_at_the_truth():
    true, one, other = (40 + 15 * rand(30, 24, seed=k) for k in range(3))

    def spo(predicted):
        return surrogates.spo_plus(storage.decide, storage.loss, predicted, true)

    assert spo(true).abs().max() < 1e-7
    assert (spo(one) >= regret(one, true) - 1e-7).all()
    assert (spo((one + other) / 2) <= (spo(one) + spo(other)) / 2 + 1e-7).all()


def test_spo_plus_has_the_gradient_of_finite_differences():
    true, predicted = (40 + 15 * rand(3, 8, seed=k) for k in (3, 4))

    def spo(predicted):
        return surrogates.spo_plus(storage.decide, storage.loss, predicted, true)

    assert torch.autograd.gradcheck(spo, predicted.requires_grad_())


def test_spo_plus_of_a_linear_program_is_the_formula_of_the_paper():
    def decide(c):  # the cheapest of three goods
        return torch.nn.functional.one_hot(c.argmin(-1), 3).to(c)

    def cost(z, c):
        return (z * c).sum(-1)

    c, guess = torch.tensor([1.0, 2.0, 3.0], dtype=double), torch.tensor([2.5, 1.0, 3.0], dtype=double)
    largest = max(c[i] - 2 * guess[i] for i in range(3))
    expected = largest + 2 * guess[0] - c[0]
    assert surrogates.spo_plus(decide, cost, guess, c).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("curved", [True, False])
def test_the_projected_error_is_the_gradient_of_the_regret(curved):
    n, m = 6, 9
    root = rand(n, n, seed=5)
    Q = root @ root.mT + torch.eye(n, dtype=double) if curved else torch.eye(n, dtype=double)
    G, h = rand(m, n, seed=6), torch.full((m,), 0.3, dtype=double)
    true, predicted = rand(8, n, seed=7), rand(8, n, seed=8).requires_grad_()

    def objective(z, c):
        return 0.5 * (z * (z @ Q)).sum(-1) + (c * z).sum(-1)

    solution = solve_qp(Q, predicted, G=G, h=h)
    (exact,) = torch.autograd.grad(objective(solution.y, true).sum(), predicted)
    active = solution.inequality_dual.detach() > 1e-9
    assert active.sum(-1).min() >= 1 and active.sum(-1).max() < n
    loss = surrogates.projected_error(predicted, true, G, active, Q if curved else None)
    (projected,) = torch.autograd.grad(loss.sum(), predicted)
    assert torch.allclose(projected, exact, atol=1e-8)


def test_constraints_that_repeat_each_other_are_projected_on_once():
    G = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]], dtype=double)
    predicted = torch.tensor([3.0, 4.0], dtype=double, requires_grad=True)
    loss = surrogates.projected_error(predicted, torch.zeros(2, dtype=double), G, torch.ones(3, dtype=torch.bool))
    (g,) = torch.autograd.grad(loss, predicted)
    assert torch.allclose(g, torch.tensor([0.0, 4.0], dtype=double))


def test_bad_input_is_named():
    c = torch.ones(3)
    with pytest.raises(ValueError, match="decide must be a function"):
        surrogates.spo_plus(c, storage.loss, c, c)
    with pytest.raises(ValueError, match="predicted must be finite"):
        surrogates.projected_error(c * torch.nan, c, torch.eye(3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="G must end in the shape"):
        surrogates.projected_error(c, c, torch.eye(4), torch.ones(4, dtype=torch.bool))
