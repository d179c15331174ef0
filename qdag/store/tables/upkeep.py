"""Upkeep of a table: small files merged, versions restored or deleted, damage taken out of readers' sight."""

import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import qdag.store.tables.log as log
from qdag.errors import StoreError
from qdag.store.tables.checksums import forget_lost
from qdag.store.tables.commit import (
    Change,
    added_files,
    alter,
    commit,
    commit_properties,
    keep_log,
    new_files,
    provenance_info,
    stored_file,
)
from qdag.store.tables.conflicts import ATTEMPTS, ConflictingCommit, retrying
from qdag.store.tables.history import files, mentioned, needed
from qdag.store.tables.location import Location
from qdag.store.tables.merge import merge

if TYPE_CHECKING:
    from deltalake import DeltaTable

DAMAGED = "_damaged"
"""Where damaged files and lost commits are kept; Delta leaves folders alone that begin with an underscore."""
YOUNG_SECONDS = 24 * 3600
"""Files that no commit knows may be those of a write in progress until they are so old."""


def compact(location: Location, name: str) -> None:
    """Merge the small files of each partition, as of ``TableStore.compact``."""
    try:
        retrying(lambda: merge(location, name, lambda universe, month: True))
    except ConflictingCommit as conflict:
        raise _changed(name, conflict, "compact it") from None


def restore(location: Location, name: str, version: int, provenance: Mapping[str, str]) -> int:
    """Make a version the newest, as of ``TableStore.restore``."""
    wanted = set(files(location, name, version)["path"].to_pylist())
    if gone := wanted - {info.path for info in location.stored(name)}:
        raise StoreError(
            f"restore to version {version} of table {name!r} failed: {len(gone)} of its files were vacuumed or "
            f"lost, first {min(gone)}; choose a version that `qdag data versions {name}` does not call gone"
        )

    def change(table: "DeltaTable") -> None:
        table.restore(
            version,
            # a rehearsal has no data files
            ignore_missing_files=True,
            commit_properties=commit_properties(provenance_info(provenance)),
            post_commithook_properties=keep_log(),
        )

    return alter(location, name, f"restore to version {version}", change, whole=True)


def vacuum(location: Location, name: str, keep: Iterable[int], dry_run: bool) -> list[str]:
    """Delete the files that no kept version needs, as of ``TableStore.vacuum``."""
    table = location.table(name)
    wanted = set(added_files(table)["path"].to_pylist())
    for _, paths in needed(location, name, keep):
        wanted |= paths
    unneeded = {info.path: info.mtime_ns / 1e9 for info in location.stored(name) if info.path not in wanted}
    young = {path for path, changed in unneeded.items() if time.time() - changed < YOUNG_SECONDS}
    if young:
        # only by the commits that were looked at: later ones may bring these very files
        young -= mentioned(location, name, table.version())
    found = sorted(unneeded.keys() - young)
    if not dry_run:
        filesystem = location.filesystem(name)
        for path in found:
            with suppress(FileNotFoundError):
                filesystem.delete_file(path)
        if folder := location.local(name):
            forget_lost(folder)
            log.drop_unfinished(folder, YOUNG_SECONDS)
    return found


def set_aside(location: Location, name: str, paths: Iterable[str], provenance: Mapping[str, str]) -> int:
    """Take damaged files out of the newest version, as of ``TableStore.set_aside``."""
    folder, damaged = location.folder(name), {path: location.inside(name, path) for path in paths}
    try:
        version = retrying(lambda: _take_out(location, name, damaged.keys(), provenance))
    except ConflictingCommit as conflict:
        raise _changed(name, conflict, "repair it") from None
    for path, file in damaged.items():
        if file.exists():
            aside = folder / DAMAGED / path
            aside.parent.mkdir(parents=True, exist_ok=True)
            file.replace(aside)
    return version


def _take_out(location: Location, name: str, paths: Collection[str], provenance: Mapping[str, str]) -> int:
    table = location.table(name)
    old = [stored_file(row) for row in added_files(table).to_pylist() if row["path"] in paths]
    if not old:
        return table.version()
    change = Change("FSCK", [], old, provenance_info(provenance))
    return commit(location, name, table, change, new_files(location, name, []))


def drop_lost_commits(location: Location, name: str) -> int | None:
    """Take the commits out of the log that cannot be read, as of ``TableStore.drop_lost_commits``."""
    folder = location.folder(name)
    log.drop_torn_checkpoints(folder)
    if (lost := log.lost_from(folder)) is not None:
        log.drop_from(folder, lost, folder / DAMAGED / log.LOG)
    return location.version(name)


def _changed(name: str, conflict: ConflictingCommit, what: str) -> StoreError:
    return StoreError(
        f"table {name!r} was changed by other writers on each of {ATTEMPTS} attempts (the last time: {conflict}); "
        f"{what} again when they have finished"
    )
