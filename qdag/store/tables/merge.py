"""Small files of a month merged into larger ones, in commits that change no row."""

from collections import Counter
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

import qdag.store.tables.write as write
from qdag.store.tables.columns import key_names
from qdag.store.tables.commit import Change, added_files, commit, new_files, stored_file
from qdag.store.tables.conflicts import ConflictingCommit, LostFile
from qdag.store.tables.damage import unreadable
from qdag.store.tables.history import files as files_of
from qdag.store.tables.location import Location
from qdag.store.tables.log import StoredFile
from qdag.store.tables.read import stored_rows
from qdag.store.tables.write import DataFile, in_order

MERGED_FILES = 4
"""So many files of one month, each less than half of a full one, are merged by the write that adds the last."""
MERGED_BYTES = 64 << 20
"""A merge commits when it has merged so much: what another writer makes it begin anew is no more than this."""


def merge(location: Location, name: str, wanted: Callable[[str, str], bool]) -> None:
    """Merge the small files of partitions: ``wanted`` gets a universe and a month.

    Raises
    ------
    ConflictingCommit
        Another commit took out a file that was being merged.
    StoreError
        A file is damaged, or the log cannot be written.
    """
    table = location.table(name)
    groups: dict[tuple[str, str], list[StoredFile]] = {}
    for row in added_files(table).to_pylist():
        file = stored_file(row)
        if file.path in location.without.get(name, ()):
            continue
        if file.size < write.FILE_BYTES // 2 and wanted(file.universe, file.month):
            groups.setdefault((file.universe, file.month), []).append(file)
    left = sorted((partition, files) for partition, files in groups.items() if len(files) > 1)
    keys = key_names(table)
    while left:
        made = new_files(location, name, keys)
        new: list[DataFile] = []
        old: list[StoredFile] = []
        try:
            while left and sum(file.size for file in old) < MERGED_BYTES:
                (universe, month), files = left.pop(0)
                parts = max(1, round(sum(file.size for file in files) / write.FILE_BYTES))
                new += made.put(universe, month, _merged(location, name, keys, files), parts)
                old += files
            made.settle()
        except BaseException:
            made.discard()
            raise
        commit(location, name, table, Change("OPTIMIZE", new, old), made)
        table = location.table(name)


def _merged(location: Location, name: str, keys: Sequence[str], files: Sequence[StoredFile]) -> pa.Table:
    folder = location.filesystem(name)
    try:
        parts = [stored_rows(name, folder, file.path) for file in files]
    except LostFile as lost:
        raise why_lost(location, name, lost) from None
    return in_order(pa.concat_tables(parts, promote_options="default"), keys)


def why_lost(location: Location, name: str, lost: LostFile) -> Exception:
    """A file that is not there was taken out by another commit and deleted by a vacuum; or it is damage."""
    if lost.path not in files_of(location, name)["path"].to_pylist():
        return ConflictingCommit(f"{lost.path} was taken out of table {name!r}")
    return unreadable(name, lost.path, FileNotFoundError())


def crowded_months(files: pa.Table, universe: str, change: Change) -> set[str]:
    """Months of a universe that have ``MERGED_FILES`` small files when a change is made to ``files`` of a table."""
    gone = {file.path for file in change.old}
    limit = write.FILE_BYTES // 2
    small = Counter(file.month for file in change.new if file.size < limit)
    if files.num_rows and small:
        mine = (pc.field("partition.universe") == universe) & (pc.field("size_bytes") < limit)
        mine &= pc.field("partition.month").isin(list(small))
        there = files.filter(mine).select(["path", "partition.month"]).to_pylist()
        small.update(row["partition.month"] for row in there if row["path"] not in gone)
    return {month for month, count in small.items() if count >= MERGED_FILES}
