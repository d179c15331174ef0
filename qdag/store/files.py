"""Files that appear whole or not at all and are on disk when they do: a power cut takes nothing back. And locks.

What is in the files belongs to who writes them.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, put in its place at the end; left without a trace after an exception.

    Folders are made; bytes and names are on disk when the block ends. Several processes may write the same file: each
    writes to a path of its own, and the last one's file stays.
    """
    make_folder(path.parent)
    part = _beside(path)
    try:
        yield part
        sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file at once; folders are made."""
    with replacing(path) as part:
        part.write_text(text, "utf-8")


def create(path: Path, content: bytes) -> bool:
    """Make a file that was not there, in a folder that is; whether it was made: False where there is one already.

    Of several processes that make the same file one does. The file system must know hard links.
    """
    part = _beside(path)
    try:
        part.write_bytes(content)
        sync(part)
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)
    return True


def make_folder(path: Path) -> None:
    """Make a folder and those above it, their names on disk; one that is there stays as it is."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
    sync(path.parent)


def sync(path: Path | str) -> None:
    """Have a file's bytes, or the names in a folder, on disk. OSError: there is none, or the disk fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")


def drop_parts(folder: Path, seconds: float = 0) -> None:
    """Delete what processes that died left beside a folder's files, where nobody wrote to it for so many seconds."""
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime >= seconds:
                part.unlink()


@contextmanager
def locked(path: Path, shared: bool = False) -> Iterator[IO[str]]:
    """Let one process at a time into the block, others wait; ``shared`` ones go in together, beside no other.

    The lock is on a file, which is given open and stays; it and its folder are made where they are not. A ``shared``
    lock makes nothing and may be of a file that can only be read: FileNotFoundError where there is none. The system
    releases the lock of a process that dies.
    """
    import fcntl

    if not shared:
        path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r" if shared else "a+") as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield file
