"""Day by day against at once, on real files: ``python -m benchmarks.append_rewrite``.

``[--market DIR] [--start 2018-01-02] [--end 2020-12-31] [--days 60] [--instruments 40] [--universe us --universe cn]``.
One home gets everything in one go from the last files. The other gets all but the last ``days`` sessions, and then one
session after the other, from files that are cut at each day as a vendor would have delivered them; a wrong price of
some weeks before is in them until the vendor corrects it midway. Then every file of the provider is compared byte for
byte, and every table row for row. Without real files this says so and does nothing.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.crash_loop import MARKET, provider_files, stage

TABLES = ("raw_ohlcv", "quarantine", "findings", "alpha158", "basic_statistics", "technical_indicators",
          "price_features", "labels", "factor_metrics", "lineage")  # fmt: skip
WINDOW = 90


@dataclass(frozen=True)
class Universe:
    """Files of a vendor: folder, calendar, the files that must be among them, the order of their lines.

    ``corrected``: a file whose close is wrong until the correction.
    """

    folder: str
    calendar: str
    wanted: tuple[str, ...]
    corrected: str
    date_column: int
    close_column: int


UNIVERSES = {
    # splits (AAPL and TSLA 2020-08-31, ODFL 2020-03-25), late listings (CARR, VTRS), sessions of volume 0, no table
    "us": Universe("us_daily", "XNYS", ("AAPL", "TSLA", "ODFL", "CARR", "VTRS", "MNST", "NDAQ", "CHTR", "GILD", "BF.B"),
                   "MSFT", 0, 4),
    # null prices, closes out of range, an IPO, a file without rows; suspensions are in most
    "cn": Universe("cn_daily", "XSHG", ("600018.SH", "000011.SZ", "000014.SZ", "000019.SZ", "301439.SZ", "000155.SZ"),
                   "000001.SZ", 1, 5),
}  # fmt: skip


class Vendor:
    """A folder of files, delivered as far as a day; the lines in the vendor's order."""

    def __init__(self, source: Path, folder: Path, universe: Universe, count: int, start: date):
        self.folder, self.universe = folder, universe
        folder.mkdir(parents=True)
        first = [universe.corrected, *universe.wanted]
        listed = sorted(source.glob("*.csv"))
        names = [*first, *(path.stem for path in listed if path.stem not in first)][:count]
        self.files: dict[str, tuple[str, list[tuple[date, str]]]] = {}
        for name in names:
            text = (source / f"{name}.csv").read_text("utf-8")
            lines = text.splitlines()
            if len(lines) < 2 or text.lstrip()[:1] in "{<":
                (folder / f"{name}.csv").write_text(text)
                continue
            rows = [(self._day(line), line) for line in lines[1:]]
            rows = [row for row in rows if row[0] >= start]
            self.files[name] = lines[0], rows
        self.wrong: tuple[str, date] | None = None

    def _day(self, line: str) -> date:
        text = line.split(",")[self.universe.date_column].replace("-", "")
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))

    def correctable(self, after: date) -> date:
        """A day from ``after`` on whose close can be wrong: it is not the day's low."""
        _, rows = self.files[self.universe.corrected]
        low, close = self.universe.close_column - 1, self.universe.close_column
        return min(day for day, line in rows if day >= after and line.split(",")[low] != line.split(",")[close])

    def deliver(self, day: date) -> None:
        """Whole files with the lines up to ``day``; a file comes with its first line."""
        for name, (header, rows) in self.files.items():
            lines = [self._told(name, at, line) for at, line in rows if at <= day]
            if lines:
                (self.folder / f"{name}.csv").write_text("\n".join([header, *lines, ""]))

    def _told(self, name: str, day: date, line: str) -> str:
        if (name, day) != self.wrong:
            return line
        cells = line.split(",")
        # a close that is possible: the day's low
        cells[self.universe.close_column] = cells[self.universe.close_column - 1]
        return ",".join(cells)


def opened(home: Path, vendor: Vendor, start: date, end: date) -> Any:
    from qdag.assets.platform import Platform
    from qdag.settings import EngineSettings, FilesSource, Settings, UniverseSettings

    region: Any = "cn" if vendor.universe.calendar == "XSHG" else "us"
    universe = UniverseSettings(
        source=FilesSource(path=vendor.folder), calendar=vendor.universe.calendar, start=start, end=end, region=region
    )
    return Platform.open(Settings(home=home, universes={"market": universe}, engine=EngineSettings(threads=1)))


def fill(platform: Any, first: date, last: date) -> None:
    """Every stage over a range."""
    from qdag_tests.stages import asset_names

    for name in asset_names(platform.settings):
        if name not in ("trained_model", "predictions"):
            stage(name)(platform, "market", first, last)


