"""Every file of a provider directory read back and compared with the table that it was made from."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from qdag.core.pools import Pool
from qdag.engine.panel import Panel
from qdag.errors import StoreError
from qdag.schema import ENGINE_FIELDS
from qdag.store.files import locked
from qdag.store.qlib.files import FILES, LOCK, size_of
from qdag.store.qlib.layout import folder_name, parse_bin
from qdag.store.qlib.listings import DAY, FUTURE, listings
from qdag.store.qlib.plan import increasing
from qdag.store.qlib.reader import published_positions, read_calendar, read_instruments, read_sessions
from qdag.store.qlib.scratch import Scratch


@dataclass(frozen=True)
class Difference:
    """One file that does not hold what the table holds.

    Attributes
    ----------
    kind : ``missing`` (values or the file are not there), ``extra`` (values where the table has none), ``differs``, or
        ``torn`` (the file does not hold exactly its instrument's listed sessions)
    sessions : how many differ
    first : the first of them, where ``stored`` is found and ``expected`` due; None where none differs
    """

    instrument: str
    field: str
    kind: str
    sessions: int
    first: date | None = None
    stored: float = np.nan
    expected: float = np.nan

    def __str__(self) -> str:
        where = f", first {self.first}: stored {self.stored}, expected {self.expected}" if self.first else ""
        return f"{self.instrument} {self.field}: {self.kind}, {self.sessions} sessions{where}"


@dataclass(frozen=True)
class Verification:
    """A comparison of a provider directory with its table.

    Attributes
    ----------
    instruments : compared names
    sessions : how many were compared
    differences : of data files
    problems : of calendars, instruments files and strange files, as (path inside the directory, what is wrong)
    """

    instruments: tuple[str, ...]
    sessions: int
    differences: tuple[Difference, ...]
    problems: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether the directory is the table."""
        return not self.differences and not self.problems

    def lines(self) -> list[str]:
        """One line for people per finding; [] when the directory is the table."""
        return [*(f"{path}: {text}" for path, text in self.problems), *map(str, self.differences)]


def verify_provider(
    provider: Path,
    panels: Panel | Iterable[Panel],
    calendar: np.ndarray,
    future: np.ndarray | Sequence[np.datetime64] = (),
    pools: Sequence[Pool] | None = None,
) -> Verification:
    """Read every file back and compare it with the table's panels.

    Parameters
    ----------
    panels : as for ``QlibBinWriter.write``; they may be a part of the published sessions, and files are then compared
        there. Memory depends neither on their number nor on the universe.
    calendar, future : sessions of the exchange from the universe's start, and those after them: what is published must
        be their beginning
    pools : the pools whose files must be there, and no others; None leaves pool files alone

    Values are equal when they are the same float32 or both NaN.

    Raises
    ------
    MissingDataError
        No provider is there.
    StoreError
        Panels that do not follow each other.
    """
    provider = Path(provider)
    # a directory that nobody wrote here has no lock
    held = locked(provider / LOCK, shared=True) if (provider / LOCK).exists() else nullcontext()
    with held, Scratch(Path(tempfile.gettempdir())) as scratch:
        published = read_calendar(provider)
        wanted = np.concatenate([increasing("calendar", calendar), np.asarray(future, "datetime64[D]")])
        problems = [*_calendar_problems(published, wanted)] or [*_future_problems(provider, published, wanted)]
        try:
            low, high = scratch.fill(panels, published)
        except StoreError as error:
            return Verification((), 0, (), (*problems, (DAY, f"cannot be compared with the table: {error}")))
        listed = published_positions(read_instruments(provider), published)
        names = sorted({*scratch.names, *listed})
        differences: list[Difference] = []
        whole = low == 0 and high == len(published)
        for block, values in scratch.blocks(names):
            for name, expected in zip(block, values, strict=True):
                span = listed.get(name)
                differences += _compare(provider, name, span, expected, published[low:high], low)
                there = np.flatnonzero((~np.isnan(expected)).any(axis=0))
                if whole and len(there) and span and span != (due := (int(there[0]), int(there[-1]))):
                    found, right = (f"{published[a]}..{published[b]}" for a, b in (span, due))
                    problems.append(("instruments/all.txt", f"lists {name} {found}, the table has it {right}"))
        problems += _listing_problems(provider, published, listed, pools)
    return Verification(tuple(names), high - low, tuple(differences), tuple(problems))


def _compare(
    provider: Path,
    name: str,
    span: tuple[int, int] | None,
    expected: np.ndarray,
    sessions: np.ndarray,
    low: int,
) -> Iterator[Difference]:
    """Differences of one instrument's files from the values (F, S) due from position ``low`` on."""
    stored = np.full(expected.shape, np.nan, "<f4")
    bad: dict[int, str] = {}
    for k, file in enumerate(FILES):
        try:
            if span is None:
                raise FileNotFoundError
            with open(f"{provider}/features/{folder_name(name)}/{file}", "rb", buffering=0) as opened:
                content = opened.read()
            start, values = parse_bin(content, file)
            if len(content) != size_of(span) or start != span[0]:
                bad[k] = "torn"
            place = max(start - low, 0)
            values = values[max(low - start, 0) :][: max(expected.shape[1] - place, 0)]
            stored[k, place : place + len(values)] = values
        except FileNotFoundError:
            bad[k] = "missing"
        except (OSError, ValueError):
            bad[k] = "torn"
    differs = (stored != expected) & ~(np.isnan(stored) & np.isnan(expected))
    if not bad and not differs.any():
        return
    for k, field_name in enumerate(ENGINE_FIELDS):
        at = np.flatnonzero(differs[k])
        due, found = not np.isnan(expected[k]).all(), not np.isnan(stored[k]).all()
        if not len(at) and (k not in bad or (span is None and not due)):
            continue
        kind = bad.get(k) or ("differs" if due and found else "missing" if due else "extra")
        where = (sessions[at[0]].item(), float(stored[k, at[0]]), float(expected[k, at[0]])) if len(at) else ()
        yield Difference(name, field_name, kind, len(at), *where)


def _calendar_problems(published: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[str, str]]:
    if len(at := np.flatnonzero(published[: len(wanted)] != wanted[: len(published)])):
        yield DAY, f"has {published[at[0]]} where {wanted[at[0]]} is due, so later values are shifted"
    elif len(published) > len(wanted):
        yield DAY, f"has {published[len(wanted)]}, which the exchange's calendar does not reach"


def _future_problems(provider: Path, published: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[str, str]]:
    path = provider / FUTURE
    if not path.exists():
        yield FUTURE, "is missing; a backtest that ends on the last session needs the next one"
        return
    future = read_sessions(path)
    size = min(len(future), len(wanted))
    if len(future) < len(published) or not np.array_equal(future[:size], wanted[:size]):
        yield FUTURE, "does not hold the published sessions and the exchange's next ones"
    elif len(future) == len(published) < len(wanted):
        yield FUTURE, "ends at the last published session"


def _listing_problems(
    provider: Path, published: np.ndarray, listed: Mapping[str, tuple[int, int]], pools: Sequence[Pool] | None
) -> Iterator[tuple[str, str]]:
    """Instruments files that do not say what they must, and files and folders that belong to nobody."""
    texts, _, _ = listings(listed, published, pools or ())
    there = {f"instruments/{path.name}" for path in (provider / "instruments").iterdir()}
    for file, text in texts.items():
        if file not in there:
            yield file, "is missing"
        elif (lines := (provider / file).read_text("utf-8").split("\n")) != (due := text.split("\n")):
            at = next(
                (i for i, (a, b) in enumerate(zip(lines, due, strict=False)) if a != b), min(len(lines), len(due))
            )
            shown = [repr(part[at]) if at < len(part) else "nothing" for part in (lines, due)]
            yield file, f"line {at + 1} has {shown[0]} where {shown[1]} is due"
    if pools is not None:
        for file in sorted(there - set(texts)):
            yield file, "is no pool of the settings"
    folders = {folder_name(name) for name in listed}
    for entry in sorted((provider / "features").iterdir()) if (provider / "features").is_dir() else ():
        if entry.name not in folders:
            yield f"features/{entry.name}", "belongs to no listed instrument"
        elif strange := sorted(set(os.listdir(entry)) - set(FILES)):
            yield f"features/{entry.name}", f"holds files that are no field: {', '.join(strange[:5])}"
