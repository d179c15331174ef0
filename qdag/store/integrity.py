"""Whether the stored files still hold what was written: the log, size, checksum, a read of every value, each key once.

Finding damage belongs here; writing the lost sessions again is the business of ``qdag.operations``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

import qdag.store.tables.log as log
from qdag.errors import StoreError
from qdag.store.arrow import compact_columns, twins
from qdag.store.tables import TableStore
from qdag.store.tables.checksums import CHECKSUMS, digest, read_checksums
from qdag.store.tables.write import PARTITIONS

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

READ_ROWS = 1 << 16


@dataclass(frozen=True)
class Damage:
    """One file that is not what was written.

    Attributes
    ----------
    kind : "data", "log" or "checksums"
    version : of data the newest of the checked versions that needs the file; of a log the commit
    newest : whether the table's newest version needs the data: only then can its sessions be computed again
    lost : of a log, whether the commits from ``version`` on are lost to readers: they can be taken out
    first, last : first and last day of the file's rows, from the log
    """

    table: str
    file: str
    problem: str
    version: int | None = None
    newest: bool = False
    universe: str | None = None
    month: str | None = None
    first: date | None = None
    last: date | None = None
    rows: int = 0
    kind: Literal["data", "log", "checksums"] = "data"
    lost: bool = False


@dataclass
class Verified:
    """What a verification saw.

    ``with_checksum`` files were compared with the SHA-256 of their writing: any changed bit shows. The others
    (``recorded``: their checksum is known from now on) were only read: see :func:`verify`.
    """

    table: str
    version: int | None
    files: int = 0
    size: int = 0
    rows: int = 0
    with_checksum: int = 0
    recorded: int = 0
    damage: list[Damage] = field(default_factory=list)


def verify(store: TableStore, name: str, versions: Iterable[int] = ()) -> Verified:
    """Check the log, every file of the newest version, and of the given older ones that the table has.

    Every commit must be whole. A file must be there, have the size that the log names, have the SHA-256 that was
    recorded when it was written, and be readable to its last page with as many rows, and between the days, that the log
    names. Without a recorded SHA-256 (files that other hands wrote) the checksums of the pages are compared; where
    there are none, a changed bit inside a value is not noticed. A file without a SHA-256 that reads well gets one. No
    two rows of the newest version have the same key.
    """
    damage = [] if store.remote else list(_log_damage(store, name))
    if any(one.lost for one in damage):
        return Verified(name, None, damage=damage)
    try:
        newest = store.version(name)
        if newest is None:
            raise StoreError(f"table {name!r} is not stored; materialize it or restore it from a backup")
        wanted = {newest, *versions} & {commit["version"] for commit in store.history(name)}
        needed = {v: store.files(name, v).to_pylist() for v in sorted(wanted)}
        present = store.stored_files(name)
        known = store.checksums(name)
        keys = [key for key in store.keys(name) if key not in PARTITIONS]
    except (StoreError, OSError, ValueError) as error:
        return Verified(name, None, damage=[*damage, Damage(name, log.LOG, f"cannot be read: {error}", kind="log")])
    result = Verified(name, newest, damage=damage)
    files = {file["path"]: (version, file) for version, found in needed.items() for file in found}
    filesystem = store.filesystem(name)
    new: dict[str, str] = {}
    held: list[tuple[dict[str, Any], pa.Table]] = []

    def note(file: dict[str, Any], version: int, problem: str) -> None:
        of = {key: file[key] for key in ("universe", "month", "first", "last", "rows")}
        result.damage.append(Damage(name, file["path"], problem, version, version == newest, **of))

    def compare() -> None:
        for file, problem in _doubled(held):
            note(file, newest, problem)
        held.clear()

    for path, (version, file) in sorted(files.items(), key=lambda item: (_partition(item[1][1]), item[0])):
        if held and _partition(held[0][0]) != _partition(file):
            compare()
        result.files += 1
        problem, size, seen, rows = _check(filesystem, file, present, known.get(path), keys)
        result.size += size
        result.with_checksum += path in known
        if problem is not None:
            note(file, version, problem)
            continue
        if version == newest:
            result.rows += file["rows"]
            held.append((file, rows))
        if path not in known and seen is not None:
            new[path] = seen
    compare()
    store.record(name, newest, new)
    result.recorded = len(new)
    return result


def _log_damage(store: TableStore, name: str) -> Iterator[Damage]:
    """Commits that are not whole, and torn files of checksums. Torn checkpoints are deleted: they are derived."""
    folder = Path(store.uri(name))
    if not folder.is_dir():
        return
    log.drop_torn_checkpoints(folder)
    problems, lost = log.torn(folder), log.lost_from(folder)
    newest, checkpoints = max(problems.keys() | log.versions(folder), default=-1), log.checkpoints(folder)
    for version, problem in problems.items():
        file = f"{log.LOG}/{log.commit_name(version)}"
        if version == lost:
            more = f", and what {newest - version} later ones did depends on it" if version < newest else ""
            yield Damage(name, file, f"{problem}{more}", version, kind="log", lost=True)
        elif lost is None or version < lost:
            last = min(c for c in checkpoints if c >= version) - 1
            yield Damage(name, file, f"{problem}: versions {version} to {last} cannot be read", version, kind="log")
    for path in sorted((folder / CHECKSUMS).glob("*.json")):
        if read_checksums(path) is None:
            problem = "is torn: its files are judged without what was known of them"
            yield Damage(name, f"{CHECKSUMS}/{path.name}", problem, kind="checksums")


def _partition(file: dict[str, Any]) -> tuple[str, str]:
    return file["universe"], file["month"]


def _doubled(held: list[tuple[dict[str, Any], pa.Table]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Files of one partition with rows whose key another row has."""
    same, at = twins([rows for _, rows in held]), 0
    for file, rows in held:
        mask = same[at : at + rows.num_rows]
        at += rows.num_rows
        if mask.any():
            row = rows.slice(int(mask.argmax()), 1).to_pylist()[0]
            shown = ", ".join(f"{key}={value}" for key, value in row.items())
            yield file, f"{int(mask.sum()):,} rows have a key that another row has, first {shown}"


