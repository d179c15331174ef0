"""Indicators against hand-computed cases and slow references; definition of the bounded past; no look-ahead."""

import csv
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.engine.panel import Panel
from qdag.errors import PanelError, UnknownNameError
from qdag.features import indicators
from qdag.features.indicators import (
    BARS,
    COUNTED,
    FIELDS,
    WARMUP,
    history_start,
    reach_back,
)
from qdag.features.sets.technical_indicators import SET

FEATURES = SET.features
NAMES = [f.name for f in FEATURES]
compute_indicators = partial(indicators.compute_indicators, names=NAMES)
REAL = Path(__file__).parents[2].parent / "shared" / "market" / "us_daily"


def market(instruments: int, sessions: int, seed: int = 0, suspended: float = 0.0, late: bool = False) -> Panel:
    """A random market on weekdays from 2015-01-01, with suspensions and, if asked, listings inside."""
    rng = np.random.default_rng(seed)
    shape = (instruments, sessions)
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, shape), axis=1))
    high, low = close * (1 + 0.02 * rng.random(shape)), close * (1 - 0.02 * rng.random(shape))
    fields = {
        "high": high,
        "low": low,
        "close": close,
        "volume": rng.lognormal(12, 1, shape),
        "vwap": (high + low + close) / 3,
    }
    gone = rng.random(shape) < suspended
    if late:
        gone |= np.arange(sessions) < rng.integers(0, sessions // 2, instruments)[:, None]
    days = np.busday_offset("2015-01-01", np.arange(sessions))
    return Panel(
        [f"I{i}" for i in range(instruments)],
        days,
        {name: np.where(gone, np.nan, values).astype(np.float32) for name, values in fields.items()},
    )


def series(high, low, close, volume, vwap=None) -> dict[str, np.ndarray]:
    """Indicators of one instrument given as lists, one row per weekday from 2020-01-01."""
    given = dict(zip(FIELDS, (high, low, close, volume, close if vwap is None else vwap), strict=True))
    days = np.busday_offset("2020-01-01", np.arange(len(close)))
    panel = Panel(["I"], days, {name: np.array([values], np.float64) for name, values in given.items()})
    return {name: values[0] for name, values in compute_indicators(panel, threads=1).items()}


def flat(close, volume=1000.0) -> dict[str, np.ndarray]:
    return series(close, close, close, [volume] * len(close))


def random_rows(n: int, seed: int = 3) -> list[np.ndarray]:
    """high, low, close, volume of one instrument, within the first half-year, so from the listing."""
    panel = market(1, n, seed)
    return [panel[name][0].astype(np.float64) for name in FIELDS[:4]]


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name in NAMES:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def shown(values, digits: int = 4) -> list[float]:
    return [round(float(v), digits) for v in values]


# -- the declared columns ----------------------------------------------------------------------------------------------


def test_columns_shapes_and_dtypes():
    panel = market(3, 160)
    got = compute_indicators(panel, start=40)
    assert list(got) == NAMES
    assert len(set(NAMES)) == len(NAMES)
    for name, values in got.items():
        assert values.shape == (3, 120), name
        assert values.dtype == np.float32, name
        assert np.isfinite(values[:, -1]).all(), name
    assert all(f.meaning and f.direction and f.group and f.expression is None for f in FEATURES)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("sma_5", 5),
        ("sma_60", 60),
        ("ema_20", 20),
        ("wma_20", 20),
        ("rsi_14", 15),
        ("stoch_k", 18),
        ("stoch_d", 18),
        ("willr_14", 14),
        ("cci_20", 20),
        ("roc_10", 11),
        ("macd", 34),
        ("macd_hist", 34),
        ("bb_upper", 20),
        ("sar", 2),
        ("adx_14", 28),
        ("ichimoku_base", 26),
        ("ichimoku_span_a", 52),
        ("ichimoku_span_b", 78),
        ("vwap", 1),
        ("vwap_20", 20),
        ("obv_120", 1),
        ("ad_120", 1),
        ("volume_rsi_14", 15),
        ("atr_14", 15),
        ("volatility_20", 21),
        ("kdj_k", 9),
        ("kdj_d", 9),
    ],
)
def test_first_value_since_the_listing(name, needed):
    got = series(*random_rows(100))[name]
    assert np.isnan(got[: needed - 1]).all()
    assert np.isfinite(got[needed - 1 :]).all()


# -- hand-computed cases -----------------------------------------------------------------------------------------------


