"""What rounding does to a quadratic program: no NaN and no far-away point passes for a solution, and what is only
rounded is solved."""

import math
import warnings

import pytest
import torch

from diffopt_lib import SolverError
from diffopt_lib.layers import solve_qp
from diffopt_lib.layers.qp.program import QP, Point, kkt_error
from diffopt_lib.layers.qp.rounding import undo_single_precision

DOUBLE = torch.float64


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def epigraph(n):
    """|yᵢ| ≤ tᵢ as rows for (y, t)."""
    one = torch.eye(n, dtype=DOUBLE)
    return torch.cat([torch.cat([one, -one], 1), torch.cat([-one, -one], 1)])


class TestSinglePrecision:
    @pytest.mark.parametrize(("n", "rank"), [(3, 1), (4, 2), (7, 3), (9, 8)])
    def test_a_gram_matrix_of_low_rank_gives_a_stationary_point(self, n, rank):
        F = torch.randn(25, n, rank, generator=generator(rank))
        Q = F @ F.mT
        p = (Q @ torch.randn(25, n, 1, generator=generator(n))).squeeze(-1)
        assert (torch.linalg.eigvalsh(Q.double())[:, 0] < -1e-10).any()  # as rounding leaves it
        s = solve_qp(Q, p)
        assert s.converged.all()
        slope = (Q @ s.y.unsqueeze(-1)).squeeze(-1) + p
        size = (Q.abs() @ s.y.abs().unsqueeze(-1)).squeeze(-1) + p.abs()
        assert (slope.abs() <= 1e-5 * size.amax(-1, keepdim=True)).all()

    def test_its_derivative_is_that_of_the_solution_on_the_range(self):
        """min ½ yᵀffᵀy − (fᵀx) fᵀy: fᵀy follows fᵀx."""
        f = torch.tensor([0.2, 0.9, -0.4])
        x = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
        y = solve_qp(torch.outer(f, f), -(f @ x) * f).y
        (gradient,) = torch.autograd.grad(f @ y, x)
        torch.testing.assert_close(f @ y, f @ x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient, f, rtol=1e-4, atol=1e-5)

    def test_what_is_convex_stays_as_it_is(self):
        Q = torch.stack([torch.diag(tensor([1.0, 0.0, 1e-12])), torch.ones(3, 3, dtype=DOUBLE)])
        nothing = torch.zeros(1, 0, 3, dtype=DOUBLE)
        p = torch.ones(2, 3, 1, dtype=DOUBLE)
        qp = QP(Q, p, nothing, nothing[..., :1], nothing, nothing[..., :1], p.new_zeros(1, 1, 1))
        assert torch.equal(undo_single_precision(qp).Q, Q)

    @pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
    def test_a_concave_direction_beyond_rounding_is_refused(self, dtype):
        with pytest.raises(ValueError, match="positive semidefinite"):
            solve_qp(torch.diag(torch.tensor([-1e-3, 2.0], dtype=dtype)), torch.ones(2, dtype=dtype))

    def test_in_double_precision_rounding_is_smaller(self):
        with pytest.raises(ValueError, match="positive semidefinite"):
            solve_qp(torch.diag(tensor([-3e-9, 2.0])), tensor([1.0, 1.0]))

    def test_optimal_transport_between_marginals_that_add_up_to_nearly_the_same(self):
        """The optimum is that in double precision, where the marginals agree."""
        rows = torch.kron(torch.eye(3), torch.ones(1, 5)), torch.kron(torch.ones(1, 3), torch.eye(5))
        A = torch.cat(rows)
        g = generator(1)
        a, b = torch.randn(30, 3, generator=g).softmax(-1), torch.randn(30, 5, generator=g).softmax(-1)
        cost = torch.rand(30, 15, generator=g)
        assert (a.double().sum(-1) != b.double().sum(-1)).any()
        s = solve_qp(torch.zeros(15, 15), cost, A, torch.cat([a, b], -1), -torch.eye(15), torch.zeros(15))
        a, b = (v.double() / v.double().sum(-1, keepdim=True) for v in (a, b))
        zero = torch.zeros(15, 15, dtype=DOUBLE)
        exact = solve_qp(zero, cost.double(), A.double(), torch.cat([a, b], -1), -torch.eye(15).double(), zero[0])
        torch.testing.assert_close(s.value.double(), exact.value, rtol=0, atol=2e-6)

    def test_a_contradiction_beyond_rounding_is_infeasible(self):
        A = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
        assert solve_qp(torch.eye(2), torch.ones(2), A, torch.tensor([1.0, 2.0 + 2e-7]), on_failure="nan").converged
        with pytest.raises(SolverError, match="infeasible"):
            solve_qp(torch.eye(2), torch.ones(2), A, torch.tensor([1.0, 2.001]))


