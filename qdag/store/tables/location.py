"""Where tables lie and what is open of them: names, URLs, file systems, versions, and small results read before.

What the rows of a table are, and how they get there, does not belong here.
"""

import math
import re
from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import qdag.store.tables.log as log
from qdag.errors import MissingDataError, StoreError
from qdag.settings import NAME_PATTERN
from qdag.text import ranges

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyarrow.fs import FileInfo, FileSystem

Result = TypeVar("Result", "pa.Table", "np.ndarray")
REMEMBERED, REMEMBERED_BYTES = 64, 1 << 20
"""Most results of reading that are kept, and the largest: pages and checks read the same small tables often."""


class Location:
    """One root with its tables, as one process sees them.

    Parameters
    ----------
    root : folder or object store URL (``s3://bucket/prefix``); each table is one Delta table below it
    storage_options : credentials and endpoint of an object store, as ``deltalake`` takes them
    without : data files by table, as if they were not there: see ``TableStore.without``
    pinned : versions by table that stand for the newest ones, None for a table that is not there: see
        ``TableStore.at``

    Attributes
    ----------
    root : the URL, or the folder's absolute path, without a slash at the end
    remote : whether it is a URL
    """

    def __init__(
        self,
        root: str | Path,
        storage_options: Mapping[str, str] | None = None,
        without: Mapping[str, Collection[str]] | None = None,
        pinned: Mapping[str, int | None] | None = None,
    ):
        text = str(root)
        self.remote = "://" in text
        self.root = text.rstrip("/") if self.remote else str(Path(text).expanduser().absolute())
        self.storage_options = dict(storage_options) if storage_options else None
        self.without = {name: frozenset(paths) for name, paths in (without or {}).items()}
        self.pinned = dict(pinned or {})
        self._seen: dict[str, log.Newest] = {}
        self._opened: dict[str, tuple[log.Newest, DeltaTable]] = {}
        self._results: dict[tuple[Hashable, ...], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # what was opened and read stays in its process
        return {**self.__dict__, "_seen": {}, "_opened": {}, "_results": {}}

    # -- places --------------------------------------------------------------------------------------------------------

    def uri(self, name: str) -> str:
        """Path or URL of a table. StoreError: a name that no table can have."""
        return f"{self.root}/{plain_name('table', name)}"

    def local(self, name: str) -> Path | None:
        """A table's folder; None below a URL."""
        return None if self.remote else Path(self.uri(name))

    def folder(self, name: str) -> Path:
        """A table's folder, for what cannot be done below a URL. StoreError: the tables lie below one."""
        if self.remote:
            raise StoreError(f"table {name!r} at {self.uri(name)} is in no local folder; do this on a local copy")
        return Path(self.uri(name))

    def inside(self, name: str, path: str) -> Path:
        """A file of a table by its path in the log. StoreError: the path leads out of the table's folder."""
        folder = self.folder(name)
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise StoreError(f"file {path!r} is not below {folder}; give a path from the table's own log")
        return folder / path

    def filesystem(self, name: str) -> "FileSystem":
        """A table's own folder as Arrow's file system."""
        from pyarrow.fs import LocalFileSystem, PyFileSystem, SubTreeFileSystem

        if not self.remote:
            return SubTreeFileSystem(self.uri(name), LocalFileSystem())
        from deltalake.fs import DeltaStorageHandler

        return PyFileSystem(DeltaStorageHandler(self.uri(name), self.storage_options))

    def stored(self, name: str) -> "list[FileInfo]":
        """The data files in a table's folder, whether a version needs them or not."""
        from pyarrow.fs import FileSelector, FileType

        found = self.filesystem(name).get_file_info(FileSelector("", recursive=True))
        return [i for i in found if i.type == FileType.File and i.path[0] != "_" and i.extension == "parquet"]

    def names(self) -> list[str]:
        """Stored tables, sorted."""
        if not self.remote:
            root = Path(self.root)
            found = (p.name for p in root.iterdir()) if root.is_dir() else iter(())
        else:
            from deltalake.fs import DeltaStorageHandler
            from pyarrow.fs import FileSelector, PyFileSystem

            handler = DeltaStorageHandler(self.root, self.storage_options)
            found = (i.base_name for i in PyFileSystem(handler).get_file_info(FileSelector("", allow_not_found=True)))
        return sorted(n for n in found if re.fullmatch(NAME_PATTERN, n) and self.exists(n))

    # -- versions ------------------------------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        """Whether a table was ever written."""
        if name in self.pinned:
            return self.pinned[name] is not None
        return (self.open(name) if self.remote else self._newest(name)) is not None

    def version(self, name: str) -> int | None:
        """Newest version; None for a table that is not stored."""
        table = self.open(name)
        return None if table is None else table.version()

    def table(self, name: str, version: int | None = None) -> "DeltaTable":
        """A table as of a version, by default the newest.

        Raises
        ------
        MissingDataError
            The table is not stored yet.
        StoreError
            There is no such version, commits that it builds on are gone, or the log is torn.
        """
        table = self.open(name, version)
        if table is None:
            known = ", ".join(self.names()) or "none"
            raise MissingDataError(f"table {name!r} is not stored yet; materialize it first. Stored tables: {known}.")
        return table

    def open(self, name: str, version: int | None = None) -> "DeltaTable | None":
        """A table as of :meth:`table`, None where there is none. Below a folder the newest version is opened once;
        Delta never writes with it, so that it stays that version."""
        uri, newest = self.uri(name), None
        if version is None and name in self.pinned:
            version = self.pinned[name]
            return None if version is None else self._pinned(name, version)
        if not self.remote:
            if (newest := self._newest(name)) is None:
                return None
            known = self._opened.get(name) if version is None else None
            if known and known[0] == newest:
                return known[1]
        table = self._load(name, uri, version)
        if newest and table and table.version() == newest.version:
            self._opened[name] = newest, table
        return table

    def _pinned(self, name: str, version: int) -> "DeltaTable | None":
        """A table as of its pinned version, which is opened once."""
        if name not in self._opened and (table := self._load(name, self.uri(name), version)):
            self._opened[name] = log.Newest(version, 0, 0), table
        return self._opened[name][1] if name in self._opened else None

    def _newest(self, name: str) -> log.Newest | None:
        """The newest commit of a table in a folder; None where there is none."""
        found = log.newest(Path(self.uri(name)), self._seen.get(name))
        if found is None:
            self._seen.pop(name, None)
        else:
            self._seen[name] = found
        return found

    def _load(self, name: str, uri: str, version: int | None) -> "DeltaTable | None":
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            try:
                table = DeltaTable(uri, version=version, storage_options=self.storage_options)
            except DeltaError:
                if self.remote or not log.drop_torn_checkpoints(Path(uri)):
                    raise
                table = DeltaTable(uri, version=version, storage_options=self.storage_options)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            if version is not None and (self.remote or version not in log.torn(Path(uri))):
                raise self._no_version(name, version) from error
            # an empty log: another process is about to write its first commit
            if not DeltaTable.is_deltatable(uri, self.storage_options):
                return None
            # its first line: what follows is the library's own stack
            raise self._torn(name, str(error).partition("\n")[0]) from error
        if not self.remote and (empty := log.first_empty(Path(uri), table.version())) is not None:
            raise self._torn(name, f"commit {empty} of its log is an empty file")
        return table

    def _no_version(self, name: str, version: int) -> StoreError:
        names = self.log_names(name)
        known = sorted({*log.commit_versions(names), *log.checkpoint_versions(names)})
        about = f"`qdag data versions {name}` tells what each of them is"
        if version in known:
            return StoreError(
                f"version {version} of table {name!r} cannot be opened: commits that it builds on are gone from its "
                f"log; choose another of {ranges(known)}; {about}"
            )
        near = min(known, key=lambda one: abs(one - version))
        return StoreError(
            f"table {name!r} has no version {version}; the nearest is {near}, there are {ranges(known)}; {about}"
        )

    def _torn(self, name: str, problem: str) -> StoreError:
        return StoreError(
            f"table {name!r} at {self.uri(name)} cannot be opened: {problem}; `qdag data verify {name}` tells what is "
            f"damaged, with --repair it takes the lost commits out"
        )

    def commit(self, name: str, version: int) -> tuple[list[log.Action], bytes]:
        """The actions of a commit as the log has them, and the bytes that say so.

        Raises
        ------
        ValueError
            The commit's file is torn.
        FileNotFoundError
            There is none.
        """
        file = f"{log.LOG}/{log.commit_name(version)}"
        if self.remote:
            with self.filesystem(name).open_input_stream(file) as stream:
                content = bytes(stream.read())
        else:
            content = (Path(self.uri(name)) / file).read_bytes()
        return log.parse(content), content

    def actions(self, name: str, version: int) -> list[log.Action]:
        """The actions of a commit, see :meth:`commit`."""
        return self.commit(name, version)[0]

    def log_names(self, name: str) -> list[str]:
        """Names of the files of a table's log."""
        from pyarrow.fs import FileSelector

        found = self.filesystem(name).get_file_info(FileSelector(log.LOG, allow_not_found=True))
        return [info.base_name for info in found]

    # -- results -------------------------------------------------------------------------------------------------------

    def remembered(
        self, name: str, table: "DeltaTable", question: tuple[Hashable, ...], find: Callable[[], Result]
    ) -> Result:
        """What ``find`` gave for a question about this very version before, or gives now; large results are not kept.

        The caller must not change the result.
        """
        newest, known = self._opened.get(name, (None, None))
        if known is not table:
            return find()
        key = (name, newest, question)
        if key not in self._results:
            result = find()
            # counting the bytes of many columns in many chunks takes long, and a cell has four at least
            if 4 * math.prod(result.shape) > REMEMBERED_BYTES or result.nbytes > REMEMBERED_BYTES:
                return result
            while len(self._results) >= REMEMBERED:
                self._results.pop(next(iter(self._results)), None)
            self._results[key] = result
            return result
        return self._results[key]


def plain_name(kind: str, name: str) -> str:
    """The name, where it is one that becomes a path and part of an SQL predicate.

    StoreError, which calls it a ``kind`` of name: any other.
    """
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise StoreError(f"{kind} name {name!r} must match {NAME_PATTERN} (lower case, digits, underscore)")
    return name
