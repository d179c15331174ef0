"""The frames that the rules of raw_ohlcv are judged on, and the measures of each row: what the rows before say of it.

A row is compared with its instrument's row before it, if that is at most ``ACTIVE_SESSIONS`` sessions old. Enough
sessions before the window are read that what is said of a row does not depend on where the window begins.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd

from qdag.quality.checks import (
    INSTRUMENT_KEYS,
    Frames,
    Scope,
    bar_sessions,
    coded,
    declared,
    numbers,
    read_frame,
    read_rows,
    row_days,
    session_frame,
    timeliness,
)
from qdag.quality.market import ACTIVE_SESSIONS, TABLE, VOLUME_ROWS
from qdag.quality.profiles import profile
from qdag.schema import FINDINGS, QUARANTINE, RAW_OHLCV
from qdag.settings import QualitySettings

RAW_BEFORE = 2 * ACTIVE_SESSIONS + 5
"""Sessions read before the window, so that what is said of a row does not depend on where the window begins."""
VOLUME_LEAST = 10
"""Fewer rows before than these make no usual volume."""
CONVENTIONS = ("factor_convention",)
"""Kinds of findings in which vendor and events only follow different conventions."""
FEW_ROWS = 5
"""Fewer refused ones than these are listed but never stop the chain, however small the universe."""
COLUMNS = tuple(c.name for c in RAW_OHLCV.columns)
"""The declared columns."""
RAW_FIELDS = ("open", "high", "low", "close", "volume", "amount", "vwap", "factor", "split", "dividend")
"""The columns of raw_ohlcv that hold numbers."""
MEASURES = (
    "adjusted_return",
    "move",
    "jump_limit",
    "event_limit",
    "spike",
    "spike_limit",
    "extreme",
    "around",
    "factor_step",
    "factor_error",
    "unchanged",
    "volume_ratio",
    "vwap_outside",
    "absent",
)
"""What :func:`measures` says of each row."""


def frames(scope: Scope, columns: Sequence[str] = COLUMNS) -> Frames:
    """Yield the frames of raw_ohlcv; none for a window without a session.

    Parameters
    ----------
    columns : the declared ones, keys included

    Raises
    ------
    MissingDataError
        The table does not exist.
    """
    window = scope.sessions()
    if not len(window):
        return
    yield from declared(scope, TABLE, columns)
    yield from timeliness(scope, bar_sessions(scope), _due(scope))
    sessions = scope.sessions(before=RAW_BEFORE)
    bars = read_rows(scope, TABLE, sessions[0], sessions[-1], [*INSTRUMENT_KEYS, *RAW_FIELDS])
    days = row_days(bars)
    codes, names = coded(bars)
    values = {name: numbers(bars, name).astype(np.float64, copy=False) for name in RAW_FIELDS}
    position = np.searchsorted(sessions, days)
    values |= measures(scope.limits, values, codes, np.array(names, object), days, position)
    inside = days >= window[0]
    date_column = days[inside].astype("M8[s]")
    instrument = pd.Categorical.from_codes(codes[inside], pd.Index(names, dtype=object))
    shown = {name: values[name][inside] for name in (*RAW_FIELDS, *MEASURES)}
    rows = pd.DataFrame({"date": date_column, "instrument": instrument, **shown}, copy=False)
    yield "rows", rows

    refused = _refused(scope, window)
    lines = refused[refused["line"] != 0]
    known = np.isin(days, sessions) & (codes >= 0)
    present = np.zeros((len(names), len(sessions)), bool)
    present[codes[known], position[known]] = True
    by_session = _by_session(window, days[inside], present, lines)
    yield "sessions", by_session[by_session["date"] <= _delivered(scope, by_session)]
    yield "instruments", _by_instrument(names, present, len(window))

    nulls = {name: float(np.isnan(shown[name]).mean()) if len(rows) else 1.0 for name in RAW_FIELDS}
    fields = pd.DataFrame({"field": list(nulls), "rows": len(rows), "null_share": list(nulls.values())})
    yield "fields", fields[fields["null_share"] < 1]
    begins = rows[rows["absent"] >= ACTIVE_SESSIONS]
    yield "listings", begins[["date", "instrument", "absent"]].astype({"absent": np.int64, "instrument": object})

    yield "refused_files", refused[refused["line"] == 0]
    # one line of every file and reason comes before the second of any
    turn = lines.groupby(["source", "reason"]).cumcount()
    yield "refused_rows", lines.iloc[np.argsort(turn.to_numpy(), kind="stable")]
    files = refused.loc[refused["line"] == 0, "source"].nunique()
    total = files + len(np.unique(codes[inside]))
    yield "refused_share", pd.DataFrame([{"refused": files, "files": total, "share": files / max(total, 1)}])
    noticed = _findings(scope, window)
    explained = noticed["kind"].isin(CONVENTIONS)
    yield "findings", noticed[~explained]
    yield "conventions", noticed[explained]
    described = [*RAW_FIELDS, "adjusted_return"]
    yield "profile", profile(days[inside], described, np.column_stack([shown[c] for c in described]))


def _due(scope: Scope) -> date:
    """The session that should be stored: the newest that has closed, or the end that the universe has."""
    closed = scope.calendar().closed_before(scope.now or datetime.now(UTC))
    end = scope.settings.universe(scope.universe).end
    return min(closed, end) if end else closed


def _by_session(window: np.ndarray, days: np.ndarray, present: np.ndarray, refused: pd.DataFrame) -> pd.DataFrame:
    """One line per session: rows, those expected, and the refused ones.

    Parameters
    ----------
    window : sessions that are judged, the last of those of ``present``
    days : of the rows
    present : which instruments have a row, shape (instruments, sessions)
    refused : the rows in the quarantine
    """
    frame = session_frame(window, days)
    width = present.shape[1]
    counts = np.concatenate([np.zeros((len(present), 1), np.int32), present.cumsum(axis=1, dtype=np.int32)], axis=1)
    at = np.arange(1, width + 1)
    active = counts[:, at] > counts[:, np.maximum(at - 1 - ACTIVE_SESSIONS, 0)]
    expected = pd.Series(active.sum(axis=0)[width - len(window) :], index=window.astype("M8[s]"))
    frame["expected"] = frame["date"].map(expected)
    frame["share"] = frame["rows"] / frame["expected"].where(frame["expected"] > 0)
    frame["refused"] = frame["date"].map(refused.groupby("date").size()).fillna(0).astype(np.int64)
    share = frame["refused"] / (frame["refused"] + frame["rows"]).clip(lower=1)
    frame["refused_share"] = share.where(frame["refused"] >= FEW_ROWS, 0.0)
    return frame


def _by_instrument(names: Sequence[str], present: np.ndarray, window: int) -> pd.DataFrame:
    """One line per instrument with a row in the last ``window`` sessions: its rows, and sessions from first to last."""
    width = present.shape[1]
    last = width - 1 - present[:, ::-1].argmax(axis=1)
    first = np.maximum(present.argmax(axis=1), width - window)
    listed = np.maximum(last - first + 1, 0)
    seen = present[:, width - window :].sum(axis=1)
    spans = pd.DataFrame({"instrument": names, "sessions": listed, "rows": seen})[listed > 0]
    spans["share"] = spans["rows"] / spans["sessions"]
    return spans


def _delivered(scope: Scope, sessions: pd.DataFrame) -> pd.Timestamp:
    """The newest session of the delivery: the sessions after it are late, which is another matter than a hole.

    Of a universe without any row, the last session of the window.
    """
    stored = scope.store.sessions(TABLE, scope.universe)
    if not len(stored):
        return sessions["date"].max()
    refused = sessions.loc[sessions["refused"] > 0, "date"]
    return max([pd.Timestamp(stored[-1]), *refused.tail(1)])


def _refused(scope: Scope, window: np.ndarray) -> pd.DataFrame:
    """The window's lines of the quarantine; line 0 is a whole file."""
    names = ["date", "instrument", "source", "line", "reason"]
    if scope.store.exists(QUARANTINE.name):
        return read_frame(scope, QUARANTINE.name, window[0], window[-1], names)
    return pd.DataFrame({name: pd.Series([], dtype="M8[s]" if name == "date" else object) for name in names})


