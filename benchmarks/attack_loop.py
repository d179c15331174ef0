"""Kill what keeps a home at random moments, and judge it: ``python -m benchmarks.attack_loop``.

``[--kills 100] [--seed 1] [--only SCENE ...] [--minutes M] [--keep DIR]``. A home with two small universes is attacked
scene by scene. A scene changes something (files that are delivered, a flipped bit, a new custom factor), then runs a
command, or two at once, in processes of their own; each may be killed (SIGKILL), at a moment drawn uniformly over its
time, or at or shortly after one of its steps that change a file or a log, so that short windows get their share. After
every kill a reader looks, before anything is run again:

- what differs from an undisturbed build of the same inputs is listed: by ``stale``, by ``verify``, or, of files that
  were delivered and not read yet, by a look at the folder. Nothing else differs;
- every table opens, or ``verify`` says why not; in no table, the bookkeeping included, is a key there twice.

Then the same is run again, or, after some kills, what the documents say: ``data verify --repair`` where something is
damaged, raw_ohlcv from the files, ``refresh``. After each scene nothing is stale, nothing is damaged, and every table
and every file of the Qlib directories is that of one undisturbed build. A home that is not is put away (``--keep``) and
built anew.

Other than in ``crash_loop``, which looks at every state of readers during stages, the commands of upkeep are tried here
(repair, restore, compact, vacuum, backup, restore-backup), also two at once, and new columns.
"""

import argparse
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import _homes
from benchmarks._homes import DERIVED, DONE, FAILED, OTHER, REFUSED, UNIVERSE, Command, Judge, Site, Words, copied
from benchmarks.crash_loop import moved, with_split

FACTORS = ("$close/Ref($close, {d})-1", "Std($close/Ref($close, 1)-1, {d})", "Corr($close, Log($volume+1), {d})")
SHOWN = 10
Plan = list[list[Words]]
"""The commands of a scene by process."""


