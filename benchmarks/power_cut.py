"""Cut the power of a home's disk at random moments, and judge what is left: ``python -m benchmarks.power_cut``.

``[--cuts 20] [--seed 1] [--only SCENE ...] [--keep DIR]``. A home lies on an ext4 file system of its own, with default
options, in a file behind a loop device (root is needed). Commands run on it: stages, refresh, a new custom factor,
compact, vacuum, backup, repair, restore; in most of them the Qlib writer, which flushes a whole file system, is not the
last to write. At a random moment of a command, and 1, 8 and 20 s after it said done, the file is copied as it is: what
the file system had written by then is in it, and pages that were only in memory are not. A copy that two readings
agree on is a moment's. Nothing is flushed for it.

The copy is mounted, which replays the journal, and judged:

- what a command had said to be done is there, session by session; a backup that was done can be restored;
- every table opens, no key is there twice, and nothing differs from an undisturbed build that neither ``verify`` nor
  ``stale`` lists;
- ``verify --repair``, raw_ohlcv from the files and ``refresh`` make everything equal to the undisturbed build.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import _homes
from benchmarks._homes import DONE, UNIVERSE, Command, Contents, Judge, Site, Words
from benchmarks.attack_loop import FACTORS
from benchmarks.crash_loop import moved

PAUSES = (1.0, 8.0, 20.0)
"""Seconds after a command said done: before the journal's next commit, after it, and with data written back in part."""
MIB = 384
PART = 1 << 20
TRIES = 30
FEATURES = ("basic_statistics", "price_features", "labels")


