"""What a desk reads and computes is what is stored, in every shape; what is not there is named."""

from datetime import date, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import qdag
from qdag.core.pools import Pool
from qdag.engine import Panel
from qdag.errors import ExpressionError, MissingDataError, QdagError, SessionError, StoreError, UnknownNameError
from qdag.features.catalogue import feature_set
from qdag.store.joined import side_by_side
from qdag.store.qlib.reader import read_pool

EXPRESSIONS = sorted(feature_set("alpha158").expressions | feature_set("basic_statistics").expressions)
DAYS = pd.bdate_range("2012-04-02", "2012-12-31").tolist()


def test_a_set_is_its_table(desk):
    frame = desk.features("sample", "alpha158")
    stored = desk.platform.store.read("alpha158", "sample")
    assert frame.index.names == ["datetime", "instrument"]
    assert frame.index.is_monotonic_increasing
    assert list(frame.columns) == [
        name for name in stored.column_names if name not in ("universe", "date", "instrument")
    ]
    for name in ("KMID", "CORD60"):
        np.testing.assert_array_equal(frame[name].to_numpy(), stored[name].to_numpy())
    assert set(frame.dtypes) == {np.dtype("float32")}


@hypothesis_settings(max_examples=12)
@given(
    names=st.lists(st.sampled_from(EXPRESSIONS), min_size=1, max_size=4, unique=True),
    ends=st.tuples(st.sampled_from(DAYS), st.sampled_from(DAYS)).map(sorted),
    instruments=st.none() | st.lists(st.sampled_from(["AAPL", "FB", "GOOG", "IBM", "MSFT"]), min_size=1, unique=True),
    older=st.booleans(),
)
def test_expressions_give_the_stored_columns(desk, names, ends, instruments, older):
    """The engine over the store, with its own look-back, to the last bit; also from the bars of a version."""
    whole = feature_set("basic_statistics").expressions | feature_set("alpha158").expressions
    table = {name: "alpha158" if name in feature_set("alpha158").expressions else "basic_statistics" for name in names}
    start, end = ends
    if not len(desk.sessions("sample", start, end)):
        return
    version = {"raw_ohlcv": desk.platform.store.version("raw_ohlcv")} if older else None
    asked = {"start": start, "end": end, "instruments": instruments}
    computed = desk.features("sample", {name: whole[name] for name in names}, version=version, **asked)
    stored = desk.features("sample", {name: f"{table[name]}.{name}" for name in names}, **asked)
    pd.testing.assert_frame_equal(computed, stored, check_exact=True)


def test_the_shapes_hold_the_same_values(desk):
    names = ["alpha158.KMID", "BETA60", "Mean($close, 5)/$close", "gap"]
    asked = ("sample", names, "2012-05", "2012-06")
    frame = desk.features(*asked)
    table, polars, panel = (desk.features(*asked, as_=shape) for shape in ("arrow", "polars", "numpy"))
    assert isinstance(table, pa.Table)
    assert table.column_names == polars.columns == ["date", "instrument", *names]
    assert isinstance(panel, Panel)
    assert panel.shape == (5, frame.index.levels[0].size)
    for name in names:
        np.testing.assert_array_equal(frame[name].to_numpy(), table[name].to_numpy())
        assert polars[name].null_count() == frame[name].isna().sum()
        np.testing.assert_array_equal(polars[name].drop_nulls().to_numpy(), frame[name].dropna().to_numpy())
        wide = frame.reset_index().pivot_table(name, "instrument", "datetime", dropna=False)
        np.testing.assert_array_equal(panel[name], wide.to_numpy())
    turned = desk.features(*asked, layout="instrument")
    assert turned.index.names == ["instrument", "datetime"]
    assert turned.index.is_monotonic_increasing
    pd.testing.assert_frame_equal(turned, frame.swaplevel().sort_index(), check_exact=True)
    assert repr(panel).startswith(f"Panel(5 instruments x {panel.shape[1]} sessions, 2012-05-01 to 2012-06-29; ")


