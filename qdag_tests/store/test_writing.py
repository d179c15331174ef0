"""The data files of a write: how many and how large, whatever the order of the stream, and what other writers mean."""

import itertools
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qdag.errors import StoreError
from qdag.schema import feature_table
from qdag.store import writing
from qdag.store.tables import TableStore

SPEC = feature_table("demo", [("x", "a feature")], "for tests")
START = date(2020, 1, 1)
DAYS = [START + timedelta(days=n) for n in range(120)]
NAMES = [f"N{i:02d}" for i in range(30)]


def batch(days, names, value=1.0, universe="u"):
    cells = list(itertools.product(days, names))
    data = {
        "universe": [universe] * len(cells),
        "date": [day for day, _ in cells],
        "instrument": [name for _, name in cells],
        "x": np.full(len(cells), value, np.float32),
    }
    return pa.table(data, schema=SPEC.arrow()).combine_chunks().to_batches()[0]


@pytest.fixture
def store(tmp_path):
    return TableStore(tmp_path / "tables")


def every(store):
    rows = store.read("demo", "u")
    return list(zip(rows["date"].to_pylist(), rows["instrument"].to_pylist(), strict=True))


def expected():
    return list(itertools.product(DAYS, NAMES))


@pytest.mark.parametrize("step", [1, 7, 45, 120])
def test_a_stream_in_the_order_of_time_gives_one_sorted_file_a_month(store, step):
    parts = [batch(DAYS[at : at + step], NAMES) for at in range(0, len(DAYS), step)]
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], iter(parts), {})
    files = store.files("demo")
    assert files["month"].to_pylist() == ["2020-01", "2020-02", "2020-03", "2020-04"]
    assert every(store) == expected()
    # a correction takes the place of its rows in the month's own file, in order
    corrected = pa.Table.from_batches([batch(DAYS[40:43], NAMES[::-1], 2.0)])
    store.replace(SPEC, "u", DAYS[40], DAYS[42], corrected, {})
    assert store.files("demo").num_rows == 4
    assert every(store) == expected()
    for path in store.files("demo")["path"].to_pylist():
        rows = pq.read_table(store.folder("demo") / path)
        keys = list(zip(rows["date"].to_pylist(), rows["instrument"].to_pylist(), strict=True))
        assert keys == sorted(keys)


def test_months_are_let_go_as_the_stream_moves_on(store, monkeypatch):
    """What is gathered at any time is a month or two, however long the stream."""
    held = []
    plain = writing.Writing._gather

    def watched(self, pool, rows):
        plain(self, pool, rows)
        held.append(len(self._gathered))

    monkeypatch.setattr(writing.Writing, "_gather", watched)
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], (batch([day], NAMES) for day in DAYS), {})
    assert len(held) == 120
    assert max(held) == 1


def test_a_stream_by_instrument_is_gathered_whole_or_written_in_pieces(store, monkeypatch):
    parts = [batch(DAYS, [name]) for name in NAMES]
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], iter(parts), {})
    # the first instrument's months but the last were let go before the second one showed what kind of stream it is
    assert store.files("demo").num_rows == 4 + 3
    assert every(store) == expected()
    monkeypatch.setattr(writing, "GATHERED_BYTES", 8_000)
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], iter(parts), {})
    assert store.files("demo").num_rows > 10
    assert every(store) == expected()


def test_a_large_month_is_several_files(store, monkeypatch):
    monkeypatch.setattr(writing, "FILE_BYTES", 4_000)
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], (batch([day], NAMES) for day in DAYS), {})
    files = store.files("demo")
    assert files.num_rows > 12
    # each holds days of its own: a read of one day opens few
    spans = sorted(zip(files["first"].to_pylist(), files["last"].to_pylist(), strict=True))
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(spans))
    assert every(store) == expected()


@pytest.mark.parametrize("check_rows", [10, 100, 1 << 20])
def test_twins_are_found_though_finished_dates_are_forgotten(store, monkeypatch, check_rows):
    monkeypatch.setattr(writing, "CHECK_ROWS", check_rows)
    days = [batch([day], NAMES) for day in DAYS]
    later = batch(DAYS[60:61], NAMES[5:6])
    for at in (61, 90, 120):
        # of an earlier date than the batch before: no date is finished from here on
        with pytest.raises(StoreError, match="date=2020-03-01, instrument=N05; keep one row"):
            store.replace(SPEC, "u", DAYS[0], DAYS[-1], iter([*days[:at], later, *days[at:]]), {})
    assert store.stored_files("demo") == {}
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], iter(days), {})
    assert every(store) == expected()


