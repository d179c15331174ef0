"""Slow, obvious versions of what the engine computes, and Qlib itself as an oracle.

``evaluate`` works on one instrument with plain loops over windows; it shares only the parser with the engine.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from qdag.engine import Panel, parse
from qdag.engine.parser import Expression, Field, Number

FLAT = 2e-5


def evaluate(text: str, fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Evaluate an expression on one instrument's rows, from its listing to its last row; returns float32."""
    with np.errstate(all="ignore"):
        return np.asarray(_series(parse(text), fields)).astype(np.float32)


def _series(node: Expression, fields: Mapping[str, np.ndarray]):
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Field):
        return np.asarray(fields[node.name], np.float32)
    arguments = [_series(argument, fields) for argument in node.arguments]
    return _OPERATORS[node.operator](*arguments, *node.parameters)


def _windows(x, n):
    """Each row's window, oldest first, infinities made NaN."""
    x = np.asarray(x, np.float64).copy()
    x[np.isinf(x)] = np.nan
    for t in range(len(x)):
        yield x[0 if n == 0 else max(0, t - n + 1) : t + 1]


def _rolling(function):
    def apply(x, n, *parameters):
        return np.array([function(w, *parameters) for w in _windows(x, n)], np.float64)

    return apply


def _valid(function, least=1):
    """A statistic of the valid values of a window; NaN with fewer than ``least``."""

    def apply(w, *parameters):
        v = w[~np.isnan(w)]
        return function(v, *parameters) if len(v) >= least else np.nan

    return _rolling(apply)


def _skew(v):
    n, d = len(v), v - v.mean()
    m2 = np.mean(d**2)
    return np.sqrt(n * (n - 1)) / (n - 2) * np.mean(d**3) / m2**1.5 if m2 > 0 else np.nan


def _kurt(v):
    n, d = len(v), v - v.mean()
    m2 = np.mean(d**2)
    if m2 == 0:
        return np.nan
    return (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (np.mean(d**4) / m2**2 - 3) + 6)


def _extreme_place(function):
    def apply(w):
        return np.nan if np.isnan(w).all() else function(w) + 1  # numpy: the first NaN wins

    return _rolling(apply)


def _rank(w):
    v = w[~np.isnan(w)]
    if np.isnan(w[-1]):
        return np.nan
    return ((v < w[-1]).sum() + ((v == w[-1]).sum() + 1) / 2) / len(v)


def _wma(w):
    weights = np.arange(1, len(w) + 1)
    return np.nan if np.isnan(w).all() else np.nanmean(weights / weights.sum() * w)


def _ema(x, n):
    alpha = n if n < 1 else 2 / (n + 1)
    out = []
    for w in _windows(x, 0):
        ok = ~np.isnan(w)
        weights = ((1 - alpha) ** np.arange(len(w) - 1, -1, -1))[ok]
        out.append((weights * w[ok]).sum() / weights.sum() if ok.any() else np.nan)
    return np.array(out)


def _line(x, n, what):
    """Least squares on time; an infinity spoils its windows."""
    x = np.asarray(x, np.float64)
    out = []
    for t in range(len(x)):
        w = x[0 if n == 0 else max(0, t - n + 1) : t + 1]
        position = np.arange(1, len(w) + 1)
        ok = ~np.isnan(w)
        p, y = position[ok].astype(float), w[ok]
        if len(y) < 2 or np.isinf(y).any():
            out.append(np.nan)
            continue
        dp, dy = p - p.mean(), y - y.mean()
        slope = (dp * dy).sum() / (dp**2).sum()
        if what == "slope":
            out.append(slope)
        elif what == "resi":
            out.append(w[-1] - (y.mean() + slope * (position[-1] - p.mean())))
        else:
            flat = n != 0 and y.std(ddof=1) <= FLAT
            out.append(np.nan if flat else (dp * dy).sum() ** 2 / ((dp**2).sum() * (dy**2).sum()))
    return np.array(out)


