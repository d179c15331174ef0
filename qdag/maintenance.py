"""Upkeep of the stored tables with what the settings, the stages and the registered models know: which versions must
stay, and how lost sessions are computed again. How versions, files and backups work belongs to ``qdag.store``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np

from qdag import __version__, stages
from qdag.errors import unknown
from qdag.lineage import withdraw
from qdag.schema import TABLES
from qdag.settings import Settings
from qdag.stages import Platform, StageResult
from qdag.store import deliveries
from qdag.store.backup import Backup, Report, backup
from qdag.store.integrity import Damage, Verified, verify
from qdag.store.versions import Expired, expire, readable_versions

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
    readable = {n: readable_versions(platform.store, n, protected.get(n, ())) for n in platform.store.names()}
    return backup(platform.store, target, readable, report)


def verify_tables(platform: Platform, names: Iterable[str] | None = None) -> list[Verified]:
    """Verify tables: their newest version and the readable ones that registered models read."""
    protected = protected_versions(platform.settings)
    return [verify(platform.store, name, protected.get(name, ())) for name in check_tables(platform, names)]


# -- repair -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Computed:
    """Sessions of a table that were computed again, and the table's rows before (by the log) and after."""

    table: str
    universe: str
    sessions: np.ndarray
    rows_before: int
    rows_after: int


@dataclass
class Repair:
    """What a repair did.

    ``computed``: sessions that were materialized again; ``dropped``: what was taken out of a table or its log and how
    it comes back, in a sentence each; ``left``: damage that cannot be repaired here, with the reason.
    """

    computed: list[Computed] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    left: list[tuple[Damage, str]] = field(default_factory=list)


