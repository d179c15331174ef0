"""Technical indicators that people know by name: moving averages to KDJ. How they are computed stands in
``qdag.features.indicators``."""

from functools import partial

import numpy as np

from qdag.features import indicators
from qdag.features.feature import Code, Feature, FeatureSet
from qdag.features.references import Bars, Reference, ago, change, gapless, volatility, windowed
from qdag.features.sets import NOT_NEGATIVE, PERCENT


def _feature(name: str, group: str, meaning: str, direction: str, unit: str = "") -> Feature:
    return Feature(name, group, None, meaning, direction, unit)


def _price(name: str, group: str, meaning: str, direction: str) -> Feature:
    return _feature(name, group, meaning, direction, "currency")


_FEATURES: tuple[Feature, ...] = (
    *(
        _price(f"sma_{n}", "trend", f"mean close of {n} sessions", "level; close above it means an uptrend")
        for n in (5, 10, 20, 60)
    ),
    _price("ema_20", "trend", "exponential mean of close, span 20", "level; close above it means an uptrend"),
    _price("wma_20", "trend", "linearly weighted mean close of 20 sessions", "level; close above it means an uptrend"),
    _feature("rsi_14", "momentum", "Wilder's relative strength index of close, 0..100", "high is overbought"),
    _feature("stoch_k", "momentum", "slow stochastic %K (14, 3), 0..100", "high is overbought"),
    _feature("stoch_d", "momentum", "mean %K of 3 sessions, 0..100", "high is overbought"),
    _feature("willr_14", "momentum", "Williams %R of 14 sessions, -100..0", "near 0 is overbought"),
    _feature("cci_20", "momentum", "commodity channel index of 20 sessions", "high is a strong move up"),
    _price("mom_10", "momentum", "close minus close 10 sessions ago", "positive is rising"),
    _feature("roc_10", "momentum", "change of close over 10 sessions, percent", "positive is rising"),
    _price("macd", "momentum", "exponential mean of close, span 12, minus span 26", "positive is rising"),
    _price("macd_signal", "momentum", "exponential mean of macd, span 9", "positive is rising"),
    _price("macd_hist", "momentum", "macd minus macd_signal", "positive is a move gaining strength"),
    _price("bb_upper", "channel", "Bollinger band: mean of 20 plus 2 population deviations", "level"),
    _price("bb_middle", "channel", "Bollinger band: mean of 20", "level"),
    _price("bb_lower", "channel", "Bollinger band: mean of 20 minus 2 population deviations", "level"),
    _price("sar", "trend", "parabolic stop and reverse (0.02, 0.2)", "level; below close in an uptrend"),
    _feature("adx_14", "trend", "Wilder's average directional index, 0..100", "high is a strong trend, up or down"),
    _price("ichimoku_conversion", "trend", "middle of the range of 9 sessions", "level; above the base means rising"),
    _price("ichimoku_base", "trend", "middle of the range of 26 sessions", "level"),
    _price(
        "ichimoku_span_a",
        "trend",
        "mean of conversion and base of 26 sessions ago: the cloud drawn at this session",
        "level; close above both spans means an uptrend",
    ),
    _price(
        "ichimoku_span_b",
        "trend",
        "middle of the range of 52 sessions, of 26 sessions ago: the cloud drawn at this session",
        "level; close above both spans means an uptrend",
    ),
    _price("vwap", "volume", "the session's volume-weighted average price", "level"),
    _price(
        "vwap_20",
        "volume",
        "typical price weighted by volume over 20 sessions",
        "level; close above it means buyers lead",
    ),
    _feature(
        "obv_120",
        "volume",
        "on-balance volume counted over 120 sessions",
        "positive is volume on rising days",
        "shares",
    ),
    _feature(
        "ad_120",
        "volume",
        "accumulation/distribution counted over 120 sessions",
        "positive is closing near highs",
        "shares",
    ),
    _feature("volume_rsi_14", "volume", "Wilder's relative strength index of volume, 0..100", "high is growing volume"),
    _price("atr_14", "volatility", "Wilder's average true range of 14 sessions", "high is volatile"),
    _feature("volatility_20", "volatility", "sample deviation of 20 close-to-close returns", "high is volatile"),
    _feature(
        "hist_volatility_20",
        "volatility",
        "sample deviation of 20 log returns, annualised by sqrt(252)",
        "high is volatile",
    ),
    _feature(
        "kdj_k",
        "momentum",
        "KDJ (9, 3, 3) K: raw stochastic of 9 smoothed by 1/3 from 50, 0..100",
        "high is overbought",
    ),
    _feature("kdj_d", "momentum", "KDJ D: K smoothed by 1/3 from 50, 0..100", "high is overbought"),
    _feature("kdj_j", "momentum", "KDJ J: 3 K - 2 D, may leave 0..100", "high is overbought"),
)


def _references() -> dict[str, Reference]:
    """Only of those that a window without gaps defines; the others remember their whole past."""

    def mean(n: int) -> Reference:
        return Reference(gapless(n, windowed(np.mean, n)), level=None, whole=True)

    def percent(bars: Bars, t: int) -> float:
        return change(10)(bars, t) * 100

    return {
        **{f"sma_{n}": mean(n) for n in (5, 10, 20, 60)},
        "bb_middle": mean(20),
        "mom_10": Reference(gapless(11, lambda b, t: b["close"][t] - ago(b, t, 10)), level=None, whole=True),
        "roc_10": Reference(gapless(11, percent), level=100.0, whole=True),
        "volatility_20": Reference(gapless(21, volatility(20)), whole=True),
    }


SET = FeatureSet(
    "technical_indicators",
    "Moving averages to KDJ; TA-Lib where TA-Lib has it.",
    _FEATURES,
    code=Code(
        partial(indicators.compute_indicators, names=tuple(feature.name for feature in _FEATURES)),
        indicators.FIELDS,
        indicators.WARMUP,
        indicators.CONSTANTS,
        indicators.reach_back,
    ),
    bounds={
        **dict.fromkeys(("rsi_14", "volume_rsi_14", "stoch_k", "stoch_d", "kdj_k", "kdj_d", "adx_14"), PERCENT),
        "willr_14": (-100.0, 0.0),
        **dict.fromkeys(("atr_14", "volatility_20", "hist_volatility_20"), NOT_NEGATIVE),
    },
    references=_references(),
)
