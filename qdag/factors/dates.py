"""Which sessions metrics are dated by, and which sessions they are made of.

Metric date t of horizon h belongs to signal session s = t - (h + 1) of the universe's calendar.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import numpy as np

from qdag.core.windows import around, index_of
from qdag.errors import PanelError, SessionError

ICIR_WINDOW = 252
"""Metric dates that the trailing ratios look at, the date itself included."""


@dataclass(frozen=True)
class MetricDates:
    """Where metric dates of ``horizons``, ascending, are on a calendar: the universe's sessions, datetime64[D].

    Positions of the metric dates are [start, stop), those of their signal sessions [first, last).
    """

    calendar: np.ndarray
    horizons: tuple[int, ...]
    start: int
    stop: int
    first: int
    last: int


def metric_dates(calendar: np.ndarray, horizons: tuple[int, ...], dates: tuple[date, date]) -> MetricDates:
    """Find the metric dates (first, last), both sessions of the calendar; else a :class:`SessionError`."""
    start, end = (np.datetime64(d, "D") for d in dates)
    if end < start:
        raise SessionError(f"metric dates end at {end}, before their start {start}; give (start, end)")
    for day in (start.item(), end.item()):
        if index_of(calendar, day) is None:
            near = ", ".join(around(calendar, day)) or "none, the calendar is empty"
            raise SessionError(f"metric date {day} is no session of the calendar; nearest: {near}")
    begin, stop = int(np.searchsorted(calendar, start)), int(np.searchsorted(calendar, end)) + 1
    first = max(0, begin - (horizons[-1] + 1))
    return MetricDates(calendar, horizons, begin, stop, first, max(first, stop - (horizons[0] + 1)))


def checked_calendar(calendar: np.ndarray, name: str) -> np.ndarray:
    """The calendar as datetime64[D]; a :class:`PanelError` unless it is one increasing array of dates."""
    calendar = np.asarray(calendar)
    if calendar.dtype.kind != "M" or calendar.ndim != 1:
        raise PanelError(f"{name} must be one array of datetime64, got dtype {calendar.dtype}, shape {calendar.shape}")
    calendar = calendar.astype("datetime64[D]")
    if np.any(np.diff(calendar) <= np.timedelta64(0, "D")):
        raise PanelError(f"{name} must be strictly increasing; sort and drop duplicates first")
    return calendar


def checked_horizons(horizons: Iterable[int]) -> tuple[int, ...]:
    """Horizons in ascending order; a :class:`PanelError` where there is none or one below a session."""
    ordered = tuple(sorted(int(h) for h in horizons))
    if not ordered or ordered[0] < 1:
        raise PanelError(f"horizons must be whole sessions >= 1 and at least one, got {list(ordered)}")
    return ordered


def signal_sessions(calendar: np.ndarray, horizons: tuple[int, ...], dates: tuple[date, date]) -> np.ndarray:
    """Sessions whose factor values, labels and pool the metric dates (start, end), inclusive, are made of.

    Parameters
    ----------
    calendar : array of datetime64[D], the universe's sessions from its first on
    horizons : sessions of forward return
    dates : first and last metric date, both sessions

    Returns
    -------
    array of datetime64[D], contiguous; empty when no label is known yet at the universe's beginning
    """
    calendar = checked_calendar(calendar, "calendar")
    at = metric_dates(calendar, checked_horizons(horizons), dates)
    return calendar[at.first : at.last]


def history_sessions(calendar: np.ndarray, start: date, window: int = ICIR_WINDOW) -> np.ndarray:
    """Metric dates before ``start`` whose stored metrics the trailing ratios need: up to window - 1 sessions."""
    calendar = checked_calendar(calendar, "calendar")
    at = metric_dates(calendar, (1,), (start, start)).start
    return calendar[max(0, at - (window - 1)) : at]
