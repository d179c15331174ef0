"""Delta Lake tables: one write is one transaction over a universe and a date range; reads are sorted and versioned.

Layout, conflicts, schema evolution and maintenance belong here; what the columns mean does not (``qdag.schema``), nor
does turning rows into panels (``qdag.store.panels``).
"""

import hashlib
import json
import random
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import MissingDataError, StoreError, UnknownNameError, unknown
from qdag.schema import TableSpec
from qdag.settings import NAME_PATTERN
from qdag.store import log, writing
from qdag.store.arrow import ascends, days, plain_type, with_plain_types
from qdag.store.files import write_text
from qdag.store.log import LOG, StoredFile
from qdag.store.threads import map_threads
from qdag.store.writing import (
    PARTITIONS,
    DataFile,
    DataFiles,
    Writing,
    check_schema,
    in_order,
    month_of,
)

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
    from pyarrow.fs import FileInfo, FileSystem

T = TypeVar("T")
CHECKPOINT_EVERY = 20
MERGED_FILES = 4
"""So many files of one month, each less than half of a full one, are merged by the write that adds the last."""
MERGED_BYTES = 64 << 20
"""A compaction commits when it has merged so much: what another writer makes it begin anew is no more than this."""
REMEMBERED, REMEMBERED_BYTES = 64, 1 << 20
"""Most results of reading that a store keeps, and the largest: pages and checks read the same small tables often."""
COLUMN_MONTHS = 64
"""So many columns times months are read and sorted as one part: few calls for narrow tables, little memory for wide."""
ATTEMPTS = 30
LAYOUT = pa.field("month", pa.string(), nullable=False)
# an old version that is kept must stay readable, whatever its age: no writer may trim the log
KEEP_LOG = {"delta.enableExpiredLogCleanup": "false"}
# Delta readers and Delta's own vacuum leave folders alone that begin with an underscore
CHECKSUMS, DAMAGED = "_checksums", "_damaged"
YOUNG_SECONDS = 24 * 3600
"""Files that no commit knows may be those of a write in progress until they are so old."""


@dataclass(frozen=True)
class _Place:
    """What a write replaces: rows of a universe from ``start`` to ``end``, all or those with a value in a column."""

    universe: str
    start: date
    end: date
    match: tuple[str, str] | None

    def told(self) -> dict[str, str]:
        narrowed = {"match": "=".join(self.match)} if self.match else {}
        return {"universe": self.universe, "start": str(self.start), "end": str(self.end), **narrowed}

    def share(self, low: Mapping[str, Any], high: Mapping[str, Any]) -> str:
        """How many rows of a file of this universe are inside: "none", "whole", or "part", which may be any number.

        By the file's least and greatest keys, dates in ISO form or as they are; what is missing is unknown.
        """
        spans = [("date", str(self.start), str(self.end))]
        if self.match:
            spans.append((self.match[0], self.match[1], self.match[1]))
        whole = True
        for key, first, last in spans:
            least, greatest = (None if e.get(key) is None else str(e[key]) for e in (low, high))
            if least is None or greatest is None:
                whole = False
            elif least > last or greatest < first:
                return "none"
            else:
                whole &= first <= least and greatest <= last
        return "whole" if whole else "part"

    def holds(self, added: Mapping[str, Any]) -> bool:
        """Whether a file that another commit brings may have rows in this place."""
        stats = json.loads(added.get("stats") or "{}")
        ends = (stats.get(side, {}) for side in ("minValues", "maxValues"))
        return added["partitionValues"]["universe"] == self.universe and self.share(*ends) != "none"


@dataclass(frozen=True)
class _Change:
    """What a commit does: files that it puts in and takes out, and what it tells; ``place``: whose rows it replaces,
    None where rows stay as they are or are only taken out."""

    operation: str
    new: Sequence[DataFile]
    old: Sequence[StoredFile]
    told: Mapping[str, Any]
    place: _Place | None = None

    def overtaken_by(self, action: Mapping[str, Any], taken: Collection[str]) -> bool:
        """Whether another commit's action touches the place, the files to be ``taken`` out, or the columns."""
        if "metaData" in action or "protocol" in action:
            return True
        if removed := action.get("remove"):
            return unquote(removed["path"]) in taken
        return self.place is not None and "add" in action and self.place.holds(action["add"])

    def actions(self) -> list[log.Action]:
        rows_change = self.operation != "OPTIMIZE"
        return [
            *(log.added(file, rows_change) for file in self.new),
            *(log.removed(file, rows_change) for file in self.old),
        ]


class _Overtaken(Exception):
    """Another commit changed what this one was about to replace."""


class _LostFile(Exception):
    """A data file of the snapshot that a write began with is not there."""

    def __init__(self, path: str):
        super().__init__(f"file {path} is missing")
        self.path = path


