"""Landed files: which are whole, which hold something new, and which sessions that changes. No orchestrator here."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from qdag import schema
from qdag.errors import SourceError
from qdag.refresh import Request
from qdag.settings import FilesSource
from qdag.sources import open_source
from qdag.sources.files import FilesFolder
from qdag.stages import Platform
from qdag.store.deliveries import delivered_hashes, fingerprint
from qdag.store.digests import Differences, differences

RESTRICTED_BYTES = 64 << 20
"""More than so many changed bytes are not read to find out which sessions changed: all are asked for."""
SHOWN = 5


@dataclass(frozen=True)
class Cursor:
    """What was seen at the last look: ``files``, path -> [size, mtime in ns, sha256 or ""]; ``judged``: fingerprint of
    files that were found to change no row."""

    files: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)
    judged: str = ""

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        if not text:
            return cls()
        given = json.loads(text)
        return cls(
            {path: (size, changed, sha) for path, (size, changed, sha) in given["files"].items()}, given["judged"]
        )

    def text(self) -> str:
        return json.dumps({"files": self.files, "judged": self.judged}, sort_keys=True)


@dataclass(frozen=True)
class Arrivals:
    """What a look at a folder found: the run to ask for, or why there is none."""

    request: Request | None
    reason: str
    cursor: Cursor


def arrivals(platform: Platform, universe: str, cursor: Cursor, now: float | None = None) -> Arrivals:
    """Look at the folder of a universe.

    A file counts as whole when it was the same at the look before and has not changed for ``landing_seconds``, or,
    with ``done_marker``, when FILE.done lies beside it. While one is not, nothing of the universe is asked for: the
    stage reads the whole folder.
    """
    spec = platform.settings.universe(universe)
    if not isinstance(spec.source, FilesSource):
        raise SourceError(f"universe {universe!r} reads no files but {spec.source.kind!r}; there is no folder to watch")
    source = open_source(universe, spec, platform.settings.downloads)
    assert isinstance(source, FilesFolder)
    try:
        found = source.files()
    except SourceError as error:
        return Arrivals(None, str(error), cursor)
    now = time.time() if now is None else now
    files, waiting = _look(platform, found, cursor, now)
    seen = replace(cursor, files=files)
    if waiting:
        return Arrivals(None, f"{_few(waiting)} may still be being written", seen)
    known = delivered_hashes(platform.store, universe)
    hashes = {path: sha for path, (_, _, sha) in files.items()}
    changed = sorted(path for path, sha in hashes.items() if known.get(path) != sha)
    removed = sorted(known.keys() - hashes.keys())
    state = fingerprint(hashes, "")
    if not changed and not removed:
        return Arrivals(None, f"none of {len(files)} files has changed", seen)
    what = ", ".join(f"{word} {_few(names)}" for word, names in (("changed", changed), ("gone", removed)) if names)
    if cursor.judged == state:
        return Arrivals(None, f"{what}: no row changed by it", seen)
    span = _changed_span(platform, universe, source, found, changed, removed)
    if span is None:
        return Arrivals(None, f"{what}: no row changed by it", replace(seen, judged=state))
    sessions = platform.calendar(universe).between(*span)
    version = platform.store.version("raw_ohlcv")
    request = Request(universe, ("raw_ohlcv",), *span, len(sessions), what, f"{state[:16]}-{version}")
    return Arrivals(request, what, seen)


def _look(
    platform: Platform, found: Mapping[str, Path], cursor: Cursor, now: float
) -> tuple[dict[str, tuple[int, int, str]], list[str]]:
    """State of every file, hashed again only where size or time differ; and the files that are not whole yet."""
    automation = platform.settings.automation
    files: dict[str, tuple[int, int, str]] = {}
    waiting = []
    for name, path in found.items():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        size, changed, sha = status.st_size, status.st_mtime_ns, ""
        before = cursor.files.get(name)
        if before and before[:2] == (size, changed):
            sha = before[2]
        if not sha:
            if automation.done_marker:
                whole = path.with_name(path.name + ".done").exists()
            else:
                whole = before is not None and before[:2] == (size, changed)
                whole &= not 0 <= now - changed / 1e9 < automation.landing_seconds
            if whole:
                with path.open("rb") as file:
                    sha = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                waiting.append(name)
        files[name] = (size, changed, sha)
    return files, waiting


def _changed_span(
    platform: Platform,
    universe: str,
    source: FilesFolder,
    found: Mapping[str, Path],
    changed: list[str],
    removed: list[str],
) -> tuple[date, date] | None:
    """First and last session whose stored or refused rows the files change; None where they change none."""
    spec = platform.settings.universe(universe)
    calendar = platform.calendar(universe).between(spec.start, platform.last_session(universe))
    whole = calendar[0].item(), calendar[-1].item()
    stored = platform.store.sessions("raw_ohlcv", universe) if platform.store.exists("raw_ohlcv") else calendar[:0]
    if sum(found[name].stat().st_size for name in changed) > RESTRICTED_BYTES:
        return whole
    owners = source.owners([*changed, *removed]) if len(stored) else None
    names: list[str] | None = None
    if owners is not None:
        asked = {
            owner for owner in owners.values() if owner and (spec.instruments is None or owner in spec.instruments)
        }
        names = sorted(asked)
        held = set((source.owners(found) or {}).values())
        restricted = spec.model_copy(update={"instruments": tuple(sorted(asked & held))})
        source = FilesFolder(universe, restricted, source.source)
    bars, refused = schema.RAW_OHLCV.arrow().empty_table(), schema.QUARANTINE.arrow().empty_table()
    if names is None or source.settings.instruments:
        delivery = source.deliver(calendar, *whole)
        bars, refused = delivery.bars, delivery.quarantine
    old = platform.store.read("quarantine", universe) if platform.store.exists("quarantine") else refused.slice(0, 0)
    touched = pa.array([*changed, *removed], pa.string())
    old, refused = (t.filter(pc.is_in(t["source"], value_set=touched)) for t in (old, refused))
    days: set[date] = set()
    # a refused file has no date: it is told with the newest session, and taken back where it was told
    whole_old, whole_new = (set(_whole_files(rows)) for rows in (old, refused))
    if whole_old != whole_new and (len(stored) or not bars.num_rows):
        days.add((stored if len(stored) else calendar)[-1].item())
        days.update(old.filter(pc.field("line") == 0)["date"].to_pylist())
    kept = [
        name for name in names or () if name not in set(refused.filter(pc.field("line") == 0)["instrument"].to_pylist())
    ]
    if names is None or kept:
        before = schema.RAW_OHLCV.arrow().empty_table()
        if len(stored):
            before = platform.store.read("raw_ohlcv", universe, instruments=None if names is None else kept)
        if names is not None:
            bars = bars.filter(pc.is_in(bars["instrument"], value_set=pa.array(kept, pa.string())))
        days |= _ends(differences(before, bars, schema.RAW_OHLCV.keys))
    old, refused = (rows.filter(pc.field("line") > 0) for rows in (old, refused))
    days |= _ends(differences(old, refused, schema.QUARANTINE.keys))
    return (min(days), max(days)) if days else None


def _whole_files(rows: pa.Table) -> list[tuple[str, str]]:
    whole = rows.filter(pc.field("line") == 0)
    return list(zip(whole["source"].to_pylist(), whole["reason"].to_pylist(), strict=True))


def _ends(found: Differences) -> set[date]:
    return {day for day in (found.first, found.last) if day is not None}


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
