"""A day in the life, with the real daemon and real run workers: files come, are corrected, break and come again."""

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from qdag.assets.platform import Platform
from qdag.defs.requests import BUSY
from qdag.operations.survey import survey
from qdag.settings import load_settings
from qdag.store.deliveries import newest_reading
from qdag_tests import servers, stages
from qdag_tests.sinks import Webhook
from qdag_tests.stages import reads_of

NAMES = ("AAA", "BBB", "CCC", "DDD")
HEADER = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient"
FEATURES = ("alpha158", "basic_statistics", "technical_indicators", "price_features")
CHAIN = ("raw_ohlcv", "qlib_bin", *FEATURES, "labels", "factor_metrics")
LONG = 900
TOML = """
home = "home"
horizons = [1, 5]
[universes.us]
calendar = "XNYS"
start = 2021-01-04
end = 2023-12-29
source = {{ kind = "files", path = "in", profile = "alphavantage" }}
[automation]
enabled = true
tick_seconds = 1
landing_seconds = 0
chunk_sessions = 1000
[alerts]
urls = ["{url}"]
# four made-up instruments: their factors' IC means nothing
ic_drop = 3.0
"""


class Life:
    def __init__(self, folder: Path):
        self.folder = folder / "in"
        self.platform = Platform.open(load_settings(folder / "qdag.toml", {}))
        self.days = self.platform.calendar("us").all
        self.instance = dg.DagsterInstance.get()
        self.closes = {
            name: np.round(50 * np.exp(np.random.default_rng(at).normal(0, 0.01, len(self.days)).cumsum()), 2)
            for at, name in enumerate(NAMES)
        }
        self.seen = 0
        self.began = time.monotonic()

    def drop(self, name: str, upto: int) -> None:
        """Write a vendor's file in one move, as a careful vendor does."""
        rows = zip(self.days[:upto], self.closes[name], strict=False)
        text = "\n".join([HEADER, *(f"{d},{c},{c + 1:.2f},{c - 1:.2f},{c},{c},1000,0,1" for d, c in rows)]) + "\n"
        self.put(name, text)

    def put(self, name: str, text: str) -> None:
        part = self.folder / f"{name}.part"
        part.write_text(text)
        part.replace(self.folder / f"{name}.csv")

    def wait(self, what: str, done: Callable[[], bool]) -> None:
        """Until it is so and no run is under way."""
        deadline = time.monotonic() + LONG
        while self.instance.get_runs(dg.RunsFilter(statuses=BUSY), limit=1) or not done():
            assert time.monotonic() < deadline, f"{what}: {self.account()}"
            time.sleep(1)
        print(f"{time.monotonic() - self.began:6.1f} s  {what}")

    def account(self) -> str:
        runs = [f"{r.status.value} {r.tags.get('qdag/request')} {r.tags.get('qdag/reason')}" for r in self.runs()]
        return "\n".join([*runs, *(f"{n}: {s.reason()}" for n, s in survey(self.platform, "us").stale.items())])

    def settled(self) -> bool:
        """Every file as it is now has been taken in, and nothing is stale."""
        now = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in self.folder.glob("*.csv")}
        reading = newest_reading(self.platform.store, "us")
        known = {Path(name).name: sha for name, sha in (reading.hashes if reading else {}).items()}
        seen = survey(self.platform, "us")
        return known == now and not seen.requests and not seen.blocked

    def runs(self) -> list[dg.DagsterRun]:
        return list(reversed(self.instance.get_runs()))

    def materialized(self) -> dict[str, list[str]]:
        """Sessions materialized since the last call, by asset; one that was done twice is twice in the list."""
        found: dict[str, list[str]] = {}
        newest = self.seen
        for name in CHAIN:
            filters = dg.AssetRecordsFilter(dg.AssetKey(name), after_storage_id=self.seen)
            records = self.instance.fetch_materializations(filters, 10_000).records
            found[name] = sorted(str(r.partition_key).split("|")[0] for r in records)
            newest = max([newest, *(r.storage_id for r in records)])
        self.seen = newest
        return found

    def check(self, name: str) -> AssetCheckExecutionRecordStatus:
        key = dg.AssetCheckKey(dg.AssetKey("raw_ohlcv"), name)
        return self.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key].status

    def iso(self, first: int, last: int) -> list[str]:
        return [str(day) for day in self.days[first : last + 1]]


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Life, Webhook]]:
    with Webhook() as sink:
        (tmp_path / "qdag.toml").write_text(TOML.format(url=sink.url("alerts")))
        (tmp_path / "in").mkdir()
        home = tmp_path / "home" / "dagster"
        # only the pace differs from what is delivered
        servers.write_instance(home, {"run_coordinator": {"dequeue_interval_seconds": 1}})
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("QDAG_", "DAGSTER_"))}
        added = {"DAGSTER_HOME": str(home), "QDAG_CONFIG": str(tmp_path / "qdag.toml"), **servers.ENVIRON}
        for name, value in added.items():
            monkeypatch.setenv(name, value)
        children = []
        # makes the databases, before several processes would
        one = Life(tmp_path)
        with (tmp_path / "daemon.log").open("w") as log:
            for command in servers.commands(servers.free_port()).values():
                children.append(servers.start(command, tmp_path, log, clean | added))
            try:
                yield one, sink
            finally:
                one.instance.dispose()
                for child in reversed(children):
                    child.send_signal(signal.SIGINT)
                for child in children:
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(30)
                    with suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)


