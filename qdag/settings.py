"""Settings: one frozen object from a TOML file plus ``QDAG_*`` variables. Defaults need neither."""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from qdag.errors import SettingsError, nearest, unknown

CONFIG_VARIABLE = "QDAG_CONFIG"
POSTGRES_VARIABLE = "QDAG_POSTGRES_URL"
_NOT_SETTINGS = {CONFIG_VARIABLE, POSTGRES_VARIABLE}
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"


class _Frozen(BaseModel):
    # what was given stays out of pydantic's own text: it may be a secret, and Dagster prints the cause of an error
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class SampleSource(_Frozen):
    """The embedded daily bars of five US stocks, 2000 to 2013."""

    kind: Literal["sample"] = "sample"


class ColumnMapping(_Frozen):
    """Which columns of a user's files hold what; ``None`` where a file has none.

    Prices are raw. ``factor`` is a cumulative adjustment factor, or ``adjusted_close`` gives one, or ``split`` and
    ``dividend`` do, or ``pre_close`` (the previous close adjusted for the day's event) does. ``pct_chg`` (the day's
    change in percent, adjusted) may be missing in a file and is only compared with.
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
    pct_chg: str | None = None
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


class WebSource(_Frozen):
    """What every source that is fetched over the network has; times in seconds."""

    interval: Annotated[float, Field(ge=0)] = Field(default=0.5, description="least time between two requests")
    timeout: Annotated[float, Field(gt=0)] = Field(default=30, description="of one request")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(default=5, description="after a request that failed passingly")
    longest_wait: Annotated[float, Field(gt=0)] = Field(default=120, description="between two tries of a request")
    failed_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="of the instruments may fail; more is an error of the whole source"
    )
    cache: Path | None = Field(default=None, description="folder of what was fetched; None is <home>/downloads")


class YahooSource(WebSource):
    """Yahoo Finance through yfinance; ``symbols`` names instruments whose Yahoo symbol is not the usual one."""

    kind: Literal["yahoo"] = "yahoo"
    symbols: dict[str, str] = Field(default_factory=dict, description="instrument -> Yahoo symbol")


class AkshareSource(WebSource):
    """China A shares through akshare: daily bars of Eastmoney, adjustment factors of Sina."""

    kind: Literal["akshare"] = "akshare"


class BaostockSource(WebSource):
    """China A shares of Shanghai and Shenzhen through baostock."""

    kind: Literal["baostock"] = "baostock"
    interval: Annotated[float, Field(ge=0)] = Field(default=0.1, description="least time between two requests")


class QlibSource(_Frozen):
    """An existing Qlib provider directory of daily data."""

    kind: Literal["qlib"] = "qlib"
    path: Path


Source = Annotated[
    SampleSource | FilesSource | SyntheticSource | YahooSource | AkshareSource | BaostockSource | QlibSource,
    Field(discriminator="kind"),
]


INDEXES: dict[str, tuple[str, int]] = {
    "csi300": ("cn", 300),
    "csi500": ("cn", 500),
    "sp500": ("us", 500),
    "nasdaq100": ("us", 100),
    "dow30": ("us", 30),
}
"""Published indexes whose members come with the package: region and nominal number of members."""


class IndexPool(_Frozen):
    """The members of a published index, from the package index-constitution; no network."""

    kind: Literal["index"] = "index"
    index: Literal["csi300", "csi500", "sp500", "nasdaq100", "dow30"]
    symbols: dict[str, str] = Field(default_factory=dict, description="symbol of the index -> instrument")

    @property
    def size(self) -> int:
        """Nominal number of members."""
        return INDEXES[self.index][1]


class FilePool(_Frozen):
    """A CSV file with the columns instrument, start, end (ISO dates, inclusive; an empty end: still a member)."""

    kind: Literal["file"] = "file"
    path: Path
    symbols: dict[str, str] = Field(default_factory=dict, description="symbol of the file -> instrument")
    size: Annotated[int, Field(ge=1)] | None = Field(default=None, description="expected number of members")


class TopPool(_Frozen):
    """The ``size`` instruments with the largest mean traded value over ``window`` sessions, chosen anew each month."""

    kind: Literal["top"] = "top"
    size: Annotated[int, Field(ge=1)]
    window: Annotated[int, Field(ge=1, le=1000)] = 60


PoolSettings = Annotated[IndexPool | FilePool | TopPool, Field(discriminator="kind")]


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not re.match(NAME_PATTERN, name):
            raise ValueError(f"name {name!r} must match {NAME_PATTERN} (lower case, digits, underscore)")


class PriceLimit(_Frozen):
    """How far an exchange lets a price move in one session, for the instruments whose name begins with ``prefix``.

    The longest prefix that fits counts, and of equal ones the latest whose ``since`` has come.
    """

    prefix: str = ""
    limit: Annotated[float, Field(gt=0, le=10)]
    since: date | None = None


Share = Annotated[float, Field(ge=0, le=1)]


class QualitySettings(_Frozen):
    """Limits of the quality checks; shares are of 1. docs/checks.md has the reason for each default."""

    jump: Annotated[float, Field(gt=0)] = Field(default=0.4, description="largest plausible |adjusted return|")
    price_limits: tuple[PriceLimit, ...] = Field(default=(), description="the exchange's own limits; instead of jump")
    tick: Annotated[float, Field(ge=0)] = Field(default=0.01, description="price step that limits are rounded to")
    listing_sessions: Annotated[int, Field(ge=0, le=20)] = Field(
        default=5, description="rows after a listing for which only jump counts"
    )
    stale_sessions: Annotated[int, Field(ge=2, le=40)] = Field(
        default=6, description="rows in a row with one close, though traded"
    )
    volume_ratio: Annotated[float, Field(gt=1)] = Field(
        default=50.0, description="volume over the geometric mean of the 20 rows before"
    )
    sessions_share: Share = Field(default=0.7, description="instruments with a row / those expected, per session")
    instruments_share: Share = Field(default=0.9, description="rows / sessions from first to last, per instrument")
    pool_share: Share = Field(default=0.7, description="members with a price / members, per pool and session")
    field_null_share: Share = Field(default=0.05, description="nulls of a field that the vendor delivers")
    refused_files: Share = Field(default=0.05, description="files refused / files, above which the chain stops")
    refused_rows: Share = Field(default=0.2, description="rows refused / delivered on a session, likewise")
    feature_null_share: Share = Field(default=0.3, description="nulls of a feature after the first 252 sessions")
    infinite_share: Share = Field(default=0.001, description="infinite values of a feature")
    behind_sessions: Annotated[int, Field(ge=0)] = Field(default=0, description="sessions that a table may be behind")
    drift: Annotated[float, Field(gt=0)] = Field(default=3.0, description="population stability index of a feature")
    sampled_cells: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=40, description="rows of a run whose named features are computed again"
    )


# Daily price limits of Shanghai, Shenzhen and Beijing, by board; STAR and ChiNext under registration have 20 %.
REGION_QUALITY: dict[str, dict[str, Any]] = {
    "us": {},
    "cn": {
        "price_limits": (
            PriceLimit(prefix="", limit=0.10),
            PriceLimit(prefix="SZ30", limit=0.20, since=date(2020, 8, 24)),
            PriceLimit(prefix="SH68", limit=0.20),
            PriceLimit(prefix="BJ", limit=0.30),
        ),
    },
}


class UniverseSettings(_Frozen):
    """What is ingested and precomputed together."""

    source: Source
    calendar: str = Field(description="exchange-calendars code, for example XNYS or XSHG")
    start: date
    end: date | None = Field(default=None, description="last session, inclusive; None means up to today")
    instruments: tuple[str, ...] | None = Field(default=None, description="restrict to these; None takes all")
    region: Literal["us", "cn"] = Field(default="us", description="Qlib trading rules")
    training: dict[str, Any] = Field(default_factory=dict, description="overrides of [training] for this universe")
    quality: dict[str, Any] = Field(default_factory=dict, description="overrides of [quality] for this universe")
    pools: dict[str, PoolSettings] = Field(default_factory=dict, description="membership lists; `all` always exists")
    industries: Path | None = Field(default=None, description="CSV file ts_code,symbol,name,area,industry,list_date")

    @field_validator("pools")
    @classmethod
    def _pool_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        _check_names(value)
        if "all" in value:
            raise ValueError("pool 'all' always exists and holds every instrument; choose another name")
        return value

    @model_validator(mode="after")
    def _indexes_of_the_region(self) -> "UniverseSettings":
        for name, pool in self.pools.items():
            if isinstance(pool, IndexPool) and (region := INDEXES[pool.index][0]) != self.region:
                raise ValueError(f"pool {name!r}: index {pool.index} is of region {region!r}, not {self.region!r}")
        return self

    @model_validator(mode="after")
    def _web_sources_are_asked_by_name(self) -> "UniverseSettings":
        if isinstance(self.source, WebSource) and not self.instruments:
            raise ValueError(f"source {self.source.kind!r} needs instruments = [...]: it is asked for each of them")
        return self

    @field_validator("training")
    @classmethod
    def _known_training(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key not in TrainingSettings.model_fields:
                raise ValueError(f"unknown training setting {key!r}{nearest(key, TrainingSettings.model_fields)}")
        return value

    @field_validator("quality")
    @classmethod
    def _known_quality(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key not in QualitySettings.model_fields:
                raise ValueError(f"unknown quality setting {key!r}{nearest(key, QualitySettings.model_fields)}")
        QualitySettings.model_validate(value)
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


class AutomationSettings(_Frozen):
    """What runs without a person."""

    enabled: bool = Field(default=False, description="sensors and schedules are on unless stopped in the UI")
    after_close_minutes: Annotated[int, Field(ge=0, le=1200)] = Field(
        default=60, description="the daily run begins so long after the exchange's close"
    )
    training_after_minutes: Annotated[int, Field(ge=0, le=1200)] = Field(
        default=60, description="month-end training begins so long after the daily run"
    )
    maintenance_cron: str = Field(default="0 3 * * 0", description="compact, vacuum and back up tables; UTC")
    backup: str | None = Field(default=None, description="folder or object store URL of the backup; None makes none")
    chunk_sessions: Annotated[int, Field(ge=1)] = Field(default=250, description="sessions of one run of a backfill")
    landing_seconds: Annotated[float, Field(ge=0)] = Field(
        default=10, description="a file that changed within so many seconds may still be being written"
    )
    done_marker: bool = Field(default=False, description="a file counts when FILE.done lies beside it")
    max_runtime_seconds: Annotated[int, Field(ge=60)] = Field(default=4 * 3600, description="a run is stopped after")
    tick_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=15, description="sensors of files and stale sessions look so often; those of alerts half as often"
    )
    again_seconds: Annotated[float, Field(ge=0)] = Field(
        default=3600, description="a request whose run failed is asked for again after; each time after twice as long"
    )


AlertKind = Literal[
    "run_failure", "blocked_check", "late_data", "slow_run", "failed_instruments", "ic_drop", "alerting_error"
]
Severity = Literal["warning", "error"]


class AlertTarget(_Frozen):
    """Where alerts go: an apprise URL, with what it should get. Strings in ``alerts.urls`` become these."""

    url: SecretStr
    name: Annotated[str, Field(pattern=NAME_PATTERN)] | None = Field(
        default=None, description="shown instead of the URL; waiting alerts belong to the name"
    )
    severity: Severity = Field(default="warning", description="the least severe alert that is sent here")
    kinds: tuple[AlertKind, ...] | None = Field(default=None, description="only these kinds; None is all")

    @field_validator("url")
    @classmethod
    def _has_scheme(cls, url: SecretStr) -> SecretStr:
        if not re.match(r"^[A-Za-z][A-Za-z0-9.+-]*://\S+$", url.get_secret_value()):
            raise ValueError("an alert target is an apprise URL such as json://HOST/PATH, mailto://... or slack://...")
        return url


class AlertSettings(_Frozen):
    """Alerts: targets, limits of the conditions, and how often a person is bothered."""

    urls: tuple[AlertTarget, ...] = Field(default=(), description="apprise URLs, or tables url, name, severity, kinds")
    repeat_hours: Annotated[float, Field(gt=0)] = Field(default=24, description="the same alert is silent so long")
    max_per_hour: Annotated[int, Field(ge=1)] = Field(default=20, description="messages to one target")
    give_up_hours: Annotated[float, Field(gt=0)] = Field(default=168, description="an alert is tried so long")
    late_hours: Annotated[float, Field(ge=0)] = Field(default=6, description="hours after the close until data is late")
    slow_history: Annotated[int, Field(ge=2, le=1000)] = Field(default=50, description="durations that P95 is taken of")
    slow_minimum: Annotated[int, Field(ge=2)] = Field(default=10, description="fewest durations to judge by")
    slow_slack_seconds: Annotated[float, Field(ge=0)] = Field(default=1.0, description="above P95 by more than this")
    failed_share: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.05, description="of a window's instruments")
    ic_drop: Annotated[float, Field(gt=0)] = Field(default=0.02, description="fall of the mean IC below its year's")
    ic_recent: Annotated[int, Field(ge=2)] = Field(default=20, description="dates of the recent mean")
    ic_trailing: Annotated[int, Field(ge=3)] = Field(default=252, description="dates of the trailing mean")
    ic_top: Annotated[int, Field(ge=1)] = Field(default=10, description="factors watched, by |mean RankIC|")
    ic_factors: tuple[str, ...] = Field(default=(), description="watch these (table.column) at every horizon instead")

    @field_validator("urls", mode="before")
    @classmethod
    def _targets(cls, value: Any) -> Any:
        """One string, as from a variable, may hold several URLs with blanks between them."""
        if isinstance(value, str):
            value = value.split()
        return [{"url": v} if isinstance(v, str) else v for v in value] if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _consistent(self) -> "AlertSettings":
        names = [t.name for t in self.urls if t.name]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"two alert targets are named {sorted(twice)[0]!r}; give each its own name")
        if self.ic_recent >= self.ic_trailing:
            raise ValueError(f"ic_recent {self.ic_recent} must be less than ic_trailing {self.ic_trailing}")
        if self.slow_minimum > self.slow_history:
            raise ValueError(f"slow_minimum {self.slow_minimum} is more than slow_history {self.slow_history}")
        return self


class RetentionSettings(_Frozen):
    """Which old versions of the tables a vacuum leaves readable; those that registered models read always stay."""

    versions: Annotated[int, Field(ge=1)] = Field(default=10, description="newest versions of each table")
    days: Annotated[float, Field(ge=0)] = Field(default=30, description="versions current within so many days")


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
    quality: QualitySettings = QualitySettings()
    engine: EngineSettings = EngineSettings()
    mlflow: MlflowSettings = MlflowSettings()
    dagster: DagsterSettings = DagsterSettings()
    retention: RetentionSettings = RetentionSettings()
    automation: AutomationSettings = AutomationSettings()
    alerts: AlertSettings = AlertSettings()
    custom_factors: dict[str, str] = Field(default_factory=dict, description="column name -> Qlib expression")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("universes", "custom_factors")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        _check_names(value)
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
        if not isinstance(universe, dict):
            continue
        pools = universe.get("pools")
        tables = [(universe, "industries"), (universe.get("source"), "path"), (universe.get("source"), "cache")]
        tables += [(pool, "path") for pool in (pools.values() if isinstance(pools, dict) else ())]
        for table, key in tables:
            if isinstance(table, dict) and isinstance(table.get(key), str):
                table[key] = str(folder / Path(table[key]).expanduser())


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
    # text given below alerts may be a URL with its secrets, also where it is in the wrong place
    secret = error["loc"][:1] == ("alerts",) and isinstance(given, str)
    shown = f" (got {given!r})" if isinstance(given, str | int | float) and not secret else ""
    return f"setting {location or 'file'}: {message}{shown}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Valid keys of the model that a validation error's location points into."""
    models: dict[str, type[BaseModel]] = {
        "universes": UniverseSettings,
        "training": TrainingSettings,
        "quality": QualitySettings,
        "engine": EngineSettings,
        "mlflow": MlflowSettings,
        "dagster": DagsterSettings,
        "retention": RetentionSettings,
        "automation": AutomationSettings,
        "alerts": AlertSettings,
        "urls": AlertTarget,
        "sample": SampleSource,
        "files": FilesSource,
        "synthetic": SyntheticSource,
        "yahoo": YahooSource,
        "akshare": AkshareSource,
        "baostock": BaostockSource,
        "qlib": QlibSource,
        "columns": ColumnMapping,
        "index": IndexPool,
        "file": FilePool,
        "top": TopPool,
    }
    model: type[BaseModel] = Settings
    for index, part in enumerate(location):
        # the name of a universe or a pool may equal a kind; only below "source" and a pool's name are kinds meant
        named = location[0] == "universes" and (index == 1 or (index == 3 and location[2] == "pools"))
        if part in models and not named:
            model = models[str(part)]
    return list(model.model_fields)
