"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, put in its place at the end; left without a trace after an exception.

    Several processes may write the same file: each writes to a path of its own, and the last one's file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file at once; folders are made."""
    with replacing(path) as part:
        part.write_text(text, "utf-8")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; others wait. The lock's file is made, and stays."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
