"""Predictions: scores of the newest model trained before each session."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import pyarrow as pa

from qdag.assets.asset import Asset
from qdag.assets.feature_table import columns_read
from qdag.assets.platform import Platform
from qdag.assets.result import Result
from qdag.assets.trained_model import ASSET as MODEL
from qdag.assets.trained_model import training_sets
from qdag.assets.write import write_sessions
from qdag.lineage import Definition, Lineage, Reads, Stale
from qdag.quality import predictions
from qdag.quality.checks import Frames, Scope
from qdag.quality.rule import Rule
from qdag.schema import PREDICTIONS, TableSpec
from qdag.settings import QualitySettings, Settings
from qdag.text import markdown_table


class Predictions(Asset):
    """Scores by session and instrument. They are expected on sessions after the first model."""

    name = PREDICTIONS.name
    group = "models"
    kinds = frozenset({"lightgbm", "deltalake"})

    def table(self, settings: Settings) -> TableSpec:
        return PREDICTIONS

    def upstream(self, settings: Settings, universe: str | None = None) -> tuple[str, ...]:
        return (MODEL.name, *training_sets(settings, universe))

    def reads(self, settings: Settings, universe: str, defined: Definition | None = None) -> tuple[Reads, ...]:
        columns = (defined or self.definition(settings, universe)).columns
        return tuple(Reads(table, columns=True) for table in dict.fromkeys(n.split(".", 1)[0] for n in columns))

    def definition(self, settings: Settings, universe: str) -> Definition:
        columns = columns_read(settings, universe, training_sets(settings, universe))
        return Definition({"version": str(self.version)}, columns)

    def stale(self, platform: Platform, lineage: Lineage, found: Stale) -> Stale:
        trained = lineage.recorded(MODEL.name)
        served = found.missing[found.missing > trained[0]] if len(trained) else lineage.sessions[:0]
        return replace(found, missing=served)

    def lacking(self, platform: Platform, universe: str, day: date) -> str:
        from qdag.models.tracking import newest_before, registered_models

        if newest_before(registered_models(platform.settings, universe), day):
            return ""
        train = f"train one with `qdag materialize {MODEL.name}`"
        return f"no model of universe {universe!r} was trained before {day}; {train}"

    def rules(self, settings: Settings, limits: QualitySettings) -> tuple[Rule, ...]:
        return predictions.rules(limits)

    def frames(self, scope: Scope) -> Frames:
        return predictions.frames(scope)

    def compute(self, platform: Platform, universe: str, start: date, end: date) -> Result:
        """Score the sessions with the newest model trained before each."""
        from qdag.models.predict import predict

        sessions = platform.window(universe, start, end)
        extra: dict[str, object] = {}

        def batches() -> Iterator[pa.RecordBatch]:
            platform.tell(self.name, 0, len(sessions))
            scored = predict(platform.settings, platform.store, universe, sessions)
            extra["models"] = markdown_table(["model", "sessions"], scored.models.items())
            extra["sessions_without_model"] = len(scored.without_model)
            extra["sessions_without_features"] = len(scored.without_features)
            platform.tell(self.name, len(sessions), len(sessions))
            yield from scored.table.to_batches()

        features = platform.settings.training_for(universe).features
        result = write_sessions(platform, self, universe, sessions, batches, inputs=features)
        return replace(result, extra={**result.extra, **extra})


ASSET = Predictions()
