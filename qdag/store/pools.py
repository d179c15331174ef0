"""Pools as a Qlib provider directory holds them: one file of spans per pool below ``instruments``."""

from datetime import date
from pathlib import Path

from qdag.store.qlib_bin import read_calendar, read_instruments, read_spans_of
from qdag.universes import Pool, Span

Days = dict[str, tuple[date, date]]


def read_pool(provider: Path, name: str) -> Pool | None:
    """A pool with all its spans, instruments under their own names; None without a file (Qlib reads no empty one)."""
    spans = read_spans_of(provider, name)
    if spans is None:
        return None
    days = (Span(instrument, first.astype(date), last.astype(date)) for instrument, first, last in spans)
    return Pool(name, tuple(sorted(days)))


def published_days(provider: Path) -> Days:
    """First and last session of every instrument that the directory lists, within its calendar."""
    calendar = read_calendar(provider, missing_ok=True)
    days: Days = {}
    for name, (first, last) in read_instruments(provider).items():
        # a crash between the instruments and the calendar leaves spans that end after it
        if len(calendar) and first <= calendar[-1]:
            days[name] = first.astype(date), min(last, calendar[-1]).astype(date)
    return days
