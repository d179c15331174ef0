"""Windows of sessions: looked up, cut into parts, gathered into gapless ranges. The only place that does so.

Sessions are datetime64[D], increasing. A *range* is given by the positions of its first and last session.
"""

from collections.abc import Iterator
from datetime import date

import numpy as np

CHUNK_SESSIONS = 250
"""Sessions that are worked on at a time, so that memory does not grow with history."""
NO_SESSIONS = np.array([], "M8[D]")


def ends(sessions: np.ndarray) -> tuple[date, date]:
    """First and last of at least one session."""
    return sessions[0].item(), sessions[-1].item()


def within(sessions: np.ndarray, start: date | None, end: date | None) -> np.ndarray:
    """The sessions of the days [start, end]; a side that is None is open."""
    low = 0 if start is None else np.searchsorted(sessions, np.datetime64(start, "D"))
    high = len(sessions) if end is None else np.searchsorted(sessions, np.datetime64(end, "D"), side="right")
    return sessions[low:high]


def index_of(sessions: np.ndarray, day: date) -> int | None:
    """Position of a day among sessions; None where it is none of them."""
    at = int(np.searchsorted(sessions, np.datetime64(day, "D")))
    return at if at < len(sessions) and sessions[at] == np.datetime64(day, "D") else None


def around(sessions: np.ndarray, day: date) -> list[str]:
    """The sessions before and after a day that is none, as text; fewer at the ends."""
    at = int(np.searchsorted(sessions, np.datetime64(day, "D")))
    return [str(session) for session in sessions[max(0, at - 1) : at + 1]]


def looks_back_on(marked: np.ndarray, at: np.ndarray, past: int) -> np.ndarray:
    """Whether each position, or one of the ``past`` before it, is among the marked ones: bool; both ascend."""
    found: np.ndarray = np.searchsorted(marked, at, "right") > np.searchsorted(marked, at - past)
    return found


def parts(sessions: np.ndarray, size: int = CHUNK_SESSIONS) -> list[np.ndarray]:
    """Sessions cut into parts of nearly the same size, at most ``size`` each; one empty part of none."""
    return np.array_split(sessions, max(1, -(-len(sessions) // size)))


def pieces(sessions: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Sessions cut into pieces of ``size``, the last one shorter; none of none."""
    for at in range(0, len(sessions), size):
        yield sessions[at : at + size]


def gapless(calendar: np.ndarray, sessions: np.ndarray) -> list[tuple[int, int]]:
    """The gapless ranges of sessions, as positions in a calendar that has them all."""
    positions = np.searchsorted(calendar, sessions)
    if not len(positions):
        return []
    cuts = np.flatnonzero(np.diff(positions) > 1)
    firsts, lasts = positions[np.append(0, cuts + 1)], positions[np.append(cuts, len(positions) - 1)]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def ranges(calendar: np.ndarray, sessions: np.ndarray) -> list[tuple[date, date]]:
    """The gapless ranges of sessions, as first and last day."""
    return [(calendar[first].item(), calendar[last].item()) for first, last in gapless(calendar, sessions)]
