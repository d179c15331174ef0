"""Files that appear whole or not at all, and that are on disk when they do: a power cut takes nothing back."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, put in its place at the end; left without a trace after an exception.

    Several processes may write the same file: each writes to a path of its own, and the last one's file stays.
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
    """Make a folder and those above it."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
    sync(path.parent)


def sync(path: Path | str) -> None:
    """Have a file's bytes, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; others wait. The lock's file is made, and stays."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
