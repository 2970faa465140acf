"""−inf in scores is a mask, as attention code has it: nothing is given there, and nothing depends on it.

(deep-spin/entmax#9, deep-spin/entmax#17, tensorflow/tensorflow#15564; a ragged batch has no other way.)
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch.autograd import gradcheck, gradgradcheck

from diffopt_lib import SolverError
from diffopt_lib.layers import (
    capped_softmax,
    gumbel_sinkhorn,
    match,
    project_simplex,
    relu,
    sigmoid,
    sinkhorn_operator,
    soft_rank,
    soft_sort,
    soft_top_k,
    softargmax,
    solve_assignment,
    sparsemax,
)

DOUBLE = torch.float64
INF = torch.inf
MASKED = torch.zeros(5, 6, dtype=torch.bool)
MASKED[0, 0] = MASKED[1, [1, 2, 5]] = MASKED[2, [0, 2, 4]] = MASKED[3, 3:] = True  # and none in the last row

VECTORS = {
    "softargmax": lambda x, tau: softargmax(x, tau.unsqueeze(-1)),
    "sparsemax": sparsemax,
    "soft_top_k": lambda x, tau: soft_top_k(x, 2, tau),
    "soft_top_k of a fraction": lambda x, tau: soft_top_k(x, 0.4, tau),
    "soft_top_k of as many as there are": lambda x, tau: soft_top_k(x, 3, tau),
    "capped_softmax": lambda x, tau: capped_softmax(x, 0.36, tau),
    "capped_softmax with a cap for each": lambda x, tau: capped_softmax(x, torch.linspace(0.4, 0.9, 6).to(x), tau),
}
CAP_FOR_EACH = "capped_softmax with a cap for each"


def masked(x, where=MASKED):
    return x.masked_fill(where, -INF)


@pytest.fixture
def x(generator):
    return torch.randn(5, 6, dtype=DOUBLE, generator=generator)


@pytest.fixture
def tau(generator):
    return 0.3 + torch.rand(5, dtype=DOUBLE, generator=generator)


@pytest.mark.parametrize("name", VECTORS)
class TestVectors:
    def test_masked_entries_get_exactly_nothing(self, name, x, tau, dtype):
        y = VECTORS[name](masked(x).to(dtype), tau.to(dtype))
        assert (y[MASKED] == 0).all() and torch.isfinite(y).all()

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
    def test_the_others_share_as_if_alone(self, name, x, tau, scale):
        if name == CAP_FOR_EACH:
            pytest.skip("its caps are those of six entries")
        y = VECTORS[name](masked(scale * x), tau)
        for row, t, value, gone in zip(scale * x, tau, y, MASKED, strict=True):
            alone = VECTORS[name](row[~gone].unsqueeze(0), t.unsqueeze(0))[0]
            torch.testing.assert_close(value[~gone], alone, rtol=1e-10, atol=1e-12)

    def test_first_and_second_derivatives_in_reverse_and_forward_mode(self, name, x, tau):
        def f(x, tau):
            return VECTORS[name](masked(x), tau)

        arguments = x.requires_grad_(), tau.requires_grad_()
        assert gradcheck(f, arguments, check_forward_ad=True)
        assert gradgradcheck(f, arguments)

    def test_nothing_depends_on_a_masked_entry(self, name, x, tau):
        z, tau = masked(x).requires_grad_(), tau.requires_grad_()
        y = VECTORS[name](z, tau)
        weights = torch.linspace(-1, 1, 6, dtype=DOUBLE)
        g, g_tau = torch.autograd.grad((y * weights).sum(), (z, tau), create_graph=True)
        assert (g[MASKED] == 0).all() and torch.isfinite(g_tau).all()
        h, h_tau = torch.autograd.grad(g.square().sum() + g_tau.square().sum(), (z, tau))
        assert (h[MASKED] == 0).all() and torch.isfinite(h).all() and torch.isfinite(h_tau).all()
        _, along = torch.func.jvp(
            lambda z, t: VECTORS[name](z, t), (z.detach(), tau.detach()), (weights.expand(5, 6), tau)
        )
        assert (along[MASKED] == 0).all() and torch.isfinite(along).all()

    def test_vmap(self, name, x, tau):
        y = torch.func.vmap(VECTORS[name])(masked(x).unsqueeze(1), tau.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(y, VECTORS[name](masked(x), tau))

    def test_cold_in_single_precision(self, name, x, tau):
        y = VECTORS[name](masked(1e4 * x).float(), 1e-3 * tau.float())
        exact = VECTORS[name](masked((1e4 * x).float().double()), (1e-3 * tau.float()).double())
        assert (y[MASKED] == 0).all()
        torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5)

    def test_a_row_that_is_masked_altogether_is_named(self, name, x, tau):
        where = MASKED.clone()
        where[3] = where[4] = True
        with pytest.raises(ValueError, match=r"−inf.* Batch elements: \(3,\), \(4,\)") as caught:
            VECTORS[name](masked(x, where), tau)
        assert "x" in str(caught.value) or "k " in str(caught.value)

    @pytest.mark.parametrize("bad", [torch.nan, INF])
    def test_nan_and_plus_infinity_are_still_errors(self, name, bad, x, tau):
        z = masked(x)
        z[4, 0] = bad
        with pytest.raises(ValueError, match="x must be finite"):
            VECTORS[name](z, tau)


def test_softargmax_is_torchs_along_any_dimension(x):
    for dim in (0, 1, -2):
        torch.testing.assert_close(softargmax(masked(x), 0.7, dim), torch.softmax(masked(x) / 0.7, dim))


def test_sigmoid_is_torchs(x):
    z = masked(x).requires_grad_()
    y = sigmoid(z)
    (g,) = torch.autograd.grad(y.sum(), z)
    assert (y[MASKED] == 0).all() and (g[MASKED] == 0).all()


class TestTooFewLeft:
    def test_to_choose_k_of(self, x):
        with pytest.raises(
            ValueError, match=r"k must be between 0 and n = 6, and at most .*−inf.* \(1,\), \(2,\), \(3,\)"
        ):
            soft_top_k(masked(x), 4)

    def test_for_a_k_of_each(self, x):
        k = torch.tensor([5, 3, 3, 4, 6])
        with pytest.raises(ValueError, match=r"Batch elements: \(3,\) \(1 in all\)"):
            soft_top_k(masked(x), k)
        y = soft_top_k(masked(x), k - torch.tensor([0, 0, 0, 1, 0]))
        assert torch.equal(y, (~MASKED).to(DOUBLE))

    def test_nothing_may_be_chosen_of_nothing(self):
        assert (soft_top_k(torch.full((2, 3), -INF), 0) == 0).all()

    def test_under_the_caps(self, x):
        with pytest.raises(
            ValueError, match=r"upper must have a sum of at least 1 over .* not −inf. Batch elements: \(1,\)"
        ):
            capped_softmax(masked(x), torch.tensor([0.3, 0.9, 0.9, 0.3, 0.3, 0.3], dtype=DOUBLE))

    def test_under_vmap(self, x):
        with pytest.raises(ValueError, match="−inf"):
            torch.func.vmap(sparsemax)(torch.full((2, 3), -INF))
        with pytest.raises(ValueError, match="at most the number of entries"):
            torch.func.vmap(lambda x: soft_top_k(x, 4))(masked(x))


def test_where_minus_infinity_is_no_mask_it_is_an_error(x):
    for layer in (relu, project_simplex, soft_sort, soft_rank):
        with pytest.raises(ValueError, match="must be finite"):
            layer(masked(x))


# Matrices: pairs that can't be.

PAIRS = torch.tensor(
    [
        [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]],
        [[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]],  # the first row has one choice left
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ],
    dtype=torch.bool,
)


@pytest.fixture
def S(generator):
    return torch.randn(3, 4, 4, dtype=DOUBLE, generator=generator)


def lower_triangle(n):
    return torch.ones(n, n, dtype=torch.bool).triu(1)


def ragged(S, sizes):
    """Scores of square problems of these sizes in one batch, and their sums."""
    inside = torch.arange(S.shape[-1]) < torch.tensor(sizes).unsqueeze(-1)
    return masked(S, ~(inside.unsqueeze(-1) & inside.unsqueeze(-2))), inside.to(S.dtype)


def is_feasible(allowed, rows, columns):
    """Whether linear programming finds a matrix with these sums."""
    n, m = allowed.shape
    of_rows, of_columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    A = np.concatenate([of_rows, of_columns])[:, allowed.ravel()]
    if not A.shape[1]:
        return False
    return linprog(np.zeros(A.shape[1]), A_eq=A, b_eq=np.concatenate([rows, columns])).status == 0


class TestMatrices:
    @pytest.mark.parametrize("tau", [2.0, 0.1, 1e-3])
    def test_forbidden_pairs_get_exactly_nothing_and_the_sums_hold(self, tau, S, dtype):
        P = sinkhorn_operator(masked(S, PAIRS).to(dtype), tau)
        tolerance = {"rtol": 0, "atol": 1e-8 if dtype == DOUBLE else 1e-6}
        assert (P[PAIRS] == 0).all()
        torch.testing.assert_close(P.sum(-1), torch.ones(3, 4, dtype=dtype), **tolerance)
        torch.testing.assert_close(P.sum(-2), torch.ones(3, 4, dtype=dtype), **tolerance)

    def test_optimality_on_the_others(self, S):
        """log P − S/τ is a sum of something for the row and something for the column, wherever P may be positive."""
        P, tau = sinkhorn_operator(masked(S, PAIRS), 0.6), 0.6
        for p, s, gone in zip(P, S, PAIRS, strict=True):
            rows, columns = (~gone).nonzero(as_tuple=True)
            design = torch.cat([torch.eye(4, dtype=DOUBLE)[rows], torch.eye(4, dtype=DOUBLE)[columns]], dim=-1)
            rhs = (p.clamp_min(1e-300).log() - s / tau)[rows, columns]
            sure = p[rows, columns] > 1e-8  # the others are 0 in every matrix with these sums
            design, rhs = design[sure], rhs[sure]
            residual = design @ torch.linalg.lstsq(design, rhs, driver="gelsd").solution - rhs
            assert residual.abs().max() < 1e-7

    @pytest.mark.parametrize("tau", [1.0, 0.3])
    def test_first_and_second_derivatives_in_reverse_and_forward_mode(self, tau, S):
        pairs = PAIRS[[0, 2]]  # with one choice left, P is flat there and finite differences see its tolerance

        def f(S, tau):
            return sinkhorn_operator(masked(S, pairs), tau)

        arguments = S[[0, 2]].requires_grad_(), torch.tensor([tau, 1.0], dtype=DOUBLE, requires_grad=True)
        assert gradcheck(f, arguments, check_forward_ad=True, atol=1e-6)
        assert gradgradcheck(f, arguments, atol=1e-5)

    def test_nothing_depends_on_a_forbidden_pair(self, S):
        z = masked(S, PAIRS).requires_grad_()
        tau = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
        P = sinkhorn_operator(z, tau)
        g, g_tau = torch.autograd.grad(
            (P * torch.linspace(-1, 1, 48).reshape(3, 4, 4)).sum(), (z, tau), create_graph=True
        )
        h = torch.autograd.grad(g.square().sum() + g_tau, (z, tau))
        assert (g[PAIRS] == 0).all() and (h[0][PAIRS] == 0).all()
        assert all(torch.isfinite(t).all() for t in (g, g_tau, *h))

    @pytest.mark.parametrize("n", [2, 5, 9])
    @pytest.mark.parametrize("tau", [3.0, 0.1])
    def test_a_causal_mask_leaves_the_identity_alone(self, n, tau, generator):
        S = masked(torch.randn(n, n, dtype=DOUBLE, generator=generator), lower_triangle(n))
        torch.testing.assert_close(sinkhorn_operator(S, tau), torch.eye(n, dtype=DOUBLE), rtol=0, atol=1e-8)

    @pytest.mark.parametrize("tau", [1.0, 0.05, 1e-3])
    def test_a_ragged_batch_is_solved_as_one_by_one(self, tau, generator):
        S, one = ragged(torch.randn(3, 5, 5, dtype=DOUBLE, generator=generator), sizes := [5, 2, 4])
        P = sinkhorn_operator(S.requires_grad_(), tau, rows=one, columns=one)
        (g,) = torch.autograd.grad(P.square().sum(), S)
        for n, s, p, slope in zip(sizes, S.detach(), P, g, strict=True):
            s = s[:n, :n].clone().requires_grad_()
            alone = sinkhorn_operator(s, tau)
            torch.testing.assert_close(p[:n, :n], alone, rtol=1e-8, atol=1e-10)
            (alone,) = torch.autograd.grad(alone.square().sum(), s)
            torch.testing.assert_close(slope[:n, :n], alone, rtol=1e-6, atol=1e-8)
            assert (p[n:] == 0).all() and (p[:, n:] == 0).all() and (slope[n:] == 0).all() and (slope[:, n:] == 0).all()

    def test_a_partial_assignment_leaves_out_who_is_masked(self, generator):
        S, _ = ragged(torch.randn(2, 4, 4, dtype=DOUBLE, generator=generator), [4, 3])
        P = sinkhorn_operator(S, 0.4, mass=2.5)
        torch.testing.assert_close(P.sum((-2, -1)), torch.full((2,), 2.5, dtype=DOUBLE))
        torch.testing.assert_close(P[1, :3, :3], sinkhorn_operator(S[1, :3, :3], 0.4, mass=2.5), rtol=1e-7, atol=1e-9)
        assert (P[1, 3] == 0).all() and (P[1, :, 3] == 0).all()

    def test_vmap_samples_and_restarts(self, S):
        z = masked(S, PAIRS)
        torch.testing.assert_close(torch.func.vmap(lambda z: sinkhorn_operator(z, 0.5))(z), sinkhorn_operator(z, 0.5))
        samples = gumbel_sinkhorn(z, 0.5, 3, torch.Generator().manual_seed(0))
        assert (samples[:, PAIRS] == 0).all() and torch.isfinite(samples).all()
        solution = solve_assignment(z[[0, 2]], 0.5)
        assert (solve_assignment(z[[0, 2]], 0.5, init=solution).iterations <= 1).all()

    def test_matching_avoids_forbidden_pairs(self, S):
        P = match(masked(S, PAIRS))
        assert (P[PAIRS] == 0).all() and (P.sum(-1) == 1).all() and (P.sum(-2) == 1).all()
        cold = sinkhorn_operator(masked(S, PAIRS), 1e-3)
        torch.testing.assert_close(P, cold, rtol=0, atol=1e-6)


class TestNoAssignment:
    message = r"scores: what is masked \(−inf\) leaves no assignment.*Batch elements: \(1,\) \(1 in all\)"

    @pytest.mark.parametrize(
        "gone",
        [
            ([0, 0, 0, 0], [0, 1, 2, 3]),  # a row altogether
            ([0, 1, 2, 3], [2, 2, 2, 2]),  # a column altogether
            ([0, 0, 0, 2, 2, 2], [0, 1, 2, 0, 1, 2]),  # two rows for one column
        ],
    )
    def test_is_an_error_that_names_the_elements(self, gone, S):
        S[1][gone] = -INF
        for layer in (sinkhorn_operator, match):
            with pytest.raises(SolverError, match=self.message) as caught:
                layer(S)
            assert caught.value.indices == [(1,)]

    def test_or_marked_nan_without_touching_the_others(self, S):
        z = S.clone()
        z[1, 0] = -INF
        z.requires_grad_()
        P = sinkhorn_operator(z, on_failure="nan")
        (g,) = torch.autograd.grad(P.square().sum(), z)
        assert P[1].isnan().all() and torch.isfinite(P[[0, 2]]).all() and torch.isfinite(g[[0, 2]]).all()
        torch.testing.assert_close(P[0], sinkhorn_operator(S[0]))

    def test_of_a_mass_that_is_too_large(self, S):
        S[1, :, 1:] = -INF
        assert sinkhorn_operator(S, 0.3, mass=0.9).sum((-2, -1)).sub(0.9).abs().max() < 1e-8
        with pytest.raises(SolverError, match=self.message):
            sinkhorn_operator(S, 0.3, mass=1.5)

    def test_a_row_without_a_sum_needs_no_column(self, S):
        S[1, 0] = -INF
        rows = torch.ones(3, 4, dtype=DOUBLE)
        rows[:, 0] = 0
        P = sinkhorn_operator(S, rows=rows, columns=torch.full((4,), 0.75, dtype=DOUBLE))
        assert (P[:, 0] == 0).all()
        torch.testing.assert_close(P[:, 1:].sum(-1), torch.ones(3, 3, dtype=DOUBLE))

    @pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 5), (6, 4), (4, 6)])
    @pytest.mark.parametrize("tau", [1.0, 0.02])
    def test_is_found_where_linear_programming_finds_none(self, n, m, tau, generator):
        answers = set()
        for density in (0.3, 0.5, 0.7):
            for _ in range(6):
                allowed = torch.rand(n, m, generator=generator) < density
                rows = 0.5 + torch.rand(n, dtype=DOUBLE, generator=generator)
                columns = torch.ones(m, dtype=DOUBLE) * rows.sum() / m
                S = masked(torch.randn(n, m, dtype=DOUBLE, generator=generator), ~allowed)
                feasible = is_feasible(allowed.numpy(), rows.numpy(), columns.numpy())
                answers.add(feasible)
                if feasible:
                    P = sinkhorn_operator(S, tau, rows=rows, columns=columns)
                    torch.testing.assert_close(P.sum(-1), rows, rtol=1e-8, atol=0)
                    assert (P[~allowed] == 0).all()
                else:
                    with pytest.raises(SolverError, match="leaves no assignment"):
                        sinkhorn_operator(S, tau, rows=rows, columns=columns)
        assert answers == {True, False}
