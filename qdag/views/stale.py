"""What would be computed differently now, and why, as lines for people."""

from dataclasses import dataclass
from datetime import date

import numpy as np

from qdag.assets.platform import Platform
from qdag.errors import SourceError
from qdag.operations.landing import Unread, unread
from qdag.operations.survey import survey
from qdag.schema import RAW_OHLCV

HEADING = ("asset", "sessions", "first", "last", "why")
"""What is told of every asset, in this order."""
NOTHING_YET = "no bars stored yet"
"""Why nothing is stale in a universe without sessions."""


@dataclass(frozen=True)
class StaleLines:
    """A line for every asset in the order of the chain, what waits and for what, and why files cannot be looked at."""

    lines: list[tuple[str, int, date | None, date | None, str]]
    waiting: list[str]
    files: str = ""


def stale_lines(platform: Platform, universe: str) -> StaleLines:
    """Stale sessions of every asset; files that changed since they were read are looked at."""
    seen = survey(platform, universe)
    files, trouble = unread_files(platform, universe)
    empty = not len(platform.stored(RAW_OHLCV.name, universe))
    lines: list[tuple[str, int, date | None, date | None, str]] = []
    for asset, found in seen.stale.items():
        days, why = found.sessions, NOTHING_YET if empty and not found else found.reason()
        if asset == RAW_OHLCV.name and files and len(files.sessions):
            days, why = np.union1d(days, files.sessions), files.reason
        ends = (days[0].item(), days[-1].item()) if len(days) else (None, None)
        lines.append((asset, len(days), *ends, why))
    return StaleLines(lines, [str(wait) for wait in seen.blocked], trouble)


def unread_files(platform: Platform, universe: str) -> tuple[Unread | None, str]:
    """What the files of a universe hold that has not been read; None, and why, where they cannot be looked at."""
    try:
        return unread(platform, universe), ""
    except SourceError as error:
        return None, f"the files of {universe} cannot be looked at: {error}"
