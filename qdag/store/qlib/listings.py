"""The texts of a provider directory: instruments files, one per pool, and calendars."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date

import numpy as np

from qdag.core.pools import Pool
from qdag.errors import StoreError
from qdag.settings import NAME_PATTERN
from qdag.store.qlib.layout import qlib_symbol

DAY, FUTURE = "calendars/day.txt", "calendars/day_future.txt"
"""Published sessions; and these with the exchange's next ones, which a backtest that ends on the last one needs."""


def listings(
    listed: Mapping[str, tuple[int, int]], published: np.ndarray, pools: Sequence[Pool]
) -> tuple[dict[str, str], dict[str, int], dict[str, list[str]]]:
    """What the instruments files hold.

    Parameters
    ----------
    listed : first and last published position of each instrument that has files
    published : sessions, datetime64[D]
    pools : spans are clipped to the published sessions, overlapping ones joined

    Returns the texts by path inside the directory; and per pool the number of members that have files, and the members
    within the published sessions that have none.

    Raises
    ------
    StoreError
        A pool's name is no plain one, ``all``, or given twice.
    """
    names = [pool.name for pool in pools]
    for name in names:
        if not re.fullmatch(NAME_PATTERN, name) or name == "all" or names.count(name) > 1:
            raise StoreError(
                f"pool name {name!r} must match {NAME_PATTERN}, be given once and not be 'all', which every "
                f"provider has; rename the pool"
            )
    texts = {"instruments/all.txt": _all_text(listed, published)}
    members, without_bins = {}, {}
    for pool in pools:
        spans, strangers = _members(pool, published, listed)
        texts[f"instruments/{pool.name}.txt"] = _text(spans)
        members[pool.name] = len({name for name, _, _ in spans})
        if strangers:
            without_bins[pool.name] = strangers
    return texts, members, without_bins


def calendar_text(days: np.ndarray) -> str:
    """Lines of a calendar file; ``days``: datetime64[D]."""
    return "".join(f"{day}\n" for day in days.astype(str).tolist())


def _members(
    pool: Pool, published: np.ndarray, listed: Iterable[str]
) -> tuple[list[tuple[str, date, date]], list[str]]:
    """Spans within the published range, overlaps joined, sorted; and members that have no files."""
    start, end = (published[i].item() for i in (0, -1))
    spans: list[tuple[str, date, date]] = []
    strangers: dict[str, None] = {}
    for span in sorted(pool.spans):
        name, first, last = span.instrument, max(span.start, start), min(span.end, end)
        if first > last:
            continue
        if name not in listed:
            strangers[name] = None
        elif spans and spans[-1][0] == name and first <= spans[-1][2]:
            spans[-1] = name, spans[-1][1], max(last, spans[-1][2])
        else:
            spans.append((name, first, last))
    return spans, list(strangers)


def _all_text(listed: Mapping[str, tuple[int, int]], published: np.ndarray) -> str:
    days = published.astype(str).tolist()
    return _text((n, days[first], days[last]) for n, (first, last) in sorted(listed.items()))


def _text(spans: Iterable[tuple[str, date | str, date | str]]) -> str:
    """Lines of an instruments file."""
    return "".join(f"{qlib_symbol(name)}\t{first}\t{last}\n" for name, first, last in spans)
