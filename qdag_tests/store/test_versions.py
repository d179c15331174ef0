"""Versions: what commits say, what retention keeps, and differences against dictionaries of cells."""

import math
import os
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.errors import MissingDataError, StoreError
from qdag.schema import Column, TableSpec, feature_table
from qdag.store.diff import diff
from qdag.store.tables import TableStore
from qdag.store.versions import expire, kept_versions, versions

SPEC = feature_table("demo", [("x", "a feature"), ("y", "another")], "for tests")
DAY = date(2020, 1, 30)
NAN = float("nan")


def day(n):
    return DAY + timedelta(days=n)


def rows(cells, universe="u"):
    """Table of {(day number, instrument): (x, y)}."""
    data = {
        "universe": [universe] * len(cells),
        "date": [day(d) for d, _ in cells],
        "instrument": [n for _, n in cells],
        "x": [v[0] for v in cells.values()],
        "y": [v[1] for v in cells.values()],
    }
    return pa.table(data, schema=SPEC.arrow())


def write(store, start, end, cells, universe="u", **provenance):
    return store.replace(SPEC, universe, day(start), day(end), rows(cells, universe), provenance)


@pytest.fixture
def store(tmp_path):
    return TableStore(tmp_path / "tables")


def test_a_version_says_what_it_did(store):
    first = write(store, 0, 3, {(d, n): (1.0, 2.0) for d in range(4) for n in "AB"}, dagster_run_id="run1")
    second = write(store, 4, 5, {(4, "A"): (1.0, 2.0)}, "w", **{"input.raw_ohlcv": "7", "input.labels": "None"})
    third = write(store, 2, 2, {(2, "C"): (5.0, 6.0)})
    back = store.restore("demo", first, {"why": "test"})
    newest, of_third, of_second, of_first, created = versions(store, "demo")
    assert (of_first.version, of_first.operation, of_first.universe, of_first.rows) == (first, "WRITE", "u", 8)
    assert (of_first.start, of_first.end, of_first.run, of_first.inputs) == (day(0), day(3), "run1", {})
    assert (of_second.version, of_second.universe, of_second.inputs) == (second, "w", {"raw_ohlcv": 7})
    # the rows of the same file that stayed are not counted as written
    assert (of_third.version, of_third.rows, of_third.start, of_third.end) == (third, 1, day(2), day(2))
    assert (newest.version, newest.operation, newest.rows, newest.universe) == (back, "RESTORE", None, None)
    assert newest.provenance == {"why": "test"}
    assert created.operation == "CREATE TABLE"
    assert all(v.readable for v in (newest, of_third, of_second, of_first, created))
    assert abs(datetime.now(UTC) - newest.time) < timedelta(minutes=5)
    assert [v.version for v in versions(store, "demo", 2)] == [back, third]


# -- restore and retention --------------------------------------------------------------------------------------------


def test_restore_is_a_new_version_with_the_old_contents_and_columns(store):
    first = write(store, 0, 40, {(d, n): (float(d), NAN) for d in (0, 20, 40) for n in "AB"})
    before = store.read("demo", "u").to_pandas()
    write(store, 0, 40, {(0, "A"): (9.0, 9.0)})
    wider = feature_table("demo", [("x", ""), ("y", ""), ("z", "")], "wider")
    extra = rows({(1, "Z"): (0.0, 0.0)}).append_column("z", pa.array([3.0], pa.float32()))
    wide = store.replace(wider, "u", day(1), day(1), extra, {})
    back = store.restore("demo", first, {})
    assert back == wide + 1
    assert store.read("demo", "u").to_pandas().equals(before)
    assert store.columns("demo") == ["universe", "date", "instrument", "x", "y"]
    assert diff(store, "demo", first, back).same
    # and nothing is lost: the versions between can still be read and restored
    assert store.read("demo", "u", version=wide).num_rows == 2
    assert store.columns("demo", wide)[-1] == "z"
    store.restore("demo", wide, {})
    assert store.columns("demo")[-1] == "z"


