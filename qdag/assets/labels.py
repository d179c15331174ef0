"""Labels: forward returns of every horizon, the only asset that looks ahead."""

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np

from qdag.assets.asset import Asset, Range
from qdag.assets.expressions import write_expressions
from qdag.assets.platform import Platform
from qdag.assets.result import Result
from qdag.engine import VERSION as ENGINE_VERSION
from qdag.features.feature import bounds_of
from qdag.features.references import label
from qdag.lineage import Definition, Reads
from qdag.quality import features
from qdag.quality.checks import Frames, Scope
from qdag.quality.recompute import SecondOpinion
from qdag.quality.rule import Rule
from qdag.schema import LABELS, QLIB_BIN, RAW_OHLCV, TableSpec, labels_table
from qdag.settings import QualitySettings, Settings

PLAUSIBLE = {"label_": (-0.9, 3.0)}
"""Beyond these a forward return is an unadjusted split or a wrong price, or real news."""


class Labels(Asset):
    """Forward returns per horizon. A label becomes known ``horizon + 1`` sessions later."""

    name = LABELS
    group = "labels"
    kinds = frozenset({"numba", "deltalake"})
    seconds_per_million = 10.0

    def table(self, settings: Settings) -> TableSpec:
        return labels_table(settings.horizons)

    def upstream(self, settings: Settings, universe: str | None = None) -> tuple[str, ...]:
        return (QLIB_BIN,)

    def reads(self, settings: Settings, universe: str, defined: Definition | None = None) -> tuple[Reads, ...]:
        return (Reads(QLIB_BIN, future=reach(settings)),)

    def definition(self, settings: Settings, universe: str) -> Definition:
        return Definition({"version": str(self.version), "engine": str(ENGINE_VERSION)}, expressions(settings))

    def request(self, settings: Settings, stale: Sequence[Range], ranges: Mapping[str, Sequence[Range]]) -> list[Range]:
        return [_window(span, reach(settings), ranges.get(QLIB_BIN, ())) for span in stale]

    def rules(self, settings: Settings, limits: QualitySettings) -> tuple[Rule, ...]:
        return features.label_rules(self.name, limits)

    def frames(self, scope: Scope, columns: Sequence[str] = ()) -> Frames:
        """``columns``: the declared ones, by default those of the settings."""
        columns = columns or [c.name for c in self.table(scope.settings).columns]
        horizons = [int(c.removeprefix("label_")) for c in columns if c.startswith("label_")]
        again = SecondOpinion({f"label_{h}": label(h) for h in horizons}, future=1 + max(horizons, default=0))
        return features.label_frames(scope, self.name, columns, bounds=bounds_of(PLAUSIBLE, columns), opinion=again)

    def compute(self, platform: Platform, universe: str, start: date, end: date) -> Result:
        """Compute the labels of the days, and those of the sessions before that became known in them; stored later
        sessions are read where they are there already."""
        sessions, ahead = platform.window(universe, start, end), reach(platform.settings)
        if len(sessions):
            calendar = platform.calendar(universe)
            position = calendar.position(sessions[0].item())
            sessions = np.concatenate([calendar.all[max(0, position - ahead) : position], sessions])
            bars = platform.store.sessions(RAW_OHLCV.name, universe)
            sessions = sessions[sessions >= (bars[0] if len(bars) else sessions[0])]
        return write_expressions(platform, self, universe, sessions, expressions(platform.settings), after=ahead)


def expressions(settings: Settings) -> dict[str, str]:
    """The forward return of every horizon, by column."""
    return {f"label_{h}": f"Ref($close, -{h + 1})/Ref($close, -1) - 1" for h in settings.horizons}


def reach(settings: Settings) -> int:
    """Sessions after which every label of a session is known."""
    return max(settings.horizons) + 1


def _window(span: Range, ahead: int, others: Sequence[Range]) -> Range:
    """The window to ask for: computing goes back by itself over the sessions whose labels became known in it."""
    first, last = span
    for begin, end in others:
        if end == last and begin <= first + ahead:
            return begin, end
    return min(first + ahead, last), last


ASSET = Labels()
