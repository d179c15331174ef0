"""SHA-256 of data files, as they were when they were written: told by commits, or found by a verification.

What a verification finds is kept in ``_checksums`` in the table's folder, one file a version. A torn file there is
told, not raised: without it its data files are judged by their pages alone.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from qdag.store.files import write_text
from qdag.store.tables.history import told_checksums
from qdag.store.tables.location import Location

CHECKSUMS = "_checksums"
"""Delta readers and Delta's own vacuum leave folders alone that begin with an underscore."""


def digest(file: IO[bytes]) -> str:
    """SHA-256 of an open file, as hexadecimal text."""
    found = hashlib.sha256()
    while part := file.read(1 << 20):
        found.update(part)
    return found.hexdigest()


def read_checksums(file: Path) -> dict[str, str] | None:
    """SHA-256 of files by path; None where the file is torn."""
    try:
        known = json.loads(file.read_bytes())
    except ValueError:
        return None
    return known if isinstance(known, dict) else None


def write_checksums(folder: Path, version: int, found: Mapping[str, str]) -> None:
    """Add SHA-256 of files by path to what is known in a table's folder, under a version that needs them."""
    file = folder / CHECKSUMS / f"{version:020d}.json"
    known = read_checksums(file) if file.exists() else None
    write_text(file, json.dumps({**(known or {}), **found}, sort_keys=True))


def checksums(location: Location, name: str) -> dict[str, str]:
    """SHA-256 of data files by path, as of ``TableStore.checksums``."""
    found: dict[str, str] = {}
    if folder := location.local(name):
        for file in sorted((folder / CHECKSUMS).glob("*.json")):
            found |= read_checksums(file) or {}
    return found | told_checksums(location, name)


def forget_lost(folder: Path) -> None:
    """Drop the checksums of files that are gone from a table's folder."""
    for file in (folder / CHECKSUMS).glob("*.json"):
        known = read_checksums(file)
        if known is not None and not any((folder / path).exists() for path in known):
            file.unlink()
