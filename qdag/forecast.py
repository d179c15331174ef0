"""What a run would do, before it runs: which sessions of which assets, how many rows, about how long and how large.

Sessions are what the records and the calendar tell, so they are right or too many: whether an input will really change
is known when it is computed. Rows, seconds and sizes are estimates. Nothing is stored; of files a few are read, and
those that changed since they were read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qdag.errors import SourceError
from qdag.landing import unread
from qdag.lineage import Reads
from qdag.refresh import Blocked, survey
from qdag.settings import FilesSource, SyntheticSource
from qdag.sources.files import FilesFolder
from qdag.stages import Platform, asset_names, factors_of, feature_tables, reads_of, table_spec, window_sessions

LOOKED_AT = 20
"""Files that are read to guess how many rows there are."""
START_SECONDS = 8.0
ASSET_SECONDS = 2.0
# measured on two cores, seconds for a million rows with their checks and records; a model by itself
SECONDS = {
    "raw_ohlcv": 30.0,
    "qlib_bin": 15.0,
    "alpha158": 50.0,
    "basic_statistics": 20.0,
    "technical_indicators": 40.0,
    "price_features": 15.0,
    "custom_factors": 10.0,
    "labels": 10.0,
    "factor_metrics": 12.0,
    "predictions": 20.0,
}
MODEL_SECONDS = 12.0
RAW_BYTES, VALUE_BYTES, KEY_BYTES = 60, 4, 4
METRIC_BYTES, SESSION_BYTES = 40, 12_000


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
        return START_SECONDS + sum(step.seconds for step in self.steps) if self.steps else 0.0

    @property
    def bytes(self) -> int:
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
    settings = platform.settings
    spec, last = settings.universe(universe), platform.last_session(universe)
    sessions = window_sessions(platform, universe, spec.start, last)
    source, per_session, newest = _source(platform, universe, sessions)
    beyond = sessions[sessions > newest] if newest is not None else sessions[:0]
    have = platform.store.sessions("raw_ohlcv", universe) if platform.store.exists("raw_ohlcv") else sessions[:0]
    new = np.setdiff1d(np.setdiff1d(sessions, have), beyond)
    seen = survey(platform, universe)
    stale = {name: found.sessions for name, found in seen.stale.items()}
    files = unread(platform, universe)
    changed = np.setdiff1d(np.intersect1d(files.sessions, have), beyond)
    raw = np.union1d(np.union1d(stale.get("raw_ohlcv", new[:0]), new), changed)
    todo: dict[str, np.ndarray] = {"raw_ohlcv": raw}
    for asset in asset_names(settings)[1:]:
        if asset in ("trained_model", "predictions"):
            continue
        reads = reads_of(settings, universe, asset)
        if asset == "factor_metrics":
            reads = (*reads, Reads("labels"))
        found = [
            np.intersect1d(stale.get(asset, new[:0]), sessions),
            *(_reached(sessions, todo, read) for read in reads),
        ]
        todo[asset] = np.unique(np.concatenate(found))
    ends = platform.calendar(universe).month_ends()
    trained = np.intersect1d(ends, new)[-months:] if months else new[:0]
    todo["trained_model"] = trained
    scored = new[new > trained[0]] if len(trained) else new[:0]
    todo["predictions"] = np.union1d(np.intersect1d(stale.get("predictions", new[:0]), sessions), scored)
    steps = []
    for asset, days in todo.items():
        if len(days):
            reason = seen.stale[asset].reason() if seen.stale.get(asset) else "inputs would change"
            if asset == "raw_ohlcv" and len(changed):
                reason = files.reason
            steps.append(_step(platform, universe, asset, days, _why(asset, days, new, reason), per_session))
    return Forecast(universe, source, tuple(steps), tuple(seen.blocked), new, not len(have), beyond, newest)


def _reached(sessions: np.ndarray, todo: Mapping[str, np.ndarray], read: Reads) -> np.ndarray:
    """The sessions whose inputs lie among what is computed of ``read.asset``."""
    days = todo.get(read.asset, sessions[:0])
    marks = np.zeros(len(sessions) + 1, np.int64)
    at = np.searchsorted(sessions, days)
    np.add.at(marks, np.maximum(at - read.future, 0), 1)
    np.add.at(marks, np.minimum(at + min(read.past, len(sessions)) + 1, len(sessions)), -1)
    return sessions[np.cumsum(marks)[:-1] > 0]


def _why(asset: str, days: np.ndarray, new: np.ndarray, reason: str) -> str:
    if asset == "trained_model":
        return "month ends of new sessions"
    fresh = len(np.intersect1d(days, new))
    return "new" if fresh == len(days) else f"{fresh:,} new; {reason}" if fresh else reason


def _source(platform: Platform, universe: str, sessions: np.ndarray) -> tuple[str, float, np.datetime64 | None]:
    """What is read, rows of a session, and the last day of files."""
    spec, store = platform.settings.universe(universe), platform.store
    stored = store.sessions("raw_ohlcv", universe) if store.exists("raw_ohlcv") else sessions[:0]
    known = store.count("raw_ohlcv", universe) / len(stored) if len(stored) else 0.0
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


def _step(platform: Platform, universe: str, asset: str, days: np.ndarray, why: str, per_session: float) -> Step:
    settings, spec = platform.settings, platform.settings.universe(universe)
    rows = round(len(days) * per_session)
    if asset == "trained_model":
        training = settings.training_for(universe)
        used = training.train_sessions + training.valid_sessions + training.test_sessions
        return Step(asset, days, why, round(used * per_session) * len(days), len(days) * MODEL_SECONDS, 1 << 20)
    columns = 0
    if asset == "factor_metrics":
        factors = sum(len(factors_of(settings, table)) for table in feature_tables(settings))
        rows = len(days) * factors * len(settings.horizons) * (1 + len(spec.pools))
        size = rows * METRIC_BYTES
    else:
        table = table_spec(settings, asset)
        columns = len(table.values) if table else 9
        wide = RAW_BYTES if asset == "raw_ohlcv" else columns * VALUE_BYTES + KEY_BYTES
        size = rows * wide
    seconds = ASSET_SECONDS + rows / 1e6 * SECONDS[asset]
    return Step(asset, days, why, rows, seconds, size + len(days) * SESSION_BYTES)
