"""Memory against steps: linear, √, constant; and calls that leave nothing behind."""

import gc

import numpy as np
import pytest
import torch
from small import loss, network, outer, tasks
from torch import Tensor, nn

from diffopt_lib import SGD, inner_loop
from diffopt_lib.memory import peak_memory


def peaks(gradient, steps):
    """Bytes at the peak of a call and its backward pass, for each number of steps."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 60), nn.Tanh(), nn.Linear(60, 1)).double()
    x, y = torch.randn(40, 20, dtype=torch.float64), torch.randn(40, 1, dtype=torch.float64)
    decay = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    options = {"on_failure": "return"} if gradient == "implicit" else {}

    def run(k):
        fast = inner_loop(
            module,
            lambda predict, data: (predict(data[0]) - data[1]).square().mean(),
            (x, y),
            SGD(0.05),
            k,
            gradient=gradient,
            weight_decay=decay,
            prox=1.0,
            **options,
        )
        outer(fast).backward()

    return np.array([peak_memory(lambda k=k: run(k)) for k in steps])


STEPS = np.array([16, 64, 256])


def exponent(gradient):
    """p of memory ∝ stepsᵖ."""
    return np.polyfit(np.log(STEPS), np.log(peaks(gradient, STEPS)), 1)[0]


def test_unrolling_needs_memory_for_every_step():
    assert 0.9 < exponent("unroll") < 1.1


def test_checkpointing_needs_memory_for_the_root_of_the_steps():
    assert 0.35 < exponent("checkpoint") < 0.6


def test_the_implicit_derivative_needs_memory_for_no_step():
    few, more, many = peaks("implicit", STEPS)
    assert few == more == many


def test_truncation_needs_memory_for_the_steps_that_are_kept():
    few, more, many = (peak_memory(lambda k=k: outer(truncated(k)).backward()) for k in (16, 64, 256))
    assert few == more == many


def truncated(steps):
    data = tasks(torch.Generator().manual_seed(0))
    return inner_loop(network(), loss, data, SGD(0.1), steps, gradient="truncated", truncate=5, weight_decay=decay())


def decay():
    return torch.tensor(0.1, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint", "implicit"])
def test_500_calls_leave_nothing_behind(gradient, generator):
    """higher #6: memory grew with every call. No collector is asked to help: nothing may hang in a circle."""
    module, data = network(), tasks(generator)
    options = {"on_failure": "return"} if gradient == "implicit" else {}

    def call():
        fast = inner_loop(module, loss, data, SGD(0.1), 2, gradient=gradient, prox=3.0, **options)
        module.zero_grad()
        outer(fast).backward()

    def alive():
        return sum(isinstance(x, Tensor) for x in gc.get_objects())

    for _ in range(3):
        call()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(500):
            call()
        assert alive() <= before
    finally:
        gc.enable()
