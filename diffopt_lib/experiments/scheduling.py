"""A generator's schedule from a load forecast: what the forecast is trained for, and what the schedules then cost.

3,192 pairs of days of PJM load and temperature, the first 2,553 for training, the last 639 for the test. Five
forecasts, each of μ, with σ per hour from residuals on the training days, whose schedules :func:`.scheduling.decide`
makes:

* squared error, 1,000 full-batch steps;
* weighted squared error, five rounds of 40 epochs (ten of 100 there), where an hour weighs what it cost after the last;
* task loss, from the first one's weights, through the schedule, until a random fifth of the training days is no better;
* the first one again with σ from the held-out fifth, which costs nothing and which the paper does not have;
* and squared error with that σ whose training stops when the held-out fifth is no better, likewise.

And one network without a schedule inside, which predicts the outputs themselves and is trained on their cost; where
they break the ramp limit the nearest outputs that do not are taken.

The paper's ramp limit is .4. It is active in one hour of ten thousand, so there the problem is nearly a quantile for
each hour by itself; the limit .1 is run too. Ten runs, as in the paper. All networks here are
trained on the four fifths, so that nobody has seen the hold-out; the paper's first two see all.

The paper's solver is in :mod:`.sqp`.

Source: Donti, Amos & Kolter 2017, §4.2. Chapter: book/2_differentiable/12_task_losses.
"""

from __future__ import annotations

import copy
import math
from datetime import date
from functools import partial

import torch
from torch import Tensor, nn

from ..data.electricity import Load, federal_holidays, pjm
from ..tasks import scheduling
from .forecasting import Forecaster, Split, descend, descend_until, hold_out, spread, squared_error
from .harness.experiment import Experiment, Outcome, Run
from .sqp import solver_figures

TRAIN = 2553
RAMPS = (0.4, 0.1)
RUNS = 10
STEPS, RATE = 1000, 1e-3
ROUNDS, EPOCHS, BATCH = 5, 40, 100
TASK_STEPS, TASK_RATE, PATIENCE = 1000, 1e-4, 20
HELD_OUT = 0.2


# The data.


def features(days: Load) -> Split:
    """What is known of each next day on the day before, 149 numbers, and its load."""
    t = days.temperature
    known = [days.load, t, t.square()]
    following = [t, t.square(), t.pow(3)]
    holidays = {h for year in range(2007, 2018) for h in federal_holidays(year)}
    calendar = torch.tensor([_calendar(d, holidays) for d in days.dates], dtype=torch.float64)
    columns = [v[:-1] for v in known] + [v[1:] for v in following]
    columns += [calendar[1:], days.summer_time[1:, None].double()]
    return Split(torch.cat(columns, 1), days.load[1:])


def _calendar(d: date, holidays: set[date]) -> tuple[float, ...]:
    """Weekend, holiday, and the season as a point of a circle."""
    angle = 2 * math.pi * d.timetuple().tm_yday / 365
    return float(d.weekday() >= 5), float(d in holidays), math.cos(angle), math.sin(angle)


def load_data() -> tuple[Split, Split]:
    """Training and test days, in float32."""
    parts = [features(pjm("2008-11")), features(pjm("2012-16"))]
    every = Split(torch.cat([p.x for p in parts]).float(), torch.cat([p.y for p in parts]).float())
    return every[slice(0, TRAIN)], every[slice(TRAIN, None)]


# The losses.


