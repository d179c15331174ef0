"""Versions of a table: what each commit did, and which ones stay readable.

Questions about versions belong here; the commits themselves are made in ``qdag.store.tables``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from qdag.errors import StoreError
from qdag.store.tables import TableStore

RUN, INPUT = "dagster_run_id", "input."
"""In a commit's provenance the run that wrote it, and before a table's name the version that was read of it."""
CONTENT_OPERATIONS = ("WRITE", "RESTORE", "FSCK")
"""Operations that change rows."""


@dataclass(frozen=True)
class Version:
    """One commit of a table.

    Attributes
    ----------
    time : when it was committed, UTC
    operation : Delta's word: WRITE, ADD COLUMN, RESTORE, OPTIMIZE (small files merged, no row changed), FSCK (damaged
        files taken out), CREATE TABLE
    universe, start, end : what a write replaced; None for other operations
    match : ``column=value`` where a write replaced only rows with that value
    rows : rows that a write brought, without those that were only copied; None for other operations
    run : Dagster run that wrote it, None where none did
    inputs : version of every table that was read for it, by name
    provenance : everything that the writer told about itself
    readable : whether all of its files are still there
    """

    version: int
    time: datetime
    operation: str
    universe: str | None
    start: date | None
    end: date | None
    match: str | None
    rows: int | None
    run: str | None
    inputs: dict[str, int]
    provenance: dict[str, str]
    readable: bool


def versions(store: TableStore, name: str, limit: int | None = None) -> list[Version]:
    """Versions of a table, newest first; ``limit`` counts from the newest."""
    history = store.history(name)[:limit]
    readable = readable_versions(store, name, (commit["version"] for commit in history))
    return [
        Version(
            version=commit["version"],
            time=commit["timestamp"],
            operation=commit["operation"],
            universe=commit["universe"],
            start=commit["start"],
            end=commit["end"],
            match=commit["match"],
            rows=commit["rows"],
            run=commit["provenance"].get(RUN),
            inputs={
                key.removeprefix(INPUT): int(value)
                for key, value in commit["provenance"].items()
                if key.startswith(INPUT) and value.isdigit()
            },
            provenance=commit["provenance"],
            readable=commit["version"] in readable,
        )
        for commit in history
    ]


def readable_versions(store: TableStore, name: str, versions: Iterable[int]) -> set[int]:
    """Those of some versions whose files are all still there; by one reading of the log."""
    present = store.stored_files(name).keys()
    return {version for version, files in store.needed(name, versions) if present >= files}


def kept_versions(
    store: TableStore, name: str, newest: int, days: float, protected: Iterable[int] = (), now: datetime | None = None
) -> list[int]:
    """Versions that retention keeps readable, ascending.

    Kept are the ``newest`` newest contents (each as the last version that had them: a compaction changes files, not
    contents), every version that was the current one at some time in the last ``days`` days, and the ``protected``
    ones that the table has.
    """
    if newest < 1 or days < 0:
        raise StoreError(f"retention keeps at least 1 version and 0 days, got {newest} versions and {days} days")
    since = (now or datetime.now(UTC)) - timedelta(days=days)
    history = store.history(name)
    kept = {commit["version"] for commit in history} & set(protected)
    contents = 0
    following = None
    for commit in history:
        last_of_its_contents = following is None or following["operation"] in CONTENT_OPERATIONS
        contents += last_of_its_contents
        if (last_of_its_contents and contents <= newest) or (following and following["timestamp"] >= since):
            kept.add(commit["version"])
        following = commit
    return sorted(kept)


def expire(
    store: TableStore,
    name: str,
    newest: int,
    days: float,
    protected: Iterable[int] = (),
    dry_run: bool = False,
    now: datetime | None = None,
) -> "Expired":
    """Delete the files that only versions beyond retention need; see :func:`kept_versions`."""
    kept = kept_versions(store, name, newest, days, protected, now)
    sizes = store.stored_files(name)
    readable = {version for version, files in store.needed(name, kept) if sizes.keys() >= files}
    broken = set(protected) & set(kept) - readable
    # what was vacuumed before cannot come back; what is left of a protected version may be healed from a backup
    paths = store.vacuum(name, readable | broken, dry_run)
    size = sum(sizes[path] for path in paths)
    return Expired(name, tuple(sorted(readable)), tuple(sorted(broken)), tuple(paths), size)


@dataclass(frozen=True)
class Expired:
    """What a vacuum deleted, or would delete.

    Attributes
    ----------
    kept : versions that stay readable
    broken : protected versions that had lost files before; their other files stay
    files : deleted files
    size : their bytes
    """

    table: str
    kept: tuple[int, ...]
    broken: tuple[int, ...]
    files: tuple[str, ...]
    size: int
