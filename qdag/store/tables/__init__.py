"""Delta Lake tables: one write is one transaction over a universe and a date range; reads are sorted and versioned.

:class:`TableStore` is what others use. The modules beside it make it up, each importing only those before it:

``write``       data files of a write, checked while they stream
``log``         the files of a table's log
``conflicts``   other writers, and trying again
``place``       the rows that a write replaces
``location``    names, file systems, opened versions
``commit``      one version after the other
``columns``     a table's columns, and how they grow
``read``        sorted rows of a version
``history``     what the log tells of versions
``merge``       small files into larger ones
``replace``     a write
``checksums``   SHA-256 of data files
``upkeep``      compaction, restore, vacuum, damage

Layout, conflicts, schema evolution and maintenance belong here; what the columns mean does not (``qdag.schema``), nor
does turning rows into panels (``qdag.store.bars``).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import qdag.store.tables.checksums as sums
import qdag.store.tables.history as versions
import qdag.store.tables.read as reading
import qdag.store.tables.upkeep as upkeep
from qdag.errors import StoreError
from qdag.schema import TableSpec
from qdag.store.tables.columns import checked_match, column_names, key_names
from qdag.store.tables.location import Location, plain_name
from qdag.store.tables.log import Action
from qdag.store.tables.place import Place, as_day
from qdag.store.tables.read import Result
from qdag.store.tables.replace import replace
from qdag.store.tables.write import check_schema

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class TableStore:
    """All tables below one root.

    Parameters
    ----------
    root : folder or object store URL (``s3://bucket/prefix``); each table is one Delta table below it
    storage_options : credentials and endpoint of an object store, as ``deltalake`` takes them

    Notes
    -----
    A method that gets the name of a table raises StoreError where no table can have it, and, unless it says otherwise,
    MissingDataError where the table is not stored.
    """

    def __init__(self, root: str | Path, storage_options: Mapping[str, str] | None = None):
        self._location = Location(root, storage_options)

    def __repr__(self) -> str:
        return f"TableStore({self.root!r})"

    # -- where ---------------------------------------------------------------------------------------------------------

    @property
    def root(self) -> str:
        """The folder's absolute path, or the URL."""
        return self._location.root

    @property
    def remote(self) -> bool:
        """Whether the tables lie below an object store's URL, not in a folder."""
        return self._location.remote

    @property
    def storage_options(self) -> dict[str, str] | None:
        """Credentials and endpoint of an object store, None where none were given."""
        return self._location.storage_options

    def without(self, files: Mapping[str, Collection[str]]) -> "TableStore":
        """The same tables as if some files, by table, were not there: their rows are not read, and a write to any of
        their days takes them out whole. So damage is repaired by the very commit that brings the rows again."""
        view = TableStore(self.root, self.storage_options)
        view._location = Location(self.root, self.storage_options, files)
        return view

    def at(self, versions: Mapping[str, int | None]) -> "TableStore":
        """The same tables as of some versions, which are what its methods call the newest; None for a table that is as
        if it were not stored. It is for reading: what would commit raises StoreError."""
        view = TableStore(self.root, self.storage_options)
        without, pinned = self._location.without, {**self._location.pinned, **versions}
        view._location = Location(self.root, self.storage_options, without, pinned)
        return view

    def _writable(self) -> Location:
        if self._location.pinned:
            raise StoreError(f"tables below {self.root!r} as of earlier versions are for reading; write to the newest")
        return self._location

    @property
    def pinned(self) -> Mapping[str, int | None]:
        """The versions of :meth:`at`; none by default."""
        return self._location.pinned

    def uri(self, name: str) -> str:
        """Path or URL of a table, stored or not; readable by any Delta Lake reader."""
        return self._location.uri(name)

    def folder(self, name: str) -> Path:
        """A table's folder, stored or not; for what cannot be done below an object store URL, which is refused."""
        return self._location.folder(name)

    def inside(self, name: str, path: str) -> Path:
        """A file of a table by its path in the log; a path that leads out of the table's folder is refused."""
        return self._location.inside(name, path)

    def filesystem(self, name: str) -> "FileSystem":
        """A table's own folder, to read its files from."""
        return self._location.filesystem(name)

    # -- writing -------------------------------------------------------------------------------------------------------

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

        Parameters
        ----------
        spec : the table, which is made where it is not stored
        data : exactly the columns of ``spec`` in any order; zero rows empty the range
        provenance : what the commit tells of its writer
        match : a text column that may not be null and its value: only rows with that value are replaced, and all of
            ``data`` must have it

        Notes
        -----
        A table, a sequence of batches and what a function gives are written again after a commit conflict (the function
        is called again); a one-shot iterator cannot be, so another commit to the same sessions or files raises. Batches
        are checked while they stream: a failure leaves the rows as they were.

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
        UnknownNameError
            ``match`` names a column that the table does not have.
        """
        plain_name("universe", universe)
        start, end = as_day(start), as_day(end)
        if start > end:
            raise StoreError(f"range {start}..{end} of table {spec.name!r} is reversed; give start <= end")
        if isinstance(data, pa.Table):
            check_schema(spec, data.schema)
        place = Place(universe, start, end, None if match is None else checked_match(spec, *match))
        return replace(self._writable(), spec, place, data, provenance)

    # -- reading -------------------------------------------------------------------------------------------------------

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
        StoreError
            A version that is gone, or a file that is damaged.
        """
        return reading.read(self._location, name, universe, start, end, instruments, columns, version, match)

    def each(
        self,
        name: str,
        universe: str,
        then: Callable[[pa.Table], Result],
        start: date | None = None,
        end: date | None = None,
        columns: Sequence[str] = (),
        version: int | None = None,
    ) -> Iterator[Result]:
        """What ``then`` gives of every part of the rows that :meth:`read` gives, in order, a few months each.

        For what need not be in memory twice: ``then`` is called by the threads that read, several at once, and what it
        is given is freed when it is done. Errors are those of ``read``.
        """
        return reading.each(self._location, name, universe, start, end, columns, version, then)

    def sessions(self, name: str, universe: str, version: int | None = None) -> np.ndarray:
        """Distinct stored dates of a universe, sorted, datetime64[D]; from file statistics where a file is one day."""
        return reading.sessions(self._location, name, universe, version)

    def count(self, name: str, universe: str, start: date | None = None, end: date | None = None) -> int:
        """Number of stored rows with ``start <= date <= end``; None is open."""
        return reading.count(self._location, name, universe, start, end)

    def columns(self, name: str, version: int | None = None) -> list[str]:
        """Stored columns without the month partition, keys first, then in order of their first appearance."""
        return column_names(self._location.table(name, version))

    def keys(self, name: str) -> list[str]:
        """Columns that identify a row."""
        return key_names(self._location.table(name))

    # -- versions ------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Stored tables, sorted."""
        return self._location.names()

    def exists(self, name: str) -> bool:
        """Whether the table was ever written."""
        return self._location.exists(name)

    def version(self, name: str) -> int | None:
        """Newest version, None for a table that is not stored yet."""
        return self._location.version(name)

    def history(self, name: str, after: int = -1) -> list[dict[str, Any]]:
        """Commits after a version, newest first: version, commit_id, timestamp (UTC), operation, provenance (empty
        where none was given), the universe, start, end and match that a write replaced, and the rows it brought (None
        for other operations).

        ``commit_id`` is the commit's own, None where its writer gave none: a table that was made anew or came back from
        a backup may have another commit of the same version. A commit whose file is torn is of the operation "unknown".
        """
        return versions.history(self._location, name, after)

    def commit(self, name: str, version: int) -> tuple[list[Action], bytes]:
        """The actions of a commit as the log has them, and the bytes that say so; ValueError where its file is torn,
        FileNotFoundError where there is none."""
        return self._location.commit(name, version)

    def files(self, name: str, version: int | None = None) -> pa.Table:
        """Data files of a version: path below the table, universe, month, size (bytes), rows, first and last date."""
        return versions.files(self._location, name, version)

    def stored_files(self, name: str) -> dict[str, int]:
        """Data files in a table's folder with their sizes, whether a version needs them or not."""
        return {info.path: info.size for info in self._location.stored(name)}

    def needed(self, name: str, wanted: Iterable[int]) -> Iterator[tuple[int, set[str]]]:
        """Each of some versions, ascending, with the data files that it needs, by one reading of the log.

        The set is another version's afterwards. Versions that never existed, or whose log is gone or torn, are left
        out.
        """
        return versions.needed(self._location, name, wanted)

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def compact(self, name: str) -> None:
        """Merge small files of each partition; rows and older versions stay. StoreError: others were faster."""
        upkeep.compact(self._writable(), name)

    def restore(self, name: str, version: int, provenance: Mapping[str, str]) -> int:
        """Make the contents and columns of ``version`` the newest in a new commit; return that commit's version.

        Raises
        ------
        StoreError
            A version that never existed or whose files were vacuumed.
        """
        return upkeep.restore(self._writable(), name, version, provenance)

    def vacuum(self, name: str, keep: Iterable[int] = (), dry_run: bool = False) -> list[str]:
        """Delete the files that neither the newest version nor those of ``keep`` need; returns their paths.

        Versions left out of ``keep`` cannot be read afterwards, except where they share all files with one that stays.
        Files that no commit has mentioned are those of a write in progress or of one that died: they stay for a day.
        """
        return upkeep.vacuum(self._writable(), name, keep, dry_run)

    def set_aside(self, name: str, paths: Iterable[str], provenance: Mapping[str, str]) -> int:
        """Take damaged files out of the newest version of the table; return the newest version.

        They are moved to ``_damaged`` in the table's folder, out of every reader's sight; their rows are gone until
        they are written again.
        """
        return upkeep.set_aside(self._writable(), name, paths, provenance)

    def drop_lost_commits(self, name: str) -> int | None:
        """Take the commits out of the log that a torn one has made unreadable, itself included; return the newest
        version, None where no commit is left. Their files are kept in ``_damaged`` in the table's folder."""
        return upkeep.drop_lost_commits(self._writable(), name)

    def checksums(self, name: str) -> dict[str, str]:
        """SHA-256 of data files by path, as they were when they were written: told by the commits that brought them,
        and, of files that others wrote, by a verification that found them sound."""
        return sums.checksums(self._location, name)

    def record(self, name: str, version: int, found: Mapping[str, str]) -> None:
        """Remember checksums of files that no commit told, under a version that needs them; below a URL nothing is."""
        if found and (folder := self._location.local(name)):
            sums.write_checksums(folder, version, found)
