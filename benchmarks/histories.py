"""Random histories against one build: ``python -m benchmarks.histories``.

``[--seeds 10] [--from 0] [--steps 8] [--market DIR] [--only synthetic|us|cn]``. Files come, grow, are corrected, lose
rows and tell events late, and a home takes them in by windows in any order, backfills, the landing sensor, refreshes
and restores. In the end every table and the Qlib directory must be those of one build of the final files, and nothing
stale. The markets are a synthetic one with halts longer than every window, and real files where there are any.
"""

import argparse
import sys
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.crash_loop import MARKET
from qdag_tests.histories import Bar, History, Market

SPAN = date(2017, 1, 3), date(2018, 3, 29)
COUNT = 6


def us_bars(file: Path) -> dict[date, Bar]:
    """Bars of an AlphaVantage file; only closes, volumes and events are taken."""
    found = {}
    for line in file.read_text("utf-8").splitlines()[1:]:
        cells = line.split(",")
        if len(cells) == 9:
            found[date.fromisoformat(cells[0])] = Bar(
                float(cells[4]), int(float(cells[6])), float(cells[7]), float(cells[8])
            )
    return found


def cn_bars(file: Path) -> dict[date, Bar]:
    """Bars of a tushare file, with its suspensions; prices without events."""
    found = {}
    for line in file.read_text("utf-8").splitlines()[1:]:
        cells = line.split(",")
        if len(cells) >= 10 and cells[5] and cells[9]:
            text = cells[1]
            day = date(int(text[:4]), int(text[4:6]), int(text[6:8]))
            found[day] = Bar(float(cells[5]), max(1, int(float(cells[9]) * 100)))
    return found


def market_of(kind: str, source: Path, folder: Path, rng: np.random.Generator) -> Market:
    from qdag.core.sessions import SessionCalendar

    days: list[date] = SessionCalendar("XSHG" if kind == "cn" else "XNYS", *SPAN).all.tolist()
    if kind == "synthetic":
        return Market.random(folder, days, COUNT, rng)
    files = sorted((source / f"{kind}_daily").glob("*.csv"))
    chosen = [files[i] for i in rng.choice(len(files), 3 * COUNT, replace=False)]
    whole = Market.real(folder, days, chosen, us_bars if kind == "us" else cn_bars)
    # those with the longest halts first
    names = sorted(whole.bars, key=lambda name: len(whole.bars[name]))[:COUNT]
    return Market(folder, days, {name: whole.bars[name] for name in names})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.histories", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--market", type=Path, default=MARKET)
    parser.add_argument("--only", choices=("synthetic", "us", "cn"))
    given = parser.parse_args(arguments)
    kinds = [given.only] if given.only else ["synthetic", "us", "cn"]
    if not given.market.exists():
        kinds = [kind for kind in kinds if kind == "synthetic"]
        print(f"no real files below {given.market}: synthetic markets only")
    failed = 0
    for seed in range(given.first, given.first + given.seeds):
        for kind in kinds:
            with TemporaryDirectory() as name:
                root, began = Path(name), time.perf_counter()
                market = market_of(kind, given.market, root / "files", np.random.default_rng(seed))
                history = History(
                    market, root / "home", seed, calendar="XSHG" if kind == "cn" else "XNYS", horizons=(1, 5)
                )
                history.live(given.steps)
                found = history.differences(root / "once")
                failed += bool(found)
                took = time.perf_counter() - began
                print(
                    f"{kind} {seed}: {len(history.told)} steps, {took:.0f} s: {'; '.join(found) or 'equal'}", flush=True
                )
                if found:
                    print("  " + "\n  ".join(history.told), flush=True)
    print(f"{given.seeds * len(kinds)} histories, {failed} that differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
