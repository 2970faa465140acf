"""A battery's plan from a price forecast: what the forecast is trained for, and what the plans then cost.

Days of PJM's day-ahead prices, 2011 to 2016, without those that have a price above 500 or none above 0, and the day
before each: its prices, both days' load forecasts and temperatures, and the calendar. The first four fifths are for
training, a fifth of them held out to choose when to stop. Forecasts are of log prices, and a plan is made for prices:

* squared error in the logarithm, and its exponential as the price;
* the same with the price's mean under that error, exp(μ + σ²/2), which costs nothing and which the paper does not have;
* task loss, from the first one's weights, through :func:`.storage.decide`;
* SPO+, likewise, which does not differentiate a plan;
* the prices themselves, which nobody has.

Four weights of flexibility and health, as in the paper, whose level after the last hour is free; ours is not, so the
costs differ. The paper's code has more differences: see the chapter. Ten runs there, ``RUNS`` here.

Source: Donti, Amos & Kolter 2017, §4.3. Chapter: book/2_differentiable/12_task_losses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from datetime import date
from functools import partial

import torch
from torch import Tensor, nn

from ..data.electricity import federal_holidays, storage_market
from ..tasks import storage, surrogates
from .forecasting import Forecaster, Split, descend, descend_until, hold_out, spread, squared_error
from .harness.experiment import Experiment, Outcome, Run

SETTINGS = ((0.1, 0.05), (1.0, 0.5), (10.0, 5.0), (35.0, 15.0))
RUNS = 3
STEPS, RATE = 1000, 1e-3
TASK_EPOCHS, TASK_RATE, PATIENCE, BATCH = 10, 2e-4, 4, 280
HELD_OUT = 0.2
DEAREST = 500.0


def load_data() -> tuple[Split, Split]:
    """Features of each next day and its log prices: four fifths for training, and the rest, in time's order."""
    market = storage_market()
    price, load, t = market.price, market.load_forecast / 1e5, market.temperature / 50
    kept = ((price <= DEAREST) & (price > 0)).all(1)
    pairs = (kept[:-1] & kept[1:]).nonzero().squeeze(1)
    log_price = price.clamp_min(1e-3).log()
    known = [log_price[:-1], load[:-1], load[1:], t[:-1], t[1:], t[1:].square(), t[1:].pow(3)]
    holidays = {h for year in range(2010, 2018) for h in federal_holidays(year)}
    calendar = torch.tensor([_calendar(d, holidays) for d in market.dates[1:]], dtype=torch.float64)
    every = Split(torch.cat([*known, calendar], 1)[pairs].float(), log_price[1:][pairs].float())
    cut = round(0.8 * len(pairs))
    return every[slice(0, cut)], every[slice(cut, None)]


def _calendar(d: date, holidays: set[date]) -> tuple[float, ...]:
    angle = 2 * math.pi * d.timetuple().tm_yday / 365
    return float(d.weekday() >= 5), float(d in holidays), math.cos(angle), math.sin(angle)


def plan_cost(prices: Tensor, y: Tensor, weights: tuple[float, float]) -> Tensor:
    """What plans for these prices cost at those that came, log prices y, ``(days,)``."""
    flexibility, health = weights
    plan = storage.decide(prices, flexibility=flexibility, health=health)
    return storage.loss(plan, y.exp(), flexibility=flexibility, health=health)


def task_loss(weights: tuple[float, float], model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return plan_cost(model(x).exp(), y, weights).mean()


def spo_loss(weights: tuple[float, float], model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    flexibility, health = weights
    decide = partial(storage.decide, flexibility=flexibility, health=health)
    cost = partial(storage.loss, flexibility=flexibility, health=health)
    return surrogates.spo_plus(decide, cost, model(x).exp(), y.exp()).mean()


LOSSES: dict[str, Callable[..., Tensor]] = {"task loss": task_loss, "SPO+": spo_loss}


def run(run: Run) -> Outcome:
    known, test = load_data()
    found: dict[str, list[float]] = {}
    for k in range(RUNS):
        data, held_out = hold_out(known, HELD_OUT, run.generator(k))
        with run.seeded(k):
            squared = Forecaster(data)
            descend(squared, data, squared_error, steps=STEPS, rate=RATE)
            squared.eval()
            with torch.no_grad():
                variance = (squared(held_out.x) - held_out.y).square().mean(0)
                forecast = squared(test.x)
            for weights in SETTINGS:
                title = f"λ = {weights[0]:g}, ε = {weights[1]:g}, cost per day"
                plans = {"squared error": forecast.exp(), "its mean price": (forecast + variance / 2).exp()}
                plans["the prices themselves"] = test.y.exp()
                for name, loss in LOSSES.items():
                    model = copy.deepcopy(squared)
                    descend_until(
                        model,
                        data,
                        held_out,
                        partial(loss, weights),
                        steps=TASK_EPOCHS,
                        rate=TASK_RATE,
                        patience=PATIENCE,
                        batch_size=BATCH,
                        generator=run.generator(100 + k),
                    )
                    model.eval()
                    with torch.no_grad():
                        plans[name] = model(test.x).exp()
                for name, prices in plans.items():
                    cost = plan_cost(prices, test.y, weights).mean().item()
                    found.setdefault(f"{title}: {name}", []).append(cost)
        print(f"run {k + 1} of {RUNS}:", {key: round(values[-1], 2) for key, values in found.items()}, flush=True)
    return Outcome(figures(found))


def figures(found: dict[str, list[float]]) -> dict[str, float | None]:
    """Means and deviations, and the regret that the task loss takes away, in per cent, run by run."""
    result: dict[str, float | None] = {}
    for what, values in found.items():
        result |= spread(what, torch.tensor(values))
    for weights in SETTINGS:
        title = f"λ = {weights[0]:g}, ε = {weights[1]:g}"
        cost = {name: torch.tensor(found[f"{title}, cost per day: {name}"]) for name in METHODS}
        least = cost["the prices themselves"]
        for name in ("its mean price", "task loss", "SPO+"):
            change = 100 * ((cost[name] - least) / (cost["squared error"] - least) - 1)
            result |= spread(f"{title}, regret against squared error, %: {name}", change)
    return result


METHODS = ("squared error", "its mean price", "task loss", "SPO+", "the prices themselves")

EXPERIMENT = Experiment(
    name="storage",
    claim="A price forecast trained on what a battery's plans cost makes cheaper plans than one trained on squared "
    "error.",
    published={},
    source=f"Donti, Amos & Kolter 2017, §4.3, table 1, ten runs (ours: {RUNS})",
    chapter="book/2_differentiable/12_task_losses",
    run=run,
)
