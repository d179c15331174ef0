"""Alpha158 on the engine, on Qlib's ``D.features`` and on KunQuant, in one run.

``python -m benchmarks.alpha158 [--instruments 304] [--sessions 2000] [--threads 2] [--skip qlib kunquant growth]`` prints
medians and ratios. KunQuant comes with the ``bench`` extra and needs g++.
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

import numpy as np
import pandas as pd

from qdag.engine import Panel, compute, compute_blocks, plan
from qdag.features.catalogue import expressions

REPEATS = 5

FIRST_CALL = """
import time
import numba, numpy, pandas
from qdag.engine import compute
from qdag.features.catalogue import expressions
from benchmarks.alpha158 import synthetic_panel
texts, panel = expressions("alpha158"), synthetic_panel({instruments}, {sessions})
begin = time.perf_counter()
compute(texts, panel, threads={threads})
first = time.perf_counter() - begin
begin = time.perf_counter()
compute(texts, panel, threads={threads})
print(first, time.perf_counter() - begin)
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


def timed(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def qlib_seconds(panel: Panel) -> dict[int, float]:
    """Seconds of one ``D.features`` call by number of kernels, caches empty."""
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
            begin = time.perf_counter()
            D.features(names, texts, disk_cache=0)
            seconds[kernels] = time.perf_counter() - begin
    return seconds


def kunquant_runs(
    panel: Panel, threads: int
) -> tuple[dict[str, tuple[Callable[[], object], Callable[[], object]]], float]:
    """KunQuant's own Alpha158 in float32 by memory layout: (fresh results, results in given memory); compile seconds."""
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


def growth(threads: int) -> None:
    """Time by instruments and by sessions, and the cost of one more session by length of history."""
    texts = plan(expressions("alpha158"))

    def stream(panel: Panel, start: int = 0) -> None:
        for _ in compute_blocks(texts, panel, threads=threads, start=start):
            pass

    stream(synthetic_panel(64, 300))
    print("\n| instruments x sessions | seconds | nanoseconds per value |")
    print("| --- | ---: | ---: |")
    for shape in ((512, 500), (1024, 500), (2048, 500), (256, 1000), (256, 2000), (256, 4000)):
        panel = synthetic_panel(*shape)
        seconds = timed(lambda p=panel: stream(p), 3)
        print(f"| {shape[0]} x {shape[1]} | {seconds:.2f} | {seconds / shape[0] / shape[1] / 158 * 1e9:.2f} |")
    print("\n| one more session for 5,000 instruments | seconds |")
    print("| --- | ---: |")
    seconds = {}
    for years in (1, 20):
        panel = synthetic_panel(5_000, 252 * years)
        seconds[years] = timed(lambda p=panel: stream(p, len(p.sessions) - 1))
        print(f"| {years} year(s) of history | {seconds[years]:.2f} |")
        del panel
    print(f"| ratio | {seconds[20] / seconds[1]:.2f} |")


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

    print("| what | seconds | engine is faster by |")
    print("| --- | ---: | ---: |")
    ours, ours_reused = timed(fresh), timed(reused)
    print(f"| engine | {ours:.3f} | |")
    print(f"| engine, results in given memory | {ours_reused:.3f} | |")
    if "kunquant" not in options.skip:
        try:
            runs, compile_seconds = kunquant_runs(panel, options.threads)
        except ImportError:
            print("| KunQuant is not installed: `pip install 'qdag[bench]'` | | |")
        else:
            for layout, (kun_fresh, kun_reused) in runs.items():
                kun_fresh()
                # side by side, so that both see the same machine
                pairs = [(timed(fresh, 1), timed(kun_fresh, 1)) for _ in range(REPEATS)]
                again = [(timed(reused, 1), timed(kun_reused, 1)) for _ in range(REPEATS)]
                a, b = (median(column) for column in zip(*pairs, strict=True))
                c, d = (median(column) for column in zip(*again, strict=True))
                print(f"| KunQuant float32, {layout} | {b:.3f} | {b / a:.1f} |")
                print(f"| KunQuant float32, {layout}, results in given memory | {d:.3f} | {d / c:.1f} |")
            print(f"| KunQuant's compilation, of all layouts | {compile_seconds:.1f} | |")
    if "qlib" not in options.skip:
        for kernels, seconds in qlib_seconds(panel).items():
            ours = timed(fresh)
            name = f"D.features, kernels={kernels}, once (the engine beside it: {ours:.3f})"
            print(f"| {name} | {seconds:.1f} | {seconds / ours:.0f} |")
    script = FIRST_CALL.format(instruments=shape[0], sessions=shape[1], threads=options.threads)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    first, second = map(float, found)
    print(f"| first call of a new process, warm cache, after imports | {first:.2f} | |")
    print(f"| of that above a second call | {first - second:.2f} | |")
    if "growth" not in options.skip:
        growth(options.threads)
    if "scale" not in options.skip:
        scale(options.threads)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
