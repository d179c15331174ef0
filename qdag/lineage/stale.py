"""Which sessions would be computed differently now: what is recorded against what would be recorded.

A *node* is one session of one asset. Its digest stands for its inputs and its definition. The inputs of a node are the
nodes of the assets it reads, over the sessions it reads; those of raw_ohlcv are its rows. What a stage recorded when it
wrote is compared with what it would record now, in the order of the chain: a session is stale where the two differ, or
where its table no longer holds what was recorded, however the difference came about.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.lineage.bars import reconcile
from qdag.lineage.changes import Changes, changes
from qdag.lineage.definition import shared_part
from qdag.lineage.records import RAW, Records, as_recorded, nodes
from qdag.schema import LINEAGE
from qdag.store.digests import mixed, text_digest
from qdag.store.tables import TableStore
from qdag.text import listed

SHOWN = 3
"""Columns that a reason names."""
_NONE = np.array([], "M8[D]")


@dataclass(frozen=True)
class Reads:
    """An asset's session t reads ``asset`` from session t - past to t + future.

    ``columns``: the reader's own definition names columns of the asset, so they must be stored as they are defined now.
    ``memory``: of raw_ohlcv, nothing but what the rows of these sessions that follow a gap look back to over it.
    """

    asset: str
    past: int = 0
    future: int = 0
    columns: bool = False
    memory: bool = False


@dataclass(frozen=True)
class Stale:
    """Sessions (datetime64[D]) of an asset that would be computed differently now, by the first reason that holds.

    Attributes
    ----------
    missing : never computed
    code : its definition changed
    data : what it reads changed
    rows : what is stored is not what was computed: restored, repaired, lost, or written by other hands; or nothing
        tells from what it was computed
    columns : the only columns (or factors) to compute, where the definition of no other has changed and so what is
        stored of them stays; None for all
    """

    asset: str
    missing: np.ndarray = field(default_factory=lambda: _NONE)
    code: np.ndarray = field(default_factory=lambda: _NONE)
    data: np.ndarray = field(default_factory=lambda: _NONE)
    rows: np.ndarray = field(default_factory=lambda: _NONE)
    columns: tuple[str, ...] | None = None

    @property
    def sessions(self) -> np.ndarray:
        """All of them, whatever the reason: datetime64[D], ascending."""
        return np.sort(np.concatenate([self.missing, self.code, self.data, self.rows]))

    def __bool__(self) -> bool:
        return bool(len(self.missing) or len(self.code) or len(self.data) or len(self.rows))

    def reason(self) -> str:
        """For people: how many sessions for which reason."""
        words = (
            ("never computed", self.missing),
            ("stored rows changed", self.rows),
            ("definition changed", self.code),
            ("inputs changed", self.data),
        )
        told = ", ".join(f"{text}: {len(days)} sessions" for text, days in words if len(days)) or "up to date"
        if self.columns is None:
            return told
        return f"{told}, of {listed(self.columns, SHOWN)} alone" if self.columns else f"{told}, nothing to compute"


@dataclass
class Lineage:
    """The records of one universe on some sessions, read once; the log of an asset's table where it is asked for.

    Parameters
    ----------
    sessions : datetime64[D], increasing: a gapless part of ``calendar``
    calendar : datetime64[D], increasing: all sessions of the universe's exchange
    """

    store: TableStore
    universe: str
    sessions: np.ndarray
    calendar: np.ndarray
    _records: dict[str, Records] = field(default_factory=dict, repr=False)
    _logs: dict[str, Changes] = field(default_factory=dict, repr=False)

    def records(self, asset: str) -> Records:
        """What is recorded of an asset; of raw_ohlcv, what its rows are now."""
        if asset not in self._records:
            self._records[asset] = self._load(asset)
        return self._records[asset]

    def recorded(self, asset: str) -> np.ndarray:
        """Sessions of an asset that were computed, be it from nothing."""
        return self.sessions[self.records(asset).known]

    def inputs(self, reads: Iterable[Reads], definitions: Mapping[str, str]) -> np.ndarray:
        """Digest of what each session's inputs are, as they are stored: uint64 (S,). Inputs whose stored rows are not
        those that were recorded, or hold other columns than are defined now where columns are read, are others."""

        def read(r: Reads) -> np.ndarray:
            records = self.records(r.asset)
            return records.memory if r.memory else records.nodes(definitions.get(r.asset) if r.columns else None)

        return window_digests((read(r), r) for r in reads)

    def fingerprint(self) -> str:
        """Text that is the same exactly as long as nothing is written; a state that comes back has another one."""
        total = mixed(np.array([text_digest(self.universe)], np.uint64))
        raw = self.records(RAW)
        for asset in sorted(pc.unique(self._rows["asset"]).to_pylist()):
            total = mixed(total + np.uint64(text_digest(asset)) + self.records(asset).nodes().sum(dtype=np.uint64))
        return f"{int(raw.versions.max(initial=-1))}-{int(total[0]):016x}"

    def stale(
        self, chain: Mapping[str, Sequence[Reads]], definitions: Mapping[str, str], stop: int | None = None
    ) -> dict[str, Stale]:
        """Compare every asset of a chain, given in order, with what it would record now.

        Expected are the sessions from the first to the last one that raw_ohlcv holds, those on which nobody has a row
        included, as in the Qlib directory, those that the asset has a record of, and those of which its table, or one
        that is made from it, holds rows all the same. ``stop``: as if the calendar ended before this position of
        ``sessions``.
        """
        stop = len(self.sessions) if stop is None else stop
        sessions = self.sessions[:stop]
        raw = self.records(RAW)
        known = raw.known[:stop]
        between = np.maximum.accumulate(known) & np.maximum.accumulate(known[::-1])[::-1]
        loose = {asset: self._loose(asset, between | self.records(asset).known[:stop]) for asset in chain}
        asked = {asset: between | rows for asset, rows in loose.items()}
        for asset, reads in reversed(list(chain.items())):
            asked |= {read.asset: asked[read.asset] | asked[asset] for read in reads if read.asset in asked}
        expected_nodes = {RAW: raw.nodes()[:stop]}
        found = {}
        for asset, reads in chain.items():
            records = self.records(asset)
            recorded, texts = records.known[:stop], records.definitions[:stop]
            inputs = window_digests((raw.memory[:stop] if r.memory else expected_nodes[r.asset], r) for r in reads)
            expected = asked[asset] | recorded
            salt = np.full(len(inputs), shared_part(definitions[asset]), object)
            expected_nodes[asset] = nodes(inputs, salt, expected)
            rows = loose[asset] | (recorded & ~records.intact[:stop])
            code = recorded & ~rows & (texts != definitions[asset])
            data = recorded & ~rows & ~code & (records.inputs[:stop] != inputs)
            missing = expected & ~recorded & ~rows
            found[asset] = Stale(
                asset, sessions[missing], code=sessions[code], data=sessions[data], rows=sessions[rows]
            )
        return found

    @cached_property
    def _rows(self) -> pa.Table:
        """The records of all assets as they are stored, those of raw_ohlcv in line with its rows."""
        if len(self.sessions):
            reconcile(self.store, self.universe, self.calendar)
            if self.store.exists(LINEAGE.name):
                span = self.sessions[0].item(), self.sessions[-1].item()
                return as_recorded(self.store.read(LINEAGE.name, self.universe, *span))
        return LINEAGE.arrow().empty_table()

    def _load(self, asset: str) -> Records:
        rows, records = self._rows.filter(pc.field("asset") == asset), Records.none(len(self.sessions))
        if not rows.num_rows:
            return records
        where = np.searchsorted(self.sessions, rows["date"].to_numpy().astype("M8[D]"))
        columns = {
            "inputs": rows["inputs"].to_numpy().view(np.uint64),
            "definitions": rows["definition"].to_numpy(zero_copy_only=False),
            "blocked": rows["blocked"].fill_null("").to_numpy(zero_copy_only=False),
            "versions": rows["version"].fill_null(-1).to_numpy(),
            "past": rows["past"].fill_null(0).to_numpy().view(np.uint64),
            "memory": rows["memory"].fill_null(0).to_numpy().view(np.uint64),
        }
        for name, values in columns.items():
            getattr(records, name)[where] = values
        records.known[where] = True
        commits = rows["commit"].to_numpy(zero_copy_only=False)
        records.intact[where] = self._intact(asset, where, columns["versions"], commits)
        return records

    def _log(self, asset: str) -> Changes:
        """What the log of an asset's table says, read once."""
        if asset not in self._logs:
            self._logs[asset] = changes(self.store, asset)
        return self._logs[asset]

    def _loose(self, asset: str, told: np.ndarray) -> np.ndarray:
        """Of the first sessions, those that are not ``told`` (bool (S,)) and of which a table holds rows all the same:
        they were recorded in a table of records that another one has replaced, or never were."""
        sessions = self.sessions[: len(told)]
        if not len(sessions) or not self.store.exists(asset):
            return np.zeros(len(sessions), bool)
        loose = ~told & self._log(asset).touched(self.universe, sessions)
        if not loose.any():
            return loose
        first, last = sessions[loose][[0, -1]].tolist()
        held = self.store.read(asset, self.universe, first, last, columns=["date"])["date"].to_numpy().astype("M8[D]")
        return loose & np.isin(sessions, held)

    def _intact(self, asset: str, where: np.ndarray, versions: np.ndarray, commits: np.ndarray) -> np.ndarray:
        """Whether a table still holds what commits brought on sessions (N,): the commit is in its log, and nobody but a
        stage, which records what it writes, changed the session after it."""
        texts = commits.tolist()
        named = np.array([text is not None for text in texts], bool)
        # raw_ohlcv was just recorded as it is; what is no table names no commit
        if asset == RAW or not self.store.exists(asset):
            return np.ones(len(where), bool) if asset == RAW else ~named
        log = self._log(asset)
        pairs = {pair: log.holds(*pair) for pair in set(zip(versions.tolist(), texts, strict=True))}
        held = np.array([pairs[pair] for pair in zip(versions.tolist(), texts, strict=True)], bool)
        for touch in log.touches:
            if not touch.stage and touch.concerns(self.universe):
                held &= (versions >= touch.version) | ~touch.within(self.sessions[where])
        return held


def window_digests(reads: "Iterable[tuple[np.ndarray, Reads]]") -> np.ndarray:
    """Digest of the nodes that each session reads: uint64 (S,). Nodes outside the sessions count as absent."""
    total = np.zeros(0, np.uint64)
    for digests, read in reads:
        size = len(digests)
        before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(digests, dtype=np.uint64)])
        here = np.arange(size)
        last = np.minimum(here + read.future, size - 1) + 1
        first = np.maximum(here - read.past, 0)
        part = mixed((before[last] - before[first]) ^ np.uint64(text_digest(read.asset)))
        total = part if not len(total) else total + part
    return mixed(total)
