"""What every stored session was computed from, and which sessions would be computed differently now.

A *node* is one session of one asset. Its digest stands for its inputs and its definition. The inputs of a node are the
nodes of the assets it reads, over the sessions it reads; those of raw_ohlcv are its rows. What a stage recorded when it
wrote is compared with what it would record now, in the order of the chain: a session is stale where the two differ,
however the difference came about. Only arithmetic on digests and the table of records belong here; which asset reads
which is told by the caller.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.schema import LINEAGE
from qdag.store.digests import mixed, session_digests, text_digest
from qdag.store.tables import TableStore

RAW = "raw_ohlcv"
# operations of a table's log that change rows
_WRITES = ("WRITE", "RESTORE", "DELETE", "UPDATE", "MERGE")


@dataclass(frozen=True)
class Reads:
    """An asset's session t reads ``asset`` from session t - past to t + future."""

    asset: str
    past: int = 0
    future: int = 0


@dataclass(frozen=True)
class Records:
    """What is recorded of one asset on sessions (S,): digest of the inputs, uint64; definition; the blocking checks
    that it failed, "" for none; whether there is a record."""

    inputs: np.ndarray
    definitions: np.ndarray
    blocked: np.ndarray
    known: np.ndarray

    @classmethod
    def none(cls, size: int) -> "Records":
        texts = np.full(size, "", object)
        return cls(np.zeros(size, np.uint64), texts, texts.copy(), np.zeros(size, bool))

    def nodes(self) -> np.ndarray:
        """Digest of each node, uint64 (S,); 0 where nothing is recorded."""
        return _nodes(self.inputs, self.definitions, self.known)


@dataclass(frozen=True)
class Stale:
    """Sessions (datetime64[D]) of an asset that would be computed differently now, by the first reason that holds.

    ``missing``: never computed. ``code``: its definition changed. ``data``: what it reads changed.
    """

    asset: str
    missing: np.ndarray
    code: np.ndarray
    data: np.ndarray

    @property
    def sessions(self) -> np.ndarray:
        return np.sort(np.concatenate([self.missing, self.code, self.data]))

    def __bool__(self) -> bool:
        return bool(len(self.missing) or len(self.code) or len(self.data))

    def reason(self) -> str:
        """For people: how many sessions for which reason."""
        words = (("never computed", self.missing), ("definition changed", self.code), ("inputs changed", self.data))
        return ", ".join(f"{text}: {len(days)} sessions" for text, days in words if len(days)) or "up to date"


@dataclass
class Lineage:
    """The records of one universe on some sessions, read once.

    Parameters
    ----------
    sessions : datetime64[D], increasing: the universe's calendar, or a part of it
    """

    store: TableStore
    universe: str
    sessions: np.ndarray
    _records: dict[str, Records] = field(default_factory=dict, repr=False)
    _raw_version: int = field(default=-1, repr=False)

    def records(self, asset: str) -> Records:
        """What is recorded of an asset; of raw_ohlcv, what its rows are now."""
        if not self._records:
            self._load()
        return self._records.get(asset) or Records.none(len(self.sessions))

    def recorded(self, asset: str) -> np.ndarray:
        """Sessions of an asset that were computed, be it from nothing."""
        return self.sessions[self.records(asset).known]

    def inputs(self, reads: Iterable[Reads]) -> np.ndarray:
        """Digest of what each session's inputs are, as recorded: uint64 (S,)."""
        return window_digests((self.records(r.asset).nodes(), r) for r in reads)

    def fingerprint(self) -> str:
        """Text that is the same exactly as long as nothing is written; a state that comes back has another one."""
        total = mixed(np.array([text_digest(self.universe)], np.uint64))
        self.records(RAW)
        for asset, records in sorted(self._records.items()):
            total = mixed(total + np.uint64(text_digest(asset)) + records.nodes().sum(dtype=np.uint64))
        return f"{self._raw_version}-{int(total[0]):016x}"

    def stale(self, chain: Mapping[str, Sequence[Reads]], definitions: Mapping[str, str]) -> dict[str, Stale]:
        """Compare every asset of a chain, given in order, with what it would record now.

        Expected are the sessions from the first to the last one that raw_ohlcv holds, those on which nobody has a row
        included, as in the Qlib directory, and those that the asset has a record of.
        """
        raw = self.records(RAW)
        between = np.maximum.accumulate(raw.known) & np.maximum.accumulate(raw.known[::-1])[::-1]
        nodes = {RAW: raw.nodes()}
        found = {}
        for asset, reads in chain.items():
            recorded = self.records(asset)
            inputs = window_digests((nodes[r.asset], r) for r in reads)
            expected = between | recorded.known
            nodes[asset] = _nodes(inputs, np.full(len(inputs), definitions[asset], object), expected)
            code = recorded.known & (recorded.definitions != definitions[asset])
            data = recorded.known & ~code & (recorded.inputs != inputs)
            days = [self.sessions[mask] for mask in (expected & ~recorded.known, code, data)]
            found[asset] = Stale(asset, *days)
        return found

    def _load(self) -> None:
        if not len(self.sessions) or not self.store.exists(RAW):
            return
        _refresh_raw(self.store, self.universe)
        if not self.store.exists(LINEAGE.name):
            return
        rows = self.store.read(LINEAGE.name, self.universe, self.sessions[0].item(), self.sessions[-1].item())
        assets = rows["asset"].to_numpy(zero_copy_only=False)
        at = np.searchsorted(self.sessions, rows["date"].to_numpy().astype("M8[D]"))
        inputs = rows["inputs"].to_numpy().view(np.uint64)
        definitions = rows["definition"].to_numpy(zero_copy_only=False)
        if (assets == RAW).any():
            self._raw_version = int(rows["version"].to_numpy()[assets == RAW].max())
        blocked = rows["blocked"].fill_null("").to_numpy(zero_copy_only=False)
        for asset in np.unique(assets.astype(str)).tolist():
            mine = assets == asset
            where = at[mine]
            records = Records.none(len(self.sessions))
            records.inputs[where], records.definitions[where] = inputs[mine], definitions[mine]
            records.blocked[where] = blocked[mine]
            records.known[where] = True
            self._records[asset] = records


