"""Soft sorting and ranking against quadratic and cone programs over the permutahedron, published values, and scipy."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata, spearmanr

from diffopt_lib.layers import Cones, soft_rank, soft_sort, solve_cone, solve_qp, spearman_loss
from diffopt_lib.layers.isotonic import MEANS, blocks_by_merging, blocks_one_after_the_other, isotonic_blocks
from diffopt_lib.memory import peak_memory

DOUBLE = torch.float64
BOTH = pytest.mark.parametrize("regularization", ["quadratic", "entropic"])
LAYERS = pytest.mark.parametrize("layer", [soft_sort, soft_rank])


def randn(*shape, generator):
    return torch.randn(*shape, dtype=DOUBLE, generator=generator)


def permutahedron(w):
    """A, b, G, h of {Ay = b, Gy ≤ h}: every k entries sum to at most the k largest of w (Rado 1952)."""
    n = len(w)
    largest = w.sort(descending=True).values.cumsum(0)
    subsets = [s for s in itertools.product([0.0, 1.0], repeat=n) if 0 < sum(s) < n]
    G = torch.tensor(subsets, dtype=DOUBLE).reshape(-1, n)
    h = largest[G.sum(-1).long() - 1]
    return torch.ones(1, n, dtype=DOUBLE), largest[-1:], G, h


def by_quadratic_program(linear, w, tau):
    """argmax_{y ∈ P(w)} ⟨linear, y⟩ − τ/2 ‖y‖²."""
    return solve_qp(tau * torch.eye(len(w), dtype=DOUBLE), -linear, *permutahedron(w)).y


def by_cone_program(linear, w, tau):
    """argmax_{y ∈ P(w)} ⟨linear, y⟩ − τ Σ y log y, with t_i ≤ −y_i log y_i as (t_i, y_i, 1) ∈ K_exp."""
    n = len(w)
    A_eq, b_eq, G, h = permutahedron(w)
    sums = torch.cat([torch.cat([A_eq, G]), torch.zeros(len(G) + 1, n, dtype=DOUBLE)], dim=1)
    cones = torch.zeros(3 * n, 2 * n, dtype=DOUBLE)
    for i in range(n):
        cones[3 * i, n + i] = cones[3 * i + 1, i] = -1
    b = torch.cat([b_eq, h, torch.tensor([0.0, 0, 1], dtype=DOUBLE).repeat(n)])
    c = torch.cat([-linear, -tau * torch.ones(n, dtype=DOUBLE)])
    return solve_cone(c, torch.cat([sums, cones]), b, Cones(zero=1, nonneg=len(G), exp=n)).x[:n]


def ranks_down(n):
    return torch.arange(n, 0, -1, dtype=DOUBLE)


def jacobian(f, x):
    return torch.autograd.functional.jacobian(f, x)


class TestAgainstOthers:
    def test_published_examples(self):
        """Blondel et al. 2020, and the examples of its authors' library."""
        x = torch.tensor([5.0, 1.0, 2.0], dtype=DOUBLE)
        torch.testing.assert_close(soft_rank(x, 2.0), torch.tensor([3, 1.25, 1.75], dtype=DOUBLE))
        torch.testing.assert_close(soft_rank(x, 1.0), torch.tensor([3.0, 1, 2], dtype=DOUBLE))
        torch.testing.assert_close(soft_sort(x, 1.0), torch.tensor([5 / 3, 8 / 3, 11 / 3], dtype=DOUBLE))
        torch.testing.assert_close(soft_sort(x, 0.1), torch.tensor([1.0, 2, 5], dtype=DOUBLE))

    @pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
    def test_quadratic_values_and_jacobians_are_those_of_the_quadratic_program(self, tau, generator):
        for n in (1, 2, 4, 5):
            x = randn(n, generator=generator)
            pairs = [
                (lambda x, n=n: soft_rank(x, tau), lambda x, n=n: by_quadratic_program(x, ranks_down(n), tau)),
                (
                    lambda x, n=n: soft_sort(x, tau, descending=True),
                    lambda x, n=n: by_quadratic_program(ranks_down(n), x, tau),
                ),
            ]
            for ours, theirs in pairs:
                torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-7)
                torch.testing.assert_close(jacobian(ours, x), jacobian(theirs, x), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("tau", [0.3, 1.0])
    def test_entropic_values_and_jacobians_are_those_of_the_cone_program(self, tau, generator):
        x = randn(4, generator=generator)
        pairs = [
            (lambda x: soft_rank(x, tau, "entropic"), lambda x: by_cone_program(x, ranks_down(4), tau)),
            (
                lambda x: soft_sort(x, tau, "entropic", descending=True),
                lambda x: by_cone_program(ranks_down(4), x.exp(), tau).log(),
            ),
        ]
        for ours, theirs in pairs:
            torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)
            torch.testing.assert_close(jacobian(ours, x), jacobian(theirs, x), rtol=0, atol=1e-4)

    def test_jacobian_averages_over_blocks(self):
        """soft_rank([5, 1, 2], 2) has the blocks {5} and {2, 1}: (I − ½ 11ᵀ)/τ on the latter, 0 elsewhere."""
        x = torch.tensor([5.0, 1.0, 2.0], dtype=DOUBLE)
        expected = torch.tensor([[0, 0, 0], [0, 0.25, -0.25], [0, -0.25, 0.25]], dtype=DOUBLE)
        torch.testing.assert_close(jacobian(lambda x: soft_rank(x, 2.0), x), expected)


