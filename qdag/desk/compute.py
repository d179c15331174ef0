"""Expressions computed on the spot, as the feature tables compute them: the same values, to the last bit."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from qdag.core.windows import within
from qdag.errors import QdagError
from qdag.schema import FIELDS, INDUSTRY, RAW_OHLCV, feature_table
from qdag.store.matrices import panel_batches

if TYPE_CHECKING:
    from qdag.assets.platform import Platform
    from qdag.core.pools import Pool
    from qdag.engine import Panel, Plan


def computed(
    platform: "Platform",
    universe: str,
    expressions: Mapping[str, str],
    start: date | None,
    end: date | None,
    instruments: Sequence[str] | None = None,
    pool: "Pool | None" = None,
    as_of: bool = False,
) -> pa.Table:
    """Values of expressions on the sessions of the days [start, end], with exactly the past that they need.

    Parameters
    ----------
    pool : who counts in operators across instruments; all that traded by default
    as_of : read the bars of raw_ohlcv, as of the store's version, instead of the Qlib directory, which has the newest

    Returns
    -------
    Table of date, instrument (sorted by both) and a float32 column for each expression; a row for every bar, null where
    there is no value.

    Raises
    ------
    ExpressionError
        Text that is no expression, or one that looks into the future.
    MissingDataError
        No bars are stored.
    """
    from qdag.engine import compute, plan

    planned = plan(expressions, fields=FIELDS)
    engine = platform.settings.engine
    # operators across instruments, and those that name one, need them all
    whole = planned.cross_sectional or any("instrument" in node.operator.parameters for node in planned.nodes)
    read = None if whole else instruments
    panel, begin, count = (_as_of if as_of else _published)(platform, universe, planned, start, end, read)
    spec = feature_table("computed", [(name, "") for name in expressions], "")
    if not count:
        return _keyed(spec.arrow().empty_table())
    counted = panel.traded()
    if pool is not None:
        counted &= pool.mask(panel.instruments, panel.sessions)
    found = compute(
        planned,
        panel,
        threads=engine.threads,
        block_instruments=engine.block_instruments,
        start=begin,
        pool=counted,
    )
    window = panel.window(begin, begin + count)
    table = pa.Table.from_batches(panel_batches(spec, universe, window, found), spec.arrow())
    if whole and instruments is not None:
        import pyarrow.compute as pc

        table = table.filter(pc.is_in(table["instrument"], pa.array(list(instruments), pa.string())))
    return _keyed(table)


def _keyed(table: pa.Table) -> pa.Table:
    return table.drop_columns(["universe"])


def _published(
    platform: "Platform",
    universe: str,
    planned: "Plan",
    start: date | None,
    end: date | None,
    instruments: Sequence[str] | None,
) -> "tuple[Panel, int, int]":
    """A panel of the Qlib directory, where in it the asked sessions begin, and how many they are."""
    from qdag.assets.inputs import read_panel
    from qdag.engine import Panel
    from qdag.store.qlib.reader import read_calendar

    sessions = within(read_calendar(platform.settings.provider(universe)), start, end)
    if not len(sessions):
        return Panel((), sessions, {}), 0, 0
    panel, begin = read_panel(
        platform, universe, sessions, planned.lookback, fields=sorted(planned.fields), instruments=instruments
    )
    return panel, begin, len(sessions)


def _as_of(
    platform: "Platform",
    universe: str,
    planned: "Plan",
    start: date | None,
    end: date | None,
    instruments: Sequence[str] | None,
) -> "tuple[Panel, int, int]":
    """The same of raw_ohlcv; its whole history is read, so that listings are known."""
    from qdag.store.bars import read_panel

    if INDUSTRY in planned.fields:
        raise QdagError(f"${INDUSTRY} is known for the newest bars only; leave the version out")
    stored = platform.stored(RAW_OHLCV.name, universe)
    sessions = within(stored, start, end)
    calendar = platform.calendar(universe).all
    days = within(calendar, *((stored[0].item(), sessions[-1].item()) if len(sessions) else (date.max, date.max)))
    fields = sorted({*planned.fields, "close"})
    panel = read_panel(platform.store, universe, days, instruments, fields)
    begin = int(np.searchsorted(days, sessions[0])) if len(sessions) else 0
    left = max(0, begin - planned.lookback)
    return panel.window(left, len(days)), begin - left, len(days) - begin
