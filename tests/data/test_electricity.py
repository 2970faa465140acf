"""Electricity data are read as published, by day, and completed where hours are missing."""

from datetime import date, datetime

import numpy as np
import pytest
import torch

from diffopt_lib.data import homes, pjm, storage_market
from diffopt_lib.data.electricity import by_day, federal_holidays, fill


def test_the_region_s_days_are_those_that_the_paper_counts(real_data):
    early, late = pjm("2008-11"), pjm("2012-16")
    assert len(early.dates) == 1460 and len(late.dates) == 1734
    assert early.load.shape == early.temperature.shape == (1460, 24)
    assert torch.isfinite(late.load).all() and late.load.min() > 0
    assert early.dates[0] == date(2008, 1, 1) and early.load[0, 0] == pytest.approx(1.477345)
    summer = dict(zip(early.dates, early.summer_time.tolist(), strict=True))
    assert summer[date(2010, 7, 1)] and not summer[date(2010, 1, 1)]
    assert early.temperature[190].mean() > early.temperature[10].mean() + 20  # July, January


def test_the_market_s_prices(real_data):
    market = storage_market()
    assert market.price.shape == market.load_forecast.shape == market.temperature.shape
    assert market.price[0, 0] == 54.99 and market.dates[0] == date(2011, 1, 3)
    assert torch.isfinite(market.price).all()


def test_the_packaged_year_of_seventeen_homes():
    year = homes()
    assert year.load.shape == year.carbon.shape == (364, 24) and len(year.dates) == 364
    assert year.load.min() > 5 and year.load.max() < 60  # kWh in an hour: some 300 W to 3 kW a home
    assert year.carbon.min() > 0.05 and year.carbon.max() < 0.3  # kg/kWh, as in California
    assert year.load[:, 10].mean() > 1.5 * year.load[:, 4].mean()


def test_missing_hours_are_filled_backward_then_forward_and_double_ones_averaged():
    when = [datetime(2020, 1, 1, hour) for hour in (0, 1, 1, 4)]
    dates, (values,) = by_day(when, np.array([[1.0, 2.0, 4.0, 7.0]]))
    assert dates == [date(2020, 1, 1)] and np.isnan(values[0, 2])
    assert fill(values)[0].tolist() == [1, 3, 7, 7, 7] + 19 * [7]


def test_holidays_are_on_the_days_when_they_are_observed():
    assert {date(2010, 12, 24), date(2010, 7, 5), date(2010, 11, 25), date(2010, 5, 31)} <= federal_holidays(2010)
    assert len(federal_holidays(2010)) == 10 and date(2010, 12, 25) not in federal_holidays(2010)


def test_unknown_years_are_named():
    with pytest.raises(ValueError, match="years must be one of '2008-11', '2012-16'"):
        pjm("2020")
