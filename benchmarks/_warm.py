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
    "qdag.refresh",
    "qdag.maintenance",
    "qdag.landing",
    "qdag.store.qlib_bin",
    "qdag.store.backup",
    "qdag.store.deliveries",
    "qdag.sources.files",
    "qdag.models.tracking",
)


def warm() -> None:
    """Import what commands import late, and load the kernels of all features and of the factor metrics."""
    from qdag.engine import Panel, compute
    from qdag.factors.metrics import iter_factor_metrics
    from qdag.features.catalogue import feature_set
    from qdag.features.indicators import compute_indicators

    for name in MODULES:
        importlib.import_module(name)
    sessions = np.arange("2020-01-06", "2020-03-30", dtype="M8[D]")
    shape = (3, len(sessions))
    prices = np.random.default_rng(1).uniform(10, 11, shape).astype(np.float32)
    fields = ("open", "high", "low", "close", "volume", "vwap", "change", "factor", "amount")
    panel = Panel(("A", "B", "C"), sessions, dict.fromkeys(fields, prices))
    for table in ("alpha158", "basic_statistics", "price_features"):
        compute({f.name: f.expression for f in feature_set(table) if f.expression}, panel, threads=1)
    compute_indicators(panel, threads=1)
    dates = (sessions[-5].item(), sessions[-1].item())
    batches = iter_factor_metrics(
        {"a": prices}, {1: prices}, sessions, prices > 0, pool_name="all", universe="u", dates=dates, threads=1
    )
    for _ in batches:
        pass


warm()
