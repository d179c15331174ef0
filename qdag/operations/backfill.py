"""Filling a range of sessions part by part, each with what is not up to date in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.core.windows import ends, pieces
from qdag.errors import SessionError
from qdag.operations.survey import lineage_of_universe, stale_of
from qdag.store.deliveries import contradicted


@dataclass(frozen=True)
class Chunk:
    """A part of a backfill: ``assets`` to compute from ``start`` to ``end``, none where all is up to date.

    ``sessions`` are 0 where another part over the same days follows.
    """

    assets: tuple[str, ...]
    start: date
    end: date
    sessions: int
    total: int


def backfill_chunks(
    platform: Platform,
    universe: str,
    start: date | None,
    end: date | None,
    assets: Sequence[str] | None,
    size: int,
    again: bool = False,
) -> Iterator[Chunk]:
    """Cut a range into chunks of sessions, in order; each says what is not up to date in it when it is asked for.

    What is read from outside is asked for where sessions of the chunk have no rows, or others than the source gives; by
    itself where something was computed from what is there: whether that is stale is known only when the rows have come.
    Assets of months, which are trained and not filled, are left out, and what is made from them as long as there are
    none.
    """
    first = start or platform.settings.universe(universe).start
    last = end or platform.last_session(universe)
    sessions = platform.window(universe, first, last)
    if not len(sessions):
        raise SessionError(f"universe {universe!r} has no session from {first} to {last}; choose another range")
    whole = chain(platform.settings)
    filled = [asset for asset in whole.sessions if assets is None or asset.name in assets]
    outside = [asset.name for asset in filled if asset.read_whole]
    inside = [asset.name for asset in filled if not asset.read_whole]
    for part in pieces(sessions, size):
        wanted = [asset.name for asset in filled]
        lineage = lineage_of_universe(platform, universe)
        if not again:
            asked = {name: _new(platform, universe, name, part) for name in outside}
            asked = {name: days for name, days in asked.items() if len(days)}
            computed = [lineage.recorded(name) for name in inside]
            if first_of_all := [n for n, new in asked.items() if any(np.isin(days, new).any() for days in computed)]:
                yield Chunk(tuple(first_of_all), *ends(part), 0, len(sessions))
                lineage, asked = lineage_of_universe(platform, universe), {}
            stale = stale_of(platform, lineage)
            # what was computed from the absence of rows is not asked for again as long as they are absent
            wanted = [*asked, *(n for n in inside if asked or np.isin(stale[n].sessions, part).any())]
        if any(not len(lineage.recorded(month.name)) for month in whole.months):
            wanted = [name for name in wanted if whole[name] not in whole.after_months]
        yield Chunk(tuple(wanted), *ends(part), len(part), len(sessions))


def _new(platform: Platform, universe: str, name: str, part: np.ndarray) -> np.ndarray:
    """Sessions of which nothing is stored, or other rows than the source gives."""
    lacking = np.setdiff1d(part, platform.stored(name, universe))
    return np.union1d(lacking, np.intersect1d(part, contradicted(platform.store, universe)))
