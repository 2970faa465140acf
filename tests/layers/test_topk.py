"""Soft top-k against the cone program it solves, closed forms and finite differences; its limits and its extremes."""

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch
from allocation_problems import soft_top_k_by_cones

from diffopt_lib.layers import soft_top_k, softargmax
from diffopt_lib.layers.multiplier import find_multiplier
from diffopt_lib.layers.topk import LOGISTIC
from diffopt_lib.memory import peak_memory

DOUBLE = torch.float64


@pytest.fixture
def x(device, generator):
    return 2 * torch.randn(4, 6, dtype=DOUBLE, generator=generator).to(device)


def jacobian(f, *arguments):
    return torch.autograd.functional.jacobian(f, arguments)


def hard_top_k(x, k):
    return torch.zeros_like(x).scatter(-1, x.topk(k).indices, 1)


@pytest.mark.parametrize(("k", "tau"), [(1.0, 1.0), (3.0, 0.5), (5.0, 2.0), (2.5, 1.0), (0.25, 1.0)])
def test_value_and_jacobians_equal_those_of_the_cone_program(k, tau, generator):
    x = 2 * torch.randn(6, dtype=DOUBLE, generator=generator)
    arguments = (x, torch.tensor(k, dtype=DOUBLE), torch.tensor(tau, dtype=DOUBLE))
    torch.testing.assert_close(soft_top_k(*arguments), soft_top_k_by_cones(*arguments), rtol=1e-7, atol=1e-7)
    for ours, theirs in zip(jacobian(soft_top_k, *arguments), jacobian(soft_top_k_by_cones, *arguments), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_solves_the_problem_that_cvxpy_solves(x):
    variable = cp.Variable(6)
    for row, k, tau in zip(x.cpu(), (1, 2, 4.5, 5), (1.0, 0.5, 2.0, 1.0), strict=True):
        entropy = cp.sum(cp.entr(variable) + cp.entr(1 - variable))
        problem = cp.Problem(cp.Maximize(row.numpy() @ variable + tau * entropy), [cp.sum(variable) == k])
        problem.solve(cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
        np.testing.assert_allclose(soft_top_k(row, k, tau).numpy(), variable.value, atol=1e-5)


def test_jacobian_is_a_diagonal_minus_rank_one(x):
    y = soft_top_k(x[0], 2, 0.7)
    d = y * (1 - y)
    (J,) = jacobian(lambda x: soft_top_k(x, 2, 0.7), x[0])
    torch.testing.assert_close(J, (torch.diag(d) - torch.outer(d, d) / d.sum()) / 0.7)
    _, in_k = jacobian(soft_top_k, x[0], torch.tensor(2.0, dtype=DOUBLE, device=x.device))
    y = soft_top_k(x[0], 2)
    torch.testing.assert_close(in_k, y * (1 - y) / (y * (1 - y)).sum())


@pytest.mark.parametrize("k", [1, 3, 2.5])
def test_first_and_second_derivatives_in_every_argument(k, x):
    x = x[:2].clone().requires_grad_()
    k = torch.tensor([k, 2.0], dtype=DOUBLE, device=x.device, requires_grad=True)
    tau = torch.tensor([0.7, 1.5], dtype=DOUBLE, device=x.device, requires_grad=True)
    assert torch.autograd.gradcheck(soft_top_k, (x, k, tau), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(soft_top_k, (x, k, tau))


def test_derivatives_at_low_temperature(x):
    near_ties = (1e-3 * x).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_top_k(x, 2, 1e-3), near_ties, eps=1e-9, atol=1e-4, rtol=1e-4)


class TestSum:
    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
    @pytest.mark.parametrize("tau", [1e-3, 1.0, 1e3])
    @pytest.mark.parametrize("n", [3, 50, 1000])
    def test_is_k_to_rounding(self, scale, tau, n, dtype, device, generator):
        x = (scale * torch.randn(8, n, dtype=DOUBLE, generator=generator)).to(device, dtype)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-12
        for k in {1, 2, 20, n // 2, n - 1}:
            if k < n:
                total = soft_top_k(x, k, tau).double().sum(-1)
                assert (total - k).abs().max() <= tolerance * k

    @pytest.mark.parametrize("n", [10, 1000, 100_000])
    def test_is_k_where_all_entries_tie(self, n, dtype, device):
        x = torch.full((n,), 3.3e3, dtype=dtype, device=device)
        for k in (1, n // 3, n - 1):
            y = soft_top_k(x, k, 1e-3)
            torch.testing.assert_close(y, torch.full_like(y, k / n), rtol=1e-6, atol=0)
            assert abs(y.double().sum().item() - k) <= (1e-6 if dtype == torch.float32 else 1e-12) * k


class TestLimits:
    def test_cold_is_the_indicator_of_the_largest(self, x):
        for k in range(1, 6):
            torch.testing.assert_close(soft_top_k(x, k, 1e-4), hard_top_k(x, k))

    def test_hot_is_uniform(self, x):
        torch.testing.assert_close(soft_top_k(x, 2, 1e9), torch.full_like(x, 1 / 3))

    def test_cold_shares_what_is_left_between_ties(self):
        x = torch.tensor([1.0, 3.0, 3.0, -2.0, 5.0], dtype=DOUBLE)
        torch.testing.assert_close(soft_top_k(x, 2, 1e-3), torch.tensor([0, 0.5, 0.5, 0, 1], dtype=DOUBLE))
        torch.testing.assert_close(soft_top_k(x, 1.5, 1e-3), torch.tensor([0, 0.25, 0.25, 0, 1], dtype=DOUBLE))
        y = soft_top_k(torch.ones(5, dtype=DOUBLE), 2)
        torch.testing.assert_close(y, torch.full_like(y, 0.4))

    def test_one_of_two_is_softargmax_at_twice_the_temperature_and_one_of_three_is_no_softargmax(self):
        two = torch.tensor([0.3, -1.2], dtype=DOUBLE)
        torch.testing.assert_close(soft_top_k(two, 1, 0.7), softargmax(two, 1.4))
        y = soft_top_k(torch.tensor([2.0, 1.0, 0.0], dtype=DOUBLE), 1)
        ratios = y[:-1] / y[1:]  # equal for softargmax of equally spaced entries, at any temperature
        assert ratios[1] / ratios[0] > 1.2
        assert y.sum() == pytest.approx(1)

    @pytest.mark.parametrize("k", ["number", "integers", "floats"])
    def test_none_and_all_are_exact_and_do_not_move(self, k, x, dtype):
        x = x.to(dtype).requires_grad_()
        for number, value in ((0, 0.0), (6, 1.0)):
            kind = torch.int64 if k == "integers" else dtype
            count = number if k == "number" else torch.full((4,), number, dtype=kind, device=x.device)
            y = soft_top_k(x, count, 0.5)
            assert (y == value).all()
            gradient = torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
            assert (gradient == 0).all()
        single = torch.ones(1, dtype=dtype)
        assert soft_top_k(single, 1) == 1 and soft_top_k(single, 0) == 0

    def test_underflow_is_a_zero_derivative(self, dtype, device):
        x = torch.tensor([3.0, 2.0, 1.0], dtype=dtype, device=device, requires_grad=True)
        k = torch.tensor(1.0, dtype=dtype, device=device, requires_grad=True)
        tau = torch.tensor(1e-4, dtype=dtype, device=device, requires_grad=True)
        y = soft_top_k(x, k, tau)
        assert y.tolist() == [1, 0, 0]
        for gradient in torch.autograd.grad(y[0], (x, k, tau)):
            assert (gradient == 0).all()

    def test_where_y_is_one_to_the_last_digit_the_derivative_still_knows_both_sides(self, dtype):
        # x = (20, −20): d = σ(20) σ(−20) for both, while y (1 − y) is 0 for the first.
        x = torch.tensor([20.0, -20.0], dtype=dtype)
        k = torch.tensor(1.0, dtype=dtype)
        in_x, in_k = jacobian(lambda x, k: soft_top_k(x, k, 0.5), x, k)
        torch.testing.assert_close(in_k, torch.tensor([0.5, 0.5], dtype=dtype))
        d = torch.exp(torch.tensor(-40.0, dtype=dtype))  # over τ = ½, halved by the rank-one term
        torch.testing.assert_close(in_x, d * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=dtype), rtol=1e-4, atol=0)


class TestSymmetries:
    def test_permutation_of_the_entries(self, x):
        order = torch.tensor([3, 1, 5, 0, 2, 4])
        torch.testing.assert_close(soft_top_k(x[:, order], 2), soft_top_k(x, 2)[:, order])

    @pytest.mark.parametrize("tau", [1e-2, 1.0, 1e3])
    def test_common_shift_and_common_scale(self, tau, x):
        torch.testing.assert_close(soft_top_k(x + 7, 2, tau), soft_top_k(x, 2, tau))
        torch.testing.assert_close(soft_top_k(3 * x, 2, 3 * tau), soft_top_k(x, 2, tau))

    def test_choosing_k_is_rejecting_the_others(self, x):
        torch.testing.assert_close(soft_top_k(x, 2), 1 - soft_top_k(-x, 4))

    def test_larger_scores_get_more_and_larger_k_gives_everyone_more(self, x):
        order = x.argsort(-1)
        assert (soft_top_k(x, 2).gather(-1, order).diff(dim=-1) > 0).all()
        assert (soft_top_k(x, 3) > soft_top_k(x, 2.9)).all()


class TestBatch:
    def test_k_and_temperature_of_every_element(self, x):
        k, tau = (
            torch.tensor([0, 1, 4, 6], device=x.device),
            torch.tensor([0.5, 1, 2, 4], dtype=DOUBLE, device=x.device),
        )
        y = soft_top_k(x, k, tau)
        for i in range(4):
            torch.testing.assert_close(y[i], soft_top_k(x[i], k[i].item(), tau[i].item()))

    def test_dimensions_broadcast(self, x):
        taus = torch.tensor([[0.5], [1.0], [2.0]], dtype=DOUBLE, device=x.device)
        y = soft_top_k(x, torch.tensor([1, 2, 3, 4], device=x.device), taus)
        assert y.shape == (3, 4, 6)
        torch.testing.assert_close(y[2, 1], soft_top_k(x[1], 2, 2.0))
        assert soft_top_k(x[0], torch.arange(7, device=x.device)).shape == (7, 6)

    @pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 3), (2, 0, 3), (2, 5, 3)])
    def test_any_batch_shape(self, shape, dtype, device, generator):
        x = torch.randn(shape, dtype=dtype, generator=generator).to(device)
        y = soft_top_k(x, 2)
        assert y.shape == x.shape and y.dtype == dtype and y.device == x.device
        assert torch.autograd.grad(soft_top_k(x.requires_grad_(), 2).sum(), x)[0].shape == shape

    def test_hard_elements_do_not_disturb_easy_ones(self, generator):
        x = torch.randn(3, 100, dtype=DOUBLE, generator=generator) * torch.tensor([[1.0], [1e4], [1e8]], dtype=DOUBLE)
        y = soft_top_k(x, 7)
        for i in range(3):
            torch.testing.assert_close(y[i], soft_top_k(x[i], 7), rtol=1e-12, atol=1e-12)

    def test_vmap_and_both_modes_of_differentiation(self, x):
        k = torch.tensor([1.0, 2.0, 3.5, 6.0], dtype=DOUBLE, device=x.device)
        torch.testing.assert_close(torch.func.vmap(soft_top_k)(x, k), soft_top_k(x, k))
        torch.testing.assert_close(torch.func.vmap(soft_top_k, in_dims=(1, None))(x, 2), soft_top_k(x.mT, 2))
        ours = torch.stack([jacobian(lambda r, k=k: soft_top_k(r, k), r)[0] for r, k in zip(x, k, strict=True)])
        for mode in (torch.func.jacrev, torch.func.jacfwd):
            torch.testing.assert_close(torch.func.vmap(mode(soft_top_k))(x, k), ours)
        hessian = torch.func.hessian(lambda x: soft_top_k(x, 2).square().sum())(x[0])
        torch.testing.assert_close(
            hessian, torch.autograd.functional.hessian(lambda x: soft_top_k(x, 2).square().sum(), x[0])
        )


