"""Settings: one frozen object from a TOML file plus ``QDAG_*`` variables. Defaults need neither."""

import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from qdag.calendars import CALENDARS, KNOWN_FROM, cron_mistake, region_of
from qdag.errors import ExpressionError, SettingsError, nearest, unknown
from qdag.schema import FEATURE_TABLES, FIELDS, RESERVED_COLUMNS

CONFIG_VARIABLE = "QDAG_CONFIG"
POSTGRES_VARIABLE = "QDAG_POSTGRES_URL"
_NOT_SETTINGS = {CONFIG_VARIABLE, POSTGRES_VARIABLE}
CUSTOM = "custom_factors"
NAME_PATTERN = r"[a-z][a-z0-9_]{0,39}"
"""Of universes, pools, tables and custom factors: the whole name must match."""
SYMBOL_PATTERN = r"[A-Za-z0-9^][A-Za-z0-9.^=_-]{0,63}"
"""Of instruments: nothing that means something in a path, a page, a message, a formula or a tab-separated list."""
FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2199, 12, 31)


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not re.fullmatch(NAME_PATTERN, name):
            raise ValueError(f"name {name!r} must match {NAME_PATTERN} (lower case, digits, underscore)")


def _name(text: str) -> str:
    _check_names([text])
    return text


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be one line of printable text that is not blank")
    return text


def _symbol(text: str) -> str:
    if not re.fullmatch(SYMBOL_PATTERN, text):
        raise ValueError("must be a symbol: at most 64 of A-Z a-z 0-9 . ^ = _ -, the first a letter, a digit or ^")
    return text


def _day(value: Any) -> Any:
    if isinstance(value, int | float):
        raise ValueError("write a day as 2020-01-31")
    return value


def _in_range(day: date) -> date:
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError(f"must lie from {FIRST_DAY} to {LAST_DAY}")
    return day


def _date_format(form: str) -> str:
    day = datetime(2013, 4, 25)
    try:
        found = datetime.strptime(day.strftime(form), form)
    except ValueError:
        found = None
    if found != day:
        raise ValueError("must tell year, month and day, as %Y-%m-%d or %d.%m.%y do")
    return form


def _file_name(form: str) -> str:
    known = re.sub(r"\{instrument\}|\{date\}", "", form)
    if form.count("{instrument}") != 1 or form.count("{date}") > 1 or set("{}/\\") & set(known):
        raise ValueError("must hold {instrument} once, {date} at most once, and no other braces or slashes")
    if re.search(r"\.(csv|parquet)$", form, re.IGNORECASE):
        raise ValueError("must be without the suffix")
    return form