@pytest.mark.daemon
def test_a_day_in_the_life(life: tuple[Life, Webhook], tmp_path: Path) -> None:
    life_, sink = life
    day, store = life_, life_.platform.store
    newest = len(day.days) - 3
    # three years of files come: everything is filled
    for name in NAMES:
        day.drop(name, newest + 1)
    day.wait("three years are filled", day.settled)
    filled = day.materialized()
    for name in CHAIN:
        assert filled[name] == day.iso(0, newest), name
    assert {run.status for run in day.runs()} == {dg.DagsterRunStatus.SUCCESS}
    # one more day: one partition of every asset
    newest += 1
    for name in NAMES:
        day.drop(name, newest + 1)
    before = len(day.runs())
    day.wait("one more day is there", day.settled)
    assert day.materialized() == {name: day.iso(newest, newest) for name in CHAIN}
    assert len(day.runs()) - before <= 3
    # a price of 40 sessions ago is corrected: exactly what reads it is computed again
    at = newest - 40
    day.closes["BBB"][at] += 0.37
    day.drop("BBB", newest + 1)
    day.wait("the correction has travelled", day.settled)
    done = day.materialized()
    assert done["raw_ohlcv"] == day.iso(at, at)
    assert done["qlib_bin"] == day.iso(at, at + 1)
    for name in FEATURES:
        past = reads_of(day.platform.settings, "us", name)[0].past
        assert done[name] == day.iso(at, min(at + 1 + past, newest)), name
    assert done["factor_metrics"] == day.iso(at, newest)
    # the labels of the six sessions before are written with the one that they became known on
    assert set(done["labels"]) <= set(day.iso(at - 6, at + 8))
    same_as_from_scratch(day, tmp_path / "scratch-1", newest)
    assert sink.messages == []
    # a new day comes for one instrument, and error pages for the others
    kept = store.read("raw_ohlcv", "us")
    day.drop("DDD", newest + 2)
    for name in NAMES[:3]:
        day.put(name, '{"Information": "rate limit reached"}')
    day.wait("the broken files are told", lambda: bool(survey(day.platform, "us").blocked and sink.messages))
    assert store.count("quarantine", "us") == 3
    assert day.check("structure") is AssetCheckExecutionRecordStatus.FAILED
    assert str(survey(day.platform, "us").blocked[0]) == "qlib_bin waits: raw_ohlcv failed structure"
    done = day.materialized()
    assert {name for name in CHAIN if done[name]} == {"raw_ohlcv"}
    after = store.read("raw_ohlcv", "us", end=day.days[newest].item())
    assert after.equals(kept)
    assert any("structure" in title and "raw_ohlcv" in title for title in sink.titles), sink.titles
    # the good files come: all is green
    newest += 1
    for name in NAMES:
        day.drop(name, newest + 1)
    day.wait("all is green", day.settled)
    assert store.count("quarantine", "us") == 0
    assert day.check("structure") is AssetCheckExecutionRecordStatus.SUCCEEDED
    assert day.check("completeness") is AssetCheckExecutionRecordStatus.SUCCEEDED
    same_as_from_scratch(day, tmp_path / "scratch-2", newest)


def same_as_from_scratch(day: Life, home: Path, newest: int) -> None:
    fresh = Platform.open(day.platform.settings.model_copy(update={"home": home}))
    for name in CHAIN:
        stage = stages.feature_stage(name)
        stage(fresh, "us", date(2021, 1, 4), day.days[newest].item())
    for name in CHAIN:
        if name != "qlib_bin":
            assert day.platform.store.read(name, "us").equals(fresh.store.read(name, "us")), name
