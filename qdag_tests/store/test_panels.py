"""Rows to panels and back, against loops over single cells."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.engine.panel import Panel
from qdag.errors import StoreError, UnknownNameError
from qdag.schema import ENGINE_FIELDS, RAW_OHLCV, feature_table
from qdag.store.bars import change_reach, read_panel, read_panels
from qdag.store.matrices import panel_batches, table_matrix
from qdag.store.tables import TableStore

SPEC = feature_table("demo", [("x", "a feature"), ("y", "a feature")], "for tests")
SESSIONS = np.array(["2020-01-30", "2020-01-31", "2020-02-03", "2020-02-04", "2020-02-05"], "M8[D]")


def bars(cells, universe="u"):
    """raw_ohlcv rows of (session position, instrument, close, factor)."""
    rows = [
        {
            "universe": universe,
            "date": SESSIONS[s].item(),
            "instrument": n,
            **{
                "open": c,
                "high": c + 1,
                "low": c - 1,
                "close": c,
                "volume": 100.0,
                "amount": 1000.0,
                "vwap": c,
                "factor": f,
            },
            **{"split": 1.0, "dividend": 0.0},
        }
        for s, n, c, f in cells
    ]
    return pa.Table.from_pylist(rows, schema=RAW_OHLCV.arrow())


def put(store, cells):
    store.replace(RAW_OHLCV, "u", SESSIONS[0].item(), SESSIONS[-1].item(), bars(cells), {})


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_table_and_panel_are_inverse(data):
    names = data.draw(st.permutations(["NA", "TRUE", "B"]))
    value = st.just(np.nan) | st.floats(width=32, allow_nan=False)
    shape = (3, 5)
    x, y = (np.array(data.draw(st.lists(value, min_size=15, max_size=15)), np.float32).reshape(shape) for _ in range(2))
    panel = Panel(names, SESSIONS, {"close": x})
    table = pa.Table.from_batches(panel_batches(SPEC, "u", panel, {"x": x, "y": y}), SPEC.arrow())
    expected = [
        (SESSIONS[s].item(), names[i], x[i, s], y[i, s])
        for s in range(5)
        for i in sorted(range(3), key=lambda i: names[i])
        if not np.isnan(x[i, s])
    ]
    got = list(zip(*(table[c].to_pylist() for c in ("date", "instrument", "x", "y")), strict=True))
    clean = [(d, n, *(None if np.isnan(v) else float(v) for v in values)) for d, n, *values in expected]
    assert got == clean
    back = table_matrix(table, ["x", "y"], names, SESSIONS)
    for name, want in (("x", x), ("y", y)):
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], np.where(np.isnan(x), np.nan, want))
    # a batch holds one month, and none is of a month without rows
    months = [
        set(np.asarray(b["date"]).astype("M8[M]").tolist()) for b in panel_batches(SPEC, "u", panel, {"x": x, "y": y})
    ]
    assert months == [
        {month} for month in sorted({SESSIONS[s].astype("M8[M]").item() for s in set(np.nonzero(~np.isnan(x))[1])})
    ]
    # memory with sessions outermost, as the engine's, is read as it lies
    outermost = [np.ascontiguousarray(values.T).T for values in (x, y)]
    again = panel_batches(SPEC, "u", panel, dict(zip("xy", outermost, strict=True)))
    assert pa.Table.from_batches(again, SPEC.arrow()).equals(table)


def test_table_matrix_leaves_out_strangers_and_refuses_duplicates():
    table = bars([(0, "A", 1.0, 1.0), (1, "B", 2.0, 1.0), (4, "A", 3.0, 1.0)])
    got = table_matrix(table, "close", ["A", "C"], SESSIONS[:2])["close"]
    np.testing.assert_array_equal(got, [[1, np.nan], [np.nan, np.nan]])
    with pytest.raises(StoreError, match=r"'A' has several rows on 2020-01-30"):
        table_matrix(pa.concat_tables([table, table]), "close", ["A"], SESSIONS)
    with pytest.raises(UnknownNameError, match=r"closs.*did you mean 'close'"):
        table_matrix(table, ["closs"], ["A"], SESSIONS)
    assert table_matrix(table, "close", ["A"], SESSIONS[:0])["close"].shape == (1, 0)
    assert table_matrix(table.slice(0, 0), "close", [], SESSIONS)["close"].shape == (0, 5)


def test_panel_batches_refuse_what_does_not_fit():
    x = np.zeros((1, 5), np.float32)
    panel = Panel(["A"], SESSIONS, {"close": x})
    with pytest.raises(StoreError, match=r"missing \['y'\], extra \['z'\]"):
        list(panel_batches(SPEC, "u", panel, {"x": x, "z": x}))
    with pytest.raises(StoreError, match=r"shape"):
        list(panel_batches(SPEC, "u", panel, {"x": x, "y": x[:, :2]}))
    with pytest.raises(StoreError, match=r"dtype float64"):
        list(panel_batches(SPEC, "u", panel, {"x": x, "y": x.astype(float)}))


def test_read_panel_adjusts_by_hand(tmp_path):
    store = TableStore(tmp_path)
    # a 2:1 split between the second and the fourth session, suspended on the third
    put(store, [(0, "A", 10.0, 1.0), (1, "A", 12.0, 1.0), (3, "A", 7.0, 2.0), (1, "B", 5.0, 1.0)])
    panel = read_panel(store, "u", SESSIONS)
    assert panel.instruments == ("A", "B")
    assert set(panel.fields) == set(ENGINE_FIELDS)
    nan = np.nan
    np.testing.assert_array_equal(panel["close"][0], [10, 12, nan, 14, nan])
    np.testing.assert_array_equal(panel["high"][0], [11, 13, nan, 16, nan])
    np.testing.assert_array_equal(panel["volume"][0], [100, 100, nan, 50, nan])
    np.testing.assert_array_equal(panel["amount"][0], [1000, 1000, nan, 1000, nan])
    np.testing.assert_array_equal(panel["change"][0], np.array([nan, 12 / 10 - 1, nan, 14 / 12 - 1, nan], "f4"))
    np.testing.assert_array_equal(panel["change"][1], [nan] * 5)
    assert all(v.dtype == np.float32 for v in panel.fields.values())
    assert panel.first.tolist() == [0, 1]
    assert panel.last.tolist() == [3, 1]
    assert read_panel(store, "u", SESSIONS, ["B", "Z"], ["close"]).last.tolist() == [1, -1]


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_window_is_a_slice_of_the_whole(tmp_path_factory, data):
    store = TableStore(tmp_path_factory.mktemp("store"))
    keys = data.draw(st.sets(st.tuples(st.integers(0, 4), st.sampled_from("ABC"))))
    put(store, [(s, n, data.draw(st.floats(1, 99)), data.draw(st.floats(0.5, 2))) for s, n in sorted(keys)])
    whole = read_panel(store, "u", SESSIONS, ["A", "B", "C"])
    low, high = sorted(data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4))))
    part = read_panel(store, "u", SESSIONS[low : high + 1], ["A", "B", "C"])
    for name in ENGINE_FIELDS:
        np.testing.assert_array_equal(part[name], whole[name][:, low : high + 1])


def test_change_looks_past_a_long_suspension(tmp_path):
    store = TableStore(tmp_path)
    days = np.array(["2019-01-02", "2020-01-30"], "M8[D]")
    table = bars([(0, "A", 10.0, 1.0), (0, "B", 4.0, 1.0)])
    early = bars([(0, "A", 8.0, 1.0)]).set_column(1, RAW_OHLCV.arrow().field("date"), pa.array([days[0].item()]))
    store.replace(RAW_OHLCV, "u", date(2019, 1, 1), date(2020, 12, 31), pa.concat_tables([early, table]), {})
    got = read_panel(store, "u", SESSIONS[:1])["change"]
    np.testing.assert_array_equal(got, [[0.25], [np.nan]])


def test_read_panel_refuses_lost_sessions_and_missing_factors(tmp_path):
    store = TableStore(tmp_path)
    put(store, [(0, "A", 10.0, 1.0), (1, "A", 12.0, None)])
    with pytest.raises(StoreError, match=r"rows on 2020-01-31"):
        read_panel(store, "u", SESSIONS[[0, 2]])
    with pytest.raises(StoreError, match=r"no factor, first A on 2020-01-31"):
        read_panel(store, "u", SESSIONS)
    assert read_panel(store, "u", SESSIONS + np.timedelta64(9000, "D")).shape == (0, 5)
    assert SESSIONS[0].item() + timedelta(days=1) == date(2020, 1, 31)


def test_panels_follow_each_other(tmp_path):
    """Chunks are slices of the whole, from one version, with only the instruments of their own sessions."""
    store = TableStore(tmp_path)
    put(store, [(0, "A", 10.0, 1.0), (0, "B", 5.0, 1.0), (1, "B", 6.0, 1.0), (3, "A", 12.0, 1.0), (4, "C", 1.0, 1.0)])
    whole = read_panel(store, "u", SESSIONS)
    panels = read_panels(store, "u", SESSIONS, 2)
    parts = [next(panels)]
    put(store, [(4, "Z", 1.0, 1.0)])
    parts += panels
    assert [part.instruments for part in parts] == [("A", "B"), ("A",), ("C",)]
    for k, part in enumerate(parts):
        rows = [whole.instruments.index(name) for name in part.instruments]
        for name in ENGINE_FIELDS:
            np.testing.assert_array_equal(part[name], whole[name][rows, 2 * k : 2 * k + 2])
    with pytest.raises(StoreError, match="chunk_sessions must be at least 1, got 0"):
        next(read_panels(store, "u", SESSIONS, 0))


def test_how_far_a_correction_reaches(tmp_path):
    store = TableStore(tmp_path)
    put(store, [(0, "A", 1.0, 1.0), (3, "A", 1.0, 1.0), (0, "B", 1.0, 1.0), (1, "B", 1.0, 1.0), (4, "C", 1.0, 1.0)])

    def reach(start, end, **listed):
        spans = {name: (SESSIONS[a], SESSIONS[b]) for name, (a, b) in listed.items()}
        return int(np.searchsorted(SESSIONS, change_reach(store, "u", spans, SESSIONS[start], SESSIONS[end])))

    everyone = {"A": (0, 3), "B": (0, 1), "C": (4, 4)}
    # A's close of the first session is looked back to on the fourth
    assert reach(0, 0, **everyone) == 3
    assert reach(0, 0, B=(0, 1)) == 1
    # nobody listed by then trades later
    assert reach(3, 3, **everyone) == 3
    assert reach(4, 4, **everyone) == 4
    assert reach(0, 0) == 0
    # C was not known before the fifth session; its row on the second is new and reaches there
    put(store, [(1, "C", 1.0, 1.0), (4, "C", 1.0, 1.0)])
    assert reach(1, 1, **everyone) == 4
    assert reach(2, 2, C=(4, 4)) == 2


def test_a_reach_over_years(tmp_path):
    store = TableStore(tmp_path)
    late = np.array(["2020-01-30", "2021-07-01"], "M8[D]")
    table = bars([(0, "A", 10.0, 1.0), (1, "A", 4.0, 1.0)])
    table = table.set_column(1, RAW_OHLCV.arrow().field("date"), pa.array(late.tolist(), pa.date32()))
    store.replace(RAW_OHLCV, "u", date(2019, 1, 1), date(2021, 12, 31), table, {})
    assert change_reach(store, "u", {"A": (late[0], late[1])}, late[0], late[0]) == late[1]
