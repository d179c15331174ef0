"""The quality suite of a whole market: one session, and a year of sessions.

``python -m benchmarks.quality [--instruments I] [--sessions S] [--home FOLDER]``. The market is synthetic and goes
through the stages; a folder given as home is built once and used again. The checks that a run would make are judged and
kept and the pages written, as in a run. Great Expectations is imported first: its seconds are told apart.
"""

import argparse
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from qdag.assets.chain import chain
from qdag.quality import Scope, judge
from qdag.quality.features import MATURE_SESSIONS
from qdag.quality.outcome import keep
from qdag.quality.page import write_pages
from qdag.quality.validator import _context
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag_tests import stages

TABLES = ("raw_ohlcv", "qlib_bin", "alpha158", "labels")
START = date(2018, 1, 2)


def build(home: Path, instruments: int, sessions: int) -> stages.Platform:
    """A data home with ``MATURE_SESSIONS`` sessions, then the judged ones."""
    universe = UniverseSettings(
        source=SyntheticSource(instruments=instruments), calendar="XNYS", start=START, end=date(2024, 12, 31)
    )
    settings = Settings(home=home, universes={"market": universe})
    platform = stages.Platform.open(settings)
    days = platform.calendar("market").all[: MATURE_SESSIONS + sessions]
    for name in TABLES:
        if not len(stages.stored_sessions(platform, name, "market")):
            stage = stages.feature_stage(name) if name == "alpha158" else getattr(stages, name)
            stage(platform, "market", days[0].item(), days[-1].item())
    return platform


def suite(platform: stages.Platform, start: date, end: date) -> dict[str, tuple[float, float]]:
    """Seconds of judging, and of keeping and drawing, by table."""
    found = {}
    for table in TABLES:
        asset = chain(platform.settings)[table]
        scope = Scope(platform.store, platform.settings, "market", start, end)
        began = time.perf_counter()
        judged = judge(asset.rules(platform.settings, scope.limits), asset.frames(scope))
        between = time.perf_counter()
        keep(scope, table, judged.results, judged.profile, platform.provenance)
        write_pages(scope.settings, scope.store, scope.universe, scope.sessions(), chain(platform.settings).judged())
        found[table] = between - began, time.perf_counter() - between
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instruments", type=int, default=5000)
    parser.add_argument("--sessions", type=int, default=250)
    parser.add_argument("--home", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="qdag-quality-") as folder:
        platform = build(options.home or Path(folder), options.instruments, options.sessions)
        began = time.perf_counter()
        _context()
        imported = time.perf_counter() - began
        days = stages.stored_sessions(platform, "raw_ohlcv", "market")
        print(f"Quality suite of {options.instruments:,} instruments, alpha158's 158 columns; seconds\n")
        print("| sessions | table | judging | keeping, pages |")
        print("| ---: | --- | ---: | ---: |")
        for first in (days[-options.sessions], days[-1]):
            count = int((days >= first).sum())
            seconds = suite(platform, first.item(), days[-1].item())
            for table, (judging, keeping) in seconds.items():
                print(f"| {count} | {table} | {judging:.2f} | {keeping:.2f} |", flush=True)
            print(f"| {count} | all | {sum(j for j, _ in seconds.values()):.2f} | ", end="")
            print(f"{sum(k for _, k in seconds.values()):.2f} |", flush=True)
        print(f"\nimporting Great Expectations, once per process: {imported:.1f}")


if __name__ == "__main__":
    main()
