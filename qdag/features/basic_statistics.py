"""Basic statistics of close and volume, as plain Qlib expressions. Nothing is computed here."""

from qdag.features.catalogue import Feature

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

FEATURES = tuple(
    Feature(f"{name}{d}", group, rule.format(d=d), f"{meaning}, {d} sessions", way, unit)
    for name, group, rule, meaning, way, unit in _STATISTICS
    for d in WINDOWS
)
