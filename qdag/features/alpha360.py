"""Alpha360: Qlib's raw price and volume history of 60 sessions over today's. Nothing is computed here."""

from qdag.features.catalogue import Feature

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


FEATURES = _features()
