"""Imitating a controller that is seen from outside: what its plans say about its cost and about the physics.

An expert swings up a pendulum, or a pole on a cart, by model-predictive control. A learner has 10, 50 or 100 of its
plans and minimizes the imitation loss

    mean (u − û)²,      û the controls that the learner plans from the same first state                   (1)

- ``mpc.dx`` plans with the expert's cost and physical parameters of its own, through which (1) is differentiated;
- ``mpc.cost`` plans with the true physics and a cost ½ Σ q_i τ_i² + p_i τ_i of its own, q = sigmoid(·), p = √q ∘ p̃;
- ``mpc.cost.dx`` learns both, in turns of 10 steps;
- ``sysid`` plans as ``mpc.dx`` does, but fits the parameters to the next states and never differentiates a plan;
- ``nn`` is a recurrent network from first states to plans.

All learners of a kind, for every number of plans and every seed, are one batch: their parameters have a batch
dimension. In the pendulum with friction the expert has what no learner's model can say, a damping and a tilt.

The published code damps by θ where it says θ̇; here it is θ̇. Chapter: book/2_differentiable/10_control.
Source: Amos et al., Differentiable MPC, 2018, §5.3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .harness.experiment import Experiment, Outcome, Run
from .harness.training import train
from .imitators import SEEDS, SIZES, SYSTEMS, Learners, Networks, Plans, System, record

TEST, BATCH = 10, 32
STEPS = 1_000  # an epoch has 1 to 3 of them; published: 10,000 epochs
LEARNING_RATE, SMOOTHING = 5e-2, 0.5  # of RMSprop; it falls to 0, as there are few steps; published: 1e-2 throughout
RESET, TURN = 50, 10  # steps after which warm starts are forgotten, and what is learned changes
LEARNING_RATE_NN, STEPS_NN = 1e-3, 1_000  # published: 1e-4
LEARNING_RATE_SYSID, STEPS_SYSID = 3e-2, 2000
KINDS = {
    "pendulum": ("mpc.dx", "mpc.cost", "mpc.cost.dx", "sysid", "nn"),
    "cart-pole": ("mpc.dx", "mpc.cost", "sysid", "nn"),
    "pendulum with friction": ("mpc.dx", "sysid", "nn"),
}


def batches(run: Run, plans: Plans) -> Callable[[int], tuple[Tensor, ...]]:
    """Of a step: learners, the number of the plan that each looks at, first states, controls, and the step itself.

    A learner that has more than a batch of plans sees some of them, in a new order after each time it has seen all.
    """
    seeds = len(plans.u)

    def batch(step: int) -> tuple[Tensor, ...]:
        learner, row = [], []
        for i in range(seeds * len(SIZES)):
            size = SIZES[i % len(SIZES)]
            width, turns = min(size, BATCH), max(1, size // BATCH)
            order = torch.randperm(size, generator=run.generator(1000 * (1 + step // turns) + i))
            row.append(order[step % turns * width :][:width])
            learner.append(torch.full((width,), i))
        who, which = torch.cat(learner).to(run.device), torch.cat(row).to(run.device)
        seed = who // len(SIZES)
        return who, which, plans.x_init[seed, which], plans.u[seed, which], torch.full_like(who, step)

    return batch


def imitation_loss(model: Learners, who: Tensor, which: Tensor, x_init: Tensor, u: Tensor, step: Tensor) -> Tensor:
    """The sum of (1) over the learners, so that each has its own gradient; plans that did not converge have none, but
    are where the next one begins."""
    now = int(step[0])
    if now % RESET == 0:
        model.warm.zero_()
    turn = model.learned[now // TURN % 2] if len(model.learned) == 2 else None
    solution = model(who, x_init, model.warm[who, which], turn)
    good = solution.converged
    model.warm[who, which] = torch.where(solution.u.isfinite(), solution.u, 0).detach()
    errors = (solution.u[good] - u[good]).square().mean((-2, -1))
    count = torch.bincount(who, minlength=len(model.warm))
    return (errors / count[who[good]]).sum()


def next_state_errors(model: Learners, x: Tensor, u: Tensor) -> Tensor:
    """Mean squares of what every learner expects next less what comes, on plans ``(learners, N, T, ·)``."""
    dynamics = model.system.make(**{k: v[:, None, None] + 0.0 for k, v in model.physics.items()})
    return (dynamics(x[:, :, :-1], u[:, :, :-1]) - x[:, :, 1:]).square().mean((-2, -1))


def next_state_loss(model: Learners, share: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """The sum over the learners of the errors on their plans, of each of which ``share`` counts."""
    return (share * next_state_errors(model, x, u)).sum()


def network_loss(model: Networks, who: Tensor, which: Tensor, x_init: Tensor, u: Tensor, step: Tensor) -> Tensor:
    losses = [(model(i, x_init[who == i]) - u[who == i]).square().mean() for i in range(len(SIZES))]
    return torch.stack(losses).sum()


# The experiment.


def run(run: Run) -> Outcome:
    """Train all kinds of learners on all systems, and measure (1) from ten other states."""
    figures: dict[str, float | None] = {"seeds": float(SEEDS), "steps": float(STEPS)}
    figures |= {f"epochs, {size} plans": float(STEPS // max(1, size // BATCH)) for size in SIZES}
    for name, kinds in KINDS.items():
        system = SYSTEMS[name]
        known, test = record(run, system, max(SIZES), 0), record(run, system, TEST, 100)
        for kind in kinds:
            if kind == "nn":
                found, errors = fit_networks(run, name, system, known, test), None
            else:
                found, errors = fit_planners(run, name, kind, system, known, test)
            for i, size in enumerate(SIZES):
                figures[f"{name}, {size} plans, imitation loss: {kind}"] = found[:, i].median().item()
                if errors is not None:
                    figures[f"{name}, {size} plans, error of next states: {kind}"] = errors[:, i].median().item()
    return Outcome(figures)


def fit_planners(
    run: Run, name: str, kind: str, system: System, known: Plans, test: Plans
) -> tuple[Tensor, Tensor | None]:
    """The imitation loss of every learner on the test plans, and the mean squared error of the next states there if it
    learned the physics (of which plans tell g / l and m l² only, for a pendulum), ``(seeds, sizes)`` each."""
    learned = {"mpc.cost": ("cost",), "mpc.cost.dx": ("cost", "dx")}.get(kind, ("dx",))
    model = Learners(system, learned, known).to(run.device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if kind == "sysid":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE_SYSID)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS_SYSID)
        mask = torch.stack([(torch.arange(max(SIZES)) < size) / size for size in SIZES]).to(known.u)
        x, u = (v.repeat_interleave(len(SIZES), 0) for v in (known.x, known.u))
        everything = (mask.repeat(len(known.u), 1), x, u)
        train(run, f"{name}, {kind}", model, optimizer, next_state_loss, lambda _: everything, steps=STEPS_SYSID,
              schedule=schedule, share=0.02)  # fmt: skip
    else:
        optimizer = torch.optim.RMSprop(parameters, lr=LEARNING_RATE, alpha=SMOOTHING)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        train(run, f"{name}, {kind}", model, optimizer, imitation_loss, batches(run, known), steps=STEPS,
              schedule=schedule, share=0.15)  # fmt: skip
    losses = evaluate(lambda who, x_init: model(who, x_init).u, test)
    if "dx" not in learned:
        return losses, None
    with torch.no_grad():
        x, u = (v.repeat_interleave(len(SIZES), 0) for v in (test.x, test.u))
        return losses, next_state_errors(model, x, u).mean(1).reshape(losses.shape)


@torch.no_grad()
def evaluate(controls: Callable[[Tensor, Tensor], Tensor], test: Plans) -> Tensor:
    """(1) of every learner on the plans of its seed, ``(seeds, sizes)``."""
    seeds, count = test.u.shape[:2]
    who = torch.arange(seeds * len(SIZES), device=test.u.device).repeat_interleave(count)
    x_init, u = (v.repeat_interleave(len(SIZES), 0).flatten(0, 1) for v in (test.x_init, test.u))
    errors = (controls(who, x_init) - u).square().mean((-2, -1))
    return errors.reshape(seeds, len(SIZES), count).mean(-1)


def fit_networks(run: Run, name: str, system: System, known: Plans, test: Plans) -> Tensor:
    """The networks' imitation losses, ``(1, sizes)``."""
    known, test = (Plans(*(v[:1] for v in part)) for part in (known, test))
    with run.seeded():
        model = Networks(known.x.shape[-1], known.u.shape[-1], system.limit).to(run.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE_NN)
    train(run, f"{name}, nn", model, optimizer, network_loss, batches(run, known), steps=STEPS_NN, share=0.05)

    def controls(who: Tensor, x_init: Tensor) -> Tensor:
        return torch.cat([model(i, x_init[who == i]) for i in range(len(SIZES))]).to(x_init)

    return evaluate(controls, test)


