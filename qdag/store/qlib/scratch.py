"""Panels of some sessions of all instruments turned into values of some instruments in all sessions.

Through a scratch file: memory depends on neither the history nor the universe.
"""

import os
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from qdag.engine.panel import Panel
from qdag.errors import StoreError
from qdag.schema import ENGINE_FIELDS
from qdag.store.qlib.files import FILES

BLOCK_BYTES = 64 << 20
"""Of values that are in memory at once while files are made or compared."""
Blocks = Iterator[tuple[list[str], np.ndarray]]
"""Sorted names, some at a time, with their values: float32 (I, F, S)."""


class Scratch:
    """Panels go in by sessions and come out by instruments, through a file without a name.

    Parameters
    ----------
    folder : where the file lies; it goes with the object, or with the process

    Attributes
    ----------
    names : instruments of all panels so far
    width : their sessions
    """

    def __init__(self, folder: Path):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._parts: list[tuple[list[str], int, int]] = []
        self.width = 0
        self.names: set[str] = set()

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the file's space."""
        self._file.close()

    def fill(self, panels: Panel | Iterable[Panel], calendar: np.ndarray) -> tuple[int, int]:
        """Put in panels that follow each other; the positions in the calendar where they begin and end.

        Parameters
        ----------
        panels : each with all ``ENGINE_FIELDS`` and no other
        calendar : sessions, datetime64[D], increasing

        Raises
        ------
        StoreError
            Other fields, sessions that are not consecutive in the calendar, or no session at all.
        """
        low = high = -1
        for panel in [panels] if isinstance(panels, Panel) else panels:
            at = _position(panel, calendar)
            if high not in (-1, at):
                raise StoreError(
                    f"a panel ends at {calendar[high - 1]} and the next begins at {calendar[at]}; panels follow each "
                    f"other"
                )
            low, high = at if low < 0 else low, at + len(panel.sessions)
            self._add(panel)
        if low < 0:
            raise StoreError("there is no panel; nothing to write")
        return low, high

    def _add(self, panel: Panel) -> None:
        """Append the panel's sessions."""
        order = sorted(range(len(panel.instruments)), key=panel.instruments.__getitem__)
        names = [panel.instruments[i] for i in order]
        self._parts.append((names, panel.shape[1], self._file.tell()))
        step = max(1, BLOCK_BYTES // (4 * len(FILES) * panel.shape[1]))
        for at in range(0, len(order), step):
            rows = order[at : at + step]
            block = np.empty((len(rows), len(FILES), panel.shape[1]), "<f4")
            for k, name in enumerate(ENGINE_FIELDS):
                block[:, k] = panel[name][rows]
            self._file.write(block.data)
        self.width += panel.shape[1]
        self.names.update(names)

    def blocks(self, names: Sequence[str]) -> Blocks:
        """Values (I, F, S) of the sorted names, some at a time; NaN where a panel does not have one."""
        self._file.flush()
        step = max(1, BLOCK_BYTES // (4 * len(FILES) * max(self.width, 1)))
        for begin in range(0, len(names), step):
            block = list(names[begin : begin + step])
            place = {name: i for i, name in enumerate(block)}
            values = np.full((len(block), len(FILES), self.width), np.nan, "<f4")
            at = 0
            for known, width, offset in self._parts:
                low, high = bisect_left(known, block[0]), bisect_right(known, block[-1])
                rows = [i for i, name in enumerate(known[low:high]) if name in place]
                row_bytes = 4 * len(FILES) * width
                content = os.pread(self._file.fileno(), (high - low) * row_bytes, offset + low * row_bytes)
                stored = np.frombuffer(content, "<f4").reshape(high - low, len(FILES), width)
                into = [place[known[low + i]] for i in rows]
                if into and len(into) == len(stored) and into == list(range(into[0], into[-1] + 1)):
                    # nearly always; by slices it is one copy instead of two
                    values[into[0] : into[-1] + 1, :, at : at + width] = stored
                else:
                    values[into, :, at : at + width] = stored[rows]
                at += width
            yield block, values


def _position(panel: Panel, calendar: np.ndarray) -> int:
    """Where in the calendar a panel begins."""
    if missing := [f for f in ENGINE_FIELDS if f not in panel.fields]:
        raise StoreError(f"the panel lacks fields {missing}; a provider has {list(ENGINE_FIELDS)}")
    if extra := [f for f in panel.fields if f not in ENGINE_FIELDS]:
        raise StoreError(f"the panel has fields {extra} that a provider does not; it has {list(ENGINE_FIELDS)}")
    sessions = panel.sessions
    if not len(sessions):
        raise StoreError("the panel has no session; nothing to write")
    at = int(np.searchsorted(calendar, sessions[0]))
    if not np.array_equal(calendar[at : at + len(sessions)], sessions):
        strange = np.setdiff1d(sessions, calendar)
        lacking = np.setdiff1d(calendar[(calendar >= sessions[0]) & (calendar <= sessions[-1])], sessions)
        raise StoreError(
            f"the panel's sessions are not consecutive: not in the calendar {_few(strange)}, not in "
            f"the panel {_few(lacking)}; give every session of the range"
        )
    return at


def _few(days: np.ndarray) -> str:
    return ", ".join(str(d) for d in days[:5]) + (", ..." if len(days) > 5 else "") or "none"
