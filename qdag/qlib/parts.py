"""Expressions that can be computed on one panel, and those that only Qlib gives the rows of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qdag.qlib.bins import Block
from qdag.qlib.expressions import Ours, Theirs


@dataclass(frozen=True)
class Part:
    """Expressions whose series begin and end together.

    Attributes
    ----------
    columns : places of the expressions
    first, last : int64 (instruments,), positions in the block of each series' first and last row
    """

    columns: list[int]
    first: np.ndarray
    last: np.ndarray


Asked = dict[tuple[int, ...], list[int]]
"""Positions of instruments -> places of expressions that Qlib computes for them."""


def parts_of(wanted: Sequence[Ours | Theirs], block: Block, start: int, instruments: int) -> tuple[list[Part], Asked]:
    """Sort expressions by the rows that their series have in Qlib.

    A series begins with its field's file, or where Qlib begins to read it. Where the files of an expression's fields
    have different rows, what Qlib makes of them depends on the operator: such instruments are Qlib's.

    Parameters
    ----------
    start : position of the range in the block
    """
    parts: dict[tuple[bytes, bytes, bool], Part] = {}
    asked: Asked = {}
    everybody = tuple(range(instruments))
    for k, one in enumerate(wanted):
        if isinstance(one, Theirs):
            asked.setdefault(everybody, []).append(k)
            continue
        firsts = np.stack([block.first[field] for field in one.fields])
        lasts = np.stack([block.last[field] for field in one.fields])
        first, last = firsts.min(axis=0), lasts.max(axis=0)
        if not one.aligns:
            uneven = (firsts != first).any(axis=0) | (lasts != last).any(axis=0)
            if uneven.any():
                asked.setdefault(tuple(np.flatnonzero(uneven).tolist()), []).append(k)
                first, last = np.where(uneven, start, first), np.where(uneven, -1, last)
        if one.cut:
            first = np.maximum(first, start - one.past)
        key = (first.tobytes(), last.tobytes(), one.across)
        parts.setdefault(key, Part([], first, last)).columns.append(k)
    return list(parts.values()), asked
