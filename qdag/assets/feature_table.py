"""Feature tables: one asset for every set of features that the settings choose."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import lru_cache

import numpy as np
import pyarrow as pa

from qdag.assets.asset import Asset
from qdag.assets.expressions import write_expressions
from qdag.assets.inputs import industries_of, read_panel
from qdag.assets.platform import Platform
from qdag.assets.records import behind_gaps
from qdag.assets.result import SHOWN, Result
from qdag.assets.write import chunks, write_sessions
from qdag.engine import ALL_HISTORY, plan
from qdag.engine import VERSION as ENGINE_VERSION
from qdag.features.feature import Code, Feature, FeatureSet
from qdag.lineage import Definition, Reads
from qdag.quality import features
from qdag.quality.checks import Frames, Scope
from qdag.quality.recompute import SecondOpinion
from qdag.quality.rule import Rule
from qdag.schema import INDUSTRY, QLIB_BIN, RAW_OHLCV, TableSpec, feature_table
from qdag.settings import QualitySettings, Settings
from qdag.store.matrices import panel_batches
from qdag.text import listed

SECONDS, COLUMN_SECONDS = 10.0, 0.3
"""Measured on two cores: seconds for a million rows, in all and for each column."""


class FeatureTable(Asset):
    """The features of a set, from the adjusted bars of the Qlib directory."""

    group = "features"
    kinds = frozenset({"numba", "deltalake"})

    def __init__(self, features: FeatureSet):
        self.name = features.name
        self.description = features.description
        self.version = features.version
        self.seconds_per_million = SECONDS + COLUMN_SECONDS * len(features.features)
        self.features = features

    def table(self, settings: Settings) -> TableSpec:
        columns = [(f.name, f.about + (f". `{f.expression}`" if f.expression else "")) for f in self.features.features]
        units = {f.name: f.unit for f in self.features.features}
        return feature_table(self.name, columns, self.description, units)

    def upstream(self, settings: Settings, universe: str | None = None) -> tuple[str, ...]:
        return (QLIB_BIN,)

    def reads(self, settings: Settings, universe: str, defined: Definition | None = None) -> tuple[Reads, ...]:
        code = self.features.code
        if code is None:
            columns = (defined or self.definition(settings, universe)).columns
            return (Reads(QLIB_BIN, past=_deepest(frozenset(map(_expression, columns.values())))),)
        # what looks back over suspensions reads bars before the sessions that it reads
        far = (Reads(RAW_OHLCV.name, past=code.lookback, memory=True),) if code.reaches_back else ()
        return (Reads(QLIB_BIN, past=code.lookback), *far)

    def definition(self, settings: Settings, universe: str) -> Definition:
        shared = {"engine": str(ENGINE_VERSION), **self.features.definition()}
        return Definition(shared, {f.name: _column(settings, universe, f) for f in self.features.features})

    def unsound(self, platform: Platform, universe: str, sessions: np.ndarray) -> np.ndarray:
        """Sessions whose rows after a gap look back to sessions that the directory holds otherwise than raw_ohlcv."""
        reads = self.reads(platform.settings, universe)
        past = max(read.past for read in reads if read.asset == QLIB_BIN)
        return behind_gaps(platform, universe, sessions, past)

    def rules(self, settings: Settings, limits: QualitySettings) -> tuple[Rule, ...]:
        own = self.features
        return features.rules(
            self.name,
            limits,
            bounded=bool(own.bounds),
            recomputed=bool(own.references),
            least_nulls=own.null_share,
        )

    def frames(self, scope: Scope, columns: Sequence[str] = ()) -> Frames:
        """``columns``: the declared ones, by default those of the settings."""
        own, columns = self.features, columns or [c.name for c in self.table(scope.settings).columns]
        references = {c: reference for c, reference in own.references.items() if c in columns}
        again = SecondOpinion(references) if own.references else None
        bounds = own.bounds_of(columns)
        return features.frames(scope, self.name, columns, bounds=bounds, opinion=again, levels=own.levels)

    @property
    def levels(self) -> frozenset[str]:
        return self.features.levels

    def compute(self, platform: Platform, universe: str, start: date, end: date) -> Result:
        sessions = platform.window(universe, start, end)
        if self.features.code is not None:
            return self._compute_code(platform, universe, sessions, self.features.code)
        expressions = self.features.expressions
        result = write_expressions(platform, self, universe, sessions, expressions)
        if len(sessions) and INDUSTRY in plan(expressions).fields:
            from qdag.store.qlib.reader import published_days

            names = published_days(platform.settings.provider(universe))
            without = industries_of(platform, universe, tuple(names)).unknown
            note = f"{len(without)} of {len(names)}" + (f": {listed(without, SHOWN)}" if without else "")
            result = replace(result, extra={**result.extra, "instruments_without_industry": note})
        return result

    def _compute_code(self, platform: Platform, universe: str, sessions: np.ndarray, code: Code) -> Result:
        from qdag.store.qlib.reader import published_days

        spec, threads = self.table(platform.settings), platform.settings.engine.threads

        def batches() -> Iterator[pa.RecordBatch]:
            for chunk in chunks(platform, self.name, sessions):
                panel, begin = read_panel(platform, universe, chunk, before=code.lookback, fields=code.fields)
                columns = code.compute(panel, start=begin, threads=threads)
                far = code.reaches_back(panel, begin) if code.reaches_back else np.zeros(panel.shape[0], bool)
                names = [panel.instruments[row] for row in np.flatnonzero(far).tolist()]
                first_days = published_days(platform.settings.provider(universe)) if names else {}
                # listed within the panel: it holds all there is
                names = [name for name in names if first_days[name][0] < panel.sessions[0].item()]
                if names:
                    whole, first = read_panel(
                        platform, universe, chunk, before=ALL_HISTORY, fields=code.fields, instruments=names
                    )
                    rows = [panel.instruments.index(name) for name in names]
                    for column, values in code.compute(whole, start=first, threads=threads).items():
                        columns[column][rows] = values
                wanted = panel.window(begin, begin + len(chunk))
                yield from panel_batches(spec, universe, wanted, columns)

        result = write_sessions(platform, self, universe, sessions, batches, inputs=(RAW_OHLCV.name,))
        platform.tell(self.name, len(sessions), len(sessions))
        return result


def assets(settings: Settings) -> tuple[FeatureTable, ...]:
    """A table for every feature set of the settings, in their order."""
    return tuple(FeatureTable(features) for features in settings.feature_sets())


def columns_read(settings: Settings, universe: str, tables: Mapping[str, FeatureSet]) -> dict[str, str]:
    """Definitions of feature columns, by ``table.column``."""
    return {
        f"{name}.{column}": text
        for name, features in tables.items()
        for column, text in FeatureTable(features).definition(settings, universe).columns.items()
    }


def _column(settings: Settings, universe: str, feature: Feature) -> str:
    """What a feature's values are: its expression, and what else that looks up."""
    from qdag.sources.membership import content

    text = feature.expression or ""
    given = settings.universe(universe).industries
    return f"{text}\n{INDUSTRY}: {content(given) if given else 'none'}" if f"${INDUSTRY}" in text else text


def _expression(column: str) -> str:
    """The expression in the definition of a column."""
    return column.partition("\n")[0]


@lru_cache(maxsize=256)
def _deepest(expressions: frozenset[str]) -> int:
    """Look-back of expressions; planning a set takes longer than everything else that lineage asks."""
    return plan({str(at): text for at, text in enumerate(sorted(expressions))}).lookback
