"""Repair: damaged tables and lost sessions, computed again by the assets that wrote them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qdag import __version__
from qdag.assets.asset import Asset
from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.core.windows import NO_SESSIONS, ranges
from qdag.lineage import withdraw
from qdag.schema import BOOKKEEPING
from qdag.store import deliveries
from qdag.store.integrity import Damage, verify


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
            found[key] = np.union1d(found.get(key, NO_SESSIONS), sessions)
    order = {name: at for at, asset in enumerate(chain(platform.settings)) for name in tables_of(platform, asset)}
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
    for asset, lost in _by_writer(platform, lost_sessions(platform, data)).items():
        tables = {table for table, _ in lost}
        done.computed += _compute(platform, asset, lost, [one for one in data if one.table in tables])
    for asset in chain(platform.settings):
        if asset.read_whole and lost_logs & set(tables_of(platform, asset)):
            for universe, spec in platform.settings.universes.items():
                deliveries.forget(store, universe, told)
                result = asset.compute(platform, universe, spec.start, platform.last_session(universe))
                done.dropped.append(f"{asset.name} of {universe} is read again from its source: {result.rows:,} rows")
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
    if chain(platform.settings).writer_of(one.table) is None:
        return "no stage of these settings writes the table: only a backup has it"
    return None


def _remade(table: str) -> str:
    """How lost rows of a bookkeeping table come back by themselves; "" for all others."""
    from qdag.quality import profile_table, quality_table

    kind, _, judged = table.partition("_")
    kept = {"quality": quality_table, "profile": profile_table}.get(kind)
    spec = kept(judged) if kept else {one.name: one for one in BOOKKEEPING}.get(table)
    return spec.remade if spec else ""


def tables_of(platform: Platform, asset: Asset) -> tuple[str, ...]:
    """Tables that an asset writes."""
    own = asset.table(platform.settings)
    return (*([own.name] if own else []), *(spec.name for spec in asset.also))


def _by_writer(
    platform: Platform, lost: Mapping[tuple[str, str], np.ndarray]
) -> dict[Asset, dict[tuple[str, str], np.ndarray]]:
    """What one asset writes is repaired together."""
    groups: dict[Asset, dict[tuple[str, str], np.ndarray]] = {}
    for asset in chain(platform.settings):
        mine = {key: sessions for key, sessions in lost.items() if key[0] in tables_of(platform, asset)}
        if mine:
            groups[asset] = mine
    return groups


def _compute(
    platform: Platform, asset: Asset, lost: Mapping[tuple[str, str], np.ndarray], damage: Sequence[Damage]
) -> list[Computed]:
    store, told = platform.store, platform.provenance
    tables = list(dict.fromkeys(table for table, _ in lost))
    paths = {table: [one.file for one in damage if one.table == table] for table in tables}
    before = {table: store.files(table).to_pylist() for table in tables}
    sessions_of: dict[str, np.ndarray] = {}
    for (_, universe), sessions in lost.items():
        sessions_of[universe] = np.union1d(sessions_of.get(universe, NO_SESSIONS), sessions)
    for universe, sessions in sessions_of.items():
        for start, end in ranges(platform.calendar(universe).all, sessions):
            for table in tables:
                if asset.read_whole:
                    deliveries.forget(store, universe, told)
                else:
                    # nothing of what is stored may be taken for what it was recorded to be
                    withdraw(store, universe, table, start, end, told)
            asset.compute(replace(platform, store=store.without(paths)), universe, start, end)
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