def _pair(x, y, n, what):
    out = []
    for a, b in zip(_windows(x, n), _windows(y, n), strict=True):
        ok = ~np.isnan(a) & ~np.isnan(b)
        own = [v[~np.isnan(v)] for v in (a, b)]
        p, q = a[ok], b[ok]
        if len(p) < 2:
            out.append(np.nan)
            continue
        dp, dq = p - p.mean(), q - q.mean()
        if what == "cov":
            out.append((dp * dq).sum() / (len(p) - 1))
        elif any(len(v) > 1 and v.std(ddof=1) <= FLAT for v in own):
            out.append(np.nan)
        else:
            out.append((dp * dq).sum() / np.sqrt((dp**2).sum() * (dq**2).sum()))
    return np.array(out)


def _shift(x, n):
    x = np.asarray(x, np.float64 if np.asarray(x).dtype == bool else None)
    if n == 0:
        return np.full_like(x, x[0])
    return pd.Series(x).shift(n).to_numpy()


_OPERATORS = {
    "Abs": np.abs,
    "Sign": lambda x: np.sign(np.asarray(x, np.float32)),
    "Log": np.log,
    "Not": np.logical_not,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Power": np.power,
    "Greater": np.maximum,
    "Less": np.minimum,
    "Gt": np.greater,
    "Ge": np.greater_equal,
    "Lt": np.less,
    "Le": np.less_equal,
    "Eq": np.equal,
    "Ne": np.not_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "If": np.where,
    "Ref": _shift,
    "Delta": lambda x, n: x - _shift(x, n),
    "Mean": _valid(np.mean),
    "Sum": _valid(np.sum),
    "Std": _valid(lambda v: v.std(ddof=1), 2),
    "Var": _valid(lambda v: v.var(ddof=1), 2),
    "Skew": _valid(_skew, 3),
    "Kurt": _valid(_kurt, 4),
    "Max": _valid(np.max),
    "Min": _valid(np.min),
    "IdxMax": _extreme_place(np.argmax),
    "IdxMin": _extreme_place(np.argmin),
    "Quantile": _valid(lambda v, q: np.quantile(v, q)),
    "Med": _valid(np.median),
    "Mad": _valid(lambda v: np.abs(v - v.mean()).mean()),
    "Rank": _rolling(_rank),
    "Count": lambda x, n: np.array(
        [(~np.isnan(np.asarray(x, float)[0 if n == 0 else max(0, t - n + 1) : t + 1])).sum() for t in range(len(x))]
    ),
    "Slope": lambda x, n: _line(x, n, "slope"),
    "Rsquare": lambda x, n: _line(x, n, "rsquare"),
    "Resi": lambda x, n: _line(x, n, "resi"),
    "WMA": _rolling(_wma),
    "EMA": _ema,
    "Corr": lambda x, y, n: _pair(x, y, n, "corr"),
    "Cov": lambda x, y, n: _pair(x, y, n, "cov"),
}


def evaluate_panel(text: str, panel: Panel) -> np.ndarray:
    """``evaluate`` for each instrument of a panel; float32 (I, S), NaN outside each instrument's life."""
    out = np.full(panel.shape, np.nan, np.float32)
    for i, (first, last) in enumerate(zip(panel.first, panel.last, strict=True)):
        if first <= last:
            rows = slice(int(first), int(last) + 1)
            out[i, rows] = evaluate(text, {name: values[i, rows] for name, values in panel.fields.items()})
    return out


_NAMES = "Mean Sum Std Var Skew Kurt Max Min IdxMax IdxMin Med Mad Rank Count Slope Rsquare Resi WMA"
ROLLING = tuple(_NAMES.split(" "))


