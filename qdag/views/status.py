"""What is there: per asset and universe the stored sessions, the missing ones, and how its checks came out."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import pyarrow.compute as pc

from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.quality import CHECKS, quality_table
from qdag.settings import Settings
from qdag.store.tables import TableStore


@dataclass(frozen=True)
class AssetStatus:
    """What is stored of one asset and universe."""

    asset: str
    """Its name."""
    first: date | str
    """Its first stored session; a dash where nothing is stored."""
    last: date | str
    """Its last one, likewise."""
    sessions: int
    """How many are stored."""
    missing: int
    """Sessions of the universe between its first stored one and the newest of any asset that it lacks."""
    checks: str
    """Per check whether all judged sessions of the universe passed, or how many did not."""

    def __iter__(self) -> Iterator[object]:
        """The cells of its line, in order."""
        return iter((self.asset, self.first, self.last, self.sessions, self.missing, self.checks))


def asset_status(settings: Settings, universe: str) -> list[AssetStatus]:
    """Status of every asset that stores sessions, in the order of the chain."""
    platform, assets = Platform.open(settings), chain(settings)
    stored = {asset.name: asset.stored(platform, universe) for asset in assets}
    newest = max((s[-1] for s in stored.values() if len(s)), default=None)
    rows = []
    for asset in assets:
        sessions = stored[asset.name]
        if newest is not None and len(sessions):
            missing = len(asset.missing(platform, universe, newest))
            row = (sessions[0].item(), sessions[-1].item(), len(sessions), missing)
        else:
            row = ("-", "-", 0, 0)
        rows.append(AssetStatus(asset.name, *row, checks=_checks(platform.store, asset.name, universe)))
    return rows


def _checks(store: TableStore, asset: str, universe: str) -> str:
    """How the rules of an asset came out on the sessions of a universe; empty where none has been judged."""
    table = quality_table(asset).name
    if not store.exists(table):
        return ""
    kept = store.read(table, universe, columns=["date", "check", "severity", "violations"])
    words = []
    for check in CHECKS:
        mine = kept.filter((pc.field("check") == check) & (pc.field("severity") != "notice"))
        judged = len(pc.unique(mine["date"]))
        failed = len(pc.unique(mine.filter(pc.field("violations") > 0)["date"]))
        if judged:
            words.append(f"{check}: {f'{failed:,} of {judged:,} sessions failed' if failed else 'passed'}")
    return ", ".join(words)