def test_averages_by_hand():
    got = flat([float(n) for n in range(1, 31)])
    assert shown(got["sma_5"][4:7]) == [3, 4, 5]
    assert shown(got["wma_20"][19:21]) == [13.6667, 14.6667]
    assert shown(got["ema_20"][19:22]) == [10.5, 11.5, 12.5]
    assert shown(got["mom_10"][10:12]) == [10, 10]
    assert shown(got["roc_10"][10:11]) == [1000]


def test_bollinger_by_hand():
    got = flat([10.0, 12.0] * 10)
    assert shown([got[f"bb_{band}"][19] for band in ("upper", "middle", "lower")]) == [13, 11, 9]


def test_obv_and_ad_by_hand():
    got = series([11, 12, 13, 12], [9, 10, 11, 8], [10, 12, 11, 11], [100, 200, 300, 400])
    assert shown(got["obv_120"]) == [100, 300, 0, 0]
    # money flow multipliers: (close-low - (high-close)) / range = 0, 1, -1, 0.5
    assert shown(got["ad_120"]) == [0, 200, -100, 100]


def test_kdj_by_hand():
    close = [10.0] * 8 + [11.0, 12.0]
    got = series([c + 1 for c in close], [c - 1 for c in close], close, [1] * 10)
    # raw stochastic: (11-9)/(12-9) = 66.667; (12-9)/(13-9) = 75
    k0, k1 = 100 / 3 + 200 / 9, (100 / 3 + 200 / 9) * 2 / 3 + 25
    d0 = 100 / 3 + k0 / 3
    d1 = d0 * 2 / 3 + k1 / 3
    assert shown(got["kdj_k"][8:]) == shown([k0, k1])
    assert shown(got["kdj_d"][8:]) == shown([d0, d1])
    assert shown(got["kdj_j"][8:]) == shown([3 * k0 - 2 * d0, 3 * k1 - 2 * d1])


def test_constant_prices_are_neutral_and_finite():
    got = flat([7.0] * 100)
    assert shown([got[f"kdj_{line}"][-1] for line in "kdj"]) == [50, 50, 50]
    for name, level in {"sma_60": 7, "ema_20": 7, "vwap_20": 7, "bb_upper": 7, "bb_lower": 7, "sar": 7}.items():
        assert shown([got[name][-1]]) == [level], name
    for name in ("macd", "mom_10", "roc_10", "atr_14", "volatility_20", "hist_volatility_20", "adx_14", "cci_20"):
        assert got[name][-1] == 0, name


def test_a_rise_without_a_fall_is_overbought():
    got = flat([1.01**n for n in range(100)])
    assert shown([got["rsi_14"][-1], got["stoch_k"][-1], got["willr_14"][-1], got["adx_14"][-1]], 3) == [
        100,
        100,
        0,
        100,
    ]
    assert shown([got["volatility_20"][-1]], 6) == [0]
    assert got["sar"][-1] < 1.01**99


def test_vwap_of_session_and_window():
    got = series([3] * 20, [1] * 20, [2] * 19 + [3], [10] * 19 + [810], vwap=[2.5] * 19 + [np.nan])
    assert shown(got["vwap"][:19]) == [2.5] * 19
    assert np.isnan(got["vwap"][19])
    assert np.isnan(got["vwap_20"][18])
    assert shown([got["vwap_20"][19]]) == shown([(19 * 2 * 10 + 810 * 7 / 3) / 1000])


def test_a_window_without_volume_has_no_vwap():
    rows = random_rows(60)
    rows[3][:] = 0
    rows[3][:10] = 1e9 / 3
    got = series(*rows)
    assert np.isfinite(got["vwap_20"][19:29]).all()
    assert np.isnan(got["vwap_20"][29:]).all()
    assert np.isfinite(got["vwap"]).all()


# -- slow references ---------------------------------------------------------------------------------------------------


def wilder_rsi(x: np.ndarray, n: int) -> list[float]:
    out = [np.nan] * len(x)
    change = np.diff(x)
    gain = np.maximum(change[:n], 0).sum() / n
    loss = np.maximum(-change[:n], 0).sum() / n
    out[n] = 100 * gain / (gain + loss)
    for i in range(n, len(change)):
        gain = (gain * (n - 1) + max(change[i], 0)) / n
        loss = (loss * (n - 1) + max(-change[i], 0)) / n
        out[i + 1] = 100 * gain / (gain + loss)
    return out


