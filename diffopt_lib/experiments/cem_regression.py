"""Regression by a learned energy: does the energy know the answer, or only how its minimizer will be run?

A network E_θ(x, y) is trained such that what an iterative minimizer makes of it predicts y = x sin x:

    ŷ(x) = the last iterate for min_y E_θ(x, y),     loss (ŷ(x) − x sin x)²,     differentiated by unrolling         (1)

with one of three minimizers:

    gradient descent      y ← y − 0.1 ∂E/∂y from y = 0, ten steps                                               (2)
    any number of steps   the same with a number of steps drawn from 1 … 20 for every update                    (3)
    cross-entropy         ``cem`` from mean 0 and σ = 7, ten iterations of 100 samples and 10 elites, τ = 1

Nothing in (1) says that ŷ must be a minimum of E: ten steps of descent are a function like any other. So the trained
energies are asked again with other numbers of iterations, and for their true minimizers on a grid of y in [−10, 10].
(3) is not in the paper; it is the plain remedy that the cross-entropy method has to be compared with.

The paper's setting: 100 points on [0, 2π], Adam with gradients clipped to the norm 1, three hidden layers of 128
softplus units; 100,000 updates at 1e-3, three for each point, with a rate that is halved on plateaus. This one is made
to fit into half an hour of one core: :data:`UPDATES` updates on :data:`BATCH` points each at 3e-3, in the last third of
which the rate falls to zero, for three networks with different weights and points side by side. An update costs some
nine times as much with the cross-entropy method as with descent. So all are also trained with :data:`LONG` updates, of
which those of (2) and (3) take as long as the few of the search; and (3) with :data:`LONGEST`, as long as the search
with many.

Source: Amos & Yarats, The differentiable cross-entropy method, 2020, sect. 5.1, and the settings of its public code.
Chapter: book/2_differentiable/11_cem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.functional import linear, softplus
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from ..controllers.cem import cem
from .harness.experiment import Experiment, Outcome, Run
from .harness.training import Batches, train

SEEDS = 3
POINTS, BATCH = 100, 4
WIDTHS = (2, 128, 128, 128, 1)
ITERATIONS, STEP, MOST = 10, 0.1, 20
SAMPLES, ELITES, STD, TAU = 100, 10, 7.0, 1.0
UPDATES, LONG, LONGEST = 600, 4_000, 32_000
LEARNING_RATE, LARGEST_GRADIENT = 3e-3, 1.0
ASKED = (1, 5, 10, 15, 20, 50, 100)

Energy = Callable[[Tensor, Tensor], Tensor]
Solve = Callable[..., Tensor]
"""From an energy, x ``(N,)``, a number of iterations and a generator to y ``(N,)``."""


class Networks(nn.Module):
    """Networks of softplus units side by side: same shape, different weights.

    Args:
        widths: of the layers, inputs and outputs included.
        generators: one for the weights of each network.
    """

    def __init__(self, widths: Sequence[int], generators: Sequence[torch.Generator]):
        super().__init__()
        self.weights = nn.ParameterList()  # weight and bias in turns
        for i, o in zip(widths[:-1], widths[1:], strict=True):
            for shape in ((o, i), (o,)):
                draws = [2 * torch.rand(shape, generator=g) - 1 for g in generators]
                self.weights.append(nn.Parameter(torch.stack(draws) / i**0.5))

    def forward(self, of_one: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``of_one(weights, *inputs)`` of every network, with its own slice of the inputs' first dimension."""
        return vmap(of_one, randomness="different")(list(self.weights), *inputs)


