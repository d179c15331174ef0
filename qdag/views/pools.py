"""Pools for people: members by day, and who of a list is not there."""

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from qdag.assets.inputs import memberships
from qdag.assets.platform import Platform
from qdag.errors import SessionError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PoolReport:
    """The pools of a universe, for people: a line per pool, members by day, and named lists of symbols."""

    summary: "pd.DataFrame"
    counts: "pd.DataFrame"
    lists: dict[str, tuple[str, ...]]


def pool_report(platform: Platform, universe: str, day: date | None = None) -> PoolReport:
    """Pools as the settings have them now on what qlib_bin holds: members on each year's last session, or on ``day``.

    Raises
    ------
    MissingDataError
        qlib_bin holds nothing yet.
    SessionError
        ``day`` is no session that it holds.
    """
    import pandas as pd

    from qdag.core.pools import all_pool
    from qdag.store.qlib.reader import published_days, read_calendar, read_pool

    provider = platform.settings.provider(universe)
    sessions = read_calendar(provider)
    held = published_days(provider)
    members = memberships(platform, universe, held, sessions)
    if day is not None and np.datetime64(day, "D") not in sessions:
        raise SessionError(f"{day} is no session of {str(provider)!r} ({sessions[0]} .. {sessions[-1]}); choose one")
    years = sessions.astype("M8[Y]")
    days = sessions[np.append(years[1:] != years[:-1], True)] if day is None else np.array([day], "M8[D]")
    every = all_pool({n: d[0] for n, d in held.items()}, {n: d[1] for n, d in held.items()})
    rows, lists = [], {}
    for m in members:
        stored = read_pool(provider, m.pool.name)
        written = "yes" if (stored.spans if stored else ()) == m.pool.spans else "outdated" if stored else "no"
        counts = m.pool.counts(sessions)
        distinct = len({span.instrument for span in m.pool.spans})
        rows.append((m.pool.name, m.kind, m.size or "", distinct, counts.min(), counts.max(), len(m.lost),
                     m.overlapping, len(m.empty), written))  # fmt: skip
        if day is None:
            lists[f"unmatched members of {m.pool.name}"] = m.lost
        else:
            lists[f"{m.pool.name} on {day}"] = m.pool.members(day)
    heading = ["pool", "kind", "size", "instruments", "min", "max", "unmatched", "overlapping", "empty", "written"]
    pools = [every, *(m.pool for m in members)]
    return PoolReport(
        pd.DataFrame(rows, columns=heading),
        pd.DataFrame({"session": days.astype(str), **{pool.name: pool.counts(days) for pool in pools}}),
        lists,
    )
