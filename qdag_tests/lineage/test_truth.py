"""Whatever was done to the tables, past every stage: what is stale is told, and refreshing gives one build's values."""

import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from qdag import schema
from qdag.assets import feature_table, labels
from qdag.assets.platform import Platform
from qdag.features import catalogue
from qdag.operations.backfill import backfill_chunks
from qdag.operations.survey import survey
from qdag.operations.upkeep import compact, restore
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag.store.tables import TableStore
from qdag_tests import stages

START, END = date(2018, 1, 2), date(2018, 8, 31)
MARKET = SyntheticSource(seed=3, instruments=4)


def settings(home: Path, pools: dict | None = None, **more) -> Settings:
    toy = UniverseSettings(source=MARKET, calendar="XNYS", start=START, end=END, pools=pools or {})
    universes = {"toy": toy, **more.pop("universes", {})}
    return Settings(home=home, universes=universes, horizons=(1, 5), **more)


def run(platform: Platform, names, start: date, end: date) -> None:
    for name in names:
        stage = stages.feature_stage(name)
        stage(platform, "toy", start, end)


def refresh(platform: Platform) -> list[tuple[str, ...]]:
    done: list[tuple[str, ...]] = []
    while asked := survey(platform, "toy").requests:
        for request in asked:
            run(platform, request.assets, request.start, request.end)
            done.append(request.assets)
        assert len(done) < 40, "refreshing does not come to an end"
    assert not any(survey(platform, "toy").stale.values())
    return done


def put(platform: Platform, bars: pa.Table, start: date = START, end: date = END) -> None:
    """Bars by hand: what is stored from ``start`` to ``end`` is exactly these."""
    inside = (pc.field("date") >= pa.scalar(start)) & (pc.field("date") <= pa.scalar(end))
    platform.store.replace(schema.RAW_OHLCV, "toy", start, end, bars.filter(inside), {})


