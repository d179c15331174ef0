"""Parity of the engine with Qlib's ``D.features``: every factor and operator on real and synthetic markets.

``python -m benchmarks.parity [--market FOLDER] [--sessions N] [--write docs/parity.md]`` prints a summary and writes
the page of maximum errors per factor. The market folder holds vendor files in ``us_daily`` and ``cn_daily``; without
it, the embedded sample and the synthetic extremes are compared.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from qdag.engine import Panel, compute
from qdag.features.catalogue import expressions
from qdag_tests.reference import (
    evaluate,
    nasty_panel,
    operator_expressions,
    qlib_features,
    qlib_init,
    write_provider,
)

TOLERANCE = 1e-5
CAUSES = ("guard", "zero", "residue", "recursion", "unexplained")
ASKED = 2000
"""Residue cells of different bars that Qlib is asked for again, at most."""
SETS = ("alpha158", "alpha360", "operators")
MARKET = Path(__file__).resolve().parents[2] / "shared" / "market"


@dataclass
class Row:
    """What was found for one factor; ``error`` is the largest relative error among the cells that agree."""

    cells: int = 0
    error: float = 0.0
    # cells apart by more than the tolerance or in their NaN or inf, by cause
    guard: int = 0
    zero: int = 0
    residue: int = 0
    recursion: int = 0
    unexplained: int = 0
    # residue, by Qlib's value when it is asked for nothing but the cell's session: the engine's, or another one
    alone: int = 0
    asked: int = 0
    places: list[tuple[int, int, float]] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def add(self, other: "Row") -> None:
        self.cells += other.cells
        self.error = max(self.error, other.error)
        self.guard += other.guard
        self.zero += other.zero
        self.residue += other.residue
        self.recursion += other.recursion
        self.unexplained += other.unexplained
        self.alone += other.alone
        self.asked += other.asked
        self.examples += other.examples


def texts(name: str) -> dict[str, str]:
    return operator_expressions() if name == "operators" else expressions(name)


def market_panel(name: str, folder: Path, sessions: int) -> Panel:
    """A real market's adjusted engine fields, the last sessions of it."""
    from qdag.core.sessions import calendar_for
    from qdag.settings import FilesSource, SampleSource, UniverseSettings
    from qdag.sources import open_source

    if name == "sample":
        settings = UniverseSettings(
            source=SampleSource(), calendar="XNYS", start=date(2000, 3, 1), end=date(2013, 3, 1)
        )
    else:
        calendar = {"us_daily": "XNYS", "cn_daily": "XSHG"}[name]
        end = {"us_daily": date(2021, 4, 21), "cn_daily": date(2023, 3, 17)}[name]
        settings = UniverseSettings(
            source=FilesSource(path=folder / name), calendar=calendar, start=date(2005, 1, 4), end=end
        )
    days = calendar_for(settings).all
    bars = open_source(name, settings).deliver(days, days[0].item(), days[-1].item()).bars
    days = days[-sessions:]
    frame = bars.select(["date", "instrument", "open", "high", "low", "close", "volume", "vwap", "factor"]).to_pandas()
    when = frame["date"].to_numpy().astype("M8[D]")
    frame, when = frame[when >= days[0]], when[when >= days[0]]
    names, rows = np.unique(frame["instrument"].to_numpy().astype(str), return_inverse=True)
    columns = np.searchsorted(days, when)
    fields = {}
    for column in ("open", "high", "low", "close", "vwap", "volume"):
        values = frame[column].to_numpy(float)
        factor = frame["factor"].to_numpy(float)
        matrix = np.full((len(names), len(days)), np.nan, np.float32)
        matrix[rows, columns] = values / factor if column == "volume" else values * factor
        fields[column] = matrix
    return Panel([str(n) for n in names], days, fields)


def compare(panel: Panel, set_name: str) -> dict[str, Row]:
    """Compare one set on one panel, whose provider Qlib is pointed at."""
    formulas = texts(set_name)
    ours, theirs = compute(formulas, panel), qlib_features(formulas, panel)
    rows = {name: judged(panel, formulas[name], ours[name], theirs[name]) for name in formulas}
    _ask_alone(panel, formulas, rows)
    return rows


