"""Alpha158 on the engine, on Qlib's ``D.features`` and on KunQuant, in one run.

``python -m benchmarks.alpha158 [--instruments I] [--sessions S] [--threads T] [--skip qlib kunquant growth]`` prints
medians of wall and processor seconds, and ratios. KunQuant comes with the ``bench`` extra and needs g++.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from qdag.engine import Panel, compute, compute_blocks, plan
from qdag.errors import install_command
from qdag.features.catalogue import expressions

REPEATS = 5

FIRST_CALL = """
import time
import numba, numpy, pandas
from qdag.engine import compute
from qdag.features.catalogue import expressions
from benchmarks.alpha158 import synthetic_panel
texts, panel = expressions("alpha158"), synthetic_panel({instruments}, {sessions})
for _ in range(2):
    begin, used = time.perf_counter(), time.process_time()
    compute(texts, panel, threads={threads})
    print(time.perf_counter() - begin, time.process_time() - used)
"""


def synthetic_panel(instruments: int, sessions: int, seed: int = 0) -> Panel:
    """Random walks, 2% of the rows suspended, one instrument in ten listed late; float32."""
    rng = np.random.default_rng(seed)
    shape = (instruments, sessions)
    noise = rng.standard_normal(shape, np.float32)
    close = 20 * np.exp(np.cumsum(noise * np.float32(0.02), axis=1))
    open_ = close * (1 + np.float32(0.01) * rng.standard_normal(shape, np.float32))
    high = np.maximum(close, open_) * (1 + np.float32(0.01) * rng.random(shape, np.float32))
    low = np.minimum(close, open_) * (1 - np.float32(0.01) * rng.random(shape, np.float32))
    volume = np.floor(np.float32(1e6) * np.exp(np.float32(0.5) * rng.standard_normal(shape, np.float32)))
    fields = {"open": open_, "high": high, "low": low, "close": close, "volume": volume}
    fields["vwap"] = (high + low + close) / 3
    missing = rng.random(shape, np.float32) < 0.02
    late = rng.random(instruments) < 0.1
    missing |= late[:, None] & (np.arange(sessions) < rng.integers(0, max(1, sessions // 2), instruments)[:, None])
    for values in fields.values():
        values[missing] = np.nan
    days = pd.bdate_range("2000-01-03", periods=sessions).to_numpy().astype("M8[D]")
    return Panel([f"S{i:05d}" for i in range(instruments)], days, fields)


def timed(function: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Median wall seconds and processor seconds of all threads; the latter are steadier on a busy machine."""
    wall, processor = [], []
    for _ in range(repeats):
        begin, used = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - begin)
        processor.append(time.process_time() - used)
    return median(wall), median(processor)


def qlib_seconds(panel: Panel) -> dict[int, float]:
    """Median seconds of ``D.features`` by number of kernels, caches empty."""
    import qlib

    from qdag_tests.reference import write_provider

    seconds = {}
    texts = list(expressions("alpha158").values())
    with TemporaryDirectory() as root:
        write_provider(panel, Path(root) / "provider")
        for kernels in (1, 2):
            qlib.init(
                provider_uri=str(Path(root) / "provider"),
                region="us",
                kernels=kernels,
                expression_cache=None,
                dataset_cache=None,
                logging_level=40,
            )
            from qlib.data import D

            names = list(panel.instruments)
            seconds[kernels] = timed(lambda d=D, n=names: _uncached(d, n, texts))[0]
    return seconds


def _uncached(features: Any, names: list[str], texts: list[str]) -> None:
    from qlib.data.cache import H

    H.clear()
    features.features(names, texts, disk_cache=0)


