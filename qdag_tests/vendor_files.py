"""Small folders of daily bars, as vendors deliver them."""

from collections.abc import Iterable
from datetime import date
from pathlib import Path

from qdag.core.sessions import SessionCalendar

ALPHAVANTAGE = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient"


def days_of(calendar: str, start: date, end: date) -> list[date]:
    return SessionCalendar(calendar, start, end).all.tolist()


def write_us(folder: Path, names: Iterable[str], days: list[date], pattern: str = "{}.csv") -> Path:
    """One file per name in AlphaVantage's layout, oldest first."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        close = 10.0 + number
        rows = [f"{day},{close},{close + 1},{close - 1},{close + 0.5},{close},1000,0.0,1.0" for day in days]
        (folder / pattern.format(name)).write_text("\n".join([ALPHAVANTAGE, *rows]) + "\n")
    return folder


def write_custom(folder: Path, names: Iterable[str], days: list[date], date_format: str, header: str) -> Path:
    """One file with all names: instrument, day, open, high, low, close, volume, and what else ``header`` has."""
    folder.mkdir(parents=True, exist_ok=True)
    more = ",1.0" * (header.count(",") - 6)
    rows = [f"{name},{day.strftime(date_format)},10,11,9,10.5,1000{more}" for name in names for day in days]
    (folder / "all.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder
