"""What a source is, and what it delivers.

Nothing here knows a vendor. The way of the rows:

1. A source reads a file into ``RawRows`` (``rows``): typed columns, NaN where a cell is empty, ``bad`` where one is no
   number.
2. ``Cleaner`` (``cleaning``) gives every row a reason to be refused, or none, and turns refused rows into quarantine
   rows.
3. It keeps the newest of duplicated rows, derives the adjustment factor from each instrument's whole history, compares
   it with what else the vendor tells, and cuts out the asked range.

For the asked range: rows delivered = rows stored + rows quarantined + corrections. Rows are put down on disk where they
are many (``spill``), and gone through some instruments at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from importlib.metadata import version
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag import __version__
from qdag.schema import FINDINGS, RAW_OHLCV
from qdag.settings import UniverseSettings
from qdag.sources.reasons import Reason

READER_VERSION = 2
"""Raised when the same files would give other bars: what was read by an older way is read again."""


def reader_digest(settings: UniverseSettings) -> str:
    """Digest of what the bars of given files depend on besides: settings, calendar, and how files are read; hex."""
    chosen = settings.model_dump_json(include={"source", "calendar", "start", "instruments"})
    return sha256(f"{chosen} {READER_VERSION} {__version__} {version('exchange-calendars')}".encode()).hexdigest()


@dataclass(frozen=True)
class FileVersion:
    """A delivered file as it was read: its path in the source, the SHA-256 of the bytes that were parsed, and what they
    hold.

    ``rows`` are its data lines, refused ones included (0 for a file that was refused as a whole); ``first`` and
    ``last`` the first and last date in it, None where it has none; ``modified`` the time of its last change when it was
    opened, in nanoseconds since 1970; 0 where that says nothing: for a file that changed just then or could not be
    opened.
    """

    source: str
    sha256: str
    bytes: int
    rows: int = 0
    first: date | None = None
    last: date | None = None
    modified: int = 0


@dataclass(frozen=True)
class Delivery:
    """What a source delivered for a range of sessions.

    ``parts`` hold the bars in the RAW_OHLCV schema, sorted by date and instrument, each part the sessions after those
    of the part before; they may be gone through again. ``quarantine`` and ``findings`` have the schemas of these names.
    ``corrections`` counts valid rows that a newer row of the same instrument and date replaced. ``files`` counts the
    files looked at, ``versions`` says which they were. ``checks`` are figures for people and quality rules:
    ``rows_delivered`` (rows in the range), ``rows_outside`` (rows outside it, which are looked at for the factor only),
    ``not_adjusted`` (1 where nothing tells the factor, which is 1),
    ``amount_incomparable`` (stored rows whose amount / volume is outside [low, high] by more than 0.1 %, so that their
    vwap is (high + low + close) / 3), and the number of findings by kind.

    A whole file, or a row whose date cannot be read, is quarantined under the first day of the asked range.
    """

    parts: Sequence[pa.Table]
    quarantine: pa.Table
    corrections: int = 0
    files: int = 0
    checks: dict[str, float] = field(default_factory=dict)
    findings: pa.Table = field(default_factory=lambda: FINDINGS.arrow().empty_table())
    versions: tuple[FileVersion, ...] = ()

    @property
    def bars(self) -> pa.Table:
        """All parts as one table."""
        return pa.concat_tables(self.parts) if len(self.parts) else RAW_OHLCV.arrow().empty_table()


def unspoken(quarantine: pa.Table, several: bool) -> tuple[list[str], bool]:
    """Instruments about which a delivery says nothing, since what should tell of them was refused as a whole; and
    whether that may be all: a folder was refused, or a file where files hold ``several`` instruments."""
    whole = quarantine.filter((pc.field("line") == 0) & (pc.field("reason") != Reason.NAME_CLASH))
    folders = pc.any(pc.ends_with(whole["source"], "/")).as_py()
    return pc.unique(whole["instrument"]).to_pylist(), bool(folders or (several and whole.num_rows))


class Source(Protocol):
    """Where daily bars come from."""

    def deliver(self, sessions: np.ndarray, start: date, end: date) -> Delivery:
        """Deliver the bars of [start, end].

        Parameters
        ----------
        sessions : datetime64[D], shape (S,)
            The universe's calendar from the universe's start to ``end`` or later.
        start, end : date
            First and last day, inclusive. Values do not depend on them: a part equals the slice of the whole.

        Raises
        ------
        SourceError
            The source cannot be read at all.
        UnknownNameError
            The universe is restricted to an instrument that the source does not have.
        """


@runtime_checkable
class FileSource(Source, Protocol):
    """A source of files: what they hold need not be read again to see that nothing changed."""

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file that ``deliver`` would look at, by its path in the source.

        Raises SourceError where the source cannot be read at all.
        """

    def owners(self, names: Iterable[str]) -> Mapping[str, str | None] | None:
        """The one instrument of each file, by its path in the source; None where files hold several instruments."""
