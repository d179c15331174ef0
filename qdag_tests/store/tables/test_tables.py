"""The Delta tables: exact replacement, refusals, concurrency between real processes, versions."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.errors import MissingDataError, StoreError, UnknownNameError
from qdag.schema import FACTOR_METRICS, QUARANTINE, feature_table
from qdag.store.tables import TableStore
from qdag.store.tables.merge import MERGED_FILES
from qdag.store.tables.write import DataFiles

SPEC = feature_table("demo", [("x", "a feature")], "for tests")
DAY = date(2020, 1, 30)


def rows(cells, universe="u", spec=SPEC):
    """Table of (date, instrument, x) cells."""
    data = {
        "universe": [universe] * len(cells),
        "date": [c[0] for c in cells],
        "instrument": [c[1] for c in cells],
        "x": [c[2] for c in cells],
    }
    return pa.table(data, schema=spec.arrow())


def stored(store, universe="u", **options):
    table = store.read("demo", universe, columns=["date", "instrument", "x"], **options)
    return list(zip(*(table[c].to_pylist() for c in table.column_names), strict=True))


def day(n):
    return DAY + timedelta(days=n)


@pytest.fixture
def store(tmp_path):
    return TableStore(tmp_path / "tables")


def test_replaces_the_range_of_one_universe_only(store):
    first = [(day(i), n, float(i)) for i in range(5) for n in "BA"]
    assert store.replace(SPEC, "u", day(0), day(4), rows(first), {}) == 1
    store.replace(SPEC, "w", day(0), day(4), rows(first, "w"), {})
    version = store.replace(SPEC, "u", day(1), day(3), rows([(day(2), "C", 9.0)]), {"hash": "it's"})
    assert stored(store) == [(day(0), "A", 0), (day(0), "B", 0), (day(2), "C", 9), (day(4), "A", 4), (day(4), "B", 4)]
    assert stored(store, "w") == sorted(first)
    assert stored(store, version=1) == sorted(first)
    assert store.version("demo") == version
    assert store.history("demo")[0]["provenance"] == {"hash": "it's"}
    assert store.history("demo")[0]["version"] == version
    assert stored(store, start=day(2), end=day(2)) == [(day(2), "C", 9)]
    assert stored(store, instruments=["A"]) == [(day(0), "A", 0), (day(4), "A", 4)]
    assert store.sessions("demo", "u").tolist() == [day(0), day(2), day(4)]
    assert store.count("demo", "u") == 5
    assert store.count("demo", "u", day(1), day(3)) == 1
    assert store.names() == ["demo"]
    assert store.columns("demo") == ["universe", "date", "instrument", "x"]


def test_zero_rows_empty_a_range_and_may_create_a_table(store):
    store.replace(SPEC, "u", day(0), day(4), rows([]), {})
    assert store.exists("demo")
    assert stored(store) == []
    assert store.sessions("demo", "u").dtype == np.dtype("M8[D]")
    assert len(store.sessions("demo", "u")) == 0
    store.replace(SPEC, "u", day(0), day(4), rows([(day(0), "A", 1.0), (day(3), "A", 2.0)]), {})
    store.replace(SPEC, "u", day(3), day(3), rows([]), {})
    assert stored(store) == [(day(0), "A", 1)]
    store.replace(SPEC, "u", day(0), day(0), iter(()), {})
    assert stored(store) == []


@st.composite
def replacements(draw):
    """First day, number of days, the one instrument or None for all, and the new cells."""
    start, length = draw(st.integers(0, 6)), draw(st.integers(1, 4))
    one = draw(st.none() | st.sampled_from(["a", "b"]))
    keys = st.tuples(st.integers(start, start + length - 1), st.sampled_from([one] if one else ["NA", "TRUE", "a"]))
    return start, length, one, draw(st.dictionaries(keys, st.none() | st.floats(width=32, allow_nan=False)))


@settings(max_examples=25, deadline=None)
@given(st.data(), st.booleans())
def test_equals_a_dictionary(tmp_path_factory, data, yearly):
    """Any sequence of replacements, of all instruments or of one, over the turn of a month and of a year, while another
    writer replaces and compacts."""
    root = tmp_path_factory.mktemp("store")
    store, other = TableStore(root), TableStore(root)
    spec = replace(SPEC, yearly=yearly)
    first = data.draw(st.sampled_from([DAY, date(2019, 12, 29)]))
    model = {}

    def on(n):
        return first + timedelta(days=n)

    def write(by, replacement, form):
        start, length, one, cells = replacement
        table = rows([(on(d), n, x) for (d, n), x in cells.items()])
        match = ("instrument", one) if one else None
        by.replace(spec, "u", on(start), on(start + length - 1), form(table), {}, match=match)
        for key in [k for k in model if start <= k[0] < start + length and one in (None, k[1])]:
            del model[key]
        model.update(cells)

    def streamed(meanwhile):
        def form(table):
            def stream():
                yield from table.to_batches(max_chunksize=2)
                while meanwhile:
                    meanwhile.pop()()

            return stream

        return form

    for _ in range(5):
        kind = data.draw(st.sampled_from(["table", "iterator", "overtaken", "compacted"]))
        if kind == "table":
            form = pa.table
        elif kind == "iterator":
            form = lambda table: iter(table.to_batches(max_chunksize=2))  # noqa: E731
        elif kind == "overtaken":
            form = streamed([partial(write, other, data.draw(replacements()), pa.table)])
        else:
            form = streamed([partial(other.compact, "demo")])
        write(store, data.draw(replacements()), form)
        assert stored(store) == [(on(d), n, v) for (d, n), v in sorted(model.items())]
    assert store.sessions("demo", "u").tolist() == sorted({on(d) for d, _ in model})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (rows([(day(0), "A", 1.0)]).drop(["x"]), r"missing columns \['x'\]"),
        (rows([(day(0), "A", 1.0)]).append_column("y", [[1]]), r"extra columns \['y'\]"),
        (rows([(day(0), "A", 1.0)]).set_column(3, "x", [pa.array([1.0])]), "'x' is double instead of float"),
        (rows([(day(1), "A", 1.0)]), "outside the replaced range 2020-01-30..2020-01-30, first 2020-01-31"),
        (rows([(day(0), "A", 1.0)], "w"), "of universe 'w', but 'u'"),
        (
            rows([(day(0), "A", 1.0), (day(0), "B", 1.0), (day(0), "A", 2.0)]),
            "already in the write, first .*instrument=A",
        ),
        (rows([(day(0), None, 1.0)]), "'instrument' of table 'demo' must have a value; 1 rows"),
    ],
)
def test_refuses_and_leaves_the_table_alone(store, table, message):
    before = store.replace(SPEC, "u", day(0), day(0), rows([(day(0), "Z", 5.0)]), {})
    for data in (table, iter(table.to_batches(max_chunksize=1))):
        with pytest.raises(StoreError, match=message):
            store.replace(SPEC, "u", day(0), day(0), data, {})
    assert store.version("demo") == before
    assert stored(store) == [(day(0), "Z", 5)]


def test_error_of_the_stream_itself_comes_out(store):
    def broken():
        yield from rows([(day(0), "A", 1.0)]).to_batches()
        raise ZeroDivisionError("computing the next batch")

    store.replace(SPEC, "u", day(0), day(0), rows([]), {})
    with pytest.raises(ZeroDivisionError, match=r"next batch"):
        store.replace(SPEC, "u", day(0), day(0), broken(), {})
    assert stored(store) == []


def test_refuses_nan_in_required_floats_and_accepts_any_string_encoding(store):
    row = dict.fromkeys(c.name for c in FACTOR_METRICS.columns)
    row |= {"universe": "u", "date": day(1), "pool": "all", "horizon": 1, "factor": "demo.x", "signal_date": day(0)}
    table = pa.Table.from_pylist([row, row | {"horizon": 5}], schema=FACTOR_METRICS.arrow())
    table = table.set_column(2, "pool", table["pool"].dictionary_encode())
    table = table.set_column(4, "factor", table["factor"].cast(pa.large_string()))
    store.replace(FACTOR_METRICS, "u", day(1), day(1), table, {})
    assert store.read("factor_metrics", "u")["horizon"].to_pylist() == [1, 5]
    with pytest.raises(UnknownNameError, match=r"no instrument column"):
        store.read("factor_metrics", "u", instruments=["A"])


def test_key_of_six_columns(store):
    cells = [("A", "f.csv", line, reason) for line in (2, 1) for reason in ("b", "a")]
    data = {
        "universe": ["u"] * 4,
        "date": [day(0)] * 4,
        **{n: [c[i] for c in cells] for i, n in enumerate(("instrument", "source", "line", "reason"))},
        "row": [None] * 4,
    }
    table = pa.table(data, schema=QUARANTINE.arrow())
    store.replace(QUARANTINE, "u", day(0), day(0), table, {})
    read = store.read("quarantine", "u", columns=["line", "reason"])
    assert [tuple(r.values()) for r in read.to_pylist()] == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    with pytest.raises(StoreError, match=r"line=2, reason=b"):
        store.replace(QUARANTINE, "u", day(0), day(0), pa.concat_tables([table, table.slice(0, 1)]), {})


@pytest.mark.parametrize("name", ["u' OR 'a'='a", "", "U", "a/b", "../u", "x" * 41, None, "a\n"])
def test_universe_and_table_names_are_plain_words(store, name):
    with pytest.raises(StoreError, match=r"must match"):
        store.replace(SPEC, name, day(0), day(0), rows([]), {})
    with pytest.raises(StoreError, match=r"must match"):
        store.exists(name)


def test_instruments_with_quotes_are_values_not_syntax(store):
    odd = ["A' OR 'a'='a", '"', "100%", "é", "NA", "TRUE"]
    store.replace(SPEC, "u", day(0), day(0), rows([(day(0), n, 1.0) for n in odd]), {})
    assert [n for _, n, _ in stored(store, instruments=odd[:1])] == odd[:1]
    assert {n for _, n, _ in stored(store)} == set(odd)


def test_missing_table_column_range_and_version(store):
    with pytest.raises(MissingDataError, match=r"'demo' is not stored yet.*Stored tables: none"):
        store.read("demo", "u")
    assert store.version("demo") is None
    assert not store.exists("demo")
    store.replace(SPEC, "u", day(0), day(0), rows([(day(0), "A", 1.0)]), {})
    with pytest.raises(UnknownNameError, match=r"unknown column of table 'demo' 'xx'"):
        store.read("demo", "u", columns=["xx"])
    with pytest.raises(StoreError, match=r"reversed"):
        store.replace(SPEC, "u", day(1), day(0), rows([]), {})
    with pytest.raises(StoreError, match=r"no version 99; the nearest is 1, there are 0 \.\. 1"):
        store.read("demo", "u", version=99)


def test_columns_come_and_go_with_the_declaration(store):
    store.replace(SPEC, "u", day(0), day(0), rows([(day(0), "A", 1.0)]), {})
    wider = feature_table("demo", [("x", "a feature"), ("y", "another")], "for tests")
    table = rows([(day(1), "A", 2.0)]).append_column("y", pa.array([7.0], pa.float32()))
    store.replace(wider, "u", day(1), day(1), table, {})
    assert store.columns("demo") == ["universe", "date", "instrument", "x", "y"]
    other = feature_table("demo", [("y", "another")], "for tests")
    store.replace(other, "u", day(2), day(2), table.drop(["x"]).set_column(1, "date", [pa.array([day(2)])]), {})
    read = store.read("demo", "u", columns=["x", "y"]).to_pydict()
    assert read == {"x": [1, 2, None], "y": [None, 7, 7]}
    assert store.read("demo", "u", version=1).column_names == ["universe", "date", "instrument", "x"]


def test_files_are_pruned_and_only_keys_have_statistics(store):
    from deltalake import DeltaTable

    for i in range(4):
        store.replace(SPEC, "u", day(i), day(i), rows([(day(i), "A", 1.0)]), {})
    files = pa.table(DeltaTable(store.uri("demo")).get_add_actions(flatten=True))
    assert {c for c in files.column_names if c.startswith("min.")} == {"min.date", "min.instrument"}
    assert sorted(set(files["partition.month"].to_pylist())) == ["2020-01", "2020-02"]
    before = stored(store)
    store.compact("demo")
    assert pa.table(DeltaTable(store.uri("demo")).get_add_actions()).num_rows == 2
    assert stored(store) == before
    assert store.vacuum("demo")
    assert stored(store) == before


def test_checkpoint_every_twenty_commits(store):
    for i in range(21):
        store.replace(SPEC, "u", day(i % 3), day(i % 3), rows([(day(i % 3), "A", float(i))]), {})
    log = Path(store.uri("demo")) / "_delta_log"
    # the 20th commit
    assert [p.name for p in sorted(log.glob("*.checkpoint.parquet"))] == [f"{19:020d}.checkpoint.parquet"]
    assert len(stored(store)) == 3


WRITER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tables import SPEC, TableStore, day, rows
store = TableStore(sys.argv[1])
"""


