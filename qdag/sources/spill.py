"""Tables by number, in memory while they are few and on disk beyond: what keeps a delivery's memory bounded.

Only putting tables down and taking them up again belongs here. Files lie in a folder of the system's place for
temporary files (``TMPDIR``) and go with the object.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import overload

import numpy as np
import pyarrow as pa

from qdag.store.arrow import text_codes

MEMORY_BYTES = 256 << 20
"""Bytes that the tables of one delivery hold in memory; the rest goes to disk."""
PART_SESSIONS = 128
"""Sessions of one part of a delivery."""


class SpillingTables:
    """Tables of one schema, added piecewise to numbered places.

    Parameters
    ----------
    limit : bytes that all places together may hold in memory, ``MEMORY_BYTES`` by default; the rest goes to disk
    """

    def __init__(self, limit: int | None = None):
        self.limit = MEMORY_BYTES if limit is None else limit
        self._held: dict[int, list[pa.Table]] = {}
        self._bytes = 0
        self._folder: TemporaryDirectory[str] | None = None
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}

    @property
    def places(self) -> list[int]:
        """Numbers of the places that hold something, increasing."""
        return sorted(self._held.keys() | self._writers.keys())

    def add(self, place: int, table: pa.Table) -> None:
        """Put a table behind what a place holds."""
        self._held.setdefault(place, []).append(table)
        self._bytes += table.nbytes
        if self._bytes > self.limit:
            self._put_down()

    def read(self, place: int) -> pa.Table:
        """All that a place holds, in the order in which it was added. May be asked again; nothing is added after it."""
        tables = list(self._held.get(place, ()))
        if place in self._writers:
            self._writers[place].close()
            with pa.OSFile(str(self._path(place)), "rb") as file:
                tables.insert(0, pa.ipc.open_stream(file).read_all())
        return pa.concat_tables(tables)

    def _put_down(self) -> None:
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="qdag-delivery-")
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        for place, tables in self._held.items():
            if place not in self._writers:
                path = str(self._path(place))
                self._writers[place] = pa.ipc.new_stream(path, tables[0].schema, options=options)
            for table in tables:
                self._writers[place].write_table(table)
        self._held.clear()
        self._bytes = 0

    def _path(self, place: int) -> Path:
        assert self._folder is not None
        return Path(self._folder.name, f"{place}.arrows")


class SessionParts(Sequence[pa.Table]):
    """Bars of a delivery, gathered instrument by instrument and given back by sessions.

    Each part holds the bars of some sessions, sorted by date and instrument; the sessions of a part are later than
    those of the part before. A part is made when it is asked for: its size depends on the number of instruments, not on
    that of sessions.

    Parameters
    ----------
    sessions : datetime64[D], increasing; every bar's date is one of them
    """

    def __init__(self, sessions: np.ndarray):
        self.sessions = sessions
        self._tables = SpillingTables()

    def add(self, bars: pa.Table) -> None:
        """Add bars that are sorted by date."""
        place = np.searchsorted(self.sessions, bars["date"].to_numpy().astype("M8[D]")) // PART_SESSIONS
        edges = [0, *(np.flatnonzero(np.diff(place)) + 1).tolist(), len(place)]
        for low, high in pairwise(edges):
            if high > low:
                self._tables.add(int(place[low]), bars.slice(low, high - low))

    def __len__(self) -> int:
        return len(self._tables.places)

    @overload
    def __getitem__(self, at: int) -> pa.Table: ...
    @overload
    def __getitem__(self, at: slice) -> "list[pa.Table]": ...
    def __getitem__(self, at: int | slice) -> "pa.Table | list[pa.Table]":
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return sorted_bars(self._tables.read(self._tables.places[at]))


def sorted_bars(bars: pa.Table) -> pa.Table:
    """Bars in the order of date and instrument; equal names keep their order."""
    codes, names = text_codes(bars["instrument"])
    rank = np.argsort(np.argsort(np.array(names, object), kind="stable"), kind="stable")
    order = np.lexsort((rank[codes], bars["date"].to_numpy()))
    return bars.take(pa.array(order)).combine_chunks()
