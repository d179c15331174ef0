"""Which sessions are stale, and why: against recomputation, on a small market with corrections."""

import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from qdag import lineage, schema
from qdag.assets import expressions
from qdag.assets.platform import Platform
from qdag.lineage import Reads, window_digests
from qdag.operations.survey import survey
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag_tests import stages

START, END = date(2018, 1, 2), date(2018, 12, 31)
TABLES = ("qlib_bin", "alpha158", "basic_statistics", "price_features", "technical_indicators", "labels")


def settings(home: Path, **more: object) -> Settings:
    market = UniverseSettings(
        source=SyntheticSource(seed=3, instruments=4), calendar="XNYS", start=START, end=date(2019, 12, 31)
    )
    return Settings(home=home, universes={"toy": market}, horizons=(1, 5), **more)


def run(platform: Platform, names: tuple[str, ...], start: date, end: date) -> None:
    for name in names:
        stage = stages.feature_stage(name)
        stage(platform, "toy", start, end)


def refresh(platform: Platform) -> list[tuple[tuple[str, ...], date, date]]:
    """Run what is asked for until nothing is."""
    done = []
    while asked := survey(platform, "toy").requests:
        for request in asked:
            run(platform, request.assets, request.start, request.end)
            done.append((request.assets, request.start, request.end))
        assert len(done) < 40, "refreshing does not come to an end"
    return done


def correct(platform: Platform, day: date, instrument: str, by: float) -> None:
    """Change a close by hand: straight in the table, past every stage."""
    rows = platform.store.read("raw_ohlcv", "toy", day, day)
    mine = pc.equal(rows["instrument"], instrument)
    for column in ("close", "high", "low", "open"):
        values = pc.if_else(mine, pc.multiply(rows[column], by), rows[column])
        rows = rows.set_column(rows.column_names.index(column), column, values)
    platform.store.replace(schema.RAW_OHLCV, "toy", day, day, rows, {})


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Platform:
    platform = Platform.open(settings(tmp_path_factory.mktemp("lineage")))
    run(platform, ("raw_ohlcv",), START, END)
    refresh(platform)
    return platform


def contents(platform: Platform, table: str) -> pa.Table:
    return platform.store.read(table, "toy")


def test_a_window_s_digest_changes_exactly_with_what_it_reads():
    nodes = np.arange(1, 11, dtype=np.uint64)
    before = window_digests([(nodes, Reads("x", past=2, future=1))])
    for at in range(10):
        changed = nodes.copy()
        changed[at] += np.uint64(100)
        after = window_digests([(changed, Reads("x", past=2, future=1))])
        readers = [t for t in range(10) if t - 2 <= at <= t + 1]
        assert np.flatnonzero(before != after).tolist() == readers


def test_everything_is_missing_at_first_and_nothing_afterwards(tmp_path, filled):
    platform = Platform.open(settings(tmp_path))
    run(platform, ("raw_ohlcv",), START, END)
    stale = survey(platform, "toy").stale
    sessions = platform.calendar("toy").between(START, END)
    for name in TABLES:
        np.testing.assert_array_equal(stale[name].missing, sessions)
    asked = survey(platform, "toy").requests
    assert [(r.assets, r.start, r.end) for r in asked] == [((*TABLES, "factor_metrics"), START, END)]
    assert not any(survey(filled, "toy").stale.values())
    assert survey(filled, "toy").requests == []


def test_metrics_may_be_computed_in_parts_when_all_labels_are_known(tmp_path):
    platform = Platform.open(settings(tmp_path))
    run(platform, ("raw_ohlcv", *TABLES), START, END)
    sessions = platform.calendar("toy").between(START, END)
    for part in np.array_split(sessions, 4):
        run(platform, ("factor_metrics",), part[0].item(), part[-1].item())
    assert not any(survey(platform, "toy").stale.values())


def test_metrics_that_came_before_those_they_look_back_on_are_computed_again(tmp_path, filled):
    """As when the run of an earlier part died and that of a later one went on."""
    platform = Platform.open(settings(tmp_path))
    run(platform, ("raw_ohlcv", *TABLES), START, END)
    sessions = platform.calendar("toy").between(START, END)
    early, late = np.array_split(sessions, 2)
    for part in (late, early):
        run(platform, ("factor_metrics",), part[0].item(), part[-1].item())
    assert refresh(platform)
    got, want = (p.store.read("factor_metrics", "toy") for p in (platform, filled))
    assert got.equals(want)


def test_one_more_session_is_one_run_of_that_session(tmp_path):
    platform = Platform.open(settings(tmp_path))
    run(platform, ("raw_ohlcv",), START, date(2018, 12, 28))
    refresh(platform)
    run(platform, ("raw_ohlcv",), date(2018, 12, 31), date(2018, 12, 31))
    asked = survey(platform, "toy").requests
    assert [(r.start, r.end) for r in asked] == [(date(2018, 12, 31), date(2018, 12, 31))]
    assert asked[0].assets == (*TABLES, "factor_metrics")
    assert len(refresh(platform)) == 1


