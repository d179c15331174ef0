"""Versions of a table: what each commit did, which ones stay readable, what differs between two.

Questions about versions belong here; the commits themselves are made in ``qdag.store.tables``.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import StoreError
from qdag.store.tables import TableStore

RUN, INPUT = "dagster_run_id", "input."
CONTENT_OPERATIONS = ("WRITE", "RESTORE", "FSCK")


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
    """What a vacuum deleted, or would delete: files and bytes; the versions that stay readable; and the protected ones
    that had lost files before, whose other files stay."""

    table: str
    kept: tuple[int, ...]
    broken: tuple[int, ...]
    files: tuple[str, ...]
    size: int


# -- differences ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One value that differs: the row's key, the column, and both values."""

    key: dict[str, Any]
    column: str
    before: Any
    after: Any


@dataclass
class Diff:
    """Rows of ``second`` against ``first``.

    Attributes
    ----------
    added, removed, changed : rows; a changed row has the same key and at least one other value. Two NaN are equal, two
        nulls are equal, NaN and null differ.
    groups : per instrument (per last key column where a table has none), the added, changed and removed rows
    columns : changed cells by column
    new_columns, lost_columns : columns that only one of the versions has; their values are not compared
    cells : the first changed cells, in order of universe, date and key
    compared, skipped : universe-months that were read, and those whose files are the same in both versions
    """

    table: str
    first: int
    second: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    groups: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    columns: Counter[str] = field(default_factory=Counter)
    new_columns: list[str] = field(default_factory=list)
    lost_columns: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    compared: int = 0
    skipped: int = 0

    @property
    def same(self) -> bool:
        """Whether both versions hold the same rows and columns."""
        return not (self.added or self.removed or self.changed or self.new_columns or self.lost_columns)


def diff(store: TableStore, name: str, first: int, second: int, universe: str | None = None, cells: int = 10) -> Diff:
    """Compare two versions, one month of one universe at a time; months with the same files are not read.

    Raises
    ------
    StoreError
        A version that never existed or whose files were vacuumed.
    """
    before, after = store.columns(name, first), store.columns(name, second)
    result = Diff(name, first, second)
    result.new_columns = [c for c in after if c not in before]
    result.lost_columns = [c for c in before if c not in after]
    keys = store.keys(name)
    values = [c for c in before if c in after and c not in keys]
    group = "instrument" if "instrument" in keys else keys[-1]
    old, new = _files_by_month(store, name, first), _files_by_month(store, name, second)
    for month in sorted(old.keys() | new.keys()):
        if universe is not None and month[0] != universe:
            continue
        files = (old.get(month, {}), new.get(month, {}))
        if files[0].keys() == files[1].keys():
            result.skipped += 1
            continue
        result.compared += 1
        days = [day for both in files for ends in both.values() for day in ends]
        old_rows, new_rows = (
            _part(store, name, month[0], min(days), max(days), version, [*keys, *values]) for version in (first, second)
        )
        _compare(result, old_rows, new_rows, keys, values, group, cells)
    return result


def _files_by_month(store: TableStore, name: str, version: int) -> dict[tuple[str, str], dict[str, tuple[date, date]]]:
    """First and last day of each file, by universe and month of its partition."""
    months: dict[tuple[str, str], dict[str, tuple[date, date]]] = {}
    for file in store.files(name, version).to_pylist():
        days = (file["first"], file["last"])
        months.setdefault((file["universe"], file["month"]), {})[file["path"]] = days
    return months


def _part(
    store: TableStore, name: str, universe: str, start: date, end: date, version: int, columns: list[str]
) -> pa.Table:
    try:
        return store.read(name, universe, start, end, columns=columns, version=version)
    except FileNotFoundError as error:
        raise StoreError(f"version {version} of table {name!r} was vacuumed: {error}") from error


def _compare(
    result: Diff, old: pa.Table, new: pa.Table, keys: list[str], values: list[str], group: str, cells: int
) -> None:
    left = old.select(keys).append_column("_old", pa.array(np.arange(old.num_rows)))
    right = new.select(keys).append_column("_new", pa.array(np.arange(new.num_rows)))
    joined = left.join(right, keys, join_type="full outer").sort_by([(k, "ascending") for k in keys])
    here, there = joined["_old"].is_valid(), joined["_new"].is_valid()
    both = joined.filter(pc.and_(here, there))
    positions = both["_old"], both["_new"]
    changed = np.zeros(both.num_rows, bool)
    different: dict[str, np.ndarray] = {}
    for column in values:
        mask = _differs(old[column].take(positions[0]), new[column].take(positions[1]))
        if mask.any():
            different[column] = mask
            changed |= mask
            result.columns[column] += int(mask.sum())
    added, removed = joined.filter(pc.invert(here)), joined.filter(pc.invert(there))
    result.added += added.num_rows
    result.removed += removed.num_rows
    result.changed += int(changed.sum())
    for place, table in enumerate((added, both.filter(pa.array(changed)), removed)):
        for count in pc.value_counts(table[group]).to_pylist():
            counts = list(result.groups.get(str(count["values"]), (0, 0, 0)))
            counts[place] += count["counts"]
            result.groups[str(count["values"])] = (counts[0], counts[1], counts[2])
    result.cells += _cells(old, new, both, keys, different, changed, cells - len(result.cells))


def _cells(
    old: pa.Table,
    new: pa.Table,
    both: pa.Table,
    keys: list[str],
    different: dict[str, np.ndarray],
    changed: np.ndarray,
    wanted: int,
) -> Iterator[Cell]:
    for row in np.flatnonzero(changed):
        key = both.slice(int(row), 1).select(keys).to_pylist()[0]
        at, to = both["_old"][int(row)].as_py(), both["_new"][int(row)].as_py()
        for column, mask in different.items():
            if wanted <= 0:
                return
            if mask[row]:
                yield Cell(key, column, old[column][at].as_py(), new[column][to].as_py())
                wanted -= 1


def _differs(old: pa.ChunkedArray, new: pa.ChunkedArray) -> np.ndarray:
    """Where two columns differ; the types may differ only where a version stored another one."""
    if old.type != new.type:
        raise StoreError(f"values of type {old.type} and {new.type} cannot be compared; compare versions of one type")
    nulls = pc.xor(pc.is_null(old), pc.is_null(new))
    values = pc.fill_null(pc.not_equal(old, new), False)
    if pa.types.is_floating(old.type):
        both_nan = pc.fill_null(pc.and_(pc.is_nan(old), pc.is_nan(new)), False)
        values = pc.and_not(values, both_nan)
    return pc.or_(nulls, values).to_numpy(zero_copy_only=False).astype(bool)
