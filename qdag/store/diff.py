"""What differs between two versions of a table: rows, columns, and the first values."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import StoreError
from qdag.store.tables import TableStore


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
            store.read(name, month[0], min(days), max(days), columns=[*keys, *values], version=version)
            for version in (first, second)
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