def test_what_is_not_a_number_is_infinitely_wrong():
    one, nothing = torch.ones(1, 1, 1, dtype=DOUBLE), torch.zeros(1, 0, 1, dtype=DOUBLE)
    qp = QP(one, one, nothing, nothing, nothing, nothing, 0 * one)
    assert kkt_error(qp, Point(one * math.nan, nothing, nothing, nothing)).item() == math.inf


class TestTheOrigin:
    @pytest.mark.parametrize("unit", [1e-5, 1.0, 3e4])
    @pytest.mark.parametrize("n", [2, 3, 7, 12])
    def test_soft_thresholding_with_a_threshold_above_all_entries(self, n, unit):
        one = torch.eye(n, dtype=DOUBLE)
        v = unit * torch.randn(20, n, dtype=DOUBLE, generator=generator(n))
        threshold = 1.3 * v.abs().amax(-1, keepdim=True).expand_as(v)
        Q = torch.block_diag(one, 0 * one)
        y = solve_qp(Q, torch.cat([-v, threshold], -1), G=epigraph(n), h=v.new_zeros(2 * n)).y
        assert y.abs().max() <= 1e-14 * unit

    @pytest.mark.parametrize(("n", "m"), [(2, 5), (4, 9), (5, 18)])
    def test_projection_on_a_cone_satisfies_moreau(self, n, m):
        """With x = y + z: y ⟂ z, and z in the polar cone, by its multipliers."""
        g = generator(m)
        G, x = torch.randn(30, m, n, dtype=DOUBLE, generator=g), torch.randn(30, n, dtype=DOUBLE, generator=g)
        s = solve_qp(torch.eye(n, dtype=DOUBLE), -x, G=G, h=x.new_zeros(m))
        assert (s.y.abs().amax(-1) < 1e-12).any()
        torch.testing.assert_close((s.y * (x - s.y)).sum(-1), x.new_zeros(30), rtol=0, atol=1e-12)
        torch.testing.assert_close((s.inequality_dual.unsqueeze(-2) @ G).squeeze(-2), x - s.y, rtol=0, atol=1e-11)

    def test_the_proximal_operator_of_the_largest_entry(self):
        v = torch.randn(20, 5, dtype=DOUBLE, generator=generator(9))
        one, last = torch.eye(5, dtype=DOUBLE), torch.ones(5, 1, dtype=DOUBLE)
        G = torch.cat([torch.cat([one, -last], 1), torch.cat([-one, -last], 1)])
        p = torch.cat([-v, 1.5 * v.abs().sum(-1, keepdim=True)], -1)
        y = solve_qp(torch.diag(tensor([1.0] * 5 + [0.0])), p, G=G, h=v.new_zeros(10)).y
        assert y.abs().max() <= 1e-14