def operator_expressions(windows: tuple[int, ...] = (5, 10, 20, 30, 60)) -> dict[str, str]:
    """Name -> expression: every operator of Qlib that the engine has, the rolling ones at each window."""
    out: dict[str, str] = {}
    for n in windows:
        out |= {f"{name}_{n}": f"{name}($close, {n})" for name in (*ROLLING, "EMA", "Ref", "Delta")}
        out[f"Quantile_{n}"] = f"Quantile($close, {n}, 0.3)"
        out[f"Corr_{n}"] = f"Corr($close, $volume, {n})"
        out[f"Cov_{n}"] = f"Cov($close, $volume, {n})"
        out[f"Mean_of_infinite_{n}"] = f"Mean($close/$volume, {n})"
        out[f"Std_of_infinite_{n}"] = f"Std($close/$volume, {n})"
        out[f"IdxMax_of_infinite_{n}"] = f"IdxMax($close/$volume, {n})"
        out[f"Rank_of_mean_{n}"] = f"Rank(Mean($close, 3), {n})"
        out[f"Max_of_mean_{n}"] = f"Max(Mean($close, 3), {n})"
        out[f"IdxMin_of_std_{n}"] = f"IdxMin(Std($close, 4), {n})"
    out |= {f"{name}_0": f"{name}($close, 0)" for name in (*ROLLING, "Ref", "Delta")}
    out["Quantile_0"] = "Quantile($close, 0, 0.3)"
    out["EMA_alpha"] = "EMA($close, 0.1)"
    out |= {
        "Abs": "Abs($close-$open)",
        "Sign": "Sign($close-$open)",
        "Sign_of_bool": "Mean(Sign($close>$open), 3)",
        "Log": "Log($close-$open)",
        "Power": "Power($close-$open, 0.5)",
        "Power_number": "2**($close/10)",
        "Power_zero": "Power($close-$open, 0)",
        "Add": "$open+$close+1",
        "Sub": "1-$open-$close",
        "Mul": "2*$open*$close",
        "Div": "$close/($volume-$volume)",
        "Greater": "Greater($close, $open)",
        "Greater_number": "Greater(20, $close)",
        "Less": "Less(Mean($close, 5), $close)",
        "If": "If($close>$open, $close, $open)",
        "If_numbers": "If($close>$open, 1, 0)",
        "If_float_condition": "If($close-$open, $close, 1.5)",
        "Gt": "Mean($close>Ref($close, 1), 5)",
        "Ge": "Mean($close>=$open, 5)",
        "Lt": "Mean(10<$close, 5)",
        "Le": "Mean($close<=$open, 5)",
        "Eq": "Mean($close==Ref($close, 1), 5)",
        "Ne": "Mean($close!=Ref($close, 1), 5)",
        "And": "Mean(And($close>$open, $volume>1000000), 5)",
        "Or": "Mean(($close>$open) | ($volume>1000000), 5)",
        "Not": "Mean(Not($close>$open), 5)",
        "bool_plus_bool": "Mean(($close>$open)+($close>$low), 5)",
        "bool_plus_int": "($close>$open)+1",
        "bool_times_series": "($close>$open)*$close",
        "nested": "Corr(Mean($close, 5), Ref(Std($volume, 10), 3), 20)",
        "numbers": "(2*3+1)*$close/4",
    }
    return out