def test_a_row_that_one_table_lacks_is_missing_in_its_columns():
    def rows(cells: dict[tuple[int, str], float], name: str) -> pa.Table:
        days = pa.array([date(2020, 1, day) for day, _ in cells], pa.date32())
        return pa.table({"date": days, "instrument": [who for _, who in cells], name: list(cells.values())})

    left = rows({(2, "A"): 1.0, (2, "C"): 2.0, (3, "A"): 3.0}, "x")
    right = rows({(2, "B"): 4.0, (2, "C"): 5.0, (6, "A"): 6.0}, "y")
    assert side_by_side([left, right]).to_pylist() == [
        {"date": date(2020, 1, day), "instrument": who, "x": x, "y": y}
        for day, who, x, y in (
            (2, "A", 1.0, None),
            (2, "B", None, 4.0),
            (2, "C", 2.0, 5.0),
            (3, "A", 3.0, None),
            (6, "A", None, 6.0),
        )
    ]
    assert side_by_side([left.slice(0, 0), right.slice(0, 0)]).num_rows == 0


@pytest.mark.parametrize("as_", ["pandas", "polars", "arrow", "numpy"])
def test_no_row_is_a_frame_without_rows(desk, as_):
    """FB is not listed yet, and nobody is asked for."""
    for instruments in ("FB", []):
        found = desk.features(
            "sample", ["KMID", "CSRank($close)"], "2012-04", "2012-04", instruments=instruments, as_=as_
        )
        assert found.shape[0] == 0
        assert desk.features("sample", "$close", "2012-04", "2012-04", instruments=instruments, as_=as_).shape[0] == 0


def test_columns_of_the_same_name_are_told_apart(desk):
    frame = desk.features("sample", ["alpha158", "basic_statistics"], "2012-12-31", as_="arrow")
    assert {"alpha158.CORR10", "basic_statistics.CORR10"} <= set(frame.column_names)
    with pytest.raises(UnknownNameError, match=r"in several sets; name one of alpha158\.CORR10"):
        desk.features("sample", "CORR10")


def test_pools_choose_rows_and_the_cross_section(desk):
    pool = read_pool(desk.settings.provider("sample"), "busy")
    assert isinstance(pool, Pool)
    frame = desk.features("sample", ["CSRank($close)", "KMID"], "2012-07", "2012-08", pool="busy")
    assert all(name in pool.members(day.date()) for day, name in frame.index)
    ranks = frame["CSRank($close)"].to_numpy().reshape(-1, 3)
    np.testing.assert_allclose(np.sort(ranks), np.tile([1 / 3, 2 / 3, 1], (len(ranks), 1)), rtol=1e-6)
    one = desk.features("sample", "CSRank($close)", "2012-07", "2012-08", instruments="IBM")
    every = desk.features("sample", "CSRank($close)", "2012-07", "2012-08")
    pd.testing.assert_frame_equal(one, every.xs("IBM", level="instrument", drop_level=False), check_exact=True)
    assert desk.instruments("sample", "busy", "2012-07-05") == sorted(pool.members(date(2012, 7, 5)))
    assert "FB" not in desk.instruments("sample", day="2012-05-17")
    assert "FB" in desk.instruments("sample", day="2012-05-18")


def test_bars_are_raw_or_adjusted(desk):
    raw = desk.bars("sample", "close", "2012-07-03", "2012-07-05", adjusted=False)
    factor = desk.bars("sample", ["factor"], "2012-07-03", "2012-07-05", adjusted=False)
    adjusted = desk.bars("sample", "close", date(2012, 7, 3), datetime(2012, 7, 5, 9))
    np.testing.assert_array_equal(adjusted["close"], (raw["close"] * factor["factor"]).astype("float32"))
    assert list(desk.bars("sample", start="2012-12-31").columns) == [
        "open", "high", "low", "close", "volume", "vwap", "change", "factor", "amount"
    ]  # fmt: skip
    assert desk.bars("sample", adjusted=False, start="2012-12-31")["close"].dtype == np.float64


def test_labels_are_forward_returns(desk):
    labels = desk.labels("sample", 1, "2012-12")
    of_instrument = desk.bars("sample", "close", "2012-12")["close"].groupby("instrument")
    expected = of_instrument.shift(-2) / of_instrument.shift(-1) - 1
    np.testing.assert_allclose(labels["label_1"], expected, atol=1e-6)
    assert list(desk.labels("sample", start="2012-12").columns) == ["label_1", "label_5"]


