"""The stages on real stores: any way of filling the sessions gives the same tables, and nothing looks ahead."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from qdag.assets.platform import Platform
from qdag.errors import MissingDataError, SessionError
from qdag.settings import Settings, SyntheticSource, UniverseSettings, settings_from
from qdag_tests import stages
from qdag_tests.vendor_files import days_of, write_custom

START, END = date(2018, 1, 2), date(2018, 12, 31)
TABLES = (
    "raw_ohlcv",
    "alpha158",
    "basic_statistics",
    "technical_indicators",
    "price_features",
    "custom_factors",
    "labels",
)


def _settings(home: Path, end: date = END) -> Settings:
    synthetic = SyntheticSource(seed=4, instruments=9)
    return Settings(
        home=home,
        universes={
            "toy": UniverseSettings(source=synthetic, calendar="XNYS", start=START, end=end),
            "east": UniverseSettings(source=synthetic, calendar="XSHG", start=START, end=end),
        },
        horizons=(1, 5),
        custom_factors={"gap": "$open/Ref($close, 1) - 1", "rank": "CSRank(Mean($volume, 5))"},
    )


def _fill(platform: Platform, start: date, end: date, universe: str = "toy") -> dict[str, stages.Result]:
    settings = platform.settings
    steps = {
        "raw_ohlcv": stages.raw_ohlcv,
        "qlib_bin": stages.qlib_bin,
        **{name: stages.feature_stage(name) for name in stages.feature_tables(settings)},
        "labels": stages.labels,
        "factor_metrics": stages.factor_metrics,
    }
    return {name: step(platform, universe, start, end) for name, step in steps.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Platform:
    platform = Platform.open(_settings(tmp_path_factory.mktemp("whole")))
    _fill(platform, START, END)
    return platform


def _rows(platform: Platform, table: str, end: date = END):
    frame = platform.store.read(table, "toy", START, end).to_pandas()
    keys = [c for c in ("date", "instrument", "pool", "horizon", "factor") if c in frame]
    return frame.sort_values(keys, ignore_index=True)


def test_increments_equal_the_whole(whole, tmp_path):
    platform = Platform.open(_settings(tmp_path))
    for start, end in (
        (START, date(2018, 9, 14)),
        (date(2018, 9, 17), date(2018, 9, 17)),
        (date(2018, 9, 18), date(2018, 11, 30)),
        # a window that overlaps what is there, and one that is done twice
        (date(2018, 11, 15), END),
        (date(2018, 12, 3), date(2018, 12, 5)),
    ):
        _fill(platform, start, end)
    _assert_same(whole, platform)


def _assert_same(whole: Platform, platform: Platform) -> None:
    for table in (*TABLES, "factor_metrics"):
        expected, got = _rows(whole, table), _rows(platform, table)
        assert list(expected) == list(got)
        for column in expected:
            if expected[column].dtype.kind == "f":
                np.testing.assert_array_equal(got[column], expected[column], err_msg=f"{table}.{column}")
            else:
                assert got[column].equals(expected[column]), f"{table}.{column}"
    provider, other = (p.settings.provider("toy") for p in (whole, platform))
    files = sorted(p.relative_to(provider) for p in (provider / "features").rglob("*.bin"))
    assert files
    for file in (*files, Path("instruments/all.txt"), Path("calendars/day.txt")):
        assert (provider / file).read_bytes() == (other / file).read_bytes(), file


def test_nobody_knows_yet_that_a_suspended_instrument_will_trade_again(whole, tmp_path):
    rows = whole.store.read("raw_ohlcv", "toy").to_pandas()
    days = {name: np.sort(one["date"].to_numpy().astype("M8[D]")) for name, one in rows.groupby("instrument")}
    calendar = whole.calendar("toy").between(START, END)
    gaps = []
    for traded in days.values():
        at = np.searchsorted(calendar, traded)
        for i in np.flatnonzero(np.diff(at) > 3):
            gaps.append((int(at[i + 1] - at[i]), calendar[at[i]], calendar[at[i + 1]]))
    # a suspension of several sessions, and windows that end within it
    _, last, again = max(gaps)
    inside = calendar[(calendar > last) & (calendar < again)]
    platform = Platform.open(_settings(tmp_path, inside[-1].item()))
    _fill(platform, START, inside[0].item())
    _fill(platform, inside[1].item(), inside[-1].item())
    for table in (*TABLES[:-1], "factor_metrics"):
        assert _rows(platform, table).equals(_rows(whole, table, inside[-1].item())), table
    platform = Platform.open(_settings(tmp_path))
    _fill(platform, again.item(), END)
    _assert_same(whole, platform)


def test_cutting_the_future_changes_nothing_but_labels(whole, tmp_path):
    cut = date(2018, 8, 31)
    platform = Platform.open(_settings(tmp_path))
    _fill(platform, START, cut)
    for table in (*TABLES[:-1], "factor_metrics"):
        expected, got = _rows(whole, table, cut), _rows(platform, table, cut)
        assert got.equals(expected), table
    labels, known = _rows(platform, "labels", cut), _rows(whole, "labels", cut)
    dates = labels["date"].to_numpy()
    sessions = np.unique(dates)
    for h in (1, 5):
        late = dates >= sessions[-(h + 1)]
        assert labels[f"label_{h}"][late].isna().all()
        assert not known[f"label_{h}"][late].isna().all()
        assert labels[f"label_{h}"][~late].equals(known[f"label_{h}"][~late])


def test_labels_are_the_forward_return_by_hand(whole):
    sessions = whole.calendar("toy").all
    bars = whole.store.read("raw_ohlcv", "toy").to_pandas().set_index(["instrument", "date"])
    instrument = bars.index[0][0]
    s = 100
    adjusted = bars["close"] * bars["factor"]
    expected = np.float32(adjusted[instrument, sessions[s + 6].item()]) / np.float32(
        adjusted[instrument, sessions[s + 1].item()]
    ) - np.float32(1)
    row = whole.store.read("labels", "toy", sessions[s].item(), sessions[s].item(), [instrument]).to_pandas()
    assert row["label_5"].item() == pytest.approx(expected, rel=1e-5)


def test_levels_are_stored_and_factors_evaluated(whole):
    evaluated = set(_rows(whole, "factor_metrics")["factor"])
    for chosen in whole.settings.feature_sets():
        assert {f"{chosen.name}.{f.name}" for f in chosen.features if not f.unit} == {
            name for name in evaluated if name.startswith(f"{chosen.name}.")
        }
    spec = stages.table_spec(whole.settings, "technical_indicators")
    columns = {c.name: c for c in spec.columns}
    assert columns["sma_20"].unit == "currency"
    assert columns["sma_20"].description.endswith("a level, not evaluated as a factor")
    assert columns["rsi_14"].unit == ""
    assert "level" not in columns["rsi_14"].description


def test_results_tell_what_was_done(tmp_path):
    platform = Platform.open(_settings(tmp_path)).for_run("run-7")
    done = _fill(platform, START, date(2018, 3, 29))
    alpha = done["alpha158"]
    listed = set(platform.store.read("raw_ohlcv", "toy")["instrument"].to_pylist())
    # two of the nine are listed later
    assert 1 < len(listed) < 9
    assert (alpha.instruments, alpha.sessions) == (len(listed), 61)
    assert alpha.rows == platform.store.count("alpha158", "toy", START, date(2018, 3, 29))
    stored = platform.store.read("alpha158", "toy").select(
        list(stages.table_spec(platform.settings, "alpha158").values)
    )
    cells = stored.num_rows * stored.num_columns
    assert alpha.nan_share == pytest.approx(sum(c.null_count for c in stored.columns) / cells)
    assert alpha.seconds > 0
    assert alpha.peak_mib > 10
    provenance = platform.store.history("alpha158")[0]["provenance"]
    assert provenance["dagster_run_id"] == "run-7"
    assert provenance["input.raw_ohlcv"] == str(platform.store.version("raw_ohlcv"))
    assert done["factor_metrics"].extra["top_factors_horizon_1"].startswith("| factor |")


def test_a_day_that_is_no_session_of_the_universe_is_empty(tmp_path):
    platform = Platform.open(_settings(tmp_path))
    holiday = date(2018, 2, 19)  # Chinese New Year; also Presidents' Day
    done = _fill(platform, holiday, holiday, "east")
    assert {r.rows for r in done.values()} == {0}
    assert {r.version for r in done.values()} == {None}


def test_a_later_window_first_bridges_the_calendar(tmp_path):
    platform = Platform.open(_settings(tmp_path))
    window = (date(2018, 6, 1), date(2018, 6, 29))
    done = _fill(platform, *window)
    assert done["qlib_bin"].extra["bridged_sessions"] > 100
    assert done["alpha158"].sessions == 21
    _fill(platform, START, date(2018, 5, 31))
    # only what saw the gap differs from a build in order; doing it again mends it
    _fill(platform, *window)
    other = Platform.open(_settings(tmp_path / "ordered"))
    _fill(other, START, window[1])
    for table in TABLES:
        assert _rows(platform, table, window[1]).equals(_rows(other, table, window[1])), table


def test_missing_upstream_says_what_to_do(tmp_path):
    platform = Platform.open(_settings(tmp_path))
    with pytest.raises(MissingDataError, match="materialize raw_ohlcv and qlib_bin"):
        stages.feature_stage("alpha158")(platform, "toy", START, END)
    with pytest.raises(SessionError, match="is after end"):
        stages.raw_ohlcv(platform, "toy", END, START)


def test_code_version_follows_the_expressions(tmp_path):
    settings = _settings(tmp_path)
    text = stages.code_version(settings, "custom_factors")
    changed = settings.model_copy(update={"custom_factors": {"gap": "$open/Ref($close, 2) - 1"}})
    assert stages.code_version(changed, "custom_factors") != text
    assert stages.code_version(changed, "alpha158") == stages.code_version(settings, "alpha158")


def test_columns_that_a_vendor_does_not_deliver_count_as_no_gaps(tmp_path):
    days = days_of("XNYS", date(2021, 1, 4), date(2021, 1, 29))
    folder = write_custom(tmp_path / "x", ["A", "B"], days, "%Y-%m-%d", "i,d,o,h,l,c,v")
    columns = {"instrument": "i", "date": "d", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"}
    universe = {
        "calendar": "XNYS",
        "start": days[0],
        "end": days[-1],
        "source": {"kind": "files", "path": folder, "profile": "custom", "columns": columns},
    }
    platform = Platform.open(settings_from({"home": tmp_path / "home", "universes": {"x": universe}}))
    result = stages.raw_ohlcv(platform, "x", days[0], days[-1])
    assert result.rows == 2 * len(days)
    assert result.nan_share == 0
    assert result.extra["columns_without_values"] == "amount, split, dividend"
    assert {told["nan_share"] for told in result.by_session.values()} == {0}