class Disk:
    """An ext4 file system in a file, mounted."""

    def __init__(self, folder: Path, image: Path):
        self.folder, self.image = folder, image
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def made(cls, folder: Path, image: Path) -> "Disk":
        with image.open("wb") as file:
            file.truncate(MIB << 20)
        # a small journal: less to copy
        _call("mkfs.ext4", "-q", "-F", "-J", "size=16", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
        return cls(folder, image)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        _call("mount", "-o", "loop", str(self.image), str(self.folder))
        try:
            yield self.folder
        finally:
            _call("umount", str(self.folder))

    def cut(self, to: Path) -> int:
        """Copy what is on the disk now; how many readings it took."""
        held = _blocks(self.image)
        for tries in range(1, TRIES + 1):
            again = _blocks(self.image)
            if again == held:
                with to.open("wb") as file:
                    file.truncate(MIB << 20)
                    for at, data in held.items():
                        file.seek(at)
                        file.write(data)
                return tries
            held = again
        raise RuntimeError(f"the disk did not stand still for two readings in {TRIES}")


def _blocks(image: Path) -> dict[int, bytes]:
    """What is stored in a sparse file, by its position."""
    found: dict[int, bytes] = {}
    with image.open("rb", buffering=0) as file:
        at, size = 0, os.fstat(file.fileno()).st_size
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            for start in range(at, end, PART):
                found[start] = os.pread(file.fileno(), min(PART, end - start), start)
            at = end
    return found


def _call(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")


def missing(folder: Path) -> str | None:
    """Why no file system can be made and mounted here, or None."""
    if os.geteuid():
        return "root is needed to mount a file system"
    if absent := [name for name in ("mkfs.ext4", "losetup", "mount", "umount") if not shutil.which(name)]:
        return f"{', '.join(absent)} not found"
    try:
        with Disk.made(folder / "try", folder / "try.img").mounted():
            return None
    except OSError as error:
        return str(error)
    finally:
        (folder / "try.img").unlink(missing_ok=True)


@dataclass
class Cut:
    """A copy of the disk with what it must hold.

    ``before`` and ``after``: contents by universe before the command and when it said done; ``after`` is None where it
    was still running. ``backups``: contents of the home at the moment of the last backup that was done.
    """

    scene: str
    moment: str
    image: Path
    before: dict[str, Contents]
    after: dict[str, Contents] | None
    backup: dict[str, Contents] | None
    problems: list[str] = field(default_factory=list)
    damaged: int = 0
    stale: int = 0
    readings: int = 0
    seconds: float = 0.0


class Cuts:
    """One site with its home on a disk of its own."""

    def __init__(self, root: Path, cuts: int, seed: int, only: Sequence[str] = (), keep: str | None = None):
        self.root, self.wanted, self.keep = root, cuts, keep
        self.rng = np.random.default_rng(seed)
        self.site = Site.made(root, seed, instruments=6, sessions=90)
        self.log = root / "log.txt"
        self.judge = Judge(self.site, root, self.log)
        self.disk = Disk.made(root / "disk", root / "disk.img")
        self.home, self.safe = root / "disk" / "home", root / "disk" / "safe"
        self.cuts: list[Cut] = []
        self.saved: dict[str, Contents] | None = None
        self.factors = 0
        # what each command took before
        self.known: dict[str, float] = {}
        scenes: dict[str, Callable[[], list[Words]]] = {
            "features of a new home": self.new_home,
            "all stages of a session": self.append,
            "refresh of a correction": self.correction,
            "features after their inputs": self.features,
            "a new custom factor": self.factor,
            "compact": lambda: [("data", "compact")],
            "vacuum": lambda: [("data", "vacuum", "--keep-versions", "1", "--keep-days", "0")],
            "backup": lambda: [("data", "backup", str(self.safe))],
            "repair": self.repair,
            "restore": self.restore,
        }
        if wrong := [name for name in only if name not in scenes]:
            raise SystemExit(f"no scene {wrong[0]!r}; there are: {', '.join(scenes)}")
        self.scenes = {name: make for name, make in scenes.items() if not only or name in only}

    def new_home(self) -> list[Words]:
        shutil.rmtree(self.home, ignore_errors=True)
        self.alone([self.site.whole(u, "raw_ohlcv", "qlib_bin") for u in self.site.markets])
        return [self.site.whole(u, *FEATURES) for u in self.site.markets]

    def append(self) -> list[Words]:
        for market in self.site.markets.values():
            later = [day for day in market.days if day > market.end]
            market.end = later[0] if later else market.end
            market.write()
        return [("materialize", u, str(m.end), str(m.end)) for u, m in self.site.markets.items()]

    def correct(self) -> None:
        market = self.site.markets[UNIVERSE]
        name = sorted(market.lines)[int(self.rng.integers(len(market.lines)))]
        days = market.shown(name)
        day = days[int(self.rng.integers(len(days) // 2, len(days)))]
        line = market.line(name, day)
        assert line is not None
        market.changes[name, day] = moved(line, 1.03)
        market.write()

    def correction(self) -> list[Words]:
        self.correct()
        return self.site.refresh()

    def features(self) -> list[Words]:
        """What stages after qlib_bin write, which flushes nothing."""
        self.correct()
        self.alone([self.site.whole(UNIVERSE, "raw_ohlcv", "qlib_bin")])
        return [("refresh", UNIVERSE)]

    def factor(self) -> list[Words]:
        self.factors += 1
        self.site.factors[f"mine_{self.factors}"] = FACTORS[self.factors % len(FACTORS)].format(d=2 + self.factors)
        return [("refresh", u) for u in self.site.markets]

    def repair(self) -> list[Words]:
        self.alone(self.site.refresh())
        for name in ("labels", "alpha158"):
            _homes.flip(self.site.platform(self.home), name, self.rng)
        return [("data", "verify", "--repair")]

    def restore(self) -> list[Words]:
        from qdag.store.versions import versions

        known = versions(self.site.platform(self.home).store, "price_features")
        readable = [v.version for v in known if v.readable]
        return [("data", "restore", "price_features", str(readable[min(1, len(readable) - 1)]))]

    def alone(self, steps: Sequence[Words]) -> float:
        done = Command(self.site.config(self.home), steps, self.log).wait()
        if done.code != DONE:
            raise RuntimeError(f"undisturbed, {' '.join(steps[0])}: {done.text}")
        return done.seconds

    def held(self, home: Path) -> dict[str, Contents]:
        platform = self.site.platform(home)
        return {u: _homes.contents(platform, u)[0] for u in self.site.markets}

    def run(self) -> list[Cut]:
        round_of = 0
        while len(self.cuts) < self.wanted:
            with self.disk.mounted():
                if not self.home.exists():
                    self.alone(self.site.build())
                for at, (name, make) in enumerate(self.scenes.items()):
                    if len(self.cuts) < self.wanted:
                        # all moments of the first; then one of a running command, and one after it in turn
                        pauses = PAUSES if name == "features of a new home" else (PAUSES[(at + round_of) % 3],)
                        self.scene(name, make, pauses)
            round_of += 1
        return self.cuts

    def scene(self, name: str, make: Callable[[], list[Words]], pauses: Sequence[float]) -> None:
        steps = make()
        before = self.held(self.home)
        mine: list[Cut] = []

        def cut(moment: str, after: dict[str, Contents] | None) -> None:
            image = self.root / f"cut-{len(self.cuts) + len(mine)}.img"
            readings = self.disk.cut(image)
            mine.append(Cut(name, moment, image, before, after, self.saved, readings=readings))

        command = Command(self.site.config(self.home), steps, self.log)
        command.ready()
        began = time.perf_counter()
        time.sleep(float(self.rng.uniform(0, self.known.get(name, 0.5))))
        running = command.process.is_alive()
        if running and len(self.cuts) + len(mine) < self.wanted:
            cut("while it runs", None)
        done = command.wait()
        said = time.perf_counter()
        if done.code != DONE:
            raise RuntimeError(f"undisturbed, {' '.join(steps[0])}: {done.text}")
        self.known[name] = done.seconds
        after = self.held(self.home)
        if name == "backup":
            self.saved = after
        for pause in pauses:
            if len(self.cuts) + len(mine) < self.wanted:
                time.sleep(max(0.0, said + pause - time.perf_counter()))
                cut(f"{pause:.0f} s after it said done", after)
        seconds = said - began
        for one in mine:
            self.judged(one)
            told = "; ".join(one.problems[:1]) or "good"
            print(f"{name} ({seconds:.1f} s), {one.moment}: {told[:150]}", file=sys.stderr, flush=True)
        self.cuts += mine

    def judged(self, cut: Cut) -> None:
        """Mount the copy, look at it, do what the documents say, and compare."""
        began = time.perf_counter()
        disk = Disk(self.root / "copy", cut.image)
        try:
            with disk.mounted() as folder:
                home = folder / "home"
                cut.problems += self.there(cut, home)
                # restored on purpose: what is not due is his who restored it, until it is refreshed
                found = self.judge.look(home)
                cut.problems += found.problems
                cut.damaged, cut.stale = found.damaged, found.stale
                if cut.backup is not None:
                    cut.problems += self.restored(folder / "safe", cut.backup)
                cut.problems += _homes.settle(self.judge, home)[0]
        except Exception as error:
            cut.problems.append(f"{type(error).__name__}: {error}")
        cut.seconds = time.perf_counter() - began
        if cut.problems and self.keep:
            Path(self.keep).mkdir(parents=True, exist_ok=True)
            shutil.copy(cut.image, self.keep)
        cut.image.unlink()

    def there(self, cut: Cut, home: Path) -> Iterator[str]:
        """What was said to be done, and is not there: each session is as it was, or as a running command makes it."""
        held = self.held(home)
        final = self.held(self.home)
        for universe, tables in (cut.after or cut.before).items():
            for name, due in tables.items():
                have = held[universe][name]
                if cut.after is None:
                    allowed = (due, final[universe][name])
                    lost = [d for d, value in due.items() if all(have.get(d) != a.get(d, value) for a in allowed)]
                    # a table that the command was repairing may lack what was damaged: the look asks for it
                    lost = [] if cut.scene == "repair" else lost
                else:
                    lost = [d for d in {*due, *have} if have.get(d) != due.get(d)]
                if lost:
                    yield f"{name} of {universe} lost {len(lost)} sessions that were done, first {min(lost)}"

    def restored(self, safe: Path, due: dict[str, Contents]) -> Iterator[str]:
        """What of a backup that was done cannot be brought back."""
        home = self.root / "restored"
        shutil.rmtree(home, ignore_errors=True)
        done = Command(self.site.config(home), [("data", "restore-backup", str(safe))], self.log).wait()
        if done.code != DONE:
            yield f"a backup that was done cannot be restored: {done.text}"
            return
        for universe, tables in self.held(home).items():
            for name, have in tables.items():
                if name != "qlib_bin" and have != due[universe][name]:
                    yield f"{name} of {universe} came back from the backup as something else"


def show(cuts: Sequence[Cut]) -> int:
    width = max(len(cut.scene) for cut in cuts)
    print(f"{'command':<{width}}  {'cut':<22} {'damaged':>8} {'stale':>6} {'seconds':>8}  good")
    for cut in cuts:
        good = "NO" if cut.problems else "yes"
        print(f"{cut.scene:<{width}}  {cut.moment:<22} {cut.damaged:>8} {cut.stale:>6} {cut.seconds:>8.1f}  {good}")
    bad = [cut for cut in cuts if cut.problems]
    print(f"\ncuts {len(cuts)}, failed {len(bad)}; most readings of the disk until two agreed {_most(cuts)}")
    for cut in bad:
        for text in cut.problems[:5]:
            print(f"FAILED {cut.scene}, {cut.moment}: {text[:400]}")
    return len(bad)


def _most(cuts: Sequence[Any]) -> int:
    return max(cut.readings for cut in cuts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=(), metavar="SCENE")
    parser.add_argument("--keep", help="folder for copies of the disk that failed")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="qdag-power-", ignore_cleanup_errors=True) as text:
        root = Path(text)
        if why := missing(root):
            print(f"skipped: {why}")
            return 0
        try:
            cuts = Cuts(root, given.cuts, given.seed, given.only, given.keep).run()
        finally:
            for name in ("copy", "disk"):
                with suppress(OSError):
                    if os.path.ismount(root / name):
                        _call("umount", "-l", str(root / name))
    print(f"seed {given.seed}, ext4 of {MIB} MiB behind a loop device")
    return 1 if show(cuts) else 0


if __name__ == "__main__":
    sys.exit(main())