SEQUENCES = {
    "noise": lambda n, g: randn(6, n, generator=g),
    "ties": lambda n, g: torch.randint(0, 4, (6, n), generator=g).double(),
    "random walk": lambda n, g: randn(6, n, generator=g).cumsum(-1),
    "already in order": lambda n, g: -torch.arange(n, dtype=DOUBLE).expand(6, n),
    "one block": lambda n, g: torch.arange(n, dtype=DOUBLE).expand(6, n),
    "one element after the other": lambda n, g: -(torch.arange(n, 0, -1, dtype=DOUBLE).expand(6, n) ** -1.0),
    "cascade": lambda n, g: torch.cat([-torch.arange(n - 1, dtype=DOUBLE), torch.full((1,), 1.0 * n**2)]).expand(6, n),
}


def block_values(y, first):
    """The mean of every block, at its elements."""
    return torch.stack([torch.stack([row[b == i].mean() for i in b]) for row, b in zip(y, first, strict=True)])


def descending_parts(y):
    """s and w that both descend, with s − w = y."""
    steps = torch.nn.functional.pad(y.diff(dim=-1), (1, 0))
    return y[:, :1] + steps.clamp_max(0).cumsum(-1), -steps.clamp_min(0).cumsum(-1)


def entropic_pooling(s, w):
    """Pool adjacent violators, one after the other: the values of every element."""
    blocks = []
    for block in zip(s, w, itertools.repeat(1)):
        blocks.append(block)
        while len(blocks) > 1 and blocks[-2][0] - blocks[-2][1] < blocks[-1][0] - blocks[-1][1]:
            (s1, w1, n1), (s2, w2, n2) = blocks[-2:]
            blocks[-2:] = [(np.logaddexp(s1, s2), np.logaddexp(w1, w2), n1 + n2)]
    return np.concatenate([np.full(n, s - w) for s, w, n in blocks])


class TestIsotonicRegression:
    @pytest.mark.parametrize("n", [1, 2, 3, 8, 33, 100])
    @pytest.mark.parametrize("name", SEQUENCES)
    def test_quadratic_blocks_are_those_that_scipy_finds(self, name, n, generator):
        y = SEQUENCES[name](n, generator)
        expected = np.stack([isotonic_regression(row, increasing=False).x for row in y.numpy()])
        for first in (
            blocks_by_merging(y, torch.zeros_like(y), MEANS["quadratic"]),
            blocks_one_after_the_other(*descending_parts(y)),
        ):
            np.testing.assert_allclose(block_values(y, first).numpy(), expected, atol=1e-9)

    @BOTH
    def test_blocks_are_named_by_where_they_begin(self, regularization):
        s = torch.tensor([[5.0, 2, 4, 1, 0.5, 0.7], [1, 2, 3, 4, 5, 6]], dtype=DOUBLE)
        first = isotonic_blocks(*descending_parts(s), regularization)
        assert first.tolist() == [[0, 1, 1, 3, 4, 4], [0, 0, 0, 0, 0, 0]]

    @pytest.mark.parametrize("scales", [[1.0, 1.0, 1.0], [1e-9, 1e9, 1.0], [1e9, 1e-9, 0.0], [1e-300, 1e300, 1e-310]])
    def test_rows_of_any_scale_do_not_disturb_each_other(self, scales, generator):
        y = torch.tensor(scales, dtype=DOUBLE).unsqueeze(-1) * randn(3, 40, generator=generator)
        together = blocks_one_after_the_other(*descending_parts(y))
        expected = [isotonic_regression(row, increasing=False).blocks for row in y.numpy()]
        for first, starts in zip(together, expected, strict=True):
            assert first.unique().tolist() == starts[:-1].tolist()

    @pytest.mark.parametrize("n", [1, 2, 3, 8, 33, 100])
    @pytest.mark.parametrize("name", SEQUENCES)
    def test_entropic_blocks_are_those_of_sequential_pooling(self, name, n, generator):
        w = 3 * randn(6, n, generator=generator)
        s = SEQUENCES[name](n, generator) / n + w
        block = isotonic_blocks(s, w, "entropic")
        expected = np.stack([entropic_pooling(*rows) for rows in zip(s.numpy(), w.numpy(), strict=True)])
        for i in range(6):
            for b in block[i].unique():
                inside = (block[i] == b).numpy()
                value = s[i, inside].logsumexp(0) - w[i, inside].logsumexp(0)
                np.testing.assert_allclose(expected[i, inside], value.item(), atol=1e-9)

    def test_memory_is_linear(self, generator):
        def at(n):
            x = randn(n, generator=generator).requires_grad_()
            return peak_memory(lambda: torch.autograd.grad(soft_rank(x, 10.0).square().sum(), x))

        assert at(16384) < 17 * at(1024)


