"""Versions of a table: what each commit did, and which ones stay readable.

Questions about versions belong here; the commits themselves are made in ``qdag.store.tables``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from qdag.errors import StoreError, unknown
from qdag.store.tables import TableStore

RUN, INPUT = "dagster_run_id", "input."
"""In a commit's provenance the run that wrote it, and before a table's name the version that was read of it."""
CONTENT_OPERATIONS = ("WRITE", "RESTORE", "FSCK")
"""Operations that change rows."""
SHOWN_RUNS = 10
"""Runs that are named where another was asked for."""


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
            inputs=_inputs(commit["provenance"]),
            provenance=commit["provenance"],
            readable=commit["version"] in readable,
        )
        for commit in history
    ]


def readable_versions(store: TableStore, name: str, versions: Iterable[int]) -> set[int]:
    """Those of some versions whose files are all still there; by one reading of the log."""
    present = store.stored_files(name).keys()
    return {version for version, files in store.needed(name, versions) if present >= files}


def check_readable(store: TableStore, name: str, version: int) -> None:
    """StoreError, which names the nearest version that can be read, where files of a version are gone."""
    newest = store.version(name)
    known = readable_versions(store, name, range(0 if newest is None else newest + 1))
    if version not in known:
        near = min(known, key=lambda one: (abs(one - version), -one), default=None)
        instead = "none can be read" if near is None else f"the nearest that can be read is {near}"
        what = "was vacuumed" if newest is not None and 0 <= version <= newest else "never existed"
        raise StoreError(f"version {version} of table {name!r} {what}; {instead} (`qdag data versions {name}`)")


def versions_at(store: TableStore, moment: datetime) -> dict[str, int | None]:
    """Version of every stored table that was the newest at a moment; None for one that was stored only after it."""
    found = {}
    for name in store.names():
        earlier = (commit["version"] for commit in _commits(store, name) if commit["timestamp"] <= moment)
        found[name] = next(earlier, None)
    return found


def versions_of_run(store: TableStore, run: str) -> dict[str, int | None]:
    """Version of every stored table when a run had ended: of those it wrote its own, of those it read what it read, of
    all others the newest at its last commit.

    Parameters
    ----------
    run : a Dagster run's id, or the beginning of one run's alone

    Raises
    ------
    UnknownNameError
        No commit of any table is by such a run.
    StoreError
        Commits of several runs begin so.
    """
    commits = [(name, commit) for name in store.names() for commit in store.history(name)]
    by_run = {commit["provenance"][RUN]: commit["timestamp"] for _, commit in commits if RUN in commit["provenance"]}
    whose = [one for one in by_run if one.startswith(run)] if run else []
    if not whose:
        newest = sorted(by_run, key=by_run.__getitem__, reverse=True)
        raise unknown("run", run, newest[:SHOWN_RUNS])
    if len(whose) > 1:
        raise StoreError(
            f"{len(whose)} runs begin with {run!r}: {', '.join(sorted(whose)[:SHOWN_RUNS])}; give all of it"
        )
    own = [(name, commit) for name, commit in commits if commit["provenance"].get(RUN) == whose[0]]
    found = versions_at(store, max(commit["timestamp"] for _, commit in own))
    for _, commit in sorted(own, key=lambda one: one[1]["timestamp"]):
        found |= _inputs(commit["provenance"])
    for name, commit in sorted(own, key=lambda one: one[1]["version"]):
        found[name] = commit["version"]
    return found


def _commits(store: TableStore, name: str) -> Iterator[dict[str, Any]]:
    """Commits of a table, newest first; a long log is not read whole for the newest of them."""
    newest = store.version(name)
    if newest is None:
        return
    last, reach = newest, 32
    while last >= 0:
        # what was read before is read again: twice the log at most
        some = [commit for commit in store.history(name, max(newest - reach, -1)) if commit["version"] <= last]
        if not some:
            return
        yield from some
        last, reach = some[-1]["version"] - 1, reach * 2


def _inputs(provenance: dict[str, str]) -> dict[str, int]:
    return {
        key.removeprefix(INPUT): int(value)
        for key, value in provenance.items()
        if key.startswith(INPUT) and value.isdigit()
    }


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
