"""Trained models: one per universe and month end, trained on stored features and tracked in MLflow."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from qdag.assets.asset import Asset, Estimate
from qdag.assets.feature_table import columns_read
from qdag.assets.labels import ASSET as LABELS
from qdag.assets.labels import reach
from qdag.assets.platform import Platform
from qdag.assets.records import inputs_of, record_sessions
from qdag.assets.result import Result
from qdag.assets.write import why_nothing
from qdag.core.resources import Meter
from qdag.errors import MissingDataError, TrainingError
from qdag.features.feature import FeatureSet
from qdag.lineage import Definition, Lineage, Reads, Stale
from qdag.schema import QLIB_BIN
from qdag.settings import Settings
from qdag.text import markdown_frame

MODEL_SECONDS, MODEL_BYTES = 12.0, 1 << 20


class TrainedModel(Asset):
    """A model for every month whose last session lies in the window. None is trained again by itself, and a month
    without one misses nothing."""

    name = "trained_model"
    group = "models"
    kinds = frozenset({"lightgbm", "mlflow"})
    period = "month"
    unit = "models"
    description = (
        "LightGBM per universe and month end, trained on stored features and tracked in MLflow. Its partitions are "
        "months: choosing sessions of the other assets trains nothing, the job `training` does."
    )

    @property
    def elsewhere(self) -> str:
        return "models are in MLflow, not in a table; `qdag models` lists them"

    def upstream(self, settings: Settings, universe: str | None = None) -> tuple[str, ...]:
        return (*training_sets(settings, universe), LABELS.name)

    def reads(self, settings: Settings, universe: str, defined: Definition | None = None) -> tuple[Reads, ...]:
        columns = (defined or self.definition(settings, universe)).columns
        tables = dict.fromkeys(name.split(".", 1)[0] for name in columns)
        training = settings.training_for(universe)
        past = training.train_sessions + training.valid_sessions + training.test_sessions + 3 * reach(settings)
        return (Reads(QLIB_BIN, past=past), *(Reads(table, past=past, columns=True) for table in tables))

    def definition(self, settings: Settings, universe: str) -> Definition:
        shared = {
            "version": str(self.version),
            "training": settings.training_for(universe).model_dump_json(),
            "labels": LABELS.definition(settings, universe).version,
        }
        return Definition(shared, columns_read(settings, universe, training_sets(settings, universe)))

    def stored(self, platform: Platform, universe: str) -> np.ndarray:
        from qdag.models.tracking import registered_models

        dates = {model.training_date for model in registered_models(platform.settings, universe)}
        return np.array(sorted(dates), "M8[D]")

    def stale(self, platform: Platform, lineage: Lineage, found: Stale) -> Stale:
        return replace(found, missing=found.missing[:0])

    def missing(self, platform: Platform, universe: str, newest: np.datetime64) -> np.ndarray:
        return np.array([], "M8[D]")

    def lacking(self, platform: Platform, universe: str, day: date) -> str:
        from qdag.models.training import stored_split

        try:
            stored_split(platform.settings.for_universe(universe), platform.store, universe, day)
        except TrainingError as error:
            return str(error)
        except MissingDataError:
            # rows that were lost are no short history: training fails, and says so
            return ""
        return ""

    def compute(self, platform: Platform, universe: str, start: date, end: date) -> Result:
        """Train and track one model for every month whose last session lies in the window."""
        from qdag.models.tracking import track
        from qdag.models.training import train

        settings = platform.settings.for_universe(universe)
        sessions = platform.window(universe, start, end)
        days = np.intersect1d(platform.calendar(universe).month_ends(), sessions).tolist()
        extra: dict[str, Any] = {} if len(sessions) else why_nothing(platform, universe)
        if len(sessions) and not days:
            extra["note"] = "no month of the window has had its last session yet: nothing to train"
        rows = instruments = 0
        with Meter() as meter:
            for done, day in enumerate(days):
                platform.tell(self.name, done, len(days))
                trained_on = np.array([day], "M8[D]")
                read = inputs_of(platform, universe, self, trained_on)
                model = train(settings, platform.store, universe, day)
                tracked = track(settings, model, platform.provenance.get("dagster_run_id"))
                record_sessions(platform, universe, self, trained_on, read, None)
                rows += sum(segment.used for segment in model.rows.values())
                instruments = model.instruments
                extra = {
                    "model": tracked.registered.label,
                    "training_date": str(day),
                    "champion": tracked.champion,
                    "training_rows": rows,
                    "training_instruments": instruments,
                    "mlflow_run": tracked.url,
                    "mlflow_model": f"{settings.mlflow.ui_url.rstrip('/')}/#/models/{tracked.registered.name}",
                    "mlflow_run_id": tracked.run_id,
                    "best_iteration": model.best_iteration,
                    **{
                        f"{segment}_{name}": value
                        for segment, metrics in model.metrics.items()
                        for name in ("ic", "rank_ic", "icir", "rank_icir")
                        if (value := getattr(metrics, name)) is not None
                    },
                    **{f"version_{table}": version for table, version in model.versions.items()},
                    "top_features": markdown_frame(model.importance.head(10)),
                    **({"warnings": "\n".join(model.warnings) + "\n"} if model.warnings else {}),
                }
                platform.tell(self.name, done + 1, len(days))
        return Result(
            asset=self.name,
            universe=universe,
            version=None,
            rows=rows,
            instruments=instruments,
            sessions=len(days),
            nan_share=0.0,
            seconds=meter.seconds,
            peak_mib=meter.peak_mib,
            extra=extra,
        )

    def estimate(self, settings: Settings, universe: str, days: np.ndarray, per_session: float) -> Estimate:
        training = settings.training_for(universe)
        used = training.train_sessions + training.valid_sessions + training.test_sessions
        return Estimate(round(used * per_session) * len(days), len(days) * MODEL_SECONDS, MODEL_BYTES)


def training_sets(settings: Settings, universe: str | None = None) -> Mapping[str, FeatureSet]:
    """Feature sets that a universe trains on, by name; those that any does where none is given."""
    chosen = {features.name: features for features in settings.feature_sets()}
    if universe is not None:
        return {name: chosen[name] for name in settings.training_for(universe).features}
    used = {name for one in settings.universes for name in settings.training_for(one).features}
    return {name: features for name, features in chosen.items() if name in used}


ASSET = TrainedModel()
