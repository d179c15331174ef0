"""Who belongs to a pool: members of published indexes, of a file, or by traded value."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from qdag.core.pools import Pool, Span, read_pool, top_pool
from qdag.errors import SourceError
from qdag.settings import INDEXES, FilePool, IndexPool, PoolSettings, TopPool, UniverseSettings
from qdag.sources.membership.symbols import Symbols

Stored = Mapping[str, tuple[date, date]]
"""First and last stored session of every instrument of a universe."""
Traded = tuple[Sequence[str], np.ndarray]
"""Instruments (I), and their traded value on every session of the universe, float64 (I, S)."""

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Membership:
    """A pool of a universe and how it came about.

    Parameters
    ----------
    pool : spans within the stored history of each instrument, as :meth:`qdag.core.pools.Pool.clipped` gives them
    kind : ``index``, ``file`` or ``top``
    size : nominal number of members; None where there is none
    unmatched : symbols that are members within the universe's days but stand for no instrument, or for several
    outside : instruments that matched, but of which nothing is stored while they are members
    overlapping : spans that overlapped another one of their instrument and were joined with it
    empty : symbols whose span in an index's history has no day
    """

    pool: Pool
    kind: str
    size: int | None
    unmatched: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    overlapping: int = 0
    empty: tuple[str, ...] = ()

    @property
    def lost(self) -> tuple[str, ...]:
        """What is a member elsewhere and not here, with the reason where it is not simply unknown."""
        return (*self.unmatched, *(f"{name} (nothing stored while a member)" for name in self.outside))


def pools_of(
    universe: UniverseSettings, stored: Stored, sessions: np.ndarray, traded: Callable[[], Traded]
) -> tuple[Membership, ...]:
    """The configured pools of a universe, in the order of the settings; ``all`` is not among them.

    Parameters
    ----------
    stored : days of each instrument; spans are clipped to them
    sessions : every session of the universe up to the last stored one, datetime64[D]; spans begin and end on them
    traded : gives traded value; called only where a pool of kind ``top`` is configured

    Raises
    ------
    SourceError
        A pool's file, or the package with the indexes, cannot be read.
    UnknownNameError
        ``symbols`` of a pool name no instrument of the universe.
    """
    given: list[Traded] = []

    def once() -> Traded:
        if not given:
            given.append(traded())
        return given[0]

    return tuple(_membership(name, pool, universe, stored, sessions, once) for name, pool in universe.pools.items())


def definition(pool: PoolSettings) -> str:
    """Text that changes when a pool's list does: its settings, and the file's content or the package's version."""
    text = pool.model_dump_json(exclude={"path"})
    if isinstance(pool, FilePool):
        return f"{text} {content(pool.path)}"
    if isinstance(pool, IndexPool):
        try:
            return f"{text} {version('index-constitution')}"
        except PackageNotFoundError:
            return text
    return text


def content(path: Path) -> str:
    """Short digest of a file's content; ``absent`` where there is none to read (reading it says what is wrong)."""
    try:
        return sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return "absent"


def _membership(
    name: str,
    settings: PoolSettings,
    universe: UniverseSettings,
    stored: Stored,
    sessions: np.ndarray,
    traded: Callable[[], Traded],
) -> Membership:
    if isinstance(settings, TopPool):
        instruments, value = traded()
        pool, _ = top_pool(name, settings.size, settings.window, instruments, sessions, value).clipped(stored, sessions)
        return Membership(pool, settings.kind, settings.size)
    renamed: Mapping[str, Sequence[tuple[date, str]]] = {}
    empty: list[str] = []
    if isinstance(settings, FilePool):
        listed: Sequence[Span] = read_pool(name, settings.path).spans
    else:
        listed, empty, renamed = _index(settings)
    symbols = Symbols(universe.region, stored, settings.symbols)
    first = min((days[0] for days in stored.values()), default=universe.start)
    last = max((days[1] for days in stored.values()), default=universe.end or date.max)
    spans: list[Span] = []
    unmatched: set[str] = set()
    for span in listed:
        if span.end < first or span.start > last:
            continue
        found = list(_under(span, symbols, renamed, stored))
        spans += found
        if not found:
            several = symbols.find(span.instrument)
            unmatched.add(f"{span.instrument} (may be {' or '.join(several)})" if several else span.instrument)
    pool, overlapping = Pool(name, tuple(spans)).joined()
    pool, outside = pool.clipped(stored, sessions)
    return Membership(
        pool, settings.kind, settings.size, tuple(sorted(unmatched)), outside, overlapping, tuple(sorted(empty))
    )


def _under(
    span: Span,
    symbols: Symbols,
    renamed: Mapping[str, Sequence[tuple[date, str]]],
    stored: Stored,
    before: date = date.max,
) -> Iterator[Span]:
    """Spans of the instruments that a listed symbol stands for; its own, and those of its former symbols.

    The days before a symbol's own stored history belong to the symbol it had then, where that one is stored.
    """
    start, end = span.start, span.end
    found = symbols.find(span.instrument)
    if len(found) == 1:
        yield Span(found[0], start, end)
        end = min(end, stored[found[0]][0] - _ONE_DAY)
    for day, former in renamed.get(span.instrument, ()):
        until = min(end, day - _ONE_DAY)
        if day < before and start <= until:
            yield from _under(Span(former, start, until), symbols, renamed, stored, day)


def _index(settings: IndexPool) -> tuple[list[Span], list[str], dict[str, list[tuple[date, str]]]]:
    """Spans of an index under today's symbols, symbols with an empty span, and former symbols with the day of change.

    Source: the package index-constitution, which carries its data. Its ``opt-out`` is the first day out of the index,
    and an empty one means still a member.
    """
    try:
        import index_constitution
    except ImportError as error:
        raise SourceError(f"index {settings.index} needs a package: pip install index-constitution") from error
    history = index_constitution.history(settings.index)
    # all of the region's: a symbol between the first and today's is in no index's history
    events = index_constitution.events(region=INDEXES[settings.index][0])
    spans, empty = [], []
    for symbol, joins, leaves in zip(history["symbol"], history["opt-in"], history["opt-out"], strict=True):
        start = joins.date()
        end = date.max if leaves != leaves else leaves.date() - _ONE_DAY
        if start <= end:
            spans.append(Span(str(symbol), start, end))
        else:
            empty.append(str(symbol))
    renamed: dict[str, list[tuple[date, str]]] = {}
    changes = events[events["event_type"] == "ticker_change"]
    for day, old, new in zip(changes["event_date"], changes["old_symbol"], changes["new_symbol"], strict=True):
        renamed.setdefault(str(new), []).append((day.date(), str(old)))
    return spans, empty, renamed
