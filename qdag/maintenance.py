"""Upkeep of the stored tables with what the settings, the stages and the registered models know: which versions must
stay, and how lost sessions are computed again. How versions, files and backups work belongs to ``qdag.store``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from qdag import __version__, stages
from qdag.errors import StoreError, unknown
from qdag.settings import Settings
from qdag.stages import Platform, StageResult
from qdag.store.backup import Backup, Report, backup
from qdag.store.integrity import Damage, Verified, verify
from qdag.store.versions import Expired, expire

WITH_RAW = ("raw_ohlcv", "quarantine", "findings")


def check_tables(platform: Platform, names: Iterable[str] | None) -> list[str]:
    """The named stored tables; all where none is named."""
    known = platform.store.names()
    for name in names or ():
        if name not in known:
            raise unknown("table", name, known)
    return list(names or known)


def protected_versions(settings: Settings) -> dict[str, set[int]]:
    """Versions by table that registered models read."""
    from qdag.models.tracking import versions_read

    return versions_read(settings)


def vacuum(
    platform: Platform,
    names: Iterable[str] | None = None,
    versions: int | None = None,
    days: float | None = None,
    dry_run: bool = False,
) -> list[Expired]:
    """Apply retention to tables; ``versions`` and ``days`` take the place of the settings' ones."""
    retention = platform.settings.retention
    protected = protected_versions(platform.settings)
    newest = retention.versions if versions is None else versions
    since = retention.days if days is None else days
    return [
        expire(platform.store, name, newest, since, protected.get(name, ()), dry_run)
        for name in check_tables(platform, names)
    ]


def compact(platform: Platform, names: Iterable[str] | None = None) -> dict[str, tuple[int, int]]:
    """Merge small files; number of files before and after, by table."""
    found = {}
    for name in check_tables(platform, names):
        before = platform.store.files(name).num_rows
        platform.store.compact(name)
        found[name] = (before, platform.store.files(name).num_rows)
    return found


def restore(platform: Platform, name: str, version: int) -> int:
    """Make an old version of a table the newest again; returns the new version."""
    check_tables(platform, [name])
    provenance = {**platform.provenance, "qdag_version": __version__, "restored_version": str(version)}
    return platform.store.restore(name, version, provenance)


def back_up(platform: Platform, target: str | Path, report: Report) -> Backup:
    """Back up all tables, with the versions that registered models read as far as they are readable."""
    protected = protected_versions(platform.settings)
    readable = {name: _readable(platform, name, protected.get(name, ())) for name in platform.store.names()}
    return backup(platform.store, target, readable, report)


def _readable(platform: Platform, name: str, versions: Iterable[int]) -> list[int]:
    known = {commit["version"] for commit in platform.store.history(name)}
    present = platform.store.stored_files(name).keys()
    return [v for v in versions if v in known and present >= set(platform.store.files(name, v)["path"].to_pylist())]


def verify_tables(platform: Platform, names: Iterable[str] | None = None) -> list[Verified]:
    """Verify tables: their newest version and the readable ones that registered models read."""
    protected = protected_versions(platform.settings)
    return [verify(platform.store, name, protected.get(name, ())) for name in check_tables(platform, names)]


# -- repair -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repaired:
    """Sessions of a table that were computed again, and the table's rows before (by the log) and after."""

    table: str
    universe: str
    sessions: np.ndarray
    rows_before: int
    rows_after: int