class TestContradictions:
    """A slab of negative width: what is not certified is the solution next to it or an error, nothing far away."""

    @pytest.mark.parametrize("width", [1e-8, 2e-9, 1e-9, 4e-10, 1e-10, 1e-11])
    def test_no_mirage_between_inequalities(self, width):
        for seed in range(12):
            g = generator(seed)
            n = 2 + seed % 4
            a = torch.randint(1, 4, (n,), generator=g).double()
            p = torch.randn(n, dtype=DOUBLE, generator=g)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                G, h = torch.stack([a, -a]), tensor([2 - 2 * width, -2])
                s = solve_qp(torch.eye(n, dtype=DOUBLE), p, G=G, h=h, on_failure="nan")
            expected = -p + (2 + a @ p) * a / (a @ a)
            if s.converged:
                torch.testing.assert_close(s.y, expected, rtol=0, atol=1e-3)
            if width >= 1e-8:
                assert s.status == 2

    @pytest.mark.parametrize("gap", [2e-9, 1e-9, 1e-10])
    def test_no_mirage_between_equalities(self, gap):
        for seed in range(12):
            A = torch.randn(2, 5, dtype=DOUBLE, generator=generator(seed))
            A = torch.cat([A, A.sum(0, keepdim=True)])
            b = tensor([1.0, 2.0, 3 + 3 * gap])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                s = solve_qp(torch.eye(5, dtype=DOUBLE), torch.zeros(5, dtype=DOUBLE), A, b, on_failure="nan")
            if s.converged:
                torch.testing.assert_close(
                    s.y, torch.linalg.lstsq(A[:2], b[:2, None]).solution[:, 0], atol=1e-3, rtol=0
                )

    def test_a_slab_without_width_has_its_solution(self):
        a, p = tensor([3.0, -1.0, 2.0]), tensor([0.4, 1.1, -0.2])
        y = solve_qp(torch.eye(3, dtype=DOUBLE), p, G=torch.stack([a, -a]), h=tensor([1.0, -1.0])).y
        torch.testing.assert_close(y, -p + (1 + a @ p) * a / 14)


@pytest.mark.parametrize("seed", range(12))
def test_closest_with_redundant_and_opposing_rows_misses_by_the_least_squares(seed):
    """No direction makes the sum of squared violations smaller: its gradient is 0."""
    g = generator(seed)
    A, G = torch.randn(2, 4, dtype=DOUBLE, generator=g), torch.randn(3, 4, dtype=DOUBLE, generator=g)
    A, G = torch.cat([A, A.sum(0, keepdim=True)]), torch.cat([G, -G[:1]])
    b, h = A @ torch.randn(4, dtype=DOUBLE, generator=g), torch.rand(4, dtype=DOUBLE, generator=g)
    b[2] += [2e-3, 3.0, 4e2][seed % 3]
    h[3] = -h[0] - [0.0, 0.7, 60.0][seed // 3 % 3]
    p = torch.randn(4, dtype=DOUBLE, generator=g)
    y = solve_qp(torch.eye(4, dtype=DOUBLE), p, A, b, G, h, on_failure="closest").y
    missed, over = A @ y - b, (G @ y - h).clamp_min(0)
    slope = A.mT @ missed + G.mT @ over
    assert slope.abs().max() <= 1e-5 * max(1.0, float(p.abs().max() + y.abs().max()))


class TestOptions:
    Q, p = torch.eye(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"max_iterations": 0}, "max_iterations must be at least 1"),
            ({"max_iterations": 2.5}, "max_iterations must be an integer"),
            ({"tolerance": 0.0}, "tolerance must be positive"),
            ({"tolerance": math.inf}, "tolerance must be positive and finite"),
            ({"tolerance": "small"}, "tolerance must be a number"),
            ({"smoothing": "some"}, "smoothing must be a number"),
            ({"init": torch.zeros(2)}, "init must be a QPSolution"),
        ],
    )
    def test_named(self, option, message):
        with pytest.raises(ValueError, match=message):
            solve_qp(self.Q, self.p, **option)

    def test_a_guess_of_another_size_is_named(self):
        other = solve_qp(torch.eye(3, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE))
        with pytest.raises(ValueError, match=r"init\.y must"):
            solve_qp(self.Q, self.p, init=other)
        bounded = solve_qp(self.Q, self.p, G=self.Q, h=self.p)
        with pytest.raises(ValueError, match=r"init\.inequality_dual must"):
            solve_qp(self.Q, self.p, init=bounded)
