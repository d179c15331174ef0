"""The log of a table: one file a commit, what it says, and what a power cut may leave of it.

A log is a sequence of numbered files; each holds the actions of one commit, one JSON object a line. A *checkpoint* sums
up the commits before it and the *hint* names the newest checkpoint; both are derived, and may go where all commits are
there. What the actions mean for rows belongs to ``qdag.store.tables``.
"""

import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from qdag import __version__
from qdag.errors import StoreError
from qdag.store.files import create, drop_parts, make_folder, replacing, sync
from qdag.store.tables.write import DataFile

LOG, HINT = "_delta_log", "_last_checkpoint"
_COMMIT, _CHECKPOINT = re.compile(r"(\d{20})\.json"), re.compile(r"(\d{20})\.checkpoint.*\.parquet")
Action = dict[str, Any]


@dataclass(frozen=True)
class Newest:
    """The newest commit by its file: a restored or newly made table may have another one of the same number."""

    version: int
    inode: int
    changed: int


@dataclass(frozen=True)
class StoredFile:
    """A data file as the log names it."""

    path: str
    size: int
    universe: str
    month: str


def commit_name(version: int) -> str:
    """Name of a commit's file."""
    return f"{version:020d}.json"


def checkpoint_name(version: int) -> str:
    """Name of a checkpoint's file."""
    return f"{version:020d}.checkpoint.parquet"


def commit_versions(names: Sequence[str]) -> list[int]:
    """Versions whose commits are among the names of files, ascending."""
    return sorted(int(found[1]) for name in names if (found := _COMMIT.fullmatch(name)))


def checkpoint_versions(names: Sequence[str]) -> list[int]:
    """Versions that have a checkpoint among the names of files, ascending."""
    return sorted({int(found[1]) for name in names if (found := _CHECKPOINT.fullmatch(name))})


# -- commits ----------------------------------------------------------------------------------------------------------


def parse(content: bytes) -> list[Action]:
    """The actions of a commit. ValueError: the file is empty, or does not hold all of them."""
    actions = [json.loads(line) for line in content.split(b"\n") if line.strip()]
    if not actions:
        raise ValueError("is empty")
    if not all(isinstance(action, dict) for action in actions):
        raise ValueError("holds what is no action")
    count = info_of(actions).get("actions")
    if count is not None and count != len(actions) - 1:
        raise ValueError(f"holds {len(actions) - 1} of {count} actions")
    return actions


def info_of(actions: Sequence[Action]) -> dict[str, Any]:
    """What a commit says of itself, empty where it says nothing."""
    return next((action["commitInfo"] for action in actions if "commitInfo" in action), {})


def added(file: DataFile, data_change: bool) -> Action:
    """The action that puts a file into a table."""
    stats = {
        "numRecords": file.rows,
        "minValues": file.low,
        "maxValues": file.high,
        "nullCount": dict.fromkeys(file.low, 0),
    }
    return {
        "add": {
            "path": file.path,
            "partitionValues": {"universe": file.universe, "month": file.month},
            "size": file.size,
            "modificationTime": _now(),
            "dataChange": data_change,
            "stats": json.dumps(stats, default=str),
        }
    }


def removed(file: StoredFile, data_change: bool) -> Action:
    """The action that takes a file out of a table."""
    return {
        "remove": {
            "path": file.path,
            "deletionTimestamp": _now(),
            "dataChange": data_change,
            "extendedFileMetadata": True,
            "partitionValues": {"universe": file.universe, "month": file.month},
            "size": file.size,
        }
    }


def publish(folder: Path, version: int, operation: str, info: Mapping[str, Any], actions: Sequence[Action]) -> bool:
    """Make a commit in a log below a folder, on disk when it can be seen; False where the version is there already.

    Parameters
    ----------
    operation : Delta's word for it
    info : what the commit says of itself besides
    actions : files that it puts in and takes out
    """
    whole = {
        "timestamp": _now(),
        "operation": operation,
        "operationParameters": {},
        "readVersion": version - 1,
        "isBlindAppend": False,
        "engineInfo": f"qdag/{__version__}",
        "actions": len(actions),
        **info,
    }
    lines = [json.dumps(action) for action in ({"commitInfo": whole}, *actions)]
    return create(folder / LOG / commit_name(version), "\n".join(lines).encode())


