"""Words of settings that other packages define: codes of exchange calendars, and times in cron's notation.

Held here so that reading settings imports none of these packages; tests compare with them. No sessions belong here.
"""

import re
from datetime import date
from typing import Literal

# exchange_calendars' own codes and its other names for them
CALENDARS = frozenset(
    """
    24/5 24/7 AIXK ARCX ASEX ASX BATS BMF BSE BVB BVMF CBOT CFE CME CMES COMEX FWB HKEX ICE ICEUS IEPA JKT JPX LSE LUXSE
    NASDAQ NYFE NYMEX NYSE OOTC OSE SIX SSE TASE TSX XAMS XASE XASX XBDA XBEL XBKK XBOG XBOM XBRA XBRU XBSE XBUD XBUE
    XCBF XCSE XCYS XDUB XDUS XEEE XETR XEUR XFRA XHAM XHEL XHKG XICE XIDX XIST XJSE XKAR XKLS XKRX XLIM XLIS XLIT XLJU
    XLON XLUX XMAD XMEX XMIL XMOS XNAS XNYS XNZE XOSL XPAR XPHS XPRA XRIS XSAU XSES XSGO XSHG XSTO XSTU XSWX XTAE XTAI
    XTAL XTKS XTSE XTSX XWAR XWBO XZAG us_futures
    """.split()  # noqa: SIM905
)
KNOWN_FROM = {
    "AIXK": date(2017, 1, 1),
    **dict.fromkeys(("XBOM", "BSE", "XTKS", "JPX"), date(1997, 1, 1)),
    **dict.fromkeys(("XHKG", "HKEX"), date(1960, 1, 1)),
    "XKRX": date(1956, 1, 1),
    "XSAU": date(2021, 1, 1),
    "XSES": date(1986, 1, 1),
    **dict.fromkeys(("XSHG", "SSE"), date(1990, 12, 3)),
}
"""The first day of the calendars that do not reach back at will."""
_MAINLAND = ("XSHG", "SSE")


def region_of(calendar: str) -> Literal["us", "cn"]:
    """Qlib's region of an exchange calendar: its trading rules are known for mainland China and the US."""
    return "cn" if calendar in _MAINLAND else "us"


# name of a field, least and largest number, names of its numbers
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("weekday", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def cron_mistake(text: str) -> str | None:
    """What is wrong with five fields of numbers, names, ``*``, ranges ``a-b``, steps ``/n`` and lists; None: nothing.

    A time that never comes, such as the 31st of February, is wrong too.
    """
    parts = text.split()
    if len(parts) != len(_FIELDS):
        return f"{text!r} has {len(parts)} fields, not {len(_FIELDS)}"
    values = []
    for part, (name, low, high, names) in zip(parts, _FIELDS, strict=True):
        found: set[int] = set()
        for one in part.split(","):
            numbers = _numbers(one.lower(), low, high, names)
            if numbers is None:
                return f"{one!r} is no {name} ({low} to {high})"
            found |= numbers
        values.append(found)
    days, months = values[2], values[3]
    if all(min(days) > _LONGEST[month - 1] for month in months):
        return f"{text!r} never comes: no such month has a day {min(days)}"
    return None


def _numbers(text: str, low: int, high: int, names: tuple[str, ...]) -> set[int] | None:
    match = re.fullmatch(r"(?:\*|([0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?)(?:/([0-9]{1,2}))?", text)
    if not match:
        return None
    bounds = [names.index(t) + low if t in names else int(t) if t.isdigit() else -1 for t in match.groups()[:2] if t]
    first, last = (low, high) if not bounds else (bounds[0], bounds[-1])
    step = int(match[3] or 1)
    if not low <= first <= last <= high or step < 1 or (match[3] and len(bounds) == 1):
        return None
    return set(range(first, last + 1, step))
