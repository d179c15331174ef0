"""Metrics of factors by their names."""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from qdag.desk.rows import Rows, nothing, readable
from qdag.errors import UnknownNameError, unknown
from qdag.schema import FACTOR_METRICS

if TYPE_CHECKING:
    from qdag.assets.platform import Platform


def metrics(
    platform: "Platform",
    universe: str,
    factors: Sequence[str] | None = None,
    start: date | None = None,
    end: date | None = None,
    horizon: int | None = None,
    pool: str | None = None,
) -> pa.Table:
    """Rows of factor_metrics; see ``Desk.metrics`` for parameters and errors."""
    platform.settings.universe(universe)
    table = FACTOR_METRICS.name
    readable(platform, [table])
    found = platform.store.read(table, universe, start, end, columns=_COLUMNS)
    if not found.num_rows:
        raise nothing(platform, table, Rows(universe, start, end))
    if factors is not None:
        known = pc.unique(found["factor"]).to_pylist()
        chosen = pa.array([factor_name(name, known) for name in factors], pa.string())
        found = found.filter(pc.is_in(found["factor"], chosen))
    for column, wanted in (("horizon", horizon), ("pool", pool)):
        if wanted is not None:
            known = pc.unique(found[column]).to_pylist()
            if wanted not in known:
                raise unknown(column, str(wanted), map(str, known))
            found = found.filter(pc.equal(found[column], wanted))
    return found


def factor_name(name: str, known: Iterable[str]) -> str:
    """The factor that is meant by ``table.column`` or by a column alone.

    UnknownNameError: there is none, or several tables have the column.
    """
    known = list(known)
    if name in known:
        return name
    having = [one for one in known if one.partition(".")[2] == name]
    if len(having) > 1:
        raise UnknownNameError(f"factor {name!r} is of several sets; name one of {', '.join(having)}")
    if not having:
        raise unknown("factor", name, [*known, *(one.partition(".")[2] for one in known)] if "." not in name else known)
    return having[0]


_COLUMNS = tuple(c.name for c in FACTOR_METRICS.columns if c.name != "universe")