def wilder_atr(high: np.ndarray, low: np.ndarray, close: np.ndarray, n: int) -> list[float]:
    out = [np.nan] * len(close)
    true_range = [
        max(high[i] - low[i], abs(high[i] - close[i - 1]), abs(low[i] - close[i - 1])) for i in range(1, len(close))
    ]
    mean = sum(true_range[:n]) / n
    out[n] = mean
    for i in range(n, len(true_range)):
        mean = (mean * (n - 1) + true_range[i]) / n
        out[i + 1] = mean
    return out


def obv(close: np.ndarray, volume: np.ndarray, t: int) -> float:
    first = max(0, t - COUNTED + 1)
    signs = [1.0 if i == 0 else np.sign(close[i] - close[i - 1]) for i in range(first, t + 1)]
    return float(np.dot(signs, volume[first : t + 1]))


def accumulation(high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray, t: int) -> float:
    rows = range(max(0, t - COUNTED + 1), t + 1)
    return sum(((close[i] - low[i]) - (high[i] - close[i])) / (high[i] - low[i]) * volume[i] for i in rows)


def kdj(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> list[tuple[float, float, float]]:
    k = d = 50.0
    out = [(np.nan,) * 3] * 8
    for i in range(8, len(close)):
        lowest, highest = low[i - 8 : i + 1].min(), high[i - 8 : i + 1].max()
        k = k * 2 / 3 + 100 * (close[i] - lowest) / (highest - lowest) / 3
        d = d * 2 / 3 + k / 3
        out.append((k, d, 3 * k - 2 * d))
    return out


def test_against_slow_references():
    high, low, close, volume = random_rows(300)
    got = series(high, low, close, volume)
    rows = range(len(close))

    def middle(i: int, n: int) -> float:
        return (high[i - n + 1 : i + 1].max() + low[i - n + 1 : i + 1].min()) / 2 if i >= n - 1 else np.nan

    returns, logs = np.diff(close) / close[:-1], np.diff(np.log(close))
    typical = (high + low + close) / 3
    lines = np.array(kdj(high, low, close))
    expected = {
        "rsi_14": wilder_rsi(close, 14),
        "volume_rsi_14": wilder_rsi(volume, 14),
        "atr_14": wilder_atr(high, low, close, 14),
        "kdj_k": lines[:, 0],
        "kdj_d": lines[:, 1],
        "kdj_j": lines[:, 2],
        "ichimoku_conversion": [middle(i, 9) for i in rows],
        "ichimoku_base": [middle(i, 26) for i in rows],
        "ichimoku_span_a": [(middle(i - 26, 9) + middle(i - 26, 26)) / 2 if i >= 26 else np.nan for i in rows],
        "ichimoku_span_b": [middle(i - 26, 52) if i >= 26 else np.nan for i in rows],
        "sma_20": [close[i - 19 : i + 1].mean() if i >= 19 else np.nan for i in rows],
        "volatility_20": [returns[i - 20 : i].std(ddof=1) if i >= 20 else np.nan for i in rows],
        "hist_volatility_20": [logs[i - 20 : i].std(ddof=1) * 252**0.5 if i >= 20 else np.nan for i in rows],
        "vwap_20": [
            np.average(typical[i - 19 : i + 1], weights=volume[i - 19 : i + 1]) if i >= 19 else np.nan for i in rows
        ],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-6, err_msg=name)
    # sums that cross zero: to the rounding of the volume they are made of
    scale = volume.sum()
    for name, values in {
        "obv_120": [obv(close, volume, t) for t in rows],
        "ad_120": [accumulation(high, low, close, volume, t) for t in rows],
    }.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-6, atol=1e-9 * scale, err_msg=name)


# -- the definition ----------------------------------------------------------------------------------------------------


def test_history_starts_three_half_years_before_the_running_one():
    assert history_start(date(2020, 1, 2)) == date(2018, 7, 1)
    assert history_start(date(2020, 6, 30)) == date(2018, 7, 1)
    assert history_start(date(2020, 7, 1)) == date(2019, 1, 1)
    assert history_start(date(1970, 1, 5)) == date(1968, 7, 1)


def test_warmup_reaches_the_anchor_of_every_weekday():
    days = np.busday_offset("2000-01-01", np.arange(28 * 261), roll="forward")
    anchors = np.array([history_start(day.item()) for day in days], "M8[D]")
    needed = np.busday_count(anchors, days)
    assert needed.max() == WARMUP