class TestLimits:
    @BOTH
    def test_cold_is_exact(self, regularization, generator):
        x = randn(4, 50, generator=generator)
        expected = torch.tensor(rankdata(x.numpy(), axis=-1))
        torch.testing.assert_close(soft_rank(x, 1e-7, regularization), expected)
        torch.testing.assert_close(soft_rank(x, 1e-7, regularization, descending=True), 51 - expected)
        torch.testing.assert_close(soft_sort(x, 1e-3, regularization), x.sort(-1).values)
        down = soft_sort(x, 1e-3, regularization, descending=True)
        torch.testing.assert_close(down, x.sort(-1, descending=True).values)

    def test_exact_up_to_the_temperatures_that_the_docstrings_name(self):
        x = torch.tensor([0.0, 3.0, 1.0], dtype=DOUBLE)  # gaps 1 and 2
        for regularization in ("quadratic", "entropic"):
            rank = torch.tensor([1.0, 3, 2], dtype=DOUBLE)
            torch.testing.assert_close(soft_rank(x, 0.999, regularization), rank)
        torch.testing.assert_close(soft_sort(x, 0.499), x.sort().values)
        assert (soft_rank(x, 1.1) - rank).abs().max() > 0.01
        assert (soft_sort(x, 0.6) - x.sort().values).abs().max() > 0.01

    @BOTH
    def test_hot_is_the_mean(self, regularization, generator):
        x = randn(4, 7, generator=generator)
        mean = x.mean(-1, keepdim=True) if regularization == "quadratic" else x.logsumexp(-1, keepdim=True) - np.log(7)
        torch.testing.assert_close(soft_sort(x, 1e9, regularization), mean.expand(4, 7))
        middle = torch.full_like(x, 4.0)
        if regularization == "entropic":
            torch.testing.assert_close(soft_rank(x, 1e9, regularization), middle)
        torch.testing.assert_close(soft_rank(x, 1e9), middle)

    @BOTH
    def test_ties_share_their_ranks(self, regularization):
        x = torch.tensor([2.0, 1, 2, 2, 0], dtype=DOUBLE)
        torch.testing.assert_close(soft_rank(x, 1e-3, regularization), torch.tensor([4.0, 2, 4, 4, 1], dtype=DOUBLE))
        torch.testing.assert_close(soft_sort(x, 1e-3, regularization), torch.tensor([0.0, 1, 2, 2, 2], dtype=DOUBLE))


