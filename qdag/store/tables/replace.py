"""Rows of a place replaced in one commit: which files hold some, which of their other rows stay, and what follows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import StoreError
from qdag.schema import TableSpec
from qdag.store.tables.columns import created, with_new_columns
from qdag.store.tables.commit import Change, added_files, commit, new_files, provenance_info, stored_file
from qdag.store.tables.conflicts import ATTEMPTS, ConflictingCommit, LostFile, retrying
from qdag.store.tables.location import Location
from qdag.store.tables.log import StoredFile
from qdag.store.tables.merge import crowded_months, merge, why_lost
from qdag.store.tables.place import Place
from qdag.store.tables.read import stored_rows
from qdag.store.tables.write import Writing, month_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

Data: TypeAlias = pa.Table | Iterable[pa.RecordBatch] | Callable[[], Iterable[pa.RecordBatch]]
"""Rows of a write: a table, batches, or a function that gives them."""
Survivors = Mapping[str, Callable[[], pa.Table]]
"""How to read the rows that stay, by month."""


def replace(location: Location, spec: TableSpec, place: Place, data: Data, provenance: Mapping[str, str]) -> int:
    """Replace the rows of a place; return the version. See ``TableStore.replace``."""

    def attempt() -> int:
        table = with_new_columns(location, spec, created(location, spec))
        return _attempt(location, spec, table, place, data, provenance)

    again = isinstance(data, pa.Table | Sequence) or callable(data)
    try:
        return retrying(attempt) if again else attempt()
    except ConflictingCommit as conflict:
        where = f"{place.start}..{place.end} of {place.universe!r}"
        raise StoreError(
            f"table {spec.name!r} was changed by other writers on each of {ATTEMPTS} attempts (the last time: "
            f"{conflict}); write {where} again when they have finished"
            if again
            else f"{conflict} while {where} was being written, and the stream of batches cannot be read twice; write "
            f"the range again"
        ) from None


def _attempt(
    location: Location,
    spec: TableSpec,
    table: "DeltaTable",
    place: Place,
    data: Data,
    provenance: Mapping[str, str],
) -> int:
    made = new_files(location, spec.name, spec.keys)
    rows = Writing(spec, place.universe, place.start, place.end, place.match, made)
    files = added_files(table)
    try:
        old, survivors = _overlapping(location, spec.name, files, place)
        source = data() if callable(data) else data
        rows.write(source.to_batches() if isinstance(source, pa.Table) else source, survivors)
    except LostFile as lost:
        raise why_lost(location, spec.name, lost) from None
    rows.refuse_lost()
    info = {**provenance_info(provenance), **place.info(), "rows": rows.rows}
    change = Change("WRITE", rows.files, old, info, place)
    version = commit(location, spec.name, table, change, made)
    months = crowded_months(files, place.universe, change)
    if months:
        # what was written is written: where others are at it, or a file is damaged, the next write merges
        with suppress(ConflictingCommit, StoreError, OSError):
            merge(location, spec.name, lambda universe, month: universe == place.universe and month in months)
    return version


def _overlapping(location: Location, name: str, files: pa.Table, place: Place) -> tuple[list[StoredFile], Survivors]:
    """Files of a table that hold rows of a place; and, by month, how to read their other rows, which stay."""
    old: list[StoredFile] = []
    partly: dict[str, list[str]] = {}
    folder = location.filesystem(name)
    for file in _near(files, place).to_pylist():
        ends = ({k[4:]: v for k, v in file.items() if k.startswith(side)} for side in ("min.", "max."))
        share = place.share(*ends)
        if share == "part" and file["path"] in location.without.get(name, ()):
            share = "whole"
        elif share == "part":
            columns = ["date", *(place.match or ())[:1]]
            held = place.rows(stored_rows(name, folder, file["path"], columns))
            share = "whole" if pc.all(held).as_py() else "part" if pc.any(held).as_py() else "none"
        if share != "none":
            old.append(stored_file(file))
        if share == "part":
            partly.setdefault(file["partition.month"], []).append(file["path"])

    def survivors(paths: Sequence[str]) -> pa.Table:
        parts = [stored_rows(name, folder, path) for path in paths]
        parts = [rows.filter(pc.invert(place.rows(rows))) for rows in parts]
        return pa.concat_tables(parts, promote_options="default")

    return old, {month: partial(survivors, paths) for month, paths in partly.items()}


def _near(files: pa.Table, place: Place) -> pa.Table:
    """Those of a table's files that may hold rows of a place, by universe, month, and days where they are known."""
    if not files.num_rows:
        return files
    # a file that tells no days may hold any of its month
    months = pc.field("partition.month")
    near = (months >= month_of(place.start, yearly=True)) & (months <= month_of(place.end, yearly=False))
    if {"min.date", "max.date"} <= set(files.column_names):
        first, last = (pa.scalar(day, pa.date32()) for day in (place.start, place.end))
        known = pc.field("min.date").is_valid() & pc.field("max.date").is_valid()
        near &= ~known | ((pc.field("min.date") <= last) & (pc.field("max.date") >= first))
    return files.filter((pc.field("partition.universe") == place.universe) & near)