def assert_same(one: Platform, other: Platform, tables) -> None:
    for table in tables:
        names = [c for c in one.store.columns(table) if c in other.store.columns(table)]
        got, want = (p.store.read(table, "toy", columns=names) for p in (one, other))
        assert got.equals(want), table


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A home whose every asset but the models is up to date."""
    home = tmp_path_factory.mktemp("filled")
    platform = Platform.open(settings(home))
    run(platform, ("raw_ohlcv",), START, END)
    refresh(platform)
    return home


@pytest.fixture
def home(filled, tmp_path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "home"))


@pytest.fixture(scope="module")
def bars(filled) -> pa.Table:
    return TableStore(filled / "tables").read("raw_ohlcv", "toy")


# -- other hands ------------------------------------------------------------------------------------------------------


def test_a_restored_table_is_stale_where_it_was_restored(home):
    platform = Platform.open(settings(home))
    before = platform.store.read("price_features", "toy")
    restore(platform, "price_features", 0)
    assert platform.store.read("price_features", "toy").num_rows == 0
    stale = survey(Platform.open(settings(home)), "toy").stale
    assert len(stale["price_features"].rows) > 150
    assert "stored rows changed" in stale["price_features"].reason()
    # metrics that were computed from what is lost are as they were
    assert not stale["factor_metrics"]
    assert refresh(platform) == [("price_features",)]
    assert platform.store.read("price_features", "toy").equals(before)


def test_metrics_from_restored_labels_do_not_pass_for_right(home):
    platform = Platform.open(settings(home))
    before = platform.store.read("factor_metrics", "toy")
    restore(platform, "labels", 0)
    run(platform, ("factor_metrics",), START, END)
    assert not platform.store.read("factor_metrics", "toy").equals(before)
    refresh(platform)
    assert platform.store.read("factor_metrics", "toy").equals(before)


def test_rows_by_another_hand_are_stale_by_whichever_writer(home):
    from deltalake import DeltaTable

    platform = Platform.open(settings(home))
    day = date(2018, 5, 8)
    rows = platform.store.read("alpha158", "toy", day, day)
    spec = stages.table_spec(platform.settings, "alpha158")
    wrong = rows.set_column(
        rows.column_names.index("KMID"), "KMID", pc.multiply(rows["KMID"], pa.scalar(2, pa.float32()))
    )
    platform.store.replace(spec, "toy", day, day, wrong, {})
    assert survey(platform, "toy").stale["alpha158"].rows.tolist() == [day]
    # one that knows nothing of sessions: the month that it touched
    DeltaTable(platform.store.uri("basic_statistics")).delete("date = '2018-06-06'")
    found = survey(Platform.open(settings(home)), "toy").stale["basic_statistics"].rows
    assert np.unique(found.astype("M8[M]")).tolist() == [date(2018, 6, 1)]
    refresh(platform)
    assert platform.store.read("alpha158", "toy", day, day).equals(rows)


def test_merging_files_makes_nothing_stale(home):
    platform = Platform.open(settings(home))
    run(platform, ("price_features",), date(2018, 8, 30), END)
    compact(platform)
    assert not any(survey(Platform.open(settings(home)), "toy").stale.values())


def test_a_lost_commit_is_noticed_also_when_another_took_its_number(home, filled):
    platform = Platform.open(settings(home))
    run(platform, ("price_features",), date(2018, 7, 2), date(2018, 7, 31))
    # the folder comes back from before that commit, and another one takes its number
    shutil.rmtree(home / "tables" / "price_features")
    shutil.copytree(filled / "tables" / "price_features", home / "tables" / "price_features")
    platform = Platform.open(settings(home))
    july = survey(platform, "toy").stale["price_features"].rows
    assert np.unique(july.astype("M8[M]")).tolist() == [date(2018, 7, 1)]
    run(platform, ("price_features",), date(2018, 3, 1), date(2018, 3, 29))
    assert survey(platform, "toy").stale["price_features"].rows.tolist() == july.tolist()


def test_the_qlib_directory_is_compared_too(home):
    platform = Platform.open(settings(home))
    shutil.rmtree(platform.settings.provider("toy"))
    assert len(survey(platform, "toy").stale["qlib_bin"].rows) > 150
    refresh(platform)
    assert not stages.verify_bins(platform, "toy").problems


# -- definitions ------------------------------------------------------------------------------------------------------


def test_another_universe_makes_nothing_stale(home):
    other = UniverseSettings(
        source=MARKET, calendar="XNYS", start=START, pools={"big": {"kind": "top", "size": 2}}, training={"horizon": 5}
    )
    both = settings(home, universes={"other": other})
    assert not any(survey(Platform.open(both), "toy").stale.values())
    assert stages.definition(both, "toy", "trained_model") == stages.definition(settings(home), "toy", "trained_model")


def test_a_pool_makes_only_what_reads_pools_stale(home):
    platform = Platform.open(settings(home, pools={"big": {"kind": "top", "size": 2, "window": 10}}))
    stale = survey(platform, "toy").stale
    assert [name for name, found in stale.items() if found] == ["qlib_bin", "factor_metrics"]
    refresh(platform)
    assert "big" in pc.unique(platform.store.read("factor_metrics", "toy")["pool"]).to_pylist()


def test_a_definition_knows_code_and_no_prose(tmp_path, monkeypatch):
    def version() -> str:
        return stages.definition(settings(tmp_path), "toy", "technical_indicators").version

    declared = catalogue.feature_set("technical_indicators")
    before = version()
    with monkeypatch.context() as patch:
        told = tuple(replace(f, meaning="in other words") for f in declared.features)
        patch.setitem(catalogue.feature_sets(), declared.name, replace(declared, features=told))
        assert version() == before
    code = replace(declared.code, constants={**declared.code.constants, "counted": 60})
    monkeypatch.setitem(catalogue.feature_sets(), declared.name, replace(declared, code=code))
    assert version() != before


def test_a_raised_version_of_the_code_makes_its_values_stale(home, monkeypatch):
    monkeypatch.setattr(labels.Labels, "version", 2)
    stale = survey(Platform.open(settings(home)), "toy").stale
    assert [name for name, found in stale.items() if found] == ["labels", "factor_metrics"]
    monkeypatch.setattr(feature_table, "ENGINE_VERSION", 2)
    monkeypatch.setattr(labels, "ENGINE_VERSION", 2)
    stale = survey(Platform.open(settings(home)), "toy").stale
    assert {"alpha158", "basic_statistics", "price_features"} <= {
        name for name, found in stale.items() if len(found.code)
    }
    assert not stale["qlib_bin"]


def test_corrected_industries_are_computed_again_and_nothing_else(tmp_path):
    listed = tmp_path / "industries.csv"

    def opened(home: Path, groups: str) -> Platform:
        names = "".join(f"SYN{i:05d},{group}\n" for i, group in enumerate(groups, 1))
        listed.write_text(f"symbol,industry\n{names}")
        toy = UniverseSettings(source=MARKET, calendar="XNYS", start=START, end=END, industries=listed)
        factors = {"neutral": "CSNeutralize($close/Ref($close, 1)-1, $industry, 'group')", "plain": "$close/$open"}
        return Platform.open(Settings(home=home, universes={"toy": toy}, horizons=(1,), custom_factors=factors))

    chain = ("raw_ohlcv", "qlib_bin", "custom_factors")
    platform = opened(tmp_path / "a", "AABB")
    run(platform, chain, START, END)
    platform = opened(tmp_path / "a", "ABAB")
    assert len(survey(platform, "toy").stale["custom_factors"].code)
    result = stages.feature_stage("custom_factors")(platform, "toy", START, END)
    assert result.extra["columns_computed"] == "neutral"
    assert not survey(platform, "toy").stale["custom_factors"]
    fresh = opened(tmp_path / "b", "ABAB")
    run(fresh, chain, START, END)
    assert_same(platform, fresh, ["custom_factors"])


def test_one_more_factor_computes_its_own_column_and_its_own_metrics(home, tmp_path):
    more = {"custom_factors": {"gap": "$open/Ref($close, 1) - 1"}}
    platform = Platform.open(settings(home, **more))
    stale = survey(platform, "toy").stale
    assert [name for name, found in stale.items() if found] == ["custom_factors", "factor_metrics"]
    run(platform, ("custom_factors",), START, END)
    result = stages.factor_metrics(platform, "toy", START, END)
    assert result.extra["factors_computed"] == "custom_factors.gap"
    assert not any(survey(platform, "toy").stale.values())
    fresh = Platform.open(settings(tmp_path / "fresh", **more))
    run(fresh, ("raw_ohlcv",), START, END)
    refresh(fresh)
    assert_same(platform, fresh, ["custom_factors", "factor_metrics"])
    # and one that is gone takes its metrics along
    without = Platform.open(settings(home))
    refresh(without)
    assert_same(without, Platform.open(settings(tmp_path / "fresh")), ["alpha158"])
    assert "custom_factors.gap" not in pc.unique(without.store.read("factor_metrics", "toy")["factor"]).to_pylist()


def test_provenance_names_the_bars_that_were_read(home, bars):
    platform = Platform.open(settings(home, training={"features": ("price_features",)}))
    built = platform.store.version("raw_ohlcv")
    close = pc.multiply(bars["close"], 1.01)
    put(platform, bars.set_column(bars.column_names.index("close"), "close", close), END, END)
    run(platform, ("price_features",), END, END)
    told = platform.store.history("price_features")[0]["provenance"]
    assert told["input.raw_ohlcv"] == str(built) != str(platform.store.version("raw_ohlcv"))
    run(platform, ("predictions",), END, END)
    told = platform.store.history("predictions")[0]["provenance"]
    assert [key for key in told if key.startswith("input.")] == ["input.price_features"]


# -- what a value depends on ------------------------------------------------------------------------------------------


def gapped(bars: pa.Table, first: date, last: date) -> pa.Table:
    """The bars, with one instrument suspended between two days."""
    name = bars["instrument"][0].as_py()
    suspended = (pc.field("instrument") == name) & (pc.field("date") > pa.scalar(first))
    return bars.filter(~(suspended & (pc.field("date") < pa.scalar(last))))


CHANGE = {"custom_factors": {"day": "$change", "mean": "Mean($change, 3)"}}


def test_a_close_before_a_halt_reaches_what_looks_back_over_it(bars, tmp_path):
    halted = gapped(bars, date(2018, 3, 29), date(2018, 7, 2))
    name = bars["instrument"][0].as_py()
    before = pc.and_(pc.equal(halted["instrument"], name), pc.equal(halted["date"], pa.scalar(date(2018, 3, 29))))
    close = pc.if_else(before, pc.multiply(halted["close"], 1.1), halted["close"])
    corrected = halted.set_column(halted.column_names.index("close"), "close", close)
    platform, fresh = (Platform.open(settings(tmp_path / name, **CHANGE)) for name in ("a", "b"))
    put(platform, halted)
    refresh(platform)
    put(platform, corrected, date(2018, 3, 29), date(2018, 3, 29))
    found = survey(platform, "toy").stale["custom_factors"].sessions
    assert {date(2018, 3, 29), date(2018, 7, 2), date(2018, 7, 5)} <= set(found.tolist())
    refresh(platform)
    put(fresh, corrected)
    refresh(fresh)
    assert_same(platform, fresh, ["custom_factors", "alpha158", "factor_metrics"])


def test_years_before_that_come_later_give_what_one_build_gives(bars, tmp_path):
    """Whether an instrument was listed before a suspension decides what its windows count."""
    halted = gapped(bars, date(2018, 2, 28), date(2018, 7, 2))
    platform, fresh = (Platform.open(settings(tmp_path / name, **CHANGE)) for name in ("late", "once"))
    put(platform, halted, date(2018, 5, 1), END)
    refresh(platform)
    put(platform, halted)
    assert len(survey(platform, "toy").stale["alpha158"].sessions)
    refresh(platform)
    put(fresh, halted)
    refresh(fresh)
    assert_same(platform, fresh, ["alpha158", "custom_factors", "technical_indicators", "factor_metrics"])
    assert not stages.verify_bins(platform, "toy").problems


def test_recent_years_first_then_the_backfill_of_those_before(tmp_path, filled):
    platform = Platform.open(settings(tmp_path))
    recent = date(2018, 5, 1)
    names = ("raw_ohlcv", "qlib_bin", "price_features", "labels")
    run(platform, names, recent, END)
    asked = []
    for part in backfill_chunks(platform, "toy", START, END, None, 60):
        run(platform, part.assets, part.start, part.end)
        asked.append(part)
    assert sum(part.sessions for part in asked) == asked[0].total
    refresh(platform)
    everything = ("raw_ohlcv", *stages.feature_tables(platform.settings), "labels", "factor_metrics")
    assert_same(platform, Platform.open(settings(filled)), everything)
    assert not stages.verify_bins(platform, "toy").problems
    assert not [part for part in backfill_chunks(platform, "toy", START, END, None, 60) if part.assets]


def test_the_traded_value_that_chose_a_pool_long_ago_is_an_input(tmp_path):
    pools = {"big": {"kind": "top", "size": 2, "window": 1000}}
    years = UniverseSettings(source=MARKET, calendar="XNYS", start=date(2010, 1, 4), end=END, pools=pools)
    platform = Platform.open(Settings(home=tmp_path, universes={"toy": years}, horizons=(1,)))
    reads = {read.asset: read for read in stages.reads_of(platform.settings, "toy", "factor_metrics")}
    # the window before the month of the first signal that the trailing ratios look back on
    assert reads["raw_ohlcv"].past >= 1000 + 21 + 252 + 2


@pytest.fixture(scope="module")
def suspension(tmp_path_factory) -> tuple[date, date, pa.Table]:
    """First and last day and bars of four years, in which one instrument does not trade for twenty months."""
    first, last = date(2015, 1, 2), date(2018, 6, 29)
    toy = UniverseSettings(source=MARKET, calendar="XNYS", start=first, end=last)
    platform = Platform.open(Settings(home=tmp_path_factory.mktemp("suspension"), universes={"toy": toy}))
    stages.raw_ohlcv(platform, "toy", first, last)
    return first, last, gapped(platform.store.read("raw_ohlcv", "toy"), date(2016, 3, 31), date(2017, 12, 1))


def test_indicators_look_back_over_a_long_suspension_and_lineage_knows(suspension, tmp_path):
    first, last, bars = suspension
    name = bars["instrument"][0].as_py()
    then = pc.and_(pc.equal(bars["instrument"], name), pc.equal(bars["date"], pa.scalar(date(2016, 1, 20))))
    wrong = pc.if_else(then, pc.multiply(bars["volume"], 3), bars["volume"])
    spoiled = bars.set_column(bars.column_names.index("volume"), "volume", wrong)

    def opened(folder: str) -> Platform:
        toy = UniverseSettings(source=MARKET, calendar="XNYS", start=first, end=last)
        return Platform.open(Settings(home=tmp_path / folder, universes={"toy": toy}))

    def build(platform: Platform, *ends: date) -> None:
        begin = first
        for end in (*ends, last):
            run(platform, ("qlib_bin", "technical_indicators"), begin, end)
            begin = date.fromordinal(end.toordinal() + 1)

    once, parts, mended = (opened(folder) for folder in ("once", "parts", "mended"))
    put(once, bars, first, last)
    build(once)
    put(parts, bars, first, last)
    build(parts, date(2016, 6, 1), date(2017, 11, 30), date(2017, 12, 1), date(2017, 12, 29), date(2018, 1, 2))
    assert_same(parts, once, ["technical_indicators"])
    mine = once.store.read("technical_indicators", "toy", date(2017, 12, 1), instruments=[name])
    assert all(column.null_count == 0 for column in mine.columns)

    put(mended, spoiled, first, last)
    build(mended)
    put(mended, bars, date(2016, 1, 20), date(2016, 1, 20))
    corrected = date(2016, 1, 20)
    run(mended, ("qlib_bin",), corrected, corrected)
    stale = survey(mended, "toy").stale["technical_indicators"].sessions
    # more than two years later: the series of its half-year begins before the suspension
    assert stale[-1].item() == last
    run(mended, ("technical_indicators",), stale[0].item(), stale[-1].item())
    assert not survey(mended, "toy").stale["technical_indicators"]
    assert_same(mended, once, ["technical_indicators"])
