"""Settings: one frozen object from a TOML file plus ``QDAG_*`` variables. Defaults need neither."""

import json
import os
import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from qdag.errors import SettingsError, nearest, unknown

CONFIG_VARIABLE = "QDAG_CONFIG"
POSTGRES_VARIABLE = "QDAG_POSTGRES_URL"
_NOT_SETTINGS = {CONFIG_VARIABLE, POSTGRES_VARIABLE}
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class SampleSource(_Frozen):
    """The embedded daily bars of five US stocks, 2000 to 2013."""

    kind: Literal["sample"] = "sample"


class ColumnMapping(_Frozen):
    """Which columns of a user's files hold what; ``None`` where a file has none.

    Prices are raw. ``factor`` is a cumulative adjustment factor, or ``adjusted_close`` gives one, or ``split`` and
    ``dividend`` do, or ``pre_close`` (the previous close adjusted for the day's event) does.
    """

    date: str
    instrument: str | None = None
    open: str
    high: str
    low: str
    close: str
    volume: str
    amount: str | None = None
    factor: str | None = None
    adjusted_close: str | None = None
    split: str | None = None
    dividend: str | None = None
    pre_close: str | None = None
    date_format: str = "%Y-%m-%d"
    volume_unit: Annotated[float, Field(gt=0)] = 1.0
    amount_unit: Annotated[float, Field(gt=0)] = 1.0


class FilesSource(_Frozen):
    """A folder of CSV or Parquet files, one per instrument or with an instrument column."""

    kind: Literal["files"] = "files"
    path: Path
    profile: Literal["auto", "alphavantage", "tushare", "custom"] = "auto"
    columns: ColumnMapping | None = None

    @model_validator(mode="after")
    def _custom_has_columns(self) -> "FilesSource":
        if (self.profile == "custom") != (self.columns is not None):
            raise ValueError("profile 'custom' and a [columns] table go together: give both or neither")
        return self


class SyntheticSource(_Frozen):
    """A seeded market generator for tests and benchmarks; never mixed with real universes."""

    kind: Literal["synthetic"] = "synthetic"
    seed: int = 7
    instruments: Annotated[int, Field(ge=1, le=20_000)] = 50
    planted_ic: Annotated[float, Field(ge=0, lt=1)] = 0.0


Source = Annotated[SampleSource | FilesSource | SyntheticSource, Field(discriminator="kind")]


class UniverseSettings(_Frozen):
    """What is ingested and precomputed together."""

    source: Source
    calendar: str = Field(description="exchange-calendars code, for example XNYS or XSHG")
    start: date
    end: date | None = Field(default=None, description="last session, inclusive; None means up to today")
    instruments: tuple[str, ...] | None = Field(default=None, description="restrict to these; None takes all")
    region: Literal["us", "cn"] = Field(default="us", description="Qlib trading rules")
    training: dict[str, Any] = Field(default_factory=dict, description="overrides of [training] for this universe")

    @field_validator("training")
    @classmethod
    def _known_training(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key not in TrainingSettings.model_fields:
                raise ValueError(f"unknown training setting {key!r}{nearest(key, TrainingSettings.model_fields)}")
        return value

    @model_validator(mode="after")
    def _start_before_end(self) -> "UniverseSettings":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"start {self.start} is after end {self.end}")
        return self


class TrainingSettings(_Frozen):
    """Walk-forward window, counted back in sessions from the training date.

    ``embargo`` sessions are left out between the segments on top of the horizon + 1 purged ones.
    """

    train_sessions: Annotated[int, Field(ge=20)] = 1250
    valid_sessions: Annotated[int, Field(ge=5)] = 250
    test_sessions: Annotated[int, Field(ge=5)] = 250
    horizon: Annotated[int, Field(ge=1)] = 1
    embargo: Annotated[int, Field(ge=0)] = 0
    features: tuple[str, ...] = ("alpha158",)
    num_boost_round: Annotated[int, Field(ge=1)] = 1000
    early_stopping_rounds: Annotated[int, Field(ge=1)] = 50
    parameters: dict[str, float | int | str] = Field(
        default_factory=dict, description="overrides of Qlib's Alpha158 LightGBM"
    )


# Qlib's published regularization fits hundreds of stocks; on five it leaves a constant model. These are its lambdas
# scaled by the number of rows, with shallow trees; they were not chosen by their results.
SAMPLE_PARAMETERS: dict[str, float | int | str] = {
    "lambda_l1": 2.5,
    "lambda_l2": 7.1,
    "learning_rate": 0.02,
    "num_leaves": 15,
    "max_depth": 4,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.3,
}


class EngineSettings(_Frozen):
    """How the expression engine uses the machine."""

    threads: Annotated[int, Field(ge=1, le=256)] = Field(default_factory=lambda: min(os.cpu_count() or 1, 16))
    block_instruments: Annotated[int, Field(ge=1)] = 128


class MlflowSettings(_Frozen):
    """Where experiments are tracked; the default is a SQLite store under the data home."""

    tracking_uri: str | None = None
    experiment: str = "qdag"
    ui_url: str = "http://127.0.0.1:5000"


class DagsterSettings(_Frozen):
    """Where the Dagster UI is reached, for links."""

    ui_url: str = "http://127.0.0.1:3000"


