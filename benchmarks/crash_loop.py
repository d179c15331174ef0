"""Kill the platform at random moments and look at what readers find: ``python -m benchmarks.crash_loop``.

``[--kills 50] [--seed S] [--market DIR] [--minutes M]``. A small market of files (real ones of DIR/us_daily where they
are, else made up) goes through increments, corrections, corrections that are taken back, backfills, listings, splits,
removals and rebuilds. Each step is first done undisturbed on one data home, which tells its duration by phase. Then a
worker does it on another home and is killed (SIGKILL) again and again: at a moment drawn uniformly over the whole step,
or over one of its phases, so that short ones get their share; also while it recovers. After every kill, before anything
is run again:

- every table opens; a session holds exactly what it held before where no commit covers it, and exactly what the
  undisturbed home holds where one does;
- the provider, read by our reader and by Qlib, is the one before or the one after where sessions are appended. Where
  published sessions are rewritten, every single cell is the one before or the one after, and fields and instruments may
  be mixed; while the whole directory is built anew there may be no calendar for a moment;
- what lineage calls up to date is what the undisturbed home holds: a session is never wrong and thought right.

Then the same is run again: what was delivered, and what ``next_runs`` says. At the end the killed home is compared with
one that is built at once from the last files: tables row for row, files of the provider byte for byte.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

MARKET = Path(__file__).resolve().parents[2] / "shared" / "market"
HEADER = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"
# with splits (AAPL, TSLA), a late listing (CARR), sessions of volume 0 (MNST, NDAQ)
NAMES = ("AAPL", "TSLA", "CARR", "MNST", "NDAQ", "AMZN", "BA", "C", "CAT", "CVX", "DIS", "F", "GE", "GS", "HD", "IBM",
         "INTC", "JNJ", "JPM", "KO", "MSFT", "NVDA")  # fmt: skip
HIDDEN = 3
UNIVERSE = "market"
MANY = 20
HORIZONS = (1, 5)
TABLES = ("raw_ohlcv", "quarantine", "findings", "alpha158", "basic_statistics", "technical_indicators",
          "price_features", "labels", "factor_metrics")  # fmt: skip
FIELDS = ("close", "volume", "factor")
LISTED = ("raw_ohlcv", "quarantine", "findings", "deliveries")
KINDS = ("append", "correction", "append with listing", "undone correction", "backfill again", "append", "split",
         "old history appears", "append", "removal", "rebuild")  # fmt: skip
APPENDS = ("append", "append with listing")
ANEW = ("first build", "rebuild")
PRELOAD = ["deltalake", "pyarrow.dataset", "exchange_calendars", "pandas", "talib", "qdag.operations.survey",
           "qdag.features.indicators", "qdag.factors.metrics", "qdag.store.qlib.writer", "qdag.sources.files",
           "qdag.store.deliveries"]  # fmt: skip


# -- the market -------------------------------------------------------------------------------------------------------


@dataclass
class Market:
    """Vendor files of a folder: what the vendor knows, as far as ``end``, with its mistakes."""

    folder: Path
    lines: dict[str, dict[date, str]]
    refused: dict[str, bytes]
    days: list[date]
    end: date
    hidden: set[str] = field(default_factory=set)
    changes: dict[tuple[str, date], str | None] = field(default_factory=dict)

    def write(self) -> None:
        """Deliver: whole files, put in place at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        due = dict(self.refused)
        for name, lines in self.lines.items():
            shown = [self.changes.get((name, day), line) for day, line in lines.items() if day <= self.end]
            if name not in self.hidden and any(shown):
                due[f"{name}.csv"] = (HEADER + "".join(line for line in shown if line)).encode()
        for path in self.folder.iterdir():
            if path.name not in due:
                path.unlink()
        for file, content in due.items():
            path = self.folder / file
            if not path.exists() or path.read_bytes() != content:
                made = path.with_suffix(".part")
                made.write_bytes(content)
                made.replace(path)

    def line(self, name: str, day: date) -> str | None:
        """A line as it is delivered now."""
        return self.changes.get((name, day), self.lines[name].get(day))

    def shown(self, name: str) -> list[date]:
        """Days on which an instrument has a line now."""
        return [day for day in self.lines[name] if day <= self.end and self.line(name, day)]


