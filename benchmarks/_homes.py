"""A data home with made-up markets, its commands as processes that can be killed, and what it must hold.

Shared by the loops that attack a home. Nothing here knows how a table is stored: a home is used by its commands and
judged by its readers.
"""

import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import wraps
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.crash_loop import HORIZONS, TABLES, Market, leftovers, made_market, plain, provider_files, stage

UNIVERSE, OTHER = "market", "other"
DERIVED = (*(table for table in TABLES if table not in ("raw_ohlcv", "quarantine", "findings")), "custom_factors")
DONE, FAILED, REFUSED = 0, 1, 2
LONG = 300.0
"""Seconds after which a command counts as stuck."""
Words = tuple[str, ...]
Sessions = dict[date, int]
Contents = dict[str, Sessions]
"""Digest of each stored session, by table; ``qlib_bin`` is the provider."""


# -- a place -----------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """Vendor files of some universes and the settings of homes that read them."""

    root: Path
    markets: dict[str, Market]
    factors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def made(cls, root: Path, seed: int, instruments: int = 8, sessions: int = 110, more: int = 60) -> "Site":
        """Two universes of made-up files, shown as far as the first ``sessions``; ``more`` can be delivered later."""
        from qdag.core.sessions import SessionCalendar

        days: list[date] = SessionCalendar("XNYS", date(2019, 8, 1), date(2020, 12, 31)).all.tolist()
        sizes = {UNIVERSE: instruments, OTHER: max(3, instruments // 2)}
        markets = {
            name: made_market(root / "files" / name, size, days[: sessions + more], seed + at)
            for at, (name, size) in enumerate(sizes.items())
        }
        for market in markets.values():
            market.end = days[sessions - 1]
            market.write()
        return cls(root, markets)

    @property
    def first(self) -> date:
        return self.markets[UNIVERSE].days[0]

    def config(self, home: Path) -> Path:
        """The settings file of a home, written as the settings are now."""
        lines = [f'home = "{home}"', f"horizons = {list(HORIZONS)}", "[engine]", "threads = 1"]
        for name, market in self.markets.items():
            lines += [
                f"[universes.{name}]",
                'calendar = "XNYS"',
                f"start = {market.days[0]}",
                f"end = {market.days[-1]}",
            ]
            lines += [f'source = {{ kind = "files", path = "{market.folder}", profile = "alphavantage" }}']
        if self.factors:
            lines += ["[custom_factors]", *(f'{name} = "{text}"' for name, text in self.factors.items())]
        path = self.root / f"{hashlib.sha256(str(home).encode()).hexdigest()[:8]}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def platform(self, home: Path) -> Any:
        from qdag.assets.platform import Platform
        from qdag.settings import load_settings

        return Platform.open(load_settings(self.config(home), {}))

    def whole(self, universe: str, *assets: str) -> Words:
        """The command that materializes assets over all that is delivered."""
        market = self.markets[universe]
        return ("materialize", universe, str(market.days[0]), str(market.end), *assets)

    def build(self) -> list[Words]:
        """The commands that build a home at once."""
        return [self.whole(universe) for universe in self.markets]

    def refresh(self) -> list[Words]:
        """The commands that bring a home in line with the files."""
        return [step for u in self.markets for step in (self.whole(u, "raw_ohlcv"), ("refresh", u))]


# -- a command, in a process of its own --------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How a command ended: ``code`` DONE, FAILED or REFUSED; None where it was killed."""

    code: int | None
    text: str = ""
    marks: int = 0
    seconds: float = 0.0


def forkserver() -> ForkServerContext:
    """Processes that have everything imported, and all kernels loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks._warm"])
    return context


class Command:
    """Some commands, one after the other, in one process.

    ``kill_at``: the process dies at this of its marks, which are before and after whatever changes a file system or a
    table's log; ``delay`` seconds later. ``together``: begins when all that are given the same barrier are ready.
    """

    def __init__(
        self,
        config: Path,
        steps: Sequence[Words],
        log: Path,
        kill_at: int = 0,
        delay: float = 0.0,
        together: Any = None,
    ):
        context = forkserver()
        self._told, theirs = context.Pipe(duplex=False)
        given = (str(config), list(steps), str(log), kill_at, delay, together, theirs)
        self.process = context.Process(target=_perform, args=given, daemon=True)
        self.process.start()
        theirs.close()
        self.began: float | None = None

    def ready(self) -> None:
        """Wait until the work begins."""
        if self.began is None and self._told.poll(LONG):
            with suppress(EOFError):
                self._told.recv()
            self.began = time.perf_counter()

    def wait(self, kill_after: float | None = None) -> Outcome:
        """Wait for the end; kill it so many seconds after its begin."""
        self.ready()
        began = self.began or time.perf_counter()
        if kill_after is not None and not self._told.poll(max(0.0, began + kill_after - time.perf_counter())):
            self.kill()
        code, text, marks = None, "", 0
        try:
            if self._told.poll(LONG):
                code, text, marks = self._told.recv()
            else:
                self.kill()
                code, text = FAILED, f"stuck for {LONG:.0f} s"
        except EOFError:
            pass
        seconds = time.perf_counter() - began
        self.process.join()
        if code is None and self.process.exitcode not in (-signal.SIGKILL, -signal.SIGALRM):
            code, text = FAILED, f"the process ended with {self.process.exitcode}"
        self._told.close()
        return Outcome(code, text, marks, seconds)

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)


def _perform(
    config: str, steps: list[Words], log: str, kill_at: int, delay: float, together: Any, told: Connection
) -> None:
    marks = _Marks(kill_at, delay)
    if together is not None:
        together.wait(LONG)
    told.send("begins")
    code, text = DONE, ""
    with open(log, "a") as out, redirect_stdout(out), redirect_stderr(out):
        marks.begin(log)
        try:
            for words in steps:
                if code := _step(config, words):
                    text = f"{' '.join(words)}: exit code {code}"
                    break
        except BaseException as error:
            from qdag.errors import QdagError

            code = REFUSED if isinstance(error, QdagError) else FAILED
            text = f"{type(error).__name__}: {error}"
            traceback.print_exc()
    told.send((code, text, marks.count))


class _Marks:
    """Counts what changes files or logs, and dies at one of them.

    Python's own calls are told by its audit hook, those of Delta Lake's library by wrappers around them.
    """

    def __init__(self, kill_at: int, delay: float):
        self.count, self.kill_at, self.delay, self.log, self.on = 0, kill_at, delay, "", False
        sys.addaudithook(self.seen)
        from deltalake import DeltaTable
        from deltalake.table import TableAlterer, TableOptimizer

        for owner, names in (
            (DeltaTable, ("create_write_transaction", "restore", "repair", "vacuum")),
            (TableAlterer, ("add_columns", "set_table_properties")),
            (TableOptimizer, ("compact",)),
        ):
            for name in names:
                setattr(owner, name, self.around(getattr(owner, name)))

    def begin(self, log: str) -> None:
        self.log, self.on = log, True

    def mark(self) -> None:
        self.count += 1
        if self.count == self.kill_at:
            if not self.delay:
                os.kill(os.getpid(), signal.SIGKILL)
            # its default is to end the process, whatever it does: as a kill at this time would
            signal.setitimer(signal.ITIMER_REAL, self.delay)

    def seen(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and path != self.log and flags & (os.O_WRONLY | os.O_RDWR):
                self.mark()
        elif event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"):
            self.mark()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def marked(*arguments: Any, **more: Any) -> Any:
            self.mark()
            try:
                return function(*arguments, **more)
            finally:
                self.mark()

        return marked


def _step(config: str, words: Words) -> int:
    """One command: ``data ...`` is the real one, ``materialize`` and ``refresh`` do what theirs do without Dagster."""
    from qdag.assets.platform import Platform
    from qdag.settings import load_settings

    if words[0] == "data":
        from qdag.cli.main import data_app

        return data_app([*words[1:], "--config", config], standalone_mode=False) or DONE
    platform = Platform.open(load_settings(config, {}))
    if words[0] == "adopt":
        adopt(platform, words[1])
    elif words[0] == "materialize":
        universe, start, end = words[1], date.fromisoformat(words[2]), date.fromisoformat(words[3])
        for name in words[4:] or chain(platform):
            stage(name)(platform, universe, start, end)
    else:
        refresh(platform, words[1])
    return DONE


def chain(platform: Any) -> list[str]:
    """All assets that are no models, in order."""
    from qdag_tests.stages import asset_names

    return [name for name in asset_names(platform.settings) if name not in ("trained_model", "predictions")]


def refresh(platform: Any, universe: str) -> None:
    """Compute what is stale until nothing is."""
    from qdag.operations.survey import survey

    asked: set[tuple[Any, ...]] = set()
    while requests := survey(platform, universe, chain(platform)).requests:
        for request in requests:
            key = (request.assets, request.start, request.end, request.reason)
            if key in asked:
                raise RuntimeError(f"still stale after a refresh: {request}")
            asked.add(key)
            for name in request.assets:
                stage(name)(platform, universe, request.start, request.end)


def adopt(platform: Any, tables: str) -> None:
    """Build a new home from the raw_ohlcv of another, as it is."""
    from qdag import schema
    from qdag.store.tables import TableStore

    other = TableStore(tables)
    if not other.exists("raw_ohlcv"):
        return
    for universe in platform.settings.universes:
        rows = other.read("raw_ohlcv", universe)
        if rows.num_rows:
            first, last = rows["date"][0].as_py(), rows["date"][-1].as_py()
            platform.store.replace(schema.RAW_OHLCV, universe, first, last, rows, {})
            for name in chain(platform)[1:]:
                stage(name)(platform, universe, first, last)


# -- what a home holds -------------------------------------------------------------------------------------------------


def contents(platform: Any, universe: str) -> tuple[Contents, dict[str, str]]:
    """Digests of all sessions, and by table why it cannot be read; then the sessions that can be read are told."""
    from qdag.errors import QdagError

    found: Contents = {}
    broken: dict[str, str] = {}
    for name in ("raw_ohlcv", "findings", *DERIVED):
        try:
            found[name] = digests(platform, universe, name)
        except (QdagError, OSError, ValueError) as error:
            broken[name] = " ".join(str(error).split())[:300]
            found[name] = {}
            # one at a time: a damaged file may hold some sessions of a month and not the others
            for session in sessions(platform, universe):
                try:
                    found[name] |= digests(platform, universe, name, session, session)
                except (QdagError, OSError, ValueError):
                    continue
    try:
        found["qlib_bin"] = provider_digests(platform.settings.provider(universe))
    except (QdagError, OSError, ValueError) as error:
        found["qlib_bin"], broken["qlib_bin"] = {}, " ".join(str(error).split())[:300]
    return found, broken


def digests(
    platform: Any, universe: str, name: str, first: date = date(1990, 1, 1), last: date = date(2100, 1, 1)
) -> Sessions:
    from qdag.store.digests import session_digests

    sessions, values = session_digests(platform.store, universe, first, last, name)
    return dict(zip(sessions.tolist(), values.tolist(), strict=True))


def sessions(platform: Any, universe: str) -> list[date]:
    spec = platform.settings.universe(universe)
    found: list[date] = platform.calendar(universe).between(spec.start, spec.end).tolist()
    return found


def provider_digests(provider: Path) -> Sessions:
    """Digest of what a Qlib directory holds of each session of its calendar; none where it has no calendar."""
    from qdag.errors import MissingDataError
    from qdag.store.qlib.reader import read_provider_panel

    try:
        panel = read_provider_panel(provider)
    except MissingDataError:
        return {}
    found = {}
    for at, day in enumerate(panel.sessions.tolist()):
        seen = hashlib.blake2b(digest_size=8)
        for row in sorted(range(len(panel.instruments)), key=lambda i: panel.instruments[i]):
            cells = np.array([values[row, at] for _, values in sorted(panel.fields.items())], "f4")
            if not np.isnan(cells).all():
                cells[np.isnan(cells)] = np.nan
                seen.update(panel.instruments[row].encode() + cells.tobytes())
        found[day] = int.from_bytes(seen.digest(), "little")
    return found


def twins(store: Any) -> Iterator[tuple[str, str]]:
    """Tables that hold a key twice, of the tables that can be read; and how many."""
    from deltalake import DeltaTable

    for name in store.names():
        try:
            keys = store.keys(name)
            rows = DeltaTable(store.uri(name)).to_pyarrow_dataset().to_table(columns=keys)
            distinct = rows.group_by(keys).aggregate([]).num_rows
        except Exception:
            # whether it may be unreadable is judged by what verify says of it
            continue
        if distinct < rows.num_rows:
            yield name, f"{rows.num_rows - distinct} of {rows.num_rows} keys are there twice"


@dataclass
class Look:
    """What was found in a home: ``problems``; how many files verify calls damaged; how many sessions are stale."""

    problems: list[str] = field(default_factory=list)
    damaged: int = 0
    stale: int = 0
    differing: int = 0


class Judge:
    """Knows what homes must hold: undisturbed builds of the same inputs, each made once."""

    def __init__(self, site: Site, folder: Path, log: Path):
        self.site, self.folder, self.log = site, folder, log
        self._made: dict[Any, tuple[Path, dict[str, Contents]]] = {}

    def due(self) -> tuple[Path, dict[str, Contents]]:
        """The home that is built at once from the files as they are, and what it holds by universe."""
        state: list[Any] = [tuple(self.site.factors.items())]
        for market in self.site.markets.values():
            state += [market.end, frozenset(market.hidden), frozenset(market.changes.items())]
        return self._build(tuple(state), self.site.build())

    def of_rows(self, platform: Any, raw: Mapping[str, Sessions]) -> dict[str, Contents]:
        """What is due where raw_ohlcv is as it is, by universe."""
        _, files = self.due()
        if all(files[u]["raw_ohlcv"] == rows for u, rows in raw.items()):
            return files
        key = (tuple(self.site.factors.items()), *(frozenset(rows.items()) for rows in raw.values()))
        return self._build(key, [("adopt", str(platform.settings.tables))])[1]

    def _build(self, key: Any, steps: Sequence[Words]) -> tuple[Path, dict[str, Contents]]:
        if key not in self._made:
            home = self.folder / f"due-{len(self._made)}"
            done = Command(self.site.config(home), steps, self.log).wait()
            if done.code != DONE:
                raise RuntimeError(f"the undisturbed build failed: {done.text}")
            platform = self.site.platform(home)
            self._made[key] = home, {u: contents(platform, u)[0] for u in self.site.markets}
        return self._made[key]

    def look(self, home: Path, trusted: Sequence[str] = ()) -> Look:
        """What a reader finds: nothing may differ from what is due in silence, no key may be there twice.

        ``trusted``: assets that somebody changed on purpose, with a command that says what to do about it: they may
        differ until that is done.
        """
        from qdag.operations.repair import lost_sessions
        from qdag.operations.survey import survey
        from qdag.operations.upkeep import verify_tables

        platform, found = self.site.platform(home), Look()
        double = dict(twins(platform.store))
        found.problems += [f"{name}: {text}" for name, text in double.items()]
        try:
            damage = [one for v in verify_tables(platform) for one in v.damage]
            lost = lost_sessions(platform, [one for one in damage if one.universe in self.site.markets])
        except Exception as error:
            found.problems.append(f"verify raised {type(error).__name__}: {error}")
            damage, lost = [], {}
        found.damaged = len(damage)
        torn = {one.table for one in damage if one.universe is None}
        held = {universe: contents(platform, universe) for universe in self.site.markets}
        _, files = self.due()
        whole = all("raw_ohlcv" not in broken for _, broken in held.values()) and "raw_ohlcv" not in double
        due = self.of_rows(platform, {u: c["raw_ohlcv"] for u, (c, _) in held.items()}) if whole else files
        for universe, (have, broken) in held.items():
            for name, why in broken.items():
                if name not in torn and (name, universe) not in lost:
                    found.problems.append(f"{name} of {universe} cannot be read and verify finds nothing: {why}")
            try:
                stale = survey(platform, universe, ["raw_ohlcv", *chain(platform)]).stale
                asked = landed(platform, universe)
            except Exception as error:
                # what lies in damaged files may be needed; verify names them
                if not damage:
                    found.problems.append(f"stale raised {type(error).__name__} of {universe}: {error}")
                continue
            found.stale += sum(len(one.sessions) for one in stale.values())
            for name, sessions in have.items():
                wanted = files[universe][name] if name in ("raw_ohlcv", "findings") else due[universe][name]
                differ = {day for day in {*sessions, *wanted} if sessions.get(day) != wanted.get(day)}
                found.differing += len(differ)
                told = set(lost.get((name, universe), np.array([], "M8[D]")).tolist())
                if name in stale:
                    told |= set(stale[name].sessions.tolist())
                if name == "raw_ohlcv":
                    told |= asked
                if name == "findings" and asked:
                    # a reading is of the whole source: whichever sessions it is for, it brings all findings in line
                    told |= differ
                silent = sorted(differ - told)
                if silent and name not in trusted and name not in torn:
                    days = f"{len(silent)} sessions, {silent[0]} .. {silent[-1]}"
                    found.problems.append(f"{name} of {universe} differs in silence on {days}")
        return found

    def whole(self, home: Path) -> Iterator[str]:
        """What of a home that counts as up to date is not what one build gives."""
        found = self.look(home)
        yield from found.problems
        if found.damaged:
            yield f"{found.damaged} files are damaged at the end"
        if found.stale:
            yield f"{found.stale} sessions are stale at the end"
        once, _ = self.due()
        here, there = self.site.platform(home), self.site.platform(once)
        for universe in self.site.markets:
            for name in ("raw_ohlcv", "quarantine", "findings", *DERIVED):
                if there.store.exists(name):
                    a, b = (rows(platform, universe, name) for platform in (here, there))
                    if isinstance(a, str) or not a.equals(b):
                        sizes = a if isinstance(a, str) else f"{a.num_rows} and {b.num_rows} rows"
                        yield f"{name} of {universe} is not that of one build at the end: {sizes}"
            a_files, b_files = (provider_files(p.settings.provider(universe)) for p in (here, there))
            if wrong := sorted(f for f in {*a_files, *b_files} if a_files.get(f) != b_files.get(f)):
                yield f"{len(wrong)} files of {universe}'s provider are not those of one build, first {wrong[0]}"
            yield from (f"{name} is left over" for name in leftovers(here.settings.provider(universe)))


def rows(platform: Any, universe: str, name: str) -> Any:
    """A table as ``plain`` gives it, with columns in one order; or why it cannot be read."""
    try:
        found = plain(platform, name, universe)
        return found.select(sorted(found.column_names))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def landed(platform: Any, universe: str) -> set[date]:
    """Sessions that a look at the folder would ask raw_ohlcv for."""
    from qdag.operations.landing import Cursor, arrivals

    first = arrivals(platform, universe, Cursor())
    request = arrivals(platform, universe, first.cursor, time.time() + 3600).request
    if request is None:
        return set()
    return set(platform.calendar(universe).between(request.start, request.end).tolist())


def flip(platform: Any, name: str, rng: np.random.Generator) -> str | None:
    """Flip one bit of a data file of a table's newest version; which file."""
    files = platform.store.files(name)["path"].to_pylist()
    if not files:
        return None
    chosen = sorted(files)[int(rng.integers(len(files)))]
    path = Path(platform.store.uri(name)) / chosen
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return f"{name}/{chosen}"


def settle(judge: Judge, home: Path, before: Sequence[Words] = ()) -> tuple[list[str], float]:
    """Do what the documents say until nothing is left to do; what went wrong, and seconds."""
    from qdag.operations.upkeep import verify_tables

    began = time.perf_counter()
    site, problems = judge.site, []

    def run(*steps: Words) -> None:
        done = Command(site.config(home), steps, judge.log).wait()
        if done.code != DONE:
            problems.append(f"recovery failed, {' '.join(steps[0])}: {done.text}")

    try:
        if any(v.damage for v in verify_tables(site.platform(home))):
            run(("data", "verify", "--repair"))
    except Exception as error:
        problems.append(f"verify raised {type(error).__name__}: {error}")
    run(*before, *site.refresh())
    seconds = time.perf_counter() - began
    problems += [f"when recovered: {text}" for text in judge.whole(home)]
    return problems, seconds


def copied(home: Path, to: Path) -> Path:
    """A home kept for a look."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(home, to)
    return to
