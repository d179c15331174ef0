"""The sensors on real runs of the chain in a real Dagster instance, with messages to a local server."""

import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import sqlalchemy as db

from qdag.alerts import Outbox
from qdag.assets.platform import Platform
from qdag.defs.build import build_defs
from qdag.defs.partitions import range_tags
from qdag.settings import AlertSettings, FilesSource, Settings, SyntheticSource, UniverseSettings
from qdag_tests.alerts.samples import write_metrics, year_of
from qdag_tests.sinks import Webhook

START, END = date(2018, 1, 2), date(2018, 2, 28)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
HEADER = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"


def settings_of(home: Path, source=None, end: date | None = END, **limits) -> Settings:
    universe = UniverseSettings(
        source=source or SyntheticSource(seed=3, instruments=8), calendar="XNYS", start=START, end=end
    )
    return Settings(home=home, universes={"toy": universe}, horizons=(1, 5), alerts=AlertSettings(**limits))


class Desk:
    """A code location with its instance: what the daemon has, with time at hand."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance):
        self.settings = settings
        self.instance = instance
        self.platform = Platform.open(settings)
        self.definitions = build_defs(settings, self.platform)
        self.cursors: dict[str, str | None] = {}

    def tick(self, name: str) -> str:
        """Evaluate a sensor as the daemon does; returns its skip message. A tick that raises keeps its cursor."""
        context = dg.build_sensor_context(
            self.instance,
            cursor=self.cursors.get(name),
            repository_def=self.definitions.get_repository_def(),
            sensor_name=name,
        )
        outcome = self.definitions.get_sensor_def(name).evaluate_tick(context)
        self.cursors[name] = outcome.cursor
        errors = [r.error for r in outcome.dagster_run_reactions or () if r.error]
        assert not errors, errors
        return outcome.skip_message or ""

    def run(self, *assets: str, start: date = START, end: date = END) -> str:
        job = self.definitions.resolve_job_def("sessions")
        result = job.execute_in_process(
            instance=self.instance,
            tags=range_tags("toy", start.isoformat(), end.isoformat()),
            run_config=QUIET,
            raise_on_error=False,
            asset_selection=[dg.AssetKey(name) for name in assets],
        )
        return result.run_id

    def raised(self) -> list:
        return [r.alert for r in Outbox(self.settings).recent(200)]


@pytest.fixture
def webhook():
    with Webhook() as sink:
        yield sink


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def stored_instance(tmp_path):
    """With qdag's own storage on SQLite, as the daemon has it."""
    folder = tmp_path / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        f"storage: {{custom: {{module: qdag.defs.storage, class: QdagStorage, config: {{base_dir: '{folder}'}}}}}}\n"
    )
    with dg.DagsterInstance.from_config(str(folder)) as opened:
        yield opened


def vendor_files(folder: Path, names, bad=()) -> FilesSource:
    folder.mkdir(exist_ok=True)
    days = [d for d in np.arange(START, END + timedelta(days=1)).tolist() if d.weekday() < 5]
    for name in names:
        close = -1 if name in bad else 10
        rows = "".join(f"{d},10,11,9,{close},{close},1000,0,1\n" for d in days)
        (folder / f"{name}.csv").write_text(HEADER + rows)
    return FilesSource(path=folder, profile="alphavantage")


def test_sensors_are_declared_off_and_automation_turns_them_on(tmp_path):
    for enabled, status in ((False, dg.DefaultSensorStatus.STOPPED), (True, dg.DefaultSensorStatus.RUNNING)):
        settings = Settings.model_validate({"home": tmp_path, "automation": {"enabled": enabled}})
        sensors = {s.name: s for s in build_defs(settings).sensors or ()}
        for name in ("run_failure_alerts", "alert_conditions", "alert_delivery"):
            assert sensors[name].default_status == status
            assert sensors[name].description


