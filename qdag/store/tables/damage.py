"""Data files that cannot be read: which one, why, and what brings its rows back. Finding all of them is the matter of
``qdag.store.integrity``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from qdag.errors import StoreError
from qdag.store.tables.location import Location

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from deltalake import DeltaTable

DAMAGED = (OSError, pa.ArrowInvalid)
"""What Arrow raises of files that are not there, or not what was written."""


def unreadable(name: str, path: str, problem: object) -> StoreError:
    """The error of a table that has a damaged file, at a path below its folder."""
    gone = isinstance(problem, FileNotFoundError)
    what = "is not there" if gone else f"is damaged: {str(problem).partition(chr(10))[0]}"
    return StoreError(
        f"table {name!r} cannot be read: its file {path!r} {what}; `qdag data verify {name}` tells what is damaged, "
        f"with --repair the lost sessions are computed again, with --from TARGET files are taken from a backup first"
    )


def vacuumed(name: str, version: int, path: str) -> StoreError:
    """The error of an old version of a table that lacks a file, at a path below the table's folder."""
    return StoreError(
        f"version {version} of table {name!r} cannot be read: its file {path!r} was vacuumed or lost; choose a version "
        f"that `qdag data versions {name}` does not call gone"
    )


def checked_pages() -> "pads.ParquetFragmentScanOptions":
    """A page that is not what was written is an error, not another value."""
    import pyarrow.dataset as pads

    return pads.ParquetFragmentScanOptions(page_checksum_verification=True)


@contextmanager
def naming_damage(
    location: Location, name: str, table: "DeltaTable", dataset: "pads.Dataset", condition: "pads.Expression"
) -> Iterator[None]:
    """Read the rows of a table's dataset that fulfil a condition in the block; a file that fails is named in a
    StoreError."""
    try:
        yield
    except DAMAGED as error:
        path, problem = _first_damaged(dataset, condition) or ("", error)
        if isinstance(problem, FileNotFoundError) and table.version() != location.version(name):
            raise vacuumed(name, table.version(), path) from error
        raise unreadable(name, path, problem) from error


def _first_damaged(dataset: "pads.Dataset", condition: "pads.Expression") -> tuple[str, Exception] | None:
    for fragment in dataset.get_fragments(filter=condition):
        try:
            fragment.to_table(fragment_scan_options=checked_pages())
        except DAMAGED as problem:
            return unquote(fragment.path), problem
    return None
