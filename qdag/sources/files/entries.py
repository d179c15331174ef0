"""What lies in a folder of deliveries: which files are read, which are not and why, and their bytes.

Nothing is followed that leads elsewhere: whoever may write into the folder must not choose what else is read. What a
file holds is of no concern here.
"""

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qdag.sources.reasons import Reason

SUFFIXES = (".csv", ".parquet")
"""Of the files that are read, in any case of letters."""
FRESH_NS = 2 * 10**9
"""A file that changed so shortly before it was read may change again at the same time: it is known by its digest."""


@dataclass(frozen=True)
class Entry:
    """A file of the source, or what is refused in place of one.

    ``name`` is its path in the folder as text that can be printed, a folder's with a slash at its end. ``reason`` is
    None for what can be read, else says why it is refused, which ``told`` explains.
    """

    name: str
    path: Path
    reason: Reason | None = None
    told: str = ""

    def stamp(self) -> tuple[int, int]:
        """Size and time of the last change in ns; zeros for what is not read. FileNotFoundError where it is gone."""
        if self.reason:
            return 0, 0
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            raise
        except OSError:
            return 0, 0
        return status.st_size, status.st_mtime_ns

    def marked(self, suffix: str) -> bool:
        """Whether a file of the same name and this suffix lies beside it."""
        return os.path.lexists(f"{self.path}{suffix}")

    def sha256(self) -> str:
        """Of the bytes; of the reason for what is not read, and of nothing where it cannot be opened."""
        if self.reason:
            return hashlib.sha256(self.reason.encode()).hexdigest()
        try:
            with open(self.path, "rb", opener=_opener) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return hashlib.sha256().hexdigest()

    def read(self) -> tuple[bytes, str, int]:
        """What a file holds, why it cannot be read, if so, and when it was changed (ns; 0 where that was just now).

        What is hashed is what is parsed, also of a file that is rewritten meanwhile.
        """
        try:
            with open(self.path, "rb", opener=_opener) as file:
                modified = os.fstat(file.fileno()).st_mtime_ns
                # a change within the clock's tick would have the same time
                return file.read(), "", modified if time.time_ns() - modified > FRESH_NS else 0
        except (OSError, MemoryError) as error:
            return b"", str(error) or "more bytes than there is memory", 0


def entries(folder: Path) -> list[Entry]:
    """All files and refused ones of a folder and its sub-folders, folder by folder in the order of their names.

    Hidden files and folders, and files with another suffix than ``SUFFIXES``, are no part of it.
    """
    return sorted(_entries(folder, folder), key=lambda entry: entry.path.parts)


def printable(text: str) -> str:
    """A name as text that can be stored and shown: what cannot be printed, and bytes that are no UTF-8, escaped."""
    return "".join(c if c.isprintable() and c != "\\" else _escaped(c) for c in text)


def _entries(folder: Path, root: Path) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as found:
            listed = list(found)
    except OSError as error:
        yield _refused(folder, root, Reason.UNREADABLE_FOLDER, str(error), "/")
        return
    for entry in listed:
        if entry.name.startswith("."):
            continue
        path, fits = folder / entry.name, Path(entry.name).suffix.lower() in SUFFIXES
        try:
            if entry.is_symlink():
                # no more than the kind of what it leads to is looked at
                leads_on = os.path.isdir(path)
                if fits or leads_on:
                    told = "a symbolic link; put there what it leads to"
                    yield _refused(path, root, Reason.SYMBOLIC_LINK, told, "/" if leads_on else "")
            elif entry.is_dir(follow_symlinks=False):
                yield from _entries(path, root)
            elif fits and not entry.is_file(follow_symlinks=False):
                yield _refused(path, root, Reason.NOT_A_FILE, "a pipe, a socket or a device")
            elif fits and any("\udc80" <= c <= "\udcff" for c in str(path.relative_to(root))):
                yield _refused(path, root, Reason.BAD_FILE_NAME, "the name is not UTF-8; rename the file")
            elif fits:
                yield Entry(printable(path.relative_to(root).as_posix()), path)
        except OSError as error:
            yield _refused(path, root, Reason.UNREADABLE, str(error))


def _refused(path: Path, root: Path, reason: Reason, told: str, end: str = "") -> Entry:
    return Entry(printable(path.relative_to(root).as_posix()) + end, path, reason, printable(told))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _opener(path: str, flags: int) -> int:
    # a pipe that took the file's place would else be waited for
    number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError("no regular file")
    return number
