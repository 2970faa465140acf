"""A certificate is a proof: it holds on the data as given, and no program that has a solution gets one."""

import pytest
import torch

from diffopt_lib.layers import solve_qp
from diffopt_lib.layers.qp.certificate import proves_infeasible, proves_unbounded
from diffopt_lib.layers.qp.program import QP

DOUBLE = torch.float64


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def program(G, h, Q=None, p=None):
    n = len(G[0])
    Q = torch.zeros(n, n, dtype=DOUBLE) if Q is None else Q
    p = torch.zeros(n, dtype=DOUBLE) if p is None else p
    nothing = torch.zeros(1, 0, n, dtype=DOUBLE)
    return QP(
        Q[None],
        p[None, :, None],
        nothing,
        nothing[..., :1],
        tensor(G)[None],
        tensor(h)[None, :, None],
        p.new_zeros(1, 1, 1),
    )


def holds(qp, *lam):
    return proves_infeasible(qp, qp.b, tensor(lam)[None, :, None]).item()


class TestTheCheck:
    def test_a_proof_passes_in_all_units(self):
        """y ≤ 1 and y ≥ 3, the second row in any unit."""
        for unit in (1e-12, 1.0, 1e12):
            assert holds(program([[1.0], [-unit]], [1.0, -3 * unit]), unit, 1.0)

    def test_what_is_nearly_a_proof_fails(self):
        qp = program([[1.0, 0.0], [-1.0, 1e-9]], [1.0, -3.0])
        assert not holds(qp, 1.0, 1.0)  # y₂ = 2e9 is feasible
        assert not holds(program([[1.0], [-1.0]], [1.0, -3.0]), 1.0, 1.0 + 1e-12)
        assert not holds(program([[1.0], [1.0], [-1.0]], [1.0, 5.0, -3.0]), 2.0, -1.0, 1.0)

    def test_rows_that_differ_in_the_thirteenth_digit_prove_nothing(self):
        """y₁ + y₂ ≤ −1 and −y₁ − (1 − 1e−13) y₂ ≤ 0 leave 1e−13 y₂ ≤ −1, which has solutions."""
        assert not holds(program([[1.0, 1.0], [-1.0, -(1 - 1e-13)]], [-1.0, 0.0]), 1.0, 1.0)

    def test_a_gap_of_the_size_of_rounding_proves_nothing(self):
        assert not holds(program([[1.0], [-1.0]], [0.1 + 0.2, -0.3 - 1e-16]), 1.0, 1.0)
        assert not holds(program([[1.0], [-1.0]], [1.0, -1.0]), 1.0, 1.0)

    def test_a_large_number_elsewhere_excuses_no_violation(self):
        """The second coordinate is off by 1e−6 of its own terms, and by 1e−16 of the largest."""
        qp = program([[1e10, 1.0], [-1e10, -1.0 + 1e-6]], [1.0, -3.0])
        assert not holds(qp, 1.0, 1.0)

    def test_directions(self):
        Q = torch.diag(tensor([1.0, 0.0]))
        qp = program([[1.0, 0.0]], [1.0], Q, tensor([0.0, -2.0]))
        assert proves_unbounded(qp, tensor([0.0, 1.0])[None, :, None]).item()
        assert not proves_unbounded(qp, tensor([0.0, -1.0])[None, :, None]).item()
        assert not proves_unbounded(qp, tensor([1e-9, 1.0])[None, :, None]).item()  # uphill in the end
        walled = program([[1.0, 1e-9]], [1.0], Q, tensor([0.0, -2.0]))
        assert not proves_unbounded(walled, tensor([0.0, 1.0])[None, :, None]).item()


def check_farkas(s, A, b, G, h):
    nu, lam = s.infeasible_because.split((b.shape[-1], h.shape[-1]), dim=-1)
    balance = torch.einsum("bkn,bk->bn", A, nu) + torch.einsum("bmn,bm->bn", G, lam)
    terms = torch.einsum("bkn,bk->bn", A.abs(), nu.abs()) + torch.einsum("bmn,bm->bn", G.abs(), lam)
    assert (lam >= 0).all() and (balance.abs() <= 1e-13 * terms).all()
    torch.testing.assert_close((b * nu).sum(-1) + (h * lam).sum(-1), -torch.ones(len(b), dtype=DOUBLE))


@pytest.mark.parametrize("gap", [1e-5, 1e-2, 3.0, 1e4])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_what_is_infeasible_is_proved_so(gap, scale):
    g = torch.Generator().manual_seed(21)
    G, y, A = (torch.randn(12, *shape, dtype=DOUBLE, generator=g) for shape in ((7, 5), (5, 1), (2, 5)))
    h, b = (G @ y).squeeze(-1) + torch.rand(12, 7, dtype=DOUBLE, generator=g), (A @ y).squeeze(-1)
    weights = torch.rand(12, 1, 7, dtype=DOUBLE, generator=g)
    G = torch.cat([G, -weights @ G], 1)
    h = scale * torch.cat([h, -(weights @ h.unsqueeze(-1)).squeeze(-1) - gap], 1)
    s = solve_qp(torch.eye(5, dtype=DOUBLE), scale * G[:, 0], A, scale * b, G, h, on_failure="nan")
    assert (s.status == 2).all()
    check_farkas(s, A, scale * b, G, h)


