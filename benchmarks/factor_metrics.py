"""How long the factor metrics of a whole history take, and how much memory: seeded noise, computed factor by factor.

    python -m benchmarks.factor_metrics [--factors 250] [--instruments 300] [--sessions 2800] [--threads 2]

The reference is pandas' corrwith on two factors (ic and rank_ic only), scaled to the same count.
"""

import argparse
import resource
import time
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from qdag.factors import factor_metrics, iter_factor_metrics

HORIZONS = (1, 5, 10, 20)


class Noise(Mapping[str, np.ndarray]):
    """Factors made on access, as a reader of a table would, so that memory does not grow with their number."""

    def __init__(self, factors: int, shape: tuple[int, int]):
        self.names = [f"noise.f{k}" for k in range(factors)]
        self.shape = shape
        self.seconds = 0.0

    def __getitem__(self, name: str) -> np.ndarray:
        started = time.perf_counter()
        rng = np.random.default_rng(self.names.index(name))
        values = rng.standard_normal(self.shape, dtype=np.float32)
        values[rng.random(self.shape, dtype=np.float32) < 0.02] = np.nan
        self.seconds += time.perf_counter() - started
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def pandas_seconds(features: Noise, labels: Mapping[int, np.ndarray], count: int) -> float:
    """Seconds of pandas' corrwith for ``count`` factors."""
    frames = {h: pd.DataFrame(values) for h, values in labels.items()}
    seconds = 0.0
    for name in features.names[:count]:
        x = pd.DataFrame(features[name])
        started = time.perf_counter()
        for y in frames.values():
            x.corrwith(y)
            x.rank().where(y.notna()).corrwith(y.rank())
        seconds += time.perf_counter() - started
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("factors", 250), ("instruments", 300), ("sessions", 2800), ("threads", 2)):
        parser.add_argument(f"--{option}", type=int, default=default)
    given = parser.parse_args()
    shape = (given.instruments, given.sessions)
    features = Noise(given.factors, shape)
    rng = np.random.default_rng(2**32)
    labels = {h: rng.standard_normal(shape, dtype=np.float32) for h in HORIZONS}
    for h, values in labels.items():
        values[rng.random(shape, dtype=np.float32) < 0.02] = np.nan
        values[:, max(0, given.sessions - (h + 1)) :] = np.nan
    calendar = np.datetime64("2010-01-01") + np.arange(given.sessions)
    options = {
        "pool_name": "all",
        "universe": "noise",
        "dates": (calendar[0].item(), calendar[-1].item()),
        "threads": given.threads,
    }
    pool = np.ones(shape, bool)

    started = time.perf_counter()
    first = calendar[: HORIZONS[-1] + 2]
    part = slice(0, len(first))
    factor_metrics(
        {"noise.f0": features["noise.f0"][:, part]},
        {h: values[:, part] for h, values in labels.items()},
        first,
        pool[:, part],
        **{**options, "dates": (first[0].item(), first[-1].item())},
    )
    print(f"load or compile the kernels: {time.perf_counter() - started:.1f} s")

    features.seconds = 0.0
    processor = time.process_time()
    started = time.perf_counter()
    rows = sum(batch.num_rows for batch in iter_factor_metrics(features, labels, calendar, pool, **options))
    seconds = time.perf_counter() - started - features.seconds
    processor = time.process_time() - processor - features.seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{given.factors} factors x {len(HORIZONS)} horizons x {given.sessions} sessions x {given.instruments} "
        f"instruments, {given.threads} threads: {rows} rows in {seconds:.1f} s ({processor:.1f} s of processor time), "
        f"peak {peak:.2f} GiB; making the noise took {features.seconds:.1f} s more"
    )
    some = min(2, given.factors)
    reference = pandas_seconds(features, labels, some) / some * given.factors
    print(f"pandas corrwith, ic and rank_ic only, from {some} factors: {reference:.0f} s, {reference / seconds:.0f} x")


if __name__ == "__main__":
    main()
