"""Pools as a Qlib provider directory holds them: one file of spans per pool below ``instruments``."""

from datetime import date
from pathlib import Path

from qdag.provider import qlib_symbol
from qdag.store.qlib_bin import read_calendar, read_instruments
from qdag.universes import Pool, Span

Days = dict[str, tuple[date, date]]


def read_pool(provider: Path, name: str) -> Pool | None:
    """A pool with all its spans, instruments under their own names; None without a file (Qlib reads no empty one)."""
    path = Path(provider) / "instruments" / f"{name}.txt"
    if not path.exists():
        return None
    spans = []
    for line in path.read_text("utf-8").splitlines():
        symbol, start, end = line.split("\t")[:3]
        # the writer's tail behind a word that Qlib reads as missing
        instrument = symbol[:-1] if qlib_symbol(symbol[:-1]) == symbol else symbol
        spans.append(Span(instrument, date.fromisoformat(start[:10]), date.fromisoformat(end[:10])))
    return Pool(name, tuple(sorted(spans)))


def published_days(provider: Path) -> Days:
    """First and last session of every instrument that the directory lists, within its calendar."""
    calendar = read_calendar(provider, missing_ok=True)
    days: Days = {}
    for name, (first, last) in read_instruments(provider).items():
        # a crash between the instruments and the calendar leaves spans that end after it
        if len(calendar) and first <= calendar[-1]:
            days[name] = first.astype(date), min(last, calendar[-1]).astype(date)
    return days