@dataclass
class Report:
    """By scene: how often, kills, commands that ended before their kill or were to live, refusals; failures."""

    runs: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    lived: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, list[float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    listed: int = 0
    seconds: float = 0.0


class Loop:
    """One site and the home that is attacked."""

    def __init__(
        self,
        root: Path,
        kills: int,
        seed: int,
        only: Sequence[str] = (),
        minutes: float = np.inf,
        keep: str | None = None,
    ):
        self.root, self.kills, self.keep = root, kills, keep
        self.rng = np.random.default_rng(seed)
        self.site = Site.made(root, seed)
        self.home, self.safe, self.log = root / "home", root / "safe", root / "log.txt"
        self.judge = Judge(self.site, root, self.log)
        self.report = Report()
        self.until = time.monotonic() + 60 * minutes
        self.trusted: tuple[str, ...] = ()
        self.before: list[Words] = []
        # what a command took when it was last left alone
        self.known: dict[str, tuple[int, float]] = {}
        self.factors = 0
        scenes: dict[str, Callable[[], Plan | None]] = {
            "first build": self.first_build,
            "materialize raw_ohlcv": lambda: self.stage("raw_ohlcv"),
            "materialize qlib_bin": lambda: self.stage("qlib_bin"),
            "materialize a feature table": lambda: self.stage(self.one("alpha158", "price_features")),
            "materialize labels": lambda: self.stage("labels"),
            "materialize factor_metrics": lambda: self.stage("factor_metrics"),
            "a session more": self.append,
            "refresh of a correction": self.correction,
            "repair": self.repair,
            "restore": self.restore,
            "compact": lambda: [[("data", "compact")]],
            "vacuum": self.vacuum,
            "backup": lambda: [[("data", "backup", str(self.safe))]],
            "restore-backup": self.restore_backup,
            "a new custom factor": self.factor,
            "two compactors": self.two_compactors,
            "two writers, same sessions": lambda: self.two_writers(UNIVERSE, True),
            "two writers, other sessions": lambda: self.two_writers(UNIVERSE, False),
            "two writers, two universes": lambda: self.two_writers(OTHER, True),
            "two refreshes": lambda: [refresh := self.corrected(), list(refresh)],
            "refresh and compact": lambda: [self.corrected(), [("data", "compact")]],
            "refresh and vacuum": lambda: [self.corrected(), self.vacuum()[0]],
            "refresh and backup": lambda: [self.corrected(), [("data", "backup", str(self.safe))]],
            "repair and compact": lambda: [*(self.repair() or []), [("data", "compact")]],
        }
        if wrong := [name for name in only if name not in scenes]:
            raise SystemExit(f"no scene {wrong[0]!r}; there are: {', '.join(scenes)}")
        self.scenes = {name: make for name, make in scenes.items() if not only or name in only}

    # -- scenes --------------------------------------------------------------------------------------------------------

    def one(self, *choices: str) -> str:
        return choices[int(self.rng.integers(len(choices)))]

    def first_build(self) -> Plan:
        shutil.rmtree(self.home, ignore_errors=True)
        return [self.site.build()]

    def stage(self, name: str) -> Plan:
        """A stage over some sessions that may have changed."""
        if self.rng.random() < 0.5 or name == "raw_ohlcv":
            self.correct()
            if name != "raw_ohlcv":
                steps = [self.site.whole(UNIVERSE, "raw_ohlcv")]
                self.alone([*steps, *([] if name == "qlib_bin" else [self.site.whole(UNIVERSE, "qlib_bin")])])
        market = self.site.markets[UNIVERSE]
        shown = [day for day in market.days if day <= market.end]
        first, last = sorted(self.rng.choice(len(shown), 2, replace=False).tolist())
        if name == "raw_ohlcv":
            first, last = 0, len(shown) - 1
        return [[("materialize", UNIVERSE, str(shown[first]), str(shown[last]), name)]]

    def append(self) -> Plan:
        days = self.more(1 + int(self.rng.integers(2)))
        return [[("materialize", u, str(days[0]), str(days[-1])) for u in self.site.markets]]

    def more(self, count: int) -> list:
        """Deliver sessions of both universes; which."""
        for market in self.site.markets.values():
            later = [day for day in market.days if day > market.end][:count]
            market.end = later[-1] if later else market.end
            market.write()
        return later or [market.end]

    def correct(self) -> None:
        """Deliver another price, now and then a split, of some session of the first universe."""
        market = self.site.markets[UNIVERSE]
        names = [name for name in market.lines if len(market.shown(name)) > 10]
        name = self.one(*names)
        days = market.shown(name)
        day = days[int(self.rng.integers(1, len(days)))]
        line = market.line(name, day)
        assert line is not None
        market.changes[name, day] = with_split(line, 2.0) if self.rng.random() < 0.2 else moved(line, 1.03)
        market.write()

    def corrected(self) -> list[Words]:
        self.correct()
        return self.site.refresh()

    def correction(self) -> Plan:
        return [self.corrected()]

    def repair(self) -> Plan | None:
        """A flipped bit of some tables, or of one that keeps the books."""
        platform = self.site.platform(self.home)
        books = ["lineage", "deliveries"]
        tables = [name for name in platform.store.names() if name not in books]
        many = 1 + int(self.rng.integers(2))
        chosen = self.rng.choice(books if self.rng.random() < 0.2 else tables, many, replace=False).tolist()
        flipped = [_homes.flip(platform, name, self.rng) for name in chosen]
        return [[("data", "verify", "--repair")]] if any(flipped) else None

    def restore(self) -> Plan | None:
        from qdag.store.versions import versions

        platform = self.site.platform(self.home)
        name = self.one(*(name for name in ("raw_ohlcv", "findings", *DERIVED) if platform.store.exists(name)))
        known = versions(platform.store, name)
        readable = [v.version for v in known[1:] if v.readable]
        if not readable:
            return None
        # what a person brings back is his: its own difference from the files is no surprise
        self.trusted = (name,) if name in ("raw_ohlcv", "findings") else ()
        return [[("data", "restore", name, str(readable[int(self.rng.integers(len(readable)))]))]]

    def vacuum(self) -> Plan:
        return [[("data", "vacuum", "--keep-versions", "1", "--keep-days", "0")]]

    def restore_backup(self) -> Plan:
        if not self.safe.exists() or self.rng.random() < 0.5:
            self.alone([("data", "backup", str(self.safe))])
            self.correct()
            self.more(1)
            self.alone(self.site.refresh())
        chosen: list[str] = []
        if self.rng.random() < 0.5:
            tables = self.site.platform(self.home).store.names()
            chosen = [name for name in ("alpha158", "labels", "factor_metrics") if name in tables][:2]
        self.trusted = ("raw_ohlcv", "findings", "qlib_bin") if not chosen else ()
        # as the command says: Qlib's directories are made anew
        self.before = [] if chosen else [self.site.whole(u, "raw_ohlcv", "qlib_bin") for u in self.site.markets]
        return [[("data", "restore-backup", str(self.safe), "--force", *(w for n in chosen for w in ("--table", n)))]]

    def factor(self) -> Plan:
        self.factors += 1
        text = FACTORS[self.factors % len(FACTORS)].format(d=2 + self.factors)
        self.site.factors[f"mine_{self.factors}"] = text
        return [self.site.refresh()]

    def two_compactors(self) -> Plan:
        for _ in range(2):
            self.alone(self.append()[0])
        return [[("data", "compact")], [("data", "compact")]]

    def two_writers(self, universe: str, same: bool) -> Plan:
        self.correct()
        self.alone([self.site.whole(UNIVERSE, "raw_ohlcv", "qlib_bin")])
        market = self.site.markets[UNIVERSE]
        shown = [day for day in market.days if day <= market.end]
        middle = int(self.rng.integers(10, len(shown) - 10))
        low, high = (shown[0], shown[-1]) if same else (shown[middle], shown[middle - 1])
        assets = ("price_features", "labels", "factor_metrics") if self.rng.random() < 0.5 else ("alpha158",)
        return [
            [("materialize", UNIVERSE, str(low), str(shown[-1]), *assets)],
            [("materialize", universe, str(shown[0]), str(high), *assets)],
        ]

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        began = time.monotonic()
        order: list[str] = []
        self.alone(self.site.build())
        while sum(self.report.kills.values()) < self.kills and time.monotonic() < self.until:
            if not order:
                order = self.rng.permutation(list(self.scenes)).tolist()
            self.scene(order.pop())
        self.report.seconds = time.monotonic() - began
        return self.report

    def alone(self, steps: Sequence[Words]) -> None:
        """A command that nobody disturbs."""
        done = Command(self.site.config(self.home), steps, self.log).wait()
        if done.code != DONE:
            raise RuntimeError(f"undisturbed, {' '.join(steps[0])}: {done.text}")

    def scene(self, name: str) -> None:
        report = self.report
        self.trusted, self.before = (), []
        try:
            plan = self.scenes[name]()
        except RuntimeError as error:
            self.fail(name, str(error))
            self.anew()
            return
        if plan is None:
            return
        report.runs[name] += 1
        for _ in range(int(self.rng.integers(1, 5))):
            killed = self.attack(name, plan)
            found = self.judge.look(self.home, self.trusted)
            report.listed += found.differing
            for text in found.problems:
                self.fail(name, text)
            if not killed or found.problems or sum(report.kills.values()) >= self.kills:
                break
        problems, seconds = _homes.settle(self.judge, self.home, self.before)
        report.recovery.setdefault(name, []).append(seconds)
        for text in problems:
            self.fail(name, text)
        kills = sum(report.kills.values())
        print(f"{kills:>4} kills, {sum(report.failures.values())} failures: {name}", file=sys.stderr, flush=True)
        if problems:
            self.anew()

    def attack(self, name: str, plan: Plan) -> bool:
        """Run the processes of a plan, some of them with a moment to die; whether one was killed."""
        together = _homes.forkserver().Barrier(len(plan)) if len(plan) > 1 else None
        doomed = self.rng.random(len(plan)) < (0.9 if len(plan) == 1 else 0.5)
        commands, after = [], []
        for steps, dies in zip(plan, doomed, strict=True):
            marks, seconds = self.known.get(_kind(steps), (30, 1.0))
            kill_at, delay, kill_after = 0, 0.0, None
            if dies and marks > 2 and self.rng.random() < 0.5:
                kill_at = int(self.rng.integers(1, marks + 1))
                delay = float(self.rng.exponential(0.003)) * float(self.rng.random() < 0.5)
            elif dies:
                kill_after = float(self.rng.uniform(0, seconds))
            commands.append(Command(self.site.config(self.home), steps, self.log, kill_at, delay, together))
            after.append(kill_after)
        for command in commands:
            command.ready()
        # the first to be killed is waited for first
        killed = False
        for at in sorted(range(len(plan)), key=lambda i: (after[i] is None, after[i] or 0)):
            done = commands[at].wait(after[at])
            killed |= done.code is None
            counted = {None: self.report.kills, REFUSED: self.report.refused, FAILED: self.report.failed}
            counted.get(done.code, self.report.lived)[name] += 1
            if done.code == DONE:
                self.known[_kind(plan[at])] = done.marks, done.seconds
            elif done.code == FAILED:
                self.fail(name, done.text)
        return killed

    def fail(self, name: str, text: str) -> None:
        self.report.failures[f"{name}: {text}"] += 1
        print(f"FAILED {name}: {text}", file=sys.stderr, flush=True)

    def anew(self) -> None:
        """Put the home away and build another."""
        if self.keep:
            copied(self.root, Path(self.keep) / f"{sum(self.report.failures.values())}")
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.safe, ignore_errors=True)
        self.alone(self.site.build())


