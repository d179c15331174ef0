"""``[universes.NAME.source]``: one class per vendor, and which columns of a user's files hold what.

What reads them is in :mod:`qdag.sources`.
"""

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from qdag.settings.base import FrozenModel, LocalPath, Seconds, Share, Symbol, Text


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


class SampleSource(FrozenModel):
    """The embedded daily bars of five US stocks, 2000 to 2013."""

    kind: Literal["sample"] = "sample"


class ColumnMapping(FrozenModel):
    """Which columns of a user's files hold what; ``None`` where a file has none.

    Prices are raw. ``factor`` is a cumulative adjustment factor, or ``adjusted_close`` gives one, or ``split`` and
    ``dividend`` do, or ``pre_close`` (the previous close adjusted for the day's event) does. ``pct_chg`` (the day's
    change in percent, adjusted) may be missing in a file and is only compared with.
    """

    date: Text = Field(description="session of the row")
    instrument: Text | None = Field(default=None, description="symbol; without it, files are named after theirs")
    open: Text = Field(description="raw opening price, in currency")
    high: Text = Field(description="raw highest price, in currency")
    low: Text = Field(description="raw lowest price, in currency")
    close: Text = Field(description="raw closing price, in currency")
    volume: Text = Field(description="traded volume, in volume_unit")
    amount: Text | None = Field(default=None, description="traded value, in amount_unit")
    factor: Text | None = Field(default=None, description="cumulative adjustment factor: adjusted price / raw price")
    adjusted_close: Text | None = Field(default=None, description="close adjusted for splits and dividends")
    split: Text | None = Field(default=None, description="split coefficient, 1 without a split")
    dividend: Text | None = Field(default=None, description="cash dividend per share, 0 without one")
    pre_close: Text | None = Field(default=None, description="previous close adjusted for the day's event")
    pct_chg: Text | None = Field(default=None, description="the day's change in percent, adjusted")
    date_format: Annotated[Text, AfterValidator(_date_format)] = Field(
        default="%Y-%m-%d", description="form of the dates, as Python's strptime reads them"
    )
    volume_unit: Annotated[float, Field(ge=1e-9, le=1e9)] = Field(
        default=1.0, description="shares in one of the file's units"
    )
    amount_unit: Annotated[float, Field(ge=1e-9, le=1e9)] = Field(
        default=1.0, description="currency in one of the file's units"
    )


class FilesSource(FrozenModel):
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


class SyntheticSource(FrozenModel):
    """A seeded market generator for tests and benchmarks; never mixed with real universes."""

    kind: Literal["synthetic"] = "synthetic"
    seed: Annotated[int, Field(ge=0, le=10**9)] = Field(default=7, description="the same seed gives the same market")
    instruments: Annotated[int, Field(ge=1, le=20_000)] = Field(default=50, description="number of instruments")
    planted_ic: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="correlation of the opening gap with the forward return of horizon 1"
    )


class WebSource(FrozenModel):
    """What every source that is fetched over the network has; times in seconds."""

    interval: Seconds = Field(default=0.5, description="seconds between two requests, at least")
    timeout: Annotated[float, Field(gt=0, le=3600)] = Field(default=30, description="seconds that one request may take")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(
        default=5, description="further tries of a request that failed and may yet succeed"
    )
    longest_wait: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=120, description="seconds between two tries of a request, at most"
    )
    failed_share: Share = Field(
        default=0.5, description="share of the instruments that may fail; more is an error of the whole source"
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
    interval: Seconds = Field(default=0.1, description="seconds between two requests, at least")


class QlibSource(FrozenModel):
    """An existing Qlib provider directory of daily data."""

    kind: Literal["qlib"] = "qlib"
    path: LocalPath = Field(description="the directory that holds calendars, instruments and features")


Source = Annotated[
    SampleSource | FilesSource | SyntheticSource | YahooSource | AkshareSource | BaostockSource | QlibSource,
    Field(discriminator="kind"),
]
"""Where the bars of a universe come from; ``kind`` says which."""