@contextmanager
def rehearsal(folder: Path, version: int | None = None) -> Iterator[Path]:
    """A table that has the log of another one, but for what is committed to it now, and no data files.

    ``version``: one that is enough to have, with the commits after it.
    """
    begin = -1 if version is None else max((c for c in checkpoints(folder) if c <= version), default=-1)
    with tempfile.TemporaryDirectory(prefix="qdag-log-") as scratch:
        log = Path(scratch) / LOG
        log.mkdir()
        for name in _names(folder):
            found = _COMMIT.fullmatch(name) or _CHECKPOINT.fullmatch(name)
            if found and int(found[1]) >= begin:
                (log / name).symlink_to(folder / LOG / name)
        yield Path(scratch)


def adopt(folder: Path, rehearsed: Path, version: int) -> bool:
    """Publish a commit that was made in a :func:`rehearsal`; False where the version is there already."""
    content = (rehearsed / LOG / commit_name(version)).read_bytes()
    make_folder(folder / LOG)
    return create(folder / LOG / commit_name(version), content.replace(_location(rehearsed), _location(folder)))


def checkpoint(folder: Path, version: int) -> None:
    """Sum up the commits up to a version, so that readers need not read them all."""
    from deltalake import DeltaTable

    with rehearsal(folder, version) as scratch:
        before = set(_names(scratch))
        DeltaTable(scratch, version=version).create_checkpoint()
        # the hint last, which names the others
        for name in sorted(set(_names(scratch)) - before, key=lambda name: name == HINT):
            with replacing(folder / LOG / name) as part:
                shutil.copyfile(scratch / LOG / name, part)


def _location(folder: Path) -> bytes:
    return json.dumps(f"{folder.as_uri()}/").encode()


def _now() -> int:
    return time.time_ns() // 10**6


# -- reading ----------------------------------------------------------------------------------------------------------


