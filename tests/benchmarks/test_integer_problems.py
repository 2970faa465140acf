"""The reference of the integer benchmark against a solver that is not ours, and that right answers count as such."""

import numpy as np
import pytest
import scipy.optimize
import torch

from benchmarks import integer
from benchmarks.integer_problems import LAMBDA, edges, paths, problem


@pytest.mark.parametrize("program", integer.PROGRAMS)
def test_the_reference_is_what_highs_finds(program):
    p = problem(program, 20)
    exact = p.best(p.c.numpy())
    rows = scipy.optimize.LinearConstraint(p.A.numpy(), -np.inf, p.b.numpy())
    for c, y in zip(p.c.numpy(), exact, strict=True):
        found = scipy.optimize.milp(c, integrality=np.ones_like(c), bounds=(0, 1), constraints=rows)
        assert found.fun == pytest.approx(c @ y, rel=1e-9)


def test_a_grid_has_its_paths():
    assert len(edges(5)) == 40 and paths(5).shape == (70, 40) and (paths(5).sum(1) == 8).all()
    assert edges(5)[:5] == [(0, 1), (1, 2), (2, 3), (3, 4), (0, 5)]  # PyEPO's order


@pytest.mark.parametrize("method", [m for m in integer.METHODS if m.package == "diffopt_lib"], ids=lambda m: m.name)
@pytest.mark.parametrize("program", integer.PROGRAMS)
def test_ours_is_right(program, method, generator):
    p = problem(program, 6)
    y, pull = method.prepare(p)()
    cotangent = torch.randn(p.y_shape, generator=generator, dtype=torch.float64)
    assert p.accuracy(y, pull(cotangent), cotangent) == {"solution_error": 0, "gradient_error": 0}
    wrong = p.accuracy(y.roll(1, 0), [LAMBDA + torch.zeros_like(y)], cotangent)
    assert wrong["solution_error"] > 0 and wrong["gradient_error"] > 1


def test_every_case_is_a_problem():
    for case in integer.cases(quick=True):
        assert integer.problem(**case.sizes).y_shape[0] == 4
