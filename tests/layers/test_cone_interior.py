"""The parts of the interior point method for cone programs: the barrier, the frames, and Newton's equations."""

import subprocess
import sys

import pytest
import torch
from cone_problems import PROBLEMS, infeasible_program, interior, random_program, times

from diffopt_lib.layers.cone import outside, solve_cone, solver
from diffopt_lib.layers.cone.embedding import begin, degree, residual
from diffopt_lib.layers.cone.interior import advance
from diffopt_lib.layers.cone.newton import Newton
from diffopt_lib.layers.cone.outside import own_path_only
from diffopt_lib.layers.cone.program import Program, Triple, magnitudes
from diffopt_lib.layers.cone.refine import refine
from diffopt_lib.layers.cones import Cones, project
from diffopt_lib.layers.cones.barrier import CENTRE, Barrier, Exponential, dual_height, height, shadow
from diffopt_lib.layers.cones.exponential import in_exponential, in_exponential_dual
from diffopt_lib.layers.cones.frames import Frames
from diffopt_lib.layers.cones.semidefinite import to_matrix

DOUBLE = torch.float64
CONES = Cones(zero=2, nonneg=3, soc=[1, 2, 4, 4], psd=[1, 3], exp=4)
SELF_DUAL = Cones(nonneg=3, soc=[1, 2, 4, 4], psd=[1, 3])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pair(generator):
    """s and y in the interior of K and K*, 5 of each."""
    s, y = interior(CONES, (5,), generator), interior(CONES, (5,), generator, dual=True)
    s[:, : CONES.zero] = 0
    return s, y


def value(s):
    x, y, z = s
    return -torch.log(y * torch.log(z / y) - x) - torch.log(y) - torch.log(z)


class TestBarrier:
    def test_derivatives_are_those_of_autograd(self, generator):
        a, b = torch.randn(2, 3, dtype=DOUBLE, generator=generator)
        for s in interior(Cones(exp=5), (), generator).view(5, 3):
            barrier = Barrier.at(s)
            gradient, hessian = torch.func.grad(value)(s), torch.func.hessian(value)(s)
            third = torch.func.jacfwd(torch.func.hessian(value))(s)
            torch.testing.assert_close(barrier.gradient(), gradient)
            torch.testing.assert_close(barrier.hessian_times(a), hessian @ a)
            torch.testing.assert_close(barrier.hessian_solve(a), torch.linalg.solve(hessian, a))
            torch.testing.assert_close(barrier.hessian_determinant()[0], torch.linalg.det(hessian))
            torch.testing.assert_close(barrier.third_derivative(a, b), torch.einsum("ijk,j,k", third, a, b))

    def test_shadows(self, generator):
        s = interior(Cones(exp=50), (), generator).view(50, 3)
        y = -Barrier.at(s).gradient()
        torch.testing.assert_close(shadow(y), s)
        torch.testing.assert_close(shadow(1e-9 * y), 1e9 * s)
        centre = torch.tensor(CENTRE, dtype=DOUBLE)
        torch.testing.assert_close(shadow(centre), centre)

    def test_heights_are_positive_inside(self, generator):
        v = torch.randn(1000, 3, dtype=DOUBLE, generator=generator)
        assert ((height(v) > 0) == in_exponential(v)).all() and in_exponential(v).any()
        assert ((dual_height(v) > 0) == in_exponential_dual(v)).all() and in_exponential_dual(v).any()


class TestFrames:
    def test_s_and_y_become_the_same_vector(self, pair):
        s, y = pair
        frames = Frames.at(s, y, CONES)
        torch.testing.assert_close(frames.matrix.times_vector(s), frames.point)
        torch.testing.assert_close(frames.matrix.mT.times_vector(frames.point)[:, CONES.zero :], y[:, CONES.zero :])
        torch.testing.assert_close(frames.matrix.dense() @ s.unsqueeze(-1), frames.point.unsqueeze(-1))

    def test_exponential_frames_map_shadows_to_shadows_and_tend_to_the_hessian(self, pair):
        s, y = (CONES.blocks[-1].of(v) for v in pair)
        frame = Exponential.at(s, y)
        W = frame.matrix.mT @ frame.matrix
        torch.testing.assert_close(times(W, shadow(y)), -Barrier.at(s).gradient())
        torch.testing.assert_close(frame.inner @ frame.dual_inner.mT, torch.eye(3, dtype=DOUBLE).expand_as(W))
        frame = Exponential.at(s, -0.01 * Barrier.at(s).gradient())
        hessian = torch.stack([Barrier.at(s).hessian_times(e) for e in torch.eye(3, dtype=DOUBLE)], dim=-1)
        torch.testing.assert_close(frame.matrix.mT @ frame.matrix, 0.01 * hessian)

    def test_a_step_to_the_boundary(self, pair, generator):
        s, y = (v[:, CONES.zero : CONES.zero + SELF_DUAL.rows] for v in pair)
        frames = Frames.at(s, y, SELF_DUAL)
        ds, dy = torch.randn(2, 5, SELF_DUAL.rows, dtype=DOUBLE, generator=generator)
        in_frame = times(torch.linalg.inv(frames.matrix.mT.dense()), dy)
        farthest = 1 / frames.shrinkage(frames.matrix.times_vector(ds), in_frame).unsqueeze(-1)
        for length, inside in ((0.999 * farthest, True), (1.001 * farthest, False)):
            outside = [(project(v, SELF_DUAL) - v).abs().amax(-1) for v in (s + length * ds, y + length * dy)]
            assert ((torch.maximum(*outside) < 1e-12) == inside).all()

    def test_without_a_step_centring_is_the_gradient_of_the_barrier(self, pair):
        s, y = pair
        frames, zero = Frames.at(s, y, CONES), torch.zeros_like(s)
        target = frames.matrix.mT.times_vector(frames.centring(zero, zero, torch.ones(5, 1, dtype=DOUBLE)))
        for block in CONES.blocks:
            here, rows = block.of(s), block.of(target)
            if block.kind == "nonneg":
                torch.testing.assert_close(rows, 1 / here)
            elif block.kind == "soc":
                det = here[..., :1] ** 2 - here[..., 1:].square().sum(-1, keepdim=True)
                torch.testing.assert_close(rows, torch.cat([here[..., :1], -here[..., 1:]], -1) / det)
            elif block.kind == "psd":
                torch.testing.assert_close(to_matrix(rows), torch.linalg.inv(to_matrix(here)))
            elif block.kind == "exp":
                torch.testing.assert_close(rows, -Barrier.at(here).gradient())


