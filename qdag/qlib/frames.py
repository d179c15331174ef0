"""Rows and values of an answer, and the frame that Qlib would give."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from qdag.qlib.grid import DAY, NAME, places, qlib_index


class Rows:
    """The rows of an answer: instruments, sorted, by positions of the range.

    Parameters
    ----------
    instruments : sorted
    when : the range's days as Qlib puts them into an index
    allowed : bool (instruments, days), rows within an instrument's spans; None where every row is
    """

    def __init__(self, instruments: Sequence[str], when: pd.DatetimeIndex, allowed: np.ndarray | None):
        self.instruments = list(instruments)
        self.when = when
        self.allowed = allowed
        self.present = np.zeros((len(instruments), len(when)), bool)

    def add_spans(self, first: np.ndarray, last: np.ndarray) -> None:
        """Rows from a first to a last position of each instrument."""
        at = np.arange(len(self.when))
        self.present |= (at >= first[:, None]) & (at <= last[:, None])

    def places(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """(instrument, day) positions of a frame's rows."""
        return places(frame.index, self.instruments, self.when)

    def add(self, names: np.ndarray, days: np.ndarray) -> None:
        """Single rows, by the positions that ``places`` gives."""
        self.present[names, days] = True

    def close(self) -> None:
        """Take away what is not allowed; from now on the rows have places in the frame."""
        if self.allowed is not None:
            self.present &= self.allowed
        self.counts = self.present.sum(axis=1)
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)])
        self.kept = np.flatnonzero(self.present)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def fill(self, block: slice, column: np.ndarray, values: np.ndarray) -> None:
        """Put values (days, instruments of the block) into a column of the frame, instrument after instrument."""
        into = column[self.offsets[block.start] : self.offsets[block.stop]]
        width = len(self.when)
        if len(into) == width * (block.stop - block.start):
            into.reshape(-1, width)[:] = values.T
        else:
            kept = self.kept[self.offsets[block.start] : self.offsets[block.stop]] - block.start * width
            np.take(np.ascontiguousarray(values.T).reshape(-1), kept, out=into, mode="clip")

    def put(self, column: np.ndarray, places: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> None:
        """Put values of single rows into a frame's column; rows that are not kept are left out."""
        names, days = places
        kept = self.present[names, days]
        flat = names[kept] * len(self.when) + days[kept]
        column[np.searchsorted(self.kept, flat)] = values[kept]

    def multi_index(self) -> pd.MultiIndex:
        """(instrument, datetime) of the rows, with levels of what is there only."""
        return qlib_index(*np.divmod(self.kept, len(self.when)), self.instruments, self.when, (NAME, DAY))

    def frame(self, values: np.ndarray, columns: Sequence[str]) -> pd.DataFrame:
        """The frame of float32 values (columns, rows); the memory becomes the frame's."""
        if not len(self):
            index = pd.MultiIndex.from_arrays([[], []], names=("instrument", "datetime"))
            return pd.DataFrame(index=index, columns=list(columns), dtype=np.float32)
        return pd.DataFrame(values.T, index=self.multi_index(), columns=pd.Index(list(columns)), copy=False)

    def frames(self, values: np.ndarray, columns: Sequence[str]) -> dict[str, pd.DataFrame]:
        """A frame of each instrument, indexed by datetime, as Qlib's processors of instruments get it."""
        found = {}
        for i, name in enumerate(self.instruments):
            part = slice(self.offsets[i], self.offsets[i + 1])
            if self.counts[i]:
                index: pd.Index = self.when[np.flatnonzero(self.present[i])]
                found[name] = pd.DataFrame(values[:, part].T.copy(), index=index, columns=pd.Index(list(columns)))
            else:
                found[name] = pd.DataFrame({column: pd.Series(dtype=np.float32) for column in columns})
            found[name].index.names = ["datetime"]
        return found
