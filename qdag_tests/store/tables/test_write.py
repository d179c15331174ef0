"""The data files of a write: how many and how large, whatever the order of the stream, and what other writers mean."""

import itertools
import os
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from qdag.errors import StoreError, UnknownNameError
from qdag.schema import DATE, INSTRUMENT, UNIVERSE, Column, TableSpec, feature_table
from qdag.store.tables import TableStore, write
from qdag.store.tables import read as reading
from qdag.store.threads import map_threads

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
    plain = write.Writing._gather

    def watched(self, pool, rows):
        plain(self, pool, rows)
        held.append(len(self._gathered))

    monkeypatch.setattr(write.Writing, "_gather", watched)
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], (batch([day], NAMES) for day in DAYS), {})
    assert len(held) == 120
    assert max(held) == 1


def test_a_stream_by_instrument_is_gathered_whole_or_written_in_pieces(store, monkeypatch):
    parts = [batch(DAYS, [name]) for name in NAMES]
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], iter(parts), {})
    # the first instrument's months but the last were let go before the second one showed what kind of stream it is
    assert store.files("demo").num_rows == 4 + 3
    assert every(store) == expected()
    monkeypatch.setattr(write, "GATHERED_BYTES", 8_000)
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], iter(parts), {})
    # pieces of a month are merged in the end
    assert max(store.history("demo"), key=lambda c: c["operation"] == "WRITE")["rows"] == 120 * 30
    assert store.files("demo").num_rows == 4
    assert every(store) == expected()


def test_a_large_month_is_several_files(store, monkeypatch):
    monkeypatch.setattr(write, "FILE_BYTES", 4_000)
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], (batch([day], NAMES) for day in DAYS), {})
    files = store.files("demo")
    assert files.num_rows > 12
    # each holds days of its own: a read of one day opens few
    spans = sorted(zip(files["first"].to_pylist(), files["last"].to_pylist(), strict=True))
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(spans))
    # files of a month are read in the order of their keys, so nothing is sorted
    plain, ascending = reading.ascends, []
    monkeypatch.setattr(reading, "ascends", lambda *asked: ascending.append(plain(*asked)) or ascending[-1])
    assert every(store) == expected()
    assert set(ascending) == {True}


@pytest.mark.parametrize("check_rows", [10, 100, 1 << 20])
def test_twins_are_found_though_finished_dates_are_forgotten(store, monkeypatch, check_rows):
    monkeypatch.setattr(write, "CHECK_ROWS", check_rows)
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
    for day in DAYS[:3]:
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
    """Every twentieth commit makes a checkpoint; where it cannot be put, the write has happened all the same."""
    store.replace(SPEC, "u", DAYS[0], DAYS[0], pa.Table.from_batches([batch(DAYS[:1], NAMES)]), {})
    blocked = store.folder("demo") / "_delta_log" / f"{19:020d}.checkpoint.parquet"
    blocked.mkdir()
    for n in range(1, 25):
        store.replace(SPEC, "u", DAYS[n], DAYS[n], pa.Table.from_batches([batch(DAYS[n : n + 1], NAMES)]), {})
    assert store.version("demo") > 25
    assert blocked.is_dir()
    assert len(every(store)) == 25 * 30
    assert store.checksums("demo").keys() == store.stored_files("demo").keys()


def table_of(*columns, keys=("universe", "date", "instrument")):
    return TableSpec("demo", keys, (UNIVERSE, DATE, INSTRUMENT, *columns), "for tests")


def tagged(spec, *cells):
    data = {"universe": ["u"] * len(cells), "date": [c[0] for c in cells], "instrument": [c[1] for c in cells]}
    data |= {name: [c[2 + i] for c in cells] for i, name in enumerate(spec.values)}
    return pa.table(data, schema=spec.arrow())


