"""A slow second opinion on a handful of named features: plain NumPy on one window of one instrument's raw bars.

It shares nothing with the engine, the expressions or the Qlib directory, so that all of these are judged by it. A cell
is computed from raw_ohlcv, adjusted here. No I/O belongs here.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Bars = Mapping[str, np.ndarray]
Reference = Callable[[Bars, int], float]
"""Value at position t of one instrument's adjusted fields (float64 by session, NaN where there is no row)."""

LOOKBACK = 60
"""Sessions before t that some reference reads."""
TOLERANCE = 1e-5
"""Allowed difference, of the value and of the level that it is computed from; features are stored as float32."""


def adjusted(raw: Bars) -> dict[str, np.ndarray]:
    """Fields of one instrument as Qlib's files hold them: prices x factor, volume / factor, rounded to float32."""
    factor = raw["factor"]
    with np.errstate(divide="ignore", invalid="ignore"):
        prices = {name: raw[name] * factor for name in ("open", "high", "low", "close", "vwap")}
        fields = {**prices, "volume": raw["volume"] / factor}
    return {name: values.astype(np.float32).astype(np.float64) for name, values in fields.items()}


def _last(bars: Bars, name: str, t: int, n: int) -> np.ndarray:
    """Values of the last n sessions, those that there are."""
    values = bars[name][max(0, t - n + 1) : t + 1]
    return values[~np.isnan(values)]


def _of(n: int, function: Callable[[Bars, int, int], float]) -> Reference:
    return lambda bars, t: float(function(bars, t, n))


def _ago(bars: Bars, t: int, n: int) -> float:
    return float(bars["close"][t - n]) if t >= n else np.nan


def _change(bars: Bars, t: int, n: int) -> float:
    return float(bars["close"][t] / _ago(bars, t, n) - 1)


