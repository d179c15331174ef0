"""What an asset must say about itself. Everything else (Dagster's graph, jobs, partitions, checks, staleness, refresh,
repair, status, the command, the documentation) is a loop over the assets of the chain.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import Literal

import numpy as np

from qdag.assets.platform import Platform
from qdag.assets.result import Result
from qdag.lineage import Definition, Lineage, Reads, Stale
from qdag.quality.checks import Frames, Scope
from qdag.quality.rule import Rule
from qdag.schema import TableSpec
from qdag.settings import QualitySettings, Settings

Period = Literal["session", "month"]
VALUE_BYTES, KEY_BYTES = 4, 4
"""On disk, of a value and of the keys of a row: measured means."""
Range = tuple[int, int]
"""Positions in the calendar of the first and the last session."""


@dataclass(frozen=True)
class Estimate:
    """What computing some sessions would bring: rows, seconds with checks and records, bytes on disk."""

    rows: int
    seconds: float
    bytes: int


class Asset(ABC):
    """One thing that is materialized, for a universe and a period.

    A subclass with one instance named ``ASSET``, or a function ``assets(settings)`` that gives several, in a module of
    ``qdag.assets`` is all that a new asset needs.

    Attributes
    ----------
    name : of the asset, and of its table
    group : where catalogues list it
    kinds : technologies, for the tags of the Dagster UI
    period : what a partition is: a session, or a month, which is computed on its last session
    version : raised by hand when the code gives other values for the same inputs; every stored session is stale then
    unit : what progress counts
    also : tables that it writes beside its own
    takes : names of further arguments of :meth:`compute`, lists of instruments
    read_whole : what it reads lies outside and is read as a whole for any session of it
    seconds_per_million : measured on two cores, seconds for a million rows with checks and records
    """

    name: str
    group: str
    kinds: frozenset[str]
    description: str = ""
    period: Period = "session"
    version: int = 1
    unit: str = "sessions"
    also: tuple[TableSpec, ...] = ()
    takes: frozenset[str] = frozenset()
    read_whole: bool = False
    seconds_per_million: float = 20.0

    def __repr__(self) -> str:
        return f"<asset {self.name}>"

    # -- what it is

    def table(self, settings: Settings) -> TableSpec | None:
        """Columns of its table; None for what is no Delta table (a directory, models)."""
        return None

    @property
    def elsewhere(self) -> str:
        """Of what is no table: where it is and what shows it, as a sentence."""
        return f"{self.name} is no table"

    def describe(self, settings: Settings) -> str:
        """A paragraph for the catalogue: what it is, where it lies, what doing it again means."""
        spec = self.table(settings)
        if spec is None:
            return self.description
        return (
            f"{spec.description}\n\nDelta table `{settings.tables / self.name}`, keys {', '.join(spec.keys)}. "
            "Materializing sessions again replaces them in one commit."
        )

    # -- what it is made from

    @abstractmethod
    def upstream(self, settings: Settings, universe: str | None = None) -> tuple[str, ...]:
        """Assets that must be up to date before it is computed, for one universe or for any."""

    @abstractmethod
    def reads(self, settings: Settings, universe: str, defined: Definition | None = None) -> tuple[Reads, ...]:
        """What a session reads: other assets' sessions before and after it; nothing for what comes from outside.

        ``defined``: as an earlier definition of the asset read; by default the current one.
        """

    @abstractmethod
    def definition(self, settings: Settings, universe: str) -> Definition:
        """What decides the values in a universe besides what is read: no prose, and nothing of other universes."""

    def code_version(self, settings: Settings) -> str:
        """Short hash that changes exactly when the definition changes in some universe."""
        found = [f"{name} {self.definition(settings, name).version}" for name in sorted(settings.universes)]
        return sha256("\n".join(found).encode()).hexdigest()[:12]

    def unsound(self, platform: Platform, universe: str, sessions: np.ndarray) -> np.ndarray:
        """Which sessions (without gaps) would be computed from what is stale, beside what :meth:`reads` tells: bool
        (S,). What is computed for them is never recorded as right."""
        return np.zeros(len(sessions), bool)

    # -- what is there, and what should be

    def stored(self, platform: Platform, universe: str) -> np.ndarray:
        """Sessions that it holds, M8[D]."""
        return platform.stored(self.name, universe)

    def stale(self, platform: Platform, lineage: Lineage, found: Stale) -> Stale:
        """What counts of the sessions that differ from what would be computed now."""
        return found

    def missing(self, platform: Platform, universe: str, newest: np.datetime64) -> np.ndarray:
        """Sessions from its first stored one to ``newest`` that it does not hold, M8[D]."""
        stored, calendar = self.stored(platform, universe), platform.calendar(universe).all
        expected = calendar[(calendar >= stored[0]) & (calendar <= newest)] if len(stored) else stored
        return np.setdiff1d(expected, stored)

    def lacking(self, platform: Platform, universe: str, day: date) -> str:
        """Why nothing can be made of what is stored as of a day, with the remedy; empty where something can."""
        return ""

    def request(self, settings: Settings, stale: Sequence[Range], ranges: Mapping[str, Sequence[Range]]) -> list[Range]:
        """The windows to ask for so that the ``stale`` ranges are computed; ``ranges``: those of what it reads."""
        return list(stale)

    # -- whether it is right

    def rules(self, settings: Settings, limits: QualitySettings) -> tuple[Rule, ...]:
        """What must hold of it; none for what is judged elsewhere."""
        return ()

    def frames(self, scope: Scope) -> Frames:
        """The frames that its rules are judged on; none for a window without sessions.

        Raises
        ------
        MissingDataError
            What is judged does not exist although the window has sessions.
        """
        return iter(())

    @property
    def levels(self) -> frozenset[str] | None:
        """Columns that move with the market, so that their drift says nothing; None where no drift is judged."""
        return None

    # -- how it comes about

    @abstractmethod
    def compute(self, platform: Platform, universe: str, start: date, end: date) -> Result:
        """Compute the sessions of the days, both inclusive, and replace them. Days outside the universe's own range,
        and days that are no session of its exchange, are empty."""

    def estimate(self, settings: Settings, universe: str, days: np.ndarray, per_session: float) -> Estimate:
        """What computing ``days`` would bring, ``per_session`` bars each."""
        spec = self.table(settings)
        rows = round(len(days) * per_session)
        size = rows * ((len(spec.values) if spec else 0) * VALUE_BYTES + KEY_BYTES)
        return Estimate(rows, rows / 1e6 * self.seconds_per_million, size)
