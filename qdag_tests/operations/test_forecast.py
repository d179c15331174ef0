"""What `qdag plan` foresees, against what is then done."""

import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from qdag import schema
from qdag.assets.platform import Platform
from qdag.cli import app
from qdag.operations.forecast import forecast
from qdag.operations.survey import survey
from qdag.settings import FilesSource, Settings, SyntheticSource, UniverseSettings
from qdag_tests import stages
from qdag_tests.vendor_files import days_of, write_us

START, END = date(2018, 1, 2), date(2018, 6, 29)
HEADER = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"


def opened(home: Path, end: date = END, **factors: str) -> Platform:
    toy = UniverseSettings(source=SyntheticSource(seed=3, instruments=4), calendar="XNYS", start=START, end=end)
    return Platform.open(Settings(home=home, universes={"toy": toy}, horizons=(1, 5), custom_factors=factors))


def refresh(platform: Platform) -> dict[str, set[date]]:
    """Compute what is stale; the sessions that were computed of each asset."""
    done: dict[str, set[date]] = {}
    while asked := survey(platform, "toy").requests:
        for request in asked:
            days = platform.calendar("toy").between(request.start, request.end).tolist()
            for name in request.assets:
                stage = stages.feature_stage(name)
                stage(platform, "toy", request.start, request.end)
                done.setdefault(name, set()).update(days)
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Platform:
    platform = opened(tmp_path_factory.mktemp("built"), date(2018, 5, 31))
    stages.raw_ohlcv(platform, "toy", START, END)
    refresh(platform)
    return platform


def test_of_one_more_factor_only_its_own_metrics_are_foreseen_and_computed(built, tmp_path):
    shutil.copytree(built.settings.home, tmp_path / "home")
    end = date(2018, 5, 31)

    def foreseen(**factors: str) -> tuple[Platform, str]:
        platform = opened(tmp_path / "home", end, **factors)
        return platform, next(s.why for s in forecast(platform, "toy", months=0).steps if s.asset == "factor_metrics")

    def computed(platform: Platform) -> str:
        stages.feature_stage("custom_factors")(platform, "toy", START, end)
        return stages.factor_metrics(platform, "toy", START, end).extra["factors_computed"]

    first = {"wide": "Mean($close, 9)/$close"}
    platform, why = foreseen(**first)
    assert why.endswith("sessions, of custom_factors.wide alone")
    assert computed(platform) == "custom_factors.wide"
    platform, why = foreseen(**first, near="Mean($close, 3)/$close")
    assert why.endswith("sessions, of custom_factors.near alone")
    stale = survey(platform, "toy").stale
    assert stale["custom_factors"].columns == ("near",)
    assert computed(platform) == "custom_factors.near"
    # where nobody knows how the others were defined, all are computed
    wide = opened(tmp_path / "home", end, wide="Mean($close, 9)/$close", near="Mean($close, 3)/$open")
    assert survey(wide, "toy").stale["factor_metrics"].columns == ("custom_factors.near",)

    shutil.rmtree(tmp_path / "home" / "definitions")
    assert survey(wide, "toy").stale["factor_metrics"].columns is None


def test_an_empty_home_needs_everything(tmp_path):
    platform = opened(tmp_path)
    told = forecast(platform, "toy", months=3)
    sessions = platform.calendar("toy").between(START, END)
    steps = {step.asset: step for step in told.steps}
    assert list(steps) == [n for n in stages.asset_names(platform.settings) if n != "custom_factors"]
    for name in ("raw_ohlcv", "qlib_bin", "alpha158", "labels", "factor_metrics"):
        assert np.array_equal(steps[name].sessions, sessions), name
        assert steps[name].why == "new"
    assert [str(day) for day in steps["trained_model"].sessions] == ["2018-04-30", "2018-05-31", "2018-06-29"]
    assert steps["raw_ohlcv"].rows == 4 * len(sessions)
    assert told.seconds > 0
    assert told.bytes > 0
    assert not list(tmp_path.iterdir())


