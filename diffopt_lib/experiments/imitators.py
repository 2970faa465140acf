"""Who is imitated and who imitates: pendulum and cart-pole, an expert's plans, and learners that plan themselves.

Every learner of a kind, for each number of plans and each seed, is an element of one batch. :mod:`.imitation` trains
and compares them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..controllers import CartPole, Pendulum, mpc
from ..controllers.mpc import MPCSolution
from .harness.experiment import Run

HORIZON = 20
SIZES, SEEDS = (10, 50, 100), 4
MAX_ITERATIONS = 25  # of a plan; what is not finished then does not count
IN_TRAINING = 8  # of a plan that starts from the last one; what is not finished goes on in its learner's next turn
HIDDEN = 256


@dataclass(frozen=True)
class System:
    """A system as its expert knows it.

    Attributes:
        make: the dynamics of given physical parameters.
        truth, guess: of the expert, and what learners begin with.
        goal, weights: of the states; the control weighs .001.
        limit: of the control.
        draw: first states from numbers in [−1, 1], ``(N, k)``.
        hidden: further arguments of the expert's dynamics.
    """

    make: Callable[..., nn.Module]
    truth: dict[str, float]
    guess: dict[str, float]
    goal: tuple[float, ...]
    weights: tuple[float, ...]
    limit: float
    draw: Callable[[Tensor], Tensor]
    draws: int
    hidden: dict[str, float]

    @property
    def expert(self) -> nn.Module:
        return self.make(**{k: torch.tensor(v, dtype=torch.float64) for k, v in (self.truth | self.hidden).items()})

    def cost(self) -> tuple[Tensor, Tensor]:
        """q and p = −√q ∘ goal of the expert's cost ½ Σ q_i τ_i² + p_i τ_i."""
        q, goal = (torch.tensor(v, dtype=torch.float64) for v in ((*self.weights, 1e-3), (*self.goal, 0.0)))
        return q, -q.sqrt() * goal


PENDULUM = System(
    make=Pendulum,
    truth={"gravity": 10.0, "mass": 1.0, "length": 1.0},
    guess={"gravity": 15.0, "mass": 3.0, "length": 0.5},
    goal=(1.0, 0.0, 0.0),
    weights=(1.0, 1.0, 0.1),
    limit=2.0,
    draw=lambda r: Pendulum.state(math.pi / 2 * r[:, 0], r[:, 1]),
    draws=2,
    hidden={},
)
SYSTEMS = {
    "pendulum": PENDULUM,
    "cart-pole": System(
        make=CartPole,
        truth={"gravity": 9.8, "cart": 1.0, "pole": 0.1, "length": 0.5},
        guess={"gravity": 9.8, "cart": 3.0, "pole": 0.1, "length": 1.0},
        goal=(0.0, 0.0, 1.0, 0.0, 0.0),
        weights=(0.1, 0.1, 1.0, 1.0, 0.1),
        limit=100.0,
        draw=lambda r: CartPole.state(0.5 * r[:, 0], 0.5 * r[:, 1], math.pi * r[:, 2], r[:, 3]),
        draws=4,
        hidden={},
    ),
    "pendulum with friction": System(**{**vars(PENDULUM), "hidden": {"damping": 1.0, "bias": 0.1}}),
}


class Plans(NamedTuple):
    """First states ``(seeds, N, n)`` and the expert's plans, x ``(seeds, N, T, n)`` and u ``(seeds, N, T, m)``."""

    x_init: Tensor
    x: Tensor
    u: Tensor


def plan(
    system: System, x_init: Tensor, q: Tensor, p: Tensor, dynamics: nn.Module, u_init: Tensor | None = None
) -> MPCSolution:
    """The plans with these costs ``(n + m,)`` or ``(N, n + m)``, from earlier ones if there are any; what did not
    converge stays as it was left."""

    def cost(x: Tensor, u: Tensor) -> Tensor:
        tau = torch.cat([x, u], -1)
        return (0.5 * q * tau.square() + p * tau).sum(-1)

    return mpc(
        x_init,
        cost,
        dynamics,
        HORIZON,
        u_lower=-system.limit,
        u_upper=system.limit,
        u_init=u_init,
        max_iterations=MAX_ITERATIONS if u_init is None else IN_TRAINING,
        on_failure="return",
    )


