"""Features of price, volume, volatility and momentum, as plain Qlib expressions.

A *change* is a rate, relative to the earlier value; so is a *momentum*, and over 5 and 20 sessions the two are the same
return under both names that people look for. Prices and volumes are adjusted.
"""

from qdag.features.feature import Feature, FeatureSet
from qdag.features.references import Reference, change, last, place, volatility
from qdag.features.sets import NOT_NEGATIVE, RETURN, SHARE, UNLIMITED

_RETURN = "($close/Ref($close, 1)-1)"


def _features() -> tuple[Feature, ...]:
    features = [
        Feature(
            f"price_change_{d}",
            "price",
            f"$close/Ref($close, {d})-1",
            f"change of the close over {d} session(s), relative to the earlier close",
            "positive is a rise",
        )
        for d in (1, 5, 20)
    ]
    features += [
        Feature(
            "price_position_20",
            "price",
            "($close-Min($low, 20))/(Max($high, 20)-Min($low, 20)+1e-12)",
            "close between the 20-session low (0) and high (1)",
            "1 is at the high",
        ),
        Feature(
            "volume_change",
            "volume",
            "$volume/Ref($volume, 1)-1",
            "relative change of volume to the session before; infinite after a session without volume",
            "positive is growing volume",
        ),
        Feature(
            "volume_ma_ratio_20",
            "volume",
            "$volume/Mean($volume, 20)",
            "volume over its 20-session mean",
            "above 1 is an active day",
        ),
    ]
    features += [
        Feature(
            f"volatility_{d}",
            "volatility",
            f"Std({_RETURN}, {d})",
            f"standard deviation of daily returns over {d} sessions, not annualised",
            "larger is more volatile",
        )
        for d in (5, 20)
    ]
    features += [
        Feature(
            f"momentum_{d}", "momentum", f"$close/Ref($close, {d})-1", f"return over {d} sessions", "positive is a rise"
        )
        for d in (5, 20)
    ]
    features += [
        Feature(
            f"volume_momentum_{d}",
            "momentum",
            f"$volume/Ref($volume, {d})-1",
            f"relative change of volume over {d} sessions",
            "positive is growing volume",
        )
        for d in (5, 20)
    ]
    features += [
        Feature("price_range", "range", "$high-$low", "high less low", "larger is more volatile", "currency"),
        Feature(
            "price_range_ratio",
            "range",
            "($high-$low)/$close",
            "high less low over the close",
            "larger is more volatile",
        ),
        Feature("open_to_close", "range", "$open/$close", "open over the close", "below 1 is an up day"),
        Feature("high_to_close", "range", "$high/$close", "high over the close", "1 is a close at the high"),
        Feature("low_to_close", "range", "$low/$close", "low over the close", "1 is a close at the low"),
    ]
    return tuple(features)


def _references() -> dict[str, Reference]:
    found = {f"price_change_{n}": Reference(change(n)) for n in (1, 5, 20)}
    found |= {f"momentum_{n}": Reference(change(n)) for n in (5, 20)}
    found |= {f"volatility_{n}": Reference(volatility(n)) for n in (5, 20)}
    return found | {
        "price_position_20": Reference(place(20)),
        "price_range_ratio": Reference(lambda b, t: (b["high"][t] - b["low"][t]) / b["close"][t]),
        "open_to_close": Reference(lambda b, t: b["open"][t] / b["close"][t]),
        "volume_ma_ratio_20": Reference(lambda b, t: b["volume"][t] / last(b, "volume", t, 20).mean()),
    }


SET = FeatureSet(
    "price_features",
    "Price changes, positions, ratios, volatilities and momentum.",
    _features(),
    bounds={
        "price_position_20": SHARE,
        **dict.fromkeys(("volume_change", "volume_momentum_5", "volume_momentum_20"), RETURN),
        "price_change_": RETURN,
        **dict.fromkeys(("momentum_5", "momentum_20"), RETURN),
        **dict.fromkeys(("volume_ma_ratio_20", "volatility_5", "volatility_20"), NOT_NEGATIVE),
        **dict.fromkeys(("price_range", "price_range_ratio", "open_to_close"), NOT_NEGATIVE),
        "high_to_close": (1.0, UNLIMITED),
        "low_to_close": SHARE,
    },
    references=_references(),
)