def published() -> dict[str, float]:
    """Of the kinds that are run here, read off a figure with a logarithmic axis, after 10,000 epochs."""
    losses = {
        "pendulum": {
            "nn": (0.4, 0.08, 0.027),
            "sysid": (1.5e-4, 2e-5, 2.3e-6),
            "mpc.dx": (5.0, 4.5e-7, 3e-8),
            "mpc.cost": (4e-3, 1.2e-5, 2.6e-5),
        },
        "cart-pole": {
            "nn": (45.0, 21.0, 9.8),
            "sysid": (0.016, 3.2e-3, 8e-4),
            "mpc.dx": (0.022, 0.088, 1.6e-4),
            "mpc.cost": (20.0, 0.32, 9e-4),
        },
    }
    return {
        f"{name}, {size} plans, imitation loss: {kind}": value
        for name, kinds in losses.items()
        for kind, values in kinds.items()
        if kind in KINDS[name]
        for size, value in zip(SIZES, values, strict=True)
    }


EXPERIMENT = Experiment(
    name="imitation",
    claim="A controller that is differentiated learns an expert's cost and physics from its plans alone, and from "
    "fewer plans than a network.",
    published=published(),
    source="Amos et al. 2018, figures 4 and 5, read off; 10,000 epochs",
    chapter="book/2_differentiable/10_control",
    run=run,
)
