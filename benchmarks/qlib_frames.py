"""Whole frames of ``D.features`` with the engine's provider against Qlib's own: index, columns, dtypes and every cell.

``python -m benchmarks.qlib_frames [--market FOLDER] [--sessions N] [--only MARKETS] [--sets SETS]``. Directories are
written in the layout of Qlib's dump script, from the embedded sample, vendor files (``us_daily``, ``cn_daily`` of the
folder) and synthetic extremes. Each set of expressions is asked for everybody, for a pool whose members come and go,
and through filters. Cells that differ are sorted by cause as in docs/parity.md; fails where one is unexplained or a
frame is not the same in all else. Operators are asked for the whole history: the judge begins there, and Qlib begins
its windows of all history at the range.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from benchmarks.parity import CAUSES, MARKET, SETS, Row, judged, market_panel, texts
from qdag.engine import Panel
from qdag_tests.reference import nasty_panel, on_panel, write_provider

ASKS = ("all", "pool", "filter")


def ask(how: str, panel: Panel) -> dict[str, Any]:
    """What D.instruments gives."""
    from qlib.data import D
    from qlib.data.filter import ExpressionDFilter, NameDFilter

    if how == "pool":
        return D.instruments("index")  # type: ignore[no-any-return]
    filters = [NameDFilter(".*[0-5A-M]$"), ExpressionDFilter("Mean($close, 5)<Mean($close, 20)")]
    return D.instruments("all", filter_pipe=filters if how == "filter" else None)  # type: ignore[no-any-return]


def write_pool(panel: Panel, folder: Path) -> None:
    """A pool of half of the instruments, each a member for two spans."""
    lines = []
    for i, name in enumerate(panel.instruments):
        for part in (i % 3, i % 3 + 4):
            begin = part * panel.shape[1] // 8
            end = min(begin + panel.shape[1] // 8, panel.shape[1] - 1)
            lines.append(f"{name}\t{panel.sessions[begin]}\t{panel.sessions[end]}")
    (folder / "instruments" / "index.txt").write_text("\n".join(lines[::2] + lines[1::4]) + "\n")


def alike(ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    """What of two frames differs besides values."""
    found = []
    if not ours.index.equals(theirs.index) or ours.index.names != theirs.index.names:
        found.append("index")
    if [level.dtype for level in ours.index.levels] != [level.dtype for level in theirs.index.levels]:
        found.append("levels")
    if not ours.columns.equals(theirs.columns):
        found.append("columns")
    if list(ours.dtypes) != list(theirs.dtypes):
        found.append("dtypes")
    return found


def asked(data: Any, instruments: Any, formulas: list[str], ends: tuple[str, str], engine: bool) -> Any:
    """The frame; None where Qlib fails: its Delta over all history cannot take a span without rows."""
    try:
        return data.features(instruments, formulas, *ends, disk_cache=0)
    except IndexError:
        if engine:
            raise
        return None


def job(given: tuple[str, str, str, int]) -> tuple[str, str, dict[str, tuple[int, list[str], Row]], float]:
    """One set on one market: by what was asked for, rows, differences of the frame, and causes of its cells."""
    import qlib
    from qlib.data import D

    import qdag.qlib

    market, name, folder, sessions = given
    began = time.perf_counter()
    panel = nasty_panel(sessions=400, seed=4) if market == "extremes" else market_panel(market, Path(folder), sessions)
    formulas = list(texts(name).values())
    begin = 0 if name == "operators" else len(panel.sessions) // 4
    ends = str(panel.sessions[begin]), str(panel.sessions[-1])
    options = {"kernels": 1, "expression_cache": None, "dataset_cache": None, "logging_level": 50}
    found = {}
    with TemporaryDirectory() as root:
        provider = Path(root) / "provider"
        write_provider(panel, provider)
        write_pool(panel, provider)
        frames = []
        for engine in (False, True):
            if engine:
                qdag.qlib.init(provider, "us", **options)
            else:
                qlib.init(provider_uri=str(provider), region="us", **options)
            frames.append([asked(D, ask(how, panel), formulas, ends, engine) for how in ASKS])
        for how, theirs, ours in zip(ASKS, *frames, strict=True):
            if theirs is None:
                print(f"Qlib itself fails at {name} of {market}, {how}")
                continue
            total = Row()
            for text, mine, other in zip(formulas, on_panel(ours, panel), on_panel(theirs, panel), strict=True):
                total.add(judged(panel, text, mine, other))
            total.cells = ours.size
            found[how] = len(ours), alike(ours, theirs), total
    return market, name, found, time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--market", type=Path, default=MARKET)
    parser.add_argument("--sessions", type=int, default=500, help="latest sessions of each market")
    parser.add_argument("--only", nargs="*", help="markets, of: sample us_daily cn_daily extremes")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    options = parser.parse_args()
    markets = ["sample", "extremes"] + [m for m in ("us_daily", "cn_daily") if (options.market / m).is_dir()]
    markets = [m for m in markets if not options.only or m in options.only]
    wrong = 0
    print(f"| market | set | asked for | rows | cells | frame differs in | {' | '.join(CAUSES)} |")
    print(f"| --- | --- | --- | ---: | ---: | --- |{' ---: |' * len(CAUSES)}", flush=True)
    # Qlib has one provider per process
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as executor:
        jobs = [(m, s, str(options.market), options.sessions) for m in markets for s in options.sets]
        for market, name, found, _ in executor.map(job, jobs):
            for how, (rows, different, row) in found.items():
                counts = " | ".join(f"{getattr(row, cause):,}" for cause in CAUSES)
                said = ", ".join(different) or "nothing"
                print(f"| {market} | {name} | {how} | {rows:,} | {row.cells:,} | {said} | {counts} |", flush=True)
                for example in row.examples[:3]:
                    print("   ", example)
                wrong += bool(different) or row.unexplained > 0
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