def test_restore_of_what_is_not_there(store):
    with pytest.raises(MissingDataError, match=r"'demo' is not stored yet"):
        store.restore("demo", 1, {})
    write(store, 0, 0, {(0, "A"): (1.0, 1.0)})
    with pytest.raises(StoreError, match=r"no version 9; the nearest is 1, there are 0 \.\. 1"):
        store.restore("demo", 9, {})
    write(store, 0, 0, {(0, "A"): (2.0, 1.0)})
    store.vacuum("demo")
    with pytest.raises(StoreError, match=r"restore to version 1 of table 'demo' failed"):
        store.restore("demo", 1, {})
    assert store.read("demo", "u")["x"].to_pylist() == [2.0]


def test_retention_by_number_by_days_and_for_models(store):
    for i in range(8):
        write(store, 0, 1, {(0, "A"): (float(i), 0.0)})
    contents = {v: store.read("demo", "u", version=v) for v in range(1, 9)}
    assert kept_versions(store, "demo", newest=2, days=0) == [7, 8]
    assert kept_versions(store, "demo", newest=1, days=0, protected=[3, 77]) == [3, 8]
    assert kept_versions(store, "demo", newest=1, days=1) == list(range(9))
    now = datetime.now(UTC)
    assert kept_versions(store, "demo", newest=1, days=1, now=now + timedelta(days=2)) == [8]
    planned = expire(store, "demo", newest=2, days=0, protected=[3], dry_run=True)
    assert store.version("demo") == 8
    done = expire(store, "demo", newest=2, days=0, protected=[3])
    assert done.kept == planned.kept == (3, 7, 8)
    assert done.files == planned.files
    assert len(done.files) == 5
    assert done.size > 0
    for version, table in contents.items():
        if version in (3, 7, 8):
            assert store.read("demo", "u", version=version).equals(table)
        else:
            with pytest.raises(StoreError, match=rf"version {version} of table 'demo' .* was vacuumed or lost; choose"):
                store.read("demo", "u", version=version)
    readable = {v.version: v.readable for v in versions(store, "demo")}
    assert [v for v in range(1, 9) if readable[v]] == [3, 7, 8]
    # a second time there is nothing to do, and no commit says otherwise
    version = store.version("demo")
    assert expire(store, "demo", newest=2, days=0, protected=[3]).files == ()
    assert store.version("demo") == version


def test_the_log_is_read_once_however_many_versions_stay(store, monkeypatch):
    for i in range(25):
        write(store, 0, 1, {(0, "A"): (float(i), 0.0)})
    opened = []
    opening = DeltaTable.__init__

    def counted(table, *arguments, **options):
        opened.append(options.get("version"))
        opening(table, *arguments, **options)

    monkeypatch.setattr(DeltaTable, "__init__", counted)
    done = expire(TableStore(store.root), "demo", newest=25, days=1)
    assert len(done.kept) == 26
    assert len(opened) <= 3


def test_the_current_version_of_the_last_days_counts_whenever_it_was_written(store):
    """A version written long ago that was replaced yesterday was current in the last two days."""
    write(store, 0, 0, {(0, "A"): (1.0, 0.0)})
    write(store, 0, 0, {(0, "A"): (2.0, 0.0)})
    replaced = store.history("demo")[0]["timestamp"]
    assert 1 in kept_versions(store, "demo", newest=1, days=2, now=replaced + timedelta(days=1))
    assert kept_versions(store, "demo", newest=1, days=2, now=replaced + timedelta(days=3)) == [2]


