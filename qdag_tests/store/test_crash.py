"""Kill -9 at random moments, dying between a commit and its record, and two writers of one provider."""

import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from benchmarks import crash_loop
from benchmarks.crash_loop import Job, made_market, moved, plain, provider_files, settings_of
from qdag.assets import qlib_bin, write
from qdag.assets.platform import Platform
from qdag.core.sessions import SessionCalendar
from qdag.operations.survey import survey
from qdag_tests import stages

DAYS = SessionCalendar("XNYS", date(2019, 8, 1), date(2020, 12, 31)).all.tolist()
U = crash_loop.UNIVERSE
ASSETS = ("raw_ohlcv", "qlib_bin", "price_features", "labels")
TABLES = ("raw_ohlcv", "quarantine", "findings", "price_features", "labels", "lineage")


def test_killed_at_random_moments_everything_ends_as_one_build(tmp_path):
    report = crash_loop.small_loop(tmp_path, kills=6, seed=3, instruments=5, sessions=70, source=None, assets=ASSETS)
    assert report.failures == []
    assert report.total == 6
    assert report.rows > 0
    assert report.files > 0


@pytest.fixture
def market(tmp_path):
    made = made_market(tmp_path / "files", 3, DAYS[:75], 1)
    made.write()
    return made


def opened(market, home: Path, first: date | None = None) -> tuple[Platform, Job]:
    job = Job(home, market.folder, DAYS[0], market.end, first or DAYS[0], True, (1, 5))
    return Platform.open(settings_of(job)), job


def refresh(platform: Platform, job: Job) -> None:
    stages.raw_ohlcv(platform, U, job.first, job.end)
    for _ in range(10):
        asked = survey(platform, U, ASSETS).requests
        for request in asked:
            for name in request.assets:
                crash_loop.stage(name)(platform, U, request.start, request.end)
        if not asked:
            return
    raise AssertionError(f"still stale: {asked}")


def test_a_session_on_which_nobody_has_a_row_is_up_to_date_at_last(market, tmp_path):
    for name in market.lines:
        market.changes[name, DAYS[40]] = None
    market.write()
    platform, job = opened(market, tmp_path / "asked")
    refresh(platform, job)
    once, _ = opened(market, tmp_path / "once")
    for name in ASSETS:
        crash_loop.stage(name)(once, U, job.first, job.end)
    assert not any(survey(once, U, ASSETS).stale.values())
    for name in TABLES:
        assert plain(platform, name).equals(plain(once, name)), name


class Died(BaseException):
    pass


@pytest.mark.parametrize("asset", ["qlib_bin", "price_features", "labels"])
def test_a_correction_that_is_taken_back_after_a_crash_leaves_nothing(market, tmp_path, monkeypatch, asset):
    """What was written and not recorded must not be taken for what was recorded before."""
    platform, job = opened(market, tmp_path / "home")
    refresh(platform, job)
    before = {name: plain(platform, name) for name in TABLES}
    files = provider_files(platform.settings.provider(U))
    record = write.record_sessions

    def dying(platform, universe, written, *rest):
        if written.name == asset:
            raise Died
        record(platform, universe, written, *rest)

    day = DAYS[60] if market.line("S00", DAYS[60]) else DAYS[61]
    market.changes["S00", day] = moved(market.line("S00", day), 1.05)
    market.write()
    with monkeypatch.context() as patch:
        patch.setattr(write, "record_sessions", dying)
        patch.setattr(qlib_bin, "record_sessions", dying)
        with pytest.raises(Died):
            refresh(platform, job)
    market.changes.clear()
    market.write()
    refresh(platform, job)
    for name, rows in before.items():
        assert plain(platform, name).equals(rows), name
    assert provider_files(platform.settings.provider(U)) == files


def test_two_processes_write_one_provider_in_turn(market, tmp_path):
    """Both begin at once and do overlapping ranges: the directory is that of the table."""
    platform, job = opened(market, tmp_path / "home")
    stages.raw_ohlcv(platform, U, job.first, job.end)
    stages.qlib_bin(platform, U, job.first, DAYS[40])
    script = """
import sys, time
from datetime import date
from pathlib import Path
from benchmarks.crash_loop import Job, UNIVERSE, settings_of
from qdag_tests import stages
home, folder, last, *days = sys.argv[1:]
start = date(2019, 8, 1)
job = Job(Path(home), Path(folder), start, date.fromisoformat(last), start, True, (1, 5))
platform = stages.Platform.open(settings_of(job))
platform.store.version("raw_ohlcv")
import qdag.store.qlib.writer
print("ready", flush=True)
sys.stdin.readline()
for day in days:
    first, end = map(date.fromisoformat, day.split(".."))
    stages.qlib_bin(platform, UNIVERSE, first, end)
"""
    spans = (
        [f"{DAYS[k]}..{DAYS[min(k + 6, 74)]}" for k in range(30, 75, 5)],
        [f"{DAYS[k]}..{DAYS[min(k + 3, 74)]}" for k in range(20, 75, 6)],
    )
    arguments = [str(tmp_path / "home"), str(market.folder), str(job.end)]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments, *mine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mine in spans
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        errors = [writer.communicate(timeout=60)[1] for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    assert [writer.returncode for writer in writers] == [0, 0], errors
    assert stages.verify_bins(platform, U).lines() == []
    once, _ = opened(market, tmp_path / "once")
    shutil.copytree(platform.settings.tables, once.settings.tables)
    stages.qlib_bin(once, U, job.first, job.end)
    assert provider_files(platform.settings.provider(U)) == provider_files(once.settings.provider(U))
    assert crash_loop.leftovers(platform.settings.provider(U)) == []