def _ask_alone(panel: Panel, formulas: dict[str, str], rows: dict[str, Row]) -> None:
    """Ask Qlib again for the sessions of residue cells, each alone: its running sums then begin with the look-back."""
    from qlib.data import D

    cells: dict[tuple[int, int], list[str]] = {}
    for name, row in rows.items():
        for i, t, _ in row.places:
            cells.setdefault((i, t), []).append(name)
    ours = {(name, i, t): value for name, row in rows.items() for i, t, value in row.places}
    for (i, t), names in sorted(cells.items(), key=lambda cell: -len(cell[1]))[:ASKED]:
        day = str(panel.sessions[t])
        frame = D.features([panel.instruments[i]], [formulas[n] for n in names], day, day, disk_cache=0)
        for name, value in zip(names, frame.to_numpy()[0].astype(float).tolist(), strict=True):
            mine = ours[name, i, t]
            same = mine == value or (np.isnan(mine) and np.isnan(value))
            rows[name].asked += 1
            rows[name].alone += bool(same or abs(mine - value) <= TOLERANCE * abs(value))


def judged(panel: Panel, text: str, ours: np.ndarray, theirs: np.ndarray) -> Row:
    """The cells of one expression, (I, S) arrays of both, those apart sorted by cause."""
    row = Row(cells=int(panel.exists().sum()))
    finite = np.isfinite(ours) & np.isfinite(theirs)
    a, b = ours.astype(float), theirs.astype(float)
    with np.errstate(all="ignore"):
        relative = np.where(finite & (a != b), np.abs(a - b) / np.abs(b), 0.0)
        apart = np.where(finite, relative > TOLERANCE, ~((np.isnan(a) & np.isnan(b)) | (a == b)))
    row.error = float(relative[~apart].max(initial=0))
    for i in np.flatnonzero(apart.any(axis=1)):
        _explain(row, panel, text, int(i), a[i], b[i], apart[i])
    return row


def _explain(row: Row, panel: Panel, text: str, i: int, a: np.ndarray, b: np.ndarray, apart: np.ndarray) -> None:
    """Sort the cells of one instrument by cause, with the exact value of each window as the judge."""
    first, last = int(panel.first[i]), int(panel.last[i])
    fields = {name: values[i, first : last + 1] for name, values in panel.fields.items()}
    exact = np.full(len(a), np.nan)
    exact[first : last + 1] = evaluate(text, fields)
    for t in np.flatnonzero(apart):
        x, y, z = a[t], b[t], exact[t]
        agrees = (np.isnan(x) and np.isnan(z)) or x == z or abs(x - z) <= TOLERANCE * abs(z)
        nothing = max(abs(x), abs(y), abs(z)) < 1e-9
        closer = np.isfinite(x) and np.isfinite(z) and not abs(x - z) > 0.01 * abs(y - z)
        # the place of the smallest of several spreads that are equal but for their rounding
        tie = text.startswith("IdxMin(Std(")
        if not (agrees or closer or nothing or tie):
            row.unexplained += 1
            row.examples.append(f"{text} {panel.instruments[i]} {panel.sessions[t]}: engine {x}, Qlib {y}, exact {z}")
        elif ("Rsquare" in text or "Corr" in text) and (np.isnan(x) or np.isnan(y) or y != 0):
            row.guard += 1
        elif "EMA" in text:
            row.recursion += 1
        elif nothing:
            row.zero += 1
        else:
            row.residue += 1
            row.places.append((i, int(t), float(x)))


def _job(job: tuple[str, str, str, int]) -> tuple[str, str, dict[str, Row], tuple[int, int], float]:
    market, set_name, folder, sessions = job
    begin = time.perf_counter()
    panel = nasty_panel(sessions=400, seed=4) if market == "extremes" else market_panel(market, Path(folder), sessions)
    with TemporaryDirectory() as root:
        write_provider(panel, Path(root) / "provider")
        qlib_init(Path(root) / "provider")
        rows = compare(panel, set_name)
    return market, set_name, rows, panel.shape, time.perf_counter() - begin