def _start(root, script, *arguments):
    command = [sys.executable, "-c", WRITER + textwrap.dedent(script), str(root), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_write_one_month(tmp_path):
    """First the race for the creation with days apart, then days that share files, then the same days."""
    script = """
        for line in sys.stdin:
            value, *days = map(int, line.split())
            for d in days:
                store.replace(SPEC, "u", day(d), day(d), rows([(day(d), n, float(value)) for n in "AB"]), {})
            print("done", flush=True)
    """
    store = TableStore(tmp_path)
    workers = [_start(tmp_path, script) for _ in range(2)]
    february = list(range(2, 14))

    def run(*parts):
        for value, (worker, days) in enumerate(zip(workers, parts, strict=True)):
            worker.stdin.write(" ".join(map(str, [value, *days])) + "\n")
            worker.stdin.flush()
        for worker in workers:
            assert worker.stdout.readline() == "done\n"

    apart = [(day(d), n, float(d % 2)) for d in february for n in "AB"]
    try:
        run(february[::2], february[1::2])
        assert stored(store) == apart
        together = [(day(d), n, -1.0) for d in february for n in "AB"]
        store.replace(SPEC, "u", day(2), day(13), rows(together), {})
        run(february[::2], february[1::2])
        assert stored(store) == apart
        run(february, february)
        got = stored(store)
        assert [(d, n) for d, n, _ in got] == [(d, n) for d, n, _ in apart]
        assert all(got[i][2] == got[i + 1][2] for i in range(0, len(got), 2))
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_writers_of_overlapping_days_with_a_compaction_running(tmp_path):
    """Two writers of one universe, one of another, and two that compact: the log in order gives the contents."""
    script = """
        universe, seed = sys.argv[2], int(sys.argv[3])
        for k in range(16):
            # single days fill a month with small files, ranges run across the other writer's
            first = (k * 5 + seed * 2) % 40
            days = range(first, first + (6 if k % 4 == 3 else 1))
            cells = [(day(d), n, float(seed * 1000 + k)) for d in days for n in "AB"]
            table = rows(cells, universe)
            # as a table, or as a stream that can be begun anew
            data = table if seed == 1 else lambda: iter(table.to_batches(max_chunksize=3))
            store.replace(SPEC, universe, day(days[0]), day(days[-1]), data, {"value": str(cells[0][2])})
        print("done", flush=True)
    """
    compactor = """
        sys.stdin.readline()
        while True:
            store.compact("demo")
            print("compacted", flush=True)
    """
    store = TableStore(tmp_path)
    store.replace(SPEC, "u", day(0), day(0), rows([(day(0), "A", 0.0)]), {"value": "0"})
    keepers = [_start(tmp_path, compactor) for _ in range(2)]
    writers = [_start(tmp_path, script, *of) for of in (("u", "1"), ("u", "2"), ("w", "3"))]
    try:
        for keeper in keepers:
            keeper.stdin.write("go\n")
            keeper.stdin.flush()
        for writer in writers:
            assert writer.stdout.readline() == "done\n"
        for keeper in keepers:
            assert keeper.poll() is None
            assert keeper.stdout.readline() == "compacted\n"
    finally:
        for process in (*keepers, *writers):
            process.kill()
            process.communicate()
    expected = {"u": {}, "w": {}}
    history = store.history("demo")
    for commit in reversed([c for c in history if c["operation"] == "WRITE"]):
        cells = expected[commit["universe"]]
        for d in range((commit["end"] - commit["start"]).days + 1):
            for n in "AB" if commit["provenance"]["value"] != "0" else "A":
                cells[(commit["start"] + timedelta(days=d), n)] = float(commit["provenance"]["value"])
    assert sum(c["operation"] == "WRITE" for c in history) == 1 + 3 * 16
    assert any(c["operation"] == "OPTIMIZE" for c in history)
    for universe, cells in expected.items():
        assert stored(store, universe) == [(*key, value) for key, value in sorted(cells.items())]


def test_two_compactions_at_once_leave_every_row_once(store, tmp_path, monkeypatch):
    for i in range(3):
        store.replace(SPEC, "u", day(i), day(i), rows([(day(i), n, float(i)) for n in "AB"]), {})
    before, version = stored(store), store.version("demo")
    settle = DataFiles.settle

    def overtaken(self):
        # the other one merges the same files between reading and committing
        monkeypatch.setattr(DataFiles, "settle", settle)
        TableStore(store.root).compact("demo")
        settle(self)

    monkeypatch.setattr(DataFiles, "settle", overtaken)
    store.compact("demo")
    assert stored(store) == before
    assert store.version("demo") == version + 1
    assert len(store.stored_files("demo")) == 3 + 1
    (action,) = (a["add"] for a in store.commit("demo", version + 1)[0] if "add" in a)
    assert action["dataChange"] is False


def test_small_files_are_merged_as_they_are_written(store):
    """Day by day and by narrow replacements, and the values of a year lie in few files; versions stay readable."""
    spec = replace(SPEC, yearly=True)
    cells = {}
    for i in range(70):
        for name in "ab":
            cells[(day(i), name)] = float(i)
            store.replace(spec, "u", day(i), day(i), rows([(day(i), name, float(i))]), {}, match=("instrument", name))
        assert store.files("demo").num_rows <= MERGED_FILES
        if i == 30:
            version, middle = store.version("demo"), stored(store)
    assert stored(store) == [(*key, value) for key, value in sorted(cells.items())]
    assert stored(store, version=version) == middle
    history = store.history("demo")
    assert [c["rows"] for c in history if c["operation"] == "WRITE"] == [1] * 140
    merges = [c for c in history if c["operation"] == "OPTIMIZE"]
    assert 30 < len(merges) < 70
    assert all(c["universe"] is None for c in merges)


def test_what_cannot_be_merged_does_not_stop_a_write(store, monkeypatch):
    for i in range(3):
        store.replace(SPEC, "u", day(i - 2), day(i - 2), rows([(day(i - 2), "A", float(i))]), {})
    damaged = store.folder("demo") / store.files("demo")["path"][0].as_py()
    damaged.write_bytes(b"damaged")
    for i in range(3, 6):
        store.replace(SPEC, "u", day(i - 20), day(i - 20), rows([(day(i - 20), "A", float(i))]), {})
    assert store.files("demo").num_rows == 6
    assert stored(store, start=day(-17), end=day(-15)) == [(day(i - 20), "A", float(i)) for i in range(3, 6)]


def test_every_commit_has_an_id_of_its_own(store):
    for i in range(3):
        store.replace(SPEC, "u", day(i), day(i), rows([(day(i), "A", 1.0)]), {})
    wider = feature_table("demo", [("x", "a feature"), ("y", "another")], "for tests")
    table = rows([(day(1), "A", 2.0)]).append_column("y", pa.array([7.0], pa.float32()))
    store.replace(wider, "u", day(1), day(1), table, {})
    store.compact("demo")
    store.restore("demo", 2, {})
    path = store.files("demo")["path"][0].as_py()
    store.set_aside("demo", [path], {})
    history = store.history("demo")
    assert {c["operation"] for c in history} == {"CREATE TABLE", "WRITE", "ADD COLUMN", "OPTIMIZE", "RESTORE", "FSCK"}
    assert len({c["commit_id"] for c in history}) == len(history)
    assert all(len(c["commit_id"]) == 32 for c in history)
    # the id is in the log itself, and a log that other hands have written has none
    log = store.folder("demo") / "_delta_log" / f"{store.version('demo'):020d}.json"
    log.write_text(log.read_text().replace('"commit_id"', '"other"'))
    assert [c["commit_id"] for c in store.history("demo")] == [None, *(c["commit_id"] for c in history[1:])]


def test_checksums_of_every_file_come_with_its_commit(store):
    for i in range(3):
        store.replace(SPEC, "u", day(i), day(i), rows([(day(i), "A", 1.0)]), {})
    store.compact("demo")
    store.restore("demo", 2, {})
    known = store.checksums("demo")
    assert known.keys() == store.stored_files("demo").keys()
    for path, sha256 in known.items():
        assert sha256 == hashlib.sha256((store.folder("demo") / path).read_bytes()).hexdigest()
    store.vacuum("demo")
    assert store.checksums("demo").keys() >= set(store.files("demo")["path"].to_pylist())


def test_maintenance_never_trims_the_log(store):
    """The log is what makes an old version readable: neither checkpoints nor maintenance delete parts of it."""
    for i in range(52):
        store.replace(SPEC, "u", day(i % 3), day(i % 3), rows([(day(i % 3), "A", float(i))]), {})
    log = Path(store.uri("demo")) / "_delta_log"
    for file in log.iterdir():
        os.utime(file, (0, 0))
    store.compact("demo")
    store.vacuum("demo", keep=[5])
    store.restore("demo", 5, {})
    assert {int(p.stem) for p in log.glob("*.json")} == set(range(store.version("demo") + 1))


def test_killed_writer_leaves_whole_versions(tmp_path):
    script = """
        for k in range(1000):
            cells = [(day(d), str(n), float(k)) for d in range(4) for n in range(300)]
            store.replace(SPEC, "u", day(0), day(3), rows(cells), {})
            print(k, flush=True)
    """
    process = _start(tmp_path, script)
    for _ in range(3):
        assert process.stdout.readline().strip()
    time.sleep(0.03)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    store = TableStore(tmp_path)
    values = store.read("demo", "u")["x"]
    assert len(values) == 1200
    assert len(values.unique()) == 1
    store.replace(SPEC, "u", day(0), day(3), rows([(day(0), "A", 1.0)]), {})
    assert stored(store) == [(day(0), "A", 1)]
