"""What a process that is forked from has ready: imports, and kernels that were called once. No table is opened here:
a process that has opened one cannot be forked from."""

import importlib

import numpy as np

MODULES = (
    "deltalake",
    "pyarrow.dataset",
    "exchange_calendars",
    "pandas",
    "talib",
    "typer",
    "rich.table",
    "rich.progress",
    "qdag.cli.data",
    "qdag.operations.survey",
    "qdag.operations.repair",
    "qdag.operations.landing",
    "qdag.store.qlib.writer",
    "qdag.store.backup",
    "qdag.store.deliveries",
    "qdag.sources.files",
    "qdag.models.tracking",
)


def warm() -> None:
    """Import what commands import late, and load the kernels of all features and of the factor metrics."""
    from qdag.engine import Panel, compute
    from qdag.factors.metrics import iter_factor_metrics
    from qdag.features.catalogue import feature_sets

    for name in MODULES:
        importlib.import_module(name)
    sessions = np.arange("2020-01-06", "2020-03-30", dtype="M8[D]")
    shape = (3, len(sessions))
    prices = np.random.default_rng(1).uniform(10, 11, shape).astype(np.float32)
    fields = ("open", "high", "low", "close", "volume", "vwap", "change", "factor", "amount")
    panel = Panel(("A", "B", "C"), sessions, dict.fromkeys(fields, prices))
    for one in feature_sets().values():
        one.code.compute(panel, start=0, threads=1) if one.code else compute(one.expressions, panel, threads=1)
    dates = (sessions[-5].item(), sessions[-1].item())
    batches = iter_factor_metrics(
        {"a": prices}, {1: prices}, sessions, prices > 0, pool_name="all", universe="u", dates=dates, threads=1
    )
    for _ in batches:
        pass


warm()
