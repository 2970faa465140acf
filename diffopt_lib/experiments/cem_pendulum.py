"""A pendulum swung up by a planner that looks half a second ahead: what lies beyond is learned through the planner.

The pendulum has a torque of at most 2 N m, less than half of what would hold it horizontally, and has to swing. The
controller plans ten controls of 0.05 s with a small budget of the cross-entropy method, applies the first and starts
anew from the shifted plan:

    u_t = first entry of cem(U ↦ Σ_h ℓ(x_h, u_h) + V_φ(x_H)),      x_{t+1} = F(x_t, u_t)                         (1)

V_φ is a small network, the value of the state where planning ends. It is trained by what the closed loop pays,

    min_φ  mean over starts of  Σ_{t=1..60} ℓ(x_t, u_t(φ)),       differentiated through all sixty solves        (2)

at τ > 0. With hard elites the gradient of (2) is zero, and evolution strategies take its place: pairs of networks with
opposite noise on their weights, with as many episodes for an update as (2) has, and as many updates. Plans are not
differentiated with respect to the shifted plan that they start from.

Baselines that need no learning: no V; V a multiple of the stage cost, the multiple chosen from a grid on training
starts; V a multiple of the distance in energy to the upright state, which somebody who knows pendulums would take, its
multiple chosen likewise; no V and 25 times as many samples; and ``mpc``, which has the derivatives of the cost in u
that the planner does without: with the same ten controls and the stage cost's multiple, and with twenty and no V. All
are tested with hard elites on the same starts.

ℓ is the published cost of the pendulum of :mod:`diffopt_lib.controllers.dynamics`. The experiment is ours; the paper
tunes a planner for the cheetah and the walker.

Source: Amos & Yarats, The differentiable cross-entropy method, 2020, sect. 5.3, for the idea.
Chapter: book/2_differentiable/11_cem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.optim import Adam

from ..controllers.cem import cem
from ..controllers.dynamics import Pendulum
from ..controllers.mpc import mpc
from .cem_regression import Networks, clip, network, spread
from .harness.experiment import Experiment, Outcome, Run
from .harness.training import Batches, train

SEEDS, STARTS, TEST_STARTS = 3, 16, 64
STEPS, HORIZON, LIMIT = 60, 10, 2.0
SAMPLES, ELITES, ITERATIONS, STD, TAU = 20, 4, 2, 1.0, 0.1
WIDTHS, SCALE = (3, 16, 1), 10.0
UPDATES, LEARNING_RATE = 40, 3e-2
PAIRS, NOISE = STARTS // 2, 0.1
MULTIPLES = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

Terminal = Callable[[Tensor], Tensor]


def stage(x: Tensor, u: Tensor) -> Tensor:
    """ℓ(x, u): ½ (weights · (x − goal)² + 0.001 u²), ``(*batch,)``."""
    goal, weights = x.new_tensor([1.0, 0.0, 0.0]), x.new_tensor([1.0, 1.0, 0.1])
    return 0.5 * ((weights * (x - goal).square()).sum(-1) + 0.001 * u.square().sum(-1))


def pendulum(like: Tensor) -> Pendulum:
    """With g = 10 m/s², m = 1 kg, l = 1 m; nothing to learn."""
    return Pendulum(*(torch.tensor(v, dtype=like.dtype, device=like.device) for v in (10.0, 1.0, 1.0)))


def plan(
    x: Tensor, mean: Tensor, terminal: Terminal, generator: torch.Generator, tau: float = 0.0, effort: int = 1
) -> Tensor:
    """The controls ``(*batch, HORIZON)`` of (1) from states ``(*batch, 3)`` and the mean to start with.

    The number of samples, of elites and of iterations are multiplied by effort.
    """
    step = pendulum(x)

    def cost(U: Tensor) -> Tensor:
        total, state = torch.zeros_like(x[..., 0]), x
        for u in U.split(1, dim=-1):
            total, state = total + stage(state, u), step(state, u)
        return total + terminal(state)

    solution = cem(
        cost,
        mean,
        torch.full_like(mean, STD),
        samples=effort * SAMPLES,
        elites=effort * ELITES,
        iterations=effort * ITERATIONS,
        tau=tau,
        lower=-LIMIT,
        upper=LIMIT,
        generator=generator,
    )
    return solution.y


def episode(
    x: Tensor, terminal: Terminal, generator: torch.Generator, tau: float = 0.0, effort: int = 1
) -> tuple[Tensor, Tensor]:
    """The closed loop from x ``(*batch, 3)``: what is paid ``(*batch,)``, and all states ``(*batch, STEPS + 1, 3)``."""
    return closed_loop(x, HORIZON, lambda x, mean: plan(x, mean, terminal, generator, tau, effort))


def closed_loop(x: Tensor, horizon: int, planner: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The same with any planner, which makes controls ``(*batch, horizon)`` of a state and of a guess at them."""
    step, states, paid = pendulum(x), [x], torch.zeros_like(x[..., 0])
    guess = x.new_zeros(*x.shape[:-1], horizon)
    for _ in range(STEPS):
        U = planner(states[-1], guess)
        paid = paid + stage(states[-1], U[..., :1])
        states.append(step(states[-1], U[..., :1]))
        guess = torch.cat([U[..., 1:], torch.zeros_like(U[..., :1])], -1).detach()
    return paid, torch.stack(states, -2)


