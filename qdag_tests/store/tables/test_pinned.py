"""Tables as of versions, for reading; and ranges of days, whether whole files lie in them or not."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.errors import MissingDataError, StoreError, UnknownNameError
from qdag.schema import feature_table
from qdag.store.tables import TableStore
from qdag.store.versions import RUN, check_readable, expire, versions_at, versions_of_run
from qdag_tests.store.tables.test_tables import SPEC, day, rows, stored


def fill(store: TableStore, value: float, run: str = "", spec=SPEC) -> int:
    return store.replace(spec, "u", day(0), day(0), rows([(day(0), "A", value)]), {RUN: run} if run else {})


@pytest.fixture
def store(tmp_path) -> TableStore:
    store = TableStore(tmp_path / "tables")
    for value in (1.0, 2.0, 3.0):
        fill(store, value, f"run-{value:.0f}")
    return store


def test_pinned_tables_are_their_versions(store):
    then = store.at({"demo": 2})
    assert stored(then) == [(day(0), "A", 2.0)]
    assert (then.version("demo"), store.version("demo")) == (2, 3)
    fill(store, 4.0)
    assert stored(then) == [(day(0), "A", 2.0)]
    assert stored(then, version=1) == [(day(0), "A", 1.0)]
    assert then.at({"other": None}).pinned == {"demo": 2, "other": None}
    assert stored(then.without({})) == [(day(0), "A", 4.0)]
    gone = store.at({"demo": None})
    assert not gone.exists("demo")
    assert gone.names() == []
    with pytest.raises(MissingDataError, match="is not stored yet"):
        stored(gone)
    with pytest.raises(StoreError, match="table 'demo' has no version 9; the nearest is 4"):
        stored(store.at({"demo": 9}))


def test_pinned_tables_are_for_reading(store):
    then = store.at({"demo": 2})
    for write in (
        lambda: fill(then, 5.0),
        lambda: then.compact("demo"),
        lambda: then.restore("demo", 1, {}),
        lambda: then.vacuum("demo"),
        lambda: then.set_aside("demo", [], {}),
        lambda: then.drop_lost_commits("demo"),
    ):
        with pytest.raises(StoreError, match="are for reading"):
            write()


def test_a_moment_and_a_run_have_their_versions(store):
    for i in range(40):
        fill(store, float(i))
    commits = {commit["version"]: commit for commit in store.history("demo")}
    for version in (1, 2, 17, 43):
        assert versions_at(store, commits[version]["timestamp"])["demo"] >= version
    assert versions_at(store, datetime.now(UTC)) == {"demo": 43}
    assert versions_at(store, datetime.now(UTC) - timedelta(days=1)) == {"demo": None}
    assert versions_of_run(store, "run-2") == {"demo": 2}
    with pytest.raises(StoreError, match="3 runs begin with 'run-'"):
        versions_of_run(store, "run-")
    with pytest.raises(UnknownNameError, match="did you mean 'run-"):
        versions_of_run(store, "run-9")


def test_a_vacuumed_version_names_the_nearest(store):
    expire(store, "demo", newest=2, days=0)
    check_readable(store, "demo", 2)
    with pytest.raises(StoreError, match="version 1 of table 'demo' was vacuumed; the nearest that can be read is 2"):
        check_readable(store, "demo", 1)
    with pytest.raises(StoreError, match="version 12 of table 'demo' never existed; the nearest that can be read is 3"):
        check_readable(store, "demo", 12)


@settings(max_examples=10)
@given(
    spans=st.lists(st.tuples(st.none() | st.integers(0, 800), st.none() | st.integers(0, 800)), min_size=6, max_size=6),
    yearly=st.booleans(),
)
def test_a_range_is_what_lies_in_it(tmp_path_factory, spans, yearly):
    """Over months and years, of which some files are read whole and some in part, one of them older than a column."""
    store = TableStore(tmp_path_factory.mktemp("ranges"))
    first = date(2019, 11, 20)
    days = [first + timedelta(days=n) for n in range(0, 800, 13)]
    spec = replace(SPEC, yearly=yearly)
    store.replace(spec, "u", days[0], days[-1], rows([(d, n, 1.0) for d in days for n in "AB"]), {})
    grown = replace(feature_table("demo", [("x", "a feature"), ("y", "another")], "for tests"), yearly=yearly)
    more = rows([(days[-1], "C", 2.0)])
    more = more.append_column(grown.arrow().field("y"), pc.add(more["x"], 1))
    store.replace(grown, "u", days[-1], days[-1], more, {})
    whole = store.read("demo", "u")
    assert whole["y"].null_count == whole.num_rows - 1
    for low, high in spans:
        start, end = (None if n is None else first + timedelta(days=n) for n in (low, high))
        expected = whole
        if start is not None:
            expected = expected.filter(pc.greater_equal(expected["date"], start))
        if end is not None:
            expected = expected.filter(pc.less_equal(expected["date"], end))
        found = store.read("demo", "u", start, end)
        assert found.to_pylist() == expected.to_pylist()
        assert found.schema == whole.schema