def suspended_market(instruments: int, sessions: int, seed: int) -> Panel:
    """Each instrument is suspended once or twice, for months or years."""
    rng = np.random.default_rng(seed)
    panel = market(instruments, sessions, seed, 0.05, late=True)
    gone = np.zeros(panel.shape, bool)
    for row in gone:
        for _ in range(int(rng.integers(1, 3))):
            begin = int(rng.integers(0, sessions))
            row[begin : begin + int(rng.integers(40, 900))] = True
    fields = {name: np.where(gone, np.float32(np.nan), values) for name, values in panel.fields.items()}
    return Panel(panel.instruments, panel.sessions, fields)


def piece_of(panel: Panel, begin: int, end: int, threads: int) -> dict[str, np.ndarray]:
    """Indicators of some sessions from as little as is promised to be enough."""
    left = max(0, begin - WARMUP)
    near = panel.window(left, end)
    piece = compute_indicators(near, start=begin - left, threads=threads)
    for row in np.flatnonzero(reach_back(near, begin - left)).tolist():
        whole = panel.window(0, end).rows(slice(row, row + 1))
        for name, values in compute_indicators(whole, start=begin, threads=threads).items():
            piece[name][row] = values[0]
    return piece


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    suspended=st.sampled_from([0.0, 0.1, 0.9, None]),
    cuts=st.lists(st.integers(1, 1399), max_size=3, unique=True),
    threads=st.integers(1, 2),
)
def test_pieces_equal_the_whole_to_the_bit(seed, suspended, cuts, threads):
    market_of = suspended_market if suspended is None else partial(market, suspended=suspended, late=True)
    panel = market_of(2, 1400, seed)
    whole = compute_indicators(panel, threads=1)
    edges = [0, *sorted(cuts), 1400]
    for begin, end in pairwise(edges):
        piece = piece_of(panel, begin, end, threads)
        assert_equal(piece, {name: values[:, begin:end] for name, values in whole.items()})


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), suspended=st.sampled_from([0.3, 0.97, None]))
def test_a_value_is_there_from_the_needed_traded_sessions_on_and_stays(seed, suspended):
    """Whatever the suspensions: as if the traded sessions were all the sessions there are since the listing."""
    panel = suspended_market(2, 1400, seed) if suspended is None else market(2, 1400, seed, suspended, late=True)
    got = compute_indicators(panel)
    for row in range(2):
        traded = np.flatnonzero(np.isfinite(panel["close"][row]))
        drawn = {name: values[row : row + 1, traded] for name, values in panel.fields.items()}
        days = np.busday_offset("2015-01-01", np.arange(len(traded)))
        together = compute_indicators(Panel(["I"], days, drawn))
        for name in NAMES:
            values, known = got[name][row, traded], together[name][0]
            np.testing.assert_array_equal(np.isnan(values), np.isnan(known), err_msg=name)
        for name in ("ema_20", "rsi_14", "macd_signal", "atr_14", "adx_14", "obv_120", "sma_60", "kdj_j"):
            size = np.nanmax(np.abs(together[name]), initial=0)
            np.testing.assert_allclose(got[name][row, traded], together[name][0], atol=1e-6 * size, err_msg=name)


def test_indicators_do_not_vanish_in_the_middle_of_trading():
    """Suspended for twenty months, traded again two weeks before New Year, when the anchor moves into it."""
    panel = market(1, 1566, 3)
    days = panel.sessions
    gone = (days >= np.datetime64("2017-04-25")) & (days < np.datetime64("2018-12-16"))
    fields = {name: np.where(gone, np.float32(np.nan), values) for name, values in panel.fields.items()}
    panel = Panel(panel.instruments, days, fields)
    got = compute_indicators(panel)
    again = np.flatnonzero(days >= np.datetime64("2018-12-16"))
    for name in NAMES:
        assert np.isfinite(got[name][0, again]).all(), name
    assert reach_back(panel.window(int(again[0]) - WARMUP, len(days)), WARMUP).all()
    assert not reach_back(market(1, 1566, 3).window(100, 1566), WARMUP).any()
    # the first mean after the suspension is over twenty traded sessions, most of them before it
    traded = np.flatnonzero(~gone)
    last = traded[traded <= again[0]][-20:]
    assert got["sma_20"][0, again[0]] == pytest.approx(panel["close"][0, last].mean(), rel=1e-6)


def test_no_more_bars_are_looked_back_on_over_gaps_than_lineage_remembers():
    from qdag.lineage.bars import MEMORY

    assert BARS <= MEMORY
    # the sessions that are read hold as many before the half-year of the last one, where there is no gap
    half = 131
    assert WARMUP - half >= BARS


