"""The records of raw_ohlcv: brought in line with its rows, whoever wrote them.

A session's record holds three digests. ``inputs`` is of its rows. ``past`` is of what its rows that follow a gap look
back to over it: their instruments' last adjusted closes before, or that there are none, which makes the row a listing.
A value over a window of sessions depends on nothing else: within the window every row is told by ``inputs``, and
whether an instrument was there before the first of them, and at which close, by the ``past`` of that first row.
``memory`` is of the last :data:`MEMORY` bars of these instruments before their gaps: for values over so many bars,
which may lie before any window of sessions where the instrument was suspended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.lineage.changes import changes
from qdag.lineage.records import RAW, as_recorded, record, withdraw
from qdag.schema import LINEAGE
from qdag.store.arrow import text_codes
from qdag.store.digests import digests_by_session, mixed, month_spans, row_digests, text_digest
from qdag.store.tables import TableStore

MEMORY = 360
_BAR = ["date", "instrument", "high", "low", "close", "volume", "vwap", "factor"]
# calendar days before a session that are looked through for the bars before it; None is all
_REACHES = (600, None)
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
    # no table of records older than its column has a version
    if (last := pc.max(known["version"])).is_valid:
        newest = known.slice(pc.index(known["version"], last).as_py(), 1).to_pylist()[0]
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
    reach = _reach(store, universe, end, version)
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
        walk.follow(store.read(RAW, universe, first, last, columns=_BAR, version=version))
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
        past=np.array([walk.past.get(day, 0) for day in sessions.tolist()], np.uint64),
        memory=np.array([walk.memory.get(day, 0) for day in sessions.tolist()], np.uint64),
    )


def _reach(store: TableStore, universe: str, end: date, version: int) -> np.datetime64:
    """The last session whose rows may look back over a gap into the days up to ``end``: the ``MEMORY``-th of an
    instrument after them; ``end`` where there is none."""
    reach = np.datetime64(end, "D")
    stored = store.sessions(RAW, universe, version)
    counted: dict[str, int] = {}
    for first, last in month_spans(stored[stored > reach]):
        rows = store.read(RAW, universe, first, last, columns=["date", "instrument"], version=version)
        codes, names = text_codes(rows["instrument"])
        order = np.argsort(codes, kind="stable")
        begins = np.flatnonzero(np.append(True, np.diff(codes[order]) != 0))
        rank = np.empty(len(codes), np.int64)
        rank[order] = np.arange(len(codes)) - np.repeat(begins, np.diff(np.append(begins, len(codes))))
        before = np.array([counted.get(name, 0) for name in names], np.int64)
        near = before[codes] + rank < MEMORY
        if near.any():
            reach = rows["date"].to_numpy().astype("M8[D]")[near].max()
        counts = np.bincount(codes, minlength=len(names)).tolist()
        counted |= {name: counted.get(name, 0) + count for name, count in zip(names, counts, strict=True)}
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
    bars: np.ndarray = field(default_factory=lambda: np.zeros((0, MEMORY), np.uint64))
    """Digests of its last bars, in a ring."""
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """How many bars have gone into the ring."""
    total: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Sum of the digests in the ring."""
    whole: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    """Whether the bars before the walk are in the ring, as far as they belong there."""
    past: dict[date, int] = field(default_factory=dict)
    memory: dict[date, int] = field(default_factory=dict)
    """By session, the digest of what its rows after a gap look back to; without an entry where there is none."""

    @classmethod
    def begin(cls, store: TableStore, universe: str, calendar: np.ndarray, first: date, version: int) -> "_Walk":
        """Stand before ``first``, with the rows of the session before it."""
        walk = cls(store, universe, calendar, first, version)
        at = int(np.searchsorted(calendar, np.datetime64(first, "D")))
        if at:
            day = calendar[at - 1].item()
            rows = store.read(RAW, universe, day, day, columns=_BAR, version=version)
            codes = walk._known(rows)
            walk.closes[codes], walk.seen[codes] = _adjusted(rows), at - 1
        return walk

    def follow(self, rows: pa.Table) -> None:
        """Go on over rows that are sorted by date and come after all before."""
        if not rows.num_rows:
            return
        codes, closes, bars = self._known(rows), _adjusted(rows), row_digests(rows, _BAR)
        dates = rows["date"].to_numpy().astype("M8[D]")
        at = np.searchsorted(self.calendar, dates)
        self._look_back(codes, at)
        cuts = np.flatnonzero(np.append(True, dates[1:] != dates[:-1]))
        for begin, stop in zip(cuts, np.append(cuts[1:], len(dates)), strict=True):
            here, day = codes[begin:stop], dates[begin].item()
            gap = here[self.seen[here] != at[begin] - 1]
            if len(gap):
                self.past[day] = int(mixed(self.names[gap] ^ _bits(self.closes[gap])).sum(dtype=np.uint64))
                self.memory[day] = int(mixed(self.names[gap] ^ mixed(self.total[gap])).sum(dtype=np.uint64))
            self.closes[here], self.seen[here] = closes[begin:stop], at[begin]
            slot = self.kept[here] % MEMORY
            self.total[here] += bars[begin:stop] - self.bars[here, slot]
            self.bars[here, slot] = bars[begin:stop]
            self.kept[here] += 1

    def _known(self, rows: pa.Table) -> np.ndarray:
        """Codes of the rows' instruments; new ones get one."""
        codes, names = text_codes(rows["instrument"])
        fresh = [name for name in names if name not in self.codes]
        if fresh:
            self.codes |= {name: len(self.codes) + i for i, name in enumerate(fresh)}
            n = len(fresh)
            self.names = np.append(self.names, np.array([text_digest(name) for name in fresh], np.uint64))
            self.closes = np.append(self.closes, np.full(n, np.nan))
            self.seen = np.append(self.seen, np.full(n, -1, np.int64))
            self.bars = np.append(self.bars, np.zeros((n, MEMORY), np.uint64), axis=0)
            self.kept = np.append(self.kept, np.zeros(n, np.int64))
            self.total = np.append(self.total, np.zeros(n, np.uint64))
            self.whole = np.append(self.whole, np.zeros(n, bool))
        return np.array([self.codes[name] for name in names], np.int64)[codes]

    def _look_back(self, codes: np.ndarray, at: np.ndarray) -> None:
        """Fetch what lies before the walk of instruments with a gap in these rows, as far as the walk lacks it."""
        order = np.argsort(codes, kind="stable")
        mine, here = codes[order], at[order]
        before = np.append(-1, here[:-1])
        new = np.append(True, mine[1:] != mine[:-1])
        before[new] = self.seen[mine[new]]
        gap = np.unique(mine[here != before + 1])
        fresh = gap[~self.whole[gap] & (self.kept[gap] < MEMORY)]
        self.whole[gap] = True
        if not len(fresh):
            return
        wanted = set(fresh.tolist())
        names = [name for name, code in self.codes.items() if code in wanted]
        rows = _bars_before(self.store, self.universe, self.first, names, self.version)
        digests, closes = row_digests(rows, _BAR), _adjusted(rows)
        places, found = text_codes(rows["instrument"])
        for place, name in enumerate(found):
            code, own = self.codes[name], np.flatnonzero(places == place)
            last = np.concatenate([digests[own], self.bars[code, : self.kept[code]]])[-MEMORY:]
            self.bars[code, : len(last)], self.kept[code] = last, len(last)
            self.total[code] = last.sum(dtype=np.uint64)
            if self.seen[code] < 0:
                self.closes[code] = closes[own[-1]]