def nasty_panel(instruments: int = 14, sessions: int = 150, seed: int = 0) -> Panel:
    """A market of everything that breaks kernels.

    Instruments: 1 suspended, 2 late, 3 ended, 4 gaps at the start, 5 constant prices, 6 one row in five missing, 7 no
    volume, 8 one session without volume, 9 a 1e7 offset, 10 an early spike, 11 all missing, 12 a single row.
    """
    rng = np.random.default_rng(seed)
    shape = (instruments, sessions)
    close = 20 * np.exp(np.cumsum(rng.normal(0, 0.02, shape), 1))
    open_ = close * np.exp(rng.normal(0, 0.01, shape))
    high = np.maximum(close, open_) * (1 + np.abs(rng.normal(0, 0.01, shape)))
    low = np.minimum(close, open_) * (1 - np.abs(rng.normal(0, 0.01, shape)))
    volume = np.floor(1e6 * np.exp(rng.normal(0, 0.5, shape)))
    fields = {"open": open_, "high": high, "low": low, "close": np.round(close, 2), "volume": volume}
    fields["vwap"] = (high + low + close) / 3
    prices = [name for name in fields if name != "volume"]
    everything = list(fields)
    third = sessions // 3

    def put(names, i, where, value):
        for name in names:
            if i < instruments:
                fields[name][i, where] = value

    put(everything, 1, slice(third, third + 10), np.nan)
    put(everything, 2, slice(0, third + 7), np.nan)
    put(everything, 3, slice(2 * third, None), np.nan)
    put(everything, 4, [1, 3], np.nan)
    put(prices, 5, slice(third, 2 * third + 20), 7.3)
    put(everything, 6, rng.random(sessions) < 0.2, np.nan)
    put(["volume"], 7, slice(third, third + 70), 0.0)
    put(["volume"], 8, 30, 0.0)
    for name in prices:
        if instruments > 10:
            fields[name][9] = 1e7 + np.round(100 * (fields[name][9] - 20))
            fields[name][10, 3] = 1e9
    put(everything, 11, slice(None), np.nan)
    put(everything, 12, np.arange(sessions) != third, np.nan)
    days = pd.bdate_range("2015-01-01", periods=sessions).to_numpy().astype("M8[D]")
    singles = {name: values.astype(np.float32) for name, values in fields.items()}
    return Panel([f"T{i:04d}" for i in range(instruments)], days, singles)


def write_provider(panel: Panel, root: Path) -> None:
    """Write a Qlib provider directory: calendar, instruments and float32 bins."""
    days = [str(day) for day in panel.sessions]
    (root / "calendars").mkdir(parents=True)
    (root / "calendars" / "day.txt").write_text("\n".join(days) + "\n")
    lines = []
    for i, name in enumerate(panel.instruments):
        first, last = int(panel.first[i]), int(panel.last[i])
        if first > last:
            continue
        lines.append(f"{name}\t{days[first]}\t{days[last]}")
        folder = root / "features" / name.lower()
        folder.mkdir(parents=True)
        for field, values in panel.fields.items():
            np.r_[first, values[i, first : last + 1]].astype("<f4").tofile(folder / f"{field}.day.bin")
    (root / "instruments").mkdir()
    (root / "instruments" / "all.txt").write_text("\n".join(lines) + "\n")


def qlib_init(root: Path) -> None:
    """Point Qlib at a provider directory, in this process only."""
    import qlib

    qlib.init(
        provider_uri=str(root), region="us", kernels=1, expression_cache=None, dataset_cache=None, logging_level=40
    )


def qlib_features(expressions: Mapping[str, str], panel: Panel) -> dict[str, np.ndarray]:
    """What ``D.features`` gives for a panel written by ``write_provider``; float32 (I, S)."""
    from qlib.data import D

    names = [n for n, first, last in zip(panel.instruments, panel.first, panel.last, strict=True) if first <= last]
    frame = D.features(names, list(expressions.values()), disk_cache=0)
    return dict(zip(expressions, on_panel(frame, panel), strict=True))


def on_panel(frame: pd.DataFrame, panel: Panel) -> Iterator[np.ndarray]:
    """Each column of a frame of ``D.features`` as float32 (I, S), NaN where it has no row."""
    rows = pd.Index(panel.instruments).get_indexer(frame.index.get_level_values("instrument"))
    times = frame.index.get_level_values("datetime").to_numpy().astype("M8[D]")
    columns = np.searchsorted(panel.sessions, times)
    for at in range(frame.shape[1]):
        values = np.full(panel.shape, np.nan, np.float32)
        values[rows, columns] = frame.iloc[:, at].to_numpy()
        yield values
