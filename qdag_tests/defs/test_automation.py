"""Sensors, schedules, upkeep and the commands of automation, in process: what they ask for, and why they do not."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import numpy as np
import pytest
from dagster._core.storage.tags import (
    AUTO_RETRY_RUN_ID_TAG,
    GRPC_INFO_TAG,
    RUN_FAILURE_REASON_TAG,
    WILL_RETRY_TAG,
)
from dagster._core.test_utils import create_run_for_test
from typer.testing import CliRunner

from qdag import lineage, schema
from qdag.assets.platform import Platform
from qdag.defs.build import REFRESH_JOB, TRAINING_JOB, build_defs
from qdag.defs.launcher import WatchedRunLauncher, _alive
from qdag.defs.maintenance import MAINTENANCE_JOB
from qdag.defs.partitions import range_tags, run_windows
from qdag.defs.requests import ask, busy
from qdag.defs.tags import HOST_TAG, REQUEST_TAG
from qdag.operations.survey import Request, survey
from qdag.settings import AutomationSettings, FilesSource, Settings, SyntheticSource, UniverseSettings
from qdag.store.backup import restore_backup
from qdag.store.tables import TableStore
from qdag_tests import stages

START, END = date(2024, 1, 2), date(2024, 12, 31)
HEADER = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient"
NAMES = ("AAA", "BBB", "CCC")
CHAIN = ("qlib_bin", "alpha158", "basic_statistics", "technical_indicators", "price_features", "labels")


def bars(seed: int, days: np.ndarray) -> list[str]:
    close = np.round(50 * np.exp(np.random.default_rng(seed).normal(0, 0.01, 300).cumsum()), 2)[: len(days)]
    return [HEADER, *(f"{d},{c},{c + 1},{c - 1},{c},{c},1000,0,1" for d, c in zip(days, close, strict=True))]


class House:
    """A data home with a universe of files, its definitions, and a Dagster instance in memory."""

    def __init__(self, home: Path, **automation: object):
        self.folder = home / "in"
        market = UniverseSettings(
            source=FilesSource(path=self.folder, profile="alphavantage"), calendar="XNYS", start=START, end=END
        )
        automation = {"landing_seconds": 0, "enabled": True, **automation}
        self.settings = Settings(
            home=home / "home",
            universes={"us": market},
            horizons=(1, 5),
            automation=AutomationSettings.model_validate(automation),
        )
        self.platform = Platform.open(self.settings)
        self.days = self.platform.calendar("us").between(START, END)
        self.repository = build_defs(self.settings, self.platform).get_repository_def()
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: dict[str, str | None] = {}

    def drop(self, upto: int, names: tuple[str, ...] = NAMES) -> None:
        self.folder.mkdir(exist_ok=True)
        for name in names:
            (self.folder / f"{name}.csv").write_text("\n".join(bars(ord(name[0]), self.days[:upto])) + "\n")

    def tick(self, name: str) -> dg.SensorResult:
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor.get(name), repository_def=self.repository
        )
        found = self.repository.get_sensor_def(name).evaluate_tick(context)
        self.cursor[name] = found.cursor
        return found

    def land(self) -> dg.SensorResult:
        """Look twice: a new file counts when it was the same at the look before."""
        self.tick("landing")
        return self.tick("landing")

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        return self.repository.get_job(request.job_name).execute_in_process(
            instance=self.instance,
            tags=dict(request.tags),
            asset_selection=list(request.asset_selection),
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )

    def fill(self, start: date = START, end: date = END) -> None:
        """Compute without an orchestrator."""
        for name in ("raw_ohlcv", *CHAIN, "factor_metrics"):
            compute(self.platform, "us", name, start, end)


def compute(platform: Platform, universe: str, name: str, start: date, end: date) -> None:
    stage = stages.feature_stage(name)
    stage(platform, universe, start, end)


def window(request: dg.RunRequest) -> tuple[date, date]:
    [found] = run_windows(request.tags, ["us"])
    return found.start, found.end


def assets(request: dg.RunRequest) -> set[str]:
    return {key.to_user_string() for key in request.asset_selection}


@pytest.fixture
def house(tmp_path) -> House:
    return House(tmp_path)


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> House:
    house = House(tmp_path_factory.mktemp("filled"))
    house.drop(len(house.days))
    house.fill()
    return house


# -- landing ----------------------------------------------------------------------------------------------------------


def test_every_look_at_a_folder_says_what_it_found(house):
    assert "does not exist" in house.tick("landing").skip_message
    house.folder.mkdir()
    assert "no .csv or .parquet file" in house.tick("landing").skip_message
    house.drop(20)
    assert "may still be being written" in house.tick("landing").skip_message
    asked = house.tick("landing")
    assert asked.skip_message is None
    [request] = asked.run_requests
    # no further than what was delivered: sessions without any bar would fail their check
    assert window(request) == (START, house.days[19].item())
    assert assets(request) == {"raw_ohlcv"}
    house.instance.add_run(create_run(house, request.tags))
    assert "is not finished" in house.tick("landing").skip_message


def test_one_universe_whose_files_cannot_be_looked_at_stops_no_other(house):
    market = house.settings.universe("us")
    # the folder has no file of an instrument that it wants
    bad = market.model_copy(update={"instruments": ("AAA", "NONE")})
    house.settings = house.settings.model_copy(update={"universes": {"bad": bad, "us": market}})
    house.repository = build_defs(house.settings, Platform.open(house.settings)).get_repository_def()
    house.drop(20)
    [request] = house.land().run_requests
    assert request.tags["qdag/universe"] == "us"
    house.instance.add_run(create_run(house, request.tags))
    told = house.tick("landing").skip_message
    assert "bad: its files cannot be looked at: " in told
    assert "'NONE'" in told
    assert "us: run" in told
    # what was seen is kept in files; the cursor only tells that it changed
    assert len(house.cursor["landing"]) < 100
    assert json.loads((house.settings.home / "landing" / "us.json").read_text())["files"].keys() == {
        f"{name}.csv" for name in NAMES
    }


def test_a_file_corrected_twice_runs_twice_and_an_unchanged_one_never(house):
    house.drop(40)
    [first] = house.land().run_requests
    assert house.run(first).success
    assert "none of 3 files has changed" in house.land().skip_message
    file = house.folder / "BBB.csv"
    good = file.read_text()
    rows = good.splitlines()
    cells = rows[30].split(",")
    rows[30] = ",".join([*cells[:4], str(float(cells[4]) + 0.5), *cells[5:]])
    keys = {first.run_key}
    for text in ("\n".join(rows) + "\n", good, "\n".join(rows) + "\n"):
        file.write_text(text)
        [request] = house.land().run_requests
        # the adjusted close stands, so that the factor differs on that session
        assert window(request)[0] == house.days[29].item()
        keys.add(request.run_key)
        assert house.run(request).success
        os.utime(file)
        assert "has changed" in house.land().skip_message
    assert len(keys) == 4


def create_run(house: House, tags: dict[str, str], status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED):
    return dg.DagsterRun(job_name=REFRESH_JOB, tags=dict(tags), status=status)


def test_a_universe_with_a_run_waits_whoever_started_it(filled):
    instance = dg.DagsterInstance.ephemeral()
    started = dg.DagsterRunStatus.STARTED
    tags = {
        "sensor": {"qdag/universe": "us"},
        "range from the UI": range_tags("us", "2024-01-02", "2024-01-05"),
        "one partition from the UI": {"dagster/partition": "2024-01-02|us"},
        "another universe": range_tags("cn", "2024-01-02", "2024-01-05"),
        "no universe": {},
    }
    for what, given in tags.items():
        run = create_run_for_test(instance, job_name=REFRESH_JOB, tags=given, status=started)
        assert (busy(instance, "us") == run.run_id) is (what not in ("another universe", "no universe")), what
        instance.delete_run(run.run_id)
    # killed, and its retry is not there yet; later it is
    failed = dg.DagsterRunStatus.FAILURE
    run = create_run_for_test(instance, tags=tags["sensor"] | {WILL_RETRY_TAG: "true"}, status=failed)
    with_end(instance, run)
    assert busy(instance, "us") == run.run_id
    instance.add_run_tags(run.run_id, {AUTO_RETRY_RUN_ID_TAG: "another"})
    assert busy(instance, "us") is None


def with_end(instance: dg.DagsterInstance, run: dg.DagsterRun, at: float | None = None) -> None:
    """Give a run the end that its last event would have given it."""
    storage = instance.run_storage
    import sqlalchemy as db
    from dagster._core.storage.runs.schema import RunsTable

    with storage.connect() as connection:
        change = db.update(RunsTable).where(RunsTable.c.run_id == run.run_id)
        connection.execute(change.values(end_time=time.time() if at is None else at))


def test_what_failed_is_asked_for_again_later_and_later(filled):
    instance = dg.DagsterInstance.ephemeral()
    request = Request("us", ("alpha158",), START, END, 252, "inputs changed", "state-1")
    first, _ = ask(instance, request, REFRESH_JOB, 100)
    assert first.run_key.endswith("state-1")
    failed = dg.DagsterRunStatus.FAILURE
    keys, now = {first.run_key}, time.time()
    for attempt, waits in enumerate((100, 200, 400)):
        run = create_run_for_test(instance, job_name=REFRESH_JOB, tags=first.tags, status=failed)
        with_end(instance, run, now - waits + 50)
        none, reason = ask(instance, request, REFRESH_JOB, 100)
        assert none is None, attempt
        assert f"run {run.run_id[:8]} failed: again at" in reason
        with_end(instance, run, now - waits - 1)
        again, _ = ask(instance, request, REFRESH_JOB, 100)
        assert again.tags[REQUEST_TAG] == first.tags[REQUEST_TAG]
        keys.add(again.run_key)
    assert len(keys) == 4
    # in another state of the data it is another request
    assert ask(instance, replace(request, state="state-2"), REFRESH_JOB, 100)[0] is not None
    for status, word in ((dg.DagsterRunStatus.CANCELED, "canceled"), (dg.DagsterRunStatus.SUCCESS, "left it so")):
        create_run_for_test(instance, job_name=REFRESH_JOB, tags=first.tags, status=status)
        none, reason = ask(instance, request, REFRESH_JOB, 0)
        assert none is None
        assert word in reason


# -- stale sessions ---------------------------------------------------------------------------------------------------


def test_stale_sessions_are_asked_for_in_chunks_and_once(tmp_path, filled):
    house = House(tmp_path, chunk_sessions=100)
    assert "us: no bars stored yet" in house.tick("stale_sessions").skip_message
    house.drop(len(house.days))
    stages.raw_ohlcv(house.platform, "us", START, END)
    asked = house.tick("stale_sessions").run_requests
    ends = [(house.days[a].item(), house.days[b].item()) for a, b in ((0, 99), (100, 199), (200, len(house.days) - 1))]
    assert [window(request) for request in asked] == ends
    for request in asked:
        assert assets(request) == {*CHAIN, "factor_metrics"}
        for name in (*CHAIN, "factor_metrics"):
            compute(house.platform, "us", name, *window(request))
    skipped = house.tick("stale_sessions")
    assert "us: everything is up to date" in skipped.skip_message
    for name in (*CHAIN[1:], "factor_metrics"):
        assert house.platform.store.read(name, "us").equals(filled.platform.store.read(name, "us")), name
    # one more change of the same session is another request
    keys = set()
    for by in (1.01, 1.02):
        rows = house.platform.store.read("raw_ohlcv", "us", END, END)
        changed = scaled(rows, "high", by)
        house.platform.store.replace(schema.RAW_OHLCV, "us", END, END, changed, {})
        [request] = house.tick("stale_sessions").run_requests
        assert window(request) == (END, END)
        keys.add(request.run_key)
    assert len(keys) == 2


def test_one_universe_of_which_nothing_can_be_told_stops_no_other(house):
    market = house.settings.universe("us")
    house.settings = house.settings.model_copy(update={"universes": {"bad": market, "us": market}})
    house.platform = Platform.open(house.settings)
    house.repository = build_defs(house.settings, house.platform).get_repository_def()
    house.drop(20)
    for universe in house.settings.universes:
        stages.raw_ohlcv(house.platform, universe, START, house.days[19].item())
    store = house.platform.store
    [damaged] = [file for file in store.files("raw_ohlcv").to_pylist() if file["universe"] == "bad"]
    (store.folder("raw_ohlcv") / damaged["path"]).write_bytes(b"damaged")
    # to be recorded anew, its bars are read
    lineage.withdraw(store, "bad", "raw_ohlcv", START, END, {})
    requests = house.tick("stale_sessions").run_requests
    assert {request.tags["qdag/universe"] for request in requests} == {"us"}
    for request in requests:
        house.instance.add_run(create_run(house, request.tags))
    told = house.tick("stale_sessions").skip_message
    assert "bad: what is stale cannot be told: " in told
    assert "universe=bad" in told
    assert "us: run" in told


def scaled(rows, column: str, by: float):
    import pyarrow.compute as pc

    return rows.set_column(rows.column_names.index(column), column, pc.multiply(rows[column], by))


def test_a_stale_model_is_told_and_not_trained(tmp_path):
    house = House(tmp_path)
    house.drop(len(house.days))
    house.fill()
    day = np.array([date(2024, 11, 29)], "M8[D]")
    lineage.record(house.platform.store, "us", "trained_model", day, np.array([1], np.uint64), "old", None, {})
    asked = house.tick("stale_sessions")
    # scores after the model are missing; the model itself is only named
    assert {name for request in asked.run_requests for name in assets(request)} == {"predictions"}
    assert [str(d) for d in survey(house.platform, "us").stale["trained_model"].sessions] == ["2024-11-29"]


def test_a_red_session_holds_back_what_reads_it_and_no_other(tmp_path):
    """Sessions without bars at the end hold up nothing; a hole holds up what comes after it."""
    house = House(tmp_path)
    house.drop(60)
    request = Request("us", ("raw_ohlcv",), START, END, 252, "", "")
    wanted, _ = ask(house.instance, request, REFRESH_JOB, 0)
    assert house.run(wanted).success
    assert survey(house.platform, "us").blocked == []
    [asked] = survey(house.platform, "us").requests
    assert (asked.start, asked.end) == (START, house.days[59].item())
    hole = house.days[20].item()
    for name in NAMES:
        file = house.folder / f"{name}.csv"
        file.write_text("".join(line for line in file.open() if not line.startswith(str(hole))))
    wanted, _ = ask(house.instance, replace(request, end=house.days[59].item()), REFRESH_JOB, 0)
    result = house.run(wanted)
    assert not result.success
    records = lineage.Lineage(house.platform.store, "us", house.days, house.days).records("raw_ohlcv")
    assert house.days[records.blocked != ""].tolist() == [house.days[21].item()]
    assert "qlib_bin waits: raw_ohlcv failed structure" in map(str, survey(house.platform, "us").blocked)
    assert "qlib_bin waits: raw_ohlcv failed structure" in house.tick("stale_sessions").skip_message
    house.drop(60)
    [request] = house.land().run_requests
    assert window(request) == (hole, hole)
    house.run(request)
    # the session after the hole has not been judged again
    judged = Request("us", ("raw_ohlcv",), hole, house.days[21].item(), 2, "", "again")
    assert house.run(ask(house.instance, judged, REFRESH_JOB, 0)[0]).success
    assert survey(house.platform, "us").blocked == []


# -- schedules --------------------------------------------------------------------------------------------------------


def scheduled(house: House, name: str, day: date, clock: str = "17:00"):
    moment = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=ZoneInfo("America/New_York"))
    context = dg.build_schedule_context(
        instance=house.instance, scheduled_execution_time=moment, repository_def=house.repository
    )
    return house.repository.get_schedule_def(name).evaluate_tick(context)


def test_the_daily_run_on_sessions_holidays_half_days_and_after_the_end(tmp_path, filled):
    house = House(tmp_path)
    daily = house.repository.get_schedule_def("us_daily")
    assert (daily.cron_schedule, daily.execution_timezone) == ("0 17 * * *", "America/New_York")
    house.drop(120)
    stages.raw_ohlcv(house.platform, "us", START, house.days[117].item())
    day, half, holiday = house.days[118].item(), date(2024, 7, 3), date(2024, 7, 4)
    [request] = scheduled(house, "us_daily", day).run_requests
    assert window(request) == (day, day)
    assert assets(request) == {*CHAIN, "raw_ohlcv", "factor_metrics", "predictions"}
    # two sessions were missed: they come along
    [request] = scheduled(house, "us_daily", house.days[120].item()).run_requests
    assert window(request) == (day, house.days[120].item())
    assert window(scheduled(house, "us_daily", half).run_requests[0])[1] == half
    assert f"{holiday} is no session of XNYS" in scheduled(house, "us_daily", holiday).skip_message
    assert "ended on 2024-12-31" in scheduled(house, "us_daily", date(2025, 1, 2)).skip_message
    assert "is no session" in scheduled(house, "us_daily", date(2024, 1, 1)).skip_message
    # nothing is stored at all: from the universe's start
    empty = House(tmp_path / "empty") if (tmp_path / "empty").mkdir() is None else None
    assert window(scheduled(empty, "us_daily", day).run_requests[0]) == (START, day)
    assert "everything is up to date" in scheduled(filled, "us_daily", END).skip_message


def test_training_follows_the_last_session_of_a_month(filled):
    training = filled.repository.get_schedule_def("us_training")
    assert (training.cron_schedule, training.execution_timezone) == ("0 18 * * *", "America/New_York")
    assert training.job_name == TRAINING_JOB
    [request] = scheduled(filled, "us_training", date(2024, 3, 28)).run_requests
    # Good Friday, the 29th, is closed
    assert window(request) == (date(2024, 3, 1), date(2024, 3, 31))
    assert "not the last session of its month" in scheduled(filled, "us_training", date(2024, 3, 27)).skip_message
    assert "no session of XNYS" in scheduled(filled, "us_training", date(2024, 3, 29)).skip_message
    assert scheduled(filled, "us_training", END).run_requests


def test_the_daily_run_of_all_assets_needs_no_model(tmp_path):
    """All assets in one run, as the schedule asks for them; a Shanghai universe keeps its own clock."""
    market = UniverseSettings(
        source=SyntheticSource(seed=5, instruments=3), calendar="XSHG", start=date(2024, 1, 2), end=date(2024, 3, 29)
    )
    house = House(tmp_path)
    settings = house.settings.model_copy(update={"universes": {"cn": market}})
    repository = build_defs(settings, Platform.open(settings)).get_repository_def()
    daily = repository.get_schedule_def("cn_daily")
    assert (daily.cron_schedule, daily.execution_timezone) == ("0 16 * * *", "Asia/Shanghai")
    assert {s.name for s in repository.sensor_defs} >= {"stale_sessions"}
    assert "landing" not in {s.name for s in repository.sensor_defs}
    moment = datetime(2024, 3, 29, 16, tzinfo=ZoneInfo("Asia/Shanghai"))
    context = dg.build_schedule_context(
        instance=house.instance, scheduled_execution_time=moment, repository_def=repository
    )
    [request] = daily.evaluate_tick(context).run_requests
    house.repository = repository
    result = house.run(replace_job(request, REFRESH_JOB))
    failed = [e.step_key for e in result.all_events if e.is_step_failure]
    assert result.success, failed
    assert survey(Platform.open(settings), "cn").requests == []


def replace_job(request: dg.RunRequest, job: str) -> dg.RunRequest:
    return request if request.job_name else dg.RunRequest(**{**request._asdict(), "job_name": job})


# -- upkeep -----------------------------------------------------------------------------------------------------------


def test_maintenance_compacts_vacuums_and_backs_up(tmp_path):
    house = House(tmp_path, backup=str(tmp_path / "backup"))
    house.settings = house.settings.model_copy(
        update={"retention": house.settings.retention.model_copy(update={"versions": 1, "days": 0.0})}
    )
    house.platform = Platform.open(house.settings)
    house.repository = build_defs(house.settings, house.platform).get_repository_def()
    house.drop(40)
    for at in range(40):
        stages.raw_ohlcv(house.platform, "us", house.days[at].item(), house.days[at].item())
    store = house.platform.store
    before, rows = store.files("raw_ohlcv").num_rows, store.read("raw_ohlcv", "us")
    assert 2 < before <= 2 * 3
    result = house.repository.get_job(MAINTENANCE_JOB).execute_in_process(instance=house.instance)
    assert result.success
    # one file of each month
    assert store.files("raw_ohlcv").num_rows == 2
    assert len(store.stored_files("raw_ohlcv")) == 2
    assert store.read("raw_ohlcv", "us").equals(rows)
    restored = TableStore(tmp_path / "restored")
    restore_backup(restored, tmp_path / "backup")
    assert restored.read("raw_ohlcv", "us").equals(rows)
    weekly = house.repository.get_schedule_def("weekly_maintenance")
    assert (weekly.cron_schedule, weekly.job_name) == ("0 3 * * 0", MAINTENANCE_JOB)


# -- run workers ------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_gone_is_noticed_and_one_of_another_machine_is_not_judged():
    from dagster._core.events import EngineEventData
    from dagster._core.launcher import WorkerStatus

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    launcher = WatchedRunLauncher()
    instance = dg.DagsterInstance.ephemeral()
    launcher.register_instance(instance)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        silent = probe.getsockname()[1]
    here = {
        "command": {HOST_TAG: socket.gethostname()},
        "code server": {GRPC_INFO_TAG: json.dumps({"host": "localhost", "port": silent})},
    }
    started = dg.DagsterRunStatus.STARTED
    runs = {what: create_run_for_test(instance, tags=tags, status=started) for what, tags in here.items()}
    elsewhere = create_run_for_test(instance, tags={HOST_TAG: "another"}, status=started)
    for run in (*runs.values(), elsewhere):
        instance.report_engine_event("Executing steps", run, EngineEventData.in_process(child.pid))
    for what, run in runs.items():
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING, what
    # the number of a process that began after the run is somebody else's
    assert not _alive(child.pid, time.time() - 3600)
    child.kill()
    child.wait()
    for what, run in runs.items():
        health = launcher.check_run_worker_health(run)
        assert health.status is WorkerStatus.FAILED, what
        assert f"process {child.pid}, is gone" in health.msg
    assert launcher.check_run_worker_health(elsewhere).status is WorkerStatus.RUNNING


def test_a_run_that_died_is_asked_for_again_though_its_tables_are_there(filled):
    """Its checks may not have been judged, and its sessions not be told to Dagster."""
    request = Request("us", ("alpha158",), START, END, 252, "inputs changed", "state-1")
    wanted, _ = ask(filled.instance, request, REFRESH_JOB, 0)
    for reason, again in (("STEP_FAILURE", False), ("UNKNOWN", True)):
        run = create_run_for_test(
            filled.instance,
            job_name=REFRESH_JOB,
            tags=wanted.tags | {RUN_FAILURE_REASON_TAG: reason},
            status=dg.DagsterRunStatus.FAILURE,
            asset_selection=frozenset(wanted.asset_selection),
        )
        with_end(filled.instance, run, time.time() - 60)
        assert not filled.tick("stale_sessions").run_requests
        with_end(filled.instance, run, time.time() - 4 * 3600)
        asked = filled.tick("stale_sessions").run_requests or []
        assert len(asked) == again
        if again:
            assert (window(asked[0]), assets(asked[0])) == ((START, END), {"alpha158"})
            done = create_run_for_test(
                filled.instance, job_name=REFRESH_JOB, tags=asked[0].tags, status=dg.DagsterRunStatus.SUCCESS
            )
            assert "up to date" in filled.tick("stale_sessions").skip_message
            filled.instance.delete_run(done.run_id)
        filled.instance.delete_run(run.run_id)


# -- commands ---------------------------------------------------------------------------------------------------------

TOML = """
home = "home"
horizons = [1, 5]
[universes.toy]
calendar = "XNYS"
start = 2024-01-02
end = 2024-06-28
source = { kind = "synthetic", seed = 3, instruments = 3 }
"""
TABLES = ("raw_ohlcv", *CHAIN[1:], "factor_metrics")


def toy(folder: Path) -> Platform:
    from qdag.settings import load_settings

    return Platform.open(load_settings(folder / "qdag.toml", {}))


def test_a_stopped_backfill_leaves_whole_sessions_and_resumes_with_what_is_missing(tmp_path, monkeypatch):
    (tmp_path / "qdag.toml").write_text(TOML)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("QDAG_", "DAGSTER_"))}
    for name in ("DAGSTER_HOME", "QDAG_HOME", "QDAG_CONFIG", "DAGSTER_EVENT_BATCH_SIZE", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    command = [sys.executable, "-m", "qdag", "backfill", "--chunk", "30"]
    platform = toy(tmp_path)
    sessions = platform.calendar("toy").all
    child = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 300
    # in the middle of the second chunk
    while len(stored(platform, "alpha158")) <= 30:
        assert time.monotonic() < deadline
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=120)
    assert child.returncode != 0
    assert len(stored(platform, "factor_metrics")) < len(sessions), said
    for name in TABLES[:-1]:
        days = stored(platform, name)
        np.testing.assert_array_equal(days, sessions[: len(days)])
        raw = platform.store.read("raw_ohlcv", "toy", days[0].item(), days[-1].item())
        assert platform.store.count(name, "toy") == raw.num_rows, name
    monkeypatch.chdir(tmp_path)
    from qdag.cli import app

    runner = CliRunner()
    told = runner.invoke(app, ["stale"])
    assert "never computed" in told.output
    done = runner.invoke(app, ["backfill", "--chunk", "30"])
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if " sessions:" in line or "sessions: " in line]
    # of the first chunk at most the labels that look into the second, as far as that came
    assert lines[0].endswith((": up to date", ": labels")), lines
    assert "up to date" not in lines[-1]
    done = runner.invoke(app, ["backfill", "--chunk", "30"])
    assert done.output.count("up to date") == len(lines)
    assert runner.invoke(app, ["refresh"]).output.strip() == "everything is up to date"
    whole = Platform.open(platform.settings.model_copy(update={"home": tmp_path / "whole"}))
    for name in ("raw_ohlcv", *CHAIN, "factor_metrics"):
        compute(whole, "toy", name, sessions[0].item(), sessions[-1].item())
    for name in TABLES:
        assert platform.store.read(name, "toy").equals(whole.store.read(name, "toy")), name


def stored(platform: Platform, table: str) -> np.ndarray:
    return platform.store.sessions(table, "toy") if platform.store.exists(table) else np.array([], "M8[D]")


FILES = """
home = "home"
[universes.us]
calendar = "XNYS"
start = 2024-01-02
end = 2024-03-28
source = { kind = "files", path = "in" }
"""


def test_stale_and_refresh_see_files_that_changed_and_accept_takes_what_is_held_back(tmp_path, monkeypatch):
    from qdag.cli import app
    from qdag.settings import load_settings

    for name in ("DAGSTER_HOME", "QDAG_HOME", "QDAG_CONFIG", "DAGSTER_EVENT_BATCH_SIZE", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "qdag.toml").write_text(FILES)
    monkeypatch.chdir(tmp_path)
    platform = Platform.open(load_settings(tmp_path / "qdag.toml", {}))
    days = platform.calendar("us").all
    (tmp_path / "in").mkdir()
    for name in NAMES:
        (tmp_path / "in" / f"{name}.csv").write_text("\n".join(bars(ord(name[0]), days)) + "\n")
    runner = CliRunner(env={"COLUMNS": "200"})

    def qdag(*arguments: str) -> tuple[int, str]:
        done = runner.invoke(app, list(arguments))
        return done.exit_code, done.output

    # before anything was read, nothing is stale, which is not to be up to date
    nothing = "no bars of us are stored yet; to store them: qdag materialize --universe us\n"
    assert qdag("refresh", "--assets", "raw_ohlcv,qlib_bin") == (0, nothing)
    assert qdag("materialize", "raw_ohlcv", "qlib_bin")[0] == 0

    path = tmp_path / "in" / "BBB.csv"
    good = path.read_text()
    lines = good.splitlines()
    cells = lines[20].split(",")
    lines[20] = ",".join([*cells[:4], str(float(cells[4]) + 0.5), *cells[5:]])
    path.write_text("\n".join(lines) + "\n")
    _, told = qdag("stale")
    [line] = [line for line in told.splitlines() if line.startswith("raw_ohlcv")]
    assert line.split() == ["raw_ohlcv", "1", *[str(days[19])] * 2, "changed", "BBB.csv"]
    day = np.array([date(2024, 2, 29)], "M8[D]")
    lineage.record(platform.store, "us", "trained_model", day, np.array([1], np.uint64), "old", None, {})
    code, told = qdag("refresh", "--assets", "raw_ohlcv,qlib_bin,trained_model")
    assert code == 0, told
    assert "raw_ohlcv: changed BBB.csv" in told
    assert "everything is up to date but the models of 2024-02-29, which were trained on what changed since" in told
    assert "qdag materialize trained_model --universe us --start 2024-02-29 --end 2024-02-29 --months 1" in told
    row = platform.store.read("raw_ohlcv", "us", days[19].item(), days[19].item(), ["BBB"])
    assert row["close"].to_pylist() == [float(cells[4]) + 0.5]

    path.unlink()
    code, told = qdag("refresh", "--assets", "raw_ohlcv,qlib_bin")
    assert code == 1
    assert "few files refused" in told
    assert platform.store.count("raw_ohlcv", "us") == 3 * len(days)
    code, told = qdag("accept", "AAA")
    assert code == 1
    code, told = qdag("accept", "BBB")
    assert code == 0, told
    assert f"BBB: {len(days)} of {len(days)} stored rows" in told
    assert platform.store.count("raw_ohlcv", "us") == 2 * len(days)
    assert qdag("refresh", "--assets", "raw_ohlcv,qlib_bin") == (0, "everything is up to date\n")