def _bars_before(store: TableStore, universe: str, day: date, names: list[str], version: int) -> pa.Table:
    """At least the last ``MEMORY`` bars before a day of each instrument, or all that there are, sorted by date."""
    found = []
    for reach in _REACHES:
        start = None if reach is None else day - timedelta(days=reach)
        rows = store.read(RAW, universe, start, day - timedelta(days=1), names, _BAR, version=version)
        counts = {c["values"]: c["counts"] for c in pc.value_counts(rows["instrument"]).to_pylist()}
        enough = [name for name in names if reach is None or counts.get(name, 0) >= MEMORY]
        found.append(rows.filter(pc.is_in(rows["instrument"], value_set=pa.array(enough, pa.string()))))
        names = [name for name in names if name not in enough]
        if not names:
            break
    return pa.concat_tables(found)


def _adjusted(rows: pa.Table) -> np.ndarray:
    closes: np.ndarray = rows["close"].to_numpy() * rows["factor"].to_numpy()
    return closes


def _day(session: np.datetime64) -> date:
    return session.astype("M8[D]").item()


def _bits(closes: np.ndarray) -> np.ndarray:
    # a listing has no close before it: one NaN stands for that
    values = np.array(closes, np.float64) + 0.0
    values[np.isnan(values)] = np.nan
    return values.view(np.uint64)
