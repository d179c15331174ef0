"""The generated market: valid, with every case, and the same for any part of it."""

from datetime import date

import numpy as np
import pyarrow.compute as pc
import pytest

from qdag.core.sessions import calendar_for
from qdag.errors import UnknownNameError
from qdag.settings import SyntheticSource, UniverseSettings
from qdag.sources import open_source


def spec(count=130, planted=0.0, end=date(2013, 12, 31), **more):
    source = SyntheticSource(instruments=count, planted_ic=planted, seed=3)
    return UniverseSettings(source=source, calendar="XNYS", start=date(2010, 1, 4), end=end, **more)


def deliver(settings, start=None, end=None):
    return open_source("u", settings).deliver(calendar_for(settings).all, start or settings.start, end or settings.end)


def matrix(bars, name):
    days, at = np.unique(bars["date"].to_numpy(), return_inverse=True)
    names, who = np.unique(bars["instrument"].to_numpy().astype(str), return_inverse=True)
    values = np.full((len(names), len(days)), np.nan)
    values[who, at] = bars[name].to_numpy()
    return values


def test_synthetic_part_and_shorter_history_equal_the_slice():
    whole = deliver(spec()).bars
    start, end = date(2011, 3, 1), date(2011, 6, 30)
    inside = pc.and_(pc.greater_equal(whole["date"], start), pc.less_equal(whole["date"], end))
    assert deliver(spec(), start, end).bars.equals(whole.filter(inside))
    short = deliver(spec(end=end)).bars
    assert short.equals(whole.filter(pc.less_equal(whole["date"], end)))
    few = deliver(spec(count=70)).bars
    assert few.equals(whole.filter(pc.is_in(whole["instrument"], pc.unique(few["instrument"]))))


def test_synthetic_market_is_valid_and_has_every_case():
    bars = deliver(spec())
    table = bars.bars
    value = {
        name: table[name].to_numpy() for name in ("open", "high", "low", "close", "volume", "vwap", "factor", "split")
    }
    tiny = 1 + 1e-9
    assert (value["high"] * tiny >= np.maximum(value["open"], value["close"])).all()
    assert (value["low"] <= np.minimum(value["open"], value["close"]) * tiny).all()
    traded = value["volume"] > 0
    assert ((value["vwap"] <= value["high"] * tiny) & (value["vwap"] * tiny >= value["low"]))[traded].all()
    assert (value["split"] == 2).any()
    assert (~traded).any()
    close = matrix(table, "close")
    first = (~np.isnan(close)).argmax(axis=1)
    assert (first > 10).any()
    assert np.isnan(close[0, first[0] :]).any()
    assert (close[:, 1:] == close[:, :-1]).any()
    factor = matrix(table, "factor")
    assert (factor[np.arange(len(factor)), first] == 1).all()


@pytest.mark.parametrize("planted", [0.0, 0.1])
def test_planted_ic(planted):
    bars = deliver(spec(count=400, planted=planted)).bars
    opened, close = (matrix(bars, name) * matrix(bars, "factor") for name in ("open", "close"))
    gap = opened[:, 1:-2] / close[:, :-3] - 1
    forward = close[:, 3:] / close[:, 2:-1] - 1
    ics = []
    for x, y in zip(gap.T, forward.T, strict=True):
        both = np.isfinite(x) & np.isfinite(y)
        ics.append(np.corrcoef(x[both], y[both])[0, 1])
    error = np.std(ics) / np.sqrt(len(ics))
    assert abs(np.mean(ics) - planted) < 4 * error
    assert error < 0.005


def test_restricting_to_an_unknown_instrument():
    with pytest.raises(UnknownNameError, match="SYN00131"):
        deliver(spec(instruments=("SYN00131",)))
    assert pc.unique(deliver(spec(instruments=("SYN00100",))).bars["instrument"]).to_pylist() == ["SYN00100"]