class Settings(_Frozen):
    """Everything that can be set. Keys nest in TOML tables and in ``QDAG_A__B`` variables."""

    home: Path = Path(".qdag")
    universes: dict[str, UniverseSettings] = Field(
        default_factory=lambda: {
            "sample": UniverseSettings(
                source=SampleSource(),
                calendar="XNYS",
                start=date(2000, 3, 1),
                end=date(2013, 3, 1),
                training={"parameters": SAMPLE_PARAMETERS},
            )
        }
    )
    horizons: tuple[Annotated[int, Field(ge=1, le=250)], ...] = (1, 5, 10, 20)
    training: TrainingSettings = TrainingSettings()
    engine: EngineSettings = EngineSettings()
    mlflow: MlflowSettings = MlflowSettings()
    dagster: DagsterSettings = DagsterSettings()
    custom_factors: dict[str, str] = Field(default_factory=dict, description="column name -> Qlib expression")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("universes", "custom_factors")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        import re

        for name in value:
            if not re.match(NAME_PATTERN, name):
                raise ValueError(f"name {name!r} must match {NAME_PATTERN} (lower case, digits, underscore)")
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
        for training in (self.training, *map(self.training_for, self.universes)):
            if training.horizon not in self.horizons:
                raise ValueError(f"training.horizon {training.horizon} is not one of horizons {list(self.horizons)}")
        return self

    def training_for(self, universe: str) -> TrainingSettings:
        """Training settings of a universe: the general ones with its own overrides."""
        overrides = self.universe(universe).training
        return TrainingSettings.model_validate(self.training.model_dump() | overrides) if overrides else self.training

    def for_universe(self, universe: str) -> "Settings":
        """The same settings with the universe's own training settings in place of the general ones."""
        return self.model_copy(update={"training": self.training_for(universe)})

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def tables(self) -> Path:
        """Root of the Delta tables."""
        return self.home / "tables"

    def provider(self, universe: str) -> Path:
        """Qlib provider directory of a universe."""
        return self.home / "qlib" / universe

    @cached_property
    def tracking_uri(self) -> str:
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


def load_settings(path: Path | str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Parameters
    ----------
    path : file to read; by default ``$QDAG_CONFIG``, else ``./qdag.toml`` where it exists, else none
    environ : variables, by default the process's. ``QDAG_TRAINING__HORIZON=5`` sets ``training.horizon``;
        a value that begins with ``[`` or ``{`` is read as JSON.

    Raises
    ------
    SettingsError
        A file that cannot be read, an unknown key (the nearest valid one is named) or a value that does not fit.
    """
    environ = os.environ if environ is None else environ
    named = path or environ.get(CONFIG_VARIABLE)
    file = Path(named) if named else Path("qdag.toml")
    data: dict[str, Any] = {}
    if named or file.exists():
        try:
            data = tomllib.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            raise SettingsError(
                f"settings file {str(file)!r} does not exist; create it or unset {CONFIG_VARIABLE}"
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"settings file {str(file)!r} cannot be read: {error}") from error
        _resolve_paths(data, file.absolute().parent)
    for variable, value in environ.items():
        if variable.startswith("QDAG_") and variable not in _NOT_SETTINGS:
            _set(data, variable, value)
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(e) for e in error.errors())) from error


def _resolve_paths(data: dict[str, Any], folder: Path) -> None:
    """Relative paths in a settings file are relative to that file."""
    if isinstance(data.get("home"), str):
        data["home"] = str(folder / Path(data["home"]).expanduser())
    universes = data.get("universes")
    for universe in universes.values() if isinstance(universes, dict) else ():
        source = universe.get("source") if isinstance(universe, dict) else None
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            source["path"] = str(folder / Path(source["path"]).expanduser())


def _set(data: dict[str, Any], variable: str, value: str) -> None:
    *parents, leaf = variable.removeprefix("QDAG_").lower().split("__")
    for key in parents:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise SettingsError(f"variable {variable} nests below {key!r}, which is a plain value")
    if value.lstrip()[:1] in ("[", "{"):
        try:
            data[leaf] = json.loads(value)
        except json.JSONDecodeError as error:
            raise SettingsError(f"variable {variable} is not valid JSON: {error}") from error
    else:
        data[leaf] = value


def _explain(error: Any) -> str:
    location = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown setting {location!r}{nearest(str(error['loc'][-1]), _keys_at(error['loc'][:-1]))}"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float) else ""
    return f"setting {location or 'file'}: {message}{shown}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Valid keys of the model that a validation error's location points into."""
    models: dict[str, type[BaseModel]] = {
        "universes": UniverseSettings,
        "training": TrainingSettings,
        "engine": EngineSettings,
        "mlflow": MlflowSettings,
        "dagster": DagsterSettings,
        "sample": SampleSource,
        "files": FilesSource,
        "synthetic": SyntheticSource,
        "columns": ColumnMapping,
    }
    model: type[BaseModel] = Settings
    for index, part in enumerate(location):
        # the name of a universe may equal a source kind; only below "source" are kinds meant
        if part in models and not (index == 1 and location[0] == "universes"):
            model = models[str(part)]
    return list(model.model_fields)
