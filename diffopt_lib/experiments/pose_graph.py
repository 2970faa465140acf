"""How much should a pose graph believe its loop closures? Radius and weights learned through the estimate, or tuned.

Graphs of 256 poses in the plane, 26 of them known, with 255 odometry steps (noise .05 of a step, .02 rad) and 51 loop
closures, a quarter of which are wrong (:func:`diffopt_lib.layers.least_squares.pose_graph.synthetic`). The estimate is

    y*(θ) = argmin Σ_e welsch( b_e rᵀ diag(1, 1, a) r;  c ),    θ = (log a, log b, log c)               (1)

with b_e = 1 for odometry and b for closures. θ is trained by Adam on the squared error of the estimated positions on
training graphs, whose truth is known, from θ₀ = (0, 0, log 3): rotations and steps weighted alike, closures believed up
to three steps. The derivative is the exact one, or that of one Gauss–Newton step.

What it is compared with. The *tuned* radius is the best of a grid on the same training graphs, with the true
covariances given; the *textbook* radius 2.985 is Welsch's for 95 % efficiency, with the true covariances too; *squared*
has no robust loss; and the *oracle* leaves out the wrong closures, of which no method is told. All are evaluated on
test graphs.

The set-up follows Theseus, where graphs have 256 poses in space and 10 iterations of Levenberg–Marquardt are made. Ours
are in the plane and are solved to convergence, in at most LIMIT iterations. There are SEEDS training sets of TRAIN
graphs and STEPS steps, which takes a minute of one CPU: enough to see that it learns, and too little for small
differences. Their figures can't be compared with ours, so none is listed.

Source: Pineda et al., Theseus, 2022. Chapter: book/2_differentiable/13_least_squares.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.least_squares.pose_graph import Synthetic, synthetic
from .harness.experiment import Experiment, Outcome, Run
from .harness.training import train

POSES = 256
SEEDS, TRAIN, TEST = 2, 2, 4
STEPS, LEARNING_RATE = 15, 0.25
RADII = (2.0, 4.0, 8.0)  # in standard deviations
TEXTBOOK = 2.985
LIMIT = 60  # iterations; an estimate that is not there by then counts as it is
GRADIENTS: dict[str, dict[str, Any]] = {
    "exact": {"gradient": "implicit"},
    "one step": {"gradient": "one_step"},
}


class Beliefs(nn.Module):
    """θ = (log a, log b, log c) of eq. (1)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([1.0, 1.0, 3.0], dtype=torch.float64).log())

    def options(self, made: Synthetic) -> dict[str, Tensor]:
        """Weights and radius for a batch of graphs."""
        rotation, closures, radius = self.theta.exp()
        return {
            "weight": torch.where(made.closure, closures, torch.ones_like(closures)),
            "information": torch.diag(torch.stack([torch.ones_like(rotation)] * 2 + [rotation])),
            "radius": radius,
        }


def estimate(made: Synthetic, information: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    """Positional error of every graph, its mean square ``(batch,)``, and which have converged."""
    graph = made.graph
    if information is not None:
        graph = replace(graph, information=information.expand(len(graph.edges), 3, 3))
    found = graph.solve(max_iterations=LIMIT, on_failure="return", **options)
    error = (found.poses - made.truth)[..., :2].square().sum(-1).mean(-1)
    return error, found.solution.converged


def loss(model: nn.Module, rows: Tensor, made: Synthetic, **gradient: Any) -> Tensor:
    """The mean squared error of the graphs that have converged; where none has there is nothing to learn."""
    assert isinstance(model, Beliefs)
    error, converged = estimate(made, loss="welsch", **model.options(made), **gradient)
    return error[converged].sum() / converged.sum().clamp_min(1)


def graphs(run: Run, stream: int, count: int) -> Synthetic:
    """Graphs of one topology for each seed, and other ones for the test."""
    return synthetic(POSES, batch=(count,), generator=run.generator(stream))


def rmse(made: Synthetic, **options: Any) -> float:
    """In steps."""
    with torch.no_grad():
        return estimate(made, **options)[0].mean().sqrt().item()


def run(run: Run) -> Outcome:
    """Train, tune, and compare on the test graphs of every seed."""
    found: dict[str, list[float]] = {}
    shown: dict[str, float | None] = {}
    weights: dict[str, Tensor] = {}
    for seed in range(SEEDS):
        training, test = graphs(run, 2 * seed, TRAIN), graphs(run, 2 * seed + 1, TEST)
        record = found.setdefault
        for kind in ("welsch", "huber"):
            curve = [rmse(training, loss=kind, radius=radius) for radius in RADII]
            best = RADII[curve.index(min(curve))]
            record(f"tuned radius, {kind}", []).append(best)
            record(f"test error: tuned {kind}, true covariances", []).append(rmse(test, loss=kind, radius=best))
        record("test error: textbook welsch, true covariances", []).append(rmse(test, loss="welsch", radius=TEXTBOOK))
        record("test error: squared, true covariances", []).append(rmse(test))
        sound = (~test.outlier).to(torch.float64)
        record("test error: oracle", []).append(rmse(test, weight=sound))
        start = Beliefs()
        record("test error: before training", []).append(rmse(test, loss="welsch", **start.options(test)))
        for name, gradient in GRADIENTS.items():
            if seed and name != "exact":
                continue
            model = Beliefs()
            optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
            objective = partial(loss, made=training, **gradient)
            train(run, f"{name}, seed {seed}", model, optimizer, objective, lambda step: (torch.zeros(1),), steps=STEPS)
            record(f"test error: learned, {name}", []).append(rmse(test, loss="welsch", **model.options(test)))
            weights[f"{name}, {seed}"] = model.theta.detach()
            if name == "exact":
                a, b, c = model.theta.exp().tolist()
                record("learned weight of rotations, a", []).append(a)
                record("learned weight of closures, b", []).append(b)
                record("learned radius, c", []).append(c)
    for what, values in found.items():
        shown[what] = sum(values) / len(values)
        if len(values) > 1:
            shown[f"{what}, standard deviation"] = torch.tensor(values).std().item()
    shown["graphs of a test set"] = TEST
    shown["seeds"] = SEEDS
    return Outcome(shown, {"pose_graph": weights})


EXPERIMENT = Experiment(
    name="pose_graph",
    claim="Radius and weights of a robust pose graph, learned through its estimate from a poor start, do as well as a "
    "radius tuned by grid search with the true covariances given.",
    published={},
    source="Pineda et al. 2022 (Theseus)",
    chapter="book/2_differentiable/13_least_squares",
    run=run,
)