class TestSteps:
    @pytest.fixture
    def program(self):
        return Program(*random_program(CONES, 8, (5,)))

    def test_newton_step_to_the_end(self, program):
        point = begin(program, CONES)
        left, frames = residual(program, point), Frames.at(point.s, point.y, CONES)
        newton = Newton.at(program, point, frames, left)
        products = point.tau * point.kappa
        step, move = newton.refined_step(torch.ones_like(products), -frames.point, -products, left.primal)
        after = residual(program, point.moved(move, torch.ones_like(products)))
        for part in (after.dual, after.primal, after.gap):
            assert part.abs().max() < 1e-10
        torch.testing.assert_close(point.kappa * step.tau + point.tau * step.kappa, -products)
        rows = slice(CONES.zero, None)
        torch.testing.assert_close(frames.matrix.times_vector(move.s)[:, rows], step.s[:, rows])
        torch.testing.assert_close((step.s + step.y)[:, rows], -frames.point[:, rows])

    def test_iterations_stay_inside_and_shrink_residuals_and_products_alike(self, program):
        point = begin(program, CONES)
        torch.testing.assert_close(point.gap() / degree(CONES), torch.ones_like(point.tau))
        start = residual(program, point).dual.norm(dim=-1)
        for _ in range(6):
            point, length = advance(program, point, CONES)
            assert (length > 0).all() and (point.tau > 0).all() and (point.kappa > 0).all()
            block = CONES.blocks[-1]
            assert (height(block.of(point.s)) > 0).all() and (dual_height(block.of(point.y)) > 0).all()
        mu = point.gap().squeeze(-1) / degree(CONES)
        assert (mu < 0.1).all()
        part = residual(program, point).dual.norm(dim=-1) / start
        assert (part / mu < 5).all() and (mu / part < 5).all()


class TestOutside:
    @pytest.mark.parametrize("name", list(PROBLEMS))
    def test_the_start_changes_nothing_but_the_time(self, name):
        cones, n = PROBLEMS[name]
        data = [t.requires_grad_() for t in random_program(cones, n, (4,), seed=8)]
        solution = solve_cone(*data, cones)
        with own_path_only():
            reference = solve_cone(*data, cones)
        for ours, theirs in ((solution.x, reference.x), (solution.y, reference.y), (solution.s, reference.s)):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        gradients = [torch.autograd.grad(s.x.sin().sum() + s.y.cos().sum(), data) for s in (solution, reference)]
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)

    def test_it_is_asked_for_small_batches_only(self, monkeypatch):
        cones, n = PROBLEMS["product"]
        asked = []
        start = outside.start
        monkeypatch.setattr(
            solver, "start", lambda program, cones: (asked.append(len(program.c)), start(program, cones))[1]
        )
        for batch in ((), (outside.SMALL,), (outside.SMALL + 1,)):
            solve_cone(*random_program(cones, n, batch), cones)
        assert asked == [1, outside.SMALL]

    def test_what_it_does_not_solve_is_left_to_the_path(self):
        cones, n = PROBLEMS["product"]
        good, bad = random_program(cones, n, (2,)), infeasible_program(cones, n, (2,))
        data = [torch.cat(ts) for ts in zip(good, bad, strict=True)]
        assert solve_cone(*data, cones, on_failure="nan").status.tolist() == [1, 1, 2, 2]

    def test_nothing_needs_it(self):
        code = (
            "import sys; sys.modules['clarabel'] = None\n"
            "import torch, diffopt_lib\n"
            "from diffopt_lib.layers import Cones, solve_cone\n"
            "A = -torch.eye(3, dtype=torch.float64)\n"
            "c, b = torch.tensor([2.0, 1, 1]).double(), torch.tensor([2.0, 1, 1]).double()\n"
            "x = solve_cone(c, A, b, Cones(soc=[3])).x\n"  # (2, 1, 1) is inside the dual cone, so that b + x = 0
            "assert (x + b).abs().max() < 1e-12, x\n"
        )
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_what_is_not_a_number_ends_a_refinement_and_nothing_else():
    cones, n = PROBLEMS["semidefinite"]
    program = Program(*random_program(cones, n, (3,)))
    solution = solve_cone(*program[:3], cones)
    start = Triple(solution.x.clone(), solution.y.clone(), solution.s.clone())
    start.y[1] = torch.nan
    at, error, _ = refine(program, magnitudes(program), start, cones)
    assert not error[1] < 1 and (error[[0, 2]] < 1e-13).all()
    torch.testing.assert_close(at.x[[0, 2]], solution.x[[0, 2]], rtol=1e-10, atol=1e-10)
