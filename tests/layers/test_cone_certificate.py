"""Certificates are proofs: the routine that checks them is attacked with what is nearly one."""

import pytest
import torch
from cone_problems import PROBLEMS, infeasible_program, random_program, times, unbounded_program

from diffopt_lib.layers.cone import solve_cone
from diffopt_lib.layers.cone.certificate import proves_infeasible, proves_unbounded
from diffopt_lib.layers.cone.program import Program
from diffopt_lib.layers.cones import Cones

DOUBLE = torch.float64
NAMES = list(PROBLEMS)


def infeasible(name, seed=0):
    cones, n = PROBLEMS[name]
    program = Program(*infeasible_program(cones, n, (5,), seed))
    y = solve_cone(*program[:3], cones, on_failure="nan").infeasible_because
    assert proves_infeasible(program, y, cones).all()
    return program, y, cones


def unbounded(name, seed=0):
    cones, n = PROBLEMS[name]
    program = Program(*unbounded_program(cones, n, (5,), seed))
    x = solve_cone(*program[:3], cones, on_failure="nan").unbounded_because
    assert proves_unbounded(program, x, cones).all()
    return program, x, cones


@pytest.mark.parametrize("name", NAMES)
class TestAttacks:
    @pytest.mark.parametrize("size", [1e-3, 1e-9, 1e-12])
    def test_an_equation_that_is_nearly_zero_is_not_zero(self, name, size):
        program, y, cones = infeasible(name)
        noise = torch.randn(y.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
        assert not proves_infeasible(program, y + size * y.abs() * noise, cones).any()
        program, x, cones = unbounded(name)
        P = size * torch.ones(1, x.shape[-1], x.shape[-1], dtype=DOUBLE)
        assert not proves_unbounded(program._replace(P=P), x, cones).any()

    def test_sign_and_scale(self, name):
        program, y, cones = infeasible(name)
        assert not proves_infeasible(program, -y, cones).any() and not proves_infeasible(program, 0 * y, cones).any()
        assert proves_infeasible(program, 1e-9 * y, cones).all() and proves_infeasible(program, 1e9 * y, cones).all()
        program, x, cones = unbounded(name)
        assert not proves_unbounded(program, -x, cones).any() and not proves_unbounded(program, 0 * x, cones).any()
        assert proves_unbounded(program, 1e-9 * x, cones).all() and proves_unbounded(program, 1e9 * x, cones).all()

    def test_a_feasible_program_has_none(self, name):
        cones, n = PROBLEMS[name]
        program = Program(*random_program(cones, n, (50,), seed=3))
        solution = solve_cone(*program[:3], cones)
        _, y, _ = infeasible(name)
        for candidate in (solution.y, y.repeat(10, 1), -solution.y, solution.s):
            assert not proves_infeasible(program, candidate, cones).any()
        for candidate in (solution.x, -solution.x):
            assert not proves_unbounded(program, candidate, cones).any()

    def test_nan_proves_nothing(self, name):
        program, y, cones = infeasible(name)
        assert not proves_infeasible(program, y * torch.nan, cones).any()
        program, x, cones = unbounded(name)
        assert not proves_unbounded(program, x * torch.nan, cones).any()

    @pytest.mark.parametrize("row", [0, -1])
    def test_units_do_not_matter(self, name, row):
        program, y, cones = infeasible(name)
        columns = torch.logspace(-6, 6, program.c.shape[-1], dtype=DOUBLE)
        scaled = Program(program.c * columns, program.A * columns, program.b)
        solution = solve_cone(*scaled[:3], cones, on_failure="nan")
        assert (solution.status == 2).all()
        assert proves_infeasible(scaled, solution.infeasible_because, cones).all()


def test_programs_that_only_a_huge_point_solves_are_not_called_infeasible():
    # x₁ − x₂ ≥ 1 and x₁ ≤ (1 − δ) x₂ hold at x₂ = −1/δ alone, and beyond.
    for delta in (1e-3, 1e-6, 1e-9, 1e-12):
        A = torch.tensor([[-1.0, 1.0], [1.0, -(1 - delta)]], dtype=DOUBLE)
        b, c = torch.tensor([-1.0, 0.0], dtype=DOUBLE), torch.tensor([0.0, -1.0], dtype=DOUBLE)
        y = torch.ones(1, 2, dtype=DOUBLE)  # Aᵀy = (0, δ), bᵀy = −1
        assert not proves_infeasible(Program(c[None], A[None], b[None]), y, Cones(nonneg=2)).any()
        solution = solve_cone(c, A, b, Cones(nonneg=2), on_failure="nan")
        assert solution.status != 2
        if delta > 1e-8:
            torch.testing.assert_close(solution.x[1].item(), -1 / delta, rtol=1e-6, atol=0)


def test_equations_that_contradict_each_other_by_rounding_only():
    # Σx = 1 and Σx = 1 + ε: a bᵀy of rounding size proves nothing, one above it does.
    A = torch.ones(2, 3, dtype=DOUBLE)
    for difference, expected in ((0.0, False), (2e-16, False), (1e-6, True), (1.0, True)):
        b = torch.tensor([[1.0, 1 + difference]], dtype=DOUBLE)
        program = Program(torch.zeros(1, 3, dtype=DOUBLE), A[None], b)
        y = torch.tensor([[1.0, -1.0]], dtype=DOUBLE)
        assert proves_infeasible(program, y, Cones(zero=2)).item() is expected


def test_certificates_are_checked_against_the_program_as_it_was_given():
    cones = Cones(nonneg=3)
    A = torch.tensor([[1e6, 0.0], [-1e-6, 0.0], [0.0, 1.0]], dtype=DOUBLE)
    b = torch.tensor([1e-6, -1.0, 1e20], dtype=DOUBLE)  # x₁ ≤ 1e-12, x₁ ≥ 1e6, and nothing about x₂
    solution = solve_cone(torch.zeros(2, dtype=DOUBLE), A, b, cones, on_failure="nan")
    y = solution.infeasible_because
    assert solution.status == 2 and times(A.mT, y).abs().max() < 1e-20 and abs((b * y).sum() + 1) < 1e-12