def test_a_correction_by_hand_makes_exactly_its_readers_stale(tmp_path):
    far = 40
    whole = Platform.open(settings(tmp_path / "whole"))
    run(whole, ("raw_ohlcv",), START, END)
    refresh(whole)
    calendar = whole.calendar("toy").between(START, END)
    day = calendar[-far]
    name = whole.store.read("raw_ohlcv", "toy", day.item(), day.item())["instrument"][0].as_py()
    correct(whole, day.item(), name, 1.01)
    stale = survey(whole, "toy").stale
    for table, past, future in (("qlib_bin", 1, 0), ("alpha158", 61, 0), ("price_features", 21, 0), ("labels", 1, 6)):
        low, high = len(calendar) - far - future, len(calendar) - far + past
        found = stale[table]
        assert not len(found.missing) + len(found.code), table
        assert calendar[max(0, low)] == found.data[0], table
        assert found.data[-1] == calendar[min(high, len(calendar) - 1)], table
    refresh(whole)
    assert not any(survey(whole, "toy").stale.values())
    fresh = Platform.open(settings(tmp_path / "fresh"))
    run(fresh, ("raw_ohlcv",), START, END)
    correct(fresh, day.item(), name, 1.01)
    refresh(fresh)
    for table in (*TABLES[1:], "factor_metrics"):
        assert contents(whole, table).equals(contents(fresh, table)), table


def test_metrics_of_stale_labels_stay_stale(tmp_path):
    platform = Platform.open(settings(tmp_path))
    last = date(2018, 6, 29)
    run(platform, ("raw_ohlcv",), START, last)
    refresh(platform)
    correct(platform, date(2018, 5, 1), "SYN00001", 1.02)
    run(platform, ("qlib_bin", *TABLES[1:5], "factor_metrics"), date(2018, 5, 1), last)
    assert survey(platform, "toy").stale["labels"]
    assert survey(platform, "toy").stale["factor_metrics"].data[0] == np.datetime64("2018-05-01")
    refresh(platform)
    assert not any(survey(platform, "toy").stale.values())


def test_a_changed_definition_is_code_and_reaches_what_reads_it(tmp_path):
    home = tmp_path
    first = Platform.open(settings(home, custom_factors={"mine": "$close/Ref($close, 5)"}))
    run(first, ("raw_ohlcv",), START, date(2018, 12, 28))
    refresh(first)
    second = Platform.open(settings(home, custom_factors={"mine": "$close/Ref($close, 6)"}))
    stale = survey(second, "toy").stale
    assert len(stale["custom_factors"].code)
    assert not len(stale["custom_factors"].data)
    assert not stale["alpha158"]
    # the metrics' own definition names the columns that they are of
    assert len(stale["factor_metrics"].code)
    assert "definition changed" in stale["custom_factors"].reason()
    refresh(second)
    assert not any(survey(second, "toy").stale.values())


def test_only_the_columns_whose_definition_changed_are_computed(tmp_path, monkeypatch):
    def opened(home: Path, **factors: str) -> Platform:
        return Platform.open(settings(home, custom_factors=factors))

    last = date(2018, 12, 28)
    first = opened(tmp_path / "a", one="$close/Ref($close, 5)", two="Std($close, 10)", gone="$open/$close")
    run(first, ("raw_ohlcv",), START, last)
    refresh(first)
    factors = {"one": "$close/Ref($close, 5)", "two": "Std($close, 40)", "three": "Corr($close, $volume, 20)"}
    second = opened(tmp_path / "a", **factors)
    asked = []
    plain = expressions.compute
    monkeypatch.setattr(
        expressions, "compute", lambda planned, *a, **k: asked.append(set(planned.outputs)) or plain(planned, *a, **k)
    )
    result = stages.feature_stage("custom_factors")(second, "toy", START, last)
    assert asked == [{"two", "three"}]
    assert result.extra["columns_computed"] == "two, three"
    refresh(second)
    fresh = opened(tmp_path / "b", **factors)
    run(fresh, ("raw_ohlcv",), START, last)
    refresh(fresh)
    names = ["date", "instrument", *factors]
    for platform in (second, fresh):
        assert set(names) <= set(contents(platform, "custom_factors").column_names)
    assert contents(second, "custom_factors").select(names).equals(contents(fresh, "custom_factors").select(names))
    # what is asked for again is computed again, and after a correction everything is
    asked.clear()
    stages.feature_stage("custom_factors")(second, "toy", START, last)
    assert asked == [set(factors)]


@pytest.mark.parametrize("column", [column.name for column in schema.LINEAGE.columns if column.nullable])
def test_records_of_before_a_column_was_there_are_read_and_written(tmp_path, column):
    """As an older version of the table is when it was restored."""
    end = date(2018, 1, 31)
    names = ("raw_ohlcv", "qlib_bin", "price_features")
    platform = Platform.open(settings(tmp_path))
    run(platform, names, START, end)
    rows = platform.store.read("lineage", "toy")
    shutil.rmtree(platform.store.folder("lineage"))
    platform = Platform.open(settings(tmp_path))
    older = replace(schema.LINEAGE, columns=tuple(c for c in schema.LINEAGE.columns if c.name != column))
    platform.store.replace(older, "toy", START, end, rows.select(older.arrow().names), {})
    lineage.block(platform.store, "toy", "price_features", end, end, "structure", {})
    assert not len(survey(platform, "toy", names).stale["raw_ohlcv"].sessions)
    run(platform, names, START, end)
    assert not any(survey(platform, "toy", names).stale.values())