def test_a_protected_version_survives_a_compaction_and_a_checkpoint(store):
    for i in range(55):
        write(store, i % 5, i % 5, {(i % 5, "A"): (float(i), 0.0)})
        if i == 20:
            protected, before = store.version("demo"), store.read("demo", "u")
    store.compact("demo")
    newest = store.read("demo", "u")
    expire(store, "demo", newest=1, days=0, protected=[protected])
    assert store.read("demo", "u", version=protected).equals(before)
    assert store.read("demo", "u").equals(newest)
    fresh = TableStore(store.root)
    assert fresh.read("demo", "u", version=protected).equals(before)
    needed = {p for v in (protected, None) for p in fresh.files("demo", v)["path"].to_pylist()}
    assert fresh.stored_files("demo").keys() == needed


def test_what_is_left_of_a_protected_version_stays(store):
    write(store, 0, 40, {(0, "A"): (1.0, 0.0), (40, "A"): (1.0, 0.0)})
    lost, left = store.files("demo")["path"].to_pylist()
    write(store, 0, 40, {(0, "A"): (2.0, 0.0)})
    write(store, 0, 40, {(0, "A"): (3.0, 0.0)})
    (store.folder("demo") / lost).unlink()
    done = expire(store, "demo", newest=1, days=0, protected=[1])
    assert (done.kept, done.broken, len(done.files)) == ((3,), (1,), 1)
    assert left in store.stored_files("demo")


def test_files_of_a_write_in_progress_stay_and_old_orphans_go(store):
    write(store, 0, 0, {(0, "A"): (1.0, 0.0)})
    month = store.folder("demo") / "universe=u/month=2020-01"
    fresh, old = month / "in-progress.parquet", month / "died.parquet"
    for file in (fresh, old):
        file.write_bytes(b"half a file")
    yesterday = datetime.now().timestamp() - 26 * 3600
    os.utime(old, (yesterday, yesterday))
    assert store.vacuum("demo") == ["universe=u/month=2020-01/died.parquet"]
    assert fresh.exists()
    assert not old.exists()


@pytest.mark.parametrize(("newest", "days"), [(0, 1), (1, -1)])
def test_retention_keeps_something(store, newest, days):
    write(store, 0, 0, {})
    with pytest.raises(StoreError, match=r"at least 1 version and 0 days"):
        kept_versions(store, "demo", newest, days)


# -- differences ------------------------------------------------------------------------------------------------------

VALUES = st.sampled_from([None, NAN, 0.0, -0.0, 1.5, 2.5, float("inf")])
CELLS = st.dictionaries(
    st.tuples(st.integers(0, 40), st.sampled_from(["A", "B", "NA"])), st.tuples(VALUES, VALUES), max_size=12
)


def _equal(a, b):
    if a is None or b is None:
        return a is b
    return a == b or (math.isnan(a) and math.isnan(b))


@settings(max_examples=25, deadline=None)
@given(old=CELLS, new=CELLS, other=CELLS)
def test_differences_equal_those_of_dictionaries(tmp_path_factory, old, new, other):
    store = TableStore(tmp_path_factory.mktemp("store"))
    write(store, 0, 40, other, "w")
    first = write(store, 0, 40, old)
    second = write(store, 0, 40, new)
    found = diff(store, "demo", first, second, cells=1000)
    both = sorted(old.keys() & new.keys())
    changed = [
        (key, column, old[key][i], new[key][i])
        for key in both
        for i, column in enumerate("xy")
        if not _equal(old[key][i], new[key][i])
    ]
    assert (found.added, found.removed) == (len(new.keys() - old.keys()), len(old.keys() - new.keys()))
    assert found.changed == len({key for key, *_ in changed})
    assert dict(found.columns) == {c: n for c in "xy" if (n := sum(k[1] == c for k in changed))}
    for name in ("A", "B", "NA"):
        counts = (
            sum(n == name for _, n in new.keys() - old.keys()),
            sum(n == name for _, n in {key for key, *_ in changed}),
            sum(n == name for _, n in old.keys() - new.keys()),
        )
        assert found.groups.get(name, (0, 0, 0)) == counts
    cells = [((c.key["date"], c.key["instrument"]), c.column, c.before, c.after) for c in found.cells]
    assert [str(c) for c in cells] == [str(((day(k[0]), k[1]), *rest)) for k, *rest in changed]
    assert found.same == (not changed and old.keys() == new.keys())
    # only months of the other universe, which share their files
    assert found.skipped == len({day(d).month for d, _ in other})