def real_market(source: Path, folder: Path, start: date, end: date) -> Market:
    """Lines of real files between two days, with one file that is no table."""
    lines = {}
    for name in NAMES:
        rows = (source / "us_daily" / f"{name}.csv").read_text().split("\n")[1:]
        lines[name] = {
            date.fromisoformat(r[:10]): f"{r}\n" for r in rows if start.isoformat() <= r[:10] <= end.isoformat()
        }
    odd = source / "us_daily" / "BF.B.csv"
    return Market(
        folder, lines, {odd.name: odd.read_bytes()}, sorted({d for part in lines.values() for d in part}), end
    )


def made_market(folder: Path, instruments: int, days: list[date], seed: int) -> Market:
    """Random walks with suspensions, dividends, splits and a late listing, and one file that is no table."""
    rng = np.random.default_rng(seed)
    lines: dict[str, dict[date, str]] = {}
    for i in range(instruments):
        price, mine = 20.0 + 10 * i, {}
        for at, day in enumerate(days):
            split = 2 if rng.random() < 0.004 else 1
            paid = 0.1 if rng.random() < 0.01 else 0
            price = max(1.0, price * float(np.exp(rng.normal(0, 0.02))) / split)
            low, high = price * 0.99, price * 1.01
            if rng.random() > 0.03 and not (i == 1 and at < len(days) // 2):
                volume = int(rng.integers(1_000, 90_000))
                mine[day] = f"{day},{low:.2f},{high:.2f},{low:.2f},{price:.2f},{price:.2f},{volume},{paid},{split}\n"
        lines[f"S{i:02d}"] = mine
    return Market(folder, lines, {"BAD.csv": b'{"Error Message": "Invalid API call."}'}, days, days[-1])


def moved(line: str, by: float) -> str:
    """A line with other prices."""
    cells = line.rstrip("\n").split(",")
    cells[1:5] = [f"{float(cell) * by:.4f}" for cell in cells[1:5]]
    return ",".join(cells) + "\n"


def with_split(line: str, ratio: float) -> str:
    cells = line.rstrip("\n").split(",")
    cells[8] = f"{ratio}"
    return ",".join(cells) + "\n"


# -- the worker, in a process of its own ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a worker does: all stages over a range, or a delivery over a range and then what is stale.

    ``assets``: only these; all that are no models where empty.
    """

    home: Path
    folder: Path
    start: date
    end: date
    first: date
    refresh: bool
    horizons: tuple[int, ...]
    assets: tuple[str, ...] = ()


def settings_of(job: Job) -> Any:
    from qdag.settings import EngineSettings, FilesSource, Settings, UniverseSettings

    source = FilesSource(path=job.folder, profile="alphavantage")
    universe = UniverseSettings(source=source, calendar="XNYS", start=job.start, end=job.end)
    engine = EngineSettings(threads=1)
    return Settings(home=job.home, universes={UNIVERSE: universe}, horizons=job.horizons, engine=engine)


def work(job: Job, told: Connection) -> None:
    """Do the job, saying which phase begins."""
    from qdag.assets.platform import Platform
    from qdag.operations.survey import survey
    from qdag.store import tables
    from qdag.store.qlib import made, writer
    from qdag_tests.stages import asset_names

    phases = ["plan"]

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        phases.append(name)
        told.send(name)
        yield
        phases.pop()
        told.send(phases[-1])

    class Store(tables.TableStore):
        def replace(self, spec: Any, *arguments: Any, **more: Any) -> int:
            name = {"lineage": "lineage records"}.get(spec.name, "raw tables" if spec.name in LISTED else phases[-1])
            with phase(name):
                return super().replace(spec, *arguments, **more)

    def marked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*arguments: Any) -> Any:
            with phase(name):
                return function(*arguments)

        return run

    made.Files.make = marked("bins: files", made.Files.make)  # type: ignore[method-assign]
    writer.publish = marked("bins: publication", writer.publish)
    settings = settings_of(job)
    platform = Platform(settings, Store(settings.tables))
    told.send("plan")
    names = [name for name in asset_names(settings) if name not in ("trained_model", "predictions")]
    names = [name for name in names if name in (job.assets or names)]

    def run(name: str, start: date, end: date) -> None:
        with phase({"raw_ohlcv": "files read", "qlib_bin": "bins: table read"}.get(name, name)):
            stage(name)(platform, UNIVERSE, start, end)

    if job.refresh:
        run("raw_ohlcv", job.first, job.end)
        for _ in range(MANY):
            asked = survey(platform, UNIVERSE, names).requests
            for request in asked:
                for name in request.assets:
                    run(name, request.start, request.end)
            if not asked:
                break
        else:
            raise RuntimeError(f"still stale after {MANY} refreshes: {asked}")
    else:
        for name in names:
            run(name, job.first, job.end)
    told.send("done")


def stage(name: str) -> Callable[..., Any]:
    from qdag_tests import stages

    return stages.feature_stage(name)


@dataclass
class Trace:
    """Phases of a worker's run with their begins, in seconds."""

    phases: list[tuple[str, float]] = field(default_factory=list)
    code: int | None = None
    killed: bool = False

    @property
    def last(self) -> str:
        return self.phases[-1][0] if self.phases else "start"

    def spans(self) -> list[tuple[str, int, float]]:
        """Phase, which of its name it is, and its seconds."""
        seen: Counter[str] = Counter()
        found = []
        for (name, begin), (_, end) in zip(self.phases, self.phases[1:], strict=False):
            found.append((name, seen[name], end - begin))
            seen[name] += 1
        return found


def run_worker(job: Job, moment: Callable[[Trace], float | None] | None = None) -> Trace:
    """Run a job; kill it ``moment`` seconds after the phase that it is asked at, where it gives a number."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(job, theirs), daemon=True)
    process.start()
    theirs.close()
    trace = Trace()
    kill_at: float | None = None
    try:
        while True:
            wait = None if kill_at is None else max(0.0, kill_at - time.perf_counter())
            if not mine.poll(wait):
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                trace.killed = True
                kill_at = None
                continue
            trace.phases.append((mine.recv(), time.perf_counter()))
            if trace.last == "done":
                kill_at = None
            elif kill_at is None and moment and not trace.killed and (delay := moment(trace)) is not None:
                kill_at = time.perf_counter() + delay
    except EOFError:
        pass
    finally:
        mine.close()
    process.join()
    trace.code = process.exitcode
    if trace.killed and trace.code == 0:
        trace.killed = False
    if trace.code not in (0, -signal.SIGKILL) or (trace.code and not trace.killed):
        raise RuntimeError(f"the worker ended with {trace.code} in phase {trace.last}")
    return trace


# -- readers ----------------------------------------------------------------------------------------------------------


@dataclass
class Snapshot:
    """What a home holds: digests of sessions by table, and the provider."""

    tables: dict[str, dict[date, int]]
    versions: dict[str, int]
    panel: Any

    @property
    def raw(self) -> dict[date, int]:
        return self.tables["raw_ohlcv"]


def snapshot(platform: Any) -> Snapshot:
    from qdag.errors import MissingDataError
    from qdag.store.digests import session_digests
    from qdag.store.qlib.reader import read_provider_panel

    tables, versions = {}, {}
    for name in TABLES:
        # the version first: what is committed while this reads would be counted as a later change
        version = platform.store.version(name)
        versions[name] = -1 if version is None else version
        sessions, digests = session_digests(platform.store, UNIVERSE, date(1990, 1, 1), date(2100, 1, 1), name)
        tables[name] = dict(zip(sessions.tolist(), digests.tolist(), strict=True))
    for name in ("lineage", "deliveries"):
        if platform.store.exists(name):
            platform.store.read(name, UNIVERSE)
    panel = None
    with suppress(MissingDataError):
        panel = read_provider_panel(platform.settings.provider(UNIVERSE))
    return Snapshot(tables, versions, panel)


def cells(panel: Any, names: Sequence[str], sessions: np.ndarray) -> np.ndarray:
    """Bits of all fields: uint32 (F, I, S), NaN where an instrument or a session is not there."""
    out = np.full((len(panel.fields), len(names), len(sessions)), np.nan, "f4")
    where = {name: i for i, name in enumerate(names)}
    at = np.searchsorted(sessions, panel.sessions)
    keep = (at < len(sessions)) & (sessions[np.minimum(at, len(sessions) - 1)] == panel.sessions)
    for k, values in enumerate(panel.fields.values()):
        for i, name in enumerate(panel.instruments):
            if name in where:
                out[k, where[name], at[keep]] = values[i, keep]
    out[np.isnan(out)] = np.nan
    return out.view(np.uint32)


def check_tables(platform: Any, now: Snapshot, seen: Snapshot, target: Snapshot) -> Iterator[str]:
    """Whole sessions: as before where no later commit covers them, else as they shall become."""
    for name in TABLES:
        covered = []
        if now.versions[name] >= 0:
            for commit in platform.store.history(name):
                if commit["version"] > seen.versions[name] and commit["start"] is not None:
                    covered.append((commit["start"], commit["end"]))
        before, after, have = seen.tables[name], target.tables[name], now.tables[name]
        for day in sorted({*before, *after, *have}):
            inside = any(a <= day <= b for a, b in covered)
            due = (after if inside else before).get(day)
            if have.get(day) != due:
                yield f"{name} {day}: {'committed' if inside else 'untouched'}, and not what is due"
                break


def check_provider(now: Snapshot, states: Sequence[Snapshot], kind: str) -> Iterator[str]:
    """A state as a whole where sessions are appended, else every cell one of a state."""
    if now.panel is None:
        if kind not in ANEW:
            yield "the provider has no calendar"
        return
    panels = [s.panel for s in states if s.panel is not None]
    published = now.panel.sessions
    fitting = [p for p in panels if np.array_equal(p.sessions, published)]
    if not fitting:
        yield f"the published calendar {published[0]}..{published[-1]} is none of the states'"
        return
    names = sorted({*now.panel.instruments, *(n for p in panels for n in p.instruments)})
    have = cells(now.panel, names, published)
    if kind in APPENDS:
        if not any(np.array_equal(have, cells(p, names, published)) for p in fitting):
            yield "the provider is neither the one before nor the one after"
        return
    good = np.zeros(have.shape, bool)
    for panel in panels:
        good |= have == cells(panel, names, published)
    if not good.all():
        k, i, s = np.argwhere(~good)[0]
        yield f"{int((~good).sum())} cells of no state, first field {k} of {names[i]} on {published[s]}"


def check_qlib(provider: Path, panel: Any) -> Iterator[str]:
    """Qlib's own reader sees what ours sees."""
    import qlib
    from qlib.data import D
    from qlib.data.cache import H

    if not qlib.config.C.registered or Path(str(qlib.config.C.provider_uri)) != provider:
        qlib.init(provider_uri=str(provider), region="us", kernels=1, logging_level=50)
    H.clear()
    frame = D.features(D.instruments("all"), [f"${name}" for name in FIELDS], freq="day", disk_cache=0)
    got = np.full((len(FIELDS), *panel.shape), np.nan, "f4")
    rows = {name: i for i, name in enumerate(panel.instruments)}
    at = np.searchsorted(panel.sessions, frame.index.get_level_values("datetime").to_numpy().astype("M8[D]"))
    who = np.array([rows[name] for name in frame.index.get_level_values("instrument")], int)
    for k, name in enumerate(FIELDS):
        got[k, who, at] = frame[f"${name}"].to_numpy()
        if not np.array_equal(got[k], panel[name], equal_nan=True):
            yield f"D.features gives another ${name}"


def check_lineage(platform: Any, now: Snapshot, states: Sequence[Snapshot], assets: Sequence[str]) -> Iterator[str]:
    """What is called up to date is what belongs to the stored bars."""
    from qdag.operations.survey import survey

    if not now.raw:
        return
    fits = [s for s in states if s.raw == now.raw]
    if not fits:
        yield "raw_ohlcv is none of the states'"
        return
    due = fits[-1]
    for name, stale in survey(platform, UNIVERSE, assets or None).stale.items():
        gone = set(stale.sessions.tolist())
        trusted = [day for day in due.raw if day not in gone]
        if name in TABLES:
            wrong = [day for day in trusted if now.tables[name].get(day) != due.tables[name].get(day)]
        elif name == "qlib_bin" and trusted:
            if now.panel is None:
                yield f"qlib_bin is called up to date on {len(trusted)} sessions, and has no calendar"
                continue
            days = np.array(trusted, "M8[D]")
            names = sorted({*now.panel.instruments, *due.panel.instruments})
            bad = (cells(now.panel, names, days) != cells(due.panel, names, days)).any(axis=(0, 1))
            wrong = days[bad].tolist()
        else:
            continue
        if wrong:
            yield f"{name} is called up to date on {len(wrong)} sessions where it is not, first {wrong[0]}"


def leftovers(provider: Path) -> list[str]:
    """Temporary files in the provider directory."""
    if not provider.exists():
        return []
    ends = (".writing", ".old")
    return sorted(str(p.relative_to(provider)) for p in provider.rglob("*") if p.name.endswith(ends))


# -- the loop ---------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """Kills by phase and by kind of step; what was wrong."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    recovering: int = 0
    without_provider: int = 0
    finished_first: int = 0
    with_leftovers: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    files: int = 0
    rows: int = 0

    @property
    def total(self) -> int:
        return sum(self.kills.values())


class Loop:
    """One market, one home that is left alone and one that is killed."""

    def __init__(
        self,
        root: Path,
        market: Market,
        first: date,
        kills: int,
        seed: int,
        assets: tuple[str, ...] = (),
        minutes: float = np.inf,
    ):
        self.root, self.market, self.kills, self.assets = root, market, kills, assets
        self.start, self.first = market.days[0], first
        self.rng = np.random.default_rng(seed)
        self.report = Report()
        self.until = time.perf_counter() + 60 * minutes
        empty: dict[str, dict[date, int]] = {name: {} for name in TABLES}
        self.seen = Snapshot(empty, dict.fromkeys(TABLES, -1), None)

    def job(self, home: str, first: date, refresh: bool) -> Job:
        return Job(
            self.root / home, self.market.folder, self.start, self.market.end, first, refresh, HORIZONS, self.assets
        )

    def platform(self, home: str) -> Any:
        from qdag.assets.platform import Platform

        return Platform.open(settings_of(self.job(home, self.start, True)))

    def run(self) -> Report:
        began = time.perf_counter()
        market, later = self.market, [d for d in self.market.days if d > self.first]
        names = list(market.lines)
        late = names[-HIDDEN:]
        market.hidden = set(late)
        market.end = self.first
        self.step("first build", self.start, False)
        at = 0
        while self.report.total < self.kills and later and time.perf_counter() < self.until:
            kind = KINDS[at % len(KINDS)]
            at += 1
            shown = [name for name in names if name not in market.hidden and len(market.shown(name)) > 10]
            name = shown[int(self.rng.integers(len(shown)))]
            days = market.shown(name)
            day = days[int(self.rng.integers(1, len(days) - 1))]
            line = market.line(name, day)
            assert line is not None
            changed = {(name, day): moved(line, 1.03)}
            if kind in APPENDS:
                market.end = later.pop(0)
                if kind == "append with listing" and late:
                    # a listing: nothing before this session
                    new = late.pop()
                    market.hidden.discard(new)
                    market.changes |= {(new, d): None for d in market.lines[new] if d < market.end}
                self.step(kind, market.end, False)
            elif kind == "correction":
                market.changes |= changed
                self.step(kind, self.start, True)
            elif kind == "undone correction":
                before = dict(market.changes)
                market.changes |= changed
                self.step(kind, self.start, True, then=before)
            elif kind == "split":
                market.changes |= {(name, day): with_split(line, 2.0)}
                self.step(kind, self.start, True)
            elif kind == "old history appears" and late:
                market.hidden.discard(late.pop())
                self.step(kind, self.start, True)
            elif kind == "removal":
                market.changes |= {(name, d): None for d in (*days[:2], *days[-3:])}
                self.step(kind, self.start, True)
            elif kind == "backfill again":
                shown_days = [d for d in market.days if d <= market.end]
                self.step(kind, shown_days[-60:][0], False)
            elif kind == "rebuild":
                self.step(kind, self.start, False)
        self.compare_with_one_build()
        self.report.seconds = time.perf_counter() - began
        return self.report

    def step(
        self, kind: str, first: date, refresh: bool, then: dict[tuple[str, date], str | None] | None = None
    ) -> None:
        """Do a step on the quiet home, then on the other with kills. ``then``: what the vendor says after a kill."""
        self.report.steps[kind] += 1
        self.market.write()
        states = [self.seen]
        trace = run_worker(self.job("quiet", first, refresh))
        states.append(snapshot(self.platform("quiet")))
        job, last = self.job("killed", first, refresh), ""
        for attempt in range(int(self.rng.integers(3, 7))):
            if self.report.total >= self.kills:
                break
            result = run_worker(job, self.moment(trace, last))
            self.look(kind, states, result)
            if not result.killed:
                self.report.finished_first += 1
                break
            self.report.kills[result.last, kind] += 1
            self.report.recovering += attempt > 0
            last = result.last
            if then is not None:
                # taken back before it was worked up
                self.market.changes, then = then, None
                self.market.write()
                trace = run_worker(self.job("quiet", self.start, True))
                states.append(snapshot(self.platform("quiet")))
            job = self.job("killed", first, True)
        if then is not None:
            self.market.changes = then
            self.market.write()
            run_worker(self.job("quiet", self.start, True))
            states.append(snapshot(self.platform("quiet")))
        run_worker(self.job("killed", first, True))
        self.finished(kind, states[-1])
        print(f"{kind}: {self.report.total} kills, {len(self.report.failures)} failures", file=sys.stderr, flush=True)

    def moment(self, trace: Trace, last: str) -> Callable[[Trace], float | None]:
        """When to kill: over the whole step, or over the phase that has had the fewest kills.

        ``last``: the phase of the kill that is recovered from; what came before it need not be done again.
        """
        spans = [span for span in trace.spans() if span[0] != "done"]
        order = [name for name, _, _ in spans]
        if last in order:
            spans = [("files read", 0, spans[1][2]), *((n, 0, s) for n, _, s in spans[order.index(last) :])]
        if self.rng.random() < 0.4:
            delay = float(self.rng.uniform(0, sum(seconds for _, _, seconds in spans)))
            return lambda running: delay if len(running.phases) == 1 else None
        had: Counter[str] = Counter()
        for (phase, _), count in self.report.kills.items():
            had[phase] += count
        names = sorted({name for name, _, _ in spans}, key=lambda name: (had[name], self.rng.random()))
        mine = [span for span in spans if span[0] == names[0]]
        name, number, seconds = mine[int(self.rng.integers(len(mine)))]
        delay = float(self.rng.uniform(0, seconds))

        def at(running: Trace) -> float | None:
            begun = sum(phase == name for phase, _ in running.phases)
            return delay if running.last == name and begun == number + 1 else None

        return at

    def look(self, kind: str, states: list[Snapshot], trace: Trace) -> None:
        """What a reader finds after a kill."""
        where = f"step {sum(self.report.steps.values())} {kind!r}, killed in {trace.last!r}"
        platform = self.platform("killed")
        provider = platform.settings.provider(UNIVERSE)
        try:
            now = snapshot(platform)
            problems = [
                *check_tables(platform, now, self.seen, states[-1]),
                *check_provider(now, states, kind),
                *(check_qlib(provider, now.panel) if now.panel is not None else ()),
            ]
            # before the next delivery is read, the last but one state is what the bars may still be
            problems += check_lineage(platform, now, states, self.assets)
        except Exception as error:
            self.report.failures.append(f"{where}: a reader raised {type(error).__name__}: {error}")
            return
        self.report.without_provider += now.panel is None
        self.report.with_leftovers += bool(leftovers(provider))
        self.report.failures += [f"{where}: {problem}" for problem in problems]
        self.seen = now

    def finished(self, kind: str, target: Snapshot) -> None:
        from qdag.operations.survey import survey
        from qdag_tests.stages import verify_bins

        where = f"step {sum(self.report.steps.values())} {kind!r}, when finished"
        platform = self.platform("killed")
        now = snapshot(platform)
        problems = [f"{name} differs" for name in TABLES if now.tables[name] != target.tables[name]]
        problems += check_qlib(platform.settings.provider(UNIVERSE), now.panel)
        problems += verify_bins(platform, UNIVERSE).lines()[:3]
        problems += [
            f"{name} is stale" for name, stale in survey(platform, UNIVERSE, self.assets or None).stale.items() if stale
        ]
        problems += [f"{name} is left over" for name in leftovers(platform.settings.provider(UNIVERSE))]
        self.report.failures += [f"{where}: {problem}" for problem in problems]
        self.seen = now

    def compare_with_one_build(self) -> None:
        """Everything against a home that is built at once from the last files."""
        run_worker(self.job("once", self.start, False))
        here, once = self.platform("killed"), self.platform("once")
        for name in (*TABLES, "lineage"):
            if not once.store.exists(name):
                continue
            a, b = (plain(platform, name) for platform in (here, once))
            self.report.rows += a.num_rows
            if not a.equals(b):
                self.report.failures.append(f"{name} is not the table of one build ({a.num_rows}, {b.num_rows} rows)")
        a_files, b_files = (provider_files(p.settings.provider(UNIVERSE)) for p in (here, once))
        self.report.files = len(a_files)
        if wrong := sorted(f for f in {*a_files, *b_files} if a_files.get(f) != b_files.get(f)):
            self.report.failures.append(f"{len(wrong)} files are not those of one build, first {wrong[0]}")


def plain(platform: Any, name: str, universe: str = UNIVERSE) -> Any:
    """A table without what depends on the way it was filled: versions, commits, and refused files, which are dated by
    the window that was asked for. NaN and null are the same."""
    import pyarrow.compute as pc

    rows = platform.store.read(name, universe)
    if name == "quarantine":
        rows = rows.filter(pc.field("line") > 0)
    if name == "lineage":
        rows = rows.drop(["version", "commit"])
    return rows


def provider_files(provider: Path) -> dict[str, bytes]:
    """Every file by its path; the lock apart."""
    files = (p for p in sorted(provider.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(provider)): p.read_bytes() for p in files}


def small_loop(
    root: Path,
    kills: int,
    seed: int,
    instruments: int,
    sessions: int,
    source: Path | None,
    assets: tuple[str, ...] = (),
    minutes: float = np.inf,
) -> Report:
    """A loop on a market of ``sessions`` before the first increment."""
    from qdag.core.sessions import SessionCalendar

    days: list[date] = SessionCalendar("XNYS", date(2019, 8, 1), date(2020, 12, 31)).all.tolist()
    folder = root / "files"
    if source is not None:
        market = real_market(source, folder, days[0], days[-1])
    else:
        market = made_market(folder, instruments, days[: sessions + 60], seed)
    return Loop(root, market, market.days[sessions - 1], kills, seed, assets, minutes).run()


def show(report: Report) -> None:
    kinds = list(dict.fromkeys(kind for _, kind in report.kills))
    phases = sorted({phase for phase, _ in report.kills})
    width = max(len(p) for p in phases)
    print(f"{'killed in':<{width}} {'kills':>6}  steps")
    for phase in phases:
        mine = {kind: report.kills[phase, kind] for kind in kinds if report.kills[phase, kind]}
        print(f"{phase:<{width}} {sum(mine.values()):>6}  {', '.join(f'{k} {n}' for k, n in mine.items())}")
    steps = ", ".join(f"{kind} {count}" for kind, count in report.steps.items())
    print(f"\nsteps {sum(report.steps.values())}: {steps}")
    print(f"kills {report.total} ({report.recovering} of them while recovering), failures {len(report.failures)}")
    print(
        f"no calendar for a moment of a rebuild {report.without_provider}, leftovers beside it {report.with_leftovers}"
    )
    print(f"against one build: {report.rows} rows and {report.files} files equal" if not report.failures else "")
    print(f"{report.seconds:.0f} s")
    for text in report.failures:
        print("FAILED", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin no further step after them")
    parser.add_argument("--market", type=Path, default=MARKET, help="folder with us_daily; made-up files where absent")
    given = parser.parse_args()
    source = given.market if (given.market / "us_daily").is_dir() else None
    print(f"market: {source.name + '/us_daily' if source else 'made up'}, seed {given.seed}")
    with TemporaryDirectory(prefix="qdag-crash-") as root:
        report = small_loop(Path(root), given.kills, given.seed, 20, 265, source, minutes=given.minutes)
    show(report)
    return 1 if report.failures or report.total < given.kills else 0


if __name__ == "__main__":
    sys.exit(main())