@pytest.mark.parametrize("weight", [1.0, 1e4, 1e9])
def test_no_soft_program_gets_a_certificate(weight):
    """Slack for every row at a price: feasible, however far the rows contradict each other."""
    g = torch.Generator().manual_seed(22)
    G = torch.randn(30, 6, 3, dtype=DOUBLE, generator=g)
    identity, h = torch.eye(6, dtype=DOUBLE).expand(30, 6, 6), 2 * torch.randn(30, 6, dtype=DOUBLE, generator=g)
    rows = torch.cat([torch.cat([G, -identity], 2), torch.cat([0 * G, -identity], 2)], 1)
    limits = torch.cat([h - 3, torch.zeros(30, 6, dtype=DOUBLE)], 1)
    Q = torch.diag(torch.cat([torch.ones(3), torch.zeros(6)]).double())
    p = torch.cat([torch.randn(30, 3, dtype=DOUBLE, generator=g), torch.full((30, 6), weight, dtype=DOUBLE)], 1)
    assert (solve_qp(Q, p, G=rows, h=limits, on_failure="nan").status == 1).all()


def test_programs_that_are_feasible_in_one_point_only_get_no_certificate():
    """Walls from all sides through a point, with the rounding that a user's data have."""
    g = torch.Generator().manual_seed(23)
    G, y = torch.randn(20, 4, 3, dtype=DOUBLE, generator=g), torch.randn(20, 3, 1, dtype=DOUBLE, generator=g)
    G = torch.cat([G, -G], 1)
    s = solve_qp(
        torch.eye(3, dtype=DOUBLE), torch.ones(20, 3, dtype=DOUBLE), G=G, h=(G @ y).squeeze(-1), on_failure="nan"
    )
    assert not ((s.status == 2) | (s.status == 3)).any()
    solved = s.status == 1
    assert solved.any()
    torch.testing.assert_close(s.y[solved], y.squeeze(-1)[solved], rtol=1e-9, atol=1e-9)


def test_what_is_infeasible_is_never_solved_far_away():
    """At a point of size 1e20, with multipliers of size 1e37, all contradictions are below rounding."""
    g = torch.Generator().manual_seed(1)
    G = torch.randn(60, 6, 4, dtype=DOUBLE, generator=g)
    G = torch.cat([G, -G[:, :1]], dim=1)
    h = torch.rand(60, 6, dtype=DOUBLE, generator=g)
    h = torch.cat([h, -h[:, :1] - 0.5], dim=1)
    for Q in (torch.eye(4, dtype=DOUBLE), torch.zeros(4, 4, dtype=DOUBLE)):
        s = solve_qp(Q, 0.0 * G[:, 0], G=G, h=h, on_failure="nan")
        assert (s.status == 2).all()


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_what_is_unbounded_is_proved_so(rank):
    g = torch.Generator().manual_seed(24)
    M, G = torch.randn(10, 5, rank, dtype=DOUBLE, generator=g), torch.randn(10, 4, 5, dtype=DOUBLE, generator=g)
    M[:, 0], G[:, :, 0], p = 0, -G[:, :, 0].abs(), torch.randn(10, 5, dtype=DOUBLE, generator=g)
    p[:, 0] = -0.4  # falls along the first axis, on which there is no wall and no curvature
    s = solve_qp(M @ M.mT, p, G=G, h=torch.ones(10, 4, dtype=DOUBLE), on_failure="nan")
    assert (s.status == 3).all()
    d = s.unbounded_because
    torch.testing.assert_close((p * d).sum(-1), -torch.ones(10, dtype=DOUBLE))
    assert (torch.einsum("bmn,bn->bm", G, d) <= 1e-12 * d.norm(dim=-1, keepdim=True)).all()
    assert (torch.einsum("bij,bj->bi", M @ M.mT, d).abs() <= 1e-12 * d.norm(dim=-1, keepdim=True)).all()


INDEFINITE = [
    ("a saddle", [[2.0, 0.0], [0.0, -3.0]], {}),
    ("held by walls", [[-1.0, 0.0], [0.0, 1.0]], {"G": [[1.0, 0.0], [-1.0, 0.0]], "h": [1.0, 1.0]}),
    ("not on the line", [[1.0, 0.0], [0.0, -2.0]], {"A": [[1.0, 1.0]], "b": [0.3]}),
]


@pytest.mark.parametrize("name, Q, rows", INDEFINITE, ids=[name for name, *_ in INDEFINITE])
def test_a_program_that_is_not_convex_is_refused(name, Q, rows):
    rows = {key: torch.tensor(value, dtype=torch.float64) for key, value in rows.items()}
    with pytest.raises(ValueError, match="Q must be positive semidefinite"):
        solve_qp(torch.tensor(Q, dtype=torch.float64), torch.tensor([0.2, 1.0], dtype=torch.float64), **rows)


def test_a_matrix_that_equalities_make_convex_or_rounding_made_indefinite_is_taken():
    Q, p = torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64)), torch.tensor([0.5, 1.0], dtype=torch.float64)
    held = solve_qp(Q, p, A=torch.tensor([[0.0, 1.0]], dtype=torch.float64), b=torch.tensor([0.7], dtype=torch.float64))
    torch.testing.assert_close(held.y, torch.tensor([-0.5, 0.7], dtype=torch.float64))
    v = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    line = v @ v.mT - 1e-13 * torch.eye(2, dtype=torch.float64)
    y = solve_qp(line, -v[:, 0], G=-torch.eye(2, dtype=torch.float64), h=torch.zeros(2, dtype=torch.float64)).y
    torch.testing.assert_close(y @ v[:, 0], torch.tensor(1.0, dtype=torch.float64))
