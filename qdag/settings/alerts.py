"""``[alerts]``: who is told, of what, how often, and the limits of the conditions."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from qdag.settings.base import Count, FrozenModel, Hours, Name, Seconds, Text

AlertKind = Literal[
    "run_failure", "blocked_check", "late_data", "slow_run", "failed_instruments", "ic_drop", "alerting_error"
]
"""What an alert is about."""
Severity = Literal["warning", "error"]
"""How bad it is, the least first."""


class AlertTarget(FrozenModel):
    """Where alerts go: an apprise URL, with what it should get. Strings in ``alerts.urls`` become these."""

    url: SecretStr = Field(description="an apprise URL such as json://HOST/PATH, mailto://... or slack://...")
    name: Name | None = Field(default=None, description="shown instead of the URL; waiting alerts belong to the name")
    severity: Severity = Field(default="warning", description="the least severe alert that is sent here")
    kinds: tuple[AlertKind, ...] | None = Field(default=None, description="only these kinds; without it, all")

    @field_validator("url")
    @classmethod
    def _has_scheme(cls, url: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9.+-]*://\S+", url.get_secret_value()):
            raise ValueError("an alert target is an apprise URL such as json://HOST/PATH, mailto://... or slack://...")
        return url


class AlertSettings(FrozenModel):
    """Alerts: targets, limits of the conditions, and how often a person is bothered."""

    urls: tuple[AlertTarget, ...] = Field(default=(), description="apprise URLs, or tables url, name, severity, kinds")
    repeat_hours: Hours = Field(default=24, description="hours that the same alert is silent")
    max_per_hour: Count = Field(default=20, description="messages to one target in an hour, at most")
    give_up_hours: Hours = Field(default=168, description="hours after which an alert that cannot be sent is given up")
    late_hours: Annotated[float, Field(ge=0, le=10 * 8766)] = Field(
        default=6, description="hours after the close until data is late"
    )
    slow_history: Annotated[int, Field(ge=2, le=1000)] = Field(
        default=50, description="durations of earlier runs that P95 is taken of"
    )
    slow_minimum: Annotated[int, Field(ge=2, le=1000)] = Field(default=10, description="fewest durations to judge by")
    slow_slack_seconds: Seconds = Field(default=1.0, description="seconds above P95 from which a run is slow")
    failed_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.05, description="share of a window's instruments that may fail"
    )
    ic_drop: Annotated[float, Field(gt=0, le=2)] = Field(
        default=0.02, description="largest fall of the mean IC below its year's that is no alert"
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