def window_digests(reads: "Iterable[tuple[np.ndarray, Reads]]") -> np.ndarray:
    """Digest of the nodes that each session reads: uint64 (S,). Nodes outside the sessions count as absent."""
    total = np.zeros(0, np.uint64)
    for nodes, read in reads:
        size = len(nodes)
        before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(nodes, dtype=np.uint64)])
        here = np.arange(size)
        last = np.minimum(here + read.future, size - 1) + 1
        first = np.maximum(here - read.past, 0)
        part = mixed((before[last] - before[first]) ^ np.uint64(text_digest(read.asset)))
        total = part if not len(total) else total + part
    return mixed(total)


def record(
    store: TableStore,
    universe: str,
    asset: str,
    sessions: np.ndarray,
    inputs: np.ndarray,
    definition: str,
    version: int | None,
    provenance: Mapping[str, str],
    span: tuple[date, date] | None = None,
    blocked: pa.Array | None = None,
) -> None:
    """Record what ``sessions`` (datetime64[D], (N,)) were computed from: ``inputs`` uint64 (N,).

    Records from the first to the last session, or within ``span``, are replaced. ``blocked``: text (N,), the checks
    that they are known to fail; by default none.
    """
    size = len(sessions)
    if span is None:
        if not size:
            return
        span = sessions[0].item(), sessions[-1].item()
    columns = {
        "universe": pa.repeat(pa.scalar(universe, pa.string()), size),
        "date": pa.array(sessions, pa.date32()),
        "asset": pa.repeat(pa.scalar(asset, pa.string()), size),
        "inputs": pa.array(np.asarray(inputs, np.uint64).view(np.int64)),
        "definition": pa.repeat(pa.scalar(definition, pa.string()), size),
        "version": pa.repeat(pa.scalar(version, pa.int64()), size),
        "blocked": pa.nulls(size, pa.string()) if blocked is None else blocked,
    }
    rows = pa.table(columns, schema=LINEAGE.arrow())
    store.replace(LINEAGE, universe, *span, rows, provenance, match=("asset", asset))


def forget(
    store: TableStore,
    universe: str,
    asset: str,
    sessions: np.ndarray,
    inputs: np.ndarray,
    definition: str,
    provenance: Mapping[str, str],
    always: bool = False,
) -> None:
    """Take back the records of sessions that are about to be computed from other inputs; ``always``: from any.

    A write that dies before it is recorded would pass for what was recorded before, once the inputs are that again.
    """
    if not len(sessions) or not store.exists(LINEAGE.name):
        return
    span = sessions[0].item(), sessions[-1].item()
    rows = store.read(LINEAGE.name, universe, *span, match=("asset", asset))
    at = np.searchsorted(sessions, rows["date"].to_numpy().astype("M8[D]"))
    same = rows["inputs"].to_numpy().view(np.uint64) == np.asarray(inputs, np.uint64)[at]
    same &= rows["definition"].to_numpy(zero_copy_only=False) == definition
    if rows.num_rows and (always or not same.all()):
        record(store, universe, asset, sessions[:0], inputs[:0], definition, None, provenance, span)


