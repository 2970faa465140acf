"""Hourly electricity data: a region's load and temperature, a market's prices, and the load of seventeen homes.

The first two are the data of task-based learning, read from the files that its authors publish (Apache-2.0), which are
looked for as :func:`.files.content` says. The third is small and comes with the library.

Sources: Donti, Amos & Kolter 2017, whose files come from PJM Interconnection; Nweye et al., CityLearn 2022 (MIT): homes
of the Sierra Crest community in Fontana, California, August 2016 to July 2017, and the carbon intensity of the grid
that they are on, in its package's data.
Chapter: book/2_differentiable/12_task_losses.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files as packaged
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import torch
from torch import Tensor

from .files import content

AUTHORS = "https://raw.githubusercontent.com/locuslab/e2e-model-learning/master/"
PJM = {
    "2008-11": "8dc80051563e406fa077064155d0dcef32f335165381b8aebf3f43cebfb9470b",
    "2012-16": "f83c74db6685dd16c2db1b868907562fd4da74e8cac51e1ea24aead725542989",
}
PRICES = "fa36a0c858ca049c3b1f0accec296810687695151807f45098c9ebee6b5d8dcf"
HOURS = 24


class Load(NamedTuple):
    """Days of load and temperature ``(days, 24)``, float64, with their dates in New York."""

    dates: list[date]
    load: Tensor
    temperature: Tensor  # °F
    summer_time: Tensor  # at noon, ``(days,)`` bool


class Market(NamedTuple):
    """Days of prices ($/MWh), load forecasts (MW) and temperatures (°F), ``(days, 24)``, float64."""

    dates: list[date]
    price: Tensor
    load_forecast: Tensor
    temperature: Tensor


class Homes(NamedTuple):
    """52 weeks: the load of seventeen homes together, kWh in each hour, and what a kWh from the grid emits, kg of
    CO₂; ``(364, 24)``, float64."""

    dates: list[date]
    load: Tensor
    carbon: Tensor


def pjm(years: Literal["2008-11", "2012-16"]) -> Load:
    """Load, scaled, and temperature in the region of PJM.

    Days are those of New York. An hour that is missing, as one is when summer time begins, has the value of the next
    hour of the day, or else of the one before; one that occurs twice has the mean.

    Raises:
        ValueError, FileNotFoundError: as :func:`.files.content`, and if there are no such years.
    """
    if years not in PJM:
        raise ValueError(f"years must be one of {', '.join(map(repr, PJM))}, got {years!r}")
    name = f"pjm_load_data_{years}.txt"
    text = content("pjm", f"{name}.gz", f"{AUTHORS}power_sched/{name}", PJM[years], "task-based learning")
    rows = np.loadtxt(io.BytesIO(text))
    place = ZoneInfo("America/New_York")
    when = [datetime.fromtimestamp(seconds, place) for seconds in rows[:, 0]]
    dates, (load, temperature) = by_day(when, rows[:, 1:].T)
    noons = [datetime(d.year, d.month, d.day, 12, tzinfo=place) for d in dates]
    summer = torch.tensor([noon.dst() != timedelta(0) for noon in noons])
    return Load(dates, fill(load), fill(temperature), summer)


def storage_market() -> Market:
    """Day-ahead prices of 2011 to 2016, with the load forecast and the temperature in Washington.

    Raises:
        ValueError, FileNotFoundError: as :func:`.files.content`.
    """
    name = "storage_data.csv"
    text = content("storage", f"{name}.gz", f"{AUTHORS}battery_storage/{name}", PRICES, "task-based learning")
    rows = list(csv.reader(io.StringIO(text.decode())))[1:]
    when = [datetime.fromisoformat(row[0]).replace(tzinfo=UTC) for row in rows]
    dates, values = by_day(when, np.array([[float(v or "nan") for v in row[1:]] for row in rows]).T)
    return Market(dates, *map(fill, values))


def homes() -> Homes:
    """The packaged 52 weeks, from 1 August 2016, a Monday, to 30 July 2017."""
    with packaged(__package__).joinpath("homes.npz").open("rb") as file, np.load(file) as stored:
        load, carbon = (torch.from_numpy(stored[key].astype(np.float64)) for key in ("load", "carbon"))
    return Homes([date(2016, 8, 1) + timedelta(k) for k in range(len(load))], load / 100, carbon / 10_000)


def by_day(when: Iterable[datetime], columns: np.ndarray) -> tuple[list[date], list[np.ndarray]]:
    """Columns of hourly values as ``(days, 24)``: the mean of those of the same hour, NaN where there is none."""
    moments = list(when)
    dates = sorted({moment.date() for moment in moments})
    row = {d: k for k, d in enumerate(dates)}
    cell = np.array([HOURS * row[moment.date()] + moment.hour for moment in moments])
    size = HOURS * len(dates)

    def spread(column: np.ndarray) -> np.ndarray:
        known = ~np.isnan(column)
        count = np.bincount(cell[known], minlength=size).astype(float)
        count[count == 0] = np.nan
        return (np.bincount(cell[known], column[known], minlength=size) / count).reshape(-1, HOURS)

    return dates, [spread(column) for column in columns]


def fill(values: np.ndarray) -> Tensor:
    """Each missing hour by the next of the day that is known, and those at its end by the one before."""
    known = ~np.isnan(values)
    hours = np.arange(HOURS)
    following = np.where(known, hours, HOURS)
    following = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1]
    before = np.maximum.accumulate(np.where(known, hours, 0), axis=1)
    source = np.where(following < HOURS, following, before)
    return torch.from_numpy(np.take_along_axis(values, source, axis=1))


def federal_holidays(year: int) -> set[date]:
    """The federal holidays of the United States, on the days when they are observed."""

    def nth(month: int, weekday: int, n: int) -> date:
        first = date(year, month, 1)
        return first + timedelta((weekday - first.weekday()) % 7 + 7 * (n - 1))

    may = date(year, 5, 31)
    fixed = [date(year, 1, 1), date(year, 7, 4), date(year, 11, 11), date(year, 12, 25)]
    fixed += [date(year, 6, 19)] if year >= 2021 else []
    shift = {5: timedelta(-1), 6: timedelta(1)}  # Saturday, Sunday
    moving = [nth(1, 0, 3), nth(2, 0, 3), may - timedelta(may.weekday()), nth(9, 0, 1), nth(10, 0, 2), nth(11, 3, 4)]
    return {d + shift.get(d.weekday(), timedelta(0)) for d in fixed} | set(moving)