def test_sessions_and_universes(desk):
    assert desk.sessions("sample", "2012-12-22", "2012-12-28").strftime("%d").tolist() == ["24", "26", "27", "28"]
    row = desk.universes().loc["sample"]
    assert (row["calendar"], row["instruments"], row["pools"]) == ("XNYS", 5, "all, busy")
    assert (row["first"], row["last"]) == (pd.Timestamp("2012-04-02"), pd.Timestamp("2012-12-31"))


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"universe": "sampel"}, UnknownNameError, "unknown universe 'sampel'; did you mean 'sample'"),
        ({"names": "alpha15"}, UnknownNameError, "did you mean 'alpha158'"),
        ({"names": "alpha158.KMIDD"}, UnknownNameError, r"unknown column of alpha158 'KMIDD'; did you mean 'KMID'"),
        ({"names": "alpha159.KMID"}, UnknownNameError, "unknown feature set 'alpha159'; did you mean 'alpha158'"),
        ({"names": "Maen($close, 5)"}, ExpressionError, "did you mean 'Mean'"),
        ({"names": "$closee"}, ExpressionError, r"did you mean '\$close'"),
        ({"names": "Ref($close, -1)"}, ExpressionError, "future"),
        ({"names": []}, QdagError, "no feature is named"),
        ({"names": ["KMID", "KMID"]}, QdagError, "two columns would be called 'KMID'"),
        ({"names": {"x": "alpha158"}}, QdagError, "a set of many columns"),
        ({"names": {"date": "$close"}}, QdagError, "cannot be called 'date'"),
        ({"names": "price_features"}, UnknownNameError, "unknown feature set or column 'price_features'"),
        ({"start": "2012-06-30", "end": "2012-06-01"}, SessionError, "start 2012-06-30 is after end 2012-06-01"),
        ({"start": "2012-06-31"}, SessionError, "'2012-06-31' is no day"),
        ({"start": "tomorrow"}, SessionError, "'tomorrow' is no day"),
        ({"start": "2012-06-02", "end": "2012-06-03"}, SessionError, "nearest: 2012-06-01 and 2012-06-04"),
        ({"names": "$close", "start": "2012-06-02", "end": "2012-06-03"}, SessionError, "nearest: 2012-06-01"),
        ({"instruments": "IBMM"}, UnknownNameError, "did you mean 'IBM'"),
        ({"pool": "bussy"}, UnknownNameError, "did you mean 'busy'"),
        ({"as_": "panda"}, UnknownNameError, "did you mean 'pandas'"),
        ({"as_": "arrow", "layout": "instrument"}, QdagError, "leave layout out"),
        ({"version": 99}, StoreError, "version 99 of table 'alpha158' never existed; the nearest that can be read is"),
        ({"names": ["KMID", "$close"], "version": 1}, QdagError, "give versions by table"),
        ({"version": {"alpha15": 1}}, UnknownNameError, "did you mean 'alpha158'"),
    ],
)
def test_what_is_not_there_is_named(desk, asked, error, says):
    with pytest.raises(error, match=says):
        desk.features(**({"universe": "sample", "names": "KMID"} | asked))


def test_other_methods_name_what_is_not_there(desk):
    for call, says in (
        (lambda: desk.bars("sample", "closee"), "did you mean 'close'"),
        (lambda: desk.bars("sample", "change", adjusted=False), "unknown raw field 'change'"),
        (lambda: desk.labels("sample", 2), "unknown horizon '2'"),
        (lambda: desk.metrics("sample", "KMDI"), "did you mean 'KMID'"),
        (lambda: desk.metrics("sample", pool="bussy"), "did you mean 'busy'"),
        (lambda: desk.instruments("sample", day="2012-06-02"), "2012-06-02 is no session"),
        (lambda: desk.versions("alpha15"), "did you mean 'alpha158'"),
        (lambda: desk.as_of("no-run"), "unknown run 'no-run'"),
        (lambda: desk.metrics("sample", as_="numpy"), "make no panel"),
    ):
        with pytest.raises(QdagError, match=says):
            call()


def test_polars_is_an_extra(desk, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(QdagError, match=r"qdag\[polars\]"):
        desk.features("sample", "KMID", as_="polars")


def test_a_home_without_tables_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = qdag.open()
    assert empty.universes()["sessions"].tolist() == [0]
    for call in (
        lambda: empty.features("sample", "alpha158"),
        lambda: empty.features("sample", "$close"),
        lambda: empty.bars("sample", adjusted=False),
        lambda: empty.leaderboard("sample"),
        lambda: empty.metrics("sample"),
        lambda: empty.models("sample"),
        lambda: empty.instruments("sample"),
        lambda: empty.as_of("2020"),
    ):
        with pytest.raises(MissingDataError, match=r"materialize|nothing was stored"):
            call()
    with pytest.raises(UnknownNameError, match="unknown settings file"):
        qdag.open("qdga.toml")
