"""Alpha158 of a whole market through the store, and one more session after 1 and after 20 years.

``python -m benchmarks.scale [--instruments I] [--sessions S] [--skip full increment]``. Bars are random walks written
straight into a Qlib provider; then the stage that the asset runs reads, computes and writes its table.
"""

import argparse
import time
from datetime import date
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.alpha158 import synthetic_panel
from qdag.assets.platform import Platform
from qdag.assets.result import Result
from qdag.engine import Panel, compute, plan
from qdag.features.catalogue import expressions
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag.store.qlib.writer import QlibBinWriter
from qdag_tests.stages import feature_stage

START = date(2000, 1, 3)
YEAR = 252
REPEATS = 5
PLAIN_INSTRUMENTS = 500
"""Instruments whose features are in memory at once beside the table's own way."""


def platform(home: Path, instruments: int, sessions: int) -> tuple[Platform, np.ndarray]:
    """A data home whose provider holds that market; returns its sessions too."""
    universe = UniverseSettings(
        source=SyntheticSource(instruments=instruments), calendar="XNYS", start=START, end=date(2024, 12, 31)
    )
    opened = Platform.open(Settings(home=home, universes={"market": universe}))
    days = opened.calendar("market").all[:sessions]
    random = synthetic_panel(instruments, sessions)
    ones = np.ones(random.shape, np.float32)
    fields = {**random.fields, "change": ones, "factor": ones, "amount": random["volume"] * random["vwap"]}
    panel = Panel(random.instruments, days, fields, first=random.first, last=random.last)
    QlibBinWriter(opened.settings.provider("market")).write(panel, days)
    return opened, days


def run(opened: Platform, first: np.datetime64, last: np.datetime64) -> tuple[float, Result]:
    began = time.perf_counter()
    result = feature_stage("alpha158")(opened, "market", first.item(), last.item())
    return time.perf_counter() - began, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instruments", type=int, default=5000)
    parser.add_argument("--sessions", type=int, default=2600)
    parser.add_argument("--skip", nargs="*", choices=("full", "increment"), default=[])
    options = parser.parse_args()
    with TemporaryDirectory(prefix="qdag-scale-") as folder:
        # kernels are loaded before anything is timed
        small, days = platform(Path(folder, "warm"), 20, 300)
        run(small, days[0], days[-1])
        if "full" not in options.skip:
            full(Path(folder, "full"), options.instruments, options.sessions)
        if "increment" not in options.skip:
            increment(Path(folder), options.instruments)


def full(home: Path, instruments: int, sessions: int) -> None:
    opened, days = platform(home, instruments, sessions)
    seconds, result = run(opened, days[0], days[-1])
    engine, plain = apart(instruments, sessions, home / "plain.parquet")
    print(f"Alpha158 of {instruments} instruments x {sessions} sessions, read, computed and written as one commit\n")
    print(f"{result.rows:,} rows, {seconds:.1f} s, peak memory {result.peak_mib / 1024:.2f} GiB")
    print(
        f"the engine alone {engine:.1f} s, the same columns written by pyarrow alone {plain:.1f} s: together ", end=""
    )
    print(f"{engine + plain:.1f} s; the table costs {seconds / (engine + plain):.2f} of it\n", flush=True)


def apart(instruments: int, sessions: int, file: Path) -> tuple[float, float]:
    """Seconds of the engine on a panel in memory, and of one plain Parquet file of its columns, in blocks of
    instruments."""
    panel, planned = synthetic_panel(instruments, sessions), plan(expressions("alpha158"))
    engine = plain = 0.0
    writer = None
    for at in range(0, instruments, PLAIN_INSTRUMENTS):
        rows = panel.rows(slice(at, min(at + PLAIN_INSTRUMENTS, instruments)))
        began = time.perf_counter()
        values = compute(planned, rows)
        engine += time.perf_counter() - began
        table = pa.table({name: array.T.reshape(-1) for name, array in values.items()})
        began = time.perf_counter()
        writer = writer or pq.ParquetWriter(file, table.schema, compression="none", use_dictionary=False)
        writer.write_table(table)
        plain += time.perf_counter() - began
    if writer is not None:
        writer.close()
    return engine, plain


def increment(folder: Path, instruments: int) -> None:
    print(f"One more session of {instruments} instruments (median of {REPEATS})\n")
    print("| years before it | seconds | of the shortest |")
    print("| ---: | ---: | ---: |")
    shortest = None
    for years in (1, 20):
        opened, days = platform(folder / f"years-{years}", instruments, years * YEAR + 1)
        run(opened, days[-2], days[-2])
        seconds = median(run(opened, days[-1], days[-1])[0] for _ in range(REPEATS))
        shortest = shortest or seconds
        print(f"| {years} | {seconds:.2f} | {seconds / shortest:.2f} |", flush=True)


if __name__ == "__main__":
    main()