def network(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """One network: inputs ``(*batch, n)`` to ``(*batch,)``."""
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        inputs = softplus(linear(inputs, weight, bias))
    return linear(inputs, weights[-2], weights[-1]).squeeze(-1)


def energy(weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """E_θ(x, y), ``(N,)``."""
    return network(weights, torch.stack([x, y], -1))


def target(x: Tensor) -> Tensor:
    """x sin x."""
    return x * x.sin()


# The minimizers.


def descend(E: Energy, x: Tensor, iterations: int, generator: torch.Generator | None = None) -> Tensor:
    """Eq. (2)."""
    slope = grad(lambda y: E(x, y).sum())
    y = torch.zeros_like(x)
    for _ in range(iterations):
        y = y - STEP * slope(y)
    return y


def search(E: Energy, x: Tensor, iterations: int, generator: torch.Generator | None = None) -> Tensor:
    """The cross-entropy method."""
    mean = torch.zeros_like(x).unsqueeze(-1)
    solution = cem(
        lambda y: E(x, y.squeeze(-1)),
        mean,
        torch.full_like(mean, STD),
        samples=SAMPLES,
        elites=ELITES,
        iterations=iterations,
        tau=TAU,
        generator=generator,
    )
    return solution.y.squeeze(-1)


def grid_minimum(E: Energy, x: Tensor, reach: float = 10.0, nodes: int = 2001) -> Tensor:
    """The best y of a grid."""
    y = torch.linspace(-reach, reach, nodes, device=x.device)
    values = E(x.repeat_interleave(nodes), y.repeat(len(x)))
    return y[values.reshape(-1, nodes).argmin(-1)]


# The experiment.

TRAININGS: dict[str, tuple[Solve, int]] = {
    "gradient descent": (descend, UPDATES),
    "any number of steps": (descend, UPDATES),
    "cross-entropy": (search, UPDATES),
    "gradient descent, longer": (descend, LONG),
    "any number of steps, longer": (descend, LONG),
    "cross-entropy, longer": (search, LONG),
    "any number of steps, longest": (descend, LONGEST),
}


def run(run: Run) -> Outcome:
    """Train with every minimizer, then ask for other numbers of iterations."""
    x = torch.linspace(0, 2 * math.pi, POINTS, device=run.device).expand(SEEDS, -1)
    figures: dict[str, float | None] = {}
    weights: dict[str, Tensor] = {}
    for name, (solve, updates) in TRAININGS.items():
        model = fit(run, name, solve, updates)
        for iterations in ASKED:
            generator = run.generator(1)
            error = ask(model, partial(solve, iterations=iterations, generator=generator), x)
            figures |= spread(f"MSE, {name}: {iterations} iterations", error)
        figures |= spread(f"MSE, {name}: minimum on the grid", ask(model, grid_minimum, x))
        if updates == UPDATES:
            weights |= {f"{name}.{key}": value[:2] for key, value in model.named_parameters()}
    return Outcome(figures, {"cem_regression": weights})


def fit(run: Run, name: str, solve: Solve, updates: int) -> Networks:
    """Networks trained with one minimizer. They start from the same weights and see the same points whatever it is."""
    model = Networks(WIDTHS, [run.generator(100 + seed) for seed in range(SEEDS)]).to(run.device)
    optimizer = Adam(model.parameters(), lr=LEARNING_RATE)
    optimizer.register_step_pre_hook(lambda *_: clip(model))
    schedule = LambdaLR(optimizer, lambda update: min(1.0, 3 * (1 - update / updates)))
    drawn = name.startswith("any number of steps")

    def loss(model: nn.Module, x: Tensor, steps: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(steps[0, 0]))
        iterations = int(steps[0, 1]) if drawn else ITERATIONS
        y = model(of_energy(partial(solve, iterations=iterations, generator=generator)), x.T)
        return (y - target(x.T)).square().mean(-1).sum()

    share = updates / sum(n for _, n in TRAININGS.values())
    train(run, name, model, optimizer, loss, visits(run), steps=updates, schedule=schedule, share=share)
    return model


def visits(run: Run) -> Batches:
    """The points of an update, ``(BATCH, SEEDS)``, and for each of them a seed and a number of steps."""

    def batch(update: int) -> tuple[Tensor, Tensor]:
        generator = run.generator(1_000 + update)
        points = torch.randint(POINTS, (BATCH, SEEDS), generator=generator)
        seed = torch.randint(2**31, (1,), generator=generator)
        steps = torch.randint(1, MOST + 1, (1,), generator=generator)
        x = points.to(run.device) * (2 * math.pi / (POINTS - 1))
        return x, torch.stack([seed, steps], -1).expand(BATCH, 2)

    return batch


def of_energy(solve: Solve) -> Callable[..., Tensor]:
    """solve for the energy of a network with given weights."""
    return lambda weights, x: solve(partial(energy, weights), x)


@torch.no_grad()
def ask(model: Networks, solve: Solve, x: Tensor) -> Tensor:
    """The mean squared error of every network at x ``(networks, N)``."""
    return (model(of_energy(solve), x) - target(x)).square().mean(-1)


@torch.no_grad()
def clip(model: Networks) -> None:
    """Bring the norm of every network's gradient down to :data:`LARGEST_GRADIENT`."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = sum(g.flatten(1).square().sum(1) for g in gradients).sqrt()  # type: ignore[union-attr]
    for g in gradients:
        g *= (LARGEST_GRADIENT / norm.clamp_min(LARGEST_GRADIENT)).view(-1, *(1 for _ in g.shape[1:]))


def spread(what: str, values: Tensor) -> dict[str, float | None]:
    """The mean over the networks, the least and the largest."""
    return {what: values.mean().item(), f"{what}, least": values.min().item(), f"{what}, most": values.max().item()}


EXPERIMENT = Experiment(
    name="cem_regression",
    claim="An energy learned through ten steps of gradient descent is right after ten steps only; learned through the "
    "cross-entropy method it has its minimum at the answer.",
    published={},
    source="Amos & Yarats 2020, sect. 5.1",
    chapter="book/2_differentiable/11_cem",
    run=run,
)
