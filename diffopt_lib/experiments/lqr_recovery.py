"""Learning the dynamics of a linear–quadratic regulator from its controls alone.

An expert controls x_{t+1} = A x_t + B u_t with the least cost. A learner that knows the cost sees only what the expert
does from some first states, and minimizes

    ℓ(A', B') = mean (u(A', B') − u(A, B))²                                                        (1)

through the regulator, from another A', B'. Whether (1) leads to A and B is not certain: other dynamics might have the
same controls. Eight learners from eight starts are one batch.

Source: Amos et al., Differentiable MPC, 2018, §5.2. Chapter: book/2_differentiable/10_control.
"""

from __future__ import annotations

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

    def forward(self, x_init: Tensor) -> Tensor:
        """Their controls from the states ``(batch, n)``: ``(learners, batch, T, m)``."""
        return controls(x_init, self.c, self.F[:, None, None])


def controls(x_init: Tensor, c: Tensor, F: Tensor) -> Tensor:
    """Those of the least Σ ½ ‖τ_t‖² + cᵀτ_t."""
    return lqr(x_init, torch.eye(len(c), dtype=c.dtype, device=c.device), c, F, horizon=HORIZON).u


def imitation_loss(model: Learners, x_init: Tensor, u: Tensor) -> Tensor:
    """The sum of (1) over the learners, so that each has its own gradient."""
    return (model(x_init) - u).square().mean((1, 2, 3)).sum()


def run(run: Run) -> Outcome:
    """Train from eight starts, and measure controls and dynamics."""
    expert = torch.Generator().manual_seed(EXPERT)
    F, c = random_dynamics(expert).to(run.device), torch.randn(STATES + CONTROLS, generator=expert).double()
    c = c.to(run.device)
    starts = torch.stack([random_dynamics(run.generator(1 + i)) for i in range(LEARNERS)]).to(run.device)
    model = Learners(starts, c)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x_init = torch.randn(BATCH, STATES, generator=run.generator(10_000 + step)).double().to(run.device)
        return x_init, controls(x_init, c, F)

    def errors() -> tuple[Tensor, Tensor]:
        x_init, u = batch(-1)
        with torch.no_grad():
            return (model(x_init) - u).square().mean((1, 2, 3)), (model.F - F).square().mean((1, 2))

    before, apart = errors()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    train(run, "eight learners", model, optimizer, imitation_loss, batch, steps=STEPS, schedule=schedule)
    imitation, dynamics = errors()
    return Outcome(
        {
            "imitation loss at the start: median": before.median().item(),
            "imitation loss: median": imitation.median().item(),
            "imitation loss: worst": imitation.max().item(),
            "error of A and B at the start: median": apart.median().item(),
            "error of A and B: median": dynamics.median().item(),
            "error of A and B: worst": dynamics.max().item(),
            "learners with an error of A and B below 1e-4": float((dynamics < 1e-4).sum()),
            "learners": float(LEARNERS),
        }
    )


EXPERIMENT = Experiment(
    name="lqr_recovery",
    claim="From the controls of a linear-quadratic regulator alone, a learner finds the dynamics behind them.",
    published={},
    source="Amos et al. 2018, figure 3",
    chapter="book/2_differentiable/10_control",
    run=run,
)
