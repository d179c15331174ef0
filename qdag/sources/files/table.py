"""The columns of a file as it was delivered, before a cell is typed, and what makes a file no table of its layout."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qdag.sources.files.profiles import Profile
from qdag.sources.reasons import Reason, Refuses


class FileRefused(Exception):
    """A file is no table of the layout; ``reason`` is one of those of files, else a ValueError."""

    def __init__(self, reason: Reason, text: str):
        self.reason = reason.must(Refuses.FILE)
        super().__init__(text)


@dataclass(frozen=True)
class FileTable:
    """The rows of a file as delivered, and the lines that are no rows."""

    columns: dict[str, pa.ChunkedArray]
    """Those that the layout wants, of N rows."""
    line: np.ndarray
    """1-based line of each row, int64 (N,)."""
    broken: list[tuple[int, str, Reason]]
    """Line, its text, and the reason for which it is refused."""
    text: Callable[[np.ndarray], Iterable[str]]
    """Gives the rows of some lines as they were delivered."""


def check_header(header: list[str], profile: Profile) -> None:
    """Raise FileRefused where a header lacks a column of the layout, or has one twice."""
    if missing := profile.missing(header):
        raise FileRefused(Reason.UNKNOWN_COLUMNS, f"lacks {missing}; has {header}")
    if twice := sorted({name for name in profile.required if header.count(name) > 1}):
        raise FileRefused(Reason.UNKNOWN_COLUMNS, f"has {twice} more than once; has {header}")
