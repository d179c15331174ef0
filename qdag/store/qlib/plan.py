"""What a write is to do: which sessions it replaces, what is there before, and which instruments get files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qdag.errors import StoreError
from qdag.store.qlib.layout import folder_name
from qdag.store.qlib.reader import published_positions, read_calendar, read_instruments

TREE, NEW, OLD = "features", "features.writing", "features.old"
"""The folder of all data files, one that is being made, and one that was replaced."""


@dataclass(frozen=True)
class Plan:
    """One write to a provider directory. Positions are those in its calendar.

    Attributes
    ----------
    calendar : every session of the universe, datetime64[D]; those up to ``total`` are published afterwards
    future : sessions after the calendar, datetime64[D]
    low, high : position of the first session that is replaced, and of the one after the last
    known : how many published sessions keep what they hold outside the range; 0: everything is made anew
    spans : first and last position of each instrument that is listed before; empty where everything is made anew
    names : instruments that are looked at, sorted
    left_out : instruments that can have no files, with the reason
    """

    provider: Path
    calendar: np.ndarray
    future: np.ndarray
    low: int
    high: int
    known: int
    spans: Mapping[str, tuple[int, int]]
    names: Sequence[str]
    left_out: Mapping[str, str]

    @property
    def total(self) -> int:
        """How many sessions are published afterwards."""
        return max(self.known, self.high)

    @property
    def fresh(self) -> bool:
        """Whether a whole new tree is made."""
        return not self.known

    def path(self, instrument: str, file: str) -> str:
        """A data file of an instrument."""
        # text, not Path: this is called once per file
        return f"{self.provider}/{TREE}/{folder_name(instrument)}/{file}"


def plan_write(
    provider: Path, calendar: np.ndarray, future: np.ndarray, low: int, high: int, instruments: Iterable[str]
) -> Plan:
    """The plan of a write of the calendar's sessions from position ``low`` to before ``high``.

    Parameters
    ----------
    instruments : those with values in the range

    Raises
    ------
    StoreError
        The range leaves a gap after the published sessions, the published calendar is another one, what the files hold
        is not known, or two instruments share a folder.
    """
    published = read_calendar(provider, missing_ok=True)
    fresh = (low == 0 and high == len(calendar)) or not len(published)
    if low > len(published):
        raise StoreError(
            f"the panel starts at {calendar[low]}, but {calendar[len(published)]} is the next session of "
            f"{provider}; start there"
        )
    spans: Mapping[str, tuple[int, int]] = {}
    if not fresh:
        _refuse_another_calendar(provider, published, calendar)
        if len(published) > len(calendar):
            calendar = published
            future = future[future > calendar[-1]]
        spans = published_positions(read_instruments(provider), published)
    found = set(instruments)
    left_out = {
        name: f"{name!r} cannot be the name of a folder and a word of the instruments file"
        for name in found
        if _unusable(name)
    }
    names = sorted((found | set(spans)) - set(left_out))
    _refuse_clashes(names)
    return Plan(provider, calendar, future, low, high, 0 if fresh else len(published), spans, names, left_out)


def _refuse_another_calendar(provider: Path, published: np.ndarray, calendar: np.ndarray) -> None:
    if not (provider / "instruments" / "all.txt").exists():
        raise StoreError(
            f"{provider} has a calendar but no instruments/all.txt, so what its files hold is not "
            f"known; write the whole calendar at once to rebuild it"
        )
    both = min(len(published), len(calendar))
    if len(at := np.flatnonzero(published[:both] != calendar[:both])):
        raise StoreError(
            f"the calendar of {provider} has {published[at[0]]} where {calendar[at[0]]} is given, so "
            f"positions would shift; write the whole calendar at once to rebuild it"
        )


def _unusable(instrument: str) -> bool:
    """Whether no folder and no word of an instruments file can be named so."""
    strange = any(c in instrument for c in '/\\"') or instrument.strip(". ") == ""
    return (
        strange
        or instrument != instrument.strip()
        or not instrument.isprintable()
        or len(folder_name(instrument).encode()) > 200
    )


def _refuse_clashes(names: Sequence[str]) -> None:
    """No two instruments in one folder."""
    taken: dict[str, str] = {}
    clashes = [
        f"{name}: shares the folder {folder_name(name)!r} with {other!r}"
        for name in names
        if (other := taken.setdefault(folder_name(name), name)) != name
    ]
    if clashes:
        more = f"; and {len(clashes) - 20} more" if len(clashes) > 20 else ""
        raise StoreError(
            f"{len(clashes)} of {len(names)} instruments cannot have files of their own: {'; '.join(clashes[:20])}"
            f"{more}; rename one of them, or leave it out of the universe's instruments"
        )


def increasing(what: str, sessions: np.ndarray) -> np.ndarray:
    """Sessions as datetime64[D]. StoreError, which calls them ``what``: they are not strictly increasing."""
    sessions = np.asarray(sessions).astype("datetime64[D]")
    if np.any(sessions[1:] <= sessions[:-1]):
        raise StoreError(f"{what} sessions must be strictly increasing; sort them and drop duplicates")
    return sessions
