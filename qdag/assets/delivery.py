"""What a delivery of bars does to what is stored: what it withdraws, refuses and contradicts."""

from collections.abc import Collection, Mapping
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.assets.corrections import Given, Withdrawal
from qdag.assets.platform import Platform
from qdag.assets.result import SHOWN
from qdag.core.windows import ends
from qdag.errors import SourceError
from qdag.schema import QUARANTINE, RAW_OHLCV
from qdag.sources.reasons import UNDATED, Reason
from qdag.text import listed


def withdrawn(
    platform: Platform,
    universe: str,
    given: Given,
    days: np.ndarray,
    refused: pa.Table,
    instruments: Collection[str] | None = None,
) -> dict[str, Withdrawal]:
    """Instruments that lose more of their history by a delivery than the settings let pass.

    ``days``: sessions on which anything differs. ``instruments``: only these are looked at. Those that the settings no
    longer name are gone on purpose, and those whose name differs only in capitals from another, which the delivery has
    ``refused``, make way for it.
    """
    if not len(days) or not platform.store.exists(RAW_OHLCV.name):
        return {}
    limits, named = platform.settings.quality_for(universe), platform.settings.universe(universe).instruments
    found = given.withdrawn(platform.store, universe, days, limits.withdrawn_share, limits.withdrawn_rows, instruments)
    clashing = set(refused.filter(pc.field("reason") == Reason.NAME_CLASH)["instrument"].to_pylist())
    return {name: lost for name, lost in found.items() if (named is None or name in named) and name not in clashing}


def refuse_uncovered(universe: str, lost: Mapping[str, Withdrawal], first: date, last: date) -> None:
    """Refuse a window that ends before all rows that accepted instruments would lose.

    Raises
    ------
    SourceError
        It does; the message says which window covers them.
    """
    begin, finish = min(one.first for one in lost.values()), max(one.last for one in lost.values())
    if begin < first or finish > last:
        raise SourceError(
            f"{first} .. {last} is not all that {listed(sorted(lost), SHOWN)} of universe {universe!r} would lose; "
            f"accept it for {min(begin, first)} .. {max(finish, last)}"
        )


def quarantine_rows(
    refused: pa.Table, universe: str, first: date, source: str, held: Mapping[str, Withdrawal]
) -> pa.Table:
    """What a delivery has refused, with what is held back. What has no date is told on the first asked session."""
    rows = [
        {"universe": universe, "date": first, "instrument": name, "source": f"{source}:{name}", "line": 0,
         "reason": str(Reason.HISTORY_WITHDRAWN),
         "row": f"{lost}; nothing of the instrument was taken over. Deliver it whole, or take it as it is: "
         f"`qdag accept {name} --universe {universe}`"}
        for name, lost in held.items()
    ]  # fmt: skip
    undated = pc.or_(pc.equal(refused["line"], 0), pc.is_in(refused["reason"], value_set=pa.array(UNDATED)))
    days = pc.if_else(undated, pa.scalar(first, pa.date32()), refused["date"])
    refused = refused.set_column(refused.column_names.index("date"), refused.schema.field("date"), days)
    both = pa.concat_tables([refused, pa.Table.from_pylist(rows, schema=QUARANTINE.arrow())])
    return both.sort_by([(key, "ascending") for key in ("date", "instrument", "source", "line")])


def contradict(
    platform: Platform, universe: str, sessions: np.ndarray, outside: np.ndarray, stored: np.ndarray, partly: bool
) -> np.ndarray:
    """Keep in mind which sessions outside the window a delivery contradicts; returns those of them that are stored.

    ``sessions`` are all that it was compared with, ``stored`` their digests. ``partly``: it spoke of some instruments
    only, and what was known of the others stays.
    """
    from qdag.store import deliveries

    new = stored[np.searchsorted(sessions, outside)] == 0
    days, kinds = outside, new
    if partly:
        known, known_new = deliveries.contradictions(platform.store, universe)
        days = np.union1d(outside, known)
        kinds = np.isin(days, np.concatenate([outside[new], known[known_new]]))
    start, end = ends(np.sort(np.concatenate([sessions, days])))
    deliveries.contradict(platform.store, universe, start, end, days, kinds, platform.provenance)
    return outside[~new]
