"""Alpha360: Qlib's raw price and volume history of 60 sessions over today's."""

from qdag.features.feature import Feature, FeatureSet

LAGS = tuple(range(59, -1, -1))


def _features() -> tuple[Feature, ...]:
    features = []
    for field in ("close", "open", "high", "low", "vwap", "volume"):
        base = "($volume+1e-12)" if field == "volume" else "$close"
        today = "volume" if field == "volume" else "close"
        for lag in LAGS:
            series = f"Ref(${field}, {lag})" if lag else f"${field}"
            features.append(
                Feature(
                    f"{field.upper()}{lag}",
                    f"{field} history",
                    f"{series}/{base}",
                    f"{field} {lag} sessions ago over today's {today}" if lag else f"{field} over today's {today}",
                    "a raw input for sequence models; no direction of its own",
                )
            )
    return tuple(features)


SET = FeatureSet(
    "alpha360",
    "Qlib's 360 Alpha360 expressions: prices and volumes of 60 sessions over today's, for sequence models.",
    _features(),
    default=False,
)
