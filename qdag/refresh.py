"""What has to be materialized again and in which order: stale sessions as ranges, grouped into runs.

Nothing is run here and no orchestrator is known: the command, the sensors and plain Python ask for the next runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np
import pyarrow.compute as pc

from qdag.errors import SessionError
from qdag.lineage import Lineage, Stale
from qdag.sources.reasons import Reason
from qdag.stages import Platform, asset_names, reads_of, stored_sessions, versions_of, window_sessions
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

    stale : sessions of every asset, in the order of the chain; of raw_ohlcv those that the newest reading of its source
        contradicts
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

    A model is stale where what it was trained on changed; a month without one is not. Predictions are expected on
    sessions after the first model. Assets that are stale on exactly the sessions of what they read share its run.
    """
    lineage = _lineage(platform, universe)
    found = _stale(platform, lineage)
    requests, blocked = _next(platform, lineage, found, assets)
    shown = {n: stale for n, stale in found.items() if assets is None or n in assets}
    return Survey(shown, requests, blocked, _judging(platform, lineage, found, blocked))


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
        for first, last in gapless(calendar, np.unique(np.concatenate(days))):
            span = calendar[first].item(), calendar[last].item()
            why = f"{name}: failed checks are judged again"
            requests.append(Request(lineage.universe, (name,), *span, last - first + 1, why, lineage.fingerprint()))
    return requests


def _lineage(platform: Platform, universe: str) -> Lineage:
    spec, calendar = platform.settings.universe(universe), platform.calendar(universe)
    return Lineage(
        platform.store, universe, calendar.between(spec.start, platform.last_session(universe)), calendar.all
    )


def _stale(platform: Platform, lineage: Lineage) -> dict[str, Stale]:
    settings = platform.settings
    chain = {name: reads_of(settings, lineage.universe, name) for name in asset_names(settings) if name != "raw_ohlcv"}
    # first in the chain: what the newest reading of the source contradicts
    raw = {"raw_ohlcv": Stale("raw_ohlcv", data=contradicted(platform.store, lineage.universe))}
    found = raw | lineage.stale(chain, versions_of(settings, lineage.universe))
    trained = lineage.recorded("trained_model")
    none = lineage.sessions[:0]
    scores = found["predictions"]
    served = scores.missing[scores.missing > trained[0]] if len(trained) else none
    found["predictions"] = replace(scores, missing=served)
    found["trained_model"] = replace(found["trained_model"], missing=none)
    # the directory is no table with a log: at least its calendar tells what it holds
    bins = found["qlib_bin"]
    lost = np.setdiff1d(lineage.recorded("qlib_bin"), stored_sessions(platform, "qlib_bin", lineage.universe))
    if len(lost):
        others = {name: np.setdiff1d(getattr(bins, name), lost) for name in ("missing", "code", "data")}
        found["qlib_bin"] = Stale("qlib_bin", **others, rows=lost)
    return found


def _next(
    platform: Platform, lineage: Lineage, found: dict[str, Stale], assets: Sequence[str] | None
) -> tuple[list[Request], list[Blocked]]:
    universe, blocked = lineage.universe, []
    calendar = platform.calendar(universe).all
    ranges = {name: gapless(calendar, stale.sessions) for name, stale in found.items()}
    if spans := ranges["raw_ohlcv"]:
        # the source is read whole for any session of it, and only what differs is written
        ranges["raw_ohlcv"] = [(spans[0][0], spans[-1][1])]
    if "labels" in ranges:
        reach = max(platform.settings.horizons) + 1
        ranges["labels"] = [_label_window(span, reach, ranges.get("qlib_bin", [])) for span in ranges["labels"]]
    wanted = [n for n in found if ranges[n] and n != "trained_model" and (assets is None or n in assets)]
    ready: list[str] = []
    for name in wanted:
        upstream = [r.asset for r in reads_of(platform.settings, universe, name) if r.asset in wanted]
        if name == "factor_metrics" and "labels" in wanted:
            upstream.append("labels")
        if reason := _forbidden(platform, lineage, name, ranges[name], calendar):
            blocked.append(Blocked(name, len(found[name].sessions), *reason))
        elif all(up in ready and ranges[up] == ranges[name] for up in upstream):
            ready.append(name)
    groups: dict[tuple[int, int], list[str]] = {}
    for name in ready:
        for span in ranges[name]:
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


@dataclass(frozen=True)
class Chunk:
    """A part of a backfill: ``assets`` to compute from ``start`` to ``end``, none where all is up to date.

    ``sessions`` are 0 where another part over the same days follows.
    """

    assets: tuple[str, ...]
    start: date
    end: date
    sessions: int
    total: int


