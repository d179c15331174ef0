"""Basic statistics of close and volume, as plain Qlib expressions."""

import numpy as np

from qdag.features.feature import Feature, FeatureSet
from qdag.features.references import Reference, Statistic, change, deviation, quantile, windowed
from qdag.features.sets import BALANCE, NOT_NEGATIVE, RETURN

WINDOWS = (5, 10, 20, 30, 60)

_STATISTICS = (
    ("MEAN", "level", "Mean($close, {d})", "mean of the adjusted close", "price level", "currency"),
    (
        "STD",
        "dispersion",
        "Std($close, {d})",
        "standard deviation of the adjusted close, ddof=1",
        "larger is more volatile",
        "currency",
    ),
    ("MAX", "level", "Max($close, {d})", "highest adjusted close", "price level", "currency"),
    ("MIN", "level", "Min($close, {d})", "lowest adjusted close", "price level", "currency"),
    ("Q80", "level", "Quantile($close, {d}, 0.8)", "80% quantile of the adjusted close", "price level", "currency"),
    ("Q20", "level", "Quantile($close, {d}, 0.2)", "20% quantile of the adjusted close", "price level", "currency"),
    (
        "CORR",
        "price and volume",
        "Corr($close, $volume, {d})",
        "correlation of adjusted close and volume",
        "positive: volume rises with price",
        "",
    ),
    ("RETURN", "return", "$close/Ref($close, {d})-1", "return of the adjusted close", "positive is a rise", ""),
)

_FEATURES = tuple(
    Feature(f"{name}{d}", group, rule.format(d=d), f"{meaning}, {d} sessions", way, unit)
    for name, group, rule, meaning, way, unit in _STATISTICS
    for d in WINDOWS
)


def _references() -> dict[str, Reference]:
    statistics: dict[str, Statistic] = {
        "MEAN": np.mean, "STD": deviation, "MAX": np.max, "MIN": np.min, "Q80": quantile(0.8), "Q20": quantile(0.2),
    }  # fmt: skip
    found: dict[str, Reference] = {}
    for n in (5, 20, 60):
        found |= {f"{name}{n}": Reference(windowed(rule, n), level=None) for name, rule in statistics.items()}
        found[f"RETURN{n}"] = Reference(change(n))
    return found


SET = FeatureSet(
    "basic_statistics",
    "Rolling mean, deviation, extremes, quantiles, correlation and returns as Qlib expressions.",
    _FEATURES,
    bounds={
        **dict.fromkeys(("MEAN", "STD", "MAX", "MIN", "Q"), NOT_NEGATIVE),
        "CORR": BALANCE,
        "RETURN": RETURN,
    },
    references=_references(),
)