@torch.no_grad()
def predictive_episode(x: Tensor, terminal: Terminal, horizon: int) -> tuple[Tensor, Tensor]:
    """The closed loop of ``mpc`` with that many controls and V of the state after them."""
    x = x.double()

    def cost(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return torch.where(t < horizon, stage(x, u), terminal(x) + 0.0005 * u.square().sum(-1))

    def planner(x: Tensor, guess: Tensor) -> Tensor:
        u_init = torch.cat([guess, guess[..., :1] * 0], -1).unsqueeze(-1)  # the last state has a control too: zero
        solution = mpc(
            x,
            cost,
            pendulum(x),
            horizon + 1,
            u_lower=-LIMIT,
            u_upper=LIMIT,
            u_init=u_init,
            on_failure="return",
        )
        return solution.u[..., :-1, 0]

    return closed_loop(x, horizon, planner)


def starts(n: int, generator: torch.Generator) -> Tensor:
    """States with any angle and velocities up to 1/s, ``(n, 3)``."""
    angle, velocity = 2 * torch.rand(2, n, generator=generator) - 1
    return Pendulum.state(math.pi * angle, velocity)


# What may stand for V.


def value(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """V_φ(x), ``(*batch,)``."""
    return SCALE * network(weights, x * x.new_tensor([1.0, 1.0, 0.2]))


def distance(x: Tensor) -> Tensor:
    """The stage cost without the control's."""
    return stage(x, torch.zeros_like(x[..., :1]))


def energy_gap(x: Tensor) -> Tensor:
    """|energy − energy at rest, upright|, in units of 5 J for a rod of 1 kg whose moment of inertia is ⅓ kg m²."""
    return (x[..., 2].square() / 6 + 5 * (x[..., 0] - 1)).abs() / 5


# The experiment.


def run(run: Run) -> Outcome:
    """Train through the planner and by evolution strategies, tune what has a multiple, and test all."""
    losses: dict[str, Callable[..., Tensor]] = {"through the planner": planned, "evolution": evolved}
    models = {name: fit(run, name, loss) for name, loss in losses.items()}
    test = starts(TEST_STARTS, run.generator(7)).to(run.device)
    figures: dict[str, float | None] = {}
    weights: dict[str, Tensor] = {}
    for name, model in models.items():
        ends = [episode(test, partial(value, each), run.generator(8)) for each in networks(model)]
        paid, states = (torch.stack(part) for part in zip(*ends, strict=True))
        figures |= report(name, paid, states)
        weights |= {f"{name}.{key}": v for key, v in model.named_parameters()}

    nothing, tuned = scaled(distance, 0.0), {}
    for name, function in (("stage cost", distance), ("energy", energy_gap)):
        tuned[name] = tune(function, run)
        figures[f"multiple of the {name}"] = tuned[name]
        figures |= report(name, *episode(test, scaled(function, tuned[name]), run.generator(8)))
    figures |= report("no V", *episode(test, nothing, run.generator(8)))
    figures |= report("no V, 25 times the samples", *episode(test, nothing, run.generator(8), effort=5))
    figures |= report("mpc, stage cost", *predictive_episode(test, scaled(distance, tuned["stage cost"]), HORIZON))
    figures |= report("mpc, twice the horizon", *predictive_episode(test, nothing, 2 * HORIZON))
    return Outcome(figures, {"cem_pendulum": weights})


def fit(run: Run, name: str, loss: Callable[..., Tensor]) -> Networks:
    """Networks trained with one of the losses. They start from the same weights whatever it is."""
    model = Networks(WIDTHS, [run.generator(100 + seed) for seed in range(SEEDS)]).to(run.device)
    optimizer = Adam(model.parameters(), lr=LEARNING_RATE)
    optimizer.register_step_pre_hook(partial(_clip, model))
    train(run, name, model, optimizer, loss, batches(run), steps=UPDATES, share=0.5)
    return model


def networks(model: Networks) -> list[list[Tensor]]:
    """The weights of each."""
    return [[w[seed].detach() for w in model.weights] for seed in range(SEEDS)]


def _clip(model: Networks, *_: object) -> None:
    clip(model)


def scaled(function: Terminal, multiple: float) -> Terminal:
    """multiple · function."""
    return lambda x: multiple * function(x)


def tune(function: Terminal, run: Run) -> float:
    """The multiple with which training starts cost least."""
    x = starts(TEST_STARTS, run.generator(6)).to(run.device)
    paid = [episode(x, scaled(function, m), run.generator(9))[0].mean().item() for m in MULTIPLES]
    return MULTIPLES[min(range(len(paid)), key=paid.__getitem__)]


def batches(run: Run) -> Batches:
    """Starts ``(STARTS, SEEDS, 3)`` and a seed for the samples of an update."""

    def batch(update: int) -> tuple[Tensor, Tensor]:
        generator = run.generator(10_000 + update)
        x = starts(STARTS * SEEDS, generator).unflatten(0, (STARTS, SEEDS))
        return x.to(run.device), torch.randint(2**31, (STARTS, 1), generator=generator)

    return batch


def planned(model: nn.Module, x: Tensor, seeds: Tensor) -> Tensor:
    """Eq. (2), summed over the networks."""
    generator = torch.Generator().manual_seed(int(seeds[0, 0]))

    def paid(weights: Sequence[Tensor], x: Tensor) -> Tensor:
        return episode(x, partial(value, weights), generator, TAU)[0].mean()

    return model(paid, x.transpose(0, 1)).sum()


def evolved(model: Networks, x: Tensor, seeds: Tensor) -> Tensor:
    """A function of the weights whose gradient is the estimate (c⁺ − c⁻) / 2σ · noise, averaged over the pairs."""
    generator = torch.Generator().manual_seed(int(seeds[0, 0]))
    x = x[:PAIRS].transpose(0, 1)
    noise = [torch.randn(PAIRS, *w.shape, generator=generator).to(w) for w in model.weights]

    def paid(sign: float) -> Tensor:
        same = torch.Generator().manual_seed(int(seeds[1, 0]))
        each = [(w + sign * NOISE * e).transpose(0, 1).flatten(0, 1) for w, e in zip(model.weights, noise, strict=True)]
        costs = vmap(lambda w, x: episode(x, partial(value, w), same)[0], randomness="different")
        return costs(each, x.flatten(0, 1)).unflatten(0, (-1, PAIRS))

    with torch.no_grad():
        slope = (paid(1.0) - paid(-1.0)) / (2 * NOISE * PAIRS)
    terms = [(torch.einsum("sp,ps...->s...", slope, e) * w).sum() for w, e in zip(model.weights, noise, strict=True)]
    return torch.stack(terms).sum()


def report(what: str, paid: Tensor, states: Tensor) -> dict[str, float | None]:
    """The mean cost of an episode, and the share that ends upright; of several networks also the least and the most."""
    upright = (states[..., -1, 0] > 0.95).float().mean(-1)
    return spread(f"cost of an episode: {what}", paid.mean(-1)) | spread(f"upright at the end: {what}", upright)


EXPERIMENT = Experiment(
    name="cem_pendulum",
    claim="A value at the end of a short plan can be learned by differentiating the closed loop through the planner.",
    published={},
    source="Amos & Yarats 2020, sect. 5.3, for the idea",
    chapter="book/2_differentiable/11_cem",
    run=run,
)
