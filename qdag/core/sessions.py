"""Exchange calendars as a session index. Trading days and closes come from ``exchange_calendars``, nothing else."""

from datetime import date, datetime, time, timedelta
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from qdag.core.windows import around, index_of, within
from qdag.errors import SessionError, unknown
from qdag.settings import UniverseSettings

# how far past today an open-ended calendar reaches; exchanges publish holidays about a year ahead
AHEAD = timedelta(days=365)


class SessionCalendar:
    """The sessions of one exchange between two days.

    Parameters
    ----------
    name : exchange-calendars code, for example ``XNYS`` or ``XSHG``
    start : first day
    end : last day, inclusive. None means one year past today, or as far as the exchange's holidays are known.

    Raises
    ------
    SessionError
        On use: the calendar is not known that early or that late, or has no session in the range.
    UnknownNameError
        On use: no exchange has that code.
    """

    def __init__(self, name: str, start: date, end: date | None = None):
        if end is not None and end < start:
            raise SessionError(f"calendar {name}: start {start} is after end {end}; give the earlier day first")
        self.name = name
        self.start = start
        self.end = end

    def __repr__(self) -> str:
        return f"SessionCalendar({self.name!r}, {self.start}, {self.end or 'open'})"

    @cached_property
    def all(self) -> np.ndarray:
        """Every session from ``start`` to ``end``; datetime64[D], increasing, read-only."""
        days, _ = self._exchange
        days = days[days >= np.datetime64(self.start, "D")]
        if self.end is not None:
            days = days[days <= np.datetime64(self.end, "D")]
        if not len(days):
            raise SessionError(f"calendar {self.name} has no session from {self.start} to {self.end}; widen the range")
        days.flags.writeable = False
        return days

    @cached_property
    def _exchange(self) -> tuple[np.ndarray, np.ndarray]:
        """Sessions and their closes (UTC) from ``start`` to a year past the later of ``end`` and today."""
        return _exchange(self.name, self.start, max(self.end or self.start, date.today()) + AHEAD, self.end)

    def between(self, start: date, end: date) -> np.ndarray:
        """Sessions d of the calendar with start <= d <= end; datetime64[D], empty where there are none.

        Raises
        ------
        SessionError
            The range is reversed.
        """
        if end < start:
            raise SessionError(f"start {start} is after end {end}; give the earlier day first")
        return within(self.all, start, end)

    def contains(self, day: date) -> bool:
        """Whether the day is a session of the calendar."""
        return index_of(self.all, day) is not None

    def position(self, day: date) -> int:
        """0-based position of a session in ``all``; SessionError for a day that is none, naming its neighbours."""
        if (at := index_of(self.all, day)) is None:
            near = " and ".join(around(self.all, day))
            raise SessionError(f"{day} is no session of calendar {self.name}; nearest: {near}")
        return at

    def shift(self, day: date, n: int) -> date:
        """The session n sessions after ``day`` (before it for negative n); SessionError outside the calendar."""
        at = self.position(day) + n
        if not 0 <= at < len(self.all):
            raise SessionError(
                f"{abs(n)} sessions {'after' if n > 0 else 'before'} {day} lie outside calendar {self.name} "
                f"({self.all[0]} to {self.all[-1]}); choose a nearer day or widen the universe's range"
            )
        return self.all[at].item()

    def month_ends(self) -> np.ndarray:
        """The last exchange session of every month, where it lies in the calendar; datetime64[D]."""
        # an open calendar reaches into the future, and its last month may not be whole
        after = np.array([], "M8[D]") if self.end is None else self.future(1, after=self.all[-1].item())
        following = np.append(self.all[1:], after)
        days = self.all[: len(following)]
        return days[days.astype("M8[M]") != following.astype("M8[M]")]

    def closed_before(self, now: datetime) -> date:
        """The last session of the calendar whose close is at or before ``now`` (half days close early).

        Raises
        ------
        SessionError
            ``now`` has no time zone, or is before the first close.
        """
        if now.tzinfo is None:
            raise SessionError(f"time {now} has no time zone; give an aware datetime, for example datetime.now(UTC)")
        days, closes = self._exchange
        instant = np.datetime64(int(now.timestamp() * 1_000_000), "us")
        at = int(np.searchsorted(closes, instant, side="right"))
        closed = days[:at]
        closed = closed[closed <= self.all[-1]]
        if not len(closed):
            raise SessionError(f"no session of calendar {self.name} has closed by {now}; the first is {self.all[0]}")
        return closed[-1].item()

    def closed_between(self, start: date, end: date, now: datetime) -> np.ndarray:
        """Sessions of :meth:`between` whose close is at or before ``now``: those that can have their data.

        Raises
        ------
        SessionError
            The range is reversed, or as in :meth:`closed_before`.
        """
        sessions = self.between(start, end)
        return sessions[sessions <= np.datetime64(self.closed_before(now), "D")]

    @cached_property
    def close(self) -> tuple[str, time]:
        """Time zone of the exchange, and the local time at which a whole session closes now."""
        exchange = _whole(self.name)
        return str(exchange.tz), exchange.close_times[-1][1]

    def future(self, n: int, after: date | None = None) -> np.ndarray:
        """The n sessions after a day: by default after ``end``, or after today where the calendar is open.

        Raises
        ------
        SessionError
            The exchange's holidays are not known that far.
        """
        after = after or self.end or date.today()
        days, _ = self._exchange
        found = days[days > np.datetime64(after, "D")][:n]
        if len(found) < n:
            raise SessionError(
                f"calendar {self.name} knows {len(found)} sessions after {after}, {n} were asked for; "
                "ask for fewer, or update exchange_calendars"
            )
        return found