def test_rows_are_replaced_by_the_value_of_a_required_text_only(store):
    required = table_of(Column("tag", "string", "", nullable=False))
    store.replace(required, "u", DAYS[0], DAYS[9], tagged(required, (DAYS[0], "A", "t"), (DAYS[1], "B", "z")), {})
    store.replace(required, "u", DAYS[0], DAYS[9], tagged(required, (DAYS[2], "A", "t")), {}, match=("tag", "t"))
    assert every(store) == [(DAYS[1], "B"), (DAYS[2], "A")]
    with pytest.raises(StoreError, match="do not have tag 't'; write it alone"):
        store.replace(required, "u", DAYS[0], DAYS[9], tagged(required, (DAYS[2], "A", "z")), {}, match=("tag", "t"))
    optional = table_of(Column("tag", "string", ""), Column("n", "int64", "", nullable=False))
    for column, problem in (("tag", "is string, may be null"), ("n", "is int64;")):
        with pytest.raises(StoreError, match=f"'{column}' of table 'demo' {problem}.* text column that may not be"):
            store.replace(optional, "u", DAYS[0], DAYS[9], iter(()), {}, match=(column, "t"))
    with pytest.raises(UnknownNameError, match=r"'tga'.*tag"):
        store.replace(optional, "u", DAYS[0], DAYS[9], iter(()), {}, match=("tga", "t"))


def test_a_required_column_cannot_be_left_out_later(store):
    required, without = table_of(Column("m", "string", "", nullable=False)), table_of()
    store.replace(required, "u", DAYS[0], DAYS[9], tagged(required, (DAYS[0], "A", "v")), {})
    with pytest.raises(StoreError, match=r"column 'm' of table 'demo' may not be null .* no longer declared"):
        store.replace(without, "u", DAYS[5], DAYS[5], tagged(without, (DAYS[5], "B")), {})
    store.compact("demo")


def test_a_key_has_a_value():
    with pytest.raises(ValueError, match=r"keys \['tag'\] that may be null"):
        table_of(Column("tag", "string", ""), keys=("universe", "date", "tag"))


@pytest.mark.parametrize("gone", ["vacuum", "set aside"])
def test_a_stored_file_that_another_commit_took_out_begins_the_write_anew(store, tmp_path, gone):
    """What stays of a file is read as the stream passes its month: by then a vacuum may have deleted it."""
    other = TableStore(tmp_path / "tables")
    store.replace(SPEC, "u", DAYS[0], DAYS[9], iter([batch(DAYS[:10], NAMES)]), {})
    began = []

    def stream():
        began.append(1)
        if len(began) == 1 and gone == "vacuum":
            other.replace(SPEC, "u", DAYS[3], DAYS[3], iter([batch(DAYS[3:4], NAMES, 3.0)]), {})
            other.vacuum("demo")
        elif len(began) == 1:
            other.set_aside("demo", other.files("demo")["path"].to_pylist(), {})
        yield batch(DAYS[2:3], NAMES, 2.0)

    store.replace(SPEC, "u", DAYS[2], DAYS[2], stream, {})
    assert began == [1, 1]
    rows = store.read("demo", "u")
    seen = dict(zip(rows["date"].to_pylist(), rows["x"].to_pylist(), strict=True))
    if gone == "vacuum":
        assert seen == {day: {DAYS[2]: 2.0, DAYS[3]: 3.0}.get(day, 1.0) for day in DAYS[:10]}
    else:
        assert seen == {DAYS[2]: 2.0}


