"""Learning the dynamics of a linear–quadratic regulator from what it does.

An expert controls x_{t+1} = A x_t + B u_t with the least cost. A learner that knows the cost minimizes, through the
regulator and from another A', B',

    ℓ(A', B') = mean (u(A', B') − u(A, B))²  [ + mean (x(A', B') − x(A, B))² ]                       (1)

over first states. With the second term, what is planned to happen has to agree, too. Without it the learner sees
controls alone, and whether (1) then leads to A and B is not certain: other dynamics may have nearly the same controls.
Eight learners from eight starts are one batch.

Source: Amos et al., Differentiable MPC, 2018, §5.2; the second term is in the public code's example. Chapter:
book/2_differentiable/10_control.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..controllers import lqr
from .harness.experiment import Experiment, Outcome, Run
from .harness.training import train

STATES, CONTROLS, HORIZON = 3, 3, 5
SPREAD = 0.2  # of A around the identity
LEARNERS, BATCH = 8, 128
STEPS, LEARNING_RATE = 5000, 1e-2
EXPERT = 42  # its seed
CLOSE = 1e-3  # mean squared error of A and B that counts as found


def random_dynamics(generator: torch.Generator) -> Tensor:
    """F = (A, B) with A = I + .2 N(0, 1) and B ~ N(0, 1), ``(n, n + m)``."""
    A = torch.eye(STATES) + SPREAD * torch.randn(STATES, STATES, generator=generator)
    return torch.cat([A, torch.randn(STATES, CONTROLS, generator=generator)], dim=1).double()


class Learners(nn.Module):
    """The dynamics that each learner believes in, ``(learners, n, n + m)``, and the cost that they all know."""

    c: Tensor

    def __init__(self, F: Tensor, c: Tensor):
        super().__init__()
        self.F = nn.Parameter(F)
        self.register_buffer("c", c)

    def forward(self, x_init: Tensor) -> tuple[Tensor, Tensor]:
        """Their plans from the states ``(batch, n)``: ``(learners, batch, T, ·)``."""
        return plan(x_init, self.c, self.F[:, None, None])


def plan(x_init: Tensor, c: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
    """Controls and states of the least Σ ½ ‖τ_t‖² + cᵀτ_t."""
    solution = lqr(x_init, torch.eye(len(c), dtype=c.dtype, device=c.device), c, F, horizon=HORIZON)
    return solution.u, solution.x


def imitation_loss(states: bool, model: Learners, x_init: Tensor, u: Tensor, x: Tensor) -> Tensor:
    """(1) of every learner, ``(learners,)``, with or without its second term."""
    own_u, own_x = model(x_init)
    of_controls = (own_u - u).square().mean((1, 2, 3))
    return of_controls + (own_x - x).square().mean((1, 2, 3)) if states else of_controls


def total_loss(states: bool, model: Learners, *batch: Tensor) -> Tensor:
    """The sum over the learners, so that each has its own gradient."""
    return imitation_loss(states, model, *batch).sum()


def run(run: Run) -> Outcome:
    """Train from eight starts, on controls alone and on states too, and measure controls and dynamics."""
    expert = torch.Generator().manual_seed(EXPERT)
    F, c = random_dynamics(expert).to(run.device), torch.randn(STATES + CONTROLS, generator=expert).double()
    c = c.to(run.device)

    def batch(step: int) -> tuple[Tensor, ...]:
        x_init = torch.randn(BATCH, STATES, generator=run.generator(10_000 + step)).double().to(run.device)
        return x_init, *plan(x_init, c, F)

    @torch.no_grad()
    def errors(model: Learners) -> dict[str, Tensor]:
        imitation = imitation_loss(False, model, *batch(-1))
        return {"imitation loss": imitation, "error of A and B": (model.F - F).square().mean((1, 2))}

    figures: dict[str, float | None] = {"learners": float(LEARNERS)}
    for name, states in (("controls alone", False), ("controls and states", True)):
        starts = torch.stack([random_dynamics(run.generator(1 + i)) for i in range(LEARNERS)])
        model = Learners(starts.to(run.device), c)
        figures |= {f"{what} at the start: median": values.median().item() for what, values in errors(model).items()}
        optimizer = torch.optim.RMSprop(model.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        train(run, name, model, optimizer, partial(total_loss, states), batch, steps=STEPS, schedule=schedule,
              share=0.5)  # fmt: skip
        found = errors(model)
        for what, values in found.items():
            figures |= {
                f"{name}, {what}: median": values.median().item(),
                f"{name}, {what}: worst": values.max().item(),
            }
        close = found["error of A and B"] < CLOSE
        figures[f"{name}, learners that found A and B"] = float(close.sum())
    return Outcome(figures)


EXPERIMENT = Experiment(
    name="lqr_recovery",
    claim="From the plans of a linear-quadratic regulator a learner finds the dynamics behind them.",
    published={},
    source="Amos et al. 2018, figure 3",
    chapter="book/2_differentiable/10_control",
    run=run,
)
