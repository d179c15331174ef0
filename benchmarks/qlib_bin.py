"""The Qlib provider directory: built from the table, beside the same bars dumped from one CSV file per symbol.

``python -m benchmarks.qlib_bin [--instruments I] [--sessions S] [--compare C] [--quick]``. Bars come from the synthetic
source and are stored first. Every build runs in a process of its own, which tells its seconds and its peak memory.

The other side does, file for file, what Qlib's own ``scripts/dump_bin.py dump_all`` does, with 2 worker processes: it
reads every CSV once for its dates, collects the calendar and the instruments, reads every CSV again, drops repeated
dates, reindexes to the calendar, and writes each field with ``tofile``. It is handed adjusted prices, so it need not
compute them; ours starts from raw prices and factors. Both are compared file by file afterwards. C instruments are used
for that; the I instruments are then built by ours alone, with one more session after it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

WORKERS = 2
REPEATS = 5
CHUNK = 650
FIELDS = ("open", "high", "low", "close", "volume", "vwap", "change", "factor", "amount")


def platform(home: Path, instruments: int, sessions: int) -> tuple[Any, np.ndarray]:
    """A data home for that market, and its sessions."""
    from qdag.assets.platform import Platform
    from qdag.settings import Settings, SyntheticSource, UniverseSettings

    universe = UniverseSettings(
        source=SyntheticSource(instruments=instruments), calendar="XNYS", start=date(2005, 1, 3), end=date(2024, 12, 31)
    )
    opened = Platform.open(Settings(home=home, universes={"market": universe}))
    return opened, opened.calendar("market").all[:sessions]


class Clock:
    """Seconds of a ``with`` block: by the wall, and of this process and its finished children on the processors."""

    def __enter__(self) -> "Clock":
        # what others have left to write is not part of it
        os.sync()
        self._wall, self._used = time.perf_counter(), self._cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu = time.perf_counter() - self._wall, self._cpu() - self._used

    @staticmethod
    def _cpu() -> float:
        used = os.times()
        return used.user + used.system + used.children_user + used.children_system


# -- jobs, each in a process of its own -------------------------------------------------------------------------------


def store(home: Path, instruments: int, sessions: int) -> dict[str, Any]:
    """Put the bars into raw_ohlcv."""
    from qdag_tests.stages import raw_ohlcv

    opened, days = platform(home, instruments, sessions)
    parts = np.array_split(days, max(1, sessions // CHUNK))
    return {"rows": sum(raw_ohlcv(opened, "market", p[0].item(), p[-1].item()).rows for p in parts)}


def build(home: Path, instruments: int, sessions: int) -> dict[str, Any]:
    """All but the last session from the table into a directory that is not there yet."""
    from qdag_tests.stages import qlib_bin

    opened, days = platform(home, instruments, sessions)
    if (provider := opened.settings.provider("market")).exists():
        # aside, not deleted: ext4 looks long for a free place among files that were deleted a moment ago
        provider.rename(provider.with_name(f"before-{time.time_ns()}"))
    # libraries and the exchange's calendar are loaded before anything is timed
    opened.last_session("market")
    opened.store.sessions("raw_ohlcv", "market")
    with Clock() as clock:
        result = qlib_bin(opened, "market", days[0].item(), days[-2].item())
    return {"rows": result.rows, "seconds": clock.seconds, "cpu": clock.cpu, "peak_mib": result.peak_mib}


def increment(home: Path, instruments: int, sessions: int) -> dict[str, Any]:
    """The last session, again and again: the first time appended, then replaced."""
    from qdag_tests.stages import qlib_bin, verify_bins

    opened, days = platform(home, instruments, sessions)
    seconds, cpu, rows = [], [], 0
    for _ in range(REPEATS):
        with Clock() as clock:
            rows = qlib_bin(opened, "market", days[-1].item(), days[-1].item()).rows
        seconds.append(clock.seconds)
        cpu.append(clock.cpu)
    with Clock() as clock:
        verification = verify_bins(opened, "market")
    return {
        "rows": rows,
        "first": seconds[0],
        "seconds": median(seconds),
        "cpu": median(cpu),
        "verify_seconds": clock.seconds,
        "findings": verification.lines()[:5],
    }


def export(home: Path, instruments: int, sessions: int) -> dict[str, Any]:
    """One CSV file per symbol with the adjusted values that the directory holds."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    from qdag.store.qlib.reader import read_provider_panel

    opened, _ = platform(home, instruments, sessions)
    panel = read_provider_panel(opened.settings.provider("market"))
    exists = ~np.isnan(panel["close"])
    (home / "csv").mkdir()
    rows = 0
    for i, name in enumerate(panel.instruments):
        dates = pa.array(panel.sessions[exists[i]], pa.date32())
        columns = {field: pa.array(panel[field][i, exists[i]], from_pandas=True) for field in FIELDS}
        pacsv.write_csv(pa.table({"date": dates, **columns}), home / "csv" / f"{name}.csv")
        rows += len(dates)
    return {"rows": rows}