class TableStore:
    """All tables below one root.

    Parameters
    ----------
    root : folder or object store URL (``s3://bucket/prefix``); each table is one Delta table below it
    storage_options : credentials and endpoint of an object store, as ``deltalake`` takes them
    """

    def __init__(self, root: str | Path, storage_options: Mapping[str, str] | None = None):
        text = str(root)
        self._remote = "://" in text
        self.root = text.rstrip("/") if self._remote else str(Path(text).expanduser().absolute())
        self.storage_options = dict(storage_options) if storage_options else None
        self._without: Mapping[str, Collection[str]] = {}
        self._seen: dict[str, log.Newest] = {}
        self._tables: dict[str, tuple[log.Newest, DeltaTable]] = {}
        self._found: dict[tuple[Any, ...], Any] = {}

    def __repr__(self) -> str:
        return f"TableStore({self.root!r})"

    def __getstate__(self) -> dict[str, Any]:
        # what was opened and read stays in its process
        return {**self.__dict__, "_seen": {}, "_tables": {}, "_found": {}}

    @property
    def remote(self) -> bool:
        """Whether the tables lie below an object store's URL, not in a folder."""
        return self._remote

    def uri(self, name: str) -> str:
        """Path or URL of a table, readable by any Delta Lake reader."""
        return f"{self.root}/{_name('table', name)}"

    def without(self, files: Mapping[str, Collection[str]]) -> "TableStore":
        """The same tables as if some files, by table, were not there: their rows are not read, and a write to any of
        their days takes them out whole. So damage is repaired by the very commit that brings the rows again."""
        view = TableStore(self.root, self.storage_options)
        view._without = {name: frozenset(paths) for name, paths in files.items()}
        return view

    def replace(
        self,
        spec: TableSpec,
        universe: str,
        start: date,
        end: date,
        data: pa.Table | Iterable[pa.RecordBatch] | Callable[[], Iterable[pa.RecordBatch]],
        provenance: Mapping[str, str],
        match: tuple[str, str] | None = None,
    ) -> int:
        """Replace every row of ``universe`` with ``start <= date <= end`` in one commit; return the new version.

        ``match``, a text column that may not be null and its value, narrows this to rows with that value; all of
        ``data`` must have it.

        ``data`` has exactly the columns of ``spec`` in any order; zero rows empty the range. A table, a sequence
        of batches and what a function gives are written again after a commit conflict (the function is called again);
        a one-shot iterator cannot be, so another commit to the same sessions or files raises. Batches are checked
        while they stream: a failure leaves the rows as they were.

        Afterwards the small files of the months that were written are merged where there are many of them, in a commit
        of its own that changes no rows: single days and narrow replacements leave few files.

        Columns that ``spec`` has gained are added first, in a commit of their own (null in older rows); columns that it
        has lost stay, null in the rows written from now on. A changed type, and a new or lost column that may not be
        null, are refused.

        Raises
        ------
        StoreError
            Missing, extra or mistyped columns, rows outside the range or the universe, duplicate keys, nulls where
            none are allowed, a conflict that outlasts all attempts.
        """
        _name("universe", universe)
        start, end = _day(start), _day(end)
        if start > end:
            raise StoreError(f"range {start}..{end} of table {spec.name!r} is reversed; give start <= end")
        if isinstance(data, pa.Table):
            check_schema(spec, data.schema)
        if match is not None:
            match = _match(spec, *match)
        again = isinstance(data, pa.Table | Sequence) or callable(data)
        place = _Place(universe, start, end, match)
        for attempt in range(ATTEMPTS):
            table = self._grown(spec, self._create(spec))
            try:
                return self._attempt(spec, table, place, data, provenance)
            except _Overtaken as overtaken:
                if not again:
                    raise StoreError(
                        f"{overtaken} while {start}..{end} of {universe!r} was being written, and the stream of "
                        f"batches cannot be read twice; write the range again"
                    ) from None
                met = str(overtaken)
            time.sleep(random.uniform(0, 0.02 * 2 ** min(attempt, 5)))
        raise StoreError(
            f"table {spec.name!r} was changed by other writers on each of {ATTEMPTS} attempts (the last time: {met}); "
            f"write {start}..{end} of {universe!r} again when they have finished"
        )

    def _attempt(
        self,
        spec: TableSpec,
        table: "DeltaTable",
        place: "_Place",
        data: pa.Table | Iterable[pa.RecordBatch] | Callable[[], Iterable[pa.RecordBatch]],
        provenance: Mapping[str, str],
    ) -> int:
        made = self._data_files(spec.name, spec.keys)
        rows = Writing(spec, place.universe, place.start, place.end, place.match, made)
        files = pa.table(table.get_add_actions(flatten=True))
        try:
            old, survivors = self._overlapping(spec.name, files, place)
            source = data() if callable(data) else data
            rows.write(source.to_batches() if isinstance(source, pa.Table) else source, survivors)
        except _LostFile as lost:
            raise self._why_lost(spec.name, lost) from None
        rows.refuse_lost()
        told = {**_provenance(provenance), **place.told(), "rows": rows.rows}
        change = _Change("WRITE", rows.files, old, told, place)
        version = self._commit(spec.name, table, change, made)
        months = _crowded(files, place.universe, change)
        if months:
            # what was written is written: where others are at it, or a file is damaged, the next write merges
            with suppress(_Overtaken, StoreError, OSError):
                self._merge(spec.name, lambda universe, month: universe == place.universe and month in months)
        return version

    def _overlapping(
        self, name: str, files: pa.Table, place: "_Place"
    ) -> tuple[list[StoredFile], dict[str, Callable[[], pa.Table]]]:
        """Files of a table that hold rows of a place; and, by month, how to read their other rows, which stay."""
        if not files.num_rows:
            return [], {}
        # what has no statistics may hold any day of its month
        months = pc.field("partition.month")
        near = (months >= month_of(place.start, yearly=True)) & (months <= month_of(place.end, yearly=False))
        if {"min.date", "max.date"} <= set(files.column_names):
            first, last = (pa.scalar(day, pa.date32()) for day in (place.start, place.end))
            known = pc.field("min.date").is_valid() & pc.field("max.date").is_valid()
            near &= ~known | ((pc.field("min.date") <= last) & (pc.field("max.date") >= first))
        files = files.filter((pc.field("partition.universe") == place.universe) & near)
        old: list[StoredFile] = []
        partly: dict[str, list[str]] = {}
        folder = self.filesystem(name)

        def inside(rows: pa.Table) -> pa.ChunkedArray:
            dates = rows["date"]
            found = pc.and_(
                pc.greater_equal(dates, pa.scalar(place.start, pa.date32())),
                pc.less_equal(dates, pa.scalar(place.end, pa.date32())),
            )
            if place.match is None:
                return found
            return pc.and_(found, pc.fill_null(pc.equal(rows[place.match[0]], place.match[1]), False))

        for file in files.to_pylist():
            ends = ({k[4:]: v for k, v in file.items() if k.startswith(side)} for side in ("min.", "max."))
            share = place.share(*ends)
            if share == "part" and file["path"] in self._without.get(name, ()):
                share = "whole"
            elif share == "part":
                columns = ["date", *(place.match or ())[:1]]
                held = inside(_stored_rows(name, folder, file["path"], columns))
                share = "whole" if pc.all(held).as_py() else "part" if pc.any(held).as_py() else "none"
            if share != "none":
                old.append(_stored_file(file))
            if share == "part":
                partly.setdefault(file["partition.month"], []).append(file["path"])

        def survivors(paths: Sequence[str]) -> pa.Table:
            parts = [_stored_rows(name, folder, path) for path in paths]
            parts = [rows.filter(pc.invert(inside(rows))) for rows in parts]
            return pa.concat_tables(parts, promote_options="default")

        return old, {month: partial(survivors, paths) for month, paths in partly.items()}

    def _commit(self, name: str, table: "DeltaTable", change: _Change, made: DataFiles) -> int:
        """Put files into a table and take others out, from the version on that the change was made for.

        Delta's own resolution of conflicts does not know which rows a write replaces, and lets two compactions of the
        same files pass. Here commits that do not touch this one are let pass, any other raises ``_Overtaken``. Where
        the commit surely did not happen, no file is left.
        """
        from deltalake.exceptions import DeltaError

        told = {
            **change.told,
            "commit_id": uuid.uuid4().hex,
            **({"sha256": {file.path: file.sha256 for file in change.new}} if change.new else {}),
        }
        taken = {file.path for file in change.old}
        for attempt in range(ATTEMPTS):
            error: Exception | None = None
            try:
                if self._publish(name, table, change, told):
                    return self._committed(name, table.version() + 1)
            except (DeltaError, OSError) as failed:
                error = failed
            newest = self._table(name)
            for version in range(table.version() + 1, newest.version() + 1):
                logged = self._actions(name, version)
                info = log.info_of(logged)
                # committed, and only what follows a commit has failed
                if info.get("commit_id") == told["commit_id"]:
                    return version
                if any(change.overtaken_by(action, taken) for action in logged):
                    made.discard()
                    what = str(info.get("operation", "another commit"))
                    raise _Overtaken(f"version {version} of table {name!r} was made ({what})")
            if newest.version() == table.version() or attempt == ATTEMPTS - 1:
                made.discard()
                raise StoreError(
                    f"table {name!r} cannot be written ({attempt + 1} attempts to commit version "
                    f"{newest.version() + 1}): {error or 'something else has the name of its file'}"
                ) from error
            table = newest
            time.sleep(random.uniform(0, 0.02 * 2 ** min(attempt, 5)))
        raise AssertionError("unreachable")

    def _publish(self, name: str, table: "DeltaTable", change: _Change, told: Mapping[str, Any]) -> bool:
        """Commit the version after that of ``table``; False, or an error, where it is there already."""
        actions = change.actions()
        if not self._remote:
            return log.publish(Path(self.uri(name)), table.version() + 1, change.operation, told, actions)
        from deltalake.transaction import AddAction, RemoveAction

        table.create_write_transaction(
            [
                *(
                    AddAction(
                        path=a["path"],
                        size=a["size"],
                        partition_values=a["partitionValues"],
                        modification_time=a["modificationTime"],
                        data_change=a["dataChange"],
                        stats=a["stats"],
                    )
                    for action in actions
                    if (a := action.get("add"))
                ),
                *(
                    RemoveAction(r["path"], r["dataChange"], r["deletionTimestamp"], r["size"], r["partitionValues"])
                    for action in actions
                    if (r := action.get("remove"))
                ),
            ],
            mode="append",
            schema=table.schema(),
            partition_by=list(PARTITIONS),
            # Delta calls it a WRITE, whatever it is
            commit_properties=_commit_properties({**told, "does": change.operation}, retries=0),
            post_commithook_properties=_keep_log(),
        )
        return True

    def _committed(self, name: str, version: int) -> int:
        """What follows a commit, and may fail without undoing it: a checkpoint, on disk. Below a URL Delta makes it."""
        from deltalake.exceptions import DeltaError

        if not self._remote and (version + 1) % CHECKPOINT_EVERY == 0:
            with suppress(DeltaError, OSError):
                log.checkpoint(Path(self.uri(name)), version)
        return version

    def commit(self, name: str, version: int) -> tuple[list[log.Action], bytes]:
        """The actions of a commit as the log has them, and the bytes that say so; ValueError where its file is torn."""
        file = f"{LOG}/{log.commit_name(version)}"
        if self._remote:
            with self.filesystem(name).open_input_stream(file) as stream:
                content = bytes(stream.read())
        else:
            content = (Path(self.uri(name)) / file).read_bytes()
        return log.parse(content), content

    def _actions(self, name: str, version: int) -> list[log.Action]:
        return self.commit(name, version)[0]

    def _data_files(self, name: str, keys: Sequence[str]) -> DataFiles:
        local = None if self._remote else Path(self.uri(name))
        return DataFiles(self.filesystem(name), local, [key for key in keys if key not in PARTITIONS])

    def _create(self, spec: TableSpec) -> "DeltaTable":
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        def create(uri: str) -> None:
            DeltaTable.create(
                uri,
                schema=_stored_schema(spec),
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
                storage_options=self.storage_options,
                commit_properties=_commit_properties(),
            )

        for attempt in range(ATTEMPTS):
            table = self._open(spec.name)
            if table is not None:
                return table
            try:
                if self._remote:
                    create(self.uri(spec.name))
                else:
                    folder = Path(self.uri(spec.name))
                    with log.rehearsal(folder) as scratch:
                        create(str(scratch))
                        log.adopt(folder, scratch, 0)
            except (DeltaError, OSError) as error:
                # another process may have created it first: then opening succeeds on the next turn
                if attempt == ATTEMPTS - 1:
                    raise StoreError(
                        f"table {spec.name!r} cannot be created at {self.uri(spec.name)}: {error}"
                    ) from error
                time.sleep(random.uniform(0, 0.05))
        raise AssertionError("unreachable")

    def _newest(self, name: str) -> log.Newest | None:
        """The newest commit of a table in a folder; None where there is none."""
        found = log.newest(Path(self.uri(name)), self._seen.get(name))
        if found is None:
            self._seen.pop(name, None)
        else:
            self._seen[name] = found
        return found

    def _open(self, name: str, version: int | None = None) -> "DeltaTable | None":
        """A table, None where there is none. Below a folder the newest version is opened once; Delta never writes with
        it, so that it stays that version."""
        uri, newest = self.uri(name), None
        if not self._remote:
            if (newest := self._newest(name)) is None:
                return None
            known = self._tables.get(name) if version is None else None
            if known and known[0] == newest:
                return known[1]
        table = self._loaded(name, uri, version)
        if newest and table and table.version() == newest.version:
            self._tables[name] = newest, table
        return table

    def _loaded(self, name: str, uri: str, version: int | None) -> "DeltaTable | None":
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            try:
                table = DeltaTable(uri, version=version, storage_options=self.storage_options)
            except DeltaError:
                if self._remote or not log.drop_torn_checkpoints(Path(uri)):
                    raise
                table = DeltaTable(uri, version=version, storage_options=self.storage_options)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            if version is not None and (self._remote or version not in log.torn(Path(uri))):
                raise StoreError(
                    f"version {version} of table {name!r} cannot be opened (newest is {self.version(name)}); "
                    f"it never existed or was vacuumed: {str(error).partition(chr(10))[0]}"
                ) from error
            # an empty log: another process is about to write its first commit
            if not DeltaTable.is_deltatable(uri, self.storage_options):
                return None
            # its first line: what follows is the library's own stack
            raise self._torn(name, str(error).partition("\n")[0]) from error
        if not self._remote and (empty := log.first_empty(Path(uri), table.version())) is not None:
            raise self._torn(name, f"commit {empty} of its log is an empty file")
        return table

    def _torn(self, name: str, problem: str) -> StoreError:
        return StoreError(
            f"table {name!r} at {self.uri(name)} cannot be opened: {problem}; `qdag data verify {name}` tells what is "
            f"damaged, with --repair it takes the lost commits out"
        )

    def _table(self, name: str, version: int | None = None) -> "DeltaTable":
        table = self._open(name, version)
        if table is None:
            known = ", ".join(self.names()) or "none"
            raise MissingDataError(f"table {name!r} is not stored yet; materialize it first. Stored tables: {known}.")
        return table

    def _grown(self, spec: TableSpec, table: "DeltaTable") -> "DeltaTable":
        """The table with all columns of ``spec``; new ones are added in a commit of their own."""
        from deltalake import Schema

        def new(table: "DeltaTable") -> list[pa.Field]:
            stored = {f.name: f for f in pa.schema(table.schema().to_arrow())}
            for field in _stored_schema(spec):
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
            for name in sorted(stored.keys() - set(_stored_schema(spec).names)):
                if not stored[name].nullable:
                    raise StoreError(
                        f"column {name!r} of table {spec.name!r} may not be null in what is stored, but is no longer "
                        f"declared; declare it or delete the table and compute it again"
                    )
            return [field for field in _stored_schema(spec) if field.name not in stored]

        def add(table: "DeltaTable") -> None:
            if fields := new(table):
                table.alter.add_columns(
                    Schema.from_arrow(pa.schema(fields)).fields,
                    commit_properties=_commit_properties(),
                    post_commithook_properties=_keep_log(),
                )

        if not new(table):
            return table
        self._alter(spec.name, "addition of columns", add)
        return self._table(spec.name)

    def _alter(self, name: str, what: str, change: "Callable[[DeltaTable], None]", whole: bool = False) -> int:
        """Have Delta make a commit that brings no files of ours; returns the newest version.

        Below a folder it makes it in a rehearsal, and what it made is published as every other commit is. ``whole``:
        with all versions at hand.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        for attempt in range(ATTEMPTS):
            table = self._table(name)
            try:
                if self._remote:
                    change(table)
                    return table.version()
                folder = Path(self.uri(name))
                with log.rehearsal(folder, None if whole else table.version()) as scratch:
                    rehearsed = DeltaTable(scratch, version=table.version())
                    change(rehearsed)
                    if rehearsed.version() == table.version():
                        return table.version()
                    if log.adopt(folder, scratch, table.version() + 1):
                        return self._committed(name, table.version() + 1)
            except (DeltaError, OSError) as error:
                if attempt == ATTEMPTS - 1 or not _conflict(error):
                    raise StoreError(f"{what} of table {name!r} failed: {error}") from error
            time.sleep(random.uniform(0, 0.02 * 2 ** min(attempt, 5)))
        raise StoreError(f"{what} of table {name!r} failed: other writers were faster on each of {ATTEMPTS} attempts")

    def read(
        self,
        name: str,
        universe: str,
        start: date | None = None,
        end: date | None = None,
        instruments: Iterable[str] | None = None,
        columns: Sequence[str] | None = None,
        version: int | None = None,
        match: tuple[str, str] | None = None,
    ) -> pa.Table:
        """Read rows sorted by date, then by the other key columns.

        Parameters
        ----------
        start, end : inclusive; None is open
        instruments : only these, for tables with an instrument column; None is all
        columns : in this order; None is every stored column, key columns first
        version : table version to read; None is the newest
        match : a text column and the value that rows have in it

        Raises
        ------
        MissingDataError
            The table is not stored yet.
        UnknownNameError
            A column that the table does not have.
        """
        table = self._table(name, version)
        chosen = None if instruments is None else instruments if isinstance(instruments, str) else tuple(instruments)
        asked = ("read", universe, start, end, chosen, None if columns is None else tuple(columns), match)
        return self._remembered(name, table, asked, lambda: self._read(name, table, *asked[1:]))

    def _read(
        self,
        name: str,
        table: "DeltaTable",
        universe: str,
        start: date | None,
        end: date | None,
        instruments: tuple[str, ...] | str | None,
        columns: tuple[str, ...] | None,
        match: tuple[str, str] | None,
    ) -> pa.Table:
        import pyarrow.dataset as pads

        stored = _columns(table)
        wanted = list(stored if columns is None else columns)
        for column in wanted:
            if column not in stored:
                raise unknown(f"column of table {name!r}", column, stored)
        if instruments is not None and "instrument" not in stored:
            raise UnknownNameError(f"table {name!r} has no instrument column; leave instruments out")
        keys = [k for k in _keys(table) if k in stored and k != "universe"]
        keys.sort(key=lambda k: k != "date")
        extra = [k for k in keys if k not in wanted]
        dataset, condition = self._scan(name, table, universe, start, end, instruments)
        if match is not None:
            condition &= pads.field(match[0]) == match[1]
        months: dict[str, list[pads.Fragment]] = {}
        for fragment in dataset.get_fragments(filter=condition):
            month = pads.get_partition_keys(fragment.partition_expression)[LAYOUT.name]
            months.setdefault(month, []).append(fragment)

        # a few months at a time: mostly in order already, and what is not is sorted in small parts
        def ordered(some: Sequence[str]) -> pa.Table:
            fragments = [fragment for month in some for fragment in months[month]]
            files = pads.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)
            part = with_plain_types(files.to_table([*wanted, *extra], condition, fragment_scan_options=_whole_pages()))
            return part if ascends(part, keys) else part.sort_by([(k, "ascending") for k in keys])

        step, every = max(1, COLUMN_MONTHS // len([*wanted, *extra])), sorted(months)
        found = map_threads(ordered, [every[at : at + step] for at in range(0, len(every), step)])
        try:
            parts = [part for part in found if part.num_rows]
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            raise _unreadable(name, error) from error
        if not parts:
            parts = [with_plain_types(dataset.schema.empty_table().select([*wanted, *extra]))]
        rows = pa.concat_tables(parts)
        return rows.select(wanted).replace_schema_metadata(None)

    def _scan(
        self,
        name: str,
        table: "DeltaTable",
        universe: str,
        start: date | None,
        end: date | None,
        instruments: Iterable[str] | None = None,
    ) -> "tuple[pads.Dataset, pads.Expression]":
        import pyarrow.dataset as pads

        _name("universe", universe)
        start, end = (None if d is None else _day(d) for d in (start, end))
        partitions: list[tuple[str, str, Any]] = [("universe", "=", universe)]
        condition = pads.field("universe") == universe
        if start is not None:
            # whichever way the table is partitioned; the rest is told by the dates of each file
            partitions.append(("month", ">=", month_of(start, yearly=True)))
            condition &= pads.field("date") >= pa.scalar(start, pa.date32())
        if end is not None:
            partitions.append(("month", "<=", month_of(end, yearly=False)))
            condition &= pads.field("date") <= pa.scalar(end, pa.date32())
        if instruments is not None:
            if isinstance(instruments, str):
                raise StoreError(f"instruments must be a collection of names, got the string {instruments!r}")
            condition &= pads.field("instrument").isin(pa.array(list(instruments), pa.string()))
        dataset = table.to_pyarrow_dataset(partitions=partitions)
        if gone := self._without.get(name):
            fragments = [part for part in dataset.get_fragments() if unquote(part.path) not in gone]
            dataset = pads.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)
        return dataset, condition

    def exists(self, name: str) -> bool:
        """Whether the table was ever written."""
        return (self._open(name) if self._remote else self._newest(name)) is not None

    def version(self, name: str) -> int | None:
        """Newest version, None for a table that is not stored yet."""
        table = self._open(name)
        return None if table is None else table.version()

    def names(self) -> list[str]:
        """Stored tables, sorted."""
        if not self._remote:
            root = Path(self.root)
            found = (p.name for p in root.iterdir()) if root.is_dir() else iter(())
        else:
            from deltalake.fs import DeltaStorageHandler
            from pyarrow.fs import FileSelector, PyFileSystem

            handler = DeltaStorageHandler(self.root, self.storage_options)
            found = (i.base_name for i in PyFileSystem(handler).get_file_info(FileSelector("", allow_not_found=True)))
        return sorted(n for n in found if re.fullmatch(NAME_PATTERN, n) and self.exists(n))

    def columns(self, name: str, version: int | None = None) -> list[str]:
        """Stored columns without the month partition, keys first, then in order of their first appearance."""
        return _columns(self._table(name, version))

    def sessions(self, name: str, universe: str, version: int | None = None) -> np.ndarray:
        """Distinct stored dates of a universe, sorted, datetime64[D]; from file statistics where a file is one day."""
        _name("universe", universe)
        table = self._table(name, version)
        return self._remembered(
            name, table, ("sessions", universe), lambda: self._sessions(name, table, universe)
        ).copy()

    def _remembered(self, name: str, table: "DeltaTable", asked: tuple[Any, ...], find: Callable[[], T]) -> T:
        """What was found in this very version before, or is found now; large results are not kept."""
        newest, known = self._tables.get(name, (None, None))
        if known is not table:
            return find()
        key = (name, newest, asked)
        if key not in self._found:
            result: Any = find()
            if result.nbytes > REMEMBERED_BYTES:
                return result  # type: ignore[no-any-return]
            while len(self._found) >= REMEMBERED:
                self._found.pop(next(iter(self._found)), None)
            self._found[key] = result
            return result  # type: ignore[no-any-return]
        return self._found[key]  # type: ignore[no-any-return]

    def _sessions(self, name: str, table: "DeltaTable", universe: str) -> np.ndarray:
        files = self._data(name, table)
        if files.num_rows == 0:
            return np.array([], "datetime64[D]")
        files = files.filter(pc.equal(files["partition.universe"], universe))
        low, high = days(files["min.date"]), days(files["max.date"])
        single = (low == high) & ~np.isnat(low)
        found = [low[single]]
        if not single.all():
            dataset, condition = self._scan(name, table, universe, None, None)
            months = pc.unique(files["partition.month"].filter(pa.array(~single)))
            import pyarrow.dataset as pads

            dates = dataset.to_table(columns=["date"], filter=condition & pads.field("month").isin(months))
            found.append(days(pc.unique(dates["date"])))
        return np.unique(np.concatenate(found))

    def count(self, name: str, universe: str, start: date | None = None, end: date | None = None) -> int:
        """Number of stored rows with ``start <= date <= end``; None is open."""
        dataset, condition = self._scan(name, self._table(name), universe, start, end)
        return dataset.count_rows(filter=condition)

    def keys(self, name: str) -> list[str]:
        """Columns that identify a row."""
        return _keys(self._table(name))

    def history(self, name: str, after: int = -1) -> list[dict[str, Any]]:
        """Commits after a version, newest first: version, commit_id, timestamp (UTC), operation, provenance (empty
        where none was given), the universe, start, end and match that a write replaced, and the rows it brought (None
        for other operations).

        ``commit_id`` is the commit's own, None where its writer gave none: a table that was made anew or came back from
        a backup may have another commit of the same version. A commit whose file is torn is of the operation "unknown".
        """
        # read from the log itself: deltalake numbers its history wrongly while others commit
        found = []
        for version in range(self._table(name).version(), after, -1):
            try:
                row = log.info_of(self._actions(name, version))
            except FileNotFoundError:
                break
            except ValueError:
                row = {}
            found.append(
                {
                    "version": version,
                    "commit_id": row.get("commit_id"),
                    "timestamp": datetime.fromtimestamp(row.get("timestamp", 0) / 1000, UTC),
                    "operation": row.get("does", row.get("operation", "unknown")),
                    "provenance": json.loads(row.get("provenance", "{}")),
                    "universe": row.get("universe"),
                    "start": date.fromisoformat(row["start"]) if "start" in row else None,
                    "end": date.fromisoformat(row["end"]) if "end" in row else None,
                    "match": row.get("match"),
                    "rows": row.get("rows", row.get("operationMetrics", {}).get("num_added_rows")),
                }
            )
        return found

    def needed(self, name: str, versions: Iterable[int]) -> Iterator[tuple[int, set[str]]]:
        """Each of some versions, ascending, with the data files that it needs, by one reading of the log.

        The set is another version's afterwards. Versions that never existed, or whose log is gone or torn, are left
        out.
        """
        newest = self._table(name).version()
        wanted = sorted({version for version in versions if 0 <= version <= newest})
        names = self._log_names(name)
        begin = max((c for c in log.checkpoint_versions(names) if wanted and c <= wanted[0]), default=0)
        return log.replay(
            partial(self._actions, name), wanted, begin, lambda v: self.files(name, v)["path"].to_pylist()
        )

    def _log_names(self, name: str) -> list[str]:
        from pyarrow.fs import FileSelector

        return [i.base_name for i in self.filesystem(name).get_file_info(FileSelector(LOG, allow_not_found=True))]

    def files(self, name: str, version: int | None = None) -> pa.Table:
        """Data files of a version: path below the table, universe, month, size (bytes), rows, first and last date."""
        found = self._data(name, self._table(name, version))
        columns = {
            "path": ("path", pa.string()),
            "universe": ("partition.universe", pa.string()),
            "month": ("partition.month", pa.string()),
            "size": ("size_bytes", pa.int64()),
            "rows": ("num_records", pa.int64()),
            "first": ("min.date", pa.date32()),
            "last": ("max.date", pa.date32()),
        }
        empty = found.num_rows == 0
        return pa.table({k: pa.array([], d) if empty else found[c].cast(d) for k, (c, d) in columns.items()})

    def _data(self, name: str, table: "DeltaTable") -> pa.Table:
        files = pa.table(table.get_add_actions(flatten=True))
        gone = pa.array(self._without.get(name, ()), pa.string())
        return files.filter(pc.invert(pc.is_in(files["path"], gone))) if len(gone) else files

    def stored_files(self, name: str) -> dict[str, int]:
        """Data files in a table's folder with their sizes, whether a version needs them or not."""
        return {info.path: info.size for info in self._stored(name)}

    def _stored(self, name: str) -> "list[FileInfo]":
        from pyarrow.fs import FileSelector, FileType

        found = self.filesystem(name).get_file_info(FileSelector("", recursive=True))
        return [i for i in found if i.type == FileType.File and i.path[0] != "_" and i.extension == "parquet"]

    def filesystem(self, name: str) -> "FileSystem":
        """A table's own folder, to read its files from."""
        from pyarrow.fs import LocalFileSystem, PyFileSystem, SubTreeFileSystem

        if not self._remote:
            return SubTreeFileSystem(self.uri(name), LocalFileSystem())
        from deltalake.fs import DeltaStorageHandler

        return PyFileSystem(DeltaStorageHandler(self.uri(name), self.storage_options))

    # -- maintenance ---------------------------------------------------------------------------------------------------

    def compact(self, name: str) -> None:
        """Merge small files of each partition; rows and older versions stay."""
        for attempt in range(ATTEMPTS):
            try:
                return self._merge(name, lambda universe, month: True)
            except _Overtaken as overtaken:
                met = str(overtaken)
            time.sleep(random.uniform(0, 0.02 * 2 ** min(attempt, 5)))
        raise StoreError(f"table {name!r} was changed by other writers on each of {ATTEMPTS} attempts ({met})")

    def _merge(self, name: str, wanted: Callable[[str, str], bool]) -> None:
        """Merge the small files of ``wanted`` partitions (universe, month), in commits that change no row."""
        table = self._table(name)
        groups: dict[tuple[str, str], list[StoredFile]] = {}
        for row in pa.table(table.get_add_actions(flatten=True)).to_pylist():
            file = _stored_file(row)
            if file.path in self._without.get(name, ()):
                continue
            if file.size < writing.FILE_BYTES // 2 and wanted(file.universe, file.month):
                groups.setdefault((file.universe, file.month), []).append(file)
        left = sorted((partition, files) for partition, files in groups.items() if len(files) > 1)
        while left:
            made = self._data_files(name, _keys(table))
            new: list[DataFile] = []
            old: list[StoredFile] = []
            try:
                while left and sum(file.size for file in old) < MERGED_BYTES:
                    (universe, month), files = left.pop(0)
                    parts = max(1, round(sum(file.size for file in files) / writing.FILE_BYTES))
                    new += made.put(universe, month, self._merged(name, table, files), parts)
                    old += files
                made.settle()
            except BaseException:
                made.discard()
                raise
            self._commit(name, table, _Change("OPTIMIZE", new, old, {}), made)
            table = self._table(name)

    def _merged(self, name: str, table: "DeltaTable", files: Sequence[StoredFile]) -> pa.Table:
        folder = self.filesystem(name)
        try:
            parts = [_stored_rows(name, folder, file.path) for file in files]
        except _LostFile as lost:
            raise self._why_lost(name, lost) from None
        return in_order(pa.concat_tables(parts, promote_options="default"), _keys(table))

    def _why_lost(self, name: str, lost: _LostFile) -> Exception:
        """A file that is not there was taken out by another commit and deleted by a vacuum; or it is damage."""
        if lost.path not in self.files(name)["path"].to_pylist():
            return _Overtaken(f"{lost.path} was taken out of table {name!r}")
        return _unreadable(name, lost)

    def restore(self, name: str, version: int, provenance: Mapping[str, str]) -> int:
        """Make the contents and columns of ``version`` the newest in a new commit; return that commit's version.

        Raises
        ------
        StoreError
            A version that never existed or whose files were vacuumed.
        """
        gone = set(self.files(name, version)["path"].to_pylist()) - self.stored_files(name).keys()
        if gone:
            raise StoreError(
                f"restore to version {version} of table {name!r} failed: {len(gone)} of its files were vacuumed or "
                f"lost, first {min(gone)}; choose a version that `qdag data versions {name}` does not call gone"
            )

        def restore(table: "DeltaTable") -> None:
            table.restore(
                version,
                # a rehearsal has no data files
                ignore_missing_files=True,
                commit_properties=_commit_properties(_provenance(provenance)),
                post_commithook_properties=_keep_log(),
            )

        return self._alter(name, f"restore to version {version}", restore, whole=True)

    def vacuum(self, name: str, keep: Iterable[int] = (), dry_run: bool = False) -> list[str]:
        """Delete the files that neither the newest version nor those of ``keep`` need; returns their paths.

        Versions left out of ``keep`` cannot be read afterwards, except where they share all files with one that stays.
        Files that no commit has mentioned are those of a write in progress or of one that died: they stay for a day.
        """
        table = self._table(name)
        needed = set(pa.table(table.get_add_actions(flatten=True))["path"].to_pylist())
        for _, files in self.needed(name, keep):
            needed |= files
        unneeded = {info.path: info.mtime_ns / 1e9 for info in self._stored(name) if info.path not in needed}
        young = {path for path, changed in unneeded.items() if time.time() - changed < YOUNG_SECONDS}
        if young:
            # only by the commits that were looked at: later ones may bring these very files
            young -= self._mentioned(name, table.version())
        found = sorted(unneeded.keys() - young)
        if not dry_run:
            folder = self.filesystem(name)
            for path in found:
                with suppress(FileNotFoundError):
                    folder.delete_file(path)
            self._forget(name)
            if not self._remote:
                log.drop_unfinished(Path(self.uri(name)), YOUNG_SECONDS)
        return found

    def _mentioned(self, name: str, newest: int) -> set[str]:
        """Data files that some commit up to a version puts in or takes out."""
        found = set()
        for version in log.commit_versions(self._log_names(name)):
            if version <= newest:
                with suppress(ValueError):
                    found |= log.mentioned(self._actions(name, version))
        return found

    def set_aside(self, name: str, paths: Iterable[str], provenance: Mapping[str, str]) -> int:
        """Take damaged files out of the newest version of the table; return the newest version.

        They are moved to ``_damaged`` in the table's folder, out of every reader's sight; their rows are gone until
        they are written again.
        """
        folder, damaged = self.folder(name), {path: self.inside(name, path) for path in paths}
        version = self._take_out(name, damaged.keys(), provenance)
        for path, file in damaged.items():
            if file.exists():
                aside = folder / DAMAGED / path
                aside.parent.mkdir(parents=True, exist_ok=True)
                file.replace(aside)
        return version

    def _take_out(self, name: str, paths: Collection[str], provenance: Mapping[str, str]) -> int:
        for attempt in range(ATTEMPTS):
            table = self._table(name)
            rows = pa.table(table.get_add_actions(flatten=True)).to_pylist()
            old = [_stored_file(row) for row in rows if row["path"] in paths]
            if not old:
                return table.version()
            with suppress(_Overtaken):
                change = _Change("FSCK", [], old, _provenance(provenance))
                return self._commit(name, table, change, self._data_files(name, []))
            time.sleep(random.uniform(0, 0.02 * 2 ** min(attempt, 5)))
        raise StoreError(f"table {name!r} was changed by other writers on each of {ATTEMPTS} attempts; repair it again")

    def drop_lost_commits(self, name: str) -> int | None:
        """Take the commits out of the log that a torn one has made unreadable, itself included; return the newest
        version, None where no commit is left. Their files are kept in ``_damaged`` in the table's folder."""
        folder = self.folder(name)
        log.drop_torn_checkpoints(folder)
        if (lost := log.lost_from(folder)) is not None:
            log.drop_from(folder, lost, folder / DAMAGED / LOG)
        return self.version(name)

    def inside(self, name: str, path: str) -> Path:
        """A file of a table by its path in the log; a path that leads out of the table's folder is refused."""
        folder = self.folder(name)
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise StoreError(f"file {path!r} is not below {folder}; give a path from the table's own log")
        return folder / path

    def folder(self, name: str) -> Path:
        """A table's folder; for what cannot be done below an object store URL, which is refused."""
        if self._remote:
            raise StoreError(f"table {name!r} at {self.uri(name)} is in no local folder; do this on a local copy")
        return Path(self.uri(name))

    # -- checksums -----------------------------------------------------------------------------------------------------

    def checksums(self, name: str) -> dict[str, str]:
        """SHA-256 of data files by path, as they were when they were written: told by the commits that brought them,
        and, of files that others wrote, by a verification that found them sound."""
        found: dict[str, str] = {}
        if not self._remote:
            for file in sorted((Path(self.uri(name)) / CHECKSUMS).glob("*.json")):
                # what is torn is told by a verification
                found |= read_checksums(file) or {}
        for version in log.commit_versions(self._log_names(name)):
            with suppress(ValueError):
                found |= log.info_of(self._actions(name, version)).get("sha256", {})
        return found

    def record(self, name: str, version: int, found: Mapping[str, str]) -> None:
        """Remember checksums of files that no commit told, under a version that needs them."""
        if found and not self._remote:
            write_checksums(Path(self.uri(name)), version, found)

    def _forget(self, name: str) -> None:
        """Drop the checksums of files that are gone."""
        if self._remote:
            return
        folder = Path(self.uri(name))
        for file in (folder / CHECKSUMS).glob("*.json"):
            known = read_checksums(file)
            if known is not None and not any((folder / path).exists() for path in known):
                file.unlink()


