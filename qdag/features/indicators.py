"""Technical indicators on panels: averages, oscillators, channels, volume and volatility; TA-Lib where it has them.

What belongs here is an indicator that a person knows by name and that is no Qlib expression. Each instrument's traded
sessions (high, low, close and volume finite, close positive) are drawn together into one series before anything is
computed, so a 20-session average is one over 20 traded sessions, and a suspended session has no indicator.

Many indicators remember everything since the listing. Here every value at session t is *defined* on the traded
sessions from the anchor of t, the first day of the half-year three half-years before the one that holds t, so on 18 to
24 months; and where an instrument has fewer than 360 bars between its anchor and the half-year of t, because it was
suspended, on its last 360 before that half-year, however long ago, or all since its listing. It makes a value a pure
function of a bounded past:

1. computing some sessions gives the same bits as computing all, in any order and after any gap in the runs;
2. a corrected bar changes the indicators of the next two years, and after suspensions those of the next 360 bars and
   the rest of their half-year;
3. an exponential average is the textbook's to float32: after 360 sessions what came before weighs less than 3e-12;
4. an indicator has a value as soon as it has the traded sessions that it needs since the listing, and keeps it.

On-balance volume and accumulation/distribution, whose level only tells where somebody began to count, are counted over
the last 120 traded sessions.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qdag.errors import PanelError

if TYPE_CHECKING:
    from qdag.engine.panel import Panel

FIELDS = ("high", "low", "close", "volume", "vwap")
WARMUP_HALVES = 3
# Sessions before the first wanted one that reach its anchor: two calendar years hold at most 523 weekdays.
WARMUP = 522
BARS = 360
COUNTED = 120
SESSIONS_PER_YEAR = 252

CONSTANTS = {
    "warmup": WARMUP,
    "warmup_halves": WARMUP_HALVES,
    "bars": BARS,
    "counted": COUNTED,
    "sessions_per_year": SESSIONS_PER_YEAR,
}
"""What the values depend on besides the bars, by name."""

_Rows = dict[str, np.ndarray]


def history_start(day: date) -> date:
    """The anchor of a session: the first day whose bars its indicators depend on, unless these are fewer than
    :data:`BARS`."""
    anchor: date = _anchor(np.datetime64(day, "D")).item()
    return anchor


def compute_indicators(
    panel: "Panel", names: Sequence[str], *, start: int = 0, threads: int = 2
) -> dict[str, np.ndarray]:
    """Compute indicators.

    Parameters
    ----------
    panel : Panel, shape (I, S)
        Adjusted fields high, low, close, volume and vwap, from :data:`WARMUP` sessions before the first wanted one
        (or its :func:`history_start`) or from the first session there is; of instruments that :func:`reach_back`
        names, from their listing. A bar is a session with a close. Further fields are ignored.
    names : sequence of str
        The wanted indicators, of those that ``qdag.features.sets.technical_indicators`` declares.
    start : int
        Position of the first wanted session.
    threads : int
        Instruments are shared among this many threads; TA-Lib releases the interpreter lock.

    Returns
    -------
    dict of str -> float32 array, shape (I, S - start)
        In the order of ``names``. NaN at sessions whose high, low, close or volume is missing
        or whose close is not positive, and until an indicator has the traded sessions it needs since the listing.
        Price units are those of the panel.

    Raises
    ------
    UnknownNameError
        The panel lacks a field.
    PanelError
        ``start`` or ``threads`` is out of range.
    """
    size, width = panel.shape
    _check_start(panel, start)
    if threads < 1:
        raise PanelError(f"threads is {threads}; give at least 1")
    fields = tuple(panel[name] for name in FIELDS)
    traded = np.logical_and.reduce([np.isfinite(values) for values in fields[:-1]]) & (panel["close"] > 0)
    bars = np.isfinite(panel["close"])
    out = np.full((len(names), size, width - start), np.nan, np.float32)
    work = partial(_instrument, fields, traded, bars, _blocks(panel.sessions, start), start, names, out)
    if threads == 1 or size < 2:
        for row in range(size):
            work(row)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, range(size)):
                pass
    return dict(zip(names, out, strict=True))


def reach_back(panel: "Panel", start: int) -> np.ndarray:
    """Instruments of which a panel holds too few bars for the sessions from ``start`` on: bool, shape (I,). Those of
    them that were listed before the panel begins are needed from the listing on."""
    _check_start(panel, start)
    bars = np.isfinite(panel["close"])
    found = np.zeros(panel.shape[0], bool)
    for block in _blocks(panel.sessions, start):
        found |= bars[:, block.begin : block.end].any(axis=1) & (bars[:, : block.opened].sum(axis=1) < BARS)
    return found


def _check_start(panel: "Panel", start: int) -> None:
    width = panel.shape[1]
    if not 0 <= start <= width:
        raise PanelError(f"start {start} is outside the panel's {width} sessions; give 0..{width}")


class _Block(NamedTuple):
    """Positions of the wanted sessions of a half-year: its anchor, its own first session, and the first and the end of
    the wanted ones. They share where their series begin."""

    anchor: int
    opened: int
    begin: int
    end: int


def _half(days: np.ndarray | np.datetime64) -> np.ndarray:
    return np.asarray(days).astype("M8[M]").astype(np.int64) // 6


def _anchor(days: np.ndarray | np.datetime64) -> np.ndarray:
    return ((_half(days) - WARMUP_HALVES) * 6).astype("M8[M]").astype("M8[D]")


def _blocks(sessions: np.ndarray, start: int) -> list[_Block]:
    """The half-years from position ``start`` on."""
    if start == len(sessions):
        return []
    halves = _half(sessions)
    edges = start + 1 + np.flatnonzero(np.diff(halves[start:]))
    begins = [start, *edges.tolist()]
    anchors = np.searchsorted(sessions, _anchor(sessions[begins])).tolist()
    opened = np.searchsorted(halves, halves[begins]).tolist()
    return [_Block(*block) for block in zip(anchors, opened, begins, [*begins[1:], len(sessions)], strict=True)]


def _instrument(
    fields: tuple[np.ndarray, ...],
    traded: np.ndarray,
    bars: np.ndarray,
    blocks: list[_Block],
    start: int,
    names: Sequence[str],
    out: np.ndarray,
    row: int,
) -> None:
    """Fill one instrument's row of every output; ``out`` has the shape (features, I, S - start)."""
    for anchor, opened, begin, end in blocks:
        last = np.flatnonzero(bars[row, :opened])[-BARS:]
        first = min([anchor, *last[:1].tolist()])
        at = first + np.flatnonzero(traded[row, first:end])
        wanted = int(np.searchsorted(at, begin))
        if wanted == len(at):
            continue
        values = _series(*(field[row, at].astype(np.float64) for field in fields))
        out[:, row, at[wanted:] - start] = [values[name][wanted:] for name in names]