def dump(home: Path, instruments: int, sessions: int) -> dict[str, Any]:
    """The CSV files into a directory, as Qlib's script does it."""
    del instruments, sessions
    with Clock() as clock:
        _dump_all(home)
    return {"seconds": clock.seconds, "cpu": clock.cpu}


def _dump_all(home: Path) -> None:
    files = sorted((home / "csv").glob("*.csv"))
    target = home / "dumped"
    days: set[Any] = set()
    lines = []
    with ProcessPoolExecutor(WORKERS) as pool:
        for path, (first, last, found) in zip(files, pool.map(_dates, files), strict=True):
            days |= found
            lines.append(f"{path.stem.upper()}\t{first:%Y-%m-%d}\t{last:%Y-%m-%d}")
    calendar = sorted(days)
    for folder, name, text in (
        ("calendars", "day.txt", [f"{day:%Y-%m-%d}" for day in calendar]),
        ("instruments", "all.txt", lines),
    ):
        (target / folder).mkdir(parents=True)
        (target / folder / name).write_text("\n".join(text) + "\n")
    with ProcessPoolExecutor(WORKERS) as pool:
        for _ in pool.map(partial(_dump_symbol, target, calendar), files):
            pass


def _read(path: Path) -> Any:
    import pandas as pd

    frame = pd.read_csv(path, low_memory=False)
    frame["date"] = pd.to_datetime(frame["date"])
    return frame


def _dates(path: Path) -> tuple[Any, Any, set[Any]]:
    dates = _read(path)["date"]
    return dates.min(), dates.max(), set(dates)


def _dump_symbol(target: Path, calendar: list[Any], path: Path) -> None:
    import pandas as pd

    frame = _read(path).drop_duplicates("date")
    folder = target / "features" / path.stem.lower()
    folder.mkdir(parents=True, exist_ok=True)
    days = pd.DataFrame({"date": calendar})
    days = days[(days["date"] >= frame["date"].min()) & (days["date"] <= frame["date"].max())]
    aligned = frame.set_index("date").reindex(days.set_index("date").index)
    begin = calendar.index(aligned.index.min())
    for field in FIELDS:
        np.hstack([begin, aligned[field]]).astype("<f").tofile(str((folder / f"{field}.day.bin").resolve()))


def compare(home: Path, instruments: int, sessions: int) -> dict[str, Any]:
    """Files of the two directories that are not byte for byte the same."""
    opened, _ = platform(home, instruments, sessions)
    ours, theirs = opened.settings.provider("market") / "features", home / "dumped" / "features"
    names = {str(p.relative_to(side)) for side in (ours, theirs) for p in side.rglob("*.bin")}
    differing = [n for n in names if not _same(ours / n, theirs / n)]
    return {"files": len(names), "differing": len(differing)}


