"""Qlib with the engine's provider, and handlers on stored tables, against Qlib itself, in one run.

``python -m benchmarks.qlib_dropin [--instruments I] [--sessions S] [--repeats R] [--threads T] [--market FOLDER]
[--markets synthetic cn] [--cases ...] [--home FOLDER]`` prints medians of wall seconds, peak memory and ratios. Qlib
is asked with one and with two kernels, and the better counts. Every repetition begins with nothing in memory but the
operating system's file cache. ``--market`` is a folder of vendor files with ``cn_daily``; homes are built in a
temporary folder, or kept in ``--home`` for the next run. ``--only-engine`` leaves Qlib out, ``--once`` asks it once
with two kernels, for sizes where it takes long.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.parity import MARKET

FEATURES, LINE, HANDLER, STORED, HANDLER360, ONE = "features", "line", "Alpha158", "Alpha158Stored", "Alpha360", "one"
WANTED = {FEATURES: 25, LINE: 1, HANDLER: 12, STORED: 20, HANDLER360: 25, ONE: 1}
"""Ratios that are to be met."""
MEANINGS = {
    FEATURES: "D.features of Alpha158's 158 expressions",
    LINE: "Qlib's Alpha158 handler, the one line of a configuration changed",
    HANDLER: "Qlib's Alpha158 handler, `qdag.qlib.init`",
    STORED: "Alpha158Stored against Qlib's Alpha158",
    HANDLER360: "Qlib's Alpha360 handler, `qdag.qlib.init`",
    ONE: "one expression of one instrument",
}
RANK_LABEL = [{"class": "DropnaLabel"}, {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}}]
LABEL = ["Ref($close, -2) / Ref($close, -1) - 1"]


@dataclass(frozen=True)
class Job:
    """One case on one side, in a process of its own."""

    case: str
    config: str
    first: date
    last: date
    kernels: int
    """Of Qlib; 0 is the engine."""
    threads: int
    repeats: int


def measure(job: Job) -> tuple[list[float], float, tuple[int, ...]]:
    """Wall seconds of each repetition, GiB at the peak, of all processes, and the shape of what came."""
    import qlib
    from qlib.data.cache import H

    import qdag.qlib
    from qdag.settings import load_settings

    provider = load_settings(job.config).provider("market")
    common = {"region": "cn", "logging_level": 50, "expression_cache": None, "dataset_cache": None}
    if job.kernels:
        qlib.init(provider_uri=str(provider), kernels=job.kernels, **common)
    else:
        qdag.qlib.init(provider, threads=job.threads, processors=job.case != LINE, **common)
    ask = case(job)
    found, shape = [], ()
    for _ in range(job.repeats + 1):
        H.clear()
        if not job.kernels:
            from qlib.data.data import DatasetD

            running = DatasetD._provider
            DatasetD.register(type(running)(job.threads))
        began = time.perf_counter()
        answer = ask()
        found.append(time.perf_counter() - began)
        shape = answer.shape
        del answer
        if job.repeats == 1:
            break
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # the first repetition loads compiled code and fills the file cache
    return found[1:] or found, peak / 2**20, shape


def case(job: Job) -> Callable[[], Any]:
    """What a case asks; handlers with the processors of the published workflows."""
    from qlib.contrib.data import handler
    from qlib.data import D

    from qdag.features.catalogue import expressions
    from qdag.qlib import Alpha158Stored

    ends = str(job.first), str(job.last)
    whole = {"instruments": "all", "start_time": ends[0], "end_time": ends[1]}
    if job.case == FEATURES:
        fields = list(expressions("alpha158").values())
        return lambda: D.features(D.instruments("all"), fields, *ends)
    if job.case == ONE:
        name = D.list_instruments(D.instruments("all"), as_list=True)[0]
        return lambda: D.features([name], ["Mean($close, 5)/$close"], *ends)
    if job.case == HANDLER360:
        options = {"infer_processors": [], "learn_processors": RANK_LABEL, "label": LABEL, **whole}
        return lambda: handler.Alpha360(**options).fetch()
    if job.case == STORED and not job.kernels:
        return lambda: Alpha158Stored(config=job.config, **whole).fetch()
    return lambda: handler.Alpha158(**whole).fetch()


def run(job: Job) -> tuple[float, float, tuple[int, ...]]:
    """Median of a job's seconds, GiB and the shape."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        seconds, peak, shape = executor.submit(measure, job).result()
    return median(seconds), peak, shape