def _local(value: Any) -> Any:
    """Path would make the folder ``s3:`` of an address, and the current folder of nothing."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        return value
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ValueError("must be a path of this machine; object stores and other addresses are not supported")
    return _one_line(text)


def _web_address(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]\S*", text):
        raise ValueError("must be an address that begins with http:// or https://")
    return text


def _calendar(code: str) -> str:
    if code not in CALENDARS:
        raise ValueError(f"no exchange calendar is called so{nearest(code, CALENDARS)}")
    return code


def _cron(text: str) -> str:
    if mistake := cron_mistake(text):
        raise ValueError(f"{mistake}; write minute hour day month weekday, for example '0 3 * * 0'")
    return text


Text = Annotated[str, Field(max_length=1000), AfterValidator(_one_line)]
Symbol = Annotated[str, AfterValidator(_symbol)]
Day = Annotated[date, BeforeValidator(_day), AfterValidator(_in_range)]
LocalPath = Annotated[Path, BeforeValidator(_local)]
WebAddress = Annotated[Text, AfterValidator(_web_address)]
Share = Annotated[float, Field(ge=0, le=1)]
Sessions = Annotated[int, Field(ge=1, le=100_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seconds = Annotated[float, Field(ge=0, le=30 * 86400)]
Hours = Annotated[float, Field(gt=0, le=10 * 8766)]


class _Frozen(BaseModel):
    # what was given stays out of pydantic's own text: it may be a secret, and Dagster prints the cause of an error
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_number_is_true(cls, data: Any) -> Any:
        for key, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(key)
            values = value if isinstance(value, list | tuple) else (value,)
            if field and field.annotation is not bool and any(isinstance(one, bool) for one in values):
                raise ValueError(f"{key} is neither true nor false; see docs/settings.md for its values")
        return data


class SampleSource(_Frozen):
    """The embedded daily bars of five US stocks, 2000 to 2013."""

    kind: Literal["sample"] = "sample"


class ColumnMapping(_Frozen):
    """Which columns of a user's files hold what; ``None`` where a file has none.

    Prices are raw. ``factor`` is a cumulative adjustment factor, or ``adjusted_close`` gives one, or ``split`` and
    ``dividend`` do, or ``pre_close`` (the previous close adjusted for the day's event) does. ``pct_chg`` (the day's
    change in percent, adjusted) may be missing in a file and is only compared with.
    """

    date: Text = Field(description="session of the row")
    instrument: Text | None = Field(default=None, description="symbol; without it, files are named after theirs")
    open: Text = Field(description="raw opening price")
    high: Text = Field(description="raw highest price")
    low: Text = Field(description="raw lowest price")
    close: Text = Field(description="raw closing price")
    volume: Text = Field(description="traded volume")
    amount: Text | None = Field(default=None, description="traded value")
    factor: Text | None = Field(default=None, description="cumulative adjustment factor")
    adjusted_close: Text | None = Field(default=None, description="close adjusted for splits and dividends")
    split: Text | None = Field(default=None, description="split coefficient, 1 without a split")
    dividend: Text | None = Field(default=None, description="cash dividend per share, 0 without one")
    pre_close: Text | None = Field(default=None, description="previous close adjusted for the day's event")
    pct_chg: Text | None = Field(default=None, description="the day's change in percent, adjusted")
    date_format: Annotated[Text, AfterValidator(_date_format)] = Field(
        default="%Y-%m-%d", description="of the dates, as Python's strptime reads them"
    )
    volume_unit: Annotated[float, Field(ge=1e-9, le=1e9)] = Field(
        default=1.0, description="shares in one of the file's units"
    )
    amount_unit: Annotated[float, Field(ge=1e-9, le=1e9)] = Field(
        default=1.0, description="currency in one of the file's units"
    )


class FilesSource(_Frozen):
    """A folder of CSV or Parquet files, one per instrument or with an instrument column."""

    kind: Literal["files"] = "files"
    path: LocalPath = Field(description="the folder; its sub-folders are read too")
    profile: Literal["auto", "alphavantage", "tushare", "yahoo", "yahoo_prices", "stooq", "qlib", "custom"] = Field(
        default="auto", description="layout of the columns; auto takes the one whose columns the files have"
    )
    columns: ColumnMapping | None = Field(default=None, description="the layout of profile custom")
    name: Annotated[Text, AfterValidator(_file_name)] | None = Field(
        default=None, description="form of the files' names without suffix, as DA-{instrument}-T-{date}; none: a symbol"
    )

    @model_validator(mode="after")
    def _custom_has_columns(self) -> "FilesSource":
        if (self.profile == "custom") != (self.columns is not None):
            raise ValueError("profile 'custom' and a [columns] table go together: give both or neither")
        return self


class SyntheticSource(_Frozen):
    """A seeded market generator for tests and benchmarks; never mixed with real universes."""

    kind: Literal["synthetic"] = "synthetic"
    seed: Annotated[int, Field(ge=0, le=10**9)] = Field(default=7, description="the same seed gives the same market")
    instruments: Annotated[int, Field(ge=1, le=20_000)] = Field(default=50, description="how many")
    planted_ic: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="correlation of the opening gap with the forward return of horizon 1"
    )


class WebSource(_Frozen):
    """What every source that is fetched over the network has; times in seconds."""

    interval: Seconds = Field(default=0.5, description="least time between two requests")
    timeout: Annotated[float, Field(gt=0, le=3600)] = Field(default=30, description="of one request")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(default=5, description="after a request that failed passingly")
    longest_wait: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=120, description="between two tries of a request"
    )
    failed_share: Share = Field(
        default=0.5, description="of the instruments may fail; more is an error of the whole source"
    )
    cache: LocalPath | None = Field(
        default=None, description="folder of what was fetched; without it, <home>/downloads"
    )


class YahooSource(WebSource):
    """Yahoo Finance through yfinance; ``symbols`` names instruments whose Yahoo symbol is not the usual one."""

    kind: Literal["yahoo"] = "yahoo"
    symbols: dict[Symbol, Symbol] = Field(default_factory=dict, description="instrument -> Yahoo symbol")


class AkshareSource(WebSource):
    """China A shares through akshare: daily bars of Eastmoney, adjustment factors of Sina."""

    kind: Literal["akshare"] = "akshare"


class BaostockSource(WebSource):
    """China A shares of Shanghai and Shenzhen through baostock."""

    kind: Literal["baostock"] = "baostock"
    interval: Seconds = Field(default=0.1, description="least time between two requests")


class QlibSource(_Frozen):
    """An existing Qlib provider directory of daily data."""

    kind: Literal["qlib"] = "qlib"
    path: LocalPath = Field(description="the directory that holds calendars, instruments and features")


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
    index: Literal["csi300", "csi500", "sp500", "nasdaq100", "dow30"] = Field(description="which index")
    symbols: dict[Text, Symbol] = Field(default_factory=dict, description="symbol of the index -> instrument")
    complete: bool = Field(default=False, description="the universe is meant to hold all members: fewer are warned of")

    @property
    def size(self) -> int:
        """Nominal number of members."""
        return INDEXES[self.index][1]

    @property
    def expected(self) -> int | None:
        """Members that the universe is meant to hold; None where it may hold any part of the pool."""
        return self.size if self.complete else None


class FilePool(_Frozen):
    """A CSV file with the columns instrument, start, end (ISO dates, inclusive; an empty end: still a member)."""

    kind: Literal["file"] = "file"
    path: LocalPath = Field(description="the file")
    symbols: dict[Text, Symbol] = Field(default_factory=dict, description="symbol of the file -> instrument")
    size: Count | None = Field(
        default=None, description="members that the universe is meant to hold; another number is warned of"
    )

    @property
    def expected(self) -> int | None:
        """As of :class:`IndexPool`."""
        return self.size


class TopPool(_Frozen):
    """The ``size`` instruments with the largest mean traded value over ``window`` sessions, chosen anew each month."""

    kind: Literal["top"] = "top"
    size: Count = Field(description="how many instruments")
    window: Annotated[int, Field(ge=1, le=1000)] = Field(default=60, description="sessions of the mean")

    @property
    def expected(self) -> int | None:
        """None: a smaller universe has fewer members, and so has its first month."""
        return None


PoolSettings = Annotated[IndexPool | FilePool | TopPool, Field(discriminator="kind")]


class PriceLimit(_Frozen):
    """How far an exchange lets a price move in one session, for the instruments whose name begins with ``prefix``.

    The longest prefix that fits counts, and of equal ones the latest whose ``since`` has come.
    """

    prefix: Literal[""] | Symbol = Field(default="", description="beginning of the names that it holds for; none: all")
    limit: Annotated[float, Field(gt=0, le=10)] = Field(description="share of the close before")
    since: Day | None = Field(default=None, description="first session that it holds for; without it, always")


class QualitySettings(_Frozen):
    """Limits of the quality checks; shares are of 1. docs/checks.md has the reason for each default."""

    jump: Annotated[float, Field(gt=0, le=1000)] = Field(default=0.4, description="largest plausible |adjusted return|")
    spike: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=0.3, description="how far a high or low may lie outside of open, close and the session before"
    )
    price_limits: tuple[PriceLimit, ...] = Field(
        default=(), description="the exchange's own limits; instead of jump and spike"
    )
    tick: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.01, description="price step that limits are rounded to"
    )
    listing_sessions: Annotated[int, Field(ge=0, le=20)] = Field(
        default=5, description="rows after a listing for which only jump counts"
    )
    stale_sessions: Annotated[int, Field(ge=2, le=40)] = Field(
        default=6, description="rows in a row with one close, though traded"
    )
    volume_ratio: Annotated[float, Field(gt=1, le=1e9)] = Field(
        default=50.0, description="volume over the geometric mean of the 20 rows before"
    )
    sessions_share: Share = Field(default=0.7, description="instruments with a row / those expected, per session")
    instruments_share: Share = Field(default=0.9, description="rows / sessions from first to last, per instrument")
    pool_share: Share = Field(default=0.7, description="members with a price / members, per pool and session")
    field_null_share: Share = Field(default=0.05, description="nulls of a field that the vendor delivers")
    refused_files: Share = Field(default=0.05, description="files refused / files, above which the chain stops")
    withdrawn_share: Share = Field(
        default=0.2, description="stored rows of an instrument that a delivery may no longer have; more is held back"
    )
    withdrawn_rows: Annotated[int, Field(ge=0)] = Field(
        default=5, description="so many rows of an instrument may always go"
    )
    refused_rows: Share = Field(default=0.2, description="rows refused / delivered on a session, likewise")
    feature_null_share: Share = Field(default=0.3, description="nulls of a feature after the first 252 sessions")
    infinite_share: Share = Field(default=0.001, description="infinite values of a feature")
    behind_sessions: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=0, description="sessions that a table may be behind"
    )
    drift: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=3.0, description="population stability index of a feature"
    )
    drift_shift: Annotated[float, Field(ge=0, le=1000)] = Field(
        default=1.0, description="and shift of its median, in interquartile ranges, beyond which it has drifted"
    )
    sampled_cells: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=40, description="rows of a run whose named features are computed again"
    )


# Daily price limits of Shanghai, Shenzhen and Beijing, by board; STAR and ChiNext under registration have 20 %.
REGION_QUALITY: dict[str, dict[str, Any]] = {
    "us": {},
    "cn": {
        "price_limits": (
            PriceLimit(prefix="", limit=0.10, since=date(1996, 12, 16)),
            PriceLimit(prefix="SZ30", limit=0.20, since=date(2020, 8, 24)),
            PriceLimit(prefix="SH68", limit=0.20),
            PriceLimit(prefix="BJ", limit=0.30),
        ),
    },
}


class UniverseSettings(_Frozen):
    """What is ingested and precomputed together."""

    source: Source = Field(description="where the bars come from: a table with its `kind`")
    calendar: Annotated[str, AfterValidator(_calendar)] = Field(
        description="exchange-calendars code, for example XNYS or XSHG"
    )
    start: Day = Field(description="first day")
    end: Day | None = Field(default=None, description="last session, inclusive; without it, up to today")
    instruments: Annotated[tuple[Symbol, ...], Field(min_length=1)] | None = Field(
        default=None, description="restrict to these; without it, all"
    )
    region: Literal["us", "cn"] = Field(
        default_factory=lambda data: region_of(data.get("calendar", "")),
        description="Qlib trading rules; by default `cn` for the calendar XSHG, `us` for all others",
    )
    training: dict[str, Any] = Field(default_factory=dict, description="overrides of [training] for this universe")
    quality: dict[str, Any] = Field(default_factory=dict, description="overrides of [quality] for this universe")
    pools: dict[str, PoolSettings] = Field(
        default_factory=dict, description="membership lists: tables with their `kind`; `all` always exists"
    )
    industries: LocalPath | None = Field(
        default=None, description="CSV file ts_code,symbol,name,area,industry,list_date"
    )

    @field_validator("instruments")
    @classmethod
    def _once_each(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if twice := sorted({name for name in value or () if (value or ()).count(name) > 1}):
            raise ValueError(f"instrument {twice[0]!r} is named more than once")
        return value

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

    @field_validator("training", "quality")
    @classmethod
    def _known_overrides(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        model = TrainingSettings if info.field_name == "training" else QualitySettings
        try:
            model.model_validate(value)
        except ValidationError as error:
            raise ValueError("; ".join(_explain(e, model) for e in error.errors())) from None
        return value

    @model_validator(mode="after")
    def _start_before_end(self) -> "UniverseSettings":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"start {self.start} is after end {self.end}")
        if self.start < (known := KNOWN_FROM.get(self.calendar, self.start)):
            raise ValueError(f"calendar {self.calendar} is known from {known} on, not from start {self.start}")
        return self


class TrainingSettings(_Frozen):
    """Walk-forward window, counted back in sessions from the training date.

    ``embargo`` sessions are left out between the segments on top of the horizon + 1 purged ones.
    """

    train_sessions: Annotated[int, Field(ge=20, le=100_000)] = Field(
        default=1250, description="sessions that a model learns from"
    )
    valid_sessions: Annotated[int, Field(ge=5, le=100_000)] = Field(
        default=250, description="sessions after them, by which its training ends"
    )
    test_sessions: Annotated[int, Field(ge=5, le=100_000)] = Field(
        default=250, description="the last sessions, which only judge it"
    )
    horizon: Annotated[int, Field(ge=1, le=250)] = Field(
        default=1, description="sessions of the forward return that it predicts; one of `horizons`"
    )
    embargo: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=0, description="sessions left out between the segments, on top of horizon + 1 purged ones"
    )
    features: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default=("alpha158",), description="feature tables that it reads"
    )
    num_boost_round: Annotated[int, Field(ge=1, le=100_000)] = Field(default=1000, description="most trees")
    early_stopping_rounds: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=50, description="trees without a gain on the validation sessions"
    )
    parameters: dict[str, float | int | str] = Field(
        default_factory=dict, description="overrides of Qlib's Alpha158 LightGBM"
    )

    @field_validator("parameters", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        _check_names(value if isinstance(value, dict) else ())
        for name, one in value.items() if isinstance(value, dict) else ():
            if not isinstance(one, int | float | str) or (isinstance(one, float) and not math.isfinite(one)):
                raise ValueError(f"{name} must be a number or a text, got {_short(one)}")
            if isinstance(one, str):
                _one_line(one)
        return value


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

    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 16),
        description="that compute at once; by default one per processor, at most 16",
    )
    block_instruments: Count = Field(default=128, description="whose results are in memory at once")


class MlflowSettings(_Frozen):
    """Where experiments are tracked; the default is a SQLite store under the data home."""

    tracking_uri: Text | None = Field(
        default=None, description="of the store or server; without it, SQLite under the home"
    )
    experiment: Text = Field(default="qdag", description="that runs are tracked in")
    ui_url: WebAddress = Field(default="http://127.0.0.1:5000", description="where links to runs and models lead")

    def runs_url(self, experiment_id: str) -> str:
        """Where the UI shows the runs of an experiment as a table of models; without it, it shows one of chats."""
        return f"{self.ui_url.rstrip('/')}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


class DagsterSettings(_Frozen):
    """Where the Dagster UI is reached."""

    ui_url: WebAddress = Field(
        default="http://127.0.0.1:3000", description="where links to runs and assets lead; its host is answered"
    )
    allowed_hosts: tuple[Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])$")], ...] = Field(
        default=(), description="further host names, without port, under which the UI answers"
    )


class AutomationSettings(_Frozen):
    """What runs without a person."""

    enabled: bool = Field(default=False, description="sensors and schedules are on unless stopped in the UI")
    after_close_minutes: Annotated[int, Field(ge=0, le=1200)] = Field(
        default=60, description="the daily run begins so long after the exchange's close"
    )
    training_after_minutes: Annotated[int, Field(ge=0, le=1200)] = Field(
        default=60, description="month-end training begins so long after the daily run"
    )
    maintenance_cron: Annotated[Text, AfterValidator(_cron)] = Field(
        default="0 3 * * 0", description="compact, vacuum and back up tables; minute hour day month weekday, UTC"
    )
    backup: Text | None = Field(
        default=None, description="folder or object store URL of the backup; without it, none is made"
    )
    chunk_sessions: Sessions = Field(default=250, description="sessions of one run of a backfill")
    landing_seconds: Seconds = Field(
        default=10, description="a file that changed within so many seconds may still be being written"
    )
    done_marker: bool = Field(default=False, description="a file counts when FILE.done lies beside it")
    max_runtime_seconds: Annotated[int, Field(ge=60, le=30 * 86400)] = Field(
        default=4 * 3600, description="a run is stopped after"
    )
    tick_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=15, description="sensors of files and stale sessions look so often; those of alerts half as often"
    )
    again_seconds: Seconds = Field(
        default=3600, description="a request whose run failed is asked for again after; each time after twice as long"
    )


AlertKind = Literal[
    "run_failure", "blocked_check", "late_data", "slow_run", "failed_instruments", "ic_drop", "alerting_error"
]
Severity = Literal["warning", "error"]


class AlertTarget(_Frozen):
    """Where alerts go: an apprise URL, with what it should get. Strings in ``alerts.urls`` become these."""

    url: SecretStr = Field(description="an apprise URL such as json://HOST/PATH, mailto://... or slack://...")
    name: Annotated[str, AfterValidator(_name)] | None = Field(
        default=None, description="shown instead of the URL; waiting alerts belong to the name"
    )
    severity: Severity = Field(default="warning", description="the least severe alert that is sent here")
    kinds: tuple[AlertKind, ...] | None = Field(default=None, description="only these kinds; without it, all")

    @field_validator("url")
    @classmethod
    def _has_scheme(cls, url: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9.+-]*://\S+", url.get_secret_value()):
            raise ValueError("an alert target is an apprise URL such as json://HOST/PATH, mailto://... or slack://...")
        return url


class AlertSettings(_Frozen):
    """Alerts: targets, limits of the conditions, and how often a person is bothered."""

    urls: tuple[AlertTarget, ...] = Field(default=(), description="apprise URLs, or tables url, name, severity, kinds")
    repeat_hours: Hours = Field(default=24, description="the same alert is silent so long")
    max_per_hour: Count = Field(default=20, description="messages to one target")
    give_up_hours: Hours = Field(default=168, description="an alert is tried so long")
    late_hours: Annotated[float, Field(ge=0, le=10 * 8766)] = Field(
        default=6, description="hours after the close until data is late"
    )
    slow_history: Annotated[int, Field(ge=2, le=1000)] = Field(default=50, description="durations that P95 is taken of")
    slow_minimum: Annotated[int, Field(ge=2, le=1000)] = Field(default=10, description="fewest durations to judge by")
    slow_slack_seconds: Seconds = Field(default=1.0, description="above P95 by more than this")
    failed_share: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.05, description="of a window's instruments")
    ic_drop: Annotated[float, Field(gt=0, le=2)] = Field(
        default=0.02, description="fall of the mean IC below its year's"
    )
    ic_errors: Annotated[float, Field(ge=0, le=100)] = Field(
        default=2.0, description="least such fall in standard errors"
    )
    ic_recent: Annotated[int, Field(ge=2, le=10_000)] = Field(default=20, description="dates of the recent mean")
    ic_trailing: Annotated[int, Field(ge=3, le=10_000)] = Field(default=252, description="dates of the trailing mean")
    ic_top: Count = Field(default=10, description="factors watched, by |mean RankIC|")
    ic_factors: tuple[Text, ...] = Field(default=(), description="watch these (table.column) at every horizon instead")

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

    versions: Count = Field(default=10, description="newest versions of each table")
    days: Annotated[float, Field(ge=0, le=36_525)] = Field(
        default=30, description="versions current within so many days"
    )


class Settings(_Frozen):
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
        _check_names(value)
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
        known = tuple(table for table in FEATURE_TABLES if table != CUSTOM or self.custom_factors)
        for where in ("", *self.universes):
            training = self.training_for(where) if where else self.training
            name = f"universes.{where}.training" if where else "training"
            if training.horizon not in self.horizons:
                raise ValueError(f"{name}.horizon {training.horizon} is not one of horizons {list(self.horizons)}")
            for table in training.features:
                if table == CUSTOM and table not in known:
                    raise ValueError(f"{name}.features has {CUSTOM!r}, but there is no table [{CUSTOM}]: write one")
                if table not in known:
                    raise ValueError(f"{name}.features has no feature table {table!r}{nearest(table, known)}")
                if training.features.count(table) > 1:
                    raise ValueError(f"{name}.features names {table!r} more than once")
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
            wrong = "correct --config" if path else f"correct or unset {CONFIG_VARIABLE}"
            raise SettingsError(f"settings file {str(file)!r} does not exist; create it, or {wrong}") from None
        except (OSError, ValueError) as error:
            raise SettingsError(f"settings file {str(file)!r} cannot be read: {_with_line(error, file)}") from error
        except RecursionError:
            raise SettingsError(f"settings file {str(file)!r} cannot be read: it is nested too deeply") from None
        _resolve_paths(data, file.absolute().parent)
    for variable, value in environ.items():
        if variable.startswith("QDAG_") and variable not in _NOT_SETTINGS:
            _set(data, variable, value)
    return settings_from(data)


def settings_from(data: Mapping[str, Any]) -> Settings:
    """Settings of plain tables, as TOML gives them; SettingsError where they do not fit."""
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        # a default that is made from other settings is not made where these are wrong, which is told already
        told = (e for e in error.errors() if e["type"] != "default_factory_not_called")
        raise SettingsError("; ".join(map(_explain, told))) from error


def _with_line(error: Exception, file: Path) -> str:
    """An error's text; where TOML ends too early, with the line that it ends on."""
    text = str(error)
    if "at end of document" in text:
        return text.replace("at end of document", f"at line {len(file.read_text('utf-8').splitlines())}, the last")
    return text