def test_a_failing_run_becomes_a_message(tmp_path, stored_instance, webhook):
    """The source's folder does not exist: the run really fails, and not every minute anew."""
    desk = Desk(settings_of(tmp_path, FilesSource(path=tmp_path / "nowhere"), urls=[webhook.url()]), stored_instance)
    desk.tick("run_failure_alerts")
    run_id = desk.run("raw_ohlcv")
    desk.tick("run_failure_alerts")
    assert "1 sent to json-1" in desk.tick("alert_delivery")
    (message,) = webhook.messages
    assert message["title"] == "[qdag] error: run of sessions failed in raw_ohlcv"
    lines = message["message"].splitlines()
    assert "universe: toy" in lines
    assert "sessions: 2018-01-02 .. 2018-02-28" in lines
    assert f"open: http://127.0.0.1:3000/runs/{run_id}" in lines
    assert "nowhere" in message["message"]
    # the same failure again, and a new one
    desk.run("raw_ohlcv")
    desk.run("raw_ohlcv", start=date(2018, 2, 1))
    # Dagster gives a sensor a few runs a tick
    desk.tick("run_failure_alerts")
    desk.tick("run_failure_alerts")
    desk.tick("alert_delivery")
    assert len(webhook.messages) == 2
    assert "sessions: 2018-02-01 .. 2018-02-28" in webhook.messages[1]["message"]


def test_a_failing_check_becomes_a_message_and_old_ones_do_not(tmp_path, stored_instance, webhook):
    """Every row of every file is refused: no session has bars, and the check structure fails."""
    names = ["AAA", "BBB", "CCC"]
    source = vendor_files(tmp_path / "files", names, bad=names)
    desk = Desk(settings_of(tmp_path, source, urls=[webhook.url()]), stored_instance)
    desk.run("raw_ohlcv")
    time.sleep(0.01)
    assert desk.tick("alert_conditions").startswith("0 found")
    run_id = desk.run("raw_ohlcv", start=date(2018, 2, 1))
    assert desk.tick("alert_conditions").startswith("2 found, 2 new")
    # found again within the overlap, and counted once
    assert desk.tick("alert_conditions").endswith("0 new")
    check = next(a for a in desk.raised() if a.kind == "blocked_check")
    assert check.what == "check structure of raw_ohlcv failed and blocks its downstream"
    assert (check.universe, check.sessions) == ("toy", "2018-02-01 .. 2018-02-28")
    assert "every session has bars" in check.value
    assert check.occurrence == f"{run_id}|raw_ohlcv|structure"
    failed = next(a for a in desk.raised() if a.kind == "failed_instruments")
    assert failed.what == "3 of 3 instruments failed in raw_ohlcv"
    assert "2 sent" in desk.tick("alert_delivery")
    assert webhook.titles[0] == f"[qdag] error: {check.what}"


def test_more_than_five_percent_of_instruments_failed(tmp_path, instance, webhook):
    names = [f"I{i:02d}" for i in range(20)]
    desk = Desk(settings_of(tmp_path, vendor_files(tmp_path / "files", names, bad=names[:1])), instance)
    desk.tick("alert_conditions")
    desk.run("raw_ohlcv")
    desk.tick("alert_conditions")
    assert [a for a in desk.raised() if a.kind == "failed_instruments"] == []
    vendor_files(tmp_path / "files", names, bad=names[:2])
    desk.run("raw_ohlcv", "qlib_bin")
    desk.tick("alert_conditions")
    (failed,) = [a for a in desk.raised() if a.kind == "failed_instruments"]
    assert failed.what == "2 of 20 instruments failed in raw_ohlcv"
    assert failed.detail.endswith(": I00, I01")


def test_a_run_slower_than_its_p95_is_told_once(tmp_path, instance):
    """Three real runs, then one whose stage is held up; what ran before the sensors were on is history, not news."""
    limits = {"slow_minimum": 3, "slow_history": 10, "slow_slack_seconds": 0.5}
    desk = Desk(settings_of(tmp_path, **limits), instance)
    day = date(2018, 1, 3)
    for _ in range(2):
        desk.run("raw_ohlcv", start=day, end=day)
    desk.tick("alert_conditions")
    desk.run("raw_ohlcv", start=day, end=day)
    desk.tick("alert_conditions")
    assert desk.raised() == []
    slow = Desk(desk.settings, instance)
    slow.definitions = build_defs(desk.settings, replace(desk.platform, report=lambda *_: time.sleep(0.6)))
    run_id = slow.run("raw_ohlcv", start=day, end=day)
    desk.tick("alert_conditions")
    (found,) = desk.raised()
    assert (found.kind, found.universe, found.occurrence) == ("slow_run", "toy", f"{run_id}|raw_ohlcv")
    assert "last 3 comparable runs" in found.limit
    assert desk.tick("alert_conditions").startswith("0 found")
    # a range has other durations and none to compare with
    slow.run("raw_ohlcv")
    assert desk.tick("alert_conditions").startswith("0 found")


