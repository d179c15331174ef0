"""Factor metrics against pandas, scipy, alphalens and a slow loop; dating, history, ties, degenerate sections."""

import re
import warnings
from collections.abc import Iterator, Mapping
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qdag.errors import PanelError, SessionError, UnknownNameError
from qdag.factors import factor_metrics, history_sessions, iter_factor_metrics, signal_sessions
from qdag.schema import FACTOR_METRICS

CALENDAR = np.arange("2020-01-01", "2021-01-01", dtype="M8[D]")


def day(position: int) -> date:
    return CALENDAR[position].item()


def market(seed: int, instruments: int = 30, sessions: int = 40, horizons: tuple[int, ...] = (1, 3), ties: bool = True):
    """Factors, labels and a pool with gaps, infinities, ties and changing membership."""
    rng = np.random.default_rng(seed)
    shape = (instruments, sessions)
    features = {
        "t.plain": rng.standard_normal(shape).astype(np.float32),
        "t.offset": (1e4 + rng.standard_normal(shape)).astype(np.float32),
    }
    if ties:
        features["t.ties"] = rng.integers(-2, 3, shape).astype(np.float32)
        features["t.ties"][::3] *= np.float32(-1)  # -0.0 beside 0.0
    for values in features.values():
        values[rng.random(shape) < 0.1] = np.nan
        values[rng.random(shape) < 0.02] = np.inf
        values[rng.random(shape) < 0.02] = -np.inf
    labels = {h: (rng.standard_normal(shape) * 0.02).astype(np.float32) for h in horizons}
    for h, values in labels.items():
        values[rng.random(shape) < 0.1] = np.nan
        values[rng.random(shape) < 0.1] = np.float32(0.01)
        values[:, sessions - (h + 1) :] = np.nan
    return features, labels, rng.random(shape) < 0.8


def run(features, labels, pool, start: int, stop: int, sessions: int | None = None, **options) -> pa.Table:
    """Metrics of the calendar positions [start, stop), the calendar being the arrays' own sessions by default."""
    options = {"pool_name": "p", "universe": "u", "threads": 1, **options}
    calendar = CALENDAR[: sessions or pool.shape[1]]
    return factor_metrics(features, labels, calendar, pool, dates=(day(start), day(stop - 1)), **options)


def reference(features, labels, pool, start: int, stop: int, window: int, minimum: int) -> pd.DataFrame:
    """The slow, obvious version, from the definitions."""
    rows = []
    for name, x in features.items():
        for h in sorted(labels):
            for t in range(h + 1, stop):
                s = t - (h + 1)
                on = pool[:, s]
                finite = on & np.isfinite(x[:, s])
                pair = finite & np.isfinite(labels[h][:, s])
                a, b = x[pair, s].astype(float), labels[h][pair, s].astype(float)
                row = {"date": t, "horizon": h, "factor": name, "signal_date": s, "n": len(a)}
                row["coverage"] = finite.sum() / on.sum() if on.any() else np.nan
                row["ic"] = row["rank_ic"] = row["long_short"] = np.nan
                if len(a) >= 3 and len(set(a)) > 1 and len(set(b)) > 1:
                    row["ic"] = stats.pearsonr(a, b)[0]
                    row["rank_ic"] = stats.spearmanr(a, b)[0]
                if len(a) >= 10:
                    place = stats.rankdata(a) - 1
                    low, high = b[5 * place <= len(a) - 1], b[5 * place > 4 * (len(a) - 1)]
                    if len(low) and len(high):
                        row["long_short"] = high.mean() - low.mean()
                rows.append(row)
    frame = pd.DataFrame(rows)
    groups = frame.groupby(["factor", "horizon"], sort=False)
    for column, ratio in (("ic", "icir"), ("rank_ic", "rank_icir")):
        frame[ratio] = groups[column].transform(
            lambda ic: [trailing(ic[max(0, k + 1 - window) : k + 1].dropna(), minimum) for k in range(len(ic))]
        )
    frame["icir_n"] = groups["ic"].rolling(window, min_periods=0).count().to_numpy().astype(int)
    return frame[frame["date"] >= start].reset_index(drop=True)


def trailing(ic: pd.Series, minimum: int) -> float:
    return ic.mean() / ic.std() if len(ic) >= minimum and ic.std() > 1e-12 else np.nan