def lost_sessions(platform: Platform, damage: Iterable[Damage]) -> dict[tuple[str, str], np.ndarray]:
    """Sessions by table and universe that lie in damaged files of the newest versions, in the order of the chain."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for one in damage:
        if one.newest and one.universe and one.first and one.last:
            sessions = platform.calendar(one.universe).between(one.first, one.last)
            key = (one.table, one.universe)
            found[key] = np.union1d(found.get(key, np.array([], "M8[D]")), sessions)
    order = {name: at for at, name in enumerate((*WITH_RAW, *stages.asset_names(platform.settings)))}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0][1])))


def repair(platform: Platform, damage: Sequence[Damage]) -> list[Repaired]:
    """Take damaged files out of the newest versions and materialize exactly the sessions that they held.

    The files are kept in the table's ``_damaged`` folder. Tables are repaired in the order of the chain, each from the
    tables before it; if a stage fails, its table is put back as it was, damage and all, and the error is raised.
    Damage of a log or of an older version alone cannot be computed again: it is left as it is.

    Raises
    ------
    StoreError
        A table that no stage of the settings writes.
    UnknownNameError
        A universe that the settings no longer have.
    """
    damage = [one for one in damage if one.newest and one.universe is not None]
    for one in damage:
        platform.settings.universe(str(one.universe))
        _stage(platform.settings, one.table)
    lost = lost_sessions(platform, damage)
    repaired: list[Repaired] = []
    for group in _groups(lost):
        repaired += _repair(platform, group, [one for one in damage if one.table in {t for t, _ in group}])
    return repaired


def _groups(lost: dict[tuple[str, str], np.ndarray]) -> list[dict[tuple[str, str], np.ndarray]]:
    """What one stage writes is repaired together."""
    groups: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    for (table, universe), sessions in lost.items():
        stage = WITH_RAW[0] if table in WITH_RAW else table
        groups.setdefault(stage, {})[(table, universe)] = sessions
    return list(groups.values())


def _repair(platform: Platform, lost: dict[tuple[str, str], np.ndarray], damage: Sequence[Damage]) -> list[Repaired]:
    store = platform.store
    tables = list(dict.fromkeys(table for table, _ in lost))
    paths = {table: [one.file for one in damage if one.table == table] for table in tables}
    before = {table: (store.version(table), store.files(table)) for table in tables}
    rows = {
        (table, universe): sum(f["rows"] for f in before[table][1].to_pylist() if f["universe"] == universe)
        for table, universe in lost
    }
    provenance = {**platform.provenance, "qdag_version": __version__, "reason": "repair"}
    platform = replace(platform, provenance=provenance)
    try:
        for table in tables:
            store.set_aside(table, paths[table], {**provenance, "damaged_files": "\n".join(paths[table])})
        stage = _stage(platform.settings, tables[0])
        sessions_of: dict[str, np.ndarray] = {}
        for (_, universe), sessions in lost.items():
            sessions_of[universe] = np.union1d(sessions_of.get(universe, np.array([], "M8[D]")), sessions)
        for universe, sessions in sessions_of.items():
            for start, end in _runs(platform, universe, sessions):
                stage(platform, universe, start, end)
    except BaseException:
        for table in tables:
            store.put_back(table, paths[table])
            version = before[table][0]
            if version is not None and store.version(table) != version:
                store.restore(table, version, {**provenance, "restored_version": str(version)})
        raise
    return [
        Repaired(table, universe, sessions, rows[table, universe], store.count(table, universe))
        for (table, universe), sessions in lost.items()
    ]


def _runs(platform: Platform, universe: str, sessions: np.ndarray) -> list[tuple[date, date]]:
    """Stretches of adjacent sessions."""
    everything = platform.calendar(universe).all
    positions = np.searchsorted(everything, sessions)
    parts = np.split(sessions, np.flatnonzero(np.diff(positions) > 1) + 1)
    return [(part[0].item(), part[-1].item()) for part in parts if len(part)]


def _stage(settings: Settings, table: str) -> Callable[[Platform, str, date, date], StageResult]:
    """The stage that writes a table."""
    if table in WITH_RAW:
        return stages.raw_ohlcv
    if table in stages.feature_tables(settings):
        return stages.feature_stage(table)
    known = {"labels": stages.labels, "factor_metrics": stages.factor_metrics, "predictions": stages.predictions}
    if table not in known:
        raise StoreError(f"no stage of these settings writes table {table!r}: restore it from a backup")
    return known[table]