def _resolve_paths(data: dict[str, Any], folder: Path) -> None:
    """Relative paths in a settings file are relative to that file."""
    if isinstance(data.get("home"), str):
        data["home"] = _below(folder, data["home"])
    universes = data.get("universes")
    for universe in universes.values() if isinstance(universes, dict) else ():
        if not isinstance(universe, dict):
            continue
        pools = universe.get("pools")
        tables = [(universe, "industries"), (universe.get("source"), "path"), (universe.get("source"), "cache")]
        tables += [(pool, "path") for pool in (pools.values() if isinstance(pools, dict) else ())]
        for table, key in tables:
            if isinstance(table, dict) and isinstance(table.get(key), str):
                table[key] = _below(folder, table[key])


def _below(folder: Path, text: str) -> str:
    """A path relative to a folder; what is no path stays, to be refused with what was given."""
    try:
        return str(folder / Path(_local(text)).expanduser())
    except (ValueError, RuntimeError):
        return text


def _set(data: dict[str, Any], variable: str, value: str) -> None:
    *parents, leaf = variable.removeprefix("QDAG_").lower().split("__")
    for key in parents:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise SettingsError(f"variable {variable} nests below {key!r}, which is a plain value")
    if value.lstrip()[:1] in ("[", "{"):
        try:
            data[leaf] = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"variable {variable} is not valid JSON: {error}") from error
    else:
        data[leaf] = value