def check(table: pa.Table, expected: pd.DataFrame) -> None:
    assert table.schema.equals(FACTOR_METRICS.arrow())
    found = table.to_pandas()
    assert list(found["factor"]) == list(expected["factor"])
    for column in ("date", "signal_date"):
        assert list(found[column]) == [day(p) for p in expected[column]]
    for column in ("horizon", "n", "icir_n"):
        assert list(found[column]) == list(expected[column]), column
    for column in ("ic", "rank_ic", "coverage", "long_short", "icir", "rank_icir"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-9, atol=1e-12, err_msg=column)


@pytest.mark.parametrize("instruments", [1, 2, 3, 4, 5, 6, 11, 30])
def test_equals_slow_reference(instruments: int) -> None:
    features, labels, pool = market(instruments, instruments)
    table = run(features, labels, pool, 0, 40, window=15, minimum=4)
    check(table, reference(features, labels, pool, 0, 40, 15, 4))
    if instruments != 3:
        assert (table["ic"].null_count < len(table)) == (instruments > 3)


@given(
    seed=st.integers(0, 2**32 - 1),
    instruments=st.integers(1, 12),
    start=st.integers(0, 19),
    length=st.integers(1, 20),
)
@settings(max_examples=40)
def test_equals_slow_reference_property(seed: int, instruments: int, start: int, length: int) -> None:
    features, labels, pool = market(seed, instruments, 20, (2, 5))
    stop = min(20, start + length)
    whole = run(features, labels, pool, 0, 20, window=6, minimum=3)
    found = run(features, labels, pool, start, stop, window=6, minimum=3, history=whole)
    if stop <= 3:  # the first label of horizon 2 is known at session 3
        assert found.num_rows == 0
    else:
        check(found, reference(features, labels, pool, start, stop, 6, 3))


def test_equals_pandas_group_correlation() -> None:
    features, labels, pool = market(3)
    table = run(features, labels, pool, 0, 40).to_pandas()
    for name, x in features.items():
        x = pd.DataFrame(np.where(pool & np.isfinite(x), x, np.nan).astype(float))
        y = pd.DataFrame(labels[3].astype(float))
        part = table[(table["factor"] == name) & (table["horizon"] == 3)]
        np.testing.assert_allclose(part["ic"], x.corrwith(y)[:36], rtol=1e-9)
        np.testing.assert_allclose(part["rank_ic"], x.corrwith(y, method="spearman")[:36], rtol=1e-9, atol=1e-12)