def _kind(steps: Sequence[Words]) -> str:
    return " ".join(word for words in steps for word in (*words[:2], *words[4:]))


def show(report: Report) -> None:
    names = sorted({*report.runs, *(text.split(":")[0] for text in report.failures)})
    width = max((len(name) for name in names), default=0)
    heading = ("times", "kills", "lived", "refused", "failed", "failures", "recovery, s")
    print(f"{'scene':<{width}} {'  '.join(heading)}")
    for name in names:
        failures = sum(count for text, count in report.failures.items() if text.startswith(f"{name}: "))
        counts = [c[name] for c in (report.runs, report.kills, report.lived, report.refused, report.failed)]
        worst = f"{max(report.recovery.get(name, [0.0])):.1f}"
        cells = [f"{cell:>{len(h)}}" for h, cell in zip(heading, (*counts, failures, worst), strict=True)]
        print(f"{name:<{width}} {'  '.join(cells)}")
    print(
        f"\nkills {sum(report.kills.values())}, failures {sum(report.failures.values())}; sessions that differed and "
        f"were listed {report.listed}; {report.seconds:.0f} s"
    )
    shown: Counter[str] = Counter()
    for text, count in report.failures.items():
        scene = text.split(":")[0]
        shown[scene] += 1
        if shown[scene] <= SHOWN:
            print(f"FAILED {count} x {text}")
    for scene, count in shown.items():
        if count > SHOWN:
            print(f"... and {count - SHOWN} more of {scene}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=(), metavar="SCENE")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin no further scene after them")
    parser.add_argument("--keep", help="folder for homes that failed")
    given = parser.parse_args()
    print(f"seed {given.seed}, two universes of made-up files")
    with TemporaryDirectory(prefix="qdag-attack-") as root:
        loop = Loop(Path(root), given.kills, given.seed, given.only, given.minutes, given.keep)
        try:
            report = loop.run()
        finally:
            show(loop.report)
    return 1 if report.failures or sum(report.kills.values()) < given.kills else 0


if __name__ == "__main__":
    sys.exit(main())
