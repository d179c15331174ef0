"""The root of the settings: what fits together across tables, the folders under the home, the views of a universe."""

import json
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator, model_validator

from qdag.errors import ExpressionError, nearest, unknown
from qdag.schema import FIELDS, RESERVED_COLUMNS
from qdag.settings.alerts import AlertSettings
from qdag.settings.base import FrozenModel, LocalPath, check_names
from qdag.settings.platform import (
    AutomationSettings,
    DagsterSettings,
    EngineSettings,
    MlflowSettings,
    RetentionSettings,
)
from qdag.settings.quality import REGION_QUALITY, QualitySettings
from qdag.settings.sources import SampleSource
from qdag.settings.training import SAMPLE_PARAMETERS, TrainingSettings
from qdag.settings.universes import UniverseSettings

if TYPE_CHECKING:
    from qdag.features.feature import FeatureSet


class Settings(FrozenModel):
    """Everything that can be set. Keys nest in TOML tables and in ``QDAG_A__B`` variables."""

    home: LocalPath = Field(default=Path(".qdag"), description="folder of everything that is produced")
    universes: dict[str, UniverseSettings] = Field(
        default_factory=lambda: {
            "sample": UniverseSettings(
                source=SampleSource(),
                calendar="XNYS",
                start=date(2000, 3, 1),
                end=date(2013, 3, 1),
                training={"parameters": SAMPLE_PARAMETERS},
            )
        },
        description="by name; without any, the embedded sample",
    )
    horizons: tuple[Annotated[int, Field(ge=1, le=250)], ...] = Field(
        default=(1, 5, 10, 20), description="sessions of the forward returns: labels and factor metrics have each"
    )
    features: tuple[str, ...] | None = Field(
        default=None,
        description="feature sets that are computed, besides the custom factors, in this order; without it, all of "
        "`qdag features` but those that say so",
    )
    training: TrainingSettings = Field(default=TrainingSettings(), description="how models are trained")
    quality: QualitySettings = Field(default=QualitySettings(), description="limits of the checks")
    engine: EngineSettings = Field(default=EngineSettings(), description="how the machine is used")
    mlflow: MlflowSettings = Field(default=MlflowSettings(), description="where models are tracked")
    dagster: DagsterSettings = Field(default=DagsterSettings(), description="where the UI is")
    retention: RetentionSettings = Field(default=RetentionSettings(), description="old versions of tables")
    automation: AutomationSettings = Field(default=AutomationSettings(), description="what runs without a person")
    alerts: AlertSettings = Field(default=AlertSettings(), description="who is told of what")
    custom_factors: dict[str, str] = Field(default_factory=dict, description="column name -> Qlib expression")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("universes", "custom_factors")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_names(value)
        return value

    @field_validator("custom_factors")
    @classmethod
    def _computable(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if name in RESERVED_COLUMNS:
                taken = ", ".join(sorted(RESERVED_COLUMNS))
                raise ValueError(f"custom factor {name!r}: the name is a key of a table; choose another than {taken}")
            try:
                from qdag.engine.plan import plan

                plan({name: text}, fields=FIELDS)
            except ExpressionError as error:
                raise ValueError(f"custom factor {error}") from None
        return value

    @field_validator("features")
    @classmethod
    def _declared(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        from qdag.features.catalogue import feature_sets

        for name in value or ():
            if name not in feature_sets():
                raise ValueError(f"features has no feature set {name!r}{nearest(name, feature_sets())}")
            if value and value.count(name) > 1:
                raise ValueError(f"features names {name!r} more than once")
        return value

    @field_validator("horizons")
    @classmethod
    def _sorted(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)):
            raise ValueError(f"horizons must be distinct and increasing, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        if not self.universes:
            raise ValueError("at least one universe is needed")
        known = [chosen.name for chosen in self.feature_sets()]
        if not known:
            raise ValueError("features names no feature set; name one, or leave it out for all")
        for where in ("", *self.universes):
            training = self.training_for(where) if where else self.training
            name = f"universes.{where}.training" if where else "training"
            if training.horizon not in self.horizons:
                raise ValueError(f"{name}.horizon {training.horizon} is not one of horizons {list(self.horizons)}")
            for table in training.features:
                if table not in known:
                    raise ValueError(f"{name}.features has {self._why_not(table, known)}")
                if training.features.count(table) > 1:
                    raise ValueError(f"{name}.features names {table!r} more than once")
        return self

    @staticmethod
    def _why_not(table: str, known: list[str]) -> str:
        from qdag.features.catalogue import CUSTOM, feature_sets

        if table == CUSTOM:
            return f"{table!r}, but there is no table [{CUSTOM}]: write one"
        if table in feature_sets():
            names = [*(one for one in known if one != CUSTOM), table]
            return f"{table!r}, which is not computed: add it to the setting features = {json.dumps(names)}"
        return f"no feature table {table!r}{nearest(table, known)}"

    def feature_sets(self) -> "tuple[FeatureSet, ...]":
        """The sets of features that are computed, in order, the custom factors last."""
        from qdag.features.catalogue import chosen_sets

        return chosen_sets(self.features, self.custom_factors)

    def training_for(self, universe: str) -> TrainingSettings:
        """Training settings of a universe: the general ones with its own overrides."""
        overrides = self.universe(universe).training
        return TrainingSettings.model_validate(self.training.model_dump() | overrides) if overrides else self.training

    def quality_for(self, universe: str) -> QualitySettings:
        """Limits of a universe's checks: its region's, then the general ones that are set, then its own."""
        spec = self.universe(universe)
        general = {name: getattr(self.quality, name) for name in self.quality.model_fields_set}
        return QualitySettings.model_validate(REGION_QUALITY[spec.region] | general | spec.quality)

    def for_universe(self, universe: str) -> "Settings":
        """The same settings with the universe's own training settings in place of the general ones."""
        return self.model_copy(update={"training": self.training_for(universe)})

    @property
    def dagster_home(self) -> Path:
        """``DAGSTER_HOME``: runs, events, schedules and what Dagster is told of the instance."""
        return self.home / "dagster"

    @property
    def tables(self) -> Path:
        """Root of the Delta tables."""
        return self.home / "tables"

    @property
    def downloads(self) -> Path:
        """What web sources fetched, kept so that it is not fetched again."""
        return self.home / "downloads"

    @property
    def reports(self) -> Path:
        """Where the quality pages go: ``<universe>/<date>.html``."""
        return self.home / "reports"

    def provider(self, universe: str) -> Path:
        """Qlib provider directory of a universe."""
        return self.home / "qlib" / universe

    @cached_property
    def tracking_uri(self) -> str:
        """Address of MLflow's store: the one that is set, else SQLite under the home."""
        return self.mlflow.tracking_uri or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Where MLflow artifacts of the embedded store go."""
        return self.home / "mlflow" / "artifacts"

    def universe(self, name: str) -> UniverseSettings:
        """Return a universe by name, or raise naming the nearest."""
        if name not in self.universes:
            raise unknown("universe", name, self.universes)
        return self.universes[name]
