"""What of a universe was refused as a whole, and what was held back."""

from dataclasses import dataclass
from datetime import date

import pyarrow.compute as pc

from qdag.assets.platform import Platform
from qdag.schema import QUARANTINE
from qdag.sources.reasons import Reason


@dataclass(frozen=True)
class Failed:
    """An instrument, or a file, that was refused as a whole; ``start``: first day of what had been asked for."""

    instrument: str
    source: str
    reason: str
    detail: str
    start: date


def failed_instruments(platform: Platform, universe: str) -> list[Failed]:
    """What of a universe was refused as a whole and has not come since, the newest first."""
    if not platform.store.exists(QUARANTINE.name):
        return []
    rows = platform.store.read(QUARANTINE.name, universe)
    rows = rows.filter(pc.field("line") == 0).sort_by([("date", "descending"), ("instrument", "ascending")])
    columns = (rows[name].to_pylist() for name in ("instrument", "source", "reason", "row", "date"))
    return [
        Failed(name, source, reason, row or "", day) for name, source, reason, row, day in zip(*columns, strict=True)
    ]


def held_back(platform: Platform, universe: str) -> list[Failed]:
    """The instruments whose delivery has so much less than is stored of them that nothing of it was taken over."""
    return [one for one in failed_instruments(platform, universe) if one.reason == Reason.HISTORY_WITHDRAWN]
