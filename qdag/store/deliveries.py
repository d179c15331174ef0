"""The newest reading of a universe's source: which version of which file it was of, and which sessions of raw_ohlcv it
contradicts. Written after each delivery, asked before the next.

A reading is of the whole source and is compared with all sessions that are stored, whichever were asked for. So one set
of files is known per universe: what is stored of the compared sessions is what these files give, but for the sessions
that are written down as contradictions. What a delivery is made of belongs here as plain data; sources read the files,
``qdag.assets`` brings the two together.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.schema import CONTRADICTIONS, DELIVERIES, RAW_OHLCV
from qdag.store.arrow import days
from qdag.store.tables import TableStore

DELIVERY = "delivery"
"""Under this name a commit of raw_ohlcv tells the ``fingerprint`` of the delivery that it stores."""
NEW, CHANGED = "new", "changed"
"""Kinds of contradictions: nothing is stored of the session, or other rows are."""
_HARMLESS = ("ADD COLUMN", "OPTIMIZE", "VACUUM START", "VACUUM END", "CREATE TABLE")


@dataclass(frozen=True)
class Reading:
    """The newest reading of a universe's files.

    Attributes
    ----------
    hashes : SHA-256 of every file by its path in the source
    stamps : its size in bytes, and its time of change in ns (0: not known)
    since, until : first and last session that were compared
    last : the last date that a file tells, None for files without dates
    reader_digest : of what the bars depend on besides the files
    version : of raw_ohlcv, None where it is not known
    """

    hashes: Mapping[str, str]
    stamps: Mapping[str, tuple[int, int]]
    since: date
    until: date
    last: date | None
    reader_digest: str
    version: int | None


def fingerprint(hashes: Mapping[str, str], reader_digest: str) -> str:
    """Digest of a whole delivery: SHA-256 of each file by its path, and of what else the bars depend on."""
    text = "\n".join([reader_digest, *(f"{source}\t{digest}" for source, digest in sorted(hashes.items()))])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def newest_reading(store: TableStore, universe: str) -> Reading | None:
    """What is known of the files that were read last; None where none were, or where the contradictions that were
    written down with them are not those that are there."""
    rows = _stored(store, universe)
    told = pc.field("contradicted") == len(contradictions(store, universe)[0])
    rows = rows.filter(told & pc.field("since").is_valid())
    if not rows.num_rows:
        return None
    # what an older version of qdag wrote tells no contradictions: of what is left there is one reading
    version, until, since = (rows[name][0].as_py() for name in ("version", "date", "since"))
    columns = {name: rows[name].to_pylist() for name in ("source", "sha256", "bytes", "modified")}
    sources = columns["source"]
    return Reading(
        dict(zip(sources, columns["sha256"], strict=True)),
        {name: (size, at or 0) for name, size, at in zip(sources, columns["bytes"], columns["modified"], strict=True)},
        since,
        until,
        pc.max(rows["last"]).as_py(),
        rows["reading"][0].as_py() or "",
        version,
    )


def _stored(store: TableStore, universe: str) -> pa.Table:
    """All rows of a universe; columns that an older table lacks are null."""
    schema = DELIVERIES.arrow()
    if not store.exists(DELIVERIES.name):
        return schema.empty_table()
    rows = store.read(DELIVERIES.name, universe)
    columns = [
        rows[field.name] if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type) for field in schema
    ]
    return pa.Table.from_arrays(columns, names=schema.names)


def unchanged(
    store: TableStore, universe: str, start: date, end: date, hashes: Mapping[str, str], reader_digest: str
) -> int | None:
    """Version of raw_ohlcv since which the sessions of ``start`` to ``end`` hold what these files give; or None.

    That is so where the newest reading was of the same files, read the same way, was compared with these sessions and
    contradicts none of them, and nothing else was written over them since: bars that somebody corrected by hand,
    restored or deleted are read again.
    """
    known = newest_reading(store, universe)
    if (
        known is None
        or known.version is None
        or known.reader_digest != reader_digest
        or known.hashes != hashes
        or not known.since <= start <= end <= known.until
    ):
        return None
    contradicting = contradictions(store, universe)[0]
    if np.any((contradicting >= np.datetime64(start, "D")) & (contradicting <= np.datetime64(end, "D"))):
        return None
    if not store.exists(RAW_OHLCV.name) or known.version > (store.version(RAW_OHLCV.name) or 0):
        return None
    own = fingerprint(hashes, reader_digest)
    for commit in store.history(RAW_OHLCV.name):
        if commit["version"] <= known.version:
            return known.version
        elsewhere = commit["operation"] == "WRITE" and (
            (commit["universe"] not in (None, universe))
            or (commit["start"] is not None and (commit["start"] > end or commit["end"] < start))
            or commit["provenance"].get(DELIVERY) == own
        )
        if not elsewhere and commit["operation"] not in _HARMLESS:
            return None
    return None


def record(
    store: TableStore,
    universe: str,
    since: date,
    until: date,
    files: list[dict[str, Any]],
    reader_digest: str,
    version: int | None,
    provenance: Mapping[str, str],
) -> None:
    """Write down the files of a reading that was compared with the sessions of ``since`` to ``until``.

    ``files`` hold source, sha256, bytes, modified, rows, first and last; its contradictions are written down already.
    The reading before is forgotten. Nothing is written where the same is written down.
    """
    own = {"universe": universe, "date": until, "since": since, "reading": reader_digest, "version": version}
    own |= {"contradicted": len(contradictions(store, universe)[0])}
    new = pa.Table.from_pylist([{**own, **file} for file in files], schema=DELIVERIES.arrow())
    first = last = until
    if store.exists(DELIVERIES.name):
        old = _stored(store, universe)
        if old.sort_by("source").equals(new.sort_by("source")):
            return
        ends = store.sessions(DELIVERIES.name, universe)
        if len(ends):
            first, last = min(until, ends[0].item()), max(until, ends[-1].item())
    store.replace(DELIVERIES, universe, first, last, new, provenance)


def forget(store: TableStore, universe: str, provenance: Mapping[str, str]) -> None:
    """Take back what is written down of the files that were read: they are read again."""
    if store.exists(DELIVERIES.name) and len(ends := store.sessions(DELIVERIES.name, universe)):
        nothing = DELIVERIES.arrow().empty_table()
        store.replace(DELIVERIES, universe, ends[0].item(), ends[-1].item(), nothing, provenance)


def contradictions(store: TableStore, universe: str) -> tuple[np.ndarray, np.ndarray]:
    """Sessions on which the newest reading gives other rows than are stored, increasing, datetime64[D] (N,), and which
    of these are ``NEW``, bool (N,): nothing is stored of them."""
    if not store.exists(CONTRADICTIONS.name):
        return np.array([], "M8[D]"), np.array([], bool)
    rows = store.read(CONTRADICTIONS.name, universe)
    return days(rows["date"]), np.array(pc.equal(rows["kind"], NEW).to_pylist(), bool)


def contradicted(store: TableStore, universe: str) -> np.ndarray:
    """Sessions of raw_ohlcv that would hold other rows if they were materialized now, datetime64[D].

    Those between the first and the last one that it holds: a session on which nobody has a row is one of them where
    the source has got rows of it. What lies outside was never asked for.
    """
    sessions, _ = contradictions(store, universe)
    if not len(sessions):
        return sessions
    stored = store.sessions(RAW_OHLCV.name, universe) if store.exists(RAW_OHLCV.name) else sessions[:0]
    return sessions[(sessions >= stored[0]) & (sessions <= stored[-1])] if len(stored) else sessions[:0]


def contradict(
    store: TableStore,
    universe: str,
    start: date,
    end: date,
    sessions: np.ndarray,
    new: np.ndarray,
    provenance: Mapping[str, str],
) -> None:
    """Write down which sessions (datetime64[D] (N,)) of ``start`` to ``end`` a reading contradicts; ``new`` as of
    ``contradictions``. What was written down of them before is forgotten."""
    old, kinds = contradictions(store, universe)
    inside = (old >= np.datetime64(start, "D")) & (old <= np.datetime64(end, "D"))
    if np.array_equal(old[inside], sessions) and np.array_equal(kinds[inside], new):
        return
    rows = pa.table(
        {
            "universe": pa.repeat(pa.scalar(universe, pa.string()), len(sessions)),
            "date": pa.array(sessions, pa.date32()),
            "kind": pa.array(np.where(new, NEW, CHANGED).tolist(), pa.string()),
        },
        schema=CONTRADICTIONS.arrow(),
    )
    store.replace(CONTRADICTIONS, universe, start, end, rows, provenance)
