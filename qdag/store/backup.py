"""Backups of all tables, and of folders beside them, to another folder or object store, and back.

A manifest says which files make up which version of which table, and which folder of the home; it is written last, so
that a backup without one never happened. The next backup copies only what is new. How a target keeps files belongs to
:mod:`qdag.store.backup_target`; scheduling and choosing versions do not belong here.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qdag import __version__
from qdag.errors import MissingDataError, StoreError, unknown
from qdag.store.backup_target import BackupTarget
from qdag.store.files import replacing
from qdag.store.integrity import Damage
from qdag.store.tables import TableStore
from qdag.store.tables.checksums import digest, write_checksums
from qdag.store.tables.location import plain_name
from qdag.store.tables.log import LOG

LOOKS = 1000
"""Most looks for a moment at which nobody writes; below a folder one takes less than a millisecond a table."""
Report = Callable[[str, int, int], None]


def _silent(what: str, done: int, total: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Backup:
    """What a manifest says, and what making it cost.

    Attributes
    ----------
    versions : newest version by table at one moment
    readable : all versions by table whose files are included
    folders : number of files of each folder beside the tables
    files, size : files that make up the backup and their bytes
    copied, copied_size : those that were not in the target already
    """

    id: str
    created: datetime
    versions: dict[str, int]
    readable: dict[str, tuple[int, ...]]
    folders: dict[str, int]
    files: int
    size: int
    copied: int = 0
    copied_size: int = 0


def backup(
    store: TableStore,
    target: str | Path,
    versions: Mapping[str, Iterable[int]] | None = None,
    report: Report = _silent,
    folders: Mapping[str, Mapping[str, Path]] | None = None,
) -> Backup:
    """Copy the newest version of every table, as they were at one moment, with the logs up to it; and some folders.

    Writers may go on meanwhile, on other machines too.

    Parameters
    ----------
    target : folder or URL (``s3://bucket/prefix``; credentials as Arrow finds them, for S3 the usual AWS variables)
    versions : older versions by table that must be readable after a restore as well
    folders : of the home, by name, with their files: path below the folder, and the file that has its content

    Raises
    ------
    StoreError
        A version was vacuumed, or a file is not what was written.
    MissingDataError
        No table is stored.
    """
    to = BackupTarget(target)
    if to.folder and not store.remote and to.folder.resolve().is_relative_to(Path(store.root).resolve()):
        raise StoreError(f"backup target {to.root} lies inside the tables' own folder; choose another")
    moment = _moment(store)
    created = datetime.now(UTC)
    there = to.objects()
    tables: dict[str, Any] = {}
    copied, copied_size = 0, 0
    steps = len(moment) + len(folders or {})
    for done, (name, newest) in enumerate(moment.items()):
        report("backup", done, steps)
        included = sorted({newest} | {v for v in (versions or {}).get(name, ()) if v <= newest})
        files = _table_files(store, name, newest, included)
        for file in files:
            if there.get(file["sha256"]) != file["size"]:
                with store.filesystem(name).open_input_stream(file["path"]) as source:
                    to.put(source, file["sha256"], f"{name}/{file['path']}")
                there[file["sha256"]] = file["size"]
                copied, copied_size = copied + 1, copied_size + file["size"]
        tables[name] = {"version": newest, "readable": included, "files": files}
    beside: dict[str, list[dict[str, Any]]] = {}
    for done, (name, content) in enumerate((folders or {}).items(), len(moment)):
        report("backup", done, steps)
        beside[name] = []
        for path, source in content.items():
            size, sha256, new = _put_file(to, there, source, f"{name}/{path}")
            beside[name].append({"path": path, "size": size, "sha256": sha256})
            copied, copied_size = copied + new, copied_size + size * new
    report("backup", steps, steps)
    manifest = {
        "id": f"{created:%Y%m%dT%H%M%S.%fZ}",
        "created": created.isoformat(),
        "qdag_version": __version__,
        "tables": tables,
        "folders": beside,
    }
    to.publish(manifest)
    return _summary(manifest, copied, copied_size)


def backups(source: str | Path) -> list[Backup]:
    """Backups in a target, newest first."""
    target = BackupTarget(source)
    return [_summary(target.manifest(backup_id)) for backup_id in target.ids()]


def restore_backup(
    store: TableStore,
    source: str | Path,
    backup_id: str | None = None,
    tables: Iterable[str] | None = None,
    force: bool = False,
    report: Report = _silent,
    home: Path | None = None,
) -> Backup:
    """Bring tables back exactly as a backup holds them: same rows, same version numbers, same history.

    Parameters
    ----------
    backup_id : which backup; None is the newest
    tables : only these; None is all of the backup's
    force : replace tables and folders that are there already. Without it, one of them refuses everything.
    home : where the backup's folders come back to, where no tables are named; None leaves them out

    Every file's checksum is compared while it is copied; a table appears (or is replaced) only when it is whole.
    Nothing may write to the tables meanwhile. What is derived from the tables (Qlib directories) is not touched.
    """
    target = BackupTarget(source)
    ids = target.ids()
    if not ids:
        raise MissingDataError(f"{source} holds no backup; give the folder or URL that `qdag data backup` was given")
    if backup_id is not None and backup_id not in ids:
        raise unknown("backup", backup_id, ids)
    manifest = target.manifest(backup_id or ids[0])
    wanted = list(manifest["tables"] if tables is None else tables)
    for name in wanted:
        if name not in manifest["tables"]:
            raise unknown(f"table of backup {manifest['id']}", name, manifest["tables"])
        folder = store.folder(name)
        if _settled(folder) and not force:
            raise StoreError(
                f"table {name!r} is stored already at {folder}; restore into an empty data home, or replace it by the "
                f"backup's version {manifest['tables'][name]['version']} with --force"
            )
    told = manifest.get("folders", {}) if home is not None and tables is None else {}
    beside = {plain_name("folder", name): files for name, files in told.items() if files}
    for name in beside:
        if home is not None and _settled(home / name) and not force:
            raise StoreError(
                f"{str(home / name)!r} is there already; restore into an empty data home, or replace it by that of the "
                f"backup with --force"
            )
    steps = len(wanted) + len(beside)
    for done, name in enumerate(wanted):
        report("restore", done, steps)
        _restore_table(store, name, target, manifest["tables"][name])
    for done, (name, files) in enumerate(beside.items(), len(wanted)):
        report("restore", done, steps)
        if home is not None:
            with _arriving(home / name) as part:
                _take_files(target, part, name, files)
    report("restore", steps, steps)
    restored = {name: manifest["tables"][name] for name in wanted}
    return _summary({**manifest, "tables": restored, "folders": beside})


def heal(store: TableStore, source: str | Path, damage: Iterable[Damage]) -> list[Damage]:
    """Bring damaged data files back from a backup target, where it has the very bytes that were written.

    Returns what was healed. Any version that needs such a file is whole again; no commit is made. The damaged file is
    replaced. Files whose checksum was not recorded, and logs, are left.
    """
    target = BackupTarget(source)
    there = target.objects()
    healed = []
    for one in damage:
        sha256 = store.checksums(one.table).get(one.file, "")
        if sha256 not in there:
            continue
        path = store.inside(one.table, one.file)
        with replacing(path) as part, part.open("wb") as sink:
            target.take(sha256, sink, f"{one.table}/{one.file}")
        healed.append(one)
    return healed


def _moment(store: TableStore) -> dict[str, int]:
    """The version that every table had at one moment, however busy the writers are and whatever their clocks say.

    Versions only grow: where a second look finds what the first one found, all tables had these between the two.
    """
    found: dict[str, int] = {}
    for _ in range(LOOKS):
        before, found = found, {name: version for name in store.names() if (version := store.version(name)) is not None}
        if not found:
            raise MissingDataError(f"no table is stored at {store.root}; materialize something first")
        if found == before:
            return found
    raise StoreError(
        f"the tables were written to between any two of {LOOKS} looks at them: there was no moment to back up; "
        f"back up when fewer writers are at work"
    )


def _table_files(store: TableStore, name: str, newest: int, versions: list[int]) -> list[dict[str, Any]]:
    """Path, size and SHA-256 of the log up to a version and of the data files of some versions."""
    from pyarrow.fs import FileSelector, FileType

    filesystem = store.filesystem(name)
    files = []
    for info in filesystem.get_file_info(FileSelector(LOG, recursive=True)):
        found = re.match(r"(\d{20})\.", info.base_name)
        # the pointer to the last checkpoint is left out: it may be newer, and readers do without it
        if info.type == FileType.File and found and int(found[1]) <= newest:
            with filesystem.open_input_stream(info.path) as source:
                files.append({"path": info.path, "size": info.size, "sha256": digest(source)})
    known = store.checksums(name)
    present = store.stored_files(name)
    seen: set[str] = set()
    for version in versions:
        for file in store.files(name, version).select(["path", "size"]).to_pylist():
            path = file["path"]
            if path in seen:
                continue
            seen.add(path)
            if present.get(path) != file["size"]:
                raise StoreError(
                    f"file {path!r} of version {version} of table {name!r} is missing or damaged; "
                    f"run `qdag data verify {name} --repair` (or leave a vacuumed version out) and back up again"
                )
            if path not in known:
                with filesystem.open_input_stream(path) as source:
                    known[path] = digest(source)
            files.append({**file, "sha256": known[path]})
    return sorted(files, key=lambda file: str(file["path"]))


def _put_file(to: BackupTarget, there: dict[str, int], file: Path, what: str) -> tuple[int, str, bool]:
    """Copy a file that others may be writing to, as it is at some moment, where the target lacks it; its size and
    SHA-256, and whether it was copied."""
    with file.open("rb") as source:
        size, sha256 = os.fstat(source.fileno()).st_size, digest(source)
    if there.get(sha256) == size:
        return size, sha256, False
    with tempfile.TemporaryFile() as copy:
        with file.open("rb") as source:
            shutil.copyfileobj(source, copy)
        size = copy.tell()
        copy.seek(0)
        sha256 = digest(copy)
        copy.seek(0)
        to.put(copy, sha256, what)
    there[sha256] = size
    return size, sha256, True


def _settled(folder: Path) -> bool:
    """End what a restore that died left beside a folder: it is the new one where that was in place already, else the
    old one. Whether there is anything in it."""
    for old in folder.parent.glob(f"_replaced-{folder.name}-*"):
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
    for part in folder.parent.glob(f"_restoring-{folder.name}-*"):
        shutil.rmtree(part)
    return folder.exists() and any(folder.iterdir())


@contextmanager
def _arriving(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of another at the end; without a trace after an exception."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f"_restoring-{folder.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        if folder.exists():
            old = folder.with_name(f"_replaced-{folder.name}-{os.getpid()}")
            folder.rename(old)
            part.rename(folder)
            shutil.rmtree(old)
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _take_files(target: BackupTarget, part: Path, name: str, files: Iterable[Mapping[str, Any]]) -> None:
    for file in files:
        path = part / file["path"]
        if not path.resolve().is_relative_to(part.resolve()):
            raise StoreError(f"backup of {name!r} names a file outside the table or folder: {file['path']!r}; refused")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as sink:
            target.take(file["sha256"], sink, f"{name}/{file['path']}")


def _restore_table(store: TableStore, name: str, target: BackupTarget, table: dict[str, Any]) -> None:
    with _arriving(store.folder(name)) as part:
        _take_files(target, part, name, table["files"])
        checksums = {f["path"]: f["sha256"] for f in table["files"] if not f["path"].startswith("_")}
        write_checksums(part, table["version"], checksums)
    if (version := store.version(name)) != table["version"]:
        raise StoreError(f"table {name!r} came back at version {version} instead of {table['version']}; restore again")


def _summary(manifest: Mapping[str, Any], copied: int = 0, copied_size: int = 0) -> Backup:
    tables, folders = manifest["tables"], manifest.get("folders", {})
    sizes = [file["size"] for table in tables.values() for file in table["files"]]
    sizes += [file["size"] for files in folders.values() for file in files]
    return Backup(
        id=manifest["id"],
        created=datetime.fromisoformat(manifest["created"]),
        versions={name: table["version"] for name, table in tables.items()},
        readable={name: tuple(table["readable"]) for name, table in tables.items()},
        folders={name: len(files) for name, files in folders.items()},
        files=len(sizes),
        size=sum(sizes),
        copied=copied,
        copied_size=copied_size,
    )
