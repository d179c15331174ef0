"""Commits: files put into a table and taken out, in one version after the other, whatever other writers do.

Below a folder qdag writes the log itself (:mod:`qdag.store.tables.log`), below a URL Delta does. Delta's own resolution
of conflicts does not know which rows a write replaces, and lets two compactions of the same files pass. Here commits
that do not touch one's own are let pass, any other raises :class:`ConflictingCommit`.
"""

import json
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

import qdag.store.tables.log as log
from qdag.errors import StoreError
from qdag.store.tables.conflicts import ATTEMPTS, ConflictingCommit, retrying
from qdag.store.tables.location import Location
from qdag.store.tables.log import StoredFile
from qdag.store.tables.place import Place
from qdag.store.tables.write import PARTITIONS, DataFile, DataFiles

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties

CHECKPOINT_EVERY = 20
"""Versions from one checkpoint to the next."""


@dataclass(frozen=True)
class Change:
    """What a commit does.

    Attributes
    ----------
    operation : Delta's word for it
    new, old : files that it puts in and takes out
    info : what it says of itself
    place : whose rows it replaces; None where rows stay as they are or are only taken out
    """

    operation: str
    new: Sequence[DataFile]
    old: Sequence[StoredFile]
    info: Mapping[str, Any] = field(default_factory=dict)
    place: Place | None = None

    def conflicts_with(self, action: Mapping[str, Any], taken: Collection[str]) -> bool:
        """Whether another commit's action touches the place, the files to be ``taken`` out, or the columns."""
        if "metaData" in action or "protocol" in action:
            return True
        if removed := action.get("remove"):
            return unquote(removed["path"]) in taken
        return self.place is not None and "add" in action and self.place.touched_by(action["add"])

    def actions(self) -> list[log.Action]:
        """What the log says of the files."""
        rows_change = self.operation != "OPTIMIZE"
        return [
            *(log.added(file, rows_change) for file in self.new),
            *(log.removed(file, rows_change) for file in self.old),
        ]


class _CameFirst(StoreError):
    """Another commit has the version that this one was to have, and touches nothing of it."""


def commit(location: Location, name: str, table: "DeltaTable", change: Change, made: DataFiles) -> int:
    """Make a commit and return its version.

    Parameters
    ----------
    table : the version that the change was made for; later commits are let pass where they do not touch it
    made : the new files; where the commit surely did not happen, none of them is left

    Raises
    ------
    ConflictingCommit
        A later commit touches what this one replaces.
    StoreError
        The log cannot be written, or others were faster on each attempt.
    """
    from deltalake.exceptions import DeltaError

    info = {
        **change.info,
        "commit_id": uuid.uuid4().hex,
        **({"sha256": {file.path: file.sha256 for file in change.new}} if change.new else {}),
    }
    taken = {file.path for file in change.old}
    attempts = 0

    def attempt() -> int:
        nonlocal table, attempts
        attempts, error = attempts + 1, None
        try:
            if _publish(location, name, table, change, info):
                return _checkpointed(location, name, table.version() + 1)
        except (DeltaError, OSError) as failed:
            error = failed
        newest = location.table(name)
        for version in range(table.version() + 1, newest.version() + 1):
            logged = location.actions(name, version)
            other = log.info_of(logged)
            # committed, and only what follows a commit has failed
            if other.get("commit_id") == info["commit_id"]:
                return version
            if any(change.conflicts_with(action, taken) for action in logged):
                made.discard()
                what = str(other.get("operation", "another commit"))
                raise ConflictingCommit(f"version {version} of table {name!r} was made ({what})")
        problem = (
            f"table {name!r} cannot be written ({attempts} attempts to commit version {newest.version() + 1}): "
            f"{error or 'something else has the name of its file'}"
        )
        if newest.version() == table.version():
            made.discard()
            raise StoreError(problem) from error
        table = newest
        raise _CameFirst(problem) from error

    try:
        return retrying(attempt, _CameFirst)
    except _CameFirst:
        made.discard()
        raise


