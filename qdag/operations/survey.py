"""What has to be materialized again and in which order: stale sessions as ranges, grouped into runs.

1. Every asset's records are compared with what would be recorded now (``qdag.lineage``); the asset says what counts.
2. Stale sessions become gapless ranges, and each asset says which windows to ask for so that they are computed.
3. An asset waits where what it reads has failed a blocking check on sessions that it reads.
4. An asset is ready where nothing that it is made from is stale, or is asked for over the very same windows.
5. Ready assets over one window share a run.

Nothing is run here and no orchestrator is known: the command, the sensors and plain Python ask for the next runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np

from qdag.assets.asset import Asset, Range
from qdag.assets.chain import Chain, chain
from qdag.assets.platform import Platform
from qdag.assets.records import earlier_definition
from qdag.core.windows import gapless, ranges
from qdag.lineage import Lineage, Stale
from qdag.store.deliveries import contradicted


@dataclass(frozen=True)
class Request:
    """One run: assets of a universe, in the order of the chain, over the sessions from ``start`` to ``end``."""

    universe: str
    assets: tuple[str, ...]
    start: date
    end: date
    sessions: int
    reason: str
    state: str
    """Fingerprint of what was stored when this was asked for: the same request again has another one."""


@dataclass(frozen=True)
class Blocked:
    """An asset that is stale, and the checks of what it reads that forbid to compute it."""

    asset: str
    sessions: int
    upstream: str
    checks: str
    failed: np.ndarray = field(default_factory=lambda: np.array([], "M8[D]"), compare=False)
    """Sessions of ``upstream`` that failed them."""

    def __str__(self) -> str:
        return f"{self.asset} waits: {self.upstream} failed {self.checks}"


@dataclass(frozen=True)
class Survey:
    """What of a universe is stale and what can be done about it, as of one reading of the records.

    stale : sessions of every asset, in the order of the chain; of what is read from outside those that the newest
        reading of its source contradicts
    requests : the runs that can start now: what is stale while nothing that it reads is, as few runs as possible.
        What else is stale after them is told by the next survey. Models are not trained again by themselves.
    blocked : what is stale and waits for a blocking check of what it reads
    judging : the runs that would have those checks judged again, where what they judge is itself up to date: limits or
        what a check compares with may have changed since
    """

    stale: dict[str, Stale]
    requests: list[Request]
    blocked: list[Blocked]
    judging: list[Request] = field(default_factory=list)


def survey(platform: Platform, universe: str, assets: Sequence[str] | None = None) -> Survey:
    """What is stale, of some assets or of all, and which runs bring it up to date.

    Assets of months are never asked for: they are not made again by themselves. Assets that are stale on exactly the
    sessions of what they read share its run.
    """
    lineage = lineage_of_universe(platform, universe)
    found = stale_of(platform, lineage)
    requests, blocked = _next(platform, lineage, found, assets)
    shown = {n: stale for n, stale in found.items() if assets is None or n in assets}
    return Survey(shown, requests, blocked, _judging(platform, lineage, found, blocked))


def lineage_of_universe(platform: Platform, universe: str) -> Lineage:
    """Records of all sessions of a universe that have closed."""
    return Lineage(platform.store, universe, platform.sessions(universe), platform.calendar(universe).all)


def stale_of(platform: Platform, lineage: Lineage) -> dict[str, Stale]:
    """Stale sessions of every asset, in the order of the chain."""
    whole, universe = chain(platform.settings), lineage.universe
    reads = {asset.name: asset.reads(platform.settings, universe) for asset in whole}
    found = lineage.stale({name: read for name, read in reads.items() if read}, whole.versions(universe))
    # what reads nothing stored is stale where the newest reading of its source says so
    outside = {
        name: Stale(name, data=contradicted(platform.store, universe)) for name, read in reads.items() if not read
    }
    counted = {asset.name: asset.stale(platform, lineage, (outside | found)[asset.name]) for asset in whole}
    return {
        name: replace(stale, columns=_computed_columns(platform, lineage, stale)) if len(stale.code) else stale
        for name, stale in counted.items()
    }


def _computed_columns(platform: Platform, lineage: Lineage, found: Stale) -> tuple[str, ...] | None:
    """See ``Stale.columns``."""
    whole, universe = chain(platform.settings), lineage.universe
    asset = whole[found.asset]
    at = np.searchsorted(lineage.sessions, found.code)
    versions = set(lineage.records(asset.name).definitions[at].tolist())
    if len(versions) != 1 or len(found.code) < len(found.sessions):
        return None
    old, current = earlier_definition(platform, versions.pop()), asset.definition(platform.settings, universe)
    if old is None or old.shared != current.shared:
        return None
    reads = {other.name: other.reads(platform.settings, universe) for other in whole}
    reads[asset.name] = asset.reads(platform.settings, universe, old)
    if any(one.asset not in reads for one in reads[asset.name]):
        # what it read is no asset any more
        return None
    # what would be stale if it were still defined as it was, and all that it reads up to date
    defined = whole.versions(universe) | {asset.name: old.version}
    before = lineage.stale({name: read for name, read in reads.items() if read}, defined)[asset.name]
    if len(np.intersect1d(before.sessions, found.code)):
        return None
    return tuple(name for name, text in current.columns.items() if old.columns.get(name) != text)


def _judging(
    platform: Platform, lineage: Lineage, found: Mapping[str, Stale], blocked: Sequence[Blocked]
) -> list[Request]:
    calendar = platform.calendar(lineage.universe).all
    failed: dict[str, list[np.ndarray]] = {}
    for one in blocked:
        failed.setdefault(one.upstream, []).append(one.failed)
    requests = []
    for name, days in failed.items():
        if found.get(name):
            continue
        sessions = np.unique(np.concatenate(days))
        for start, end in ranges(calendar, sessions):
            count = int(((sessions >= np.datetime64(start)) & (sessions <= np.datetime64(end))).sum())
            why = f"{name}: failed checks are judged again"
            requests.append(Request(lineage.universe, (name,), start, end, count, why, lineage.fingerprint()))
    return requests


def _next(
    platform: Platform, lineage: Lineage, found: dict[str, Stale], assets: Sequence[str] | None
) -> tuple[list[Request], list[Blocked]]:
    settings, universe = platform.settings, lineage.universe
    calendar, whole = platform.calendar(universe).all, chain(settings)
    windows = _windows(platform, universe, whole, found)
    wanted = [a for a in whole.sessions if windows[a.name] and (assets is None or a.name in assets)]
    blocked: list[Blocked] = []
    ready: list[str] = []
    for asset in wanted:
        if reason := _forbidden(platform, lineage, asset, windows[asset.name], calendar):
            blocked.append(Blocked(asset.name, len(found[asset.name].sessions), *reason))
            continue
        made_from = _made_from(platform, universe, asset) & {other.name for other in wanted}
        if all(name in ready and windows[name] == windows[asset.name] for name in made_from):
            ready.append(asset.name)
    groups: dict[Range, list[str]] = {}
    for name in ready:
        for span in windows[name]:
            groups.setdefault(span, []).append(name)
    state = lineage.fingerprint()
    requests = [
        Request(
            universe,
            tuple(names),
            calendar[first].item(),
            calendar[last].item(),
            last - first + 1,
            "; ".join(f"{name}: {found[name].reason()}" for name in names),
            state,
        )
        for (first, last), names in sorted(groups.items())
    ]
    return requests, blocked


def _windows(platform: Platform, universe: str, whole: Chain, found: Mapping[str, Stale]) -> dict[str, list[Range]]:
    """The windows to ask for, by asset."""
    calendar = platform.calendar(universe).all
    spans = {name: gapless(calendar, stale.sessions) for name, stale in found.items()}
    return {asset.name: asset.request(platform.settings, spans[asset.name], spans) for asset in whole}


def _made_from(platform: Platform, universe: str, asset: Asset) -> set[str]:
    """Assets that must be up to date before an asset is computed, whether or not it records their sessions."""
    reads = asset.reads(platform.settings, universe)
    return {read.asset for read in reads} | set(asset.upstream(platform.settings, universe))


def _forbidden(
    platform: Platform, lineage: Lineage, asset: Asset, windows: Sequence[Range], calendar: np.ndarray
) -> tuple[str, str, np.ndarray] | None:
    """What an asset reads for these windows that failed a blocking check, which checks, and on which sessions."""
    for read in asset.reads(platform.settings, lineage.universe):
        texts = lineage.records(read.asset).blocked
        days, texts = lineage.sessions[texts != ""], texts[texts != ""]
        at = np.searchsorted(calendar, days)
        inside = np.zeros(len(at), bool)
        for first, last in windows:
            inside |= (at >= first - read.past) & (at <= last + read.future)
        if inside.any():
            return read.asset, str(texts[inside][0]), days[inside]
    return None
