"""Random histories of a home: files that come, grow, shrink, are corrected and come late, in any order of sessions and
by every way there is; against one build of the final files. Shared by the tests and ``benchmarks.histories``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qdag.assets.platform import Platform
from qdag.lineage import Stale
from qdag.operations.backfill import backfill_chunks
from qdag.operations.landing import Cursor, arrivals
from qdag.operations.survey import survey
from qdag.settings import FilesSource, Settings, TopPool, UniverseSettings
from qdag_tests import stages

UNIVERSE = "market"
HEADER = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient"
LONGEST_HALT = 75
"""Sessions: longer than the longest window of a feature."""


@dataclass
class Bar:
    """A line of a file: prices as they were, and the day's events."""

    price: float
    volume: int
    dividend: float = 0.0
    split: float = 1.0

    def line(self, day: date) -> str:
        low, high = self.price * 0.99, self.price * 1.01
        cells = (self.price * 0.998, high, low, self.price, self.price)
        text = ",".join(f"{cell:.4f}" for cell in cells)
        return f"{day},{text},{self.volume},{self.dividend:.4f},{self.split:.4f}"


@dataclass
class Market:
    """What a vendor knows, and how much of it has been delivered: ``first`` and ``last`` day of each file."""

    folder: Path
    days: list[date]
    bars: dict[str, dict[date, Bar]]
    first: dict[str, date] = field(default_factory=dict)
    last: dict[str, date] = field(default_factory=dict)

    @classmethod
    def random(cls, folder: Path, days: list[date], count: int, rng: np.random.Generator) -> "Market":
        """Random walks with halts, one of them longer than every window, late listings and events."""
        bars: dict[str, dict[date, Bar]] = {}
        for k in range(count):
            returns = rng.normal(0, 0.02, len(days))
            prices = 50 * np.exp(np.cumsum(returns))
            begin = 0 if k < 2 else int(rng.integers(0, len(days) // 3))
            halts = np.zeros(len(days), bool)
            for length in (LONGEST_HALT if k == 0 else 12, 3):
                # early enough that most of what follows it is computed
                latest = max(begin + 6, (len(days) - length) // 2)
                at = int(rng.integers(begin + 5, latest))
                halts[at : at + length] = True
            lines = {
                day: Bar(float(prices[i]), int(rng.integers(1_000, 90_000)))
                for i, day in enumerate(days)
                if i >= begin and not halts[i]
            }
            chosen = sorted(lines)
            lines[chosen[len(chosen) // 2]].dividend = 0.4
            bars[f"S{k}"] = lines
        return cls(folder, days, bars)

    @classmethod
    def real(
        cls, folder: Path, days: list[date], files: Sequence[Path], read: Callable[[Path], dict[date, Bar]]
    ) -> "Market":
        """Real files, each with the bars of the given days."""
        known = set(days)
        bars = {file.stem: {day: bar for day, bar in read(file).items() if day in known} for file in files}
        return cls(folder, days, {name: lines for name, lines in bars.items() if len(lines) > 20})

    def shown(self, name: str) -> list[date]:
        return [day for day in sorted(self.bars[name]) if self.first[name] <= day <= self.last[name]]

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in self.bars:
            file, days = self.folder / f"{name}.csv", self.shown(name)
            text = "\n".join([HEADER, *(self.bars[name][day].line(day) for day in days), ""])
            if days and (not file.exists() or file.read_text() != text):
                file.write_text(text)


class History:
    """One home that lives through random steps.

    Parameters
    ----------
    market : what is delivered; nothing of it yet
    home : an empty folder
    more : further settings
    """

    def __init__(self, market: Market, home: Path, seed: int, calendar: str = "XNYS", **more: Any):
        self.market, self.home, self.calendar, self.more = market, home, calendar, more
        self.rng = np.random.default_rng(seed)
        self.cursor, self.told = Cursor(), []
        middle = market.days[len(market.days) // 2]
        for name in market.bars:
            market.first[name] = self.day(0.0, 0.4) if self.rng.random() < 0.5 else market.days[0]
            market.last[name] = max(self.day(0.7, 0.9), middle)

    def day(self, low: float, high: float) -> date:
        """A day of a part of the history, both shares of it."""
        count = len(self.market.days)
        return self.market.days[int(self.rng.integers(int(low * count), max(int(high * count), int(low * count) + 1)))]

    def platform(self, home: Path | None = None) -> Platform:
        universe = UniverseSettings(
            source=FilesSource(path=self.market.folder, profile="alphavantage"),
            calendar=self.calendar,
            start=self.market.days[0],
            end=self.market.days[-1],
            pools={"busy": TopPool(kind="top", size=2, window=10)},
        )
        return Platform.open(Settings(home=home or self.home, universes={UNIVERSE: universe}, **self.more))

    # -- the vendor ----------------------------------------------------------------------------------------------------

    def deliver(self) -> str:
        """Change the files; says how."""
        ways = (self._grow, self._grow, self._begin_earlier, self._correct, self._correct, self._event, self._shrink)
        told = ways[int(self.rng.integers(len(ways)))]()
        self.market.write()
        return told

    def _name(self) -> str:
        names = sorted(self.market.bars)
        return names[int(self.rng.integers(len(names)))]

    def _grow(self) -> str:
        step = int(self.rng.integers(1, 25))
        days = self.market.days
        for name, last in self.market.last.items():
            self.market.last[name] = days[min(days.index(last) + step, len(days) - 1)]
        return f"{step} sessions more"

    def _begin_earlier(self) -> str:
        name = self._name()
        self.market.first[name] = self.market.days[0]
        return f"{name} from its first day on"

    def _correct(self) -> str:
        name = self._name()
        days = self.market.shown(name)
        day = days[int(self.rng.integers(len(days)))]
        self.market.bars[name][day].price *= float(self.rng.uniform(0.97, 1.03))
        return f"{name} corrected on {day}"

    def _event(self) -> str:
        """A split or a dividend that was not told before."""
        name = self._name()
        days = self.market.shown(name)
        day = days[int(self.rng.integers(1, len(days)))]
        if self.rng.random() < 0.5:
            self.market.bars[name][day].dividend = 0.7
            return f"{name} dividend of {day}"
        for later, bar in self.market.bars[name].items():
            if later >= day:
                bar.price /= 2
        self.market.bars[name][day].split *= 2
        return f"{name} split of {day}"

    def _shrink(self) -> str:
        """A few rows less."""
        name = self._name()
        days = self.market.shown(name)
        if len(days) < 60:
            return "nothing"
        for day in days[10:13]:
            del self.market.bars[name][day]
        return f"{name} without {days[10]} .. {days[12]}"

    # -- the house -----------------------------------------------------------------------------------------------------

    def act(self) -> str:
        """Do something that a person, a schedule or a sensor does; says what."""
        ways = (self._window, self._raw, self._backfill, self._land, self._land, self._refresh, self._restore)
        return ways[int(self.rng.integers(len(ways)))]()

    def _span(self) -> tuple[date, date]:
        first, last = sorted((self.day(0.0, 1.0), self.day(0.0, 1.0)))
        return first, last

    def run(self, platform: Platform, assets: Sequence[str], first: date, last: date) -> None:
        for name in assets:
            stage = stages.feature_stage(name)
            stage(platform, UNIVERSE, first, last)

    def assets(self, platform: Platform) -> list[str]:
        return [n for n in stages.asset_names(platform.settings) if n not in ("trained_model", "predictions")]

    def _window(self, span: tuple[date, date] | None = None) -> str:
        platform, span = self.platform(), span or self._span()
        self.run(platform, self.assets(platform), *span)
        return "materialize {} .. {}".format(*span)

    def _raw(self) -> str:
        span = self._span()
        self.run(self.platform(), ["raw_ohlcv"], *span)
        return "raw_ohlcv {} .. {}".format(*span)

    def _backfill(self, span: tuple[date, date] | None = None) -> str:
        platform, (first, last) = self.platform(), span or self._span()
        assets = self.assets(platform)
        for chunk in backfill_chunks(platform, UNIVERSE, first, last, assets, int(self.rng.integers(20, 90))):
            self.run(platform, chunk.assets, chunk.start, chunk.end)
        return f"backfill {first} .. {last}"

    def _land(self) -> str:
        """The sensor, which looks twice before it believes a file."""
        platform = self.platform()
        for _ in range(2):
            found = arrivals(platform, UNIVERSE, self.cursor, now=2e9)
            self.cursor = found.cursor
        if found.request:
            self.run(platform, found.request.assets, found.request.start, found.request.end)
        return f"landing: {found.reason}"

    def _refresh(self) -> str:
        platform, runs = self.platform(), 0
        while asked := survey(platform, UNIVERSE).requests:
            for request in asked:
                self.run(platform, request.assets, request.start, request.end)
                runs += 1
            if runs > 200:
                raise AssertionError(f"refreshing does not come to an end: {asked[0]}")
        return f"refresh: {runs} runs"

    def _restore(self) -> str:
        platform = self.platform()
        newest = {n: platform.store.version(n) for n in self.assets(platform) if n != "raw_ohlcv"}
        names = [name for name, version in newest.items() if version]
        if not names:
            return "nothing"
        name = names[int(self.rng.integers(len(names)))]
        version = int(self.rng.integers(0, newest[name] or 1))
        platform.store.restore(name, version, {})
        return f"restore {name} {version}"

    # -- the end -------------------------------------------------------------------------------------------------------

    def live(self, steps: int) -> None:
        self.market.write()
        if self.rng.random() < 0.5:
            # recent sessions first: what lies before comes later, if ever
            self.told.append(self._window((self.day(0.5, 0.8), self.market.days[-1])))
        for _ in range(steps):
            self.told.append(self.act())
            self.told.append(self.deliver())
        self.told.append(self._land())
        if self.rng.random() < 0.5:
            self.told.append(self._backfill((self.market.days[0], self.market.days[-1])))
        self.told.append(self._refresh())

    def differences(self, once: Path) -> list[str]:
        """What differs from one build of the final files in the folder ``once``, or is called stale."""
        mine, other = self.platform(), self.platform(once)
        stored = mine.store.sessions("raw_ohlcv", UNIVERSE)
        if not len(stored):
            return []
        span = stored[0].item(), stored[-1].item()
        assets = self.assets(other)
        # what was never asked for is not there, and nothing knows of it
        self.run(other, assets, *span)
        found = [f"{name}: {one.reason()}" for name, one in _stale(mine).items() if one]
        found += [f"bins: {path}: {text}" for path, text in stages.verify_bins(mine, UNIVERSE).problems]
        for table in (*(a for a in assets if a != "qlib_bin"), "quarantine", "findings"):
            if not (mine.store.exists(table) and other.store.exists(table)):
                continue
            got, want = (platform.store.read(table, UNIVERSE, *span) for platform in (mine, other))
            if not got.equals(want):
                found.append(f"{table}: {got.num_rows} rows, {want.num_rows} in one build; {_first(got, want)}")
        return found


def _stale(platform: Platform) -> dict[str, Stale]:
    return survey(platform, UNIVERSE).stale


def _first(got: pa.Table, want: pa.Table) -> str:
    """The first row that differs."""
    if got.column_names != want.column_names:
        return f"columns {got.column_names} and {want.column_names}"
    for at in range(min(got.num_rows, want.num_rows)):
        one, other = got.slice(at, 1), want.slice(at, 1)
        if not one.equals(other):
            a, b = one.to_pylist()[0], other.to_pylist()[0]
            return str({key: (a[key], b[key]) for key in a if a[key] != b[key] or key in ("date", "instrument")})
    return "more rows"