def kunquant_runs(
    panel: Panel, threads: int
) -> tuple[dict[str, tuple[Callable[[], object], Callable[[], object]]], float]:
    """KunQuant's own Alpha158, float32, by layout: (fresh results, results in given memory); and compile seconds."""
    from KunQuant.Driver import KunCompilerConfig
    from KunQuant.jit import cfake
    from KunQuant.Op import Builder, Input, Output
    from KunQuant.predefined import Alpha158
    from KunQuant.runner import KunRunner
    from KunQuant.Stage import Function

    inputs = ("low", "high", "close", "open", "amount", "volume")

    def alpha158() -> tuple[Function, list[str]]:
        builder = Builder()
        with builder:
            data = Alpha158.AllData(**{name: Input(name) for name in inputs})
            prices = [(name.upper(), getattr(data, name)) for name in ("open", "high", "low", "vwap")]
            fields, names = data.build({"kbar": {}, "price": {"windows": [0], "feature": prices}, "rolling": {}})
            for field, name in zip(fields, names, strict=True):
                Output(field, name)
        return Function(builder.ops), names

    matrices = {name: np.ascontiguousarray(panel[name].T) for name in inputs if name != "amount"}
    matrices["amount"] = matrices["volume"] * np.ascontiguousarray(panel["vwap"].T)
    sessions, instruments = matrices["close"].shape
    executor = KunRunner.createMultiThreadExecutor(threads)
    runs = {}
    begin = time.perf_counter()
    for layout, lanes in (("STs", 8), ("STs", 16)):
        config = KunCompilerConfig(
            dtype="float", blocking_len=lanes, partition_factor=8, input_layout=layout, output_layout=layout
        )
        name = f"alpha158_{layout}_{lanes}"
        function, names = alpha158()  # compiling changes it
        library = cfake.compileit([(name, function, config)], name, cfake.CppCompilerConfig())
        module = library.getModule(name)
        blocks = instruments // lanes
        if layout == "STs":
            given = {
                k: np.ascontiguousarray(v.reshape(sessions, blocks, lanes).transpose(1, 0, 2))
                for k, v in matrices.items()
            }
            shape: tuple[int, ...] = (blocks, sessions, lanes)
        else:
            given, shape = matrices, (sessions, instruments)
        memory = np.empty((len(names), *shape), np.float32)
        outputs = {n: memory[i] for i, n in enumerate(names)}
        runs[f"{layout}, {lanes} lanes"] = (
            lambda m=module, g=given, _keep=library: KunRunner.runGraph(executor, m, g, 0, sessions),
            lambda m=module, g=given, o=outputs, _keep=library: KunRunner.runGraph(executor, m, g, 0, sessions, o),
        )
    return runs, time.perf_counter() - begin


def _row(name: str, ours: float, ours_used: float, theirs: float, theirs_used: float) -> None:
    print(f"| {name} | {theirs:.3f} | {theirs_used:.3f} | {theirs / ours:.1f} | {theirs_used / ours_used:.1f} |")


def growth(threads: int) -> None:
    """Time by instruments and by sessions, and the cost of one more session by length of history.

    The growth is told with results in given memory: fresh memory costs its page faults, which the system hands out
    cheaper or dearer by its size.
    """
    texts = plan(expressions("alpha158"))

    def stream(panel: Panel, start: int = 0) -> None:
        for _ in compute_blocks(texts, panel, threads=threads, start=start):
            pass

    stream(synthetic_panel(64, 300))
    print("\n| instruments x sessions | seconds | processor seconds | processor nanoseconds per value |")
    print("| --- | ---: | ---: | ---: |")
    for shape in ((512, 500), (1024, 500), (2048, 500), (256, 1000), (256, 2000), (256, 4000)):
        panel = synthetic_panel(*shape)
        memory = np.empty((158, shape[1], shape[0]), np.float32)
        compute(texts, panel, threads=threads, out=memory)
        wall, seconds = timed(lambda p=panel, m=memory: compute(texts, p, threads=threads, out=m))
        per_value = seconds / shape[0] / shape[1] / 158 * 1e9
        print(f"| {shape[0]} x {shape[1]} | {wall:.2f} | {seconds:.2f} | {per_value:.2f} |")
        del memory
    print("\n| one more session for 5,000 instruments | seconds | processor seconds |")
    print("| --- | ---: | ---: |")
    wall, used = {}, {}
    for years in (1, 20):
        panel = synthetic_panel(5_000, 252 * years)
        wall[years], used[years] = timed(lambda p=panel: stream(p, len(p.sessions) - 1), 3)
        print(f"| {years} year(s) of history | {wall[years]:.2f} | {used[years]:.2f} |")
        del panel
    print(f"| ratio | {wall[20] / wall[1]:.2f} | {used[20] / used[1]:.2f} |")