def _publish(location: Location, name: str, table: "DeltaTable", change: Change, info: Mapping[str, Any]) -> bool:
    """Commit the version after that of ``table``; False, or an error, where it is there already."""
    actions = change.actions()
    if not location.remote:
        return log.publish(location.folder(name), table.version() + 1, change.operation, info, actions)
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
        commit_properties=commit_properties({**info, "does": change.operation}, retries=0),
        post_commithook_properties=keep_log(),
    )
    return True


def _checkpointed(location: Location, name: str, version: int) -> int:
    """What follows a commit, and may fail without undoing it: a checkpoint, on disk. Below a URL Delta makes it."""
    from deltalake.exceptions import DeltaError

    if not location.remote and (version + 1) % CHECKPOINT_EVERY == 0:
        with suppress(DeltaError, OSError):
            log.checkpoint(location.folder(name), version)
    return version


def alter(location: Location, name: str, what: str, change: "Callable[[DeltaTable], None]", whole: bool = False) -> int:
    """Have Delta make a commit that brings no files of ours; returns the newest version.

    Below a folder it makes it in a rehearsal, and what it made is published as every other commit is.

    Parameters
    ----------
    what : the change, in words for people
    change : makes the commit in the table that it gets, or none
    whole : with all versions at hand

    Raises
    ------
    StoreError
        The change is refused, or others were faster on each attempt.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    def attempt() -> int:
        table = location.table(name)
        try:
            if location.remote:
                change(table)
                return table.version()
            folder = location.folder(name)
            with log.rehearsal(folder, None if whole else table.version()) as scratch:
                rehearsed = DeltaTable(scratch, version=table.version())
                change(rehearsed)
                if rehearsed.version() == table.version():
                    return table.version()
                if log.adopt(folder, scratch, table.version() + 1):
                    return _checkpointed(location, name, table.version() + 1)
        except (DeltaError, OSError) as error:
            if _is_conflict(error):
                raise ConflictingCommit(str(error)) from error
            raise StoreError(f"{what} of table {name!r} failed: {error}") from error
        raise ConflictingCommit(f"version {table.version() + 1} was made")

    try:
        return retrying(attempt)
    except ConflictingCommit as conflict:
        raise StoreError(
            f"{what} of table {name!r} failed: other writers were faster on each of {ATTEMPTS} attempts ({conflict})"
        ) from conflict


def _is_conflict(error: Exception) -> bool:
    from deltalake.exceptions import CommitFailedError

    text = str(error).lower()
    return isinstance(error, CommitFailedError) or any(
        word in text for word in ("conflict", "concurrent", "version already exists", "metadata changed")
    )


# -- what a commit is made with ---------------------------------------------------------------------------------------


def provenance_info(provenance: Mapping[str, str]) -> dict[str, str]:
    """How a commit says what its writer told about itself."""
    return {"provenance": json.dumps(dict(provenance), sort_keys=True)}


def commit_properties(info: Mapping[str, Any] | None = None, retries: int | None = None) -> "CommitProperties":
    """What a commit that Delta makes says of itself, with an id of its own; ``retries``: Delta's, None its default."""
    from deltalake import CommitProperties

    metadata = {"commit_id": uuid.uuid4().hex, **(info or {})}
    return CommitProperties(custom_metadata=metadata, max_commit_retries=retries)


def keep_log() -> "PostCommitHookProperties":
    """Do not trim the log after a commit, also where the table's own configuration would."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(cleanup_expired_logs=False)


def new_files(location: Location, name: str, keys: Sequence[str]) -> DataFiles:
    """Where files for a table's next commit are made; ``keys``: its key columns."""
    return DataFiles(location.filesystem(name), location.local(name), [key for key in keys if key not in PARTITIONS])


def added_files(table: "DeltaTable") -> pa.Table:
    """The data files of an opened version, as Delta tells them: path, size_bytes, num_records, ``partition.`` its
    values, ``min.`` and ``max.`` the keys."""
    return pa.table(table.get_add_actions(flatten=True))


def stored_file(row: Mapping[str, Any]) -> StoredFile:
    """A row of :func:`added_files`."""
    return StoredFile(row["path"], row["size_bytes"], row["partition.universe"], row["partition.month"])
