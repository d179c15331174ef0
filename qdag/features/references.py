"""Slow second opinions on named features: plain NumPy on one window of one instrument's raw bars.

A reference shares nothing with the engine, the expressions or the Qlib directory, so that all of these are judged by
it. A cell is computed from raw_ohlcv, adjusted here. Sets of features name their references; what they are built from
stands here. No I/O belongs here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Bars = Mapping[str, np.ndarray]
"""Adjusted fields of one instrument: float64 by session, NaN where there is no row."""
Value = Callable[[Bars, int], float]
"""Value of a feature at position t of one instrument's bars."""
Statistic = Callable[[np.ndarray], float]

LOOKBACK = 60
"""Sessions before t that some reference reads."""
TOLERANCE = 1e-5
"""Allowed difference, of the value and of the level that it is computed from; features are stored as float32."""


@dataclass(frozen=True)
class Reference:
    """How a feature is computed again, and how near the stored value must be.

    Attributes
    ----------
    value : the computation
    level : size of what the feature is a difference of: 1 for a rate, 100 for a percentage; None for the close
    whole : the reference is NaN where its window has a gap, though the feature may have a value there
    """

    value: Value
    level: float | None = 1.0
    whole: bool = False

    def difference(self, stored: float, expected: float, close: float) -> float:
        """How far two values are apart, in units of what float32 explains: at most 1 is agreement.

        The unit grows with the value and with the level that it is a difference of. Two NaN agree; one does not with a
        number, unless the reference knows no gaps.
        """
        if np.isnan(expected):
            return 0.0 if np.isnan(stored) or self.whole else np.inf
        if np.isnan(stored):
            return np.inf
        if np.isinf(expected) or np.isinf(stored):
            return 0.0 if expected == stored else np.inf
        level = abs(close) if self.level is None else self.level
        return abs(stored - expected) / (TOLERANCE * max(abs(expected), level))


def adjusted(raw: Bars) -> dict[str, np.ndarray]:
    """Fields of one instrument as Qlib's files hold them: prices x factor, volume / factor, rounded to float32."""
    factor = raw["factor"]
    with np.errstate(divide="ignore", invalid="ignore"):
        prices = {name: raw[name] * factor for name in ("open", "high", "low", "close", "vwap")}
        fields = {**prices, "volume": raw["volume"] / factor}
    return {name: values.astype(np.float32).astype(np.float64) for name, values in fields.items()}


def label(horizon: int) -> Reference:
    """The return from the close of the next session over ``horizon`` sessions."""

    def value(bars: Bars, t: int) -> float:
        close = bars["close"]
        return float(close[t + horizon + 1] / close[t + 1] - 1) if t + horizon + 1 < len(close) else np.nan

    return Reference(value)


def last(bars: Bars, name: str, t: int, n: int) -> np.ndarray:
    """Values of a field on the last n sessions, those that there are."""
    values = bars[name][max(0, t - n + 1) : t + 1]
    return values[~np.isnan(values)]


def ago(bars: Bars, t: int, n: int) -> float:
    """The close of n sessions before; NaN where there is none."""
    return float(bars["close"][t - n]) if t >= n else np.nan


def earlier(n: int) -> Value:
    """The close of n sessions before over today's."""
    return lambda bars, t: float(ago(bars, t, n) / bars["close"][t])


def activity(n: int) -> Value:
    """Mean volume of n sessions over today's."""
    return lambda bars, t: float(last(bars, "volume", t, n).mean() / (bars["volume"][t] + 1e-12))


def change(n: int) -> Value:
    """Change of the close over n sessions, relative to the earlier one."""
    return lambda bars, t: float(bars["close"][t] / ago(bars, t, n) - 1)


def deviation(values: np.ndarray) -> float:
    """Sample standard deviation; NaN of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def quantile(share: float) -> Statistic:
    """Linear quantile."""
    return lambda values: float(np.quantile(values, share))


def returns(bars: Bars, t: int, n: int) -> np.ndarray:
    """Close-to-close returns of the last n sessions, those that there are."""
    close = bars["close"][max(0, t - n) : t + 1]
    found = close[1:] / close[:-1] - 1
    return found[~np.isnan(found)]


def volatility(n: int) -> Value:
    """Sample standard deviation of the close-to-close returns of n sessions."""
    return lambda bars, t: deviation(returns(bars, t, n))


def place(n: int) -> Value:
    """The close between the lowest low (0) and the highest high (1) of n sessions."""

    def value(bars: Bars, t: int) -> float:
        low, high = last(bars, "low", t, n).min(), last(bars, "high", t, n).max()
        return float((bars["close"][t] - low) / (high - low + 1e-12))

    return value


def windowed(statistic: Statistic, n: int, field: str = "close", over_close: bool = False) -> Value:
    """A statistic of a field's last n sessions, or that over the close."""

    def value(bars: Bars, t: int) -> float:
        found = float(statistic(last(bars, field, t, n)))
        return found / float(bars["close"][t]) if over_close else found

    return value


def gapless(n: int, value: Value) -> Value:
    """The same where n sessions without a gap end at t, else NaN."""

    def checked(bars: Bars, t: int) -> float:
        gap = t + 1 < n or np.isnan(bars["close"][t + 1 - n : t + 1]).any()
        return np.nan if gap else value(bars, t)

    return checked
