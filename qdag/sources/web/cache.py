"""What was fetched, kept as one Parquet file per instrument, and how new answers are joined to it.

The cache holds settled sessions only: nothing later than the asked end is kept that may still change. Nothing is asked
of a vendor here.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from qdag.errors import SourceError
from qdag.sources.rows import PRICES
from qdag.store.files import drop_parts, locked, replacing

SAME = 1e-5
"""Relative difference up to which two answers tell the same number (some vendors send 32-bit numbers)."""
_FORMAT = 1
_KEY = b"qdag"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class History:
    """What is known of an instrument: rows from ``since`` on, complete up to ``until``."""

    table: pa.Table
    """Rows as :func:`qdag.sources.web.client.history_table` makes them."""
    since: date
    """First day of which it is known what the vendor tells."""
    until: date
    """Last such day, inclusive."""

    def covers(self, since: date, until: date) -> bool:
        """Whether all of [since, until] is known."""
        return self.since <= since and self.until >= until


class Cache:
    """One Parquet file per instrument in ``<folder>/<kind>``."""

    def __init__(self, folder: Path, kind: str):
        self.kind = kind
        self.folder = folder.expanduser() / kind

    def path(self, instrument: str) -> Path:
        """File of an instrument, whether it is there or not."""
        return self.folder / f"{quote(instrument, safe='')}.parquet"

    def read(self, instrument: str, symbol: str) -> History | None:
        """What is kept; None where there is nothing, or nothing that can be used."""
        from pyarrow.parquet import ParquetFile

        path = self.path(instrument)
        try:
            with ParquetFile(path) as file:
                table = file.read(use_threads=False)
            about = json.loads(table.schema.metadata[_KEY])
            if (about["format"], about["instrument"], about["symbol"]) != (_FORMAT, instrument, symbol):
                return None
            return History(table, date.fromisoformat(about["since"]), date.fromisoformat(about["until"]))
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
            _log.warning("cached file %s cannot be read and is fetched anew: %s", path, error)
            return None

    def write(self, instrument: str, symbol: str, history: History) -> None:
        """Put a history in place of the one before, at once."""
        from pyarrow.parquet import write_table

        about = {
            "format": _FORMAT,
            "instrument": instrument,
            "symbol": symbol,
            "since": history.since.isoformat(),
            "until": history.until.isoformat(),
        }
        path = self.path(instrument)
        try:
            with replacing(path) as part:
                write_table(history.table.replace_schema_metadata({_KEY: json.dumps(about).encode()}), part)
        except OSError as error:
            raise SourceError(f"{path} cannot be written: {error}; free space or set source.cache elsewhere") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process fetches at a time: the others wait, and then find what they need."""
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.folder / ".lock"))
            except OSError as error:
                raise SourceError(
                    f"cache folder {str(self.folder)!r} cannot be used: {error}; set source.cache elsewhere"
                ) from error
            drop_parts(self.folder)
            yield


def joined(known: pa.Table, part: pa.Table, rebased: tuple[str, ...]) -> pa.Table | None:
    """The rows of ``known`` followed by those of ``part``; None where they do not tell the same about the same days.

    ``part`` begins at or before the last rows of ``known``. Its rows take the place of theirs, see
    ``keep_stored_bits``: a late correction of a volume is no reason to doubt the rest, one of a price or an event is.
    """
    if known.schema.names != part.schema.names or not known.num_rows or not part.num_rows:
        return None
    old_day, new_day = (table["date"].to_numpy().astype("M8[D]") for table in (known, part))
    low = int(np.searchsorted(old_day, new_day[0]))
    high = int(np.searchsorted(new_day, old_day[-1], side="right"))
    if low == len(old_day) or not np.array_equal(old_day[low:], new_day[:high]):
        return None
    for name in known.schema.names:
        if name in (*PRICES, "split", "dividend", "pre_close", "factor"):
            old, new = known[name].to_numpy()[low:], part[name].to_numpy()[:high]
            if not np.allclose(old, new, rtol=SAME, atol=0, equal_nan=True):
                return None
    for name in rebased:
        scale = known[name].to_numpy()[-1] / part[name].to_numpy()[high - 1]
        at = part.schema.get_field_index(name)
        part = part.set_column(at, name, pa.array(part[name].to_numpy() * scale))
    return pa.concat_tables(
        [known.slice(0, low).replace_schema_metadata(None), keep_stored_bits(known, part)]
    ).combine_chunks()


def keep_stored_bits(known: pa.Table, table: pa.Table) -> pa.Table:
    """``table`` with the numbers of ``known`` where both tell the same: stored values keep their last bits.

    What is computed from 32-bit numbers differs a little after every split, and would look like a correction.
    """
    if known.schema.names != table.schema.names or not known.num_rows:
        return table
    old_day, new_day = (rows["date"].to_numpy().astype("M8[D]") for rows in (known, table))
    at = np.minimum(np.searchsorted(old_day, new_day), len(old_day) - 1)
    both = old_day[at] == new_day
    for position, column in enumerate(table.schema):
        if pa.types.is_floating(column.type):
            old, new = known[column.name].to_numpy()[at], table[column.name].to_numpy()
            same = both & np.isclose(old, new, rtol=SAME, atol=0, equal_nan=True)
            table = table.set_column(position, column.name, pa.array(np.where(same, old, new)))
    return table