def test_what_was_foreseen_is_what_is_done(built):
    """One month more: nothing that is computed was left out, and each asset's new sessions are all there."""
    platform = opened(built.settings.home)
    told = {step.asset: set(step.sessions.tolist()) for step in forecast(platform, "toy", months=0).steps}
    fresh = set(platform.calendar("toy").between(date(2018, 6, 1), END).tolist())
    assert told["raw_ohlcv"] == told["alpha158"] == fresh
    stages.raw_ohlcv(platform, "toy", min(fresh), END)
    done = refresh(platform)
    assert done
    for name, days in done.items():
        assert days <= told[name], name
    assert forecast(platform, "toy", months=0).steps == ()


def test_a_correction_is_foreseen_as_far_as_it_reaches(built):
    platform = opened(built.settings.home, date(2018, 5, 31))
    day = date(2018, 4, 10)
    rows = platform.store.read("raw_ohlcv", "toy", day, day)
    doubled = rows.set_column(rows.column_names.index("volume"), "volume", pc.multiply(rows["volume"], 2))
    platform.store.replace(schema.RAW_OHLCV, "toy", day, day, doubled, {})
    told = {step.asset: step for step in forecast(platform, "toy", months=0).steps}
    assert "raw_ohlcv" not in told
    assert told["alpha158"].sessions[0].item() == day
    assert "inputs changed" in told["qlib_bin"].why


def test_a_file_that_changed_since_it_was_read_is_planned(tmp_path):
    """And only the sessions whose rows differ, with what looks back on them; plan and stale tell the same."""
    days = days_of("XNYS", date(2018, 1, 2), date(2018, 3, 29))
    folder = write_us(tmp_path / "files", ["AAA", "BBB"], days)
    market = UniverseSettings(source=FilesSource(path=folder), calendar="XNYS", start=days[0], end=days[-1])
    platform = Platform.open(Settings(home=tmp_path / "home", universes={"us": market}, horizons=(1,)))
    stages.raw_ohlcv(platform, "us", days[0], days[-1])
    stages.qlib_bin(platform, "us", days[0], days[-1])
    settled = [step.asset for step in forecast(platform, "us", months=0).steps]
    assert "raw_ohlcv" not in settled
    assert "qlib_bin" not in settled
    text = (folder / "AAA.csv").read_text()
    (folder / "AAA.csv").write_text(text.replace(f"{days[20]},10.0,11.0", f"{days[20]},10.0,12.0"))
    told = {step.asset: step for step in forecast(platform, "us", months=0).steps}
    assert told["raw_ohlcv"].sessions.tolist() == [days[20]]
    assert told["raw_ohlcv"].why == "changed AAA.csv"
    assert told["qlib_bin"].sessions[0].item() == days[20]
    assert "inputs would change" in told["qlib_bin"].why


def test_days_after_the_files_are_told_and_not_planned(tmp_path, monkeypatch):
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("AAA", "BBB"):
        lines = "".join(f"2018-01-{day:02d},10,11,9,10,10,1000,0,1\n" for day in (2, 3, 4, 5))
        (folder / f"{name}.csv").write_text(HEADER + lines)
    files = FilesSource(path=folder, profile="alphavantage")
    market = UniverseSettings(source=files, calendar="XNYS", start=START, end=date(2018, 1, 31))
    told = forecast(Platform.open(Settings(home=tmp_path / "home", universes={"us": market})), "us", months=0)
    assert [str(day) for day in told.new] == ["2018-01-02", "2018-01-03", "2018-01-04", "2018-01-05"]
    assert len(told.beyond) == 17
    config = tmp_path / "qdag.toml"
    config.write_text(
        f'[universes.us]\ncalendar = "XNYS"\nstart = 2018-01-02\nend = 2018-01-31\n'
        f'source = {{ kind = "files", path = "{folder}" }}\n'
    )
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["plan", "--config", str(config)])
    assert shown.exit_code == 0, shown.output
    assert "the files end on 2018-01-05: 17 sessions after it wait for new files" in shown.output
    assert "qdag materialize --universe us" in shown.output
    assert not (tmp_path / ".qdag").exists()