def _same(left: Path, right: Path) -> bool:
    return left.exists() and right.exists() and left.read_bytes() == right.read_bytes()


JOBS = {job.__name__: job for job in (store, build, increment, export, dump, compare)}


# -- the run ----------------------------------------------------------------------------------------------------------


def job(name: str, home: Path, instruments: int, sessions: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.qlib_bin", "--job", name, str(home), str(instruments), str(sessions)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise SystemExit(f"job {name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(instruments: int, sessions: int, compared: int, folder: Path) -> dict[str, Any]:
    """All measurements: comparison, full build and increment."""
    small, large = folder / "small", folder / "large"
    results: dict[str, Any] = {"sizes": (compared, instruments, sessions)}
    job("store", small, compared, sessions)
    results["build"] = job("build", small, compared, sessions)
    job("export", small, compared, sessions)
    results["dump"] = job("dump", small, compared, sessions)
    results["compare"] = job("compare", small, compared, sessions)
    # again after the other side: whatever else the machine does is on both sides of it
    again = job("build", small, compared, sessions)
    results["build"] |= {key: (results["build"][key] + again[key]) / 2 for key in ("seconds", "cpu")}
    job("store", large, instruments, sessions)
    results["full"] = job("build", large, instruments, sessions)
    results["increment"] = job("increment", large, instruments, sessions)
    results["load"] = os.getloadavg()[0]
    return results


def markdown(results: dict[str, Any]) -> str:
    compared, instruments, sessions = results["sizes"]
    build, dumped, full, day = (results[name] for name in ("build", "dump", "full", "increment"))
    different = results["compare"]
    return "\n".join(
        [
            f"Built from the table beside a dump of CSV files ({WORKERS} workers), {compared} instruments x "
            f"{sessions - 1} sessions",
            "",
            "| way | seconds | ratio | processor seconds | ratio |",
            "| --- | ---: | ---: | ---: | ---: |",
            f"| one CSV per symbol, as Qlib's dump script | {dumped['seconds']:.1f} | "
            f"{dumped['seconds'] / build['seconds']:.1f} | {dumped['cpu']:.1f} | {dumped['cpu'] / build['cpu']:.1f} |",
            f"| from raw_ohlcv (mean of a run before and one after) | {build['seconds']:.1f} | 1 "
            f"| {build['cpu']:.1f} | 1 |",
            "",
            f"{different['differing']} of {different['files']:,} files differ.",
            "",
            f"A whole market, {instruments} instruments x {sessions - 1} sessions ({full['rows']:,} rows)",
            "",
            "| job | seconds | peak memory |",
            "| --- | ---: | ---: |",
            f"| full build | {full['seconds']:.1f} | {full['peak_mib'] / 1024:.2f} GiB |",
            f"| one more session, appended | {day['first']:.2f} | |",
            f"| one session, replaced (median of {REPEATS}) | {day['seconds']:.2f} | |",
            f"| of it on the processor | {day['cpu']:.2f} | |",
            f"| every file read back and compared with the table | {day['verify_seconds']:.1f} | |",
            "",
            f"Differences found: {len(day['findings'])}. Load of the machine at the end: {results['load']:.1f} on "
            f"{os.cpu_count()} cores.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instruments", type=int, default=5000)
    parser.add_argument("--sessions", type=int, default=2601)
    parser.add_argument("--compare", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="small sizes, a minute in all")
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        name, home, instruments, sessions = options.job
        print(json.dumps(JOBS[name](Path(home), int(instruments), int(sessions))))
        return
    instruments, sessions, compared = options.instruments, options.sessions, options.compare
    if options.quick:
        instruments, sessions, compared = 200, 500, 100
    with TemporaryDirectory(prefix="qdag-bins-") as temporary:
        print(markdown(run(instruments, sessions, compared, Path(temporary))))


if __name__ == "__main__":
    main()
