"""The table of records: what every stored session was computed from, written, taken back and blocked."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from qdag.lineage.changes import changes
from qdag.lineage.definition import columns_part, shared_part
from qdag.schema import LINEAGE, RAW_OHLCV
from qdag.store.digests import mixed, text_digest
from qdag.store.tables import TableStore

RAW = RAW_OHLCV.name


@dataclass(frozen=True)
class Records:
    """What is recorded of one asset on sessions (S,).

    Attributes
    ----------
    inputs : digest of the inputs, uint64
    definitions : version of the definition, text
    blocked : the blocking checks that it failed, "" for none
    known : whether there is a record
    intact : whether the stored rows are still those that were recorded
    versions : table version that brought the session, -1 where there is none
    past : of raw_ohlcv, digest of the last closes before a gap, uint64; 0 without a gap
    memory : of raw_ohlcv, digest of the bars before a gap, uint64; 0 without a gap
    """

    inputs: np.ndarray
    definitions: np.ndarray
    blocked: np.ndarray
    known: np.ndarray
    intact: np.ndarray
    versions: np.ndarray
    past: np.ndarray
    memory: np.ndarray

    @classmethod
    def none(cls, size: int) -> "Records":
        """Of sessions without a record."""
        texts = np.full(size, "", object)
        absent = np.zeros(size, bool)
        digests = np.zeros(size, np.uint64)
        versions = np.full(size, -1)
        return cls(
            digests, texts, texts.copy(), absent, absent.copy(), versions, past=digests.copy(), memory=digests.copy()
        )

    def nodes(self, definition: str | None = None) -> np.ndarray:
        """Digest of each node, uint64 (S,); 0 where nothing is recorded, or other rows are stored.

        ``definition``: the current one, for a reader of columns; a session that holds other columns is another node.
        """
        salts = self.definitions
        if definition is None:
            salts = np.array([shared_part(text) for text in salts.tolist()], object)
        else:
            held = columns_part(definition)
            texts = salts.tolist()
            salts = np.array([shared_part(t) if columns_part(t) == held else t for t in texts], object)
        return nodes(self.inputs + mixed(self.past), salts, self.known & self.intact)


def nodes(inputs: np.ndarray, definitions: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Digest of each node: uint64 (S,), from the digests of its inputs and what salts them; 0 where not ``known``."""
    texts = {text: text_digest(text) for text in set(definitions.tolist())}
    salt = np.array([texts[text] for text in definitions.tolist()], np.uint64)
    return np.where(known, mixed(inputs + salt), np.uint64(0))


def record(  # noqa: PLR0913 -- the columns of a record, and where it goes
    store: TableStore,
    universe: str,
    asset: str,
    sessions: np.ndarray,
    inputs: np.ndarray,
    definition: str,
    version: int | None,
    provenance: Mapping[str, str],
    *,
    span: tuple[date, date] | None = None,
    blocked: pa.Array | None = None,
    past: np.ndarray | None = None,
    memory: np.ndarray | None = None,
) -> None:
    """Record what ``sessions`` (datetime64[D], (N,)) were computed from: ``inputs`` uint64 (N,).

    Records from the first to the last session, or within ``span``, are replaced. ``version`` is that of the table which
    now holds them. ``blocked``: text (N,), the checks that they are known to fail; by default none. ``past`` and
    ``memory``: uint64 (N,), see :class:`Records`.
    """
    size = len(sessions)
    if span is None:
        if not size:
            return
        span = sessions[0].item(), sessions[-1].item()
    commit = None
    if size and version is not None and store.exists(asset):
        commit = changes(store, asset).commits[version]

    def gaps(digests: np.ndarray | None) -> pa.Array:
        if digests is None:
            return pa.nulls(size, pa.int64())
        values = np.asarray(digests, np.uint64).view(np.int64)
        return pa.array(values, mask=values == 0)

    columns = {
        "universe": pa.repeat(pa.scalar(universe, pa.string()), size),
        "date": pa.array(sessions, pa.date32()),
        "asset": pa.repeat(pa.scalar(asset, pa.string()), size),
        "inputs": pa.array(np.asarray(inputs, np.uint64).view(np.int64)),
        "definition": pa.repeat(pa.scalar(definition, pa.string()), size),
        "version": pa.repeat(pa.scalar(version, pa.int64()), size),
        "commit": pa.repeat(pa.scalar(commit, pa.string()), size),
        "past": gaps(past),
        "memory": gaps(memory),
        "blocked": pa.nulls(size, pa.string()) if blocked is None else blocked,
    }
    rows = pa.table(columns).select(LINEAGE.arrow().names).cast(LINEAGE.arrow())
    store.replace(LINEAGE, universe, *span, rows, provenance, match=("asset", asset))


def withdraw(
    store: TableStore, universe: str, asset: str, start: date, end: date, provenance: Mapping[str, str]
) -> None:
    """Take back the records of an asset from ``start`` to ``end``, before its rows go."""
    if store.exists(LINEAGE.name):
        store.replace(LINEAGE, universe, start, end, LINEAGE.arrow().empty_table(), provenance, match=("asset", asset))


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
    rows = as_recorded(store.read(LINEAGE.name, universe, *span, match=("asset", asset)))
    at = np.searchsorted(sessions, rows["date"].to_numpy().astype("M8[D]"))
    same = rows["inputs"].to_numpy().view(np.uint64) == np.asarray(inputs, np.uint64)[at]
    same &= rows["definition"].to_numpy(zero_copy_only=False) == definition
    if rows.num_rows and (always or not same.all()):
        withdraw(store, universe, asset, *span, provenance)


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
    rows = as_recorded(store.read(LINEAGE.name, universe, start, end, match=("asset", asset)))
    if not rows.num_rows or (rows["blocked"].null_count == rows.num_rows and not checks):
        return
    days = rows["date"].to_numpy().astype("M8[D]")
    broken = np.ones(len(days), bool)
    if failed is not None:
        at = np.searchsorted(np.sort(days), np.array(sorted(failed), "M8[D]"))
        broken = np.isin(days, np.sort(days)[at[at < len(days)]])
    told = pa.array([checks if one and checks else None for one in broken.tolist()], pa.string())
    rows = rows.set_column(rows.column_names.index("blocked"), "blocked", told)
    first, last = rows["date"][0].as_py(), rows["date"][-1].as_py()
    store.replace(LINEAGE, universe, first, last, rows, provenance, match=("asset", asset))


def as_recorded(rows: pa.Table) -> pa.Table:
    """Rows of the table with all its columns, null where it was stored before it had them.

    A row that lacks what every record has is none: its session is computed again.
    """
    schema = LINEAGE.arrow()
    if any(field.name not in rows.column_names for field in schema if not field.nullable):
        return schema.empty_table()
    columns = [
        rows[field.name] if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type) for field in schema
    ]
    return pa.table(columns, schema=schema)