def _findings(scope: Scope, window: np.ndarray) -> pd.DataFrame:
    """What was noticed of the window's rows, one of every kind before the second of any."""
    names = ["date", "instrument", "kind", "value", "expected", "detail"]
    if not scope.store.exists(FINDINGS.name):
        return pd.DataFrame({name: pd.Series([], dtype=object) for name in names})
    found = read_frame(scope, FINDINGS.name, window[0], window[-1], names)
    return found.iloc[np.argsort(found.groupby("kind").cumcount().to_numpy(), kind="stable")]


def measures(
    limits: QualitySettings,
    values: Mapping[str, np.ndarray],
    codes: np.ndarray,
    names: np.ndarray,
    days: np.ndarray,
    position: np.ndarray,
) -> dict[str, np.ndarray]:
    """What the rows before say of each row; NaN where there is nothing to say.

    A row is compared with the instrument's row before it, if that is at most ``ACTIVE_SESSIONS`` sessions old.

    Parameters
    ----------
    values : ``RAW_FIELDS`` of the rows, by date; null is NaN
    codes : position of each row's instrument in ``names``
    days : of the rows, M8[D]
    position : of the days among the sessions
    """
    order = np.argsort(codes, kind="stable")
    at = position[order]
    size = len(order)
    if not size:
        return {name: np.empty(0) for name in MEASURES}
    row = np.arange(size)
    new = np.append(True, codes[order][1:] != codes[order][:-1])
    begin = np.maximum.accumulate(np.where(new, row, 0))
    v = {name: column[order] for name, column in values.items()}

    def before(column: np.ndarray) -> np.ndarray:
        return np.where(new, np.nan, np.append(np.nan, column[:-1]))

    gap = np.where(new, at - at.min(), at - np.append(0, at[:-1]))
    near = ~new & (gap <= ACTIVE_SESSIONS)
    # sessions without a row before this one: of a first row, those since the data begins
    absent = np.where(new, gap, gap - 1)
    starts = absent >= ACTIVE_SESSIONS
    start = np.maximum.accumulate(np.where(new | starts, row, 0))
    fresh = starts[start] & (row - start < limits.listing_sessions)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        adjusted = v["close"] * v["factor"]
        previous = before(adjusted)
        change = np.where(near, adjusted / previous - 1, np.nan)
        step = np.where(near, v["factor"] / before(v["factor"]), np.nan)
        event = (np.nan_to_num(v["split"], nan=1.0) != 1) | (np.nan_to_num(v["dividend"]) > 0)
        event |= np.abs(np.nan_to_num(step, nan=1.0) - 1) > 1e-9
        band = price_limits(limits, names, codes[order], days[order])
        banded = ~fresh & ~np.isnan(band)
        # the exchange rounds the previous close and the limit price, half a tick each
        rounded = band + limits.tick / (previous / v["factor"]) + 1e-6
        limit = np.where(banded, rounded, limits.jump)

        # what else is known of the row's prices: open and close, and the range of the row before
        def reach(inner: np.ndarray, earlier: np.ndarray, widest: np.ufunc) -> np.ndarray:
            return widest(inner, np.where(near, before(earlier * v["factor"]) / v["factor"], np.nan))

        top = reach(np.fmax(v["open"], v["close"]), v["high"], np.fmax)
        bottom = reach(np.fmin(v["open"], v["close"]), v["low"], np.fmin)
        above, below = v["high"] / top - 1, 1 - v["low"] / bottom
        upwards = np.nan_to_num(above) >= np.nan_to_num(below)

        paid = v["dividend"] / before(v["close"])
        expected = v["split"] / np.where(paid < 1, 1 - paid, np.nan)
        error = np.where(~new & (gap == 1), np.abs(step / expected - 1), np.nan)

        still = near & (v["close"] == before(v["close"])) & (v["volume"] > 0)
        run = row - np.maximum.accumulate(np.where(still, 0, row)) + 1.0

        shares = v["volume"] / v["factor"]
        logarithm = np.where(shares > 0, np.log(shares), 0.0)
        # a bar of one price is locked at a limit: its volume says nothing of the usual one
        counted = (shares > 0) & np.isfinite(logarithm) & (v["high"] > v["low"])
        total = np.append(0.0, np.cumsum(np.where(counted, logarithm, 0.0)))
        count = np.append(0, np.cumsum(counted))
        low = np.maximum(begin, row - VOLUME_ROWS)
        known = count[row] - count[low]
        usual = (total[row] - total[low]) / np.maximum(known, 1)
        ratio = np.where((known >= VOLUME_LEAST) & counted, np.exp(logarithm - usual), np.nan)

        outside = np.maximum(np.maximum(v["low"] - v["vwap"], v["vwap"] - v["high"]), 0) / v["close"]
    found = {
        "adjusted_return": change,
        "move": np.abs(change),
        "jump_limit": np.where(event, np.nan, limit),
        "event_limit": np.where(event, limit, np.nan),
        "spike": np.fmax(above, below),
        "spike_limit": np.where(banded, rounded, limits.spike),
        "extreme": np.where(upwards, v["high"], v["low"]),
        "around": np.where(upwards, top, bottom),
        "factor_step": step,
        "factor_error": error,
        "unchanged": run,
        "volume_ratio": ratio,
        "vwap_outside": outside,
        "absent": absent.astype(np.float64),
    }
    back = np.empty(size, np.int64)
    back[order] = row
    return {name: column[back] for name, column in found.items()}


def price_limits(limits: QualitySettings, names: np.ndarray, codes: np.ndarray, days: np.ndarray) -> np.ndarray:
    """The exchange's limit of each row, NaN where it has none."""
    band = np.full(len(codes), np.nan)
    for rule in sorted(limits.price_limits, key=lambda r: (len(r.prefix), r.since or date.min)):
        fits = np.array([str(name).startswith(rule.prefix) for name in names], bool)[codes]
        if rule.since is not None:
            fits &= days >= np.datetime64(rule.since, "D")
        band[fits] = rule.limit
    return band
