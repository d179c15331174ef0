"""How long windows are put together from shorter ones, and the scratch space that takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CHUNK_ELEMENTS = 4_096


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


@dataclass(frozen=True)
class Chain:
    """The merges that make some windows.

    Parameters
    ----------
    merges : int64 (M, 3), in order: slot of the newer part, slot of the older part, length of the newer part. Merge j
        fills slot j + 1; slot 0 holds single values
    slots : window length -> slot
    lengths : int64 (M + 1,), window length of each slot
    keep : int64 (M + 1,), rows of a slot's past that later merges read
    history : the largest of ``keep``
    """

    merges: np.ndarray
    slots: Mapping[int, int]
    lengths: np.ndarray
    keep: np.ndarray
    history: int

    def scratch(self, lanes: int) -> tuple[int, int]:
        """(slots, elements per slot) of the working memory: a chunk of rows, after the rows that are kept."""
        return len(self.keep), (self.history + max(CHUNK_ELEMENTS // lanes, self.history, 1)) * lanes


@lru_cache(maxsize=256)
def chain(windows: tuple[int, ...]) -> Chain:
    """Plan the merges for some windows."""
    lengths: set[int] = set()
    stack = list(windows)
    while stack:
        length = stack.pop()
        if length > 1 and length not in lengths:
            lengths.add(length)
            stack.extend(split(length))
    ordered = [1, *sorted(lengths)]
    slots = {length: slot for slot, length in enumerate(ordered)}
    keep = np.zeros(len(ordered), np.int64)
    merges = []
    for length in ordered[1:]:
        newer, older = split(length)
        merges.append((slots[newer], slots[older], newer))
        keep[slots[older]] = max(keep[slots[older]], newer)
    return Chain(np.array(merges, np.int64).reshape(-1, 3), slots, np.array(ordered, np.int64), keep, int(keep.max()))
