"""What the tests of alerts have in common: settings, alerts, and stored rows that conditions look at."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from qdag import schema
from qdag.alerts import Alert
from qdag.assets.platform import Platform
from qdag.settings import AlertSettings, Settings, SyntheticSource, UniverseSettings

NOW = datetime(2024, 7, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECRET = "hunter2TOKENhunter2"


def settings_of(home, end=date(2024, 12, 31), horizons=(1, 5), **limits) -> Settings:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=date(2023, 1, 3), end=end)
    return Settings(home=home, universes={"toy": universe}, horizons=horizons, alerts=AlertSettings(**limits))


def alert(key="k", kind="run_failure", **fields) -> Alert:
    return Alert(kind, key, f"what of {key}", universe="toy", **fields)


def bars(platform: Platform, days: list[date], instruments=("AAA", "BBB")):
    rows = [(d, i) for d in days for i in instruments]
    columns = {c.name: [1.0] * len(rows) for c in schema.RAW_OHLCV.columns if c.dtype == "float64"}
    keys = {"universe": ["toy"] * len(rows), "date": [d for d, _ in rows], "instrument": [i for _, i in rows]}
    others = {
        c.name: [None] * len(rows)
        for c in schema.RAW_OHLCV.columns
        if c.name not in keys and c.name not in columns and c.nullable
    }
    table = pa.table({n: (keys | columns | others)[n] for n in schema.RAW_OHLCV.arrow().names})
    platform.store.replace(
        schema.RAW_OHLCV, "toy", min(days), max(days), table.cast(schema.RAW_OHLCV.arrow()), {"run": "test"}
    )


def write_metrics(platform: Platform, ics: dict[tuple[str, int, str], np.ndarray], sessions: np.ndarray):
    """IC per (pool, horizon, factor); RankIC equals IC."""
    keys = [(pool, horizon, factor, k) for pool, horizon, factor in ics for k in range(len(sessions))]
    ic = np.concatenate(list(ics.values()))
    rows = {
        "universe": ["toy"] * len(keys),
        "date": [sessions[k].item() for *_, k in keys],
        "pool": [p for p, *_ in keys],
        "horizon": [h for _, h, *_ in keys],
        "factor": [f for _, _, f, _ in keys],
        "signal_date": [(sessions[k] - 7).item() for *_, k in keys],
        "ic": pa.array(ic, from_pandas=True),
        "rank_ic": pa.array(ic, from_pandas=True),
    }
    spec = schema.FACTOR_METRICS
    table = pa.table({c.name: rows.get(c.name, pa.nulls(len(keys))) for c in spec.columns}, schema=None).cast(
        spec.arrow()
    )
    platform.store.replace(spec, "toy", sessions[0].item(), sessions[-1].item(), table, {"run": "test"})


def year_of(before: float, recent: float) -> np.ndarray:
    return np.concatenate([np.full(232, before), np.full(20, recent)])
