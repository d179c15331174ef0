"""``[quality]``: limits of the checks, and the price limits of exchanges by region."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field

from qdag.settings.base import Day, FrozenModel, Share, Symbol


class PriceLimit(FrozenModel):
    """How far an exchange lets a price move in one session, for the instruments whose name begins with ``prefix``.

    The longest prefix that fits counts, and of equal ones the latest whose ``since`` has come.
    """

    prefix: Literal[""] | Symbol = Field(default="", description="beginning of the names that it holds for; none: all")
    limit: Annotated[float, Field(gt=0, le=10)] = Field(description="share of the close before")
    since: Day | None = Field(default=None, description="first session that it holds for; without it, always")


class QualitySettings(FrozenModel):
    """Limits of the quality checks; shares are of 1. docs/checks.md has the reason for each default."""

    jump: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=0.4, description="largest plausible |adjusted return| of a session, as a share"
    )
    spike: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=0.3, description="share by which a high or low may lie outside of open, close and the session before"
    )
    price_limits: tuple[PriceLimit, ...] = Field(
        default=(), description="the exchange's own limits; instead of jump and spike"
    )
    tick: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.01, description="price step that limits are rounded to, in currency"
    )
    listing_sessions: Annotated[int, Field(ge=0, le=20)] = Field(
        default=5, description="rows after a listing for which only jump counts"
    )
    stale_sessions: Annotated[int, Field(ge=2, le=40)] = Field(
        default=6, description="rows in a row with one close, though traded"
    )
    volume_ratio: Annotated[float, Field(gt=1, le=1e9)] = Field(
        default=50.0, description="largest volume / geometric mean of the 20 rows before"
    )
    sessions_share: Share = Field(default=0.7, description="least instruments with a row / those expected, per session")
    instruments_share: Share = Field(
        default=0.9, description="least rows / sessions from first to last, per instrument"
    )
    pool_share: Share = Field(default=0.7, description="least members with a price / members, per pool and session")
    field_null_share: Share = Field(
        default=0.05, description="largest share of nulls of a field that the vendor delivers"
    )
    refused_files: Share = Field(default=0.05, description="files refused / files, above which the chain stops")
    withdrawn_share: Share = Field(
        default=0.2, description="stored rows of an instrument that a delivery may no longer have; more is held back"
    )
    withdrawn_rows: Annotated[int, Field(ge=0)] = Field(
        default=5, description="so many rows of an instrument may always go"
    )
    refused_rows: Share = Field(default=0.2, description="rows refused / delivered on a session, likewise")
    feature_null_share: Share = Field(
        default=0.3, description="largest share of nulls of a feature after the first 252 sessions"
    )
    infinite_share: Share = Field(default=0.001, description="largest share of infinite values of a feature")
    behind_sessions: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=0, description="sessions that a table may be behind"
    )
    drift: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=3.0, description="largest population stability index of a feature"
    )
    drift_shift: Annotated[float, Field(ge=0, le=1000)] = Field(
        default=1.0, description="and shift of its median, in interquartile ranges, beyond which it has drifted"
    )
    sampled_cells: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=40, description="rows of a run whose named features are computed again"
    )


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
"""Limits by region, below what the settings say.

Daily price limits of Shanghai, Shenzhen and Beijing, by board; STAR and ChiNext under registration have 20 %.
"""
