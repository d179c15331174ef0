"""How long windows are put together from shorter ones, and the scratch space that takes."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

CHUNK_ROWS = 64


def split(length: int) -> tuple[int, int]:
    """Cut a window into (newer, older) parts.

    The cut is a function of the length alone, so a window's rounding does not depend on what else is computed with it.
    Halves are shared best; thirds let the usual 5, 10, 20, 30, 60 share all their parts.
    """
    if length % 4 and length % 6 == 0:
        return length // 3 * 2, length // 3
    if length % 2 == 0:
        return length // 2, length // 2
    return length - 1, 1


@lru_cache(maxsize=256)
def chain(windows: tuple[int, ...]) -> tuple[np.ndarray, dict[int, int], int]:
    """Plan the merges for some windows.

    Returns
    -------
    merges : int64 (M, 3), in order: slot of the newer part, slot of the older part, length of the newer part. Merge j
        fills slot j + 1; slot 0 holds single values.
    slots : window length -> slot
    history : rows of the past that the merges reach back to
    """
    lengths: set[int] = set()
    stack = list(windows)
    while stack:
        length = stack.pop()
        if length > 1 and length not in lengths:
            lengths.add(length)
            stack.extend(split(length))
    ordered = sorted(lengths)
    slots = {1: 0, **{length: index + 1 for index, length in enumerate(ordered)}}
    merges = np.array([(slots[split(n)[0]], slots[split(n)[1]], split(n)[0]) for n in ordered], np.int64).reshape(-1, 3)
    history = int(merges[:, 2].max()) if len(merges) else 0
    return merges, slots, history


def scratch_shape(windows: Iterable[int], lanes: int) -> tuple[int, int, int]:
    """Return (slots, elements per slot, history rows) of the scratch that the merges of these windows need."""
    merges, _, history = chain(tuple(windows))
    return len(merges) + 1, (history + max(CHUNK_ROWS, history)) * lanes, history
