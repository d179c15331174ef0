"""What a day costs as days go by: ``python -m benchmarks.days``.

``[--days 200] [--instruments 12] [--history 320] [--commands 5] [--profile FILE]``. A universe of made-up files with
some history gets one session at a time: the file of every instrument grows by a line, and all stages of the session are
computed one after the other in one process, which nothing is done to keep fast: no compaction, no vacuum. Told are the
seconds of the days, by the clock and of the processor, the median of the last ten over that of the first ten (of the
processor's, at most 1.3 is wanted: other work of the machine does not count), the files of each table, what a day reads
from files, open files, and the size of the bookkeeping. After that some days are computed by
the command, each in a process of its own, with Dagster's bookkeeping. ``--profile`` keeps a profile of the last ten
days, for ``python -m pstats``.
"""

import argparse
import cProfile
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks._homes import UNIVERSE, Site, chain
from benchmarks.crash_loop import made_market, stage

TARGET = 1.3
EACH = 10
BOOKS = ("lineage", "deliveries", "quarantine", "findings")


def site_of(root: Path, instruments: int, sessions: int) -> Site:
    from qdag.core.sessions import SessionCalendar

    days: list[date] = SessionCalendar("XNYS", date(2016, 1, 4), date(2023, 12, 29)).all.tolist()[:sessions]
    market = made_market(root / "files", instruments, days, 1)
    # one refused file of a dozen would block the session
    market.refused = {}
    return Site(root, {UNIVERSE: market})


def counters() -> tuple[int, int]:
    """Bytes that the process has read, from memory or disk, and reads."""
    with open("/proc/self/io") as file:
        told = dict(line.split(": ") for line in file.read().splitlines())
    return int(told["rchar"]), int(told["syscr"])


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def one_day(platform: Any, day: date) -> dict[str, tuple[float, float]]:
    """All stages of a session: seconds of the clock and of the processor by asset."""
    found = {}
    for name in chain(platform):
        began, worked = time.perf_counter(), time.process_time()
        stage(name)(platform, UNIVERSE, day, day)
        found[name] = time.perf_counter() - began, time.process_time() - worked
    return found


def by_command(site: Site, home: Path, days: list[date]) -> list[float]:
    """Seconds of ``qdag materialize`` for each day, in a process of its own."""
    seconds = []
    market, config = site.markets[UNIVERSE], site.config(home)
    for day in days:
        market.end = day
        market.write()
        began = time.perf_counter()
        words = [sys.executable, "-m", "qdag", "materialize", "--start", f"{day}", "--end", f"{day}", "--months", "0"]
        done = subprocess.run([*words, "--config", str(config)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"qdag materialize of {day}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=200)
    parser.add_argument("--instruments", type=int, default=12)
    parser.add_argument("--history", type=int, default=320, help="sessions that are there before, computed at once")
    parser.add_argument("--commands", type=int, default=5, help="days by the command afterwards")
    parser.add_argument("--profile", help="keep a profile of the last ten days in this file")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="qdag-days-") as text:
        return measure(Path(text), given)


def measure(root: Path, given: argparse.Namespace) -> int:
    site = site_of(root, given.instruments, given.history + given.days + given.commands)
    market, home = site.markets[UNIVERSE], root / "home"
    market.end = market.days[given.history - 1]
    market.write()
    platform = site.platform(home)
    began = time.perf_counter()
    for name in chain(platform):
        stage(name)(platform, UNIVERSE, market.days[0], market.end)
    seconds = time.perf_counter() - began
    print(
        f"{given.instruments} instruments, {given.history} sessions at once in {seconds:.1f} s, then {given.days} days "
        f"of one session, {len(chain(platform))} assets\n"
    )
    parts, read, books, open_files = [], [], [], []
    profile = cProfile.Profile()
    for at in range(given.days):
        day = market.days[given.history + at]
        market.end = day
        market.write()
        if given.profile and at >= given.days - EACH:
            profile.enable()
        bytes_before, reads_before = counters()
        parts.append(one_day(platform, day))
        bytes_after, reads_after = counters()
        profile.disable()
        read.append((bytes_after - bytes_before, reads_after - reads_before))
        books.append(sum(size(Path(platform.store.uri(name))) for name in BOOKS if platform.store.exists(name)))
        open_files.append(len(os.listdir("/proc/self/fd")))
    if given.profile:
        profile.dump_stats(given.profile)
    clock, worked = (np.array([[one[kind] for one in part.values()] for part in parts]) for kind in (0, 1))
    print("| day | seconds | processor seconds | MiB read | reads | open files | bookkeeping, MiB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for at in sorted({*range(0, given.days, max(1, given.days // EACH)), given.days - 1}):
        print(
            f"| {at + 1} | {clock[at].sum():.2f} | {worked[at].sum():.2f} | {read[at][0] / 2**20:.1f} | "
            f"{read[at][1]:,} | {open_files[at]} | {books[at] / 2**20:.2f} |"
        )
    print("\n| asset | first ten days, median processor seconds | last ten | ratio |\n| --- | ---: | ---: | ---: |")
    for column, name in enumerate(parts[0]):
        print(f"| {name} {_ends(worked[:, column])}")
    print(f"| all {_ends(worked.sum(1))}")
    print(f"| all, seconds of the clock {_ends(clock.sum(1))}")
    print("\n| table | files now | files in its folder | versions | MiB |\n| --- | ---: | ---: | ---: | ---: |")
    for name in platform.store.names():
        folder = Path(platform.store.uri(name))
        stored = len(platform.store.stored_files(name))
        print(
            f"| {name} | {platform.store.files(name).num_rows} | {stored} | {platform.store.version(name)} | "
            f"{size(folder) / 2**20:.1f} |"
        )
    if given.commands:
        commands = by_command(site, home, market.days[given.history + given.days :])
        print(f"\nby the command, {len(commands)} days: {', '.join(f'{one:.1f}' for one in commands)} s")
        print(f"Dagster's history after them: {size(home / 'dagster') / 2**20:.2f} MiB")
    days = worked.sum(1)
    ratio = np.median(days[-EACH:]) / np.median(days[:EACH])
    print(f"\nlast ten days over first ten: {ratio:.2f} (wanted: at most {TARGET})")
    return 0 if ratio <= TARGET else 1


def _ends(seconds: np.ndarray) -> str:
    first, last = np.median(seconds[:EACH]), np.median(seconds[-EACH:])
    return f"| {first:.3f} | {last:.3f} | {last / first:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