def _check(
    filesystem: "FileSystem",
    file: dict[str, Any],
    present: dict[str, int],
    recorded: str | None,
    keys: list[str],
) -> tuple[str | None, int, str | None, pa.Table | None]:
    """What is wrong with a file, or None; its size; its SHA-256 where it could be read; the keys of its rows."""
    path = file["path"]
    if path not in present:
        return "missing", 0, None, None
    size = present[path]
    if size != file["size"]:
        return f"{size:,} bytes instead of {file['size']:,}", size, None, None
    try:
        with filesystem.open_input_stream(path) as stream:
            seen = digest(stream)
        if recorded is not None and seen != recorded:
            return f"SHA-256 {seen[:12]}... instead of {recorded[:12]}...: bytes have changed", size, seen, None
        problem, rows = _read(filesystem, file, keys)
        return problem, size, seen, rows
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        return f"cannot be read: {' '.join(str(error).split())[:200]}", size, None, None


def _read(filesystem: "FileSystem", file: dict[str, Any], keys: list[str]) -> tuple[str | None, pa.Table]:
    """Decode all pages; compare rows and days with the log; the keys of the rows."""
    import pyarrow.parquet as pq

    parts = []
    with (
        filesystem.open_input_file(file["path"]) as source,
        pq.ParquetFile(source, page_checksum_verification=True) as parquet,
    ):
        for batch in parquet.iter_batches(READ_ROWS):
            batch.validate(full=True)
            parts.append(compact_columns(batch, keys))
    rows = pa.concat_tables(parts) if parts else pa.table({key: [] for key in keys})
    if rows.num_rows != file["rows"]:
        return f"{rows.num_rows:,} rows instead of {file['rows']:,}", rows
    days = pc.min_max(rows["date"]).as_py() if parts else {"min": None, "max": None}
    if (days["min"], days["max"]) != (file["first"], file["last"]):
        return f"days {days['min']} to {days['max']} instead of {file['first']} to {file['last']}", rows
    return None, rows