def test_only_the_history_from_the_anchor_matters():
    panel = market(3, 1300, 5)
    day = panel.sessions[-1].item()
    anchor = int(np.searchsorted(panel.sessions, np.datetime64(history_start(day))))
    # three spikes before the anchor change nothing, one on its first session changes something
    expected = compute_indicators(panel, start=1299)
    for position, same in ((0, True), (anchor - 1, True), (anchor, False)):
        fields = {name: values.copy() for name, values in panel.fields.items()}
        fields["volume"][:, position] *= 1e6
        fields["high"][:, position] *= 1e6
        got = compute_indicators(Panel(panel.instruments, panel.sessions, fields), start=1299)
        equal = all(np.array_equal(got[name], expected[name], equal_nan=True) for name in NAMES)
        assert equal or not same
        if not same:
            assert np.array_equal(got["sma_60"], expected["sma_60"])


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 699), suspended=st.sampled_from([0.0, 0.2]))
def test_the_future_changes_nothing(seed, cut, suspended):
    panel = market(2, 700, seed, suspended)
    expected = compute_indicators(panel.window(0, cut), threads=1)
    got = compute_indicators(panel, threads=1)
    assert_equal({name: values[:, :cut] for name, values in got.items()}, expected)


def test_suspended_sessions_are_left_out_and_drawn_together():
    dense = market(1, 300, 8)
    fields, stretched = {}, np.arange(300) + np.arange(300) // 7 * 3
    for name, values in dense.fields.items():
        fields[name] = np.full((1, int(stretched[-1]) + 1), np.nan, np.float32)
        fields[name][:, stretched] = values
    days = np.busday_offset("2015-01-01", np.arange(int(stretched[-1]) + 1))
    # both fit into the past that the anchor of their last session leaves
    got = compute_indicators(Panel(dense.instruments, days, fields))
    assert_equal({name: values[:, stretched] for name, values in got.items()}, compute_indicators(dense))
    gone = np.setdiff1d(np.arange(len(days)), stretched)
    assert all(np.isnan(values[:, gone]).all() for values in got.values())


@pytest.mark.parametrize("field", ["high", "low", "close", "volume"])
def test_a_session_with_a_missing_field_is_no_traded_session(field):
    panel = market(1, 120)
    holed = {name: values.copy() for name, values in panel.fields.items()}
    holed[field][0, 60] = np.nan
    emptied = {name: values.copy() for name, values in panel.fields.items()}
    for values in emptied.values():
        values[0, 60] = np.nan
    got = compute_indicators(Panel(panel.instruments, panel.sessions, holed))
    assert_equal(got, compute_indicators(Panel(panel.instruments, panel.sessions, emptied)))
    assert all(np.isnan(values[0, 60]) for values in got.values())


def test_instruments_do_not_touch_each_other():
    panel = market(5, 200, 2, 0.1, late=True)
    got = compute_indicators(panel)
    order = [3, 1, 4, 0, 2]
    shuffled = Panel(
        [panel.instruments[i] for i in order],
        panel.sessions,
        {name: values[order] for name, values in panel.fields.items()},
    )
    assert_equal(compute_indicators(shuffled), {name: values[order] for name, values in got.items()})


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    moves=st.lists(st.sampled_from([0.0, 1e-4, -1e-4, 0.1, -0.1, 0.5, -0.5]), min_size=60, max_size=250),
)
def test_bounds(seed, moves):
    rng = np.random.default_rng(seed)
    close = 20 * np.exp(np.cumsum(moves))
    high, low = close * (1 + 0.05 * rng.integers(0, 2, len(close))), close * (1 - 0.05 * rng.integers(0, 2, len(close)))
    got = series(*(x.astype(np.float32) for x in (high, low, close)), rng.integers(0, 3, len(close)) * 1000.0)
    slack = 1e-3
    for name in ("rsi_14", "volume_rsi_14", "stoch_k", "stoch_d", "kdj_k", "kdj_d", "adx_14"):
        values = got[name][np.isfinite(got[name])]
        assert ((values >= -slack) & (values <= 100 + slack)).all(), name
    values = got["willr_14"][13:]
    assert ((values >= -100 - slack) & (values <= slack)).all()
    for name in ("atr_14", "volatility_20", "hist_volatility_20"):
        assert (got[name][np.isfinite(got[name])] >= 0).all(), name
    assert not any(np.isinf(values).any() for values in got.values())