def _deviation(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def _returns(bars: Bars, t: int, n: int) -> np.ndarray:
    close = bars["close"][max(0, t - n) : t + 1]
    found = close[1:] / close[:-1] - 1
    return found[~np.isnan(found)]


def _place(bars: Bars, t: int, n: int) -> float:
    """The close between the lowest low (0) and the highest high (1)."""
    low, high = _last(bars, "low", t, n).min(), _last(bars, "high", t, n).max()
    return float((bars["close"][t] - low) / (high - low + 1e-12))


def _windowed(name: str, function: Callable[[np.ndarray], float], n: int, field: str) -> Reference:
    """A statistic of a field's window, over the close where ``name`` says so."""

    def value(bars: Bars, t: int) -> float:
        found = function(_last(bars, field, t, n))
        return float(found / bars["close"][t]) if name == "over_close" else float(found)

    return value


def _quantile(share: float) -> Callable[[np.ndarray], float]:
    return lambda values: float(np.quantile(values, share))


_LEVELS: dict[str, tuple[Callable[[np.ndarray], float], str]] = {
    "MA": (np.mean, "close"),
    "MEAN": (np.mean, "close"),
    "STD": (_deviation, "close"),
    "QTLU": (_quantile(0.8), "close"),
    "QTLD": (_quantile(0.2), "close"),
}


def _alpha158() -> dict[str, Reference]:
    found: dict[str, Reference] = {
        "KMID": lambda b, t: (b["close"][t] - b["open"][t]) / b["open"][t],
        "KLEN": lambda b, t: (b["high"][t] - b["low"][t]) / b["open"][t],
        "KUP": lambda b, t: (b["high"][t] - max(b["open"][t], b["close"][t])) / b["open"][t],
        "OPEN0": lambda b, t: b["open"][t] / b["close"][t],
        "VWAP0": lambda b, t: b["vwap"][t] / b["close"][t],
    }
    for n in (5, 20, 60):
        found[f"ROC{n}"] = _of(n, lambda b, t, n: _ago(b, t, n) / b["close"][t])
        found[f"MAX{n}"] = _windowed("over_close", np.max, n, "high")
        found[f"MIN{n}"] = _windowed("over_close", np.min, n, "low")
        found[f"RSV{n}"] = _of(n, lambda b, t, n: _place(b, t, n))
        found[f"VMA{n}"] = _of(n, lambda b, t, n: float(_last(b, "volume", t, n).mean()) / (b["volume"][t] + 1e-12))
        for name in ("MA", "STD", "QTLU", "QTLD"):
            function, field = _LEVELS[name]
            found[f"{name}{n}"] = _windowed("over_close", function, n, field)
    return found


def _basic_statistics() -> dict[str, Reference]:
    found: dict[str, Reference] = {}
    for n in (5, 20, 60):
        for name, function in (
            ("MEAN", np.mean),
            ("STD", _deviation),
            ("MAX", np.max),
            ("MIN", np.min),
            ("Q80", _quantile(0.8)),
            ("Q20", _quantile(0.2)),
        ):
            found[f"{name}{n}"] = _windowed("", function, n, "close")
        found[f"RETURN{n}"] = _of(n, _change)
    return found


def _price_features() -> dict[str, Reference]:
    return {
        **{f"price_change_{n}": _of(n, _change) for n in (1, 5, 20)},
        **{f"momentum_{n}": _of(n, _change) for n in (5, 20)},
        **{f"volatility_{n}": _of(n, lambda b, t, n: _deviation(_returns(b, t, n))) for n in (5, 20)},
        "price_position_20": lambda b, t: _place(b, t, 20),
        "price_range_ratio": lambda b, t: (b["high"][t] - b["low"][t]) / b["close"][t],
        "open_to_close": lambda b, t: b["open"][t] / b["close"][t],
        "volume_ma_ratio_20": lambda b, t: b["volume"][t] / float(_last(b, "volume", t, 20).mean()),
    }


def _technical_indicators() -> dict[str, Reference]:
    """Only those that a window without gaps defines; the others remember their whole past."""

    def whole(n: int, function: Reference) -> Reference:
        def value(bars: Bars, t: int) -> float:
            gap = t + 1 < n or np.isnan(bars["close"][t + 1 - n : t + 1]).any()
            return np.nan if gap else function(bars, t)

        return value

    return {
        **{f"sma_{n}": whole(n, _windowed("", np.mean, n, "close")) for n in (5, 10, 20, 60)},
        "bb_middle": whole(20, _windowed("", np.mean, 20, "close")),
        "mom_10": whole(11, lambda b, t: b["close"][t] - _ago(b, t, 10)),
        "roc_10": whole(11, lambda b, t: _change(b, t, 10) * 100),
        "volatility_20": whole(21, lambda b, t: _deviation(_returns(b, t, 20))),
    }


REFERENCES: dict[str, dict[str, Reference]] = {
    "alpha158": _alpha158(),
    "basic_statistics": _basic_statistics(),
    "price_features": _price_features(),
    "technical_indicators": _technical_indicators(),
    "labels": {},
}
"""Tables whose sample is computed again, and by which references; labels have one per horizon."""

GAPLESS = ("technical_indicators",)
"""Tables whose references are NaN where the window has a gap, though the indicator may have a value there."""


def references(table: str, columns: Sequence[str]) -> dict[str, Reference]:
    """The references of the columns that have one."""
    found = {c: r for c, r in REFERENCES.get(table, {}).items() if c in columns}
    if table == "labels":
        for column in columns:
            if named := re.fullmatch(r"label_(\d+)", column):
                found[column] = _label(int(named[1]))
    return found


def _label(horizon: int) -> Reference:
    def value(bars: Bars, t: int) -> float:
        close = bars["close"]
        return float(close[t + horizon + 1] / close[t + 1] - 1) if t + horizon + 1 < len(close) else np.nan

    return value


_PRICES = re.compile(r"(MEAN|STD|MAX|MIN|Q80|Q20)\d+|sma_\d+|bb_middle|mom_10")
_PERCENT = ("roc_10",)


def difference(table: str, column: str, stored: float, expected: float, close: float) -> float:
    """How far two values are apart, in units of what float32 explains: at most 1 is agreement.

    The unit grows with the value and with the level that it is a difference of: the close for prices, else 1 (or
    100 %). Two NaN agree; one does not with a number, unless the table's references know no gaps.
    """
    if np.isnan(expected):
        return 0.0 if np.isnan(stored) or table in GAPLESS else np.inf
    if np.isnan(stored):
        return np.inf
    if np.isinf(expected) or np.isinf(stored):
        return 0.0 if expected == stored else np.inf
    priced = table not in ("alpha158", "labels") and _PRICES.fullmatch(column)
    level = abs(close) if priced else 100.0 if column in _PERCENT else 1.0
    return abs(stored - expected) / (TOLERANCE * max(abs(expected), level))