def refill(platform: Any, first: date, last: date) -> int:
    """A delivery that may hold corrections: read from ``first`` on, then compute what is stale. Returns the runs."""
    from qdag.operations.survey import survey

    stage("raw_ohlcv")(platform, "market", first, last)
    runs = 0
    while asked := survey(platform, "market").requests:
        for request in asked:
            runs += 1
            for name in request.assets:
                stage(name)(platform, "market", request.start, request.end)
        if runs > 200:
            raise RuntimeError(f"still stale after {runs} runs: {asked}")
    return runs


def compare(name: str, source: Path, root: Path, given: argparse.Namespace) -> Iterator[tuple[str, str, bool]]:
    """(what, figures, whether equal) for one universe."""
    from qdag.core.sessions import SessionCalendar
    from qdag.operations.survey import survey
    from qdag_tests.stages import verify_bins

    universe = UNIVERSES[name]
    start = given.start
    vendor = Vendor(source / universe.folder, root / "files", universe, given.instruments, start)
    sessions: list[date] = SessionCalendar(universe.calendar, start, given.end).all.tolist()
    begin = len(sessions) - given.days
    wrong = sessions[begin - 20]
    vendor.wrong = universe.corrected, vendor.correctable(wrong)
    repaired = begin + given.days // 2

    clock = time.perf_counter()
    vendor.deliver(sessions[begin - 1])
    fill(opened(root / "daily", vendor, start, sessions[begin - 1]), start, sessions[begin - 1])
    first = time.perf_counter() - clock
    each, runs = [], 0
    for at in range(begin, len(sessions)):
        clock = time.perf_counter()
        if at == repaired:
            vendor.wrong = None
        vendor.deliver(sessions[at])
        platform = opened(root / "daily", vendor, start, sessions[at])
        if at == repaired:
            runs = refill(platform, sessions[at - WINDOW], sessions[at])
        else:
            fill(platform, sessions[at], sessions[at])
        each.append(time.perf_counter() - clock)
    clock = time.perf_counter()
    daily = opened(root / "daily", vendor, start, given.end)
    once = opened(root / "once", vendor, start, given.end)
    fill(once, start, given.end)
    whole = time.perf_counter() - clock
    text = f"at once {whole:.1f} s; {begin} sessions {first:.1f} s, then {given.days} days, median {median(each):.2f} s"
    yield "build", f"{text}, correction of {universe.corrected} in {runs} runs", runs > 0

    mine, theirs = (provider_files(p.settings.provider("market")) for p in (daily, once))
    wrong_files = sorted(file for file in {*mine, *theirs} if mine.get(file) != theirs.get(file))
    size = sum(map(len, theirs.values()))
    yield "provider", f"{len(theirs)} files, {size / 2**20:.1f} MiB: {said(wrong_files)}", not wrong_files
    lines = verify_bins(daily, "market").lines()
    yield "provider against raw_ohlcv", said(lines), not lines
    for table in TABLES:
        rows = [whole_sessions(p, table) for p in (daily, once)]
        differing = [] if rows[0].equals(rows[1]) else differences(*rows)
        yield table, f"{rows[1].num_rows} rows, {rows[1].num_columns} columns: {said(differing)}", not differing
    stale = [asset for asset, found in survey(daily, "market").stale.items() if found]
    yield "stale", said(stale), not stale


def whole_sessions(platform: Any, table: str) -> Any:
    """A table without what depends on the way it was filled: versions, and refused files (line 0), which are dated by
    the window that was asked for."""
    import pyarrow.compute as pc

    rows = platform.store.read(table, "market")
    if table == "quarantine":
        return rows.filter(pc.field("line") > 0)
    return rows.drop(["version"]) if table == "lineage" else rows


def differences(a: Any, b: Any) -> list[str]:
    """Columns that differ, or the number of rows."""
    if a.num_rows != b.num_rows or a.column_names != b.column_names:
        return [f"{a.num_rows} rows of {a.num_columns} columns instead"]
    return [name for name in a.column_names if not a[name].equals(b[name])]


def said(found: list[str]) -> str:
    return f"{len(found)} differ, first {', '.join(found[:3])}" if found else "equal"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", type=Path, default=MARKET)
    parser.add_argument("--start", type=date.fromisoformat, default=date(2018, 1, 2))
    parser.add_argument("--end", type=date.fromisoformat, default=date(2020, 12, 31))
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--instruments", type=int, default=40)
    parser.add_argument("--universe", action="append", choices=sorted(UNIVERSES), help="may be repeated; default all")
    given = parser.parse_args()
    if not given.market.is_dir():
        print(f"no real files at {given.market}: nothing compared")
        return 0
    bad = 0
    for name in given.universe or UNIVERSES:
        print(f"{name}: {given.instruments} files, {given.start} to {given.end}")
        with TemporaryDirectory(prefix="qdag-append-") as root:
            for what, figures, good in compare(name, given.market, Path(root), given):
                print(f"  {what:<27} {figures}{'' if good else '   FAILED'}", flush=True)
                bad += not good
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
