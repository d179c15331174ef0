"""Which version of which file gave the stored bars: written after each delivery, asked before the next.

What a delivery is made of belongs here as plain data; sources read the files, ``qdag.stages`` brings the two together.
"""

import hashlib
from collections.abc import Mapping
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from qdag.schema import DELIVERIES, RAW_OHLCV
from qdag.store.tables import TableStore

DELIVERY = "delivery"
"""Under this name a commit of raw_ohlcv tells the ``fingerprint`` of the delivery that it stores."""
_HARMLESS = ("ADD COLUMN", "OPTIMIZE", "VACUUM START", "VACUUM END", "CREATE TABLE")


def fingerprint(hashes: Mapping[str, str], reading: str) -> str:
    """Digest of a whole delivery: SHA-256 of each file by its path, and of what else the bars depend on."""
    text = "\n".join([reading, *(f"{source}\t{digest}" for source, digest in sorted(hashes.items()))])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def delivered_hashes(store: TableStore, universe: str) -> dict[str, str]:
    """SHA-256 of every file of the newest delivery, by its path in the source; empty where there was none."""
    if not store.exists(DELIVERIES.name):
        return {}
    rows = store.read(DELIVERIES.name, universe, columns=["version", "date", "since", "source", "sha256"])
    if not rows.num_rows:
        return {}
    newest = rows.filter(pc.field("version") == pc.max(rows["version"]))
    return dict(zip(newest["source"].to_pylist(), newest["sha256"].to_pylist(), strict=True))


def unchanged(
    store: TableStore, universe: str, start: date, end: date, hashes: Mapping[str, str], reading: str
) -> int | None:
    """Version of raw_ohlcv since which the sessions of ``start`` to ``end`` hold what these files give; or None.

    That is so where a delivery that covers these sessions was of the same files, read the same way, no delivery of
    other files touched any of them, and nothing else was written over them since: bars that somebody corrected by hand,
    restored or deleted are read again.
    """
    if not store.exists(DELIVERIES.name) or not store.exists(RAW_OHLCV.name):
        return None
    rows = store.read(DELIVERIES.name, universe, start=start)
    rows = rows.filter(pc.field("since") <= end)
    given: dict[tuple[date, date, int, bool], dict[str, str]] = {}
    columns = (rows[name].to_pylist() for name in ("date", "since", "version", "reading", "source", "sha256"))
    for day, since, version, way, source, digest in zip(*columns, strict=True):
        given.setdefault((day, since, version, way == reading), {})[source] = digest
    found = [
        version
        for (day, since, version, same), files in given.items()
        if same and files == hashes and since <= start and day >= end
    ]
    if any(not same or files != hashes for (_, _, _, same), files in given.items()):
        return None
    if not found or max(found) > (store.version(RAW_OHLCV.name) or 0):
        return None
    mark = fingerprint(hashes, reading)
    for commit in store.history(RAW_OHLCV.name):
        if commit["version"] <= max(found):
            return max(found)
        elsewhere = commit["operation"] == "WRITE" and (
            (commit["universe"] not in (None, universe))
            or (commit["start"] is not None and (commit["start"] > end or commit["end"] < start))
            or commit["provenance"].get(DELIVERY) == mark
        )
        if not elsewhere and commit["operation"] not in _HARMLESS:
            return None
    return None


def record(
    store: TableStore,
    universe: str,
    start: date,
    end: date,
    files: list[dict[str, Any]],
    reading: str,
    version: int | None,
    provenance: Mapping[str, str],
) -> None:
    """Write down the files of a delivery for the sessions of ``start`` to ``end``.

    ``files`` hold source, sha256, bytes, rows, first and last. Older deliveries of sessions within these are forgotten:
    this one took their place. Nothing is written where the same is written down.
    """
    own = {"universe": universe, "date": end, "since": start, "reading": reading, "version": version}
    schema = DELIVERIES.arrow()
    new = pa.Table.from_pylist([{**own, **file} for file in files], schema=schema)
    if store.exists(DELIVERIES.name):
        old = store.read(DELIVERIES.name, universe, start, end).select(schema.names)
        within = old.filter(pc.field("since") >= start).sort_by("source").drop(["version"])
        if within.equals(new.sort_by("source").drop(["version"])):
            return
        new = pa.concat_tables([old.filter(pc.field("since") < start), new])
    store.replace(DELIVERIES, universe, start, end, new, provenance)


def forget(store: TableStore, universe: str, start: date, end: date, provenance: Mapping[str, str]) -> None:
    """Take back what is written down of the deliveries for sessions of ``start`` to ``end``: they are read again."""
    if not store.exists(DELIVERIES.name):
        return
    rows = store.read(DELIVERIES.name, universe, start=start).select(DELIVERIES.arrow().names)
    others = rows.filter(pc.field("since") > end)
    if others.num_rows < rows.num_rows:
        store.replace(DELIVERIES, universe, start, pc.max(rows["date"]).as_py(), others, provenance)