def task_loss(std: Tensor, ramp: float, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """What the schedules for a model's forecasts cost, the mean over the days."""
    return scheduling.loss(scheduling.decide(model(x), std, ramp=ramp), y).mean()


def policy_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The same for a model that predicts outputs."""
    return scheduling.loss(model(x), y).mean()


def project(outputs: Tensor, ramp: float) -> Tensor:
    """The nearest outputs within the ramp limit: the schedule where only the squares cost anything."""
    return scheduling.decide(outputs, torch.ones_like(outputs), ramp=ramp, under=0.0, over=0.0)


@torch.no_grad()
def residual_std(model: nn.Module, data: Split) -> Tensor:
    """σ of every hour, ``(24,)``."""
    model.eval()
    return (model(data.x) - data.y).square().mean(0).sqrt()


@torch.no_grad()
def cost(model: nn.Module, std: Tensor | None, ramp: float, test: Split) -> float:
    """Per day. Without σ the model predicts outputs."""
    model.eval()
    if std is not None:
        return task_loss(std, ramp, model, test.x, test.y).item()
    return scheduling.loss(project(model(test.x), ramp), test.y).mean().item()


# The trainings.


def fit_squared(data: Split) -> Forecaster:
    model = Forecaster(data)
    descend(model, data, squared_error, steps=STEPS, rate=RATE)
    return model


def fit_in_time(data: Split, held_out: Split) -> Forecaster:
    """Squared error, as long as it falls on the hold-out."""
    model = Forecaster(data)
    descend_until(model, data, held_out, squared_error, steps=STEPS, rate=RATE, patience=5 * PATIENCE)
    return model


def fit_weighted(data: Split, ramp: float, generator: torch.Generator) -> Forecaster:
    """Rounds of squared errors in which an hour weighs what it cost last, 1 on average."""
    model = Forecaster(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    weights = torch.ones_like(data.y)
    for _ in range(ROUNDS):
        model.train()
        for _ in range(EPOCHS):
            order = torch.randperm(len(data.x), generator=generator)
            for rows in order.split(BATCH)[: len(order) // BATCH]:
                value = (weights[rows] * (model(data.x[rows]) - data.y[rows]).square()).mean()
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
        weights = hourly_cost(model, ramp, data)
        weights = weights / weights.mean()
    return model


@torch.no_grad()
def hourly_cost(model: nn.Module, ramp: float, data: Split) -> Tensor:
    """``(days, 24)``."""
    std = residual_std(model, data)
    z = scheduling.decide(model(data.x), std, ramp=ramp)
    return scheduling.loss(z.unsqueeze(-1), data.y.unsqueeze(-1))


def fit_task(start: Forecaster, data: Split, held_out: Split, ramp: float) -> tuple[Forecaster, Tensor, int]:
    """With the σ of the start."""
    model, std = copy.deepcopy(start), residual_std(start, data)
    loss = partial(task_loss, std, ramp)
    steps = descend_until(model, data, held_out, loss, steps=TASK_STEPS, rate=TASK_RATE, patience=PATIENCE)
    return model, std, steps


def fit_policy(start: Forecaster, data: Split, held_out: Split) -> Forecaster:
    """From the forecast, moved up to where its hours are the quantile; as long as the hold-out gets better."""
    model = copy.deepcopy(start)
    with torch.no_grad():
        model.linear.bias.add_(scheduling.decide(torch.zeros(24), residual_std(start, data), ramp=1e20))
    descend_until(model, data, held_out, policy_loss, steps=TASK_STEPS, rate=TASK_RATE, patience=PATIENCE)
    return model


# The experiment.


def run(run: Run) -> Outcome:
    known, test = load_data()
    found: dict[str, list[float]] = {}

    def note(ramp: float, method: str, value: float) -> None:
        found.setdefault(f"limit {ramp}, cost per day: {method}", []).append(value)

    for k in range(RUNS):
        data, held_out = hold_out(known, HELD_OUT, run.generator(k))
        with run.seeded(k):
            squared = fit_squared(data)
            std, honest = residual_std(squared, data), residual_std(squared, held_out)
            policy = fit_policy(squared, data, held_out)
            stopped = fit_in_time(data, held_out)
            its_std = residual_std(stopped, held_out)
            for ramp in RAMPS:
                weighted = fit_weighted(data, ramp, run.generator(100 + k))
                task, task_std, steps = fit_task(squared, data, held_out, ramp)
                note(ramp, "squared error", cost(squared, std, ramp, test))
                note(ramp, "squared error, held-out σ", cost(squared, honest, ramp, test))
                note(ramp, "stopped in time, held-out σ", cost(stopped, its_std, ramp, test))
                note(ramp, "weighted", cost(weighted, residual_std(weighted, data), ramp, test))
                note(ramp, "task loss", cost(task, task_std, ramp, test))
                note(ramp, "outputs directly", cost(policy, None, ramp, test))
                found.setdefault(f"limit {ramp}: steps of the task loss", []).append(steps)
                for name, model in (("squared error", squared), ("task loss", task)):
                    rmse = residual_std(model, test).square().mean().sqrt().item()
                    found.setdefault(f"limit {ramp}, RMSE: {name}", []).append(rmse)
        print(f"run {k + 1} of {RUNS}:", {key: round(values[-1], 3) for key, values in found.items()}, flush=True)
    return Outcome(figures(found) | solver_figures())


def figures(found: dict[str, list[float]]) -> dict[str, float | None]:
    """Means and deviations, and the change by the task loss in per cent, run by run."""
    result: dict[str, float | None] = {}
    for what, values in found.items():
        result |= spread(what, torch.tensor(values))
    for ramp in RAMPS:
        cost = {m: torch.tensor(found[f"limit {ramp}, cost per day: {m}"]) for m in BASELINES + ("task loss",)}
        for baseline in BASELINES:
            change = 100 * (cost["task loss"] / cost[baseline] - 1)
            result |= spread(f"limit {ramp}, task loss against {baseline}, %", change)
    return result


BASELINES = (
    "squared error",
    "squared error, held-out σ",
    "stopped in time, held-out σ",
    "weighted",
    "outputs directly",
)

EXPERIMENT = Experiment(
    name="scheduling",
    claim="A load forecast trained on what its schedules cost makes cheaper schedules than one trained on squared "
    "error, also where errors are weighted by cost.",
    published={
        "limit 0.4, task loss against squared error, %": -38.6,
        "limit 0.4, task loss against weighted, %": -8.6,
    },
    source=f"Donti, Amos & Kolter 2017, §4.2, ten runs (ours: {RUNS})",
    chapter="book/2_differentiable/12_task_losses",
    run=run,
)
