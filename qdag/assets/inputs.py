"""What assets read of the Qlib directory: panels of adjusted fields, industries, pools."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from qdag.assets.platform import Platform
from qdag.core.windows import parts
from qdag.engine.panel import Panel
from qdag.errors import MissingDataError
from qdag.schema import ENGINE_FIELDS, INDUSTRY, RAW_OHLCV
from qdag.settings import Settings
from qdag.store.matrices import table_matrix

if TYPE_CHECKING:
    from qdag.core.pools import Pool
    from qdag.sources.membership import Industries, Membership


def read_panel(
    platform: Platform,
    universe: str,
    sessions: np.ndarray,
    before: int = 0,
    after: int = 0,
    fields: Sequence[str] = ENGINE_FIELDS,
    instruments: Sequence[str] | None = None,
) -> tuple[Panel, int]:
    """Adjusted fields of the sessions with up to ``before`` more in front and ``after`` more behind, of all instruments
    or some.

    Returns the panel and the position in it where the asked sessions begin.

    Raises
    ------
    MissingDataError
        The Qlib directory lacks asked sessions.
    """
    from qdag.store.qlib.reader import read_calendar, read_provider_panel

    provider = platform.settings.provider(universe)
    stored = read_calendar(provider, missing_ok=True)
    missing = np.setdiff1d(sessions, stored)
    if len(missing):
        raise MissingDataError(
            f"qlib_bin of universe {universe!r} lacks {len(missing)} of the asked sessions, the first is {missing[0]}; "
            f"materialize raw_ohlcv and qlib_bin for them first"
        )
    begin = int(np.searchsorted(stored, sessions[0]))
    finish = int(np.searchsorted(stored, sessions[-1]))
    left, right = max(0, begin - before), min(len(stored) - 1, finish + after)
    # which cells are rows is told by the close
    read = tuple(dict.fromkeys([*(f for f in fields if f != INDUSTRY), "close"]))
    panel = read_provider_panel(provider, read, instruments, stored[left], stored[right])
    if INDUSTRY in fields:
        panel = replace(panel, fields={**panel.fields, INDUSTRY: _industry_codes(platform, universe, panel)})
    return panel, begin - left


def industries_of(platform: Platform, universe: str, instruments: Sequence[str]) -> "Industries":
    """Industries of a universe's instruments; all unknown where the universe has no list of them."""
    from qdag.sources.membership import Industries, read_industries

    spec = platform.settings.universe(universe)
    if spec.industries is None:
        return Industries((), {}, tuple(sorted(instruments)), 0)
    return read_industries(spec.industries, spec.region, instruments)


def _industry_codes(platform: Platform, universe: str, panel: Panel) -> np.ndarray:
    codes = industries_of(platform, universe, panel.instruments).series(panel.instruments)
    return np.where(panel.exists(), codes[:, None], np.float32(np.nan))


def pool_definitions(settings: Settings, universe: str) -> dict[str, str]:
    """What decides the members of every configured pool, as text by name."""
    from qdag.sources.membership import definition

    return {name: definition(pool) for name, pool in settings.universe(universe).pools.items()}


def memberships(
    platform: Platform,
    universe: str,
    days: Mapping[str, tuple[date, date]],
    sessions: np.ndarray,
    version: int | None = None,
) -> "tuple[Membership, ...]":
    """The configured pools of a universe whose instruments have the given first and last days.

    ``sessions`` are all of the universe's, from its first to the last one published; ``version`` of raw_ohlcv tells
    traded value.
    """
    from qdag.sources.membership import pools_of

    def traded() -> tuple[list[str], np.ndarray]:
        names = sorted(days)
        value = np.full((len(names), len(sessions)), np.nan)
        at = 0
        for chunk in parts(sessions):
            columns = ["close", "volume", "amount"]
            first, last, keys = chunk[0].item(), chunk[-1].item(), ["date", "instrument"]
            rows = platform.store.read(
                RAW_OHLCV.name, universe, first, last, columns=[*keys, *columns], version=version
            )
            bars = table_matrix(rows, columns, names, chunk)
            amount = bars["amount"]
            value[:, at : at + len(chunk)] = np.where(np.isnan(amount), bars["close"] * bars["volume"], amount)
            at += len(chunk)
        return names, value

    return pools_of(platform.settings.universe(universe), days, sessions, traded)


def written_pools(platform: Platform, universe: str) -> "list[Pool]":
    """The configured pools as the Qlib directory has them.

    Raises
    ------
    MissingDataError
        It lacks one that has members.
    """
    from qdag.store.qlib.reader import published_days, read_calendar, read_pool

    provider = platform.settings.provider(universe)
    names = list(platform.settings.universe(universe).pools)
    pools = {name: pool for name in names if (pool := read_pool(provider, name))}
    if len(pools) < len(names):
        # Qlib reads no empty file, so a pool without members has none: only what has members was never written
        due = memberships(platform, universe, published_days(provider), read_calendar(provider))
        absent = {m.pool.name: m.pool for m in due if m.pool.name not in pools}
        if unwritten := [name for name, pool in absent.items() if pool.spans]:
            raise MissingDataError(
                f"pools {unwritten} are not in {str(provider)!r}; materialize qlib_bin to write them"
            )
        pools |= absent
    return [pools[name] for name in names]