def scale(threads: int, instruments: int = 5_000, sessions: int = 2_600) -> None:
    """A whole market, streamed; results are made and dropped."""
    panel = synthetic_panel(instruments, sessions)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    begin = time.perf_counter()
    for _ in compute_blocks(expressions("alpha158"), panel, threads=threads):
        pass
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\n{instruments:,} x {sessions:,} streamed: {seconds:.1f} s, peak memory {peak:.2f} GiB "
        f"({before:.2f} GiB before the computation, the panel among it)"
    )


def beside_kunquant(panel: Panel, threads: int, fresh: Callable[[], object], reused: Callable[[], object]) -> None:
    """A row for each layout of KunQuant's, with new and with given memory for the results."""
    try:
        runs, compile_seconds = kunquant_runs(panel, threads)
    except ImportError:
        print(f"| KunQuant is not installed: {install_command('bench')} | | | | |")
        return
    for layout, calls in runs.items():
        for note, ours, theirs in zip(("", ", results in given memory"), (fresh, reused), calls, strict=True):
            theirs()
            # in turn, so that both see the same machine
            pairs = np.median([(*timed(ours, 1), *timed(theirs, 1)) for _ in range(REPEATS)], axis=0)
            _row(f"KunQuant float32, {layout}{note}", *pairs)
    print(f"| KunQuant's compilation, of all layouts | {compile_seconds:.1f} | | | |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instruments", type=int, default=304)
    parser.add_argument("--sessions", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip", nargs="*", default=[], choices=["qlib", "kunquant", "growth", "scale"])
    options = parser.parse_args()
    shape = (options.instruments, options.sessions)
    panel = synthetic_panel(*shape)
    texts = expressions("alpha158")
    print(f"Alpha158, {shape[0]} instruments x {shape[1]} sessions, {options.threads} threads, median of {REPEATS}\n")
    memory = np.empty((len(texts), shape[1], shape[0]), np.float32)
    compute(texts, panel, threads=options.threads, out=memory)

    def fresh() -> object:
        return compute(texts, panel, threads=options.threads)

    def reused() -> object:
        return compute(texts, panel, threads=options.threads, out=memory)

    print("| what | seconds | processor seconds | engine is faster by | by processor seconds |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, call in (("engine", fresh), ("engine, results in given memory", reused)):
        wall, processor = timed(call)
        print(f"| {name} | {wall:.3f} | {processor:.3f} | | |")
    if "kunquant" not in options.skip:
        beside_kunquant(panel, options.threads, fresh, reused)
    if "qlib" not in options.skip:
        for kernels, seconds in qlib_seconds(panel).items():
            wall, _ = timed(fresh)
            beside = f"{seconds / wall:.0f} (engine {wall:.3f})"
            print(f"| D.features, kernels={kernels} | {seconds:.1f} | | {beside} | |")
    script = FIRST_CALL.format(instruments=shape[0], sessions=shape[1], threads=options.threads)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    first, used, second, used_again = map(float, found)
    print(f"| first call of a new process, warm cache, after imports | {first:.2f} | {used:.2f} | | |")
    print(f"| of that above a second call | {first - second:.2f} | {used - used_again:.2f} | | |")
    if "growth" not in options.skip:
        growth(options.threads)
    if "scale" not in options.skip:
        scale(options.threads)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
