"""Days as people write them."""

import re
from datetime import date, datetime, timedelta

import numpy as np

from qdag.core.windows import around, index_of
from qdag.errors import SessionError

Day = date | datetime | np.datetime64 | str
"""A date, a datetime (its day), a numpy datetime64, or a text: "2020-01-31", "2020-06" or "2020"."""

_WRITTEN = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ].*)?)?)?")


def day(given: Day, last: bool = False) -> date:
    """The day that is meant; of a year or a month its first day, or its ``last`` one.

    Raises
    ------
    SessionError
        It is no day.
    """
    if isinstance(given, datetime):
        return given.date()
    if isinstance(given, date):
        return given
    written = _WRITTEN.fullmatch(str(given)) if isinstance(given, str | np.datetime64) else None
    try:
        if written is None:
            raise ValueError
        year, month, number = written.groups()
        if number:
            return date(int(year), int(month), int(number))
        first = date(int(year), int(month or 1), 1)
        if not last:
            return first
        return first.replace(month=12, day=31) if month is None else _month_end(first)
    except ValueError:
        raise SessionError(f"{given!r} is no day; give a date, or a text as 2020-01-31, 2020-01 or 2020") from None


def span(start: Day | None, end: Day | None) -> tuple[date | None, date | None]:
    """First and last day of a range, None where a side is open.

    Raises
    ------
    SessionError
        A side is no day, or the range is reversed.
    """
    first = None if start is None else day(start)
    final = None if end is None else day(end, last=True)
    if first is not None and final is not None and final < first:
        raise SessionError(f"start {first} is after end {final}; give the earlier day first")
    return first, final


def session(given: Day, sessions: np.ndarray, what: str) -> date:
    """A day that is one of some sessions (datetime64[D], increasing).

    Raises
    ------
    SessionError
        It is none of them; the nearest are named.
    """
    asked = day(given)
    if index_of(sessions, asked) is None:
        near = " and ".join(around(sessions, asked)) or "none"
        raise SessionError(f"{asked} is no session of {what}; nearest: {near}")
    return asked


def _month_end(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
