"""``[universes.NAME]``: what is ingested and precomputed together, and its pools."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from qdag.calendars import CALENDARS, KNOWN_FROM, region_of
from qdag.errors import nearest
from qdag.settings.base import Count, Day, FrozenModel, LocalPath, Symbol, Text, check_names
from qdag.settings.explain import explain
from qdag.settings.quality import QualitySettings
from qdag.settings.sources import Source, WebSource
from qdag.settings.training import TrainingSettings

INDEXES: dict[str, tuple[str, int]] = {
    "csi300": ("cn", 300),
    "csi500": ("cn", 500),
    "sp500": ("us", 500),
    "nasdaq100": ("us", 100),
    "dow30": ("us", 30),
}
"""Published indexes whose members come with the package: region and nominal number of members."""


class IndexPool(FrozenModel):
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


class FilePool(FrozenModel):
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


class TopPool(FrozenModel):
    """The ``size`` instruments with the largest mean traded value over ``window`` sessions, chosen anew each month."""

    kind: Literal["top"] = "top"
    size: Count = Field(description="how many instruments")
    window: Annotated[int, Field(ge=1, le=1000)] = Field(default=60, description="sessions of the mean")

    @property
    def expected(self) -> int | None:
        """None: a smaller universe has fewer members, and so has its first month."""
        return None


PoolSettings = Annotated[IndexPool | FilePool | TopPool, Field(discriminator="kind")]
"""A membership list; ``kind`` says which."""


def _calendar(code: str) -> str:
    if code not in CALENDARS:
        raise ValueError(f"no exchange calendar is called so{nearest(code, CALENDARS)}")
    return code


class UniverseSettings(FrozenModel):
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
        check_names(value)
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
            raise ValueError("; ".join(explain(e, model) for e in error.errors())) from None
        return value

    @model_validator(mode="after")
    def _start_before_end(self) -> "UniverseSettings":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"start {self.start} is after end {self.end}")
        if self.start < (known := KNOWN_FROM.get(self.calendar, self.start)):
            raise ValueError(f"calendar {self.calendar} is known from {known} on, not from start {self.start}")
        return self
