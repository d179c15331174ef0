"""What is there: per asset and universe the stored sessions, the missing ones and the last checks."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import dagster as dg
import numpy as np

from qdag.settings import Settings
from qdag.stages import Platform, asset_names, stored_sessions


@dataclass(frozen=True)
class AssetStatus:
    """``missing`` counts the universe's sessions between its first stored one and the newest of any asset."""

    asset: str
    first: date | str
    last: date | str
    sessions: int
    missing: int
    checks: str

    def __iter__(self) -> Iterator[object]:
        return iter((self.asset, self.first, self.last, self.sessions, self.missing, self.checks))


def asset_status(settings: Settings, universe: str) -> list[AssetStatus]:
    """Status of every asset that stores sessions, in the order of the chain."""
    platform = Platform.open(settings)
    instance = dg.DagsterInstance.get()
    stored = {name: stored_sessions(platform, name, universe) for name in asset_names(settings)}
    newest = max((s[-1] for s in stored.values() if len(s)), default=None)
    calendar = platform.calendar(universe).all
    rows = []
    for name, sessions in stored.items():
        if len(sessions):
            expected = calendar[(calendar >= sessions[0]) & (calendar <= newest)]
            missing = len(np.setdiff1d(expected, sessions)) if name != "trained_model" else 0
            row = (sessions[0].item(), sessions[-1].item(), len(sessions), missing)
        else:
            row = ("-", "-", 0, 0)
        rows.append(AssetStatus(name, *row, checks=_checks(instance, name)))
    return rows


def _checks(instance: dg.DagsterInstance, asset: str) -> str:
    from qdag.defs.checks import check_specs

    keys = [spec.key for spec in check_specs(asset)]
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys) if keys else {}
    words = []
    for key in keys:
        record = records.get(key)
        words.append(f"{key.name}: {record.status.value.lower() if record else 'never'}")
    return ", ".join(words)