def _series(high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray, vwap: np.ndarray) -> _Rows:
    """Every indicator of one series of traded sessions, float64, oldest first."""
    import talib

    k, d = talib.STOCH(high, low, close, 14, 3, slowd_period=3)
    macd, signal, histogram = talib.MACD(close, 12, 26, 9)
    upper, middle, lower = talib.BBANDS(close, 20, 2.0, 2.0)
    conversion, base, wide = (_middle(high, low, n) for n in (9, 26, 52))
    kdj_k, kdj_d = _kdj(high, low, close)
    growth = close[1:] / close[:-1]
    return {
        **{f"sma_{n}": talib.SMA(close, n) for n in (5, 10, 20, 60)},
        "ema_20": talib.EMA(close, 20),
        "wma_20": talib.WMA(close, 20),
        "rsi_14": talib.RSI(close, 14),
        "stoch_k": k,
        "stoch_d": d,
        "willr_14": talib.WILLR(high, low, close, 14),
        "cci_20": talib.CCI(high, low, close, 20),
        "mom_10": talib.MOM(close, 10),
        "roc_10": talib.ROC(close, 10),
        "macd": macd,
        "macd_signal": signal,
        "macd_hist": histogram,
        "bb_upper": upper,
        "bb_middle": middle,
        "bb_lower": lower,
        "sar": talib.SAR(high, low, 0.02, 0.2),
        "adx_14": talib.ADX(high, low, close, 14),
        "ichimoku_conversion": conversion,
        "ichimoku_base": base,
        "ichimoku_span_a": _delay((conversion + base) / 2, 26),
        "ichimoku_span_b": _delay(wide, 26),
        "vwap": vwap,
        "vwap_20": _weighted((high + low + close) / 3, volume, 20),
        "obv_120": _counted(talib.OBV(close, volume)),
        "ad_120": _counted(talib.AD(high, low, close, volume)),
        "volume_rsi_14": talib.RSI(volume, 14),
        "atr_14": talib.ATR(high, low, close, 14),
        "volatility_20": _deviation(growth - 1, 20),
        "hist_volatility_20": _deviation(np.log(growth), 20) * np.sqrt(SESSIONS_PER_YEAR),
        "kdj_k": kdj_k,
        "kdj_d": kdj_d,
        "kdj_j": 3 * kdj_k - 2 * kdj_d,
    }


def _middle(high: np.ndarray, low: np.ndarray, n: int) -> np.ndarray:
    import talib

    middle: np.ndarray = (talib.MAX(high, n) + talib.MIN(low, n)) / 2
    return middle


def _delay(values: np.ndarray, n: int) -> np.ndarray:
    out = np.full_like(values, np.nan)
    out[n:] = values[:-n]
    return out


def _counted(cumulative: np.ndarray) -> np.ndarray:
    """What a cumulative series gained over the last ``COUNTED`` rows, or since its beginning while it is shorter."""
    out = cumulative.copy()
    out[COUNTED:] -= cumulative[:-COUNTED]
    return out


def _deviation(returns: np.ndarray, n: int) -> np.ndarray:
    """Sample deviation of ``n`` returns, on the rows of the prices; TA-Lib's is the population's."""
    import talib

    return np.concatenate(([np.nan], talib.STDDEV(returns, n) * np.sqrt(n / (n - 1))))


def _weighted(price: np.ndarray, volume: np.ndarray, n: int) -> np.ndarray:
    """Volume-weighted mean price of ``n`` rows; NaN where nothing was traded."""
    import talib

    # a running sum keeps a residue of what left the window, so it cannot tell an empty window: the maximum can
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(talib.MAX(volume, n) > 0, talib.SUM(price * volume, n) / talib.SUM(volume, n), np.nan)


def _kdj(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K and D: Chinese SMA(x, 3, 1), so 2/3 of yesterday and 1/3 of today, both begun at 50.

    A window without any range has a raw stochastic of 50: the close is as near to the high as to the low.
    """
    import talib
    from scipy.signal import lfilter

    out = np.full((2, len(close)), np.nan)
    if len(close) < 9:
        return out[0], out[1]
    lowest, highest = talib.MIN(low, 9)[8:], talib.MAX(high, 9)[8:]
    spread = highest - lowest
    flat = spread <= 0
    raw = np.where(flat, 50.0, 100 * (close[8:] - lowest) / np.where(flat, 1.0, spread))
    for line in out:
        raw, _ = lfilter([1 / 3], [1, -2 / 3], raw, zi=[50 * 2 / 3])
        line[8:] = raw
    return out[0], out[1]