def newest(folder: Path, known: Newest | None = None) -> Newest | None:
    """The newest commit of a log; None where there is none. ``known``: one from which to look further."""
    log = f"{folder}/{LOG}"
    version = -1
    if known is not None:
        with suppress(OSError):
            status = os.stat(f"{log}/{commit_name(known.version)}")
            if (status.st_ino, status.st_mtime_ns) == (known.inode, known.changed):
                version = known.version
    try:
        if version < 0:
            version = max(commit_versions(os.listdir(log)), default=-1)
        while os.path.exists(f"{log}/{commit_name(version + 1)}"):
            version += 1
        if version < 0:
            return None
        status = os.stat(f"{log}/{commit_name(version)}")
        return Newest(version, status.st_ino, status.st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return None


def replay(
    read: Callable[[int], list[Action]], versions: Iterable[int], begin: int, files: Callable[[int], Iterable[str]]
) -> Iterator[tuple[int, set[str]]]:
    """Each of some versions, ascending, with the data files that it needs; the set is another version's afterwards.

    ``read`` gives a commit's actions, ``files`` what a version holds; ``begin``, 0 or a version with a checkpoint, is
    where to start. Versions after a commit that is torn or gone, up to the next one that ``files`` knows, are left out.
    """
    wanted = sorted(set(versions))
    current: set[str] | None = set() if begin == 0 else None
    for version in range(begin, wanted[-1] + 1) if wanted else ():
        try:
            current = set(files(version)) if current is None else _applied(current, read(version))
        except (FileNotFoundError, ValueError, StoreError):
            current = None
        if version in wanted and current is not None:
            yield version, current


def mentioned(actions: Iterable[Action]) -> set[str]:
    """Data files that a commit puts in or takes out."""
    changes = (action.get("add") or action.get("remove") for action in actions)
    return {unquote(change["path"]) for change in changes if change}


def _applied(files: set[str], actions: Iterable[Action]) -> set[str]:
    for action in actions:
        if change := action.get("add"):
            files.add(unquote(change["path"]))
        elif change := action.get("remove"):
            files.discard(unquote(change["path"]))
    return files


# -- what a power cut leaves ------------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[int]:
    """Versions of which a log has a checkpoint, ascending."""
    return checkpoint_versions(_names(folder))


def versions(folder: Path) -> list[int]:
    """Versions of a log whose commits are there, ascending."""
    return commit_versions(_names(folder))


def first_empty(folder: Path, version: int) -> int | None:
    """The first commit up to ``version`` that is an empty file, where no checkpoint stands for it.

    Delta takes such a file for a commit that changes nothing. All other damage of a log is an error to it.
    """
    found = None
    for at in range(version, -1, -1):
        if os.path.isfile(f"{folder}/{LOG}/{checkpoint_name(at)}"):
            break
        with suppress(FileNotFoundError):
            if os.stat(f"{folder}/{LOG}/{commit_name(at)}").st_size == 0:
                found = at
    return found


def torn(folder: Path) -> dict[int, str]:
    """What is wrong with commits, by version: torn or empty files, and versions that have none."""
    found = {}
    for version in range(max(versions(folder), default=-1) + 1):
        try:
            parse((folder / LOG / commit_name(version)).read_bytes())
        except FileNotFoundError:
            found[version] = "is missing"
        except ValueError as error:
            found[version] = "is empty" if str(error) == "is empty" else f"is torn: {error}"
    return found


def lost_from(folder: Path) -> int | None:
    """The first commit that cannot be read and that no whole checkpoint stands for; None where there is none.

    The commits from there on are lost: what they did depends on it.
    """
    whole = max((c for c in checkpoints(folder) if _whole(folder, c)), default=-1)
    return min((version for version in torn(folder) if version > whole), default=None)


def drop_torn_checkpoints(folder: Path) -> bool:
    """Delete checkpoints that are not whole, and a hint that names none; whether there were any."""
    there, log = set(versions(folder)), folder / LOG
    left, dropped = -1, False
    for version in checkpoints(folder):
        if _whole(folder, version):
            left = version
        elif there >= set(range(left + 1, version + 1)):
            for file in _parts(folder, version):
                file.unlink(missing_ok=True)
            dropped = True
    with suppress(FileNotFoundError):
        try:
            named = json.loads((log / HINT).read_bytes())["version"]
        except (ValueError, TypeError, KeyError):
            named = None
        if named not in checkpoints(folder):
            (log / HINT).unlink()
            dropped = True
    if dropped:
        sync(log)
    return dropped


def drop_from(folder: Path, version: int, aside: Path) -> None:
    """Take the commits from a version on out of a log, and what was derived from them; the files are kept ``aside``."""
    make_folder(aside)
    for later in (c for c in checkpoints(folder) if c >= version):
        for file in _parts(folder, later):
            file.unlink()
    (folder / LOG / HINT).unlink(missing_ok=True)
    # the newest first: wherever this stops, what is left begins with the same commits
    for late in reversed([v for v in versions(folder) if v >= version]):
        (folder / LOG / commit_name(late)).replace(aside / f"{commit_name(late)}.{uuid.uuid4().hex[:12]}")
    sync(aside)
    sync(folder / LOG)


def drop_unfinished(folder: Path, seconds: float) -> None:
    """Delete what commits that died have left beside the log's files, where it is older than ``seconds``."""
    drop_parts(folder / LOG, seconds)


def _whole(folder: Path, version: int) -> bool:
    """Whether every page of a checkpoint can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return all(pq.read_table(file) is not None for file in _parts(folder, version))
    except (OSError, pa.ArrowException):
        return False


def _parts(folder: Path, version: int) -> list[Path]:
    return sorted((folder / LOG).glob(f"{version:020d}.checkpoint*.parquet"))


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder / LOG) as found:
            return [entry.name for entry in found if entry.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