def test_a_failed_stream_leaves_no_file(store):
    def broken():
        yield from (batch([day], NAMES) for day in DAYS[:100])
        raise ValueError("the source broke off")

    store.replace(SPEC, "u", DAYS[0], DAYS[0], pa.Table.from_batches([batch(DAYS[:1], NAMES)]), {})
    before = store.stored_files("demo")
    with pytest.raises(ValueError, match="broke off"):
        store.replace(SPEC, "u", DAYS[0], DAYS[-1], broken(), {})
    assert store.stored_files("demo") == before
    assert store.version("demo") == 1


def test_commits_to_other_places_are_let_pass(store, tmp_path):
    """A stream is read once, though other days, another universe and another value are written meanwhile."""
    other = TableStore(tmp_path / "tables")
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], iter([batch(DAYS, NAMES)]), {})
    began = []

    def stream():
        began.append(1)
        yield batch(DAYS[10:11], NAMES, 2.0)
        other.replace(SPEC, "u", DAYS[50], DAYS[50], pa.Table.from_batches([batch(DAYS[50:51], NAMES, 3.0)]), {})
        other.replace(SPEC, "w", DAYS[9], DAYS[11], iter([batch(DAYS[9:12], NAMES, 4.0, "w")]), {})

    assert store.replace(SPEC, "u", DAYS[10], DAYS[10], stream, {}) == 4
    assert began == [1]
    seen = dict(zip(store.read("demo", "u")["date"].to_pylist(), store.read("demo", "u")["x"].to_pylist(), strict=True))
    assert seen == {day: {DAYS[10]: 2.0, DAYS[50]: 3.0}.get(day, 1.0) for day in DAYS}
    assert every(store) == expected()
    assert len(store.read("demo", "w")) == 90


@pytest.mark.parametrize("others", ["the same days", "the same file", "compaction", "a column"])
def test_a_commit_to_the_same_place_begins_the_write_anew(store, tmp_path, others):
    other = TableStore(tmp_path / "tables")
    for day in DAYS[:4]:
        store.replace(SPEC, "u", day, day, pa.Table.from_batches([batch([day], NAMES)]), {})
    if others == "the same file":
        store.compact("demo")
    began = []

    def meanwhile():
        if others == "compaction":
            other.compact("demo")
        elif others == "a column":
            wider = feature_table("demo", [("x", "a feature"), ("y", "another")], "for tests")
            rows = pa.Table.from_batches([batch(DAYS[5:6], NAMES)])
            other.replace(wider, "u", DAYS[5], DAYS[5], rows.append_column("y", pa.nulls(30, pa.float32())), {})
        else:
            day = DAYS[1] if others == "the same days" else DAYS[2]
            other.replace(SPEC, "u", day, day, pa.Table.from_batches([batch([day], NAMES[:3], 3.0)]), {})

    def stream():
        began.append(1)
        yield batch(DAYS[1:2], NAMES, 2.0)
        if len(began) == 1:
            meanwhile()

    store.replace(SPEC, "u", DAYS[1], DAYS[1], stream, {})
    assert began == [1, 1]
    rows = store.read("demo", "u", DAYS[1], DAYS[1])
    assert rows["x"].to_pylist() == [2.0] * 30
    assert len(store.read("demo", "u", DAYS[2], DAYS[2])) == (3 if others == "the same file" else 30)
    # no file of the first attempt is left
    known = {path for v in range(store.version("demo") + 1) for path in store.files("demo", v)["path"].to_pylist()}
    assert store.stored_files("demo").keys() == known
    began.clear()
    with pytest.raises(StoreError, match="the stream of batches cannot be read twice"):
        store.replace(SPEC, "u", DAYS[1], DAYS[1], _interrupted(other), {})


def _interrupted(other):
    yield batch(DAYS[1:2], NAMES, 5.0)
    other.replace(SPEC, "u", DAYS[1], DAYS[1], pa.Table.from_batches([batch(DAYS[1:2], NAMES[:2])]), {})


def test_what_fails_after_a_commit_does_not_undo_it(store):
    """The fiftieth commit makes a checkpoint; where it cannot be put, the write has happened all the same."""
    for n in range(48):
        store.replace(SPEC, "u", DAYS[n], DAYS[n], pa.Table.from_batches([batch(DAYS[n : n + 1], NAMES)]), {})
    (store.folder("demo") / "_delta_log" / f"{49:020d}.checkpoint.parquet").mkdir()
    assert store.replace(SPEC, "u", DAYS[48], DAYS[48], iter([batch(DAYS[48:49], NAMES)]), {}) == 49
    assert len(every(store)) == 49 * 30
    assert len(store.checksums("demo")) == 49