def _stored_schema(spec: TableSpec) -> pa.Schema:
    return spec.arrow().append(LAYOUT)


def _whole_pages() -> "pads.ParquetFragmentScanOptions":
    """A page that is not what was written is an error, not another value."""
    import pyarrow.dataset as pads

    return pads.ParquetFragmentScanOptions(page_checksum_verification=True)


def _unreadable(name: str, error: Exception) -> StoreError:
    return StoreError(
        f"table {name!r} cannot be read: {error}; `qdag data verify` tells which files are damaged, with --repair "
        f"their sessions are computed again"
    )


def _stored_rows(name: str, folder: "FileSystem", path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A data file as it is, or some columns of it."""
    import pyarrow.parquet as pq

    chosen = None if columns is None else list(columns)
    try:
        with folder.open_input_file(path) as file:
            return with_plain_types(pq.read_table(file, columns=chosen, page_checksum_verification=True))
    except FileNotFoundError:
        raise _LostFile(path) from None
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(name, error) from error


def _columns(table: "DeltaTable") -> list[str]:
    names = [f.name for f in table.schema().fields if f.name != LAYOUT.name]
    keys = [k for k in _keys(table) if k in names]
    return [*keys, *(n for n in names if n not in keys)]


def _keys(table: "DeltaTable") -> list[str]:
    indexed = table.metadata().configuration.get("delta.dataSkippingStatsColumns") or "date"
    return ["universe", *indexed.split(",")]


def digest(file: IO[bytes]) -> str:
    """SHA-256 of an open file, as hexadecimal text."""
    found = hashlib.sha256()
    while part := file.read(1 << 20):
        found.update(part)
    return found.hexdigest()


def read_checksums(file: Path) -> dict[str, str] | None:
    """SHA-256 of files by path; None where the file is torn."""
    try:
        known = json.loads(file.read_bytes())
    except ValueError:
        return None
    return known if isinstance(known, dict) else None


def write_checksums(folder: Path, version: int, found: Mapping[str, str]) -> None:
    """Add SHA-256 of files by path to what is known in a table's folder."""
    file = folder / CHECKSUMS / f"{version:020d}.json"
    known = read_checksums(file) if file.exists() else None
    write_text(file, json.dumps({**(known or {}), **found}, sort_keys=True))


def _provenance(provenance: Mapping[str, str]) -> dict[str, str]:
    return {"provenance": json.dumps(dict(provenance), sort_keys=True)}


def _commit_properties(told: Mapping[str, Any] | None = None, retries: int | None = None) -> "CommitProperties":
    """What a commit says of itself, with an id of its own."""
    from deltalake import CommitProperties

    metadata = {"commit_id": uuid.uuid4().hex, **(told or {})}
    return CommitProperties(custom_metadata=metadata, max_commit_retries=retries)


def _stored_file(row: Mapping[str, Any]) -> StoredFile:
    return StoredFile(row["path"], row["size_bytes"], row["partition.universe"], row["partition.month"])


def _crowded(files: pa.Table, universe: str, change: _Change) -> set[str]:
    """Months that have many small files when a change is made to ``files`` of a table."""
    gone = {file.path for file in change.old}
    limit = writing.FILE_BYTES // 2
    small = Counter(file.month for file in change.new if file.size < limit)
    if files.num_rows and small:
        mine = (pc.field("partition.universe") == universe) & (pc.field("size_bytes") < limit)
        mine &= pc.field("partition.month").isin(list(small))
        there = files.filter(mine).select(["path", "partition.month"]).to_pylist()
        small.update(row["partition.month"] for row in there if row["path"] not in gone)
    return {month for month, count in small.items() if count >= MERGED_FILES}


def _keep_log() -> "PostCommitHookProperties":
    """Do not trim the log after a commit, also where a table was created without ``KEEP_LOG``."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(cleanup_expired_logs=False)


def _conflict(error: Exception) -> bool:
    from deltalake.exceptions import CommitFailedError

    text = str(error).lower()
    return isinstance(error, CommitFailedError) or any(
        word in text for word in ("conflict", "concurrent", "version already exists", "metadata changed")
    )


def _match(spec: TableSpec, name: str, value: str) -> tuple[str, str]:
    column = next((c for c in spec.columns if c.name == name), None)
    if column is None:
        raise unknown(f"column of table {spec.name!r}", name, [c.name for c in spec.columns])
    if column.dtype != "string" or column.nullable:
        raise StoreError(
            f"column {name!r} of table {spec.name!r} is {column.dtype}{', may be null' if column.nullable else ''}; "
            f"rows are replaced by the value of a text column that may not be null"
        )
    return name, _name("value", value)


def _name(kind: str, name: str) -> str:
    """Only plain names: they become paths and parts of SQL predicates."""
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise StoreError(f"{kind} name {name!r} must match {NAME_PATTERN} (lower case, digits, underscore)")
    return name


def _day(day: date) -> date:
    if isinstance(day, np.datetime64):
        day = day.astype("datetime64[D]").item()
    if isinstance(day, datetime):
        day = day.date()
    if not isinstance(day, date):
        raise StoreError(f"{day!r} is no date; give a datetime.date")
    return day
