"""What a run would do, before it runs: which sessions of which assets, how many rows, about how long and how large.

Sessions are what the records and the calendar tell, so they are right or too many: whether an input will really change
is known when it is computed. Rows, seconds and sizes are estimates. Nothing is stored; of files a few are read, and
those that changed since they were read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qdag.assets.asset import Asset
from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.errors import SourceError
from qdag.lineage import Reads
from qdag.operations.landing import unread
from qdag.operations.survey import Blocked, survey
from qdag.schema import RAW_OHLCV
from qdag.settings import FilesSource, SyntheticSource
from qdag.sources.files import FilesFolder

LOOKED_AT = 20
"""Files that are read to guess how many rows there are."""
START_SECONDS = 8.0
ASSET_SECONDS = 2.0
SESSION_BYTES = 12_000
"""Records and outcomes of checks, for one session of one asset."""


@dataclass(frozen=True)
class Step:
    """What would be done for one asset.

    ``sessions``: datetime64[D], those of the months' ends for trained_model; ``seconds`` and ``bytes`` are guesses.
    """

    asset: str
    sessions: np.ndarray
    why: str
    rows: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Forecast:
    """Steps of a universe in the order of the chain, those with nothing to do left out.

    source : what is read, in words
    new : sessions that raw_ohlcv does not have yet
    new_is_all : it has none at all
    beyond : sessions of the universe after ``newest``, the last day of its files, on which nothing can come
    """

    universe: str
    source: str
    steps: tuple[Step, ...]
    blocked: tuple[Blocked, ...]
    new: np.ndarray
    new_is_all: bool
    beyond: np.ndarray
    newest: np.datetime64 | None

    @property
    def seconds(self) -> float:
        """Of all steps, the start of a run included; 0 where there is nothing to do."""
        return START_SECONDS + sum(step.seconds for step in self.steps) if self.steps else 0.0

    @property
    def bytes(self) -> int:
        """Of all steps, on disk."""
        return sum(step.bytes for step in self.steps)


def forecast(platform: Platform, universe: str, months: int) -> Forecast:
    """What materializing what is new and refreshing what is stale would do.

    Parameters
    ----------
    months : how many month ends of the new sessions would be trained at, the last ones

    Raises
    ------
    SourceError
        A folder that cannot be looked at.
    """
    whole, sessions = chain(platform.settings), platform.sessions(universe)
    source, per_session, newest = _source(platform, universe, sessions)
    beyond = sessions[sessions > newest] if newest is not None else sessions[:0]
    have = platform.stored(RAW_OHLCV.name, universe)
    new = np.setdiff1d(np.setdiff1d(sessions, have), beyond)
    seen = survey(platform, universe)
    stale = {name: found.sessions for name, found in seen.stale.items()}
    files = unread(platform, universe)
    changed = np.setdiff1d(np.intersect1d(files.sessions, have), beyond)
    trained = np.intersect1d(platform.calendar(universe).month_ends(), new)[-months:] if months else new[:0]
    todo: dict[str, np.ndarray] = {}
    for asset in whole:
        if asset.period == "month":
            todo[asset.name] = trained
        elif asset in whole.after_months:
            scored = new[new > trained[0]] if len(trained) else new[:0]
            todo[asset.name] = np.union1d(np.intersect1d(stale.get(asset.name, new[:0]), sessions), scored)
        elif asset.read_whole:
            todo[asset.name] = np.union1d(np.union1d(stale.get(asset.name, new[:0]), new), changed)
        else:
            reads = asset.reads(platform.settings, universe)
            silent = set(asset.upstream(platform.settings, universe)) - {read.asset for read in reads}
            reached = (_reached(sessions, todo, read) for read in (*reads, *map(Reads, sorted(silent))))
            known = np.intersect1d(stale.get(asset.name, new[:0]), sessions)
            todo[asset.name] = np.unique(np.concatenate([known, *reached]))
    steps = []
    for asset in whole:
        days = todo[asset.name]
        if len(days):
            found = seen.stale.get(asset.name)
            reason = found.reason() if found else "inputs would change"
            why = _why(asset, days, new, files.reason if asset.read_whole and len(changed) else reason)
            steps.append(_step(platform, universe, asset, days, why, per_session))
    return Forecast(universe, source, tuple(steps), tuple(seen.blocked), new, not len(have), beyond, newest)


def _reached(sessions: np.ndarray, todo: Mapping[str, np.ndarray], read: Reads) -> np.ndarray:
    """The sessions whose inputs lie among what is computed of ``read.asset``."""
    days = todo.get(read.asset, sessions[:0])
    marks = np.zeros(len(sessions) + 1, np.int64)
    at = np.searchsorted(sessions, days)
    np.add.at(marks, np.maximum(at - read.future, 0), 1)
    np.add.at(marks, np.minimum(at + min(read.past, len(sessions)) + 1, len(sessions)), -1)
    return sessions[np.cumsum(marks)[:-1] > 0]


def _why(asset: Asset, days: np.ndarray, new: np.ndarray, reason: str) -> str:
    if asset.period == "month":
        return "month ends of new sessions"
    fresh = len(np.intersect1d(days, new))
    return "new" if fresh == len(days) else f"{fresh:,} new; {reason}" if fresh else reason


def _source(platform: Platform, universe: str, sessions: np.ndarray) -> tuple[str, float, np.datetime64 | None]:
    """What is read, rows of a session, and the last day of files."""
    spec, store = platform.settings.universe(universe), platform.store
    stored = platform.stored(RAW_OHLCV.name, universe)
    known = store.count(RAW_OHLCV.name, universe) / len(stored) if len(stored) else 0.0
    source = spec.source
    if isinstance(source, FilesSource):
        looked = FilesFolder(universe, spec, source).look(LOOKED_AT)
        if not len(looked.days):
            raise SourceError(f"no file of {str(source.path)!r} has a dated row; qdag doctor says what is wrong")
        rows = looked.rows * looked.files / max(1, looked.looked_at)
        inside = int(looked.traded[np.isin(looked.days, sessions)].sum())
        used = rows * inside / max(1, int(looked.traded.sum()))
        spanned = int(((sessions >= looked.days[0]) & (sessions <= looked.days[-1])).sum())
        told = f"{looked.files:,} files, {looked.size / 2**20:,.0f} MB, about {rows:,.0f} rows"
        return told, known or used / max(1, spanned), looked.days[-1]
    if isinstance(source, SyntheticSource):
        return f"{source.instruments:,} generated instruments", known or float(source.instruments), None
    if spec.instruments:
        return f"{source.kind}, {len(spec.instruments):,} instruments", known or float(len(spec.instruments)), None
    return source.kind, known or 5.0, None


def _step(platform: Platform, universe: str, asset: Asset, days: np.ndarray, why: str, per_session: float) -> Step:
    about = asset.estimate(platform.settings, universe, days, per_session)
    if asset.period == "month":
        return Step(asset.name, days, why, about.rows, about.seconds, about.bytes)
    size = about.bytes + len(days) * SESSION_BYTES
    return Step(asset.name, days, why, about.rows, ASSET_SECONDS + about.seconds, size)
