"""The records of raw_ohlcv: brought in line with its rows, whoever wrote them.

A session's record holds two digests. ``inputs`` is of its rows. ``past`` is of what its rows that follow a gap look
back to over it: their instruments' last adjusted closes before, or that there are none, which makes the row a listing.
A value over a window of sessions depends on nothing else: within the window every row is told by ``inputs``, and
whether an instrument was there before the first of them, and at which close, by the ``past`` of that first row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.lineage.changes import changes
from qdag.lineage.records import RAW, as_recorded, record, withdraw
from qdag.schema import LINEAGE
from qdag.store.digests import digests_by_session, mixed, month_spans, text_digest
from qdag.store.panels import closes_before
from qdag.store.tables import TableStore

_CLOSE = ["date", "instrument", "close", "factor"]
_EVER = date(1900, 1, 1), date(2200, 1, 1)


def reconcile(
    store: TableStore, universe: str, calendar: np.ndarray, provenance: Mapping[str, str] | None = None
) -> None:
    """Record raw_ohlcv as it is stored now, where anybody has changed it since it was recorded.

    ``calendar``: all sessions of the exchange, datetime64[D], increasing. Only the log is read where nothing has
    changed, and only the touched sessions where something has. A session whose rows are as they were stays blocked
    where it was: nobody has judged it again.
    """
    known = LINEAGE.arrow().empty_table()
    if store.exists(LINEAGE.name):
        known = as_recorded(store.read(LINEAGE.name, universe, match=("asset", RAW)))
    log = changes(store, RAW)
    if log.version < 0:
        if known.num_rows:
            withdraw(store, universe, RAW, *_EVER, provenance or {})
        return
    span: tuple[date, date] | None = None
    seen = -1
    if known.num_rows:
        newest = known.slice(pc.index(known["version"], pc.max(known["version"])).as_py(), 1).to_pylist()[0]
        # records of an earlier version of qdag name no commit: they are made anew, once
        if newest["commit"] is not None and log.holds(newest["version"], newest["commit"]):
            seen = newest["version"]
    if seen >= 0:
        touched = [touch for touch in log.since(seen) if touch.concerns(universe)]
        if not touched:
            return
        if all(touch.first and touch.last for touch in touched):
            span = (
                min(date.fromisoformat(touch.first) for touch in touched if touch.first),
                max(date.fromisoformat(touch.last) for touch in touched if touch.last),
            )
    stored = store.sessions(RAW, universe)
    if span is None:
        days = np.concatenate([stored, known["date"].to_numpy().astype("M8[D]")])
        if not len(days):
            return
        span = days.min().item(), days.max().item()
    _record(store, universe, calendar, span, known, log.version, provenance or {})


def _record(
    store: TableStore,
    universe: str,
    calendar: np.ndarray,
    span: tuple[date, date],
    known: pa.Table,
    version: int,
    provenance: Mapping[str, str],
) -> None:
    """Record the rows of ``span``, and the rows after it that look back over a gap into it."""
    start, end = span
    stored = store.sessions(RAW, universe, version)
    inside = stored[(stored >= np.datetime64(start, "D")) & (stored <= np.datetime64(end, "D"))]
    reach = _reach(store, universe, calendar, end, version)
    until = _day(reach)
    walk = _Walk.begin(store, universe, calendar, start, version)
    days, digests = [np.array([], "M8[D]")], [np.array([], np.uint64)]
    for first, last in month_spans(inside):
        rows = store.read(RAW, universe, first, last, version=version)
        for found, part in zip(digests_by_session(rows), (days, digests), strict=True):
            part.append(found)
        walk.follow(rows)
    after = stored[(stored > np.datetime64(end, "D")) & (stored <= reach)]
    for first, last in month_spans(after):
        walk.follow(store.read(RAW, universe, first, last, columns=_CLOSE, version=version))
    past = walk.digests()
    sessions, inputs = np.concatenate(days), np.concatenate(digests)
    later = known.filter(
        (pc.field("date") > pa.scalar(end, pa.date32())) & (pc.field("date") <= pa.scalar(until, pa.date32()))
    )
    sessions = np.concatenate([sessions, later["date"].to_numpy().astype("M8[D]")])
    inputs = np.concatenate([inputs, later["inputs"].to_numpy().view(np.uint64)])
    failed = known.filter(pc.field("blocked").is_valid()).select(["date", "inputs", "blocked"]).to_pylist()
    blocked = {(row["date"], row["inputs"]): row["blocked"] for row in failed}
    keys = zip(sessions.tolist(), inputs.view(np.int64).tolist(), strict=True)
    record(
        store,
        universe,
        RAW,
        sessions,
        inputs,
        "",
        version,
        provenance,
        span=(start, until),
        blocked=pa.array([blocked.get(key) for key in keys], pa.string()),
        past=np.array([past.get(day, 0) for day in sessions.tolist()], np.uint64),
    )


def _reach(store: TableStore, universe: str, calendar: np.ndarray, end: date, version: int) -> np.datetime64:
    """The last session whose rows look back over a gap into the days up to ``end``; ``end`` where there is none."""
    reach = np.datetime64(end, "D")
    stored = store.sessions(RAW, universe, version)
    after = stored[stored > reach]
    if not len(after):
        return reach
    at = int(np.searchsorted(calendar, reach, "right"))
    following = calendar[at] if at < len(calendar) else after[0]
    names = ["date", "instrument"]
    # who trades on the very next session has no gap behind it; the session itself is always looked at
    rows = store.read(RAW, universe, following.item(), following.item(), columns=names, version=version)
    found = set(pc.unique(rows["instrument"]).to_pylist())
    reach = following
    for first, last in month_spans(after[after > following]):
        rows = store.read(RAW, universe, first, last, columns=names, version=version)
        fresh = pc.invert(pc.is_in(rows["instrument"], value_set=pa.array(sorted(found), pa.string())))
        rows = rows.filter(fresh)
        if rows.num_rows:
            found.update(pc.unique(rows["instrument"]).to_pylist())
            # sorted by date: in reverse the last mention of an instrument is its first session
            firsts = dict(
                zip(rows["instrument"].to_pylist()[::-1], rows["date"].to_numpy().astype("M8[D]")[::-1], strict=True)
            )
            reach = max(reach, *firsts.values())
    return reach


@dataclass
class _Walk:
    """Follows rows session by session and notes what those after a gap look back to."""

    store: TableStore
    universe: str
    calendar: np.ndarray
    first: date
    version: int
    codes: dict[str, int] = field(default_factory=dict)
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    closes: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Last adjusted close of each instrument, NaN where it had none."""
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Position on the calendar of its last row; -1 before the first that was followed."""
    found: dict[date, int] = field(default_factory=dict)

    @classmethod
    def begin(cls, store: TableStore, universe: str, calendar: np.ndarray, first: date, version: int) -> "_Walk":
        """Stand before ``first``, with the rows of the session before it."""
        walk = cls(store, universe, calendar, first, version)
        at = int(np.searchsorted(calendar, np.datetime64(first, "D")))
        if at:
            day = calendar[at - 1].item()
            rows = store.read(RAW, universe, day, day, columns=_CLOSE, version=version)
            codes, closes = walk._known(rows)
            walk.closes[codes], walk.seen[codes] = closes, at - 1
        return walk

    def follow(self, rows: pa.Table) -> None:
        """Go on over rows that are sorted by date and come after all before."""
        codes, closes = self._known(rows)
        dates = rows["date"].to_numpy().astype("M8[D]")
        cuts = np.flatnonzero(np.append(True, dates[1:] != dates[:-1])) if len(dates) else np.zeros(0, int)
        self._look_back(codes)
        for begin, stop in zip(cuts, np.append(cuts[1:], len(dates)), strict=True):
            here, day = codes[begin:stop], dates[begin]
            at = int(np.searchsorted(self.calendar, day))
            gap = here[self.seen[here] != at - 1]
            if len(gap):
                self.found[day.item()] = int(mixed(self.names[gap] ^ _bits(self.closes[gap])).sum(dtype=np.uint64))
            self.closes[here], self.seen[here] = closes[begin:stop], at

    def digests(self) -> dict[date, int]:
        """By session, the digest of what its rows after a gap look back to; without an entry where there is none."""
        return self.found

    def _known(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Codes and adjusted closes of rows; new instruments get a code."""
        encoded = pc.dictionary_encode(rows["instrument"].combine_chunks())
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        names = encoded.dictionary.to_pylist()
        fresh = [name for name in names if name not in self.codes]
        if fresh:
            self.codes |= {name: len(self.codes) + i for i, name in enumerate(fresh)}
            self.names = np.append(self.names, np.array([text_digest(name) for name in fresh], np.uint64))
            self.closes = np.append(self.closes, np.full(len(fresh), np.nan))
            self.seen = np.append(self.seen, np.full(len(fresh), -1, np.int64))
        table = np.array([self.codes[name] for name in names], np.int64)
        closes = rows["close"].to_numpy() * rows["factor"].to_numpy()
        return table[encoded.indices.to_numpy()], closes

    def _look_back(self, codes: np.ndarray) -> None:
        """Closes before the walk of instruments that are met for the first time."""
        fresh = np.unique(codes[self.seen[codes] < 0])
        if not len(fresh):
            return
        wanted = set(fresh.tolist())
        names = [name for name, code in self.codes.items() if code in wanted]
        before = closes_before(self.store, self.universe, np.datetime64(self.first, "D"), names, self.version)
        for name, close in before.items():
            self.closes[self.codes[name]] = close


def _day(session: np.datetime64) -> date:
    return session.astype("M8[D]").item()  # type: ignore[return-value]


def _bits(closes: np.ndarray) -> np.ndarray:
    # a listing has no close before it: one NaN stands for that
    values = np.array(closes, np.float64) + 0.0
    values[np.isnan(values)] = np.nan
    return values.view(np.uint64)
