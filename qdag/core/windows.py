"""Windows of sessions: cut into parts, gathered into gapless ranges. The only place that does so.

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