def test_months_with_the_same_files_are_not_read(store, monkeypatch):
    first = write(store, 0, 70, {(d, "A"): (float(d), 0.0) for d in range(71)})
    second = write(store, 40, 40, {(40, "A"): (-1.0, 0.0)})
    read = []
    original = TableStore.read
    monkeypatch.setattr(TableStore, "read", lambda self, *a, **k: read.append(a[2]) or original(self, *a, **k))
    found = diff(store, "demo", first, second)
    assert (found.changed, found.compared, found.skipped) == (1, 1, 3)
    assert set(read) == {date(2020, 3, 1)}
    cell = found.cells[0]
    assert (cell.key, cell.column, cell.before, cell.after) == (
        {"universe": "u", "date": day(40), "instrument": "A"},
        "x",
        40.0,
        -1.0,
    )


def test_differences_of_one_universe_of_columns_and_after_a_compaction(store):
    for d in range(3):
        write(store, d, d, {(d, "A"): (1.0, 1.0)})
        write(store, d, d, {(d, "A"): (1.0, 1.0)}, "w")
    before = store.version("demo")
    store.compact("demo")
    merged = diff(store, "demo", before, store.version("demo"))
    assert merged.same
    assert merged.compared > 0
    changed = write(store, 1, 1, {(1, "A"): (2.0, 1.0)}, "w")
    assert diff(store, "demo", before, changed, "u").same
    assert diff(store, "demo", before, changed, "w").changed == 1
    assert len(diff(store, "demo", before, changed, cells=0).cells) == 0
    wider = feature_table("demo", [("x", ""), ("y", ""), ("z", "")], "wider")
    extra = rows({(1, "B"): (0.0, 0.0)}).append_column("z", pa.array([3.0], pa.float32()))
    wide = store.replace(wider, "u", day(1), day(1), extra, {})
    found = diff(store, "demo", changed, wide)
    assert (found.new_columns, found.lost_columns, found.added, found.removed) == (["z"], [], 1, 1)
    assert diff(store, "demo", wide, changed).lost_columns == ["z"]


def test_differences_of_a_table_without_instruments(store):
    columns = (
        Column("universe", "string", "", nullable=False),
        Column("date", "date32", "", nullable=False),
        Column("factor", "string", "", nullable=False),
        Column("n", "int32", ""),
        Column("note", "string", ""),
    )
    spec = TableSpec("metrics", ("universe", "date", "factor"), columns, "for tests")

    def put(*values):
        data = [{"universe": "u", "date": day(0), "factor": f, "n": n, "note": t} for f, n, t in values]
        return store.replace(spec, "u", day(0), day(0), pa.Table.from_pylist(data, spec.arrow()), {})

    first, second = put(("a", 1, "same"), ("b", 2, None)), put(("a", 2, "same"), ("b", 2, "new"), ("c", 1, ""))
    found = diff(store, "metrics", first, second)
    assert found.groups == {"a": (0, 1, 0), "b": (0, 1, 0), "c": (1, 0, 0)}
    assert [(c.key["factor"], c.column, c.before, c.after) for c in found.cells] == [
        ("a", "n", 1, 2),
        ("b", "note", None, "new"),
    ]


def test_differences_with_a_version_that_is_gone(store):
    write(store, 0, 0, {(0, "A"): (1.0, 0.0)})
    write(store, 0, 0, {(0, "A"): (2.0, 0.0)})
    with pytest.raises(StoreError, match=r"version 99"):
        diff(store, "demo", 1, 99)
    store.vacuum("demo")
    with pytest.raises(StoreError, match=r"version 1 of table 'demo' .* was vacuumed"):
        diff(store, "demo", 1, 2)