def backfill_chunks(
    platform: Platform,
    universe: str,
    start: date | None,
    end: date | None,
    assets: Sequence[str] | None,
    size: int,
    again: bool = False,
) -> Iterator[Chunk]:
    """Cut a range into chunks of sessions, in order; each says what is not up to date in it when it is asked for.

    raw_ohlcv is asked for where sessions of the chunk have no rows, or others than the source gives; by itself where
    something was computed from what is there: whether that is stale is known only when the rows have come. Assets that
    are trained, not filled, are left out.
    """
    first = start or platform.settings.universe(universe).start
    last = end or platform.last_session(universe)
    sessions = window_sessions(platform, universe, first, last)
    if not len(sessions):
        raise SessionError(f"universe {universe!r} has no session from {first} to {last}; choose another range")
    names = [n for n in asset_names(platform.settings) if n != "trained_model" and (assets is None or n in assets)]
    for at in range(0, len(sessions), size):
        part = sessions[at : at + size]
        span = part[0].item(), part[-1].item()
        wanted = list(names)
        lineage = _lineage(platform, universe)
        if not again:
            new = np.setdiff1d(part, stored_sessions(platform, "raw_ohlcv", universe))
            new = np.union1d(new, np.intersect1d(part, contradicted(platform.store, universe)))
            asks = len(new) and "raw_ohlcv" in names
            if asks and any(np.isin(lineage.recorded(name), new).any() for name in names if name != "raw_ohlcv"):
                yield Chunk(("raw_ohlcv",), *span, 0, len(sessions))
                lineage, asks = _lineage(platform, universe), False
            stale = _stale(platform, lineage)
            wanted = ["raw_ohlcv"] if asks else []
            for name in names:
                # what was computed from the absence of rows is not asked for again as long as they are absent
                open_ones = new if asks else part[:0]
                if name != "raw_ohlcv" and (len(open_ones) or np.isin(stale[name].sessions, part).any()):
                    wanted.append(name)
        if "predictions" in wanted and not len(lineage.recorded("trained_model")):
            wanted.remove("predictions")
        yield Chunk(tuple(wanted), *span, len(part), len(sessions))


@dataclass(frozen=True)
class Failed:
    """An instrument, or a file, that was refused as a whole; ``start``: first day of what had been asked for."""

    instrument: str
    source: str
    reason: str
    detail: str
    start: date


def failed_instruments(platform: Platform, universe: str) -> list[Failed]:
    """What of a universe was refused as a whole and has not come since, the newest first."""
    if not platform.store.exists("quarantine"):
        return []
    rows = platform.store.read("quarantine", universe)
    rows = rows.filter(pc.field("line") == 0).sort_by([("date", "descending"), ("instrument", "ascending")])
    columns = (rows[name].to_pylist() for name in ("instrument", "source", "reason", "row", "date"))
    return [
        Failed(name, source, reason, row or "", day) for name, source, reason, row, day in zip(*columns, strict=True)
    ]


def held_back(platform: Platform, universe: str) -> list[Failed]:
    """The instruments whose delivery has so much less than is stored of them that nothing of it was taken over."""
    return [one for one in failed_instruments(platform, universe) if one.reason == Reason.HISTORY_WITHDRAWN]


def _forbidden(
    platform: Platform, lineage: Lineage, name: str, ranges: list[tuple[int, int]], calendar: np.ndarray
) -> tuple[str, str, np.ndarray] | None:
    """What an asset reads for these sessions that failed a blocking check, which checks, and on which sessions."""
    for read in reads_of(platform.settings, lineage.universe, name):
        texts = lineage.records(read.asset).blocked
        days, texts = lineage.sessions[texts != ""], texts[texts != ""]
        at = np.searchsorted(calendar, days)
        inside = np.zeros(len(at), bool)
        for first, last in ranges:
            inside |= (at >= first - read.past) & (at <= last + read.future)
        if inside.any():
            return read.asset, str(texts[inside][0]), days[inside]
    return None


def gapless(calendar: np.ndarray, sessions: np.ndarray) -> list[tuple[int, int]]:
    """Positions of first and last session of each gapless range."""
    positions = np.searchsorted(calendar, sessions)
    if not len(positions):
        return []
    cuts = np.flatnonzero(np.diff(positions) > 1)
    firsts, lasts = positions[np.append(0, cuts + 1)], positions[np.append(cuts, len(positions) - 1)]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def _label_window(span: tuple[int, int], reach: int, others: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The window to ask for, whose stage itself goes back over the sessions whose labels became known in it."""
    first, last = span
    for begin, end in others:
        if end == last and begin <= first + reach:
            return begin, end
    return min(first + reach, last), last