class TestInvariances:
    @BOTH
    def test_permuted_entries(self, regularization, generator):
        x = randn(9, generator=generator)
        order = torch.randperm(9, generator=generator)
        ranks = soft_rank(x, 0.5, regularization)
        torch.testing.assert_close(soft_rank(x[order], 0.5, regularization), ranks[order])
        torch.testing.assert_close(soft_sort(x[order], 0.5, regularization), soft_sort(x, 0.5, regularization))

    @BOTH
    def test_shifts_and_scales(self, regularization, generator):
        x = randn(9, generator=generator)
        torch.testing.assert_close(soft_rank(5 * x + 3, 2.5, regularization), soft_rank(x, 0.5, regularization))
        torch.testing.assert_close(soft_sort(x + 3, 0.5, regularization), soft_sort(x, 0.5, regularization) + 3)
        torch.testing.assert_close(soft_sort(5 * x, 0.1), 5 * soft_sort(x, 0.5))

    @BOTH
    @LAYERS
    @pytest.mark.parametrize("shape", [(3,), (1,), (2, 3), (2, 0, 3), (2, 5, 3)])
    def test_batches_of_any_shape(self, shape, layer, regularization, dtype, device, generator):
        x = torch.randn(shape, dtype=dtype, generator=generator).to(device)
        y = layer(x, 0.5, regularization)
        assert y.shape == x.shape and y.dtype == dtype and y.device == x.device
        for one, row in zip(x.reshape(-1, shape[-1]), y.reshape(-1, shape[-1]), strict=True):
            torch.testing.assert_close(layer(one, 0.5, regularization), row)

    @BOTH
    @LAYERS
    def test_temperatures_broadcast(self, layer, regularization, generator):
        x, tau = randn(3, 4, generator=generator), torch.tensor([[0.1], [1.0]], dtype=DOUBLE)
        y = layer(x, tau, regularization)
        assert y.shape == (2, 3, 4)
        for i in range(2):
            torch.testing.assert_close(y[i], layer(x, tau[i, 0].item(), regularization))

    @BOTH
    def test_results_lie_in_the_permutahedron(self, regularization, generator):
        x = randn(10, 6, generator=generator)
        cases = [(soft_rank(x, 0.5, regularization), ranks_down(6))]
        if regularization == "quadratic":
            cases.append((soft_sort(x, 0.5), x))
        for y, w in cases:
            sums = y.sort(-1, descending=True).values.cumsum(-1)
            largest = w.sort(-1, descending=True).values.cumsum(-1)
            assert (sums <= largest + 1e-12).all()
            torch.testing.assert_close(sums[..., -1], largest[..., -1].expand(10))


class TestDerivatives:
    @BOTH
    @LAYERS
    @pytest.mark.parametrize("descending", [False, True])
    def test_first_and_second(self, layer, regularization, descending, generator):
        x = randn(3, 5, generator=generator).requires_grad_()
        tau = torch.tensor([0.3, 0.7, 2.0], dtype=DOUBLE, requires_grad=True)

        def f(x, tau):
            return layer(x, tau, regularization, descending=descending)

        assert torch.autograd.gradcheck(f, (x, tau))
        assert torch.autograd.gradgradcheck(f, (x, tau))

    @BOTH
    @LAYERS
    def test_vmap_and_jacobians(self, layer, regularization, generator):
        x, tau = randn(3, 5, generator=generator), torch.tensor([0.3, 0.7, 2.0], dtype=DOUBLE)
        vmap, jacrev, jacfwd = torch.func.vmap, torch.func.jacrev, torch.func.jacfwd

        def f(x, tau):
            return layer(x, tau, regularization)

        torch.testing.assert_close(vmap(f)(x, tau), f(x, tau))
        torch.testing.assert_close(vmap(f, in_dims=(None, 0))(x[0], tau), f(x[0], tau))
        J = vmap(jacrev(f, argnums=(0, 1)))(x, tau)
        torch.testing.assert_close(vmap(jacfwd(f, argnums=(0, 1)))(x, tau), J)
        torch.testing.assert_close(J[0][1], jacobian(lambda x: f(x, tau[1]), x[1]))

    def test_quadratic_jacobian_of_ranks_is_symmetric(self, generator):
        J = jacobian(lambda x: soft_rank(x, 1.0), randn(12, generator=generator))
        torch.testing.assert_close(J, J.mT)
        torch.testing.assert_close(J.sum(-1), torch.zeros(12, dtype=DOUBLE))


