"""Stored results as small frames: the best factors, a day's metrics, the registered models."""

from datetime import date
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from qdag.assets.platform import Platform
from qdag.core.pools import ALL
from qdag.errors import MissingDataError, SessionError, unknown
from qdag.schema import FACTOR_METRICS

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DAY_COLUMNS = ("factor", "rank_ic", "ic", "rank_icir", "icir", "long_short", "coverage", "n", "signal_date")
"""What is told of a factor on one day."""


def leaderboard(
    platform: Platform,
    universe: str,
    horizon: int | None = None,
    pool: str = ALL,
    start: date | None = None,
    end: date | None = None,
    rows: int = 10,
    table: str | None = None,
) -> "pd.DataFrame":
    """Factors by |mean RankIC| over the dates, best first; see ``factors.report.top_factors``.

    Parameters
    ----------
    horizon : the universe's training horizon by default
    table : only factors of this feature table
    """
    from qdag.factors.report import top_factors

    metrics = _metrics(platform, universe, start, end)
    if table is not None:
        tables = sorted({factor.split(".", 1)[0] for factor in pc.unique(metrics["factor"]).to_pylist()})
        if table not in tables:
            raise unknown("feature table", table, tables)
        metrics = metrics.filter(pc.starts_with(metrics["factor"], f"{table}."))
    return top_factors(metrics, _horizon(platform, universe, horizon), rows, pool=pool)


def metrics_of_a_day(
    platform: Platform, universe: str, horizon: int | None = None, pool: str = ALL, rows: int = 10
) -> tuple[date, "pd.DataFrame"]:
    """The newest date of factor_metrics, and its factors of one horizon and pool, the largest |RankIC| first."""
    sessions = platform.stored(FACTOR_METRICS.name, universe).tolist()
    if not sessions:
        raise MissingDataError(
            f"factor_metrics holds nothing for universe {universe!r}; materialize factor_metrics first"
        )
    day = sessions[-1]
    metrics = _metrics(platform, universe, day, day)
    chosen = metrics.filter((pc.field("horizon") == _horizon(platform, universe, horizon)) & (pc.field("pool") == pool))
    frame = chosen.select(DAY_COLUMNS).to_pandas()
    frame = frame.sort_values("rank_ic", key=abs, ascending=False, kind="stable", na_position="last")
    return day, frame.head(rows).reset_index(drop=True)


def models(platform: Platform, universe: str) -> "pd.DataFrame":
    """Registered models, the newest first: how they were judged when they were trained, and which one serves.

    Columns: version, trained_on, serves (the next sessions are scored with it), trees, and ic and rank_ic on the
    validation and the test sessions, NaN where MLflow has lost the run.
    """
    import pandas as pd

    from qdag.models.tracking import registered_models, run_metrics

    registered = registered_models(platform.settings, universe)
    if not registered:
        raise MissingDataError(
            f"no model of universe {universe!r} is registered; materialize trained_model over a range with a month end"
        )
    logged = run_metrics(platform.settings, registered)
    rows = []
    for model in reversed(registered):
        seen = logged.get(model.run_id, {})
        trees = seen.get("best_iteration")
        rows.append(
            {
                "version": model.version,
                "trained_on": model.training_date,
                "serves": "yes" if model is registered[-1] else "",
                "trees": None if trees is None else int(trees),
                **{
                    f"{segment}_{name}": seen.get(f"{segment}.{name}", float("nan"))
                    for segment in ("valid", "test")
                    for name in ("ic", "rank_ic")
                },
                "run": model.run_id[:8],
            }
        )
    return pd.DataFrame(rows)


def _horizon(platform: Platform, universe: str, horizon: int | None) -> int:
    if horizon is None:
        return platform.settings.training_for(universe).horizon
    if horizon not in platform.settings.horizons:
        raise unknown("horizon", str(horizon), map(str, platform.settings.horizons))
    return horizon


def _metrics(platform: Platform, universe: str, start: date | None, end: date | None) -> "pa.Table":
    if start is not None and end is not None and end < start:
        raise SessionError(f"start {start} is after end {end}; give the earlier day first")
    if not platform.store.exists(FACTOR_METRICS.name):
        raise MissingDataError("factor_metrics holds nothing yet; materialize factor_metrics first")
    return platform.store.read(FACTOR_METRICS.name, universe, start, end)