def record(run: Run, system: System, count: int, stream: int) -> Plans:
    """The expert's plans, those that it did not finish replaced by others."""
    seeds = []
    for seed in range(SEEDS):
        draws = 2 * torch.rand(2 * count, system.draws, generator=run.generator(stream + seed), dtype=torch.float64) - 1
        x_init = system.draw(draws).to(run.device)
        with torch.no_grad():
            q, p = (v.to(run.device) for v in system.cost())
            solution = plan(system, x_init, q, p, system.expert.to(run.device))
        kept = solution.converged.nonzero().squeeze(-1)[:count]
        seeds.append(Plans(x_init[kept], solution.x[kept], solution.u[kept]))
    return Plans(*(torch.stack(part) for part in zip(*seeds, strict=True)))


class Learners(nn.Module):
    """One learner for every seed and number of plans, ``(seeds · sizes,)``, with what it knows or learns.

    Args:
        system: that they control.
        learned: "dx", "cost" or both.
        plans: of the experts, whose controls ``warm`` are where planning starts.
    """

    warm: Tensor

    def __init__(self, system: System, learned: tuple[str, ...], plans: Plans):
        super().__init__()
        count = len(plans.u) * len(SIZES)
        self.system, self.learned = system, learned
        start = system.guess if "dx" in learned else system.truth
        self.physics = nn.ParameterDict(
            {k: nn.Parameter(torch.full((count,), v, dtype=torch.float64), "dx" in learned) for k, v in start.items()}
        )
        n = len(system.goal) + 1
        self.logits = nn.Parameter(torch.zeros(count, n, dtype=torch.float64), "cost" in learned)
        self.pull = nn.Parameter(torch.zeros(count, n, dtype=torch.float64), "cost" in learned)
        zeros = torch.zeros_like(plans.u).unsqueeze(1).expand(-1, len(SIZES), *plans.u.shape[1:])
        self.register_buffer("warm", zeros.reshape(count, *plans.u.shape[1:]).contiguous())

    def cost(self) -> tuple[Tensor, Tensor]:
        """q and p of every learner."""
        if "cost" not in self.learned:
            q, p = (v.to(self.logits.device).expand_as(self.logits) for v in self.system.cost())
            return q, p
        q = self.logits.sigmoid()
        return q, q.sqrt() * self.pull

    def forward(
        self, learner: Tensor, x_init: Tensor, warm: Tensor | None = None, turn: str | None = None
    ) -> MPCSolution:
        """What the learners ``(N,)`` plan from ``(N, n)``; only what has its turn gets a gradient."""
        q, p = self.cost()
        physics = dict(self.physics)
        if turn == "dx":
            q, p = q.detach(), p.detach()
        elif turn == "cost":
            physics = {k: v.detach() for k, v in physics.items()}
        dynamics = self.system.make(**{k: v[learner] + 0.0 for k, v in physics.items()})
        return plan(self.system, x_init, q[learner], p[learner], dynamics, warm)


class Networks(nn.Module):
    """A recurrent network for each size, of the first seed: from first states to plans ``(N, T, m)``."""

    def __init__(self, n: int, m: int, limit: float):
        super().__init__()
        self.limit = limit
        self.memory = nn.ModuleList(nn.LSTM(n, HIDDEN, batch_first=True) for _ in SIZES)
        self.out = nn.ModuleList(nn.Linear(HIDDEN, m) for _ in SIZES)

    def forward(self, i: int, x_init: Tensor) -> Tensor:
        hidden, _ = self.memory[i](x_init.float().unsqueeze(1).expand(-1, HORIZON, -1))
        return self.limit * self.out[i](hidden).tanh()