@pytest.mark.parametrize("damage", ["lost", "flipped"])
def test_a_damaged_stored_file_is_told_with_its_remedy(store, damage):
    store.replace(SPEC, "u", DAYS[0], DAYS[9], iter([batch(DAYS[:10], NAMES)]), {})
    file = store.folder("demo") / store.files("demo")["path"].to_pylist()[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(content)
    told = "is not there" if damage == "lost" else "is damaged: .*CRC checksum"
    told = rf"'demo' cannot be read: its file 'universe=u/.*{file.name}' {told}.*`qdag data verify demo`.*--repair"
    for read in (store.read, store.count) if damage == "lost" else (store.read,):
        with pytest.raises(StoreError, match=told):
            read("demo", "u")
    with pytest.raises(StoreError, match=told):
        store.replace(SPEC, "u", DAYS[2], DAYS[2], iter([batch(DAYS[2:3], NAMES)]), {})
    assert store.version("demo") == 1
    assert len(store.stored_files("demo")) == (damage == "flipped")


def test_a_commit_that_cannot_be_made_leaves_no_file(store):
    store.replace(SPEC, "u", DAYS[0], DAYS[9], iter([batch(DAYS[:10], NAMES)]), {})
    before = store.stored_files("demo")
    # a folder where the log's next file would be
    (store.folder("demo") / "_delta_log" / f"{2:020d}.json").mkdir()
    with pytest.raises(StoreError, match=r"table 'demo' cannot be written \(1 attempts to commit version 2\)"):
        store.replace(SPEC, "u", DAYS[2], DAYS[2], iter([batch(DAYS[2:3], NAMES)]), {})
    assert store.stored_files("demo") == before


def test_slices_do_not_hold_their_batches(store, monkeypatch):
    """A row of a month that never fills, in each batch of another one: only the row is kept."""
    alive = []
    held = []
    plain = write.Writing._gather

    def watched(self, pool, rows):
        plain(self, pool, rows)
        alive.append(sum(pool() is not None for pool in held))

    monkeypatch.setattr(write.Writing, "_gather", watched)
    monkeypatch.setattr(write, "FILE_BYTES", 1 << 16)

    def stream():
        for n in range(60):
            names = [f"M{n}-{i}" for i in range(3000)]
            rows = pa.Table.from_batches([batch(DAYS[:1], names[:1]), batch(DAYS[40:41], names)]).combine_chunks()
            values = rows["x"].combine_chunks().to_numpy().copy()
            held.append(weakref.ref(values))
            rows = rows.set_column(3, SPEC.arrow().field("x"), pa.array(values))
            del values
            yield rows.to_batches()[0]

    store.replace(SPEC, "u", DAYS[0], DAYS[-1], stream, {})
    assert len(alive) >= 60
    assert max(alive) < 20
    assert len(every(store)) == 60 * 3001


def test_one_giant_batch_is_several_files(store, monkeypatch):
    monkeypatch.setattr(write, "FILE_BYTES", 8_000)
    row_bytes = 4 + (4 + 3) + 4
    store.replace(SPEC, "u", DAYS[0], DAYS[-1], iter([batch(DAYS, NAMES)]), {})
    assert max(store.files("demo")["rows"].to_pylist()) * row_bytes < 1.5 * 8_000
    # with what stays of a month too
    store.compact("demo")
    store.replace(SPEC, "u", DAYS[40], DAYS[40], iter([batch(DAYS[40:41], NAMES)]), {})
    files = store.files("demo").filter(pc.field("month") == "2020-02")
    assert max(files["rows"].to_pylist()) * row_bytes < 1.5 * 8_000
    assert every(store) == expected()


def test_files_that_a_vacuum_took_meanwhile_are_not_committed(store, tmp_path, monkeypatch):
    """Nobody knows the files of a write before its commit; a vacuum takes such files when they are a day old."""
    monkeypatch.setattr(write, "LONG_SECONDS", 0)
    store.replace(SPEC, "u", DAYS[0], DAYS[0], iter([batch(DAYS[:1], NAMES)]), {})
    known = store.stored_files("demo").keys()

    def stream():
        yield batch(DAYS[1:32], NAMES)
        yield batch(DAYS[32:62], NAMES)
        yield batch(DAYS[62:90], NAMES)
        while not (new := [p for p in store.stored_files("demo") if p not in known]):
            time.sleep(0.01)
        for path in new:
            os.utime(store.folder("demo") / path, (0, 0))
        TableStore(tmp_path / "tables").vacuum("demo")

    with pytest.raises(StoreError, match=r"files of a write to table 'demo' were deleted before its commit"):
        store.replace(SPEC, "u", DAYS[1], DAYS[-1], stream(), {})
    assert every(store) == [(DAYS[0], name) for name in NAMES]


def test_a_small_read_does_not_wait_for_a_large_one():
    """Threads are shared by the process: whoever comes later gets a turn before the first one's last item."""
    order = []

    def work(who):
        time.sleep(0.02)
        order.append(who)
        return who

    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(lambda: list(map_threads(work, ["large"] * 40)))
        time.sleep(0.1)
        small = pool.submit(lambda: list(map_threads(work, ["small"])))
        assert small.result() == ["small"]
        assert large.result() == ["large"] * 40
    assert 2 < order.index("small") < 20
