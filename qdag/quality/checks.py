"""What the checks of every table share: the scope that is judged, how it is read, and the rules that all tables have.

:class:`Scope` says which table rows are judged; its sessions are those of the window that have closed. Wide tables are
read part by part (:func:`spans`), so that judging a long window needs bounded memory. No I/O but reading.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from qdag.core.sessions import SessionCalendar, calendar_for
from qdag.quality.rule import Rule
from qdag.schema import RAW_OHLCV
from qdag.settings import QualitySettings, Settings

if TYPE_CHECKING:
    from qdag.store.tables import TableStore

Frames = Iterator[tuple[str, pd.DataFrame]]
"""Named frames that rules are judged on; one may come in several parts, which share no date.

The frame ``profile`` is judged by no rule: it is what the drift of later sessions is measured against. Dates are
datetime64; float columns keep their dtype; null is NaN.
"""
INSTRUMENT_KEYS = ("date", "instrument")
"""Keys of a table with one row per session and instrument."""
CHUNK_ROWS = 100_000
"""About so many rows of a table are read at once."""


@dataclass(frozen=True)
class Scope:
    """What is being judged: a table in a store, for a universe, from ``start`` to ``end``.

    Parameters
    ----------
    store : the tables
    settings : of the home
    universe : whose rows
    start, end : first and last day of the window, inclusive
    now : decides which sessions have closed; by default the clock does
    """

    store: "TableStore"
    settings: Settings
    universe: str
    start: date
    end: date
    now: datetime | None = None

    @property
    def limits(self) -> QualitySettings:
        """The limits of the universe."""
        return self.settings.quality_for(self.universe)

    def calendar(self) -> SessionCalendar:
        """The sessions of the universe's exchange."""
        return calendar_for(self.settings.universe(self.universe))

    def sessions(self, before: int = 0) -> np.ndarray:
        """Sessions of the window that have closed, as the assets take it, M8[D], with up to ``before`` in front.

        Raises
        ------
        SessionError
            The window ends before it starts.
        """
        calendar = self.calendar()
        window = calendar.closed_between(self.start, self.end, self.now or datetime.now(UTC))
        if not len(window):
            return window
        first = int(np.searchsorted(calendar.all, window[0]))
        return calendar.all[max(0, first - before) : first + len(window)]


def keyed(
    table: str,
    keys: tuple[str, ...],
    limits: QualitySettings,
    *,
    late: str = "raw_ohlcv has later sessions than this table: materialize them.",
    ends: str = "",
    twice: str = "stored more than once",
) -> tuple[Rule, ...]:
    """Rules of every table: declared columns, unique keys without nulls, dates that are sessions, up to date.

    Parameters
    ----------
    keys : columns that identify a row of a universe
    late : what it means that the table is behind, and what to do
    ends : what the sentence about a table that is behind ends with
    twice : the sentence about a key that is stored again
    """
    return (
        Rule(
            name="declared columns stored",
            table=table,
            check="structure",
            kind="equals",
            columns=("stored",),
            meaning="A declared column is not stored: the table was written by an older version; materialize the range "
            "again.",
            frame="schema",
            parameters={"value": True},
            says="declared, but not stored",
        ),
        Rule(
            name="keys unique",
            table=table,
            check="structure",
            kind="unique",
            columns=keys,
            meaning="One row per key; a duplicate counts twice everywhere.",
            says=twice,
        ),
        Rule(
            name="keys not null",
            table=table,
            check="structure",
            kind="not_null",
            columns=keys,
            meaning="A row without its key belongs to nothing.",
            says="a row without " + " or ".join(keys),
        ),
        Rule(
            name="dates are sessions",
            table=table,
            check="structure",
            kind="equals",
            columns=("is_session",),
            meaning="A stored date is no session of the universe's exchange: the calendar setting or the source is "
            "wrong.",
            frame="sessions",
            parameters={"value": True},
            says="{rows} rows on a day that is no session",
        ),
        Rule(
            name="up to date",
            table=table,
            check="timeliness",
            kind="between",
            columns=("behind",),
            meaning=late,
            frame="timeliness",
            parameters={"maximum": limits.behind_sessions},
            says="the newest stored session is {last:%Y-%m-%d}, due is {due:%Y-%m-%d}: {behind} sessions behind" + ends,
        ),
    )


def covers(table: str) -> Rule:
    """The rule of a table that has a row for every row of raw_ohlcv, on the frame ``sessions``."""
    return Rule(
        name="a row for every bar",
        table=table,
        check="structure",
        kind="between",
        columns=("missing_bars",),
        meaning="Rows of raw_ohlcv without a row here: materialize the sessions again.",
        frame="sessions",
        parameters={"maximum": 0},
        says="{missing_bars} rows of raw_ohlcv have no row here",
    )


