"""What everything that computes works with: settings, the table store, whom to tell about progress, and the clock."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

import numpy as np

from qdag.core.sessions import SessionCalendar, calendar_for
from qdag.core.windows import NO_SESSIONS
from qdag.settings import Settings
from qdag.store.tables import TableStore

Report = Callable[[str, int, int, int], None]
"""Is told the asset, how much of it is done, how much there is, and rows written so far."""


def silent(asset: str, done: int, total: int, rows: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Platform:
    """Settings, the table store, and whom to tell about progress.

    Attributes
    ----------
    provenance : what every commit of the platform says about who made it
    written : rows that have been written, by table, for the report
    """

    settings: Settings
    store: TableStore
    report: Report = silent
    provenance: dict[str, str] = field(default_factory=dict)
    written: Counter[str] = field(default_factory=Counter, repr=False, compare=False)

    @classmethod
    def open(cls, settings: Settings, report: Report = silent) -> "Platform":
        """Open the data home of the settings; nothing is created until something is written."""
        return cls(settings, TableStore(settings.tables), report)

    def for_run(self, run_id: str) -> "Platform":
        """The same platform, whose commits name a Dagster run."""
        return replace(self, provenance={**self.provenance, "dagster_run_id": run_id})

    def tell(self, asset: str, done: int, total: int) -> None:
        """Report progress, with the rows that have been written."""
        self.report(asset, done, total, self.written[asset])

    def calendar(self, universe: str) -> SessionCalendar:
        """Sessions of the universe's exchange."""
        return calendar_for(self.settings.universe(universe))

    def last_session(self, universe: str) -> date:
        """The last session of the universe that has closed."""
        return self.calendar(universe).closed_before(datetime.now(UTC))

    def window(self, universe: str, start: date, end: date) -> np.ndarray:
        """Sessions of the universe in the days, both inclusive, that have closed and lie in its own range, M8[D]."""
        return self.calendar(universe).closed_between(start, end, datetime.now(UTC))

    def sessions(self, universe: str) -> np.ndarray:
        """All sessions of the universe that have closed, from its start on, M8[D]."""
        spec = self.settings.universe(universe)
        return self.calendar(universe).between(spec.start, self.last_session(universe))

    def stored(self, table: str, universe: str) -> np.ndarray:
        """Sessions of which a table holds rows, M8[D]; none where there is no table."""
        return self.store.sessions(table, universe) if self.store.exists(table) else NO_SESSIONS

    def why_empty(self, universe: str, day: date) -> str:
        """Why a day can have no rows of a universe, in a few words; empty for a session that has closed."""
        spec = self.settings.universe(universe)
        if day < spec.start or (spec.end is not None and day > spec.end):
            return f"outside universe {universe}"
        if not self.calendar(universe).contains(day):
            return f"no session of {spec.calendar}"
        return "the session has not closed yet" if day > self.last_session(universe) else ""