def home(folder: Path, market: str, options: argparse.Namespace, stored: bool) -> tuple[Path, np.ndarray]:
    """The settings file of a home with that market, built where it is not there; and its sessions."""
    from qdag.assets.chain import compute
    from qdag.assets.platform import Platform
    from qdag.settings import load_settings

    config = folder / f"{market}-{options.instruments}-{options.sessions}.toml"
    source, calendar, start, end = {
        "synthetic": (f'{{ kind = "synthetic", seed = 7, instruments = {options.instruments} }}', "XSHG",
                      date(2006, 1, 4), date(2022, 12, 30)),
        "cn": (f'{{ kind = "files", path = "{options.market / "cn_daily"}" }}', "XSHG",
               date(2014, 10, 1), date(2022, 12, 30)),
    }[market]  # fmt: skip
    from qdag.core.sessions import SessionCalendar

    days = SessionCalendar(calendar, start, end).all[-options.sessions :]
    config.write_text(
        f'home = "{config.stem}"\n[engine]\nthreads = {options.threads}\n[universes.market]\ncalendar = "{calendar}"\n'
        f'start = {days[0]}\nend = {days[-1]}\nregion = "cn"\nsource = {source}\n'
    )
    settings = load_settings(config, {})
    platform = Platform.open(settings)
    for name in ("raw_ohlcv", "qlib_bin", *(("labels", "alpha158") if stored else ())):
        there = settings.provider("market").exists() if name == "qlib_bin" else platform.store.exists(name)
        if not there:
            began = time.perf_counter()
            compute(name, platform, "market", days[0].item(), days[-1].item())
            print(f"built {name} of {market} in {time.perf_counter() - began:.0f} s", flush=True)
    return config, days


def compare(job: Job, options: argparse.Namespace) -> int:
    """Print a line for each case of one market; how many ratios are not met."""
    missed, qlibs = 0, {}
    for name in options.cases:
        seconds, peak, shape = run(replace(job, case=name))
        line = [
            MEANINGS[name],
            " x ".join(f"{n:,}" for n in shape),
            "",
            "",
            "",
            f"{seconds:.3f}",
            f"{peak:.2f}",
            "",
            "",
        ]
        base = HANDLER if name in (STORED, LINE) else name
        if not options.only_engine:
            if base not in qlibs:
                one = replace(job, case=base, repeats=1 if options.once else job.repeats)
                qlibs[base] = min((*run(replace(one, kernels=k))[:2], k) for k in ((2,) if options.once else (1, 2)))
            theirs, memory, kernels = qlibs[base]
            line[2:5] = f"{theirs:.3f}", str(kernels), f"{memory:.2f}"
            line[7:] = f"{theirs / seconds:.1f}", str(WANTED[name])
            missed += theirs / seconds < WANTED[name]
        print(f"| {' | '.join(line)} |", flush=True)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instruments", type=int, default=300, help="of the synthetic market")
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--market", type=Path, default=MARKET)
    parser.add_argument("--markets", nargs="*", default=["synthetic", "cn"], choices=["synthetic", "cn"])
    parser.add_argument("--cases", nargs="*", default=list(WANTED), choices=list(WANTED))
    parser.add_argument("--home", type=Path, help="where homes are kept")
    parser.add_argument("--only-engine", action="store_true")
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args()
    missed = 0
    with ExitStack() as stack:
        folder = options.home or Path(stack.enter_context(TemporaryDirectory(prefix="qdag-dropin-")))
        folder.mkdir(parents=True, exist_ok=True)
        for market in options.markets:
            if market == "cn" and not (options.market / "cn_daily").is_dir():
                print(f"no cn_daily in {options.market}: the real market is left out")
                continue
            config, days = home(folder, market, options, STORED in options.cases)
            print(f"\n{market}, {len(days)} sessions, {options.threads} threads, median of {options.repeats}\n")
            print("| case | rows x columns | Qlib s | kernels | GiB | qdag s | GiB | ratio | wanted |")
            print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
            job = Job("", str(config), days[0].item(), days[-1].item(), 0, options.threads, options.repeats)
            missed += compare(job, options)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
