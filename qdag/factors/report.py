"""Summaries of stored factor metrics for people: the CLI and the asset metadata show these."""

from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import MissingDataError, PanelError, unknown
from qdag.factors.metrics import EQUAL_DEVIATION, ICIR_MINIMUM

_MEANS = ("ic", "rank_ic", "long_short", "coverage")


def top_factors(
    metrics: pa.Table, horizon: int, n: int | None = 10, *, pool: str | None = None, minimum: int = ICIR_MINIMUM
) -> pd.DataFrame:
    """Rank factors by the absolute mean RankIC over all dates of ``metrics``.

    Parameters
    ----------
    metrics : rows of one universe in `qdag.schema.FACTOR_METRICS`
    horizon : one of the horizons in ``metrics``
    n : number of factors to return; None for all
    pool : which pool to look at; needed when ``metrics`` has several
    minimum : fewest ICs for icir and rank_icir

    Returns
    -------
    DataFrame, one row per factor, best first, equal ones by name, factors without any RankIC last:
    factor, mean_ic, mean_rank_ic, icir and rank_icir (mean / sample std over the whole range, not annualised; NaN
    with fewer than ``minimum`` ICs or all equal), t (the mean RankIC in its standard errors: forward returns of horizon
    h overlap, so n / h of n dates count), long_short and coverage (means), dates (those with an ic). Means are over the
    dates that have a value. The best of many factors has a large ``t`` by chance: 250 without any merit reach 3.

    Raises
    ------
    MissingDataError
        No rows at all.
    UnknownNameError
        A horizon or pool that is not in ``metrics``.
    PanelError
        Several universes, or several pools and none chosen.
    """
    if not metrics.num_rows:
        raise MissingDataError("no factor metrics to rank: the table is empty; materialize factor_metrics first")
    pools = pc.unique(metrics["pool"]).to_pylist()
    universes = pc.unique(metrics["universe"]).to_pylist()
    horizons = pc.unique(metrics["horizon"]).to_pylist()
    if len(universes) > 1:
        raise PanelError(f"metrics of several universes {sorted(universes)} cannot be ranked together; read one")
    if pool is None and len(pools) > 1:
        raise PanelError(f"metrics have several pools {sorted(pools)}; choose one with pool=")
    if pool is not None and pool not in pools:
        raise unknown("pool", pool, pools)
    if horizon not in horizons:
        raise unknown("horizon", str(horizon), [str(h) for h in horizons])
    chosen = metrics.filter((pc.field("horizon") == horizon) & (pc.field("pool") == (pool or pools[0])))
    sample = pc.VarianceOptions(ddof=1)
    statistics = [(column, "mean") for column in _MEANS] + [("ic", "count")]
    spread = [(column, "stddev", sample) for column in ("ic", "rank_ic")]
    found = chosen.group_by("factor").aggregate(statistics + spread).to_pandas()
    frame = pd.DataFrame(
        {"factor": found["factor"], "mean_ic": found["ic_mean"], "mean_rank_ic": found["rank_ic_mean"]}
    )
    for column, ratio in (("ic", "icir"), ("rank_ic", "rank_icir")):
        defined = (found["ic_count"] >= max(minimum, 2)) & (found[f"{column}_stddev"] > EQUAL_DEVIATION)
        frame[ratio] = (found[f"{column}_mean"] / found[f"{column}_stddev"]).where(defined, np.nan)
    frame["t"] = frame["rank_icir"] * np.sqrt(np.maximum(found["ic_count"] / horizon, 1))
    frame["long_short"] = found["long_short_mean"]
    frame["coverage"] = found["coverage_mean"]
    frame["dates"] = found["ic_count"]
    frame = frame.sort_values("factor").sort_values(
        "mean_rank_ic", key=lambda mean: mean.abs(), ascending=False, kind="stable", na_position="last"
    )
    return frame.head(len(frame) if n is None else n).reset_index(drop=True)


def leading_rank_ic(metrics: pa.Table, horizon: int, pool: str, n: int = 10) -> dict[date, float]:
    """Mean RankIC, by date, of the n factors whose trailing RankICIR is the largest on the date, either way.

    ``metrics`` are rows of one universe in `qdag.schema.FACTOR_METRICS`. A factor that predicts the other way round
    (negative RankICIR) counts with the opposite sign. Dates on which no factor has both values are left out.
    """
    chosen = metrics.filter((pc.field("horizon") == horizon) & (pc.field("pool") == pool))
    frame = chosen.select(["date", "factor", "rank_ic", "rank_icir"]).to_pandas().dropna()
    frame["strength"] = frame["rank_icir"].abs()
    frame = frame.sort_values(["date", "strength", "factor"], ascending=[True, False, True])
    first = frame.groupby("date").head(n)
    means = (first["rank_ic"] * np.sign(first["rank_icir"])).groupby(first["date"]).mean()
    return dict(zip(means.index.tolist(), means.tolist(), strict=True))