def test_a_range_run_is_one_duration(tmp_path, instance):
    desk = Desk(settings_of(tmp_path), instance)
    desk.run("raw_ohlcv")
    desk.tick("alert_conditions")
    with closing(db.create_engine(f"sqlite:///{Outbox(desk.settings).path}").connect()) as connection:
        rows = connection.execute(db.text("SELECT asset, universe, size FROM durations")).fetchall()
    # 39 sessions: 32 to 63 compare
    assert [tuple(row) for row in rows] == [("raw_ohlcv", "toy", 6)]


def test_late_data_is_told_and_ends_with_the_data(tmp_path, instance, webhook):
    """An open universe whose newest session is weeks old."""
    desk = Desk(settings_of(tmp_path, end=None, urls=[webhook.url()]), instance)
    desk.run("raw_ohlcv", start=START, end=date(2018, 1, 10))
    desk.tick("alert_conditions")
    desk.tick("alert_conditions")
    (late,) = desk.raised()
    assert late.kind == "late_data"
    assert late.value.startswith("newest stored session 2018-01-10, ")
    desk.tick("alert_delivery")
    assert len(webhook.messages) == 1
    due = desk.platform.calendar("toy").closed_before(datetime.now(UTC))
    desk.run("raw_ohlcv", start=due, end=due)
    assert desk.tick("alert_conditions").startswith("0 found")


def test_ic_is_judged_when_the_metrics_change(tmp_path, instance):
    desk = Desk(settings_of(tmp_path, end=date(2019, 12, 31)), instance)
    assert desk.tick("alert_conditions").startswith("0 found")
    sessions = desk.platform.calendar("toy").all[:252]
    write_metrics(
        desk.platform, {("all", 1, "t.fell"): year_of(0.05, 0.0), ("all", 1, "t.same"): year_of(0.05, 0.05)}, sessions
    )
    assert desk.tick("alert_conditions").startswith("1 found, 1 new")
    (dropped,) = desk.raised()
    assert (dropped.kind, dropped.key) == ("ic_drop", "toy|all|1|t.fell")
    assert desk.tick("alert_conditions").startswith("0 found")


def test_a_target_that_fails_makes_the_tick_fail_and_is_served_later(tmp_path, instance, webhook):
    webhook.status = 500
    desk = Desk(
        settings_of(tmp_path, FilesSource(path=tmp_path / "nowhere"), urls=[webhook.url("SECRETPATH")]), instance
    )
    desk.tick("run_failure_alerts")
    desk.run("raw_ohlcv")
    desk.tick("run_failure_alerts")
    with pytest.raises(Exception, match="json-1 failed: not delivered") as caught:
        desk.tick("alert_delivery")
    assert "SECRETPATH" not in str(caught.value) + str(caught.value.__cause__)
    # conditions are judged all the same, and the message waits
    desk.tick("alert_conditions")
    assert desk.tick("alert_delivery") == "1 wait for json-1"
    webhook.status = 200
    assert Outbox(desk.settings).deliver(datetime.now(UTC) + timedelta(seconds=61)).sent == {"json-1": 1}


def test_a_condition_that_cannot_be_judged_is_an_alert_and_stops_no_other(tmp_path, instance, webhook):
    """The table of bars is damaged: nobody can say whether data is late, and the failed check is still found."""
    names = ["AAA", "BBB"]
    source = vendor_files(tmp_path / "files", names, bad=names)
    desk = Desk(settings_of(tmp_path, source, end=None, urls=[webhook.url()]), instance)
    desk.tick("alert_conditions")
    desk.run("raw_ohlcv", start=START, end=END)
    log = next((desk.settings.tables / "raw_ohlcv" / "_delta_log").glob("*.json"))
    log.write_text("damaged")
    said = desk.tick("alert_conditions")
    assert "alert condition late_data cannot be judged: StoreError" in said
    kinds = {a.kind for a in desk.raised()}
    assert {"alerting_error", "blocked_check"} <= kinds
    desk.tick("alert_delivery")
    assert "[qdag] error: alert condition late_data cannot be judged" in webhook.titles


def test_without_a_target_alerts_are_kept_and_the_tick_says_so(tmp_path, instance):
    desk = Desk(settings_of(tmp_path, end=None), instance)
    assert "no target is set" in desk.tick("alert_delivery")
    desk.tick("alert_conditions")
    assert [a.kind for a in desk.raised()] == ["late_data"]
    assert "no target is set" in desk.tick("alert_delivery")