class TestPrecision:
    @BOTH
    @LAYERS
    @pytest.mark.parametrize("tau", [1e-3, 1.0, 1e3])
    def test_float32_at_ten_thousand(self, tau, layer, regularization, device, generator):
        x = (1e4 * (2 * torch.rand(3, 30, generator=generator) - 1)).to(device).requires_grad_()
        y = layer(x, tau, regularization)
        torch.testing.assert_close(y.double(), layer(x.detach().double(), tau, regularization), rtol=1e-6, atol=1e-6)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert torch.isfinite(gradient).all()

    def test_close_ranks_of_large_numbers(self):
        """Differences of 1e-3 between numbers of 1e4: exact ranks are within reach of double precision only."""
        x = 1e4 + 1e-3 * torch.randperm(1000, generator=torch.Generator().manual_seed(0)).double()
        torch.testing.assert_close(soft_rank(x, 0.9e-3), torch.tensor(rankdata(x.numpy())), rtol=0, atol=1e-4)

    @BOTH
    @pytest.mark.parametrize("tau", [1e-6, 1e-12, 1e-300])
    def test_ties_and_negative_entries_however_cold(self, tau, regularization):
        x = torch.tensor([-30.0, -10.0, -30.0, -20.0, -30.0], dtype=DOUBLE)  # a number of entries that is no power of 2
        expected = torch.tensor([2.0, 5, 2, 4, 2], dtype=DOUBLE)
        torch.testing.assert_close(soft_rank(x, tau, regularization), expected)
        torch.testing.assert_close(soft_sort(x, tau, regularization), x.sort().values)


class TestSpearman:
    def test_cold_is_one_minus_the_correlation(self, generator):
        predicted, target = randn(4, 20, generator=generator), randn(4, 20, generator=generator)
        loss = spearman_loss(predicted, target, 1e-7)
        expected = [1 - spearmanr(p, t).statistic for p, t in zip(predicted.numpy(), target.numpy(), strict=True)]
        np.testing.assert_allclose(loss.numpy(), expected, atol=1e-9)

    def test_range(self):
        x = torch.tensor([3.0, 1.0, 2.0])
        assert spearman_loss(x, 10 * x, 1e-3) == 0
        assert abs(spearman_loss(x, -x, 1e-3).item() - 2) < 1e-6

    def test_ties_of_the_target_share_their_ranks(self):
        predicted, target = torch.tensor([1.0, 2.0, 4.0], dtype=DOUBLE), torch.tensor([5.0, 5.0, 6.0], dtype=DOUBLE)
        expected = 6 * (0.5**2 + 0.5**2) / 24
        assert abs(spearman_loss(predicted, target, 1e-3).item() - expected) < 1e-12

    @BOTH
    def test_gradient(self, regularization, generator):
        predicted = randn(2, 6, generator=generator).requires_grad_()
        target = randn(2, 6, generator=generator)
        tau = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)

        def loss(p, t):
            return spearman_loss(p, target, t, regularization=regularization)

        assert torch.autograd.gradcheck(loss, (predicted, tau))

    def test_descent_sorts(self, generator):
        target = randn(10, generator=generator)
        predicted = (0.1 * randn(10, generator=generator)).requires_grad_()
        optimizer = torch.optim.Adam([predicted], lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            spearman_loss(predicted, target, 1.0).backward()
            optimizer.step()
        assert spearmanr(predicted.detach().numpy(), target.numpy()).statistic > 0.999

    def test_bad_shapes(self):
        with pytest.raises(ValueError, match="must end in the same n ≥ 2"):
            spearman_loss(torch.zeros(3), torch.zeros(4))
        with pytest.raises(ValueError, match="must end in the same n ≥ 2"):
            spearman_loss(torch.zeros(1), torch.zeros(1))
        with pytest.raises(ValueError, match="target must be finite"):
            spearman_loss(torch.zeros(2), torch.tensor([0.0, float("nan")]))


class TestBadInput:
    @LAYERS
    def test_entries(self, layer):
        with pytest.raises(ValueError, match="x must be finite, got 1 NaN"):
            layer(torch.tensor([1.0, float("nan")]))
        with pytest.raises(ValueError, match="x must be float32 or float64, got torch.int64"):
            layer(torch.tensor([1, 2]))
        for shape in ((), (0,), (3, 0)):
            with pytest.raises(ValueError, match=r"x must have shape \(\*batch, n\) with n ≥ 1"):
                layer(torch.zeros(shape))

    @LAYERS
    @pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), torch.tensor(1.0, dtype=DOUBLE)])
    def test_temperature(self, layer, tau):
        with pytest.raises(ValueError, match="tau must"):
            layer(torch.zeros(2), tau)

    @LAYERS
    def test_temperature_under_vmap(self, layer):
        with pytest.raises(ValueError, match="tau must be positive"):
            torch.func.vmap(layer)(torch.zeros(2, 3), torch.tensor([1.0, -1.0]))

    @LAYERS
    def test_regularization(self, layer):
        with pytest.raises(ValueError, match="regularization must be one of 'quadratic', 'entropic', got 'l2'"):
            layer(torch.zeros(2), regularization="l2")