def lost_sessions(platform: Platform, damage: Iterable[Damage]) -> dict[tuple[str, str], np.ndarray]:
    """Sessions by table and universe that lie in damaged files of the newest versions, in the order of the chain."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for one in damage:
        if _reason(platform, one) is None and one.universe and one.first and one.last and not _remade(one.table):
            sessions = platform.calendar(one.universe).between(one.first, one.last)
            key = (one.table, one.universe)
            found[key] = np.union1d(found.get(key, np.array([], "M8[D]")), sessions)
    order = {name: at for at, name in enumerate((*WITH_RAW, *stages.asset_names(platform.settings)))}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0][1])))


def repair(platform: Platform, damage: Sequence[Damage]) -> Repair:
    """Bring damaged tables back to what is right.

    First the logs: lost commits are taken out, and what they brought is stale from then on (files of raw_ohlcv are read
    again at once). Then bookkeeping tables, whose damaged files are taken out: their rows come back by themselves. Then
    the sessions in damaged files of the newest versions are materialized, in the order of the chain, each table from
    those before it; the commit that brings their rows takes the damaged files out, so that a repair that stops anywhere
    leaves damage or what is right. Where a stage fails, its error is raised.
    """
    store, done = platform.store, Repair()
    told = {**platform.provenance, "qdag_version": __version__, "reason": "repair"}
    platform = replace(platform, provenance=told)
    damage = list(damage)
    for one in [one for one in damage if one.lost]:
        version = store.drop_lost_commits(one.table)
        now = "no commit is left" if version is None else f"the newest version is {version}"
        done.dropped.append(f"{one.table}: commits from version {one.version} on are taken out of its log; {now}")
        if version is not None:
            damage += [new for new in verify(store, one.table).damage if new not in damage]
    lost_logs = {one.table for one in damage if one.lost}
    damage = [one for one in damage if not one.lost]
    done.left = [(one, reason) for one in damage if (reason := _reason(platform, one)) is not None]
    damage = [one for one in damage if _reason(platform, one) is None]
    for one in damage:
        if one.kind == "checksums":
            store.inside(one.table, one.file).unlink(missing_ok=True)
    data = [one for one in damage if one.kind == "data"]
    for table in dict.fromkeys(one.table for one in data if _remade(one.table)):
        files = [one for one in data if one.table == table]
        store.set_aside(table, [one.file for one in files], told)
        rows = sum(one.rows for one in files)
        done.dropped.append(f"{table}: {rows:,} rows of damaged files are taken out; {_remade(table)}")
    for group in _groups(lost_sessions(platform, data)):
        done.computed += _compute(platform, group, [one for one in data if one.table in {t for t, _ in group}])
    if lost_logs & set(WITH_RAW):
        for universe, spec in platform.settings.universes.items():
            deliveries.forget(store, universe, told)
            result = stages.raw_ohlcv(platform, universe, spec.start, platform.last_session(universe))
            done.dropped.append(f"raw_ohlcv of {universe} is read again from its source: {result.rows:,} rows")
    return done


def _reason(platform: Platform, one: Damage) -> str | None:
    """Why damage cannot be repaired; None where it can."""
    if one.kind == "checksums" or one.lost:
        return None
    if one.kind == "log" or not one.newest:
        return "an old version needs it: only a backup has it"
    if _remade(one.table):
        return None
    if one.universe not in platform.settings.universes:
        return f"universe {one.universe!r} is not in the settings: only a backup has it"
    if _stage(platform.settings, one.table) is None:
        return "no stage of these settings writes the table: only a backup has it"
    return None


def _remade(table: str) -> str:
    """How lost rows of a bookkeeping table come back by themselves; "" for all others."""
    from qdag.quality import profile_table, quality_table

    kind, _, judged = table.partition("_")
    kept = {"quality": quality_table, "profile": profile_table}.get(kind)
    spec = kept(judged) if kept else TABLES.get(table)
    return spec.remade if spec else ""


def _groups(lost: dict[tuple[str, str], np.ndarray]) -> list[dict[tuple[str, str], np.ndarray]]:
    """What one stage writes is repaired together."""
    groups: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    for (table, universe), sessions in lost.items():
        stage = WITH_RAW[0] if table in WITH_RAW else table
        groups.setdefault(stage, {})[(table, universe)] = sessions
    return list(groups.values())


def _compute(platform: Platform, lost: dict[tuple[str, str], np.ndarray], damage: Sequence[Damage]) -> list[Computed]:
    store, told = platform.store, platform.provenance
    tables = list(dict.fromkeys(table for table, _ in lost))
    paths = {table: [one.file for one in damage if one.table == table] for table in tables}
    before = {table: store.files(table).to_pylist() for table in tables}
    stage = _stage(platform.settings, tables[0])
    assert stage is not None
    sessions_of: dict[str, np.ndarray] = {}
    for (_, universe), sessions in lost.items():
        sessions_of[universe] = np.union1d(sessions_of.get(universe, np.array([], "M8[D]")), sessions)
    for universe, sessions in sessions_of.items():
        for start, end in _runs(platform, universe, sessions):
            for table in tables:
                if table in WITH_RAW:
                    deliveries.forget(store, universe, told)
                else:
                    # nothing of what is stored may be taken for what it was recorded to be
                    withdraw(store, universe, table, start, end, told)
            stage(replace(platform, store=store.without(paths)), universe, start, end)
    for table in tables:
        # what held no row that the sessions have now
        store.set_aside(table, paths[table], told)
    return [
        Computed(
            table,
            universe,
            sessions,
            sum(file["rows"] for file in before[table] if file["universe"] == universe),
            store.count(table, universe),
        )
        for (table, universe), sessions in lost.items()
    ]


def _runs(platform: Platform, universe: str, sessions: np.ndarray) -> list[tuple[date, date]]:
    """Stretches of adjacent sessions."""
    everything = platform.calendar(universe).all
    positions = np.searchsorted(everything, sessions)
    parts = np.split(sessions, np.flatnonzero(np.diff(positions) > 1) + 1)
    return [(part[0].item(), part[-1].item()) for part in parts if len(part)]


def _stage(settings: Settings, table: str) -> Callable[[Platform, str, date, date], StageResult] | None:
    """The stage that writes a table; None where there is none."""
    if table in WITH_RAW:
        return stages.raw_ohlcv
    if table in stages.feature_tables(settings):
        return stages.feature_stage(table)
    known = {"labels": stages.labels, "factor_metrics": stages.factor_metrics, "predictions": stages.predictions}
    return known.get(table)
