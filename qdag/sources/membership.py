"""Who belongs to what: pools from published indexes, files or traded value, and the industries of instruments.

Symbols of a list are matched to a universe's own spelling here; what does not match is reported, never dropped.
"""

import csv
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

import numpy as np

from qdag.errors import SourceError, unknown
from qdag.settings import INDEXES, FilePool, IndexPool, PoolSettings, TopPool, UniverseSettings
from qdag.universes import Pool, Span, read_pool, top_pool

Stored = Mapping[str, tuple[date, date]]
"""First and last stored session of every instrument of a universe."""
Traded = tuple[Sequence[str], np.ndarray]
"""Instruments (I), and their traded value on every session of the universe, float64 (I, S)."""

_ONE_DAY = timedelta(days=1)
_EXCHANGES = {"SH": "SH", "SS": "SH", "XSHG": "SH", "SZ": "SZ", "XSHE": "SZ", "BJ": "BJ", "BSE": "BJ", "XBEI": "BJ"}
_CODE_FIRST = re.compile(rf"(\d{{6}})[.]({'|'.join(_EXCHANGES)})")
_EXCHANGE_FIRST = re.compile(r"(SH|SZ|BJ)[.]?(\d{6})")
# the exchange of a bare China code: 920 and 4, 8 are Beijing's, 6 and 9 Shanghai's, 0, 2 and 3 Shenzhen's
_BARE = (("920", "BJ"), ("4", "BJ"), ("8", "BJ"), ("6", "SH"), ("9", "SH"), ("0", "SZ"), ("2", "SZ"), ("3", "SZ"))


def _china(symbol: str) -> str:
    """``600000.SH``, ``600000.XSHG``, ``sh.600000`` and ``600000`` are all ``SH600000``; others stay as they are."""
    text = symbol.upper()
    if match := _CODE_FIRST.fullmatch(text):
        return f"{_EXCHANGES[match[2]]}{match[1]}"
    if match := _EXCHANGE_FIRST.fullmatch(text):
        return f"{match[1]}{match[2]}"
    if re.fullmatch(r"\d{6}", text):
        return next((f"{exchange}{text}" for head, exchange in _BARE if text.startswith(head)), text)
    return text


def _america(symbol: str) -> str:
    """Classes of shares are written ``BRK.B``, ``BRK-B``, ``BRK/B``, ``BRK_B`` or ``BRK B``."""
    return re.sub(r"[-/_ ]", ".", symbol.upper())


class Symbols:
    """Finds the instruments of a universe by any usual spelling of a symbol in its region ("cn" or "us").

    ``given`` names the instruments of some symbols and comes first; one that is no instrument raises UnknownNameError.
    """

    def __init__(self, region: str, instruments: Collection[str], given: Mapping[str, str] = MappingProxyType({})):
        for name in given.values():
            if name not in instruments:
                raise unknown("instrument", name, instruments)
        self._given = given
        self._key = _china if region == "cn" else _america
        self._exact = frozenset(instruments)
        self._similar: dict[str, list[str]] = {}
        for name in sorted(instruments):
            self._similar.setdefault(self._key(name), []).append(name)

    def find(self, symbol: str) -> tuple[str, ...]:
        """Instruments that a symbol may mean: itself where it exists, else every other spelling of it that does."""
        if symbol in self._given:
            return (self._given[symbol],)
        return (symbol,) if symbol in self._exact else tuple(self._similar.get(self._key(symbol), ()))


@dataclass(frozen=True)
class Membership:
    """A pool of a universe and how it came about.

    Parameters
    ----------
    pool : spans within the stored history of each instrument, as :meth:`qdag.universes.Pool.clipped` gives them
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


# -- industries -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Industries:
    """Industries of a universe's instruments.

    Parameters
    ----------
    names : industry names, sorted; a code is a position here, and does not depend on the universe
    codes : instrument -> code, for the instruments whose industry is known
    unknown : instruments without an industry, sorted
    others : lines of the file that are about no instrument of the universe
    """

    names: tuple[str, ...]
    codes: Mapping[str, int]
    unknown: tuple[str, ...]
    others: int

    def series(self, instruments: Sequence[str]) -> np.ndarray:
        """Codes as float32 (I,), NaN where unknown."""
        return np.array([self.codes.get(name, np.nan) for name in instruments], np.float32)


def read_industries(path: Path, region: str, instruments: Collection[str]) -> Industries:
    """Read a stock list: a CSV file with the columns ``ts_code`` (or ``symbol``) and ``industry``.

    Symbols in any usual spelling of the region; an empty industry is unknown. Text is UTF-8.

    Raises
    ------
    SourceError
        The file cannot be read or lacks a column, a symbol means several instruments, or an instrument has two
        industries; the line is named.
    """
    symbols = Symbols(region, instruments)
    industry: dict[str, str] = {}
    every: set[str] = set()
    others = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            key = next((name for name in ("ts_code", "symbol") if name in header), None)
            if key is None or "industry" not in header:
                raise SourceError(
                    f"industry file {str(path)!r} needs the columns ts_code (or symbol) and industry; got {header}"
                )
            for row in reader:
                name, symbol = (row["industry"] or "").strip(), (row[key] or "").strip()
                if name:
                    every.add(name)
                found = symbols.find(symbol)
                where = f"industry file {str(path)!r}, line {reader.line_num}"
                if len(found) > 1:
                    raise SourceError(f"{where}: {symbol!r} may be {' or '.join(found)}; write it as the universe does")
                if not found:
                    others += 1
                elif name and industry.setdefault(found[0], name) != name:
                    raise SourceError(
                        f"{where}: {symbol!r} is in {name!r}, but above in {industry[found[0]]!r}; delete one of them"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"industry file {str(path)!r} cannot be read: {error}; give a UTF-8 CSV file") from error
    names = tuple(sorted(every))
    code = {name: i for i, name in enumerate(names)}
    codes = {instrument: code[name] for instrument, name in sorted(industry.items())}
    return Industries(names, codes, tuple(sorted(set(instruments) - codes.keys())), others)
