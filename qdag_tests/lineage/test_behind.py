"""Stages in another order than the chain's, and tables that came back apart: what was computed from a state that never
was does not pass for right."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from qdag import schema
from qdag.assets.platform import Platform
from qdag.operations.survey import survey
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag.store.backup import backup, restore_backup
from qdag_tests import stages

START, END = date(2018, 1, 2), date(2018, 8, 31)
GAP = date(2018, 2, 20), date(2018, 6, 8)
"""Longer than the windows of the factors."""
LATE = date(2018, 8, 20)
MARKET = SyntheticSource(seed=3, instruments=4)
FACTORS = {"place": "IdxMax($high, 10)", "risen": "Mean($close>Ref($close, 1), 20)"}


def opened(home: Path, **more) -> Platform:
    toy = UniverseSettings(source=MARKET, calendar="XNYS", start=START, end=END)
    settings = {"features": (), "custom_factors": FACTORS, "training": {"features": ("custom_factors",)}, **more}
    return Platform.open(Settings(home=home, universes={"toy": toy}, horizons=(1, 5), **settings))


def run(platform: Platform, name: str, start: date = START, end: date = END) -> None:
    stages.feature_stage(name)(platform, "toy", start, end)


def refresh(platform: Platform) -> None:
    runs = 0
    while asked := survey(platform, "toy").requests:
        for request in asked:
            for name in request.assets:
                run(platform, name, request.start, request.end)
            runs += 1
        assert runs < 40, "refreshing does not come to an end"
    assert not any(survey(platform, "toy").stale.values())


def put(platform: Platform, bars: pa.Table, start: date = START, end: date = END) -> None:
    """Bars by hand: what is stored from ``start`` to ``end`` is exactly these."""
    inside = (pc.field("date") >= pa.scalar(start)) & (pc.field("date") <= pa.scalar(end))
    platform.store.replace(schema.RAW_OHLCV, "toy", start, end, bars.filter(inside), {})


def assert_one_build(platform: Platform, once: Platform, bars: pa.Table, *tables: str) -> None:
    """What is stored of the bars is what a new home makes of them."""
    put(once, bars)
    refresh(once)
    for table in tables:
        order = [(key, "ascending") for key in once.store.keys(table)]
        got, want = (p.store.read(table, "toy").sort_by(order) for p in (platform, once))
        assert got.equals(want), table


@pytest.fixture(scope="module")
def bars(tmp_path_factory) -> pa.Table:
    """Bars of four instruments; the first one is suspended for longer than every window."""
    platform = opened(tmp_path_factory.mktemp("bars"))
    run(platform, "raw_ohlcv")
    rows = platform.store.read("raw_ohlcv", "toy")
    first = pc.field("instrument") == pc.min(rows["instrument"])
    return rows.filter(~(first & (pc.field("date") >= GAP[0]) & (pc.field("date") <= GAP[1])))


def of_first(bars: pa.Table, end: date) -> pa.Array:
    """Which rows are of the first instrument and before a day."""
    return pc.and_(pc.equal(bars["instrument"], pc.min(bars["instrument"])), pc.less(bars["date"], pa.scalar(end)))


def test_rows_after_a_gap_look_back_to_what_the_directory_does_not_hold_yet(bars, tmp_path):
    platform = opened(tmp_path / "home")
    put(platform, bars.filter(pc.invert(of_first(bars, GAP[1]))))
    refresh(platform)
    # its history before the gap comes, and what follows the gap is computed before the directory holds it
    put(platform, bars)
    for name in ("qlib_bin", "custom_factors"):
        run(platform, name, GAP[1], END)
    later = survey(platform, "toy").stale["custom_factors"].data
    assert later[later > np.datetime64(GAP[1])].tolist()[0] == date(2018, 6, 11)
    refresh(platform)
    assert_one_build(platform, opened(tmp_path / "once"), bars, "custom_factors", "factor_metrics")


def test_metrics_of_a_pool_that_was_chosen_from_what_the_directory_does_not_hold_yet(tmp_path):
    def with_pool(home: Path) -> Platform:
        pools = {"big": {"kind": "top", "size": 2, "window": 600}}
        toy = UniverseSettings(source=MARKET, calendar="XNYS", start=date(2015, 9, 1), end=END, pools=pools)
        factors = {"features": (), "custom_factors": {"risen": "$close/Ref($close, 1)"}}
        chosen = {**factors, "training": {"features": ("custom_factors",)}}
        return Platform.open(Settings(home=home, universes={"toy": toy}, horizons=(1,), **chosen))

    platform = with_pool(tmp_path / "home")
    run(platform, "raw_ohlcv", date(2015, 9, 1))
    rows = platform.store.read("raw_ohlcv", "toy")
    put(platform, rows, date(2015, 9, 1))
    refresh(platform)
    # two years later it shows that one was the most traded by far, and metrics are computed of members as they were
    long_ago = pc.and_(
        pc.equal(rows["instrument"], pc.min(rows["instrument"])), pc.less(rows["date"], date(2016, 9, 1))
    )
    at, more = rows.column_names.index("volume"), pc.if_else(long_ago, 1000.0, 1.0)
    corrected = rows.set_column(at, rows.schema.field("volume"), pc.multiply(rows["volume"], more))
    put(platform, corrected, date(2015, 9, 1))
    run(platform, "factor_metrics", date(2015, 9, 1))
    for name in ("qlib_bin", "custom_factors", "labels"):
        run(platform, name, date(2015, 9, 1))
    assert set(survey(platform, "toy").stale["factor_metrics"].sessions.tolist()) >= {date(2018, 6, 1), END}
    refresh(platform)
    once = with_pool(tmp_path / "once")
    put(once, corrected, date(2015, 9, 1))
    refresh(once)
    assert platform.store.read("factor_metrics", "toy").equals(once.store.read("factor_metrics", "toy"))


def test_rows_that_a_restored_backup_knows_nothing_of_are_stale(bars, tmp_path):
    before, fewer = bars.filter(pc.field("date") < LATE), {"features": ("price_features",)}
    platform = opened(tmp_path / "home", custom_factors={}, training=fewer, **fewer)
    put(platform, before)
    refresh(platform)
    backup(platform.store, tmp_path / "safe")
    # a new table, and sessions more
    platform = opened(tmp_path / "home", **fewer)
    put(platform, bars)
    refresh(platform)
    restore_backup(platform.store, tmp_path / "safe", force=True)
    stale = survey(platform, "toy").stale
    late = pc.unique(bars.filter(pc.field("date") >= LATE)["date"]).to_pylist()
    assert stale["custom_factors"].rows.tolist() == late
    assert set(late) <= set(stale["qlib_bin"].sessions.tolist())
    refresh(platform)
    once = opened(tmp_path / "once", **fewer)
    assert_one_build(platform, once, before, "custom_factors", "factor_metrics", "price_features", "labels")
    assert not stages.verify_bins(platform, "toy").problems
