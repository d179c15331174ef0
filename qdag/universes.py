"""Pools: point-in-time membership lists inside a universe. Which instruments are ingested is the source's business."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from qdag.errors import SourceError


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


def all_pool(first: Mapping[str, date], last: Mapping[str, date] | date) -> Pool:
    """The pool ``all``: each instrument from its first stored session to its last (or one last day for all)."""
    end = last.__getitem__ if isinstance(last, Mapping) else lambda _: last
    return Pool("all", tuple(Span(name, first[name], end(name)) for name in sorted(first)))


def read_pool(name: str, path: Path) -> Pool:
    """Read a pool from a CSV file with the columns ``instrument,start,end`` (ISO dates, inclusive).

    An empty ``end`` means still a member.

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
