"""Whether the stored files still hold what was written: size, checksum, and a read of every value.

Finding damage belongs here; writing the lost sessions again is the business of ``qdag.stages``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import StoreError
from qdag.store.tables import TableStore, digest

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

READ_ROWS = 1 << 16


@dataclass(frozen=True)
class Damage:
    """One file that is not what was written.

    ``first`` and ``last`` are the first and last day of its rows, from the log. ``version`` is the newest of the
    checked versions that needs it; ``newest`` says whether that is the table's newest one: only then can its sessions
    be computed again. Damage of the log itself has neither universe nor days.
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
    """Check every file of the newest version, and of the given older ones that the table has.

    A file must be there, have the size that the log names, have the SHA-256 that was recorded when it was written, and
    be readable to its last page with as many rows, and between the days, that the log names. Without a
    recorded SHA-256 (below an object store URL) the checksums of the pages are compared; files that Delta's compaction
    wrote have none, so there a changed bit inside a value is not noticed. A file without a SHA-256 that reads well gets
    one.
    """
    try:
        newest = store.version(name)
        if newest is None:
            raise StoreError(f"table {name!r} is not stored; materialize it or restore it from a backup")
        wanted = {newest, *versions} & {commit["version"] for commit in store.history(name)}
        needed = {v: store.files(name, v).to_pylist() for v in sorted(wanted)}
        present = store.stored_files(name)
        known = store.checksums(name)
    except (StoreError, OSError, ValueError) as error:
        return Verified(name, None, damage=[Damage(name, "_delta_log", f"the log cannot be read: {error}")])
    result = Verified(name, newest)
    files = {file["path"]: (version, file) for version, found in needed.items() for file in found}
    filesystem = store.filesystem(name)
    new: dict[str, str] = {}
    for path, (version, file) in sorted(files.items()):
        result.files += 1
        problem, size, seen = _check(filesystem, file, present, known.get(path))
        result.size += size
        result.with_checksum += path in known
        if problem is None:
            result.rows += file["rows"]
            if path not in known and seen is not None:
                new[path] = seen
            continue
        result.damage.append(
            Damage(
                name,
                path,
                problem,
                version,
                version == newest,
                file["universe"],
                file["month"],
                file["first"],
                file["last"],
                file["rows"],
            )
        )
    store.record(name, newest, new)
    result.recorded = len(new)
    return result


def _check(
    filesystem: "FileSystem", file: dict[str, Any], present: dict[str, int], recorded: str | None
) -> tuple[str | None, int, str | None]:
    """What is wrong with a file, or None; its size; its SHA-256 where it could be read."""
    path = file["path"]
    if path not in present:
        return "missing", 0, None
    size = present[path]
    if size != file["size"]:
        return f"{size:,} bytes instead of {file['size']:,}", size, None
    try:
        with filesystem.open_input_stream(path) as stream:
            seen = digest(stream)
        if recorded is not None and seen != recorded:
            return f"SHA-256 {seen[:12]}... instead of {recorded[:12]}...: bytes have changed", size, seen
        return _read(filesystem, file), size, seen
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        return f"cannot be read: {' '.join(str(error).split())[:200]}", size, None


def _read(filesystem: "FileSystem", file: dict[str, Any]) -> str | None:
    """Decode all pages; compare rows and days with the log."""
    import pyarrow.parquet as pq

    rows = 0
    first, last = None, None
    with (
        filesystem.open_input_file(file["path"]) as source,
        pq.ParquetFile(source, page_checksum_verification=True) as parquet,
    ):
        for batch in parquet.iter_batches(READ_ROWS):
            batch.validate(full=True)
            rows += batch.num_rows
            if batch.num_rows:
                days = pc.min_max(batch["date"]).as_py()
                first = days["min"] if first is None else min(first, days["min"])
                last = days["max"] if last is None else max(last, days["max"])
    if rows != file["rows"]:
        return f"{rows:,} rows instead of {file['rows']:,}"
    if (first, last) != (file["first"], file["last"]):
        return f"days {first} to {last} instead of {file['first']} to {file['last']}"
    return None
