"""Moments as people write them."""

from datetime import UTC, date, datetime, time, timedelta

from qdag.desk.days import day
from qdag.errors import SessionError


def moment_of(given: str | date | datetime) -> datetime | None:
    """The moment that is meant, UTC: of a day, a month or a year its end. None of a text that is none, as a run's id.

    SessionError: what is neither a moment nor a text.
    """
    if isinstance(given, str) and "T" not in given and ":" not in given:
        try:
            return _end(day(given, last=True))
        except SessionError:
            return None
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            return None
    if isinstance(given, datetime):
        return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    return _end(day(given))


def _end(of: date) -> datetime:
    return datetime.combine(of, time.min, UTC) + timedelta(days=1) - timedelta(microseconds=1)
