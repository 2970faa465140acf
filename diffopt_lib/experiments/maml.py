"""An initialisation from which a few steps on a few examples go far: MAML and implicit MAML, on sinusoids and digits.

A task has a support set, on which the weights are adapted, and queries, on which they are judged. The outer problem is

    min_w0  E over tasks of  loss(w_K(w0; support); queries)                                          (1)

MAML lets w_K be the K-th step of gradient descent from w0, and differentiates the steps. Implicit MAML lets it be the
minimum of loss(w; support) + ½ λ ‖w − w0‖², of which some steps give an approximation, and uses the derivative of the
minimum, (I + ∇²loss / λ)⁻¹, by five iterations of conjugate gradients. The steps are on the whole objective, proximal
term included. First-order MAML takes ∂w_K/∂w0 for I. The baseline "all tasks as one" minimizes the loss of the queries
at w0 itself, and is adapted at test time just the same.

Sinusoids: y = a sin(x + φ) with amplitude .1–5, phase 0–π, x from −5 to 5; 10 examples; a network 40–40. Digits: five
classes of :mod:`.few_shot`, one and five examples of each in turn; pixels at half resolution and a network 64–64, where
the papers have four convolutions and Omniglot. The seeds (for digits, splits of the ten classes into five for training
and five for testing) are trained side by side, as one more dimension of every tensor.

Source: Finn et al. 2017, §5.1 and 5.2; Rajeswaran et al. 2019, algorithm 1 and table 2, whose damping of the linear
system (1) is left out here.
Chapter: book/2_differentiable/14_inner_loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.mnist import mnist
from ..inner_loop import FastWeights, Predict, inner_loop
from ..linear import cg
from ..unroll import SGD
from . import few_shot
from .harness.experiment import Experiment, Outcome, Run
from .harness.training import train

SEEDS = 3
TASKS, TEST_TASKS = 25, 600
EXAMPLES = 10
AMPLITUDE, PHASE, RANGE = (0.1, 5.0), (0.0, math.pi), (-5.0, 5.0)
DIGIT_TASKS, QUERIES, TEST_QUERIES = 8, 8, 15
LEARNING_RATE = 1e-3
TEST_STEPS = (0, 1, 5, 10, 16)
LAMBDA, CG_STEPS = 2.0, 5

Task = tuple[Tensor, Tensor]  # inputs and targets
Loss = Callable[[Predict, Task], Tensor]


class Method(NamedTuple):
    """How w_K comes from w0, and what the derivative is."""

    name: str
    rate: float
    steps: int
    prox: float = 0.0
    gradient: str = "unroll"

    def adapt(self, module: nn.Module, loss: Loss, support: Task, start: Mapping[str, Tensor]) -> FastWeights:
        """w_K of every task ``(*batch, tasks)``."""
        options: dict[str, Any] = {"batch_dims": support[0].ndim - len(module.example_shape), "start": start}
        if self.gradient == "implicit":
            few = partial(cg, max_iterations=CG_STEPS, on_failure="return")
            options |= {"gradient": "implicit", "solve": few, "on_failure": "return"}
        return inner_loop(module, loss, support, SGD(self.rate), self.steps, prox=self.prox, **options)


