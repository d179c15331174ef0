"""What a write replaces: rows of a universe between two days, and how a file or another commit lies to them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import StoreError


@dataclass(frozen=True)
class Place:
    """Rows of a universe from ``start`` to ``end``, all or those with a value in a text column.

    Attributes
    ----------
    start, end : first and last day, inclusive
    match : the column and its value; None for all rows
    """

    universe: str
    start: date
    end: date
    match: tuple[str, str] | None

    def info(self) -> dict[str, str]:
        """What a commit says of it."""
        narrowed = {"match": "=".join(self.match)} if self.match else {}
        return {"universe": self.universe, "start": str(self.start), "end": str(self.end), **narrowed}

    def share(self, low: Mapping[str, Any], high: Mapping[str, Any]) -> Literal["none", "part", "whole"]:
        """How many rows of a file of this universe are inside; "part" may be any number.

        By the file's least and greatest keys, dates in ISO form or as they are; what is missing is unknown.
        """
        spans = [("date", str(self.start), str(self.end))]
        if self.match:
            spans.append((self.match[0], self.match[1], self.match[1]))
        whole = True
        for key, first, last in spans:
            least, greatest = (None if e.get(key) is None else str(e[key]) for e in (low, high))
            if least is None or greatest is None:
                whole = False
            elif least > last or greatest < first:
                return "none"
            else:
                whole &= first <= least and greatest <= last
        return "whole" if whole else "part"

    def rows(self, table: pa.Table) -> pa.ChunkedArray:
        """Which rows of a table of this universe are inside: bool (N,)."""
        dates = table["date"]
        found = pc.and_(
            pc.greater_equal(dates, pa.scalar(self.start, pa.date32())),
            pc.less_equal(dates, pa.scalar(self.end, pa.date32())),
        )
        if self.match is None:
            return found
        return pc.and_(found, pc.fill_null(pc.equal(table[self.match[0]], self.match[1]), False))

    def touched_by(self, added: Mapping[str, Any]) -> bool:
        """Whether a file that another commit adds, by the log's action, may have rows inside."""
        stats = json.loads(added.get("stats") or "{}")
        ends = (stats.get(side, {}) for side in ("minValues", "maxValues"))
        return added["partitionValues"]["universe"] == self.universe and self.share(*ends) != "none"


def as_day(day: date | np.datetime64) -> date:
    """A day as a date without a time. StoreError: it is no day."""
    if isinstance(day, np.datetime64):
        day = day.astype("datetime64[D]").item()
    if isinstance(day, datetime):
        day = day.date()
    if not isinstance(day, date):
        raise StoreError(f"{day!r} is no date; give a datetime.date")
    return day
