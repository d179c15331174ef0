"""How what a delivery gives and what is stored differ: which sessions, and which instruments lose their history.

Rows are compared by digests, per session and per row. Only what differs is found here; writing it, and keeping it in
mind, is the caller's.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.schema import TableSpec
from qdag.store.digests import digests_by_session, row_digests
from qdag.store.tables import TableStore

Silent = Callable[[pa.ChunkedArray], np.ndarray]
"""Names of instruments -> bool (N,): those about which a delivery says nothing."""


def silent_about(names: Collection[str], everyone: bool = False, asked: Collection[str] | None = None) -> Silent:
    """About these instruments, about all but those that were ``asked`` for, or about ``everyone``."""
    listed, wanted = (None if x is None else pa.array(sorted(x), pa.string()) for x in (names, asked))

    def silent(column: pa.ChunkedArray) -> np.ndarray:
        if everyone:
            return np.ones(len(column), bool)
        found = np.asarray(pc.is_in(column, value_set=listed).to_numpy())
        return found if wanted is None else found | ~pc.is_in(column, value_set=wanted).to_numpy()

    return silent


@dataclass(frozen=True)
class Given:
    """The rows that a table should hold by a delivery.

    spec : the table
    parts : delivered rows, sorted by date; each part holds the sessions after those of the part before
    silent : stored rows of these instruments stay where the delivery has none of the same key: a file that was refused
        as a whole, or an instrument that was not asked for, says nothing
    held : the delivered rows of these instruments count for nothing
    """

    spec: TableSpec
    parts: Sequence[pa.Table]
    silent: Silent
    held: Collection[str] = field(default=())

    @cached_property
    def _index(self) -> tuple[list[date | None], np.ndarray, np.ndarray]:
        """Last session of each part, and sessions with the digests of all delivered rows."""
        lasts: list[date | None] = []
        days, digests = [np.array([], "M8[D]")], [np.array([], np.uint64)]
        for part in self.parts:
            sessions, values = digests_by_session(part)
            lasts.append(sessions[-1].item() if len(sessions) else None)
            days.append(sessions)
            digests.append(values)
        return lasts, np.concatenate(days), np.concatenate(digests)

    def spans(self, start: date, end: date) -> Iterator[tuple[int | None, date, date]]:
        """The days from ``start`` to ``end`` without a gap, as first and last day for which a part speaks; None: none
        does."""
        begin = start
        for at, last in enumerate(self._index[0]):
            if last is None or last < begin:
                continue
            yield at, begin, min(last, end)
            begin = last + timedelta(days=1)
            if begin > end:
                return
        yield None, begin, end

    def has(self, start: date, end: date) -> bool:
        """Whether the delivery has a row from ``start`` to ``end`` that counts."""
        _, days, _ = self._index
        asked = days[(days >= np.datetime64(start, "D")) & (days <= np.datetime64(end, "D"))]
        if not len(self.held) or not len(asked):
            return bool(len(asked))
        return any(self.delivered(*span).num_rows for span in self.spans(asked[0].item(), asked[-1].item()))

    def delivered(self, part: int | None, first: date, last: date) -> pa.Table:
        """The delivered rows of a span that count."""
        rows = self.spec.arrow().empty_table() if part is None else _between(self.parts[part], first, last)
        if len(self.held):
            held = pc.is_in(rows["instrument"], value_set=pa.array(sorted(self.held), pa.string()))
            rows = rows.filter(pc.invert(held))
        return rows

    def rows(self, part: int | None, first: date, last: date, old: pa.Table) -> pa.Table:
        """The rows that the days of a span should hold; ``old`` are the stored ones."""
        rows = self.delivered(part, first, last)
        stays = self.silent(old["instrument"])
        if stays.any():
            stays &= ~np.isin(row_digests(old, self.spec.keys), row_digests(rows, self.spec.keys))
        if stays.any():
            kept = old.filter(pa.array(stays)).select(rows.column_names)
            rows = pa.concat_tables([rows, kept]).sort_by([("date", "ascending"), ("instrument", "ascending")])
        return rows

    def unlike(self, sessions: np.ndarray, stored: np.ndarray) -> np.ndarray:
        """Sessions (datetime64[D]) whose delivered rows are not the stored ones.

        ``stored``: digest of the rows that each session holds, uint64 (S,), 0 where it holds none. Rows that stay
        because the delivery says nothing about them count as a difference.
        """
        _, days, digests = self._index
        told = np.zeros(len(sessions), np.uint64)
        known = np.isin(days, sessions)
        told[np.searchsorted(sessions, days[known])] = digests[known]
        return sessions[told != stored]

    def confirmed(
        self, store: TableStore, universe: str, days: np.ndarray, instruments: Collection[str] | None = None
    ) -> np.ndarray:
        """Which of the days (datetime64[D], increasing) would hold other rows, to the row.

        ``instruments``: only their stored rows are read; the delivery must have no others.
        """
        found = [days[:0]]
        for part, mine in self._days(days):
            old = _stored(store, self.spec, universe, mine, instruments)
            new = _only(self.rows(part, mine[0].item(), mine[-1].item(), old), mine)
            pairs = (dict(zip(*(x.tolist() for x in digests_by_session(t)), strict=True)) for t in (old, new))
            before, after = pairs
            found.append(mine[[before.get(day) != after.get(day) for day in mine.tolist()]])
        return np.concatenate(found)

    def withdrawn(
        self,
        store: TableStore,
        universe: str,
        days: np.ndarray,
        share: float,
        least: int,
        instruments: Collection[str] | None = None,
    ) -> "dict[str, Withdrawal]":
        """Instruments that would lose more than ``share`` of their stored rows, and more than ``least`` of them.

        ``days`` (datetime64[D], increasing): those on which anything differs; ``instruments`` as of ``confirmed``.
        """
        lost: Counter[str] = Counter()
        ends: dict[str, tuple[date, date]] = {}
        for part, mine in self._days(days):
            old = _stored(store, self.spec, universe, mine, instruments, ["date", "instrument"])
            new = self.delivered(part, mine[0].item(), mine[-1].item()).select(["date", "instrument"])
            gone = ~np.isin(row_digests(old), row_digests(new)) & ~self.silent(old["instrument"])
            for row in (
                old.filter(pa.array(gone))
                .group_by("instrument")
                .aggregate([("date", "count"), ("date", "min_max")])
                .to_pylist()
            ):
                name, span = row["instrument"], row["date_min_max"]
                lost[name] += row["date_count"]
                ends[name] = min(ends.get(name, (date.max,))[0], span["min"]), span["max"]
        names = sorted(name for name, count in lost.items() if count > least)
        if not names:
            return {}
        held = store.read(self.spec.name, universe, columns=["instrument"], instruments=names)
        totals = {row["values"]: row["counts"] for row in pc.value_counts(held["instrument"]).to_pylist()}
        return {
            name: Withdrawal(lost[name], totals[name], *ends[name])
            for name in names
            if lost[name] > share * totals[name]
        }

    def _days(self, days: np.ndarray) -> Iterator[tuple[int | None, np.ndarray]]:
        """The days that each part speaks for."""
        if len(days):
            for part, first, last in self.spans(days[0].item(), days[-1].item()):
                mine = days[(days >= np.datetime64(first, "D")) & (days <= np.datetime64(last, "D"))]
                if len(mine):
                    yield part, mine


@dataclass(frozen=True)
class Withdrawal:
    """What of an instrument a delivery no longer has: ``rows`` of the ``stored`` ones, from ``first`` to ``last``."""

    rows: int
    stored: int
    first: date
    last: date

    def __str__(self) -> str:
        return f"{self.rows:,} of {self.stored:,} stored rows ({self.first} .. {self.last}) are no longer delivered"


def _between(rows: pa.Table, first: date, last: date) -> pa.Table:
    days = rows["date"].to_numpy().astype("M8[D]")
    low = int(np.searchsorted(days, np.datetime64(first, "D")))
    high = int(np.searchsorted(days, np.datetime64(last, "D"), "right"))
    return rows.slice(low, high - low)


def _only(rows: pa.Table, days: np.ndarray) -> pa.Table:
    return rows.filter(pc.is_in(rows["date"], value_set=pa.array(days, pa.date32())))


def _stored(
    store: TableStore,
    spec: TableSpec,
    universe: str,
    days: np.ndarray,
    instruments: Collection[str] | None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """The stored rows of some days."""
    if not store.exists(spec.name):
        return spec.arrow().empty_table().select(columns or spec.arrow().names)
    names = None if instruments is None else sorted(instruments)
    return _only(store.read(spec.name, universe, days[0].item(), days[-1].item(), names, columns), days)