def test_second_derivatives_agree_in_every_combination_of_modes(x):
    def f(x):
        return soft_top_k(x, 2)

    reverse_twice = torch.func.jacrev(torch.func.jacrev(f))(x[0])
    torch.testing.assert_close(torch.func.jacfwd(torch.func.jacrev(f))(x[0]), reverse_twice)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacfwd(f))(x[0]), reverse_twice)
    torch.testing.assert_close(torch.func.jacfwd(torch.func.jacfwd(f))(x[0]), reverse_twice)


def test_result_may_be_changed_in_place(x):
    x = x[0].clone().requires_grad_()
    doubled = soft_top_k(x, 2).mul_(2)
    torch.testing.assert_close(doubled.sum().item(), 4.0)


class TestExtremes:
    @pytest.mark.parametrize("tau", [1e-3, 1.0, 1e4])
    def test_float32_at_ten_thousand(self, tau, device, generator):
        x = torch.tensor([1e4, -1e4, 9999.0, 0.0, 9999.001, 1e-3, -9999.0], device=device)
        for k in range(1, 7):
            self.check(x, k, tau)
        self.check(1e4 * torch.randn(5, 200, generator=generator).to(device), 20, tau)

    @staticmethod
    def check(x, k, tau):
        """As good as float64 with the same x, and derivatives within single precision of those too."""
        x32, x64 = x.clone().requires_grad_(), x.double().requires_grad_()
        y, exact = soft_top_k(x32, k, tau), soft_top_k(x64, k, float(torch.tensor(tau)))
        torch.testing.assert_close(y.double(), exact, rtol=1e-6, atol=1e-6)
        w = torch.linspace(-1, 1, x.shape[-1], device=x.device)
        (gradient,) = torch.autograd.grad((w * y).sum(), x32)
        (expected,) = torch.autograd.grad((w * exact).sum(), x64)
        torch.testing.assert_close(gradient.double() * tau, expected * tau, rtol=1e-5, atol=1e-6)

    def test_a_million_entries(self, generator):
        x = torch.randn(1_000_000, generator=generator).requires_grad_()
        y = soft_top_k(x, 1000)
        assert abs(y.double().sum().item() - 1000) <= 1e-3
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        d = y.double() * (1 - y.double())
        expected = d * (2 * y - (2 * y * d).sum() / d.sum())
        torch.testing.assert_close(gradient.double(), expected.detach(), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("tau", [1.0, 1e-3])
    def test_memory_is_a_few_vectors(self, tau, dtype, generator):
        x = torch.randn(100_000, dtype=dtype, generator=generator).requires_grad_()
        vector = x.numel() * x.element_size()
        assert peak_memory(lambda: soft_top_k(x.detach(), 1000, tau)) < 6 * vector
        assert peak_memory(lambda: torch.autograd.grad(soft_top_k(x, 1000, tau).square().sum(), x)) < 9 * vector

    def test_few_iterations_whatever_the_temperature(self, generator):
        calls = []

        def excess(*arguments):
            calls.append(None)
            return LOGISTIC.excess(*arguments)

        x = torch.randn(8, 200, dtype=DOUBLE, generator=generator)
        for tau in (1e3, 1.0, 1e-2, 1e-4, 1e-8):
            calls.clear()
            counted = replace(LOGISTIC, excess=excess)
            k, one = x.new_full((8, 1), 20.0), x.new_ones(8, 1)
            nu, _ = find_multiplier(counted, x / tau, k, one, torch.zeros_like(k))
            torch.testing.assert_close(torch.sigmoid(x / tau + nu).sum(-1, keepdim=True), k, rtol=1e-9, atol=0)
            assert len(calls) <= 40


class TestBadInput:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_not_finite(self, bad):
        with pytest.raises(ValueError, match="x must be finite, got 1 NaN or infinite entries out of 2"):
            soft_top_k(torch.tensor([1.0, bad]), 1)
        with pytest.raises(ValueError, match="tau must be finite"):
            soft_top_k(torch.ones(2), 1, bad)
        with pytest.raises(ValueError, match="k must be finite"):
            soft_top_k(torch.ones(2), torch.tensor(bad))

    @pytest.mark.parametrize("k", [-1, 4, 3.5, torch.tensor([1, 4]), torch.tensor([-0.5, 1.0])])
    def test_k_out_of_range(self, k):
        with pytest.raises(ValueError, match="k must be between 0 and n = 3"):
            soft_top_k(torch.ones(2, 3), k)

    def test_k_out_of_range_under_vmap(self):
        with pytest.raises(ValueError, match="k must be between 0 and n = 3"):
            torch.func.vmap(soft_top_k)(torch.ones(2, 3), torch.tensor([1, 4]))

    @pytest.mark.parametrize("tau", [0.0, -1.0])
    def test_temperature_not_positive(self, tau):
        with pytest.raises(ValueError, match="tau must be positive"):
            soft_top_k(torch.ones(3), 1, tau)

    def test_values_that_only_the_solver_sees_under_vmap(self):
        vmap = torch.func.vmap
        with pytest.raises(ValueError, match="tau must be positive"):
            vmap(soft_top_k, in_dims=(0, None, 0))(torch.ones(2, 3), 1, torch.tensor([1.0, -1.0]))
        with pytest.raises(ValueError, match="must be finite"):
            vmap(lambda x: soft_top_k(x, 1))(torch.tensor([[1.0, 2.0], [1.0, float("nan")]]))

    def test_scores_and_temperature_whose_quotient_overflows(self):
        with pytest.raises(ValueError, match="x / tau must be finite"):
            soft_top_k(torch.tensor([1.0, 2.0, 3.0]), 1, 1e-45)

    def test_kinds_and_shapes(self):
        with pytest.raises(ValueError, match="x must be float32 or float64, got torch.int64"):
            soft_top_k(torch.tensor([1, 2]), 1)
        with pytest.raises(ValueError, match="x must be a torch tensor, got list"):
            soft_top_k([1.0, 2.0], 1)
        with pytest.raises(ValueError, match="n ≥ 1"):
            soft_top_k(torch.ones(2, 0), 0)
        with pytest.raises(ValueError, match="n ≥ 1"):
            soft_top_k(torch.tensor(1.0), 1)
        with pytest.raises(ValueError, match="must broadcast"):
            soft_top_k(torch.ones(2, 3), torch.ones(3))
        with pytest.raises(ValueError, match="k must have the dtype of x"):
            soft_top_k(torch.ones(2, 3), torch.ones(2, dtype=DOUBLE))
