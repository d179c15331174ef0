"""Pools: point-in-time membership lists inside a universe. Which instruments are ingested is the source's business."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from qdag.errors import SourceError

ALL = "all"
"""The pool of every instrument, which always exists."""


@dataclass(frozen=True, order=True)
class Span:
    """An instrument is a member from ``start`` to ``end``, both inclusive."""

    instrument: str
    start: date
    end: date

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise SourceError(f"span of {self.instrument!r}: start {self.start} is after end {self.end}; swap them")


@dataclass(frozen=True)
class Pool:
    """A named membership list. An instrument may have several spans: it leaves and comes back."""

    name: str
    spans: tuple[Span, ...]

    def mask(self, instruments: Sequence[str], sessions: np.ndarray) -> np.ndarray:
        """Membership on each session: bool (I, S); False for an instrument without a span.

        Spans of instruments that are not asked for are left out. ``sessions``: datetime64[D], shape (S,), increasing.
        """
        sessions = np.asarray(sessions).astype("datetime64[D]")
        row = {name: i for i, name in enumerate(instruments)}
        member = np.zeros((len(instruments), len(sessions)), bool)
        for span in self.spans:
            if (at := row.get(span.instrument)) is not None:
                low = np.searchsorted(sessions, np.datetime64(span.start, "D"))
                high = np.searchsorted(sessions, np.datetime64(span.end, "D"), side="right")
                member[at, low:high] = True
        return member

    def counts(self, sessions: np.ndarray) -> np.ndarray:
        """Members on each session: int64 (S,), for spans that do not overlap. ``sessions`` as in :meth:`mask`."""
        sessions = np.asarray(sessions).astype("datetime64[D]")
        start = np.sort(np.array([s.start for s in self.spans], "M8[D]"))
        end = np.sort(np.array([s.end for s in self.spans], "M8[D]"))
        return np.searchsorted(start, sessions, side="right") - np.searchsorted(end, sessions)

    def members(self, day: date) -> tuple[str, ...]:
        """Who is a member on a day, sorted."""
        return tuple(sorted({s.instrument for s in self.spans if s.start <= day <= s.end}))

    def joined(self) -> tuple["Pool", int]:
        """The same days of membership in spans that do not overlap, sorted; and how many overlapped one before them."""
        spans: list[Span] = []
        for span in sorted(self.spans):
            last = spans[-1] if spans else None
            if last and last.instrument == span.instrument and span.start <= last.end:
                spans[-1] = Span(span.instrument, last.start, max(last.end, span.end))
            else:
                spans.append(span)
        return Pool(self.name, tuple(spans)), len(self.spans) - len(spans)

    def clipped(self, stored: Mapping[str, tuple[date, date]], sessions: np.ndarray) -> tuple["Pool", tuple[str, ...]]:
        """The membership on the sessions within each instrument's stored days, first and last inclusive.

        Spans begin and end on sessions, and no session lies between two of one instrument without being left out.

        Returns the pool, and the instruments (sorted) of which nothing is left: they are not in ``stored``, or nothing
        of them is stored while they are members.
        """
        sessions = np.asarray(sessions).astype("datetime64[D]")
        kept = []
        for span in sorted(self.spans):
            if held := stored.get(span.instrument):
                kept.append((span.instrument, max(span.start, held[0]), min(span.end, held[1])))
        low = np.searchsorted(sessions, np.array([start for _, start, _ in kept], "M8[D]")).tolist()
        high = np.searchsorted(sessions, np.array([end for *_, end in kept], "M8[D]"), side="right").tolist()
        runs: list[tuple[str, int, int]] = []
        for (name, _, _), begin, end in zip(kept, low, high, strict=True):
            if begin >= end:
                continue
            if runs and runs[-1][0] == name and begin <= runs[-1][2]:
                runs[-1] = name, runs[-1][1], max(end, runs[-1][2])
            else:
                runs.append((name, begin, end))
        lost = {s.instrument for s in self.spans} - {name for name, _, _ in runs}
        spans = tuple(Span(n, sessions[b].item(), sessions[e - 1].item()) for n, b, e in runs)
        return Pool(self.name, spans), tuple(sorted(lost))


def top_pool(
    name: str, size: int, window: int, instruments: Sequence[str], sessions: np.ndarray, traded: np.ndarray
) -> Pool:
    """The most traded instruments, chosen at the first session of every month for the whole month.

    Parameters
    ----------
    size : members; fewer where fewer have traded
    window : sessions before the month's first one whose mean traded value decides; those that exist, at the beginning
    sessions : every session of the universe from its first on, datetime64[D], shape (S,)
    traded : traded value, float64, shape (I, S); NaN and a session without a row count as nothing traded

    Only values up to the session before the month's first one are read. The universe's first session has none before
    it, so membership begins with the first month that does not begin the history. Equal means rank by name. A member
    has one span per month; those of the last month end at the last session.
    """
    sessions = np.asarray(sessions).astype("datetime64[D]")
    months = sessions.astype("M8[M]")
    begins = (np.flatnonzero(months[1:] != months[:-1]) + 1).tolist()
    names = sorted(instruments)
    by_name = np.argsort(np.array(instruments, dtype=object), kind="stable")
    spans: list[Span] = []
    for begin, end in zip(begins, [*begins, len(sessions)][1:], strict=True):
        past = traded[by_name, max(0, begin - window) : begin]
        mean = np.where(np.isnan(past), 0.0, past).mean(axis=1)
        best = np.argsort(-mean, kind="stable")[:size]
        first, last = sessions[begin].item(), sessions[end - 1].item()
        spans += [Span(names[i], first, last) for i in best[mean[best] > 0].tolist()]
    return Pool(name, tuple(sorted(spans)))


def all_pool(first: Mapping[str, date], last: Mapping[str, date] | date) -> Pool:
    """The pool ``all``: each instrument from its first stored session to its last (or one last day for all)."""
    end = last.__getitem__ if isinstance(last, Mapping) else lambda _: last
    return Pool(ALL, tuple(Span(name, first[name], end(name)) for name in sorted(first)))


def read_pool(name: str, path: Path) -> Pool:
    """Read a pool from a CSV file with the columns ``instrument,start,end`` (ISO dates, inclusive).

    An empty ``end`` means still a member. Symbols are taken as they are written (``NA`` is a symbol).

    Raises
    ------
    SourceError
        The file is missing, lacks a column, or a line does not hold a span; the line is named.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"instrument", "start", "end"} - set(reader.fieldnames or ())
            if missing:
                raise SourceError(
                    f"pool file {str(path)!r} lacks the columns {sorted(missing)}; got {reader.fieldnames}"
                )
            spans = [_span(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"pool file {str(path)!r} cannot be read: {error}; give a UTF-8 CSV file") from error
    return Pool(name, tuple(sorted(spans)))


def _span(path: Path, line: int, row: Mapping[str, str | None]) -> Span:
    instrument, start, end = ((row[key] or "").strip() for key in ("instrument", "start", "end"))
    if not instrument:
        raise SourceError(f"pool file {str(path)!r}, line {line}: no instrument; fill it in or delete the line")
    try:
        return Span(instrument, date.fromisoformat(start), date.fromisoformat(end) if end else date.max)
    except ValueError as error:
        raise SourceError(f"pool file {str(path)!r}, line {line}: {error}; dates are YYYY-MM-DD") from None
