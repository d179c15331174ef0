"""Landed files: which count, which sessions they change, and what a refused file leaves alone."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from qdag import schema
from qdag.assets.platform import Platform
from qdag.operations.landing import Cursor, arrivals, cursor_file
from qdag.settings import AutomationSettings, FilesSource, Settings, UniverseSettings
from qdag_tests import stages

START, END = date(2020, 1, 2), date(2020, 6, 30)
HEADER = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient"


def lines(seed: int, days: np.ndarray) -> list[str]:
    close = np.round(50 * np.exp(np.random.default_rng(seed).normal(0, 0.01, 200).cumsum()), 2)[: len(days)]
    return [HEADER, *(f"{d},{c},{c + 1},{c - 1},{c},{c},1000,0,1" for d, c in zip(days, close, strict=True))]


class Folder:
    def __init__(self, home: Path, **automation: object):
        self.path = home / "in"
        self.path.mkdir()
        market = UniverseSettings(
            source=FilesSource(path=self.path, profile="alphavantage"), calendar="XNYS", start=START, end=END
        )
        settings = Settings(
            home=home / "home",
            universes={"us": market},
            automation=AutomationSettings(landing_seconds=0, **automation),
        )
        self.platform = Platform.open(settings)
        self.days = self.platform.calendar("us").between(START, END)
        self.kept = cursor_file(self.platform, "us")

    def drop(self, name: str, text: list[str] | str) -> None:
        (self.path / name).write_text(text if isinstance(text, str) else "\n".join(text) + "\n")

    def look(self):
        found = arrivals(self.platform, "us", Cursor.read(self.kept))
        found.cursor.write(self.kept)
        return found

    def settle(self):
        """Look twice: a new file counts when it was the same at the look before."""
        self.look()
        return self.look()

    def take(self, request) -> stages.Result:
        return stages.raw_ohlcv(self.platform, "us", request.start, request.end)


@pytest.fixture
def folder(tmp_path) -> Folder:
    found = Folder(tmp_path)
    for seed, name in enumerate(("AAA.csv", "BBB.csv", "CCC.csv")):
        found.drop(name, lines(seed, found.days[:-5]))
    return found


def test_a_file_that_grows_waits(folder):
    first = folder.look()
    assert first.request is None
    assert "AAA.csv, BBB.csv, CCC.csv may still be being written" in first.reason
    folder.drop("AAA.csv", lines(0, folder.days[:-4]))
    assert "AAA.csv may still be being written" in folder.look().reason
    assert folder.look().request is not None


def test_everything_at_first_then_one_day_then_nothing(folder):
    found = folder.settle()
    assert (found.request.start, found.request.end) == (START, folder.days[-6].item())
    folder.take(found.request)
    assert "none of 3 files has changed" in folder.look().reason
    for seed, name in enumerate(("AAA.csv", "BBB.csv", "CCC.csv")):
        folder.drop(name, lines(seed, folder.days[:-4]))
    found = folder.settle()
    assert (found.request.start, found.request.end) == (folder.days[-5].item(),) * 2
    folder.take(found.request)
    assert folder.settle().request is None


def test_a_touched_file_is_hashed_and_asks_for_nothing(folder):
    folder.take(folder.settle().request)
    text = (folder.path / "AAA.csv").read_text()
    folder.drop("AAA.csv", text)
    assert "none of 3 files has changed" in folder.settle().reason
    # other bytes, the same rows
    folder.drop("AAA.csv", text.replace("1000,0,1", "1000,0,1.0"))
    assert "no row changed" in folder.settle().reason
    assert "no row changed" in folder.look().reason


def test_a_correction_asks_for_its_session_and_twice_for_the_same_text(folder):
    folder.take(folder.settle().request)
    good = (folder.path / "BBB.csv").read_text()
    rows = good.splitlines()
    cells = rows[40].split(",")
    rows[40] = ",".join([*cells[:4], str(float(cells[4]) + 0.5), cells[5], *cells[6:]])
    asked = []
    for text in ("\n".join(rows) + "\n", good, "\n".join(rows) + "\n"):
        folder.drop("BBB.csv", text)
        found = folder.settle()
        assert found.request.start == folder.days[39].item()
        asked.append(found.request.state)
        folder.take(found.request)
    assert len(set(asked)) == 3


def test_a_run_over_the_asked_session_brings_what_is_noticed_of_all_in_line(folder):
    folder.take(folder.settle().request)
    noticed = folder.platform.store.read("findings", "us")["date"].to_pylist()
    rows = (folder.path / "BBB.csv").read_text().splitlines()
    cells = rows[40].split(",")
    # the adjusted close stays: the factor seems to change here, and back on the next session
    raised = [str(round(1.03 * float(cell), 2)) for cell in cells[1:5]]
    rows[40] = ",".join([cells[0], *raised, *cells[5:]])
    folder.drop("BBB.csv", rows)
    request = folder.settle().request
    day, following = folder.days[39:41].tolist()
    assert (request.start, request.end) == (day, day)
    folder.take(request)
    found = folder.platform.store.read("findings", "us")
    assert found["date"].to_pylist() == sorted([*noticed, day, following])
    assert "none of 3 files has changed" in folder.settle().reason


def test_a_refused_file_keeps_what_is_stored_and_is_told_with_the_newest_session(folder):
    folder.take(folder.settle().request)
    store = folder.platform.store
    before = store.read("raw_ohlcv", "us")
    good = (folder.path / "CCC.csv").read_text()
    folder.drop("CCC.csv", '{"Information": "limit reached"}')
    found = folder.settle()
    newest = folder.days[-6].item()
    assert (found.request.start, found.request.end) == (newest, newest)
    result = folder.take(found.request)
    assert result.extra["quarantined"] == 1
    assert store.read("raw_ohlcv", "us").equals(before)
    # the whole folder read again keeps them too
    stages.raw_ohlcv(folder.platform, "us", START, END)
    assert store.read("raw_ohlcv", "us").equals(before)
    folder.drop("CCC.csv", good)
    found = folder.settle()
    assert found.request is not None
    folder.take(found.request)
    assert store.count("quarantine", "us") == 0
    assert store.read("raw_ohlcv", "us").equals(before)


def test_a_file_that_is_gone_keeps_its_rows_until_that_is_accepted(folder):
    folder.take(folder.settle().request)
    (folder.path / "AAA.csv").unlink()
    found = folder.look()
    newest = folder.days[-6].item()
    # nothing is taken away, so it is told like a file that was refused
    assert (found.request.start, found.request.end, found.reason) == (newest, newest, "gone AAA.csv")
    result = folder.take(found.request)
    assert result.extra["held_back"].startswith("AAA: 120 of 120 stored rows")
    store = folder.platform.store
    assert set(store.read("raw_ohlcv", "us")["instrument"].to_pylist()) == {"AAA", "BBB", "CCC"}
    assert "none of 2 files has changed" in folder.look().reason
    # nor does it come up again with every delivery of the others
    folder.drop("BBB.csv", lines(1, folder.days[:-4]))
    found = folder.settle()
    assert found.request.start == folder.days[-5].item()
    assert "AAA" in folder.take(found.request).extra["held_back"]
    stages.raw_ohlcv(folder.platform, "us", START, END, accepted=["AAA"])
    assert set(store.read("raw_ohlcv", "us")["instrument"].to_pylist()) == {"BBB", "CCC"}
    assert store.count("quarantine", "us") == 0
    assert "none of 2 files has changed" in folder.settle().reason


def test_what_a_run_over_other_sessions_has_read_is_asked_for(folder):
    folder.take(folder.settle().request)
    rows = lines(1, folder.days[:-4])
    cells = rows[40].split(",")
    rows[40] = ",".join([*cells[:7], str(0.02 * float(cells[4])), "1"])
    folder.drop("BBB.csv", rows)
    day = folder.days[-5].item()
    stages.raw_ohlcv(folder.platform, "us", day, day)
    found = folder.settle()
    assert (found.request.start, found.request.end) == (folder.days[39].item(), folder.days[-6].item())
    assert "other rows are stored" in found.reason
    folder.take(found.request)
    assert "none of 3 files has changed" in folder.look().reason


def test_only_a_part_was_ever_read(folder):
    stages.raw_ohlcv(folder.platform, "us", folder.days[20].item(), folder.days[30].item())
    found = folder.settle()
    assert (found.request.start, found.request.end) == (START, folder.days[-6].item())
    folder.take(found.request)
    assert folder.look().request is None


def test_a_session_that_closes_after_its_rows_were_read_is_asked_for(folder):
    later = folder.platform
    earlier = Platform.open(
        later.settings.model_copy(
            update={
                "universes": {"us": later.settings.universe("us").model_copy(update={"end": folder.days[-8].item()})}
            }
        )
    )
    stages.raw_ohlcv(earlier, "us", START, END)
    found = folder.settle()
    assert (found.request.start, found.request.end) == (folder.days[-7].item(), folder.days[-6].item())
    folder.take(found.request)
    assert folder.look().request is None


def test_a_look_is_kept_in_a_file(folder):
    found = folder.look()
    text = folder.kept.read_text()
    assert set(json.loads(text)["files"]) == {"AAA.csv", "BBB.csv", "CCC.csv"}
    assert Cursor.read(folder.kept) == found.cursor
    assert len(found.cursor.digest()) == 16
    # one that is damaged costs one look more
    folder.kept.write_text(text[:-9])
    assert Cursor.read(folder.kept) == Cursor()
    assert "may still be being written" in folder.look().reason
    assert folder.look().request is not None


def test_a_marker_says_that_a_file_is_whole(tmp_path):
    folder = Folder(tmp_path, done_marker=True)
    folder.drop("AAA.csv", lines(0, folder.days))
    assert "may still be being written" in folder.settle().reason
    folder.drop("AAA.csv.done", "")
    assert folder.look().request is not None


@pytest.mark.parametrize("column", [column.name for column in schema.DELIVERIES.columns if column.nullable])
def test_what_was_written_down_before_a_column_was_there_does_not_stop_a_reading(folder, column):
    folder.take(folder.settle().request)
    store = folder.platform.store
    before, rows = store.read("raw_ohlcv", "us"), store.read("deliveries", "us")
    day = rows["date"][0].as_py()
    shutil.rmtree(store.folder("deliveries"))
    folder.platform = Platform.open(folder.platform.settings)
    store = folder.platform.store
    older = replace(schema.DELIVERIES, columns=tuple(c for c in schema.DELIVERIES.columns if c.name != column))
    store.replace(older, "us", day, day, rows.select(older.arrow().names), {})
    folder.settle()
    stages.raw_ohlcv(folder.platform, "us", START, END)
    assert store.read("raw_ohlcv", "us").equals(before)
    assert "none of 3 files has changed" in folder.settle().reason
