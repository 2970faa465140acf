"""The benchmark of inner loops: its reference against finite differences, and ours against the reference."""

import pytest
import torch

from benchmarks import run
from benchmarks.inner_problems import by_formulas, random_inner_loop


def test_the_reference_has_the_gradient_of_finite_differences():
    problem = random_inner_loop(2, 3)
    start, rate = (p.clone().requires_grad_() for p in problem.parameters)
    w = by_formulas(start, rate, problem)
    slopes = torch.autograd.grad(w.sin().sum(), (start, rate))
    direction = torch.randn(start.shape, dtype=start.dtype, generator=torch.Generator().manual_seed(0))

    def value(h, k):
        return by_formulas(start + h * direction, rate + k, problem).sin().sum().item()

    by_start, by_rate = (
        (value(*(1e-6 * s for s in d)) - value(*(-1e-6 * s for s in d))) / 2e-6 for d in ((1, 0), (0, 1))
    )
    assert abs((slopes[0] * direction).sum().item() - by_start) <= 1e-6 * abs(by_start)
    assert abs(slopes[1].item() - by_rate) <= 1e-6 * abs(by_rate)


@pytest.mark.parametrize("method", ["ours", "ours, checkpoints", "torch"])
def test_our_methods_are_exact(method):
    result = run.run("inner", "cpu", quick=True, threads=1, only=[method])
    (row,) = result["cases"][0]["rows"]
    assert row["solution_error"] < 1e-12 and row["gradient_error"] < 1e-10