def declared(scope: Scope, table: str, columns: Sequence[str]) -> Frames:
    """The frame ``schema``: one line per declared column.

    A stored one that is declared no longer (a removed factor) harms nobody.
    """
    stored = set(scope.store.columns(table))
    yield "schema", pd.DataFrame({"column": list(columns), "stored": [name in stored for name in columns]})


def timeliness(scope: Scope, stored: np.ndarray, due: date) -> Frames:
    """The frame ``timeliness``: one line, how many sessions a table is behind.

    A window of older sessions than the newest stored one says nothing, nor does a table without any.
    """
    if not len(stored) or scope.sessions()[-1] < stored[-1]:
        return
    last = stored[-1].item()
    behind = len(scope.calendar().between(last, due)) - 1 if due > last else 0
    yield "timeliness", pd.DataFrame([{"last": pd.Timestamp(last), "due": pd.Timestamp(due), "behind": behind}])


def derived(scope: Scope, table: str, columns: Sequence[str]) -> Frames:
    """The frames of every table that is computed from raw_ohlcv: ``schema``, and ``timeliness`` against its bars."""
    yield from declared(scope, table, columns)
    if len(bars := bar_sessions(scope)):
        yield from timeliness(scope, scope.store.sessions(table, scope.universe), bars[-1].item())


def bar_sessions(scope: Scope) -> np.ndarray:
    """The sessions that raw_ohlcv holds of the universe, M8[D]; none where there is no such table."""
    store = scope.store
    return store.sessions(RAW_OHLCV.name, scope.universe) if store.exists(RAW_OHLCV.name) else np.array([], "M8[D]")


def read_frame(
    scope: Scope, table: str, start: np.datetime64, end: np.datetime64, columns: Sequence[str]
) -> pd.DataFrame:
    """Columns of the universe's rows from one day to another, both included; dates are datetime64."""
    return read_rows(scope, table, start, end, columns).to_pandas(date_as_object=False)


def read_rows(
    scope: Scope,
    table: str,
    start: np.datetime64,
    end: np.datetime64,
    columns: Sequence[str],
    instruments: Sequence[str] | None = None,
) -> pa.Table:
    """Columns of the universe's rows from one day to another, both included; of some instruments where asked."""
    first, last = (day.astype("M8[D]").astype(date) for day in (start, end))
    return scope.store.read(table, scope.universe, first, last, instruments, columns=list(columns))


def spans(scope: Scope, table: str, sessions: np.ndarray) -> Iterator[tuple[np.datetime64, np.datetime64]]:
    """First and last day of each part of a table: whole months, as they are stored, until ``CHUNK_ROWS`` rows."""
    rows = scope.store.count(table, scope.universe, sessions[0].item(), sessions[-1].item())
    most = max(1, int(CHUNK_ROWS * len(sessions) / max(rows, 1)))
    months = sessions.astype("M8[M]")
    begins = [0]
    for at in (np.flatnonzero(months[1:] != months[:-1]) + 1).tolist():
        following = int(np.searchsorted(months, months[at], side="right"))
        if following - begins[-1] > most:
            begins.append(at)
    for at, following in pairwise([*begins, len(sessions)]):
        # up to the day before the next part, so that a stored date that is no session is read too
        yield sessions[at], sessions[following] - 1 if following < len(sessions) else sessions[-1]


def numbers(rows: pa.Table, name: str) -> np.ndarray:
    """A column as floats, null as NaN."""
    return np.asarray(rows[name].to_numpy())


def row_days(rows: pa.Table) -> np.ndarray:
    """The date of each row, M8[D]."""
    return np.asarray(rows["date"].to_numpy()).astype("M8[D]")


def coded(rows: pa.Table) -> tuple[np.ndarray, list[str]]:
    """Position of each row's instrument in the list of names; -1 for none."""
    encoded = rows["instrument"].combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return np.asarray(encoded.indices.fill_null(-1)).astype(np.int32), encoded.dictionary.to_pylist()


def session_frame(sessions: np.ndarray, dates: np.ndarray) -> pd.DataFrame:
    """One line per session of the window and per stored date: how many rows, and whether it is a session."""
    stored, counts = np.unique(dates, return_counts=True)
    every = np.union1d(sessions, stored)
    rows = np.zeros(len(every), np.int64)
    rows[np.searchsorted(every, stored)] = counts
    return pd.DataFrame({"date": every.astype("M8[s]"), "is_session": np.isin(every, sessions), "rows": rows})
