"""Landed files: which are whole, which hold something new, and which sessions that changes. No orchestrator here."""

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.assets.corrections import Given, silent_about
from qdag.assets.delivery import quarantine_rows, withdrawn
from qdag.assets.platform import Platform
from qdag.errors import SourceError
from qdag.operations.survey import Request
from qdag.schema import FINDINGS, QUARANTINE, RAW_OHLCV
from qdag.settings import FilesSource
from qdag.sources import open_source
from qdag.sources.files import FilesFolder
from qdag.sources.files.entries import Entry
from qdag.sources.protocol import Delivery, reader_digest, unspoken
from qdag.sources.reasons import Reason
from qdag.store.deliveries import Reading, contradictions, fingerprint, newest_reading
from qdag.store.files import write_text
from qdag.text import listed

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
    def read(cls, path: Path) -> "Cursor":
        """What was kept; nothing where there is no file, or none that can be read: every file is then looked at
        twice."""
        try:
            given = json.loads(path.read_text("utf-8"))
            files = {name: (int(size), int(at), str(sha)) for name, (size, at, sha) in given["files"].items()}
            return cls(files, str(given["judged"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def write(self, path: Path) -> None:
        """Keep it, where it is not what is kept already."""
        if self != Cursor.read(path):
            write_text(path, json.dumps({"files": self.files, "judged": self.judged}, sort_keys=True))

    def digest(self) -> str:
        """A few characters that change with it."""
        text = json.dumps({"files": self.files, "judged": self.judged}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def cursor_file(platform: Platform, universe: str) -> Path:
    """Where a universe's cursor is kept: it grows with the number of files."""
    return platform.settings.home / "landing" / f"{universe}.json"


@dataclass(frozen=True)
class Arrivals:
    """What a look at a folder found: the run to ask for, or why there is none."""

    request: Request | None
    reason: str
    cursor: Cursor


@dataclass(frozen=True)
class Unread:
    """What the source of a universe holds that has not been read: ``sessions`` (datetime64[D]) whose stored or refused
    rows it changes, and for people why."""

    sessions: np.ndarray
    reason: str


def arrivals(platform: Platform, universe: str, cursor: Cursor, now: float | None = None) -> Arrivals:
    """Look at the folder of a universe.

    A file counts as whole when it was the same at the look before and has not changed for ``landing_seconds``, or,
    with ``done_marker``, when FILE.done lies beside it. While one is not, nothing of the universe is asked for: the
    stage reads the whole folder. Sessions that an earlier reading contradicts are asked for as well, and those that the
    files tell and that had not closed when they were read.
    """
    source = _folder(platform, universe)
    try:
        found = source.files()
    except SourceError as error:
        return Arrivals(None, str(error), cursor)
    now = time.time() if now is None else now
    files, waiting = _look(platform, found, cursor, now)
    seen = replace(cursor, files=files)
    if waiting:
        return Arrivals(None, f"{listed(waiting, SHOWN)} may still be being written", seen)
    known = _known(platform, universe)
    hashes = {path: sha for path, (_, _, sha) in files.items()}
    before = known.hashes if known else {}
    changed = sorted(path for path, sha in hashes.items() if before.get(path) != sha)
    gone = sorted(before.keys() - hashes.keys())
    state = fingerprint(hashes, "")
    due = _due(platform, universe, known)
    if not changed and not gone and not len(due):
        return Arrivals(None, f"none of {len(files)} files has changed", seen)
    if cursor.judged == state and not len(due):
        return Arrivals(None, f"{_what(changed, gone)}: no row changed by it", seen)
    unread = _unread(platform, universe, source, found, changed, gone, due)
    if not len(unread.sessions):
        return Arrivals(None, f"{unread.reason}: no row changed by it", replace(seen, judged=state))
    version = platform.store.version(RAW_OHLCV.name)
    return Arrivals(_request(platform, universe, unread, f"{state[:16]}-{version}"), unread.reason, seen)


def changed_files(platform: Platform, universe: str) -> tuple[list[str], list[str]]:
    """Files of a universe that are not as they were read, new ones among them; and those that are gone.

    A file whose size and time of change are as they were is not opened. None of either where the source is no folder.
    """
    if not isinstance(platform.settings.universe(universe).source, FilesSource):
        return [], []
    return _differing(_folder(platform, universe).files(), _known(platform, universe))


def unread(platform: Platform, universe: str) -> Unread:
    """What the files of a universe hold that has not been read, whole or not, from its first stored session on: what
    lies before was never asked for. Nothing where the source is no folder.

    Raises
    ------
    SourceError
        The folder cannot be read.
    """
    stored = platform.stored(RAW_OHLCV.name, universe)
    if not isinstance(platform.settings.universe(universe).source, FilesSource) or not len(stored):
        return Unread(stored[:0], "")
    source = _folder(platform, universe)
    found, known = source.files(), _known(platform, universe)
    changed, gone = _differing(found, known)
    what = _unread(platform, universe, source, found, changed, gone, _due(platform, universe, known))
    return replace(what, sessions=what.sessions[what.sessions >= stored[0]])


def _folder(platform: Platform, universe: str) -> FilesFolder:
    spec = platform.settings.universe(universe)
    if not isinstance(spec.source, FilesSource):
        raise SourceError(f"universe {universe!r} reads no files but {spec.source.kind!r}; there is no folder to watch")
    source = open_source(universe, spec, platform.settings.downloads)
    assert isinstance(source, FilesFolder)
    return source


def _known(platform: Platform, universe: str) -> Reading | None:
    """The newest reading; of files that would be read in another way now, nothing is known."""
    known = newest_reading(platform.store, universe)
    spec = platform.settings.universe(universe)
    return known if known and known.reader_digest == reader_digest(spec) and known.since <= spec.start else None


def _request(platform: Platform, universe: str, unread: Unread, state: str) -> Request:
    start, end = unread.sessions[0].item(), unread.sessions[-1].item()
    sessions = platform.calendar(universe).between(start, end)
    return Request(universe, (RAW_OHLCV.name,), start, end, len(sessions), unread.reason, state)


def _differing(found: Mapping[str, Entry], known: Reading | None) -> tuple[list[str], list[str]]:
    """Changed and gone files, by size and time of change, then by digest."""
    if known is None:
        return sorted(found), []
    changed = []
    for name, entry in found.items():
        try:
            size, at = entry.stamp()
        except FileNotFoundError:
            continue
        if (size, at) == known.stamps.get(name, (-1, 0)) and not entry.reason:
            continue
        if known.stamps.get(name, (-1, 0))[0] != size or entry.sha256() != known.hashes[name]:
            changed.append(name)
    return sorted(changed), sorted(known.hashes.keys() - found.keys())


def _look(
    platform: Platform, found: Mapping[str, Entry], cursor: Cursor, now: float
) -> tuple[dict[str, tuple[int, int, str]], list[str]]:
    """State of every file, hashed again only where size or time differ; and the files that are not whole yet."""
    automation = platform.settings.automation
    files: dict[str, tuple[int, int, str]] = {}
    waiting = []
    for name, entry in found.items():
        try:
            (size, changed), sha = entry.stamp(), ""
        except FileNotFoundError:
            continue
        before = cursor.files.get(name)
        if before and before[:2] == (size, changed):
            sha = before[2]
        if not sha:
            if entry.reason:
                whole = True
            elif automation.done_marker:
                whole = entry.marked(".done")
            else:
                whole = before is not None and before[:2] == (size, changed)
                whole &= not 0 <= now - changed / 1e9 < automation.landing_seconds
            if whole:
                sha = entry.sha256()
            else:
                waiting.append(name)
        files[name] = (size, changed, sha)
    return files, waiting


def _due(platform: Platform, universe: str, known: Reading | None) -> np.ndarray:
    """Sessions of the universe that the newest reading contradicts, and those that it told before they had closed."""
    sessions = platform.sessions(universe)
    told, _ = contradictions(platform.store, universe)
    if known and known.last:
        told = np.union1d(told, sessions[(sessions > np.datetime64(known.until)) & (sessions <= known.last)])
    return np.intersect1d(sessions, told)


def _unread(
    platform: Platform,
    universe: str,
    source: FilesFolder,
    found: Mapping[str, Entry],
    changed: list[str],
    gone: list[str],
    due: np.ndarray,
) -> Unread:
    """The sessions that changed files change, and those that are due anyway."""
    reason = _what(changed, gone)
    if len(due):
        reason = "; ".join([*([reason] if reason else []), "other rows are stored than the files gave when last read"])
    days = _changed_sessions(platform, universe, source, found, changed, gone) if changed or gone else due[:0]
    return Unread(np.union1d(days, due), reason)


def _changed_sessions(
    platform: Platform,
    universe: str,
    source: FilesFolder,
    found: Mapping[str, Entry],
    changed: list[str],
    gone: list[str],
) -> np.ndarray:
    """Sessions whose stored rows the files change, datetime64[D]; the newest one where they change only what is refused
    or noticed, which every run brings in line."""
    spec, store = platform.settings.universe(universe), platform.store
    sessions = platform.sessions(universe)
    stored = platform.stored(RAW_OHLCV.name, universe)
    if sum(found[name].stamp()[0] for name in changed) > RESTRICTED_BYTES:
        return sessions
    owners = source.owners([*changed, *gone]) if len(stored) else None
    names: list[str] | None = None
    if owners is not None:
        asked = {
            owner for owner in owners.values() if owner and (spec.instruments is None or owner in spec.instruments)
        }
        names = sorted(asked)
        held = set((source.owners(found) or {}).values())
        restricted = spec.model_copy(update={"instruments": tuple(sorted(asked & held))})
        source = FilesFolder(universe, restricted, source.source)
    delivery = Delivery((), QUARANTINE.arrow().empty_table())
    if names is None or source.settings.instruments:
        delivery = source.deliver(sessions, spec.start, sessions[-1].item())
    refused = delivery.quarantine
    whole, everyone = unspoken(refused, source.owners(()) is None)
    given = Given(RAW_OHLCV, delivery.parts, silent_about(whole, everyone))
    lost = withdrawn(platform, universe, given, sessions, refused, names)
    given = replace(given, silent=silent_about([*whole, *lost], everyone), held=tuple(lost))
    days = given.confirmed(store, universe, sessions, names)
    if len(days):
        return days
    newest = (stored if len(stored) else sessions)[-1:]
    told = quarantine_rows(refused, universe, newest[0].item(), spec.source.kind, lost)
    touched = {*changed, *gone}
    return newest if _told_otherwise(platform, universe, told, delivery.findings, touched, names) else days


def _told_otherwise(
    platform: Platform,
    universe: str,
    refused: pa.Table,
    findings: pa.Table,
    touched: Collection[str],
    names: Collection[str] | None,
) -> bool:
    """Whether other rows were refused of the touched files, or are noticed of the instruments, than are listed."""
    store = platform.store

    def listed(rows: pa.Table, columns: tuple[str, ...]) -> set[tuple[object, ...]]:
        if names is not None and rows.num_rows:
            about = pc.is_in(rows["instrument"], value_set=pa.array(sorted(names), pa.string()))
            if "source" in columns:
                about = pc.or_(
                    pc.is_in(rows["source"], value_set=pa.array(sorted(touched), pa.string())),
                    pc.and_(about, pc.equal(rows["reason"], Reason.HISTORY_WITHDRAWN)),
                )
            rows = rows.filter(about)
        return set(zip(*(rows[column].to_pylist() for column in columns), strict=True))

    for spec, new, columns in (
        (QUARANTINE, refused, ("source", "instrument", "line", "reason")),
        (FINDINGS, findings, ("date", "instrument", "kind")),
    ):
        old = store.read(spec.name, universe) if store.exists(spec.name) else new.slice(0, 0)
        if listed(old, columns) != listed(new, columns):
            return True
    return False


def _what(changed: list[str], gone: list[str]) -> str:
    return ", ".join(
        f"{word} {listed(names, SHOWN)}" for word, names in (("changed", changed), ("gone", gone)) if names
    )