def test_equals_alphalens() -> None:
    """Without equal factor values, alphalens' information coefficient and quintile returns are the same numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        performance = pytest.importorskip("alphalens.performance")
    features, labels, pool = market(5, 33, ties=False)
    table = run(features, labels, pool, 0, 40).to_pandas()
    sessions = pd.DatetimeIndex(CALENDAR[:40])
    x, y = features["t.plain"], labels[1]
    s, i = np.nonzero((pool & np.isfinite(x) & np.isfinite(y)).T)
    data = pd.DataFrame(
        {"1D": y[i, s].astype(float), "factor": x[i, s].astype(float)},
        index=pd.MultiIndex.from_arrays([sessions[s], i], names=["date", "asset"]),
    )
    data["factor_quantile"] = data.groupby(level="date")["factor"].transform(pd.qcut, 5, labels=False) + 1
    ic = performance.factor_information_coefficient(data)["1D"]
    mean, _ = performance.mean_return_by_quantile(data, by_date=True, demeaned=False)
    spread = mean["1D"].reset_index().pivot_table(index="date", columns="factor_quantile", values="1D")
    part = table[(table["factor"] == "t.plain") & (table["horizon"] == 1)].set_index("signal_date")
    part.index = pd.DatetimeIndex(part.index)
    assert len(part) == 38
    assert len(ic) == 38
    np.testing.assert_allclose(part["rank_ic"], ic, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(part["long_short"], spread[5] - spread[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("planted", [0.05, 0.5, -0.3])
def test_planted_signal_is_recovered(planted: float) -> None:
    rng = np.random.default_rng(1)
    y = rng.standard_normal((500, 202))
    x = planted * y + np.sqrt(1 - planted**2) * rng.standard_normal(y.shape)
    table = run({"t.x": x.astype(np.float32)}, {1: y.astype(np.float32)}, np.ones(y.shape, bool), 0, 202).to_pandas()
    # 200 dates of 500 pairs: the standard error of the mean is below 1 / sqrt(100 000)
    assert abs(table["ic"].mean() - planted) < 4 / np.sqrt(100_000)
    expected = 6 / np.pi * np.arcsin(planted / 2)
    assert abs(table["rank_ic"].mean() - expected) < 4 / np.sqrt(100_000)
    assert table["icir"].iloc[-1] == pytest.approx(table["ic"].mean() / table["ic"].std(), rel=1e-12)


def test_hand_computed_section_and_its_date() -> None:
    """Six instruments on session 2, horizon 1: known at session 4."""
    x = np.full((6, 6), np.nan, np.float32)
    y = np.full((6, 6), np.nan, np.float32)
    x[:, 2] = [1, 2, 3, 4, 5, 6]
    y[:, 2] = [0.1, 0.2, 0.3, 0.4, 0.6, 0.5]
    table = run({"t.x": x}, {1: y}, np.ones((6, 6), bool), 4, 5).to_pylist()
    assert len(table) == 1
    row = table[0]
    assert (row["date"], row["signal_date"]) == (day(4), day(2))
    assert row["rank_ic"] == pytest.approx(1 - 6 * 2 / (6 * 35))
    # one stock is no portfolio
    assert row["long_short"] is None
    assert (row["n"], row["coverage"], row["icir"], row["icir_n"]) == (6, 1.0, None, 1)
    others = run({"t.x": x}, {1: y}, np.ones((6, 6), bool), 0, 6).to_pylist()
    # two sessions at the beginning have no signal session; days without any value have a row of nulls
    assert [r["date"] for r in others] == [day(p) for p in range(2, 6)]
    assert [r["ic"] is None for r in others] == [True, True, False, True]
    assert [r["coverage"] for r in others] == [0.0, 0.0, 1.0, 0.0]


def test_the_spread_of_quintiles_of_two_by_hand() -> None:
    x, y = (np.full((10, 3), np.nan, np.float32) for _ in range(2))
    x[:, 0] = np.arange(1, 11)
    y[:, 0] = [0.1, 0.2, 9, 9, 9, 9, 9, 9, 0.4, 0.7]
    everybody = np.ones((10, 3), bool)
    (row,) = run({"t.x": x}, {1: y}, everybody, 2, 3).to_pylist()
    # p = (rank - 1) / 9: the bottom quintile is {1, 2}, the top {9, 10}
    assert row["long_short"] == pytest.approx(0.55 - 0.15, rel=1e-6)
    x[4, 0] = np.nan
    (row,) = run({"t.x": x}, {1: y}, everybody, 2, 3).to_pylist()
    assert (row["n"], row["long_short"]) == (9, None)


@pytest.mark.parametrize(
    ("x", "y", "n", "defined"),
    [
        ([np.nan] * 6, [1, 2, 3, 4, 5, 6], 0, False),
        ([7.7] * 6, [1, 2, 3, 4, 5, 6], 6, False),
        ([0.1] * 6, [1, 2, 3, 4, 5, 6], 6, False),
        ([1, 2, 3, 4, 5, 6], [0.1] * 6, 6, False),
        ([1, 2, np.nan, np.nan, np.nan, np.nan], [1, 2, 3, 4, 5, 6], 2, False),
        ([1, 2, 3, np.inf, -np.inf, np.nan], [1, 2, 4, 4, 5, 6], 3, True),
        ([1, 2, 3, 4, 5, 6], [1, 2, np.inf, -np.inf, np.nan, 6], 3, True),
        ([0.0, -0.0, 0.0, -0.0, 0.0, -0.0], [1, 2, 3, 4, 5, 6], 6, False),
        ([3e38, -3e38, 1e-45, 0, 1, 2], [1, 2, 3, 4, 5, 6], 6, True),
    ],
)
def test_degenerate_sections(x: list[float], y: list[float], n: int, defined: bool) -> None:
    grid = np.full((6, 3), np.nan, np.float32)
    values, labels = grid.copy(), grid.copy()
    values[:, 0], labels[:, 0] = x, y
    (row,) = run({"t.x": values}, {1: labels}, np.ones((6, 3), bool), 2, 3).to_pylist()
    assert row["n"] == n
    assert (row["ic"] is not None) == (row["rank_ic"] is not None) == defined
    assert row["coverage"] == np.isfinite(x).mean()
    assert (row["icir"], row["icir_n"]) == (None, int(defined))
    if len(set(x)) == 1:
        assert row["long_short"] is None


def test_perfect_correlation_stays_in_bounds() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 60)).astype(np.float32)
    for sign in (1, -1):
        table = run({"t.x": x}, {1: sign * x}, np.ones(x.shape, bool), 2, 60)
        ic = table["ic"].to_numpy()
        assert np.all(np.abs(ic) <= 1)
        np.testing.assert_allclose(ic, sign, rtol=1e-12)
        assert set(table["rank_ic"].to_pylist()) == {float(sign)}
        # the same IC on every date, but for its rounding, has no ratio
        assert table["rank_icir"].null_count == table["icir"].null_count == len(table)


def test_pool_without_members_has_null_coverage() -> None:
    features, labels, pool = market(2)
    pool[:, 7] = False
    table = run(features, labels, pool, 9, 10).to_pylist()
    rows = [row for row in table if row["horizon"] == 1]
    assert len(rows) == len(features)
    assert all((row["coverage"], row["n"], row["ic"], row["long_short"]) == (None, 0, None, None) for row in rows)


def test_members_outside_the_pool_change_nothing() -> None:
    features, labels, pool = market(8)
    base = run(features, labels, pool, 0, 40)
    for values in (*features.values(), *labels.values()):
        values[~pool] = 1e6
    assert run(features, labels, pool, 0, 40).equals(base)


@pytest.mark.parametrize("split", [5, 17, 33])
@pytest.mark.parametrize("threads", [1, 3])
def test_incremental_equals_full(split: int, threads: int) -> None:
    features, labels, pool = market(4, 12, 60, (1, 3, 10))
    options = {"window": 20, "minimum": 5}
    full = run(features, labels, pool, 0, 60, **options)
    wanted = (day(split), day(split + 9))
    signals = signal_sessions(CALENDAR[:60], (1, 3, 10), wanted)
    first = int(np.searchsorted(CALENDAR, signals[0]))
    part = slice(first, first + len(signals))
    past = history_sessions(CALENDAR[:60], wanted[0], 20)
    dates = full["date"].to_numpy()
    history = full.filter(pa.array((dates >= past[0]) & (dates <= past[-1])))
    # labels as they stand at the last metric date: what is later is not known yet
    known = {h: values[:, part].copy() for h, values in labels.items()}
    for h, values in known.items():
        values[:, np.arange(first, first + len(signals)) + h + 1 > split + 9] = np.nan
    increment = factor_metrics(
        {name: values[:, part] for name, values in features.items()},
        known,
        signals,
        pool[:, part],
        pool_name="p",
        universe="u",
        dates=wanted,
        calendar=CALENDAR[:60],
        history=history,
        threads=threads,
        **options,
    )
    expected = full.filter(pa.array((dates >= CALENDAR[split]) & (dates <= CALENDAR[split + 9])))
    assert increment.num_rows == expected.num_rows > 0
    # every column to the bit, the trailing ratios too: each window is summed anew
    assert increment.equals(expected)


def test_history_of_others_is_not_read() -> None:
    features, labels, pool = market(4, 12, 40)
    full = run(features, labels, pool, 0, 40, window=20, minimum=5)
    other = full.set_column(0, full.schema.field(0), pa.array(["v"] * len(full)))
    alone = run(features, labels, pool, 30, 31, window=20, minimum=5)
    assert run(features, labels, pool, 30, 31, window=20, minimum=5, history=other).equals(alone)
    mixed = run(features, labels, pool, 30, 31, window=20, minimum=5, history=pa.concat_tables([other, full]))
    assert not mixed.equals(alone)
    assert max(mixed["icir_n"].to_pylist()) > max(alone["icir_n"].to_pylist()) == 1


def test_permuting_instruments_changes_nothing() -> None:
    features, labels, pool = market(6)
    order = np.random.default_rng(0).permutation(30)
    left = run(features, labels, pool, 0, 40).to_pandas()
    right = run(
        {k: v[order] for k, v in features.items()}, {k: v[order] for k, v in labels.items()}, pool[order], 0, 40
    ).to_pandas()
    # (a float64 sum in another order)
    pd.testing.assert_frame_equal(left, right, rtol=1e-9, atol=1e-12)
    assert left["rank_ic"].equals(right["rank_ic"])


def test_cutting_the_future_changes_nothing() -> None:
    features, labels, pool = market(7)
    whole = run(features, labels, pool, 0, 25)
    for values in features.values():
        values[:, 24:] = np.nan
    for h, values in labels.items():
        values[:, 25 - (h + 1) :] = np.nan
    pool[:, 24:] = False
    assert run(features, labels, pool, 0, 25).equals(whole)


def test_array_layouts_and_threads_give_the_same_bits() -> None:
    features, labels, pool = market(9)
    base = run(features, labels, pool, 0, 40)
    turned = {k: np.asfortranarray(v) for k, v in features.items()}
    turned_labels = {k: np.asfortranarray(v) for k, v in labels.items()}
    assert run(turned, turned_labels, np.asfortranarray(pool), 0, 40, threads=2).equals(base)


def test_batches_fetch_few_factors_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, pool = market(1)
    fetched: list[str] = []

    class Lazy(Mapping[str, np.ndarray]):
        def __getitem__(self, name: str) -> np.ndarray:
            fetched.append(name)
            return features[name]

        def __iter__(self) -> Iterator[str]:
            return iter(features)

        def __len__(self) -> int:
            return len(features)

    monkeypatch.setattr("qdag.factors.metrics._BATCH_ROWS", 1)
    batches = iter_factor_metrics(
        Lazy(), labels, CALENDAR[:40], pool, pool_name="p", universe="u", dates=(day(0), day(39)), threads=1
    )
    assert fetched == []
    first = next(batches)
    assert fetched == ["t.plain"]
    assert set(first["factor"].to_pylist()) == {"t.plain"}
    assert pa.Table.from_batches([first, *batches]).equals(run(features, labels, pool, 0, 40).combine_chunks())


def test_sessions_of_signals_and_history() -> None:
    assert list(signal_sessions(CALENDAR, (1, 5), (day(30), day(31)))) == list(CALENDAR[24:30])
    assert list(signal_sessions(CALENDAR, (1, 5), (day(0), day(1)))) == []
    assert list(signal_sessions(CALENDAR, (5,), (day(0), day(6)))) == [CALENDAR[0]]
    assert list(history_sessions(CALENDAR, day(300))) == list(CALENDAR[49:300])
    assert list(history_sessions(CALENDAR, day(3))) == list(CALENDAR[:3])


def test_no_row_where_no_signal_session_exists() -> None:
    features, labels, pool = market(1)
    assert run(features, labels, pool, 0, 2).num_rows == 0
    assert run({}, labels, pool, 0, 40).num_rows == 0
    table = run(features, labels, pool, 0, 4).to_pandas()
    assert sorted(set(zip(table["horizon"], table["date"], strict=True))) == [(1, day(2)), (1, day(3))]


def test_wrong_calls_are_refused_with_the_value() -> None:
    features, labels, pool = market(1)
    options = {"pool_name": "p", "universe": "u", "dates": (day(20), day(25))}

    def refuse(error: type[Exception], text: str, **change) -> None:
        call = {"features": features, "labels": labels, "sessions": CALENDAR[:40], "pool": pool, **options, **change}
        with pytest.raises(error, match=re.escape(text)):
            factor_metrics(**call)

    refuse(PanelError, "'t.x' must be float32", features={"t.x": np.zeros((30, 40))})
    refuse(PanelError, "(30, 39)", features={"t.x": np.zeros((30, 39), np.float32)})
    refuse(PanelError, "label of horizon 1", labels={1: np.zeros((30, 39), np.float32)})
    refuse(PanelError, "horizons must be", labels={0: labels[1]})
    refuse(PanelError, "horizons must be", labels={})
    refuse(PanelError, "pool must be bool", pool=pool.astype(int))
    refuse(PanelError, "minimum=1", minimum=1)
    refuse(PanelError, "got 0", threads=0)
    refuse(PanelError, "strictly increasing", sessions=CALENDAR[:40][::-1])
    refuse(SessionError, "before their start", dates=(day(5), day(4)))
    refuse(SessionError, "2020-02-10 is no session", dates=(day(39), day(40)))
    refuse(SessionError, "lack 2020-01-17", sessions=CALENDAR[17:57], calendar=CALENDAR)
    refuse(SessionError, "lack 2020-01-20", sessions=np.delete(CALENDAR[:41], 19), calendar=CALENDAR[:41])
    refuse(UnknownNameError, "'pool'", history=run(features, labels, pool, 0, 20).drop_columns("pool"))
    twice = run(features, labels, pool, 0, 20)
    refuse(PanelError, "several rows for factor 't.plain', horizon 1", history=pa.concat_tables([twice, twice]))
    stray = run(features, labels, pool, 0, 20)
    gap = np.delete(CALENDAR[:41], 15)
    refuse(SessionError, "2020-01-16, which is no session", sessions=gap, history=stray)
