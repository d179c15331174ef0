"""The columns of a table: creating it, adding what its declaration has gained, and naming what is stored."""

from typing import TYPE_CHECKING

import pyarrow as pa

import qdag.store.tables.log as log
from qdag.errors import StoreError, unknown
from qdag.schema import TableSpec
from qdag.store.arrow import plain_type
from qdag.store.tables.commit import CHECKPOINT_EVERY, alter, commit_properties, keep_log
from qdag.store.tables.conflicts import retrying
from qdag.store.tables.location import Location, plain_name
from qdag.store.tables.write import PARTITIONS

if TYPE_CHECKING:
    from deltalake import DeltaTable

LAYOUT = pa.field("month", pa.string(), nullable=False)
"""The column that a table is partitioned by besides its universe."""
KEEP_LOG = {"delta.enableExpiredLogCleanup": "false"}
"""An old version that is kept must stay readable, whatever its age: no writer may trim the log."""


def stored_schema(spec: TableSpec) -> pa.Schema:
    """The columns as they are stored: those of the declaration, and that of the partition."""
    return spec.arrow().append(LAYOUT)


def column_names(table: "DeltaTable") -> list[str]:
    """Stored columns without that of the partition, keys first."""
    names = [f.name for f in table.schema().fields if f.name != LAYOUT.name]
    keys = [k for k in key_names(table) if k in names]
    return [*keys, *(n for n in names if n not in keys)]


def key_names(table: "DeltaTable") -> list[str]:
    """Columns that identify a row, ``universe`` first."""
    indexed = table.metadata().configuration.get("delta.dataSkippingStatsColumns") or "date"
    return ["universe", *indexed.split(",")]


def checked_match(spec: TableSpec, name: str, value: str) -> tuple[str, str]:
    """A column and the value by which rows are replaced.

    Raises
    ------
    UnknownNameError
        The table is not declared with this column.
    StoreError
        It is no text column, or may be null; or a value that is no plain name.
    """
    column = next((c for c in spec.columns if c.name == name), None)
    if column is None:
        raise unknown(f"column of table {spec.name!r}", name, [c.name for c in spec.columns])
    if column.dtype != "string" or column.nullable:
        raise StoreError(
            f"column {name!r} of table {spec.name!r} is {column.dtype}{', may be null' if column.nullable else ''}; "
            f"rows are replaced by the value of a text column that may not be null"
        )
    return name, plain_name("value", value)


def created(location: Location, spec: TableSpec) -> "DeltaTable":
    """The table, made where there is none. StoreError: it cannot be made."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    def create(uri: str) -> None:
        DeltaTable.create(
            uri,
            schema=stored_schema(spec),
            mode="error",
            partition_by=list(PARTITIONS),
            name=spec.name,
            description=spec.description,
            configuration={
                # statistics of 158 float columns per file cost more than they ever skip
                "delta.dataSkippingStatsColumns": ",".join(k for k in spec.keys if k not in PARTITIONS),
                "delta.checkpointInterval": str(CHECKPOINT_EVERY),
                **KEEP_LOG,
            },
            storage_options=location.storage_options,
            commit_properties=commit_properties(),
        )

    def attempt() -> "DeltaTable":
        if (table := location.open(spec.name)) is not None:
            return table
        if folder := location.local(spec.name):
            with log.rehearsal(folder) as scratch:
                create(str(scratch))
                log.adopt(folder, scratch, 0)
        else:
            create(location.uri(spec.name))
        if (table := location.open(spec.name)) is None:
            raise FileNotFoundError("its first commit is not to be seen")
        return table

    try:
        # another process may create it first: then opening succeeds on the next attempt
        return retrying(attempt, (DeltaError, OSError), longest=0.05)
    except (DeltaError, OSError) as error:
        raise StoreError(f"table {spec.name!r} cannot be created at {location.uri(spec.name)}: {error}") from error


def with_new_columns(location: Location, spec: TableSpec, table: "DeltaTable") -> "DeltaTable":
    """The table with all columns of its declaration; new ones are added in a commit of their own.

    Raises
    ------
    StoreError
        A column of another type, or one that is new or no longer declared and may not be null.
    """
    from deltalake import Schema

    def add(table: "DeltaTable") -> None:
        if fields := _new_columns(spec, table):
            table.alter.add_columns(
                Schema.from_arrow(pa.schema(fields)).fields,
                commit_properties=commit_properties(),
                post_commithook_properties=keep_log(),
            )

    if not _new_columns(spec, table):
        return table
    alter(location, spec.name, "addition of columns", add)
    return location.table(spec.name)


def _new_columns(spec: TableSpec, table: "DeltaTable") -> list[pa.Field]:
    stored = {f.name: f for f in pa.schema(table.schema().to_arrow())}
    declared = stored_schema(spec)
    for field in declared:
        have = stored.get(field.name)
        if have is None and not field.nullable:
            raise StoreError(
                f"column {field.name!r} of table {spec.name!r} is new and may not be null, but stored rows "
                f"have no value for it; make it nullable or delete the table and compute it again"
            )
        if have is not None and plain_type(have.type) != field.type:
            raise StoreError(
                f"column {field.name!r} of table {spec.name!r} is stored as {have.type} but declared "
                f"{field.type}; give the column a new name or delete the table and compute it again"
            )
    for name in sorted(stored.keys() - set(declared.names)):
        if not stored[name].nullable:
            raise StoreError(
                f"column {name!r} of table {spec.name!r} may not be null in what is stored, but is no longer "
                f"declared; declare it or delete the table and compute it again"
            )
    return [field for field in declared if field.name not in stored]
