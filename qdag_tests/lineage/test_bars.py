"""Records of raw_ohlcv: kept up edit by edit, they are those of one reading of what is stored."""

import shutil
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qdag.core.sessions import SessionCalendar
from qdag.lineage import Lineage, bars, reconcile
from qdag.schema import LINEAGE, RAW_OHLCV
from qdag.store.tables import TableStore

CALENDAR = SessionCalendar("XNYS", date(2018, 1, 2), date(2018, 3, 29)).all
DAYS = CALENDAR[5:25]
NAMES = ("A", "B", "C")


def rows_of(cells: dict[tuple[int, str], float]) -> pa.Table:
    """Bars by (position in DAYS, instrument): flat, at one price."""
    keys = sorted(cells)
    price = np.array([cells[key] for key in keys])
    columns = {
        "universe": pa.array(["u"] * len(keys), pa.string()),
        "date": pa.array([DAYS[at].item() for at, _ in keys], pa.date32()),
        "instrument": pa.array([name for _, name in keys], pa.string()),
        **{name: pa.array(price) for name in ("open", "high", "low", "close", "vwap")},
        "volume": pa.array(np.full(len(keys), 1000.0)),
        "factor": pa.array(np.ones(len(keys))),
    }
    schema = RAW_OHLCV.arrow()
    return pa.table([columns.get(f.name, pa.nulls(len(keys), f.type)) for f in schema], schema=schema)


def put(store: TableStore, cells: dict[tuple[int, str], float], first: int, last: int) -> None:
    """What is stored from one day to another is exactly these cells."""
    inside = {key: value for key, value in cells.items() if first <= key[0] <= last}
    store.replace(RAW_OHLCV, "u", DAYS[first].item(), DAYS[last].item(), rows_of(inside), {})


@pytest.fixture(autouse=True)
def short_memory(monkeypatch):
    """Memories end within these few days, and what lies before them is looked for in two steps."""
    monkeypatch.setattr(bars, "MEMORY", 4)
    monkeypatch.setattr(bars, "_REACHES", (7, None))


Digests = dict[date, tuple[int, int | None, int | None]]


def recorded(store: TableStore) -> Digests:
    if not store.exists(LINEAGE.name):
        # nothing has ever had a row
        return {}
    rows = store.read(LINEAGE.name, "u", match=("asset", "raw_ohlcv")).to_pylist()
    return {row["date"]: (row["inputs"], row["past"], row["memory"]) for row in rows}


def at_once(folder, cells) -> Digests:
    store = TableStore(folder)
    put(store, cells, 0, len(DAYS) - 1)
    reconcile(store, "u", CALENDAR)
    return recorded(store)


cell = st.tuples(st.integers(0, len(DAYS) - 1), st.sampled_from(NAMES))
edits = st.lists(
    st.tuples(st.integers(0, len(DAYS) - 1), st.integers(0, 6), st.dictionaries(cell, st.floats(1, 9)), st.booleans()),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.dictionaries(cell, st.floats(1, 9), min_size=4), edits=edits)
def test_edit_by_edit_is_at_once(start, edits, tmp_path_factory):
    store, cells = TableStore(tmp_path_factory.mktemp("edits")), dict(start)
    put(store, cells, 0, len(DAYS) - 1)
    for first, length, new, look in edits:
        last = min(first + length, len(DAYS) - 1)
        cells = {key: value for key, value in cells.items() if not first <= key[0] <= last}
        cells |= {key: value for key, value in new.items() if first <= key[0] <= last}
        put(store, cells, first, last)
        if look:
            reconcile(store, "u", CALENDAR)
    reconcile(store, "u", CALENDAR)
    assert recorded(store) == at_once(tmp_path_factory.mktemp("once"), cells)


@pytest.fixture
def gapped(tmp_path) -> tuple[TableStore, dict[tuple[int, str], float]]:
    """A trades always; B is suspended from day 4 to 11; C is listed on day 8."""
    cells = {(at, "A"): 1.0 + at for at in range(20)}
    cells |= {(at, "B"): 2.0 + at for at in range(20) if not 4 <= at <= 11}
    cells |= {(at, "C"): 3.0 + at for at in range(8, 20)}
    store = TableStore(tmp_path / "tables")
    put(store, cells, 0, 19)
    reconcile(store, "u", CALENDAR)
    return store, cells


def changed(store: TableStore, before: dict) -> list[int]:
    after = recorded(store)
    return [at for at, day in enumerate(DAYS.tolist()) if before.get(day) != after.get(day)]


def test_only_rows_after_a_gap_look_back(gapped):
    store, _ = gapped
    for digest in (1, 2):
        found = [at for at, day in enumerate(DAYS.tolist()) if recorded(store)[day][digest] is not None]
        assert found == [0, 8, 12]


def test_a_close_before_a_gap_is_told_at_its_end(gapped):
    store, cells = gapped
    before = recorded(store)
    cells[3, "B"] = 9.0
    put(store, cells, 3, 3)
    reconcile(store, "u", CALENDAR)
    assert changed(store, before) == [3, 12]


def test_the_last_bars_before_a_gap_are_remembered_at_its_end(gapped):
    store, cells = gapped
    # B trades on the days 0 to 3, 12, 14 and 15, and again from 17 on
    for at in (13, 16):
        del cells[at, "B"]
    put(store, cells, 13, 16)
    reconcile(store, "u", CALENDAR)
    for at, ends in ((0, [12]), (1, [12, 14]), (3, [12, 14, 17]), (12, [14, 17]), (15, [17]), (17, [])):
        before = recorded(store)
        for digest in (1, 2):
            assert {day for day in before if before[day][digest] is not None} >= {DAYS[end].item() for end in ends}
        cells[at, "B"] += 0.5
        put(store, cells, at, at)
        reconcile(store, "u", CALENDAR)
        after = recorded(store)
        told = [i for i, day in enumerate(DAYS.tolist()) if before[day][2] != after[day][2]]
        assert told == ends, at
    assert recorded(store) == at_once(store.root + "-once", cells)


def test_a_past_that_comes_later_is_told_where_it_matters(gapped):
    """Rows before a suspension arrive: the first session after it knows, the others do not care."""
    store, cells = gapped
    late = {key: value for key, value in cells.items() if key[1] != "B" or key[0] > 11}
    put(store, late, 0, 19)
    reconcile(store, "u", CALENDAR)
    before = recorded(store)
    put(store, cells, 0, 3)
    reconcile(store, "u", CALENDAR)
    assert changed(store, before) == [0, 1, 2, 3, 12]


def test_another_log_under_the_same_version_is_read_anew(gapped, tmp_path):
    store, cells = gapped
    other = TableStore(tmp_path / "other")
    cells[10, "A"] = 5.0
    put(other, cells, 0, 19)
    shutil.rmtree(store.uri("raw_ohlcv"))
    shutil.copytree(other.uri("raw_ohlcv"), store.uri("raw_ohlcv"))
    before = recorded(store)
    assert TableStore(store.root).version("raw_ohlcv") == 1
    fresh = TableStore(store.root)
    Lineage(fresh, "u", DAYS, CALENDAR).records("raw_ohlcv")
    assert changed(fresh, before) == [10]


def test_a_table_that_is_gone_has_no_records(gapped):
    store, _ = gapped
    shutil.rmtree(store.uri("raw_ohlcv"))
    reconcile(store, "u", CALENDAR)
    assert recorded(store) == {}
