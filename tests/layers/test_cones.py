"""Projections onto cones: against CVXPY, diffcp and Moreau's theorem; their derivatives, twice; degenerate faces."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from cone_problems import as_matrix

from diffopt_lib.layers.cones import (
    Cones,
    dual_projection_jacobian,
    project,
    project_dual,
    project_rows,
    projection_derivative,
    projection_jacobian,
)
from diffopt_lib.layers.cones.slope import LEAST, linearise

DOUBLE = torch.float64
SINGLE = {
    "zero": Cones(zero=3),
    "nonneg": Cones(nonneg=4),
    "soc": Cones(soc=[4]),
    "soc of one row": Cones(soc=[1]),
    "soc of two rows": Cones(soc=[2]),
    "psd": Cones(psd=[3]),
    "psd of order one": Cones(psd=[1]),
    "exp": Cones(exp=1),
}
PRODUCT = Cones(zero=2, nonneg=3, soc=[3, 3, 5, 1], psd=[1, 3, 3], exp=2)


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def cvxpy_projection(v, name):
    p = cp.Variable(len(v))
    constraint = {
        "zero": lambda: p == 0,
        "nonneg": lambda: p >= 0,
        "soc": lambda: cp.SOC(p[0], p[1:]),
        "psd": lambda: as_matrix(p, len(v)) >> 0,
        "exp": lambda: cp.ExpCone(p[0], p[1], p[2]),
    }[name]()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(p - v)), [constraint])
    problem.solve(solver=cp.CLARABEL)
    return p.value


@pytest.mark.parametrize("name", ["zero", "nonneg", "soc", "psd", "exp"])
def test_projection_is_what_cvxpy_finds(name):
    cones = SINGLE[name]
    v = normal(12, cones.rows)
    p = project(v, cones)
    for i in range(len(v)):
        np.testing.assert_allclose(p[i].numpy(), cvxpy_projection(v[i].numpy(), name), atol=2e-4)


@pytest.mark.parametrize("cones", [*SINGLE.values(), PRODUCT], ids=[*SINGLE, "product"])
def test_moreau_decomposition(cones, dtype, device):
    v = normal(50, 4, cones.rows).to(dtype).to(device)
    p, q = project(v, cones), project_dual(-v, cones)
    tolerance = 1e-12 if dtype == DOUBLE else 1e-5
    assert p.dtype == dtype
    torch.testing.assert_close(p - q, v, rtol=tolerance, atol=tolerance)
    assert (p * q).sum(-1).abs().max() < 10 * tolerance
    torch.testing.assert_close(project(p, cones), p, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(project_dual(q, cones), q, rtol=tolerance, atol=tolerance)
    # Every point of K makes an obtuse angle with −q, which is what makes p the nearest.
    other = project(normal(200, 4, cones.rows, seed=1).to(dtype).to(device), cones)
    assert ((other.unsqueeze(1) * q).sum(-1) >= -10 * tolerance).all()


@pytest.mark.parametrize("cones", [*SINGLE.values(), PRODUCT], ids=[*SINGLE, "product"])
def test_projection_is_positively_homogeneous(cones):
    v = normal(30, cones.rows)
    for t in (1e-6, 1e3, 1e8):
        torch.testing.assert_close(project(t * v, cones), t * project(v, cones), rtol=1e-11, atol=1e-12 * t)


def test_conventions_of_scs():
    row, r2 = torch.tensor([3.0, -1.0, 2.0], dtype=DOUBLE), 2**0.5
    # A 2 × 2 matrix [[a, b], [b, c]] is (a, √2 b, c); [[0, 1], [1, 0]] projects onto ½ [[1, 1], [1, 1]].
    v = torch.tensor([0.0, r2, 0.0], dtype=DOUBLE)
    torch.testing.assert_close(project(v, Cones(psd=[2])), torch.tensor([0.5, r2 / 2, 0.5], dtype=DOUBLE))
    # y exp(x/y) ≤ z for (x, y, z).
    inside = torch.tensor([1.0, 1.0, 2.8], dtype=DOUBLE)
    torch.testing.assert_close(project(inside, Cones(exp=1)), inside)
    outside = torch.tensor([1.0, 1.0, 2.7], dtype=DOUBLE)
    assert (project(outside, Cones(exp=1)) - outside).norm() > 1e-3
    torch.testing.assert_close(project(row, Cones(soc=[3])), row)  # (t, x) with ‖x‖ = √5 < t
    blocks = [(b.kind, b.start, b.count, b.size) for b in PRODUCT.blocks]
    assert blocks == [
        ("zero", 0, 2, 1), ("nonneg", 2, 3, 1), ("soc", 5, 2, 3), ("soc", 11, 1, 5), ("soc", 16, 1, 1),
        ("psd", 17, 1, 1), ("psd", 18, 2, 6), ("exp", 30, 2, 3),
    ]  # fmt: skip
    assert PRODUCT.rows == 36 and Cones().rows == 0


class TestExponentialCone:
    @pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
    def test_optimality_over_many_orders_of_magnitude(self, scale):
        magnitude = scale ** normal(3000, 3, seed=1)
        v = normal(3000, 3) * magnitude
        p = project(v, Cones(exp=1))
        size = v.norm(dim=-1)
        x, y, z = p.unbind(-1)
        positive = torch.where(y > 0, y, 1)
        excess = torch.where(y > 0, y * (x / positive).exp() - z, torch.maximum(x, -z))
        assert (excess / size).max() < 1e-12
        q = p - v
        assert (project(-q, Cones(exp=1)).norm(dim=-1) / size).max() < 1e-12  # −q is in the polar cone
        assert ((p * q).sum(-1).abs() / size**2).max() < 1e-12

    @pytest.mark.parametrize(
        ("v", "p"),
        [
            ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
            ([-1.0, 0.0, 2.0], [-1.0, 0.0, 2.0]),  # on the face y = 0
            ([-1.0, -2.0, 3.0], [-1.0, 0.0, 3.0]),
            ([-1.0, -2.0, -3.0], [-1.0, 0.0, 0.0]),
            ([0.0, 0.0, -1.0], [0.0, 0.0, 0.0]),
            ([0.0, 2.0, 2.0], [0.0, 2.0, 2.0]),  # on the curved surface
            ([0.0, -1.0, -1.0], [0.0, 0.0, 0.0]),  # in the polar cone
            ([1e-3, -1.0, 1.0], [0.0, 0.0, 1.0]),  # on a ray of slope 1001, which is the axis
            ([-1000.0, 1.0, -1.0], [-1000.0, 1.0, 0.0]),
        ],
    )
    def test_faces_and_rays(self, v, p):
        v = torch.tensor(v, dtype=DOUBLE, requires_grad=True)
        found = project(v, Cones(exp=1))
        torch.testing.assert_close(found, torch.tensor(p, dtype=DOUBLE), rtol=1e-12, atol=1e-12)
        (gradient,) = torch.autograd.grad(found.sum(), v)
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(projection_jacobian(v.detach(), Cones(exp=1))).all()


def test_all_cones_agree_with_diffcp():
    from diffcp import cones as theirs

    names = [(theirs.ZERO, 2), (theirs.POS, 3), (theirs.SOC, [3, 3, 5, 1]), (theirs.PSD, [1, 3, 3]), (theirs.EXP, 2)]
    v = normal(10, PRODUCT.rows)
    for i in range(len(v)):
        expected = theirs.pi(v[i].numpy(), names, dual=False)
        np.testing.assert_allclose(project(v[i], PRODUCT).numpy(), expected, atol=1e-6)
        expected = theirs.pi(v[i].numpy(), names, dual=True)
        np.testing.assert_allclose(project_dual(v[i], PRODUCT).numpy(), expected, atol=1e-6)


def test_a_guess_changes_nothing():
    cones, v = Cones(exp=500), normal(1500, scale=3.0)
    p = project(v, cones)
    for near in (p, p + normal(1500, seed=1), normal(1500, seed=2), torch.zeros_like(p)):
        torch.testing.assert_close(project_rows(v, cones, near), p, rtol=1e-12, atol=1e-12)


class TestDerivatives:
    @pytest.mark.parametrize("cones", [*SINGLE.values(), PRODUCT], ids=[*SINGLE, "product"])
    def test_first_and_second_and_forward_mode(self, cones):
        v = normal(3, cones.rows).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: project(v, cones), v, check_forward_ad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda v: project(v, cones), v, fast_mode=True)
        assert torch.autograd.gradcheck(lambda v: project_dual(v, cones), v, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda v: project_dual(v, cones), v, fast_mode=True)

    @pytest.mark.parametrize("cones", [*SINGLE.values(), PRODUCT], ids=[*SINGLE, "product"])
    def test_forward_mode_inside_forward_mode(self, cones):
        def f(v):
            return project(v, cones)

        v = normal(2, cones.rows)
        second = torch.func.vmap(torch.func.jacfwd(torch.func.jacfwd(f)))(v)
        torch.testing.assert_close(second, torch.func.vmap(torch.func.jacrev(torch.func.jacrev(f)))(v))

    @pytest.mark.parametrize("cones", [*SINGLE.values(), PRODUCT], ids=[*SINGLE, "product"])
    def test_dense_operator_and_autograd_are_one(self, cones):
        v, h = normal(6, cones.rows), normal(6, cones.rows, seed=1)
        J = projection_jacobian(v, cones)
        torch.testing.assert_close(J, torch.func.vmap(torch.func.jacrev(lambda v: project(v, cones)))(v))
        torch.testing.assert_close(J, torch.func.vmap(torch.func.jacfwd(lambda v: project(v, cones)))(v))
        torch.testing.assert_close(projection_derivative(v, h, cones), (J @ h.unsqueeze(-1)).squeeze(-1))
        torch.testing.assert_close(
            dual_projection_jacobian(v, cones),
            torch.func.vmap(torch.func.jacrev(lambda v: project_dual(v, cones)))(v),
        )
        torch.testing.assert_close(J, J.mT)
        eigenvalues = torch.linalg.eigvalsh(J)
        assert eigenvalues.min() > -1e-12 and eigenvalues.max() < 1 + 1e-12

    @pytest.mark.parametrize("cones", [*SINGLE.values(), PRODUCT], ids=[*SINGLE, "product"])
    def test_the_solver_linearises_to_the_same(self, cones):
        v = normal(6, cones.rows)
        y, (D, W) = linearise(v, cones)
        torch.testing.assert_close(y, project_dual(v, cones))
        torch.testing.assert_close(D.dense(), dual_projection_jacobian(v, cones))
        rest = (1 + LEAST) * torch.eye(cones.rows, dtype=DOUBLE) - D.dense()
        torch.testing.assert_close(W.dense() @ rest, D.dense(), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("cones", [*SINGLE.values(), PRODUCT], ids=[*SINGLE, "product"])
    def test_finite_differences(self, cones):
        v, h, e = normal(6, cones.rows), normal(6, cones.rows, seed=1), 1e-6
        difference = (project(v + e * h, cones) - project(v - e * h, cones)) / (2 * e)
        torch.testing.assert_close(projection_derivative(v, h, cones), difference, rtol=1e-6, atol=1e-6)

    def test_repeated_eigenvalues_of_a_matrix(self):
        # diag(1, 1, −2) in another basis: smooth there, although its eigenvectors are not.
        Q, _ = torch.linalg.qr(normal(3, 3))
        M = Q @ torch.diag(torch.tensor([1.0, 1.0, -2.0], dtype=DOUBLE)) @ Q.mT
        column, row = torch.triu_indices(3, 3)
        v = (M[row, column] * torch.where(row == column, 1.0, 2.0).double().sqrt()).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: project(v, Cones(psd=[3])), v)
        assert torch.autograd.gradgradcheck(lambda v: project(v, Cones(psd=[3])), v)

    def test_multiples_of_the_identity(self):
        v = torch.tensor([2.0, 0.0, 2.0], dtype=DOUBLE)
        identity = torch.eye(3, dtype=DOUBLE)
        for sign, expected in ((1, identity), (-1, 0 * identity)):
            torch.testing.assert_close(torch.func.jacrev(lambda v: project(v, Cones(psd=[2])))(sign * v), expected)
            torch.testing.assert_close(projection_jacobian(sign * v, Cones(psd=[2])), expected)

    @pytest.mark.parametrize("cones", [*SINGLE.values(), PRODUCT], ids=[*SINGLE, "product"])
    def test_finite_at_zero(self, cones):
        v = torch.zeros(cones.rows, dtype=DOUBLE, requires_grad=True)
        (gradient,) = torch.autograd.grad(project(v, cones).sum(), v)
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(projection_jacobian(v.detach(), cones)).all()


class TestShapes:
    @pytest.mark.parametrize("batch", [(), (1,), (0,), (2, 3)])
    def test_batches_and_vmap(self, batch):
        v = normal(*batch, PRODUCT.rows)
        p = project(v, PRODUCT)
        assert p.shape == v.shape
        if batch:
            torch.testing.assert_close(torch.func.vmap(lambda v: project(v, PRODUCT))(v), p)

    def test_no_cones(self):
        v = torch.zeros(3, 0, dtype=DOUBLE)
        assert project(v, Cones()).shape == (3, 0)
        assert projection_jacobian(v, Cones()).shape == (3, 0, 0)


class TestBadInput:
    def test_cones(self):
        with pytest.raises(ValueError, match="soc of Cones must be integers ≥ 1, got 0"):
            Cones(soc=[3, 0])
        with pytest.raises(ValueError, match="zero of Cones must be integers ≥ 0, got -1"):
            Cones(zero=-1)
        with pytest.raises(ValueError, match="exp of Cones must be integers ≥ 0, got 1.5"):
            Cones(exp=1.5)

    def test_vectors(self):
        with pytest.raises(ValueError, match=r"v must have shape \(\*batch, 3\) for these cones, got \(2, 4\)"):
            project(torch.ones(2, 4), Cones(soc=[3]))
        with pytest.raises(ValueError, match="v must be finite"):
            project(torch.tensor([1.0, float("nan")]), Cones(nonneg=2))
        with pytest.raises(ValueError, match="v must be float32 or float64"):
            project(torch.ones(2, dtype=torch.int64), Cones(nonneg=2))
