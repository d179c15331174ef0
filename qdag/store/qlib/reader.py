"""Reading a provider directory back: its calendar, instruments, pools and values."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TypeVar

import numpy as np

from qdag.core.pools import Pool, Span
from qdag.engine.panel import Panel
from qdag.errors import MissingDataError, StoreError, unknown
from qdag.schema import ENGINE_FIELDS
from qdag.store.qlib.layout import SUFFIX, folder_name, parse_bin, read_days, read_lines, read_spans

T = TypeVar("T")
Days = dict[str, tuple[date, date]]


def read_calendar(provider: Path, missing_ok: bool = False) -> np.ndarray:
    """Published sessions, datetime64[D].

    Raises
    ------
    MissingDataError
        There is no provider; not where ``missing_ok``, then there are no sessions.
    StoreError
        The file is no list of dates.
    """
    path = Path(provider) / "calendars" / "day.txt"
    if not path.exists():
        if missing_ok:
            return np.array([], "datetime64[D]")
        raise MissingDataError(
            f"no Qlib provider at {str(provider)!r} (no calendars/day.txt); materialize qlib_bin first"
        )
    return read_sessions(path)


def read_sessions(path: Path) -> np.ndarray:
    """The days of a calendar file of the directory, datetime64[D]; StoreError where it is no list of dates."""
    try:
        return read_days(path)
    except ValueError as error:
        raise StoreError(f"{error}; delete it and materialize qlib_bin again") from None


def read_instruments(provider: Path, pool: str = "all") -> dict[str, tuple[np.datetime64, np.datetime64]]:
    """First and last date of each instrument of a pool file; several spans of one instrument count as one.

    Without a file there are none. StoreError: a line of it is damaged.
    """
    path = _pool_file(provider, pool)
    return _sound(read_spans, path) if path.exists() else {}


def read_pool(provider: Path, name: str) -> Pool | None:
    """A pool with all its spans, instruments under their own names; None without a file (Qlib reads no empty one).

    StoreError: a line of the file is damaged.
    """
    path = _pool_file(provider, name)
    if not path.exists():
        return None
    return Pool(name, tuple(sorted(_sound(_members, path))))


def _members(path: Path) -> list[Span]:
    spans = []
    for name, first, last in read_lines(path):
        if not first <= last:
            raise ValueError(f"{path}: {name!r} is listed from {first} to {last}, which is no span of days")
        spans.append(Span(name, first.astype(date), last.astype(date)))
    return spans


def _pool_file(provider: Path, pool: str) -> Path:
    return Path(provider) / "instruments" / f"{pool}.txt"


def _sound(read: Callable[[Path], T], path: Path) -> T:
    try:
        return read(path)
    except ValueError as error:
        raise StoreError(
            f"{error}; delete the calendar beside it (calendars/day.txt) and materialize qlib_bin again"
        ) from None


def published_days(provider: Path) -> Days:
    """First and last session of every instrument that the directory lists, within its calendar."""
    calendar = read_calendar(provider, missing_ok=True)
    listed = published_positions(read_instruments(provider), calendar)
    sessions = calendar.tolist()
    return {name: (sessions[first], sessions[last]) for name, (first, last) in listed.items()}


def published_positions(
    spans: Mapping[str, tuple[np.datetime64, np.datetime64]], published: np.ndarray
) -> dict[str, tuple[int, int]]:
    """First and last position of each instrument in the published calendar; who has no session in it is left out.

    Parameters
    ----------
    spans : first and last day, as of :func:`read_instruments`
    published : sessions, datetime64[D], increasing
    """
    if not spans:
        return {}
    days = np.array(list(spans.values()), "datetime64[D]")
    low = np.searchsorted(published, days[:, 0]).tolist()
    # a crash between the instruments and the calendar leaves spans that end after it
    high = (np.searchsorted(published, days[:, 1], side="right") - 1).tolist()
    return {name: (first, last) for name, first, last in zip(spans, low, high, strict=True) if first <= last}


def read_provider_panel(
    provider: Path,
    fields: Sequence[str] = ENGINE_FIELDS,
    instruments: Sequence[str] | None = None,
    start: date | np.datetime64 | None = None,
    end: date | np.datetime64 | None = None,
    missing_ok: bool = False,
) -> Panel:
    """Read files straight into a float32 panel over the published sessions from ``start`` to ``end`` (inclusive).

    Parameters
    ----------
    instruments : in this order; None is all, sorted
    start, end : None is the first and the last published session
    missing_ok : an instrument or field without a file is NaN

    Raises
    ------
    UnknownNameError
        An instrument or field without a file.
    MissingDataError
        There is no provider.
    StoreError
        A file is damaged.
    """
    provider = Path(provider)
    calendar = read_calendar(provider)
    low = 0 if start is None else int(np.searchsorted(calendar, np.asarray(start, "datetime64[D]"), "left"))
    high = len(calendar) if end is None else int(np.searchsorted(calendar, np.asarray(end, "datetime64[D]"), "right"))
    high = max(low, high)
    listed = read_instruments(provider)
    names = tuple(sorted(listed)) if instruments is None else tuple(instruments)
    arrays = {f: np.full((len(names), high - low), np.nan, "f4") for f in fields}
    first, last = np.full(len(names), high - low), np.full(len(names), -1)
    for i, name in enumerate(names):
        if name not in listed and not missing_ok:
            raise unknown("instrument", name, listed)
        folder = provider / "features" / folder_name(name)
        for field_name, rows in arrays.items():
            path = folder / f"{field_name.lower()}{SUFFIX}"
            try:
                begin, values = parse_bin(path.read_bytes(), path)
            except FileNotFoundError:
                if missing_ok:
                    continue
                known = sorted(p.name.removesuffix(SUFFIX) for p in folder.glob(f"*{SUFFIX}"))
                raise unknown(f"field of instrument {name!r}", field_name, known) from None
            except ValueError as error:
                raise StoreError(f"{error}; rebuild the provider") from None
            at = max(begin - low, 0)
            part = values[max(low - begin, 0) : max(high - begin, 0)]
            rows[i, at : at + len(part)] = part
            if len(part):
                first[i], last[i] = min(first[i], at), max(last[i], at + len(part) - 1)
    return Panel(names, calendar[low:high], arrays, first=first, last=last)