def test_scaling_prices_scales_levels_and_leaves_ratios():
    high, low, close, volume = random_rows(150)
    one, two = series(high, low, close, volume), series(8 * high, 8 * low, 8 * close, volume)
    levels = {"macd", "macd_signal", "macd_hist", "mom_10", "atr_14", "sar", "vwap", "vwap_20"}
    levels |= {name for name in NAMES if name.startswith(("sma_", "ema_", "wma_", "bb_", "ichimoku_"))}
    for name in NAMES:
        np.testing.assert_allclose(
            two[name], one[name] * (8 if name in levels else 1), rtol=1e-5, atol=1e-5, err_msg=name
        )


# -- edges and errors --------------------------------------------------------------------------------------------------


def test_empty_panels():
    nothing = Panel([], np.array([], "M8[D]"), {name: np.empty((0, 0), np.float32) for name in FIELDS})
    assert compute_indicators(nothing)["rsi_14"].shape == (0, 0)
    panel = market(2, 30)
    assert compute_indicators(panel, start=30)["rsi_14"].shape == (2, 0)
    gone = {name: np.full((2, 30), np.nan, np.float32) for name in FIELDS}
    assert all(np.isnan(v).all() for v in compute_indicators(Panel(["A", "B"], panel.sessions, gone)).values())


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 25, 26, 27, 30])
def test_short_histories(rows):
    got = series(*random_rows(rows))
    assert all(len(values) == rows for values in got.values())
    assert np.isfinite(got["obv_120"]).all()


def test_errors_name_the_value():
    panel = market(1, 30)
    with pytest.raises(PanelError, match="start 31 is outside the panel's 30 sessions"):
        compute_indicators(panel, start=31)
    with pytest.raises(PanelError, match="threads is 0"):
        compute_indicators(panel, threads=0)
    fields = {name: values for name, values in panel.fields.items() if name != "vwap"}
    with pytest.raises(UnknownNameError, match="'vwap'"):
        compute_indicators(Panel(panel.instruments, panel.sessions, fields))


# -- real market files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Panel:
    """Ten years of twenty real US stocks, adjusted."""
    if not REAL.is_dir():
        pytest.skip(f"real market files are not at {REAL}")
    files = sorted(REAL.glob("*.csv"))[:20]
    bars = {}
    for file in files:
        with file.open() as stream:
            reader = csv.DictReader(stream)
            if "timestamp" not in (reader.fieldnames or ()):
                continue  # an error message of the vendor under a file's name
            rows = [r for r in reader if "2008" <= r["timestamp"] < "2018"]
        for r in rows:
            factor = float(r["adjusted_close"]) / float(r["close"])
            high, low, close = (float(r[name]) * factor for name in ("high", "low", "close"))
            values = (high, low, close, float(r["volume"]) / factor, (high + low + close) / 3)
            bars[file.stem, np.datetime64(r["timestamp"])] = values
    days = np.array(sorted({day for _, day in bars}))
    names = sorted({name for name, _ in bars})
    assert len(names) >= 15
    block = np.full((len(FIELDS), len(names), len(days)), np.nan, np.float32)
    for (name, day), values in bars.items():
        block[:, names.index(name), np.searchsorted(days, day)] = values
    return Panel(names, days, dict(zip(FIELDS, block, strict=True)))


def test_real_values_are_those_of_the_whole_history(real):
    """The bounded past costs nothing that float32 shows: TA-Lib on everything since 2008, on the panel's last years."""
    import talib

    got = compute_indicators(real)
    checked = 0
    for row in range(len(real.instruments)):
        traded = np.flatnonzero(np.isfinite(real["close"][row]))
        high, low, close, volume = (real[name][row, traded].astype(np.float64) for name in FIELDS[:4])
        macd, signal, _ = talib.MACD(close, 12, 26, 9)
        expected = {
            "ema_20": (talib.EMA(close, 20), close),
            "rsi_14": (talib.RSI(close, 14), 100),
            "volume_rsi_14": (talib.RSI(volume, 14), 100),
            "macd": (macd, close),
            "macd_signal": (signal, close),
            "adx_14": (talib.ADX(high, low, close, 14), 100),
            "atr_14": (talib.ATR(high, low, close, 14), close),
            "sar": (talib.SAR(high, low, 0.02, 0.2), close),
        }
        for name, (values, scale) in expected.items():
            error = np.abs(got[name][row, traded] - values) / scale
            assert np.nanmax(error) < 1e-6, (real.instruments[row], name)
            checked += np.isfinite(error).sum()
    assert checked > 200_000