def calendar_for(universe_settings: UniverseSettings) -> SessionCalendar:
    """The calendar of a universe, cached per day: an open-ended one reaches a year past today."""
    return _calendar(universe_settings.calendar, universe_settings.start, universe_settings.end, date.today())


@lru_cache(maxsize=64)
def _calendar(name: str, start: date, end: date | None, today: date) -> SessionCalendar:
    return SessionCalendar(name, start, end)


@lru_cache(maxsize=64)
def _exchange(name: str, start: date, until: date, end: date | None) -> tuple[np.ndarray, np.ndarray]:
    import exchange_calendars

    kind = type(_whole(name))
    low, high = kind.bound_min(), kind.bound_max()
    if low is not None and start < low.date():
        raise SessionError(f"calendar {name} is known from {low.date()} on, not from {start}; choose a later start")
    if high is not None:
        if end is not None and end > high.date():
            raise SessionError(
                f"calendar {name} is known up to {high.date()}, not to {end}; "
                "choose an earlier end, or update exchange_calendars"
            )
        until = min(until, high.date())
    try:
        calendar = exchange_calendars.get_calendar(name, start=start.isoformat(), end=until.isoformat())
    except Exception as error:
        raise SessionError(_unbuilt(f"{name} from {start} to {until}", error)) from error
    closes = calendar.closes.dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    return calendar.sessions.to_numpy().astype("datetime64[D]"), closes


def _whole(name: str) -> Any:
    """The package's calendar of an exchange, over its own range."""
    import exchange_calendars

    known = exchange_calendars.get_calendar_names(include_aliases=True)
    if name not in known:
        raise unknown("exchange calendar", name, known)
    try:
        return exchange_calendars.get_calendar(name)
    except Exception as error:  # mistakes in the rules of single exchanges are of any type
        raise SessionError(_unbuilt(name, error)) from error


def _unbuilt(what: str, error: Exception) -> str:
    return (
        f"calendar {what} cannot be built by exchange_calendars: {type(error).__name__}: {error}; "
        "choose another calendar or range, or another version of the package"
    )