def page(results: dict[tuple[str, str], dict[str, Row]], shapes: dict[str, tuple[int, int]]) -> Iterator[str]:
    """The lines of docs/parity.md."""
    from importlib.metadata import version

    yield "# Parity with Qlib"
    yield ""
    yield (
        f"Written by `python -m benchmarks.parity`: the engine against `D.features` of pyqlib {version('pyqlib')} with "
        f"pandas {version('pandas')} and numpy {version('numpy')}, cell by cell."
    )
    yield ""
    yield "| market | instruments x sessions |"
    yield "| --- | --- |"
    for market, shape in shapes.items():
        yield f"| {market} | {shape[0]} x {shape[1]} |"
    yield ""
    yield (
        f"A cell agrees when both are NaN, both the same infinity, or their relative error is at most {TOLERANCE:g}. "
        "The others are judged by the exact value of their window (a two-pass computation in float64):"
    )
    yield ""
    yield (
        "- *guard*: r squared or a correlation of a window that is flat, or nearly so against its level. Qlib's "
        "running sums decide on which side of its 2e-5 guard the window lies and carry few digits there; the engine's "
        "value is the exact one."
    )
    yield ("- *zero*: 0 but for the rounding of float64, at most 1e-9 in both: a relative error says nothing of it.")
    yield (
        "- *residue*: the engine has the exact value, and Qlib a running sum's rounding: 1e-9 where a spread or a sum "
        "is exactly 0, digits lost to a large offset or to an early spike that has left the window, NaN for good "
        "after an infinity went through Slope or Resi, or which of several spreads equal but for rounding is least."
    )
    yield (
        "- *recursion*: EMA leaves out a past that weighs less than 1e-12, which shows after a 1e9 spike, and is NaN "
        "after 500 sessions without a value."
    )
    yield "- *unexplained*: neither; there must be none."
    yield ""
    yield (
        "Qlib's value of a residue cell depends on the range that it is asked for. Each was asked for again with the "
        "cell's session alone, so that the running sums begin with the look-back; how often that gives the engine's "
        "value is told below. A value that is the same in an increment and in the whole cannot be Qlib's of both."
    )
    for set_name in SETS:
        merged: dict[str, Row] = {}
        for (_, name), rows in results.items():
            if name == set_name:
                for factor, row in rows.items():
                    merged.setdefault(factor, Row()).add(row)
        if not merged:
            continue
        worst = max(row.error for row in merged.values())
        yield ""
        yield f"## {set_name}"
        yield ""
        yield (
            f"{len(merged)} factors, {sum(r.cells for r in merged.values()):,} cells; largest relative error of "
            f"agreeing cells {worst:.1e}; {sum(r.unexplained for r in merged.values())} unexplained cells."
        )
        yield ""
        by_market = [m for (m, name) in results if name == set_name]
        for market in by_market:
            rows = results[market, set_name]
            cells = sum(r.cells for r in rows.values())
            counts = ", ".join(f"{cause} {sum(getattr(r, cause) for r in rows.values()):,}" for cause in CAUSES)
            alone, asked = (sum(getattr(r, name) for r in rows.values()) for name in ("alone", "asked"))
            again = f"; residue, asked for alone: {alone:,} of {asked:,} agree with the engine" if asked else ""
            yield f"- {market}: {cells:,} cells; {counts}{again}"
        yield ""
        yield "| factor | cells | largest relative error | guard | zero | residue | recursion | unexplained |"
        yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        for factor, row in merged.items():
            counts = " | ".join(f"{n:,}" if (n := getattr(row, cause)) else "" for cause in CAUSES)
            yield f"| {factor} | {row.cells:,} | {row.error:.1e} | {counts} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--market", type=Path, default=MARKET, help="folder of us_daily and cn_daily")
    parser.add_argument("--sessions", type=int, default=1000, help="latest sessions of each market")
    parser.add_argument("--write", type=Path, help="page to write, docs/parity.md")
    parser.add_argument("--jobs", type=int, default=1, help="comparisons at once")
    parser.add_argument("--only", nargs="*", help="markets to compare, of: sample us_daily cn_daily extremes")
    options = parser.parse_args()
    markets = ["sample", "us_daily", "cn_daily", "extremes"]
    absent = [m for m in ("us_daily", "cn_daily") if not (options.market / m).is_dir()]
    if absent:
        print(f"no {' or '.join(absent)} in {options.market}: real vendor files are not compared")
    markets = [m for m in markets if m not in absent and (not options.only or m in options.only)]
    jobs = [(m, s, str(options.market), options.sessions) for m in markets for s in SETS]
    results: dict[tuple[str, str], dict[str, Row]] = {}
    shapes: dict[str, tuple[int, int]] = {}
    # Qlib has one provider per process
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as executor:
        for market, set_name, rows, shape, seconds in executor.map(_job, jobs):
            results[market, set_name], shapes[market] = rows, shape
            unexplained = sum(r.unexplained for r in rows.values())
            print(
                f"{market:9} {set_name:10} {len(rows):4} factors, {sum(r.cells for r in rows.values()):12,} cells: "
                f"largest error {max(r.error for r in rows.values()):.1e}, "
                f"guard {sum(r.guard for r in rows.values()):,}, "
                f"zero {sum(r.zero for r in rows.values()):,}, "
                f"residue {sum(r.residue for r in rows.values()):,} "
                f"({sum(r.asked - r.alone for r in rows.values()):,} "
                f"of {sum(r.asked for r in rows.values()):,} also alone), "
                f"recursion {sum(r.recursion for r in rows.values()):,}, unexplained {unexplained:,} ({seconds:.0f} s)",
                flush=True,
            )
            for row in rows.values():
                for example in row.examples[:3]:
                    print("   ", example)
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text("\n".join(page(results, shapes)) + "\n")
        print(f"wrote {options.write}")
    return 1 if any(r.unexplained for rows in results.values() for r in rows.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
