"""Data files of a provider directory, kept in memory as long as they do not change."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from qdag.errors import StoreError
from qdag.store.qlib.layout import SUFFIX, parse_bin

log = logging.getLogger("qdag.qlib")

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Block:
    """Some fields of some instruments over calendar positions.

    Attributes
    ----------
    values : field -> float32 (instruments, positions); NaN where a file has nothing
    first, last : field -> int64 (instruments,), positions in the block of each file's first and last row; first > last
        where it has none there
    """

    values: dict[str, np.ndarray]
    first: dict[str, np.ndarray]
    last: dict[str, np.ndarray]


class Bins:
    """Files that were read, the least recently used dropped first.

    Parameters
    ----------
    limit : bytes of values to keep at most; what is asked for at once may be more
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.held = 0
        self.changed = False
        self.known: OrderedDict[str, tuple[Stamp, int, np.ndarray]] = OrderedDict()
        self.lock = Lock()

    def __reduce__(self) -> tuple[type["Bins"], tuple[int]]:
        # another process reads its files itself
        return Bins, (self.limit,)

    def read(self, path: str) -> tuple[int, np.ndarray] | None:
        """Position of a file's first row in the calendar, and its float32 values; None without a file.

        A file that was written again is read again; ``changed`` then becomes True.

        Raises
        ------
        StoreError
            The file does not begin with a position.
        """
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return None
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        with self.lock:
            known = self.known.get(path)
            if known is not None and known[0] == stamp:
                self.known.move_to_end(path)
                return known[1:]
        with open(path, "rb") as file:
            content = file.read()
        try:
            begin, values = parse_bin(content, path)
        except ValueError as error:
            raise StoreError(f"{error}; write the file again") from None
        with self.lock:
            old = self.known.pop(path, None)
            if old is not None:
                self.changed = True
                self.held -= old[2].nbytes
            self.known[path] = stamp, begin, values
            self.held += values.nbytes
            while self.held > self.limit and self.known:
                self.held -= self.known.popitem(last=False)[1][2].nbytes
        return begin, values

    def block(self, folders: Sequence[str], fields: Sequence[str], low: int, high: int) -> Block:
        """Read fields of instruments at calendar positions [low, high).

        Parameters
        ----------
        folders : of the instruments, in order
        fields : without ``$``; a file is named by the lower case
        """
        files = {
            field: [self.read(f"{folder}{os.sep}{field.lower()}{SUFFIX}") for folder in folders] for field in fields
        }
        width = max(high - low, 0)
        block = Block({}, {}, {})
        for field, each in files.items():
            values = np.full((len(folders), width), np.nan, np.float32)
            first, last = np.full(len(folders), width), np.full(len(folders), -1)
            for i, file in enumerate(each):
                if file is None:
                    continue
                begin, series = file
                at = max(begin - low, 0)
                part = series[max(low - begin, 0) : max(high - begin, 0)]
                if len(part):
                    values[i, at : at + len(part)] = part
                    first[i], last[i] = at, at + len(part) - 1
            block.values[field], block.first[field], block.last[field] = values, first, last
        log.debug("%d files asked for; %.1f MiB of at most %.1f are kept", len(folders) * len(fields),
                  self.held / 2**20, self.limit / 2**20)  # fmt: skip
        return block