def _explain(error: Any, model: type[BaseModel] | None = None) -> str:
    """One validation error as a sentence; ``model``: what was validated, by default the settings."""
    location, beside, models = _located(error["loc"], model or Settings)
    if error["type"] == "extra_forbidden":
        return f"unknown setting {location!r}{nearest(str(error['loc'][-1]), beside)}"
    if error["type"] == "missing":
        return f"setting {location!r} is missing; it has no default"
    if error["type"] == "union_tag_not_found":
        return f"setting {location!r} needs a kind: one of {', '.join(repr(kind_of(m)) for m in models)}"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    # text given below alerts may be a URL with its secrets, also where it is in the wrong place
    secret = error["loc"][:1] == ("alerts",) and isinstance(given, str)
    shown = f" (got {_short(given)})" if isinstance(given, str | int | float | date) and not secret else ""
    return f"setting {location or 'file'}: {message}{shown}"


def _short(value: object) -> str:
    text = str(value) if isinstance(value, date) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... of {len(text)} characters"


def _located(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, list[str], list[type[BaseModel]]]:
    """The key that an error points at, as a person writes it; the valid keys beside it; the models that it may be."""
    shown, beside, at = "", list(model.model_fields), cast("Any", model)
    for part in location:
        models = [] if get_origin(at) in (dict, tuple) else submodels(at)
        if len(models) > 1:
            # the kind of a source or a pool, which is no key of its own
            at = next((m for m in models if kind_of(m) == part), Any)
        elif part != "[key]":
            shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else part
            if models:
                beside = list(models[0].model_fields)
                at = models[0].model_fields[str(part)].annotation if part in beside else Any
            else:
                at = get_args(at)[-1 if get_origin(at) is dict else 0] if get_args(at) else Any
    return shown, beside, submodels(at)


def submodels(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's value may be, or that its items are."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        inner = inner[:1]
    return [m for one in inner for m in submodels(one)] if get_origin(annotation) is not Literal else []


def kind_of(model: type[BaseModel]) -> str | None:
    """The ``kind`` that stands for a model where a setting has several."""
    field = model.model_fields.get("kind")
    return field.default if field else None