def block(
    store: TableStore,
    universe: str,
    asset: str,
    start: date,
    end: date,
    checks: str,
    provenance: Mapping[str, str],
    failed: Collection[date] | None = None,
) -> None:
    """Say which blocking checks the recorded sessions of ``start`` to ``end`` failed: ``checks`` those of ``failed``
    (None: all of them), none the others, which may be read.

    A failed session that has no record, because nothing is stored of it, is told with the next one that has: what
    reads across the hole waits, what ends before it does not.
    """
    if not store.exists(LINEAGE.name):
        return
    rows = store.read(LINEAGE.name, universe, start, end, match=("asset", asset))
    if not rows.num_rows or (rows["blocked"].null_count == rows.num_rows and not checks):
        return
    days = rows["date"].to_numpy().astype("M8[D]")
    broken = np.ones(len(days), bool)
    if failed is not None:
        at = np.searchsorted(np.sort(days), np.array(sorted(failed), "M8[D]"))
        broken = np.isin(days, np.sort(days)[at[at < len(days)]])
    told = pa.array([checks if one and checks else None for one in broken.tolist()], pa.string())
    rows = rows.set_column(rows.column_names.index("blocked"), "blocked", told).select(LINEAGE.arrow().names)
    first, last = rows["date"][0].as_py(), rows["date"][-1].as_py()
    store.replace(LINEAGE, universe, first, last, rows, provenance, match=("asset", asset))


def record_raw(store: TableStore, universe: str, start: date, end: date, provenance: Mapping[str, str]) -> None:
    """Record the digests of the stored raw_ohlcv sessions of ``start`` to ``end``; those without rows lose theirs.

    A session whose rows are as they were stays blocked where it was: nobody has judged it again.
    """
    version = store.version(RAW)
    sessions, digests = session_digests(store, universe, start, end)
    failed: dict[tuple[date, int], str] = {}
    if store.exists(LINEAGE.name):
        columns = ["date", "inputs", "blocked"]
        rows = store.read(LINEAGE.name, universe, start, end, columns=columns, match=("asset", RAW))
        rows = rows.filter(pc.field("blocked").is_valid())
        failed = {(row["date"], row["inputs"]): row["blocked"] for row in rows.to_pylist()}
    keys = zip(sessions.tolist(), digests.view(np.int64).tolist(), strict=True)
    blocked = pa.array([failed.get(key) for key in keys], pa.string())
    record(store, universe, RAW, sessions, digests, "", version, provenance, (start, end), blocked)


def _refresh_raw(store: TableStore, universe: str) -> None:
    """Have the records of raw_ohlcv agree with its rows, also after a write by other hands.

    The table's log tells whether somebody wrote since the records were made; only then are rows read.
    """
    version, seen = store.version(RAW), -1
    known = LINEAGE.arrow().empty_table()
    if store.exists(LINEAGE.name):
        known = store.read(LINEAGE.name, universe, columns=["date", "version"], match=("asset", RAW))
        seen = -1 if not known.num_rows else pc.max(known["version"]).as_py()
    if version is None or seen == version:
        return
    later = [entry for entry in store.history(RAW) if entry["version"] > seen and entry["operation"] in _WRITES]
    if not any(entry["universe"] in (None, universe) for entry in later):
        return
    stored = store.sessions(RAW, universe)
    if not len(stored) and seen < 0:
        return
    first, last = (stored[0].item(), stored[-1].item()) if len(stored) else (date(1900, 1, 1), date(2200, 1, 1))
    if seen >= 0:
        days = pc.min_max(known["date"]).as_py()
        first, last = min(first, days["min"]), max(last, days["max"])
    record_raw(store, universe, first, last, {})


def _nodes(inputs: np.ndarray, definitions: np.ndarray, known: np.ndarray) -> np.ndarray:
    texts = {text: text_digest(text) for text in set(definitions.tolist())}
    salt = np.array([texts[text] for text in definitions.tolist()], np.uint64)
    return np.where(known, mixed(inputs + salt), np.uint64(0))
