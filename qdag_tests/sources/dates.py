"""Which dates cannot be, by a slow reference: for the tests that count what becomes of every row."""

from datetime import date, timedelta
from itertools import pairwise


def misplaced(days: list[date | None], start: date, end: date, today: date | None = None) -> list[bool]:
    """Of an instrument's rows in the order of its file: those that have not come, or break the order of time from
    outside of the universe."""
    tomorrow = (today or date.today()) + timedelta(days=1)
    known = [day for day in days if day is not None]
    ups = sum(a < b for a, b in pairwise(known))
    downs = sum(a > b for a, b in pairwise(known))
    rising, falling = ups > 2 * downs, downs > 2 * ups
    last = min(end, tomorrow)

    def within(some: list[date | None]) -> bool:
        return any(day is not None and start <= day <= last for day in some)

    found = []
    for at, day in enumerate(days):
        before, after = days[:at], days[at + 1 :]
        if falling:
            before, after = after, before
        odd = day is not None and day > tomorrow
        if day is not None and (rising or falling):
            odd |= (day < start and within(before)) or (day > last and within(after))
        found.append(odd)
    return found
