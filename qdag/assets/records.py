"""What an asset's sessions were computed from, as it is recorded when they are written and compared before."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qdag.assets.asset import Asset
from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.core.windows import looks_back_on
from qdag.lineage import Definition, Lineage, Reads, forget, record
from qdag.lineage.definition import shared_part
from qdag.schema import QLIB_BIN, RAW_OHLCV
from qdag.store.files import write_text


def lineage_of(platform: Platform, universe: str, first: int, last: int) -> Lineage:
    """Records from one position of the calendar to another, as far as it goes."""
    calendar = platform.calendar(universe).all
    return Lineage(platform.store, universe, calendar[max(0, first) : last + 1], calendar)


def inputs_of(
    platform: Platform, universe: str, asset: Asset, sessions: np.ndarray, defined: Definition | None = None
) -> np.ndarray | None:
    """Digests of what sessions (without gaps) would be computed from now, uint64 (S,); None of what has no lineage.

    ``defined``: by an earlier definition of the asset; by default the current one.
    """
    reads = asset.reads(platform.settings, universe, defined)
    if not reads:
        return None
    at = np.searchsorted(platform.calendar(universe).all, sessions)
    first, last = at[0] - max(read.past for read in reads), at[-1] + max(read.future for read in reads)
    lineage = lineage_of(platform, universe, first, last)
    versions = chain(platform.settings).versions(universe)
    digests = lineage.inputs(reads, versions)[np.searchsorted(lineage.sessions, sessions)]
    digests[asset.unsound(platform, universe, sessions)] ^= np.uint64(1)
    return digests


def behind_gaps(platform: Platform, universe: str, sessions: np.ndarray, past: int) -> np.ndarray:
    """Sessions (without gaps) that look back over a gap to what the Qlib directory does not hold yet: bool (S,).

    Whether an instrument that trades again after a gap is listed there, and which bars are, is told by the records of
    raw_ohlcv as its rows are. Who reads ``past`` sessions of the directory sees that only where the directory holds all
    sessions before them as they would be written now.
    """
    calendar = platform.calendar(universe).all
    at = np.searchsorted(calendar, sessions)
    lineage, first = lineage_of(platform, universe, 0, int(at[-1])), np.maximum(at - past, 0)
    behind = np.searchsorted(calendar, _behind(platform, lineage)).min(initial=at[-1])
    gaps = np.flatnonzero(lineage.records(RAW_OHLCV.name).memory != 0)
    return looks_back_on(gaps, at, past) & (behind < first)


def _behind(platform: Platform, lineage: Lineage) -> np.ndarray:
    """Sessions whose bars the Qlib directory holds otherwise than they would be written now, M8[D]: pools apart."""
    settings, universe = platform.settings, lineage.universe
    bins = chain(settings)[QLIB_BIN]
    version = bins.definition(settings, universe).version
    found = lineage.stale({QLIB_BIN: bins.reads(settings, universe)}, {QLIB_BIN: version})[QLIB_BIN]
    found = bins.stale(platform, lineage, found)
    same = [shared_part(text) == shared_part(version) for text in lineage.records(QLIB_BIN).definitions.tolist()]
    return np.concatenate([found.missing, found.data, found.rows, np.setdiff1d(found.code, lineage.sessions[same])])


def version_read(platform: Platform, universe: str, asset: Asset, name: str, sessions: np.ndarray) -> int | None:
    """Version of a table that an asset reads; of raw_ohlcv, which it reads through the Qlib directory, the newest one
    whose bars lie there."""
    reads: Mapping[str, Reads] = {read.asset: read for read in asset.reads(platform.settings, universe)}
    if name != RAW_OHLCV.name or QLIB_BIN not in reads:
        return platform.store.version(name)
    read, at = reads[QLIB_BIN], np.searchsorted(platform.calendar(universe).all, [sessions[0], sessions[-1]])
    versions = lineage_of(platform, universe, at[0] - read.past, at[1] + read.future).records(QLIB_BIN).versions
    return int(versions.max(initial=-1)) if (versions >= 0).any() else None


def record_sessions(
    platform: Platform,
    universe: str,
    asset: Asset,
    sessions: np.ndarray,
    inputs: np.ndarray | None,
    version: int | None,
) -> None:
    """Record what sessions were computed from, with the version of the table that holds them. ``inputs`` None: the
    asset has no lineage."""
    if inputs is not None and len(sessions):
        defined = asset.definition(platform.settings, universe)
        if defined.columns:
            file = _definition_file(platform, defined.version)
            if not file.exists():
                write_text(file, defined.text())
        record(platform.store, universe, asset.name, sessions, inputs, defined.version, version, platform.provenance)


def forget_sessions(
    platform: Platform,
    universe: str,
    asset: Asset,
    sessions: np.ndarray,
    inputs: np.ndarray | None,
    always: bool = False,
) -> None:
    """Withdraw the records of sessions before their rows go, where they will be others; ``always``: of all."""
    if inputs is not None:
        version = asset.definition(platform.settings, universe).version
        forget(platform.store, universe, asset.name, sessions, inputs, version, platform.provenance, always)


def reusable_columns(platform: Platform, universe: str, asset: Asset, sessions: np.ndarray) -> tuple[str, ...]:
    """Columns (or factors) whose stored values would not come out differently: only the definition of others changed.

    Empty where the inputs have changed, where sessions are of several definitions or of none, where other rows are
    stored than were recorded, and where nothing has changed at all: then somebody wants everything computed again.
    """
    at = np.searchsorted(platform.calendar(universe).all, sessions)
    records = lineage_of(platform, universe, int(at[0]), int(at[-1])).records(asset.name)
    versions = set(records.definitions.tolist())
    current = asset.definition(platform.settings, universe)
    if not (records.known & records.intact).all() or len(versions) != 1 or versions == {current.version}:
        return ()
    old = earlier_definition(platform, versions.pop())
    if old is None or old.shared != current.shared:
        return ()
    if np.any(inputs_of(platform, universe, asset, sessions, old) != records.inputs):
        return ()
    return tuple(name for name, text in current.columns.items() if old.columns.get(name) == text)


def earlier_definition(platform: Platform, version: str) -> Definition | None:
    """The definition of a version that something was recorded with; None where it is not kept."""
    try:
        return Definition.parse(_definition_file(platform, version).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _definition_file(platform: Platform, version: str) -> Path:
    """Where a definition is kept, by its version."""
    return platform.settings.home / "definitions" / f"{version}.json"
