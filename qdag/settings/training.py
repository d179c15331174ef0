"""``[training]``: the walk-forward window, and how a model is fitted."""

import math
from typing import Annotated, Any

from pydantic import Field, field_validator

from qdag.features.sets import TRAINED
from qdag.settings.base import FrozenModel, check_names, one_line
from qdag.settings.explain import shortened


class TrainingSettings(FrozenModel):
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
        default=TRAINED, description="feature tables that it reads"
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
        check_names(value if isinstance(value, dict) else ())
        for name, one in value.items() if isinstance(value, dict) else ():
            if not isinstance(one, int | float | str) or (isinstance(one, float) and not math.isfinite(one)):
                raise ValueError(f"{name} must be a number or a text, got {shortened(one)}")
            if isinstance(one, str):
                one_line(one)
        return value


SAMPLE_PARAMETERS: dict[str, float | int | str] = {
    "lambda_l1": 2.5,
    "lambda_l2": 7.1,
    "learning_rate": 0.02,
    "num_leaves": 15,
    "max_depth": 4,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.3,
}
"""Parameters of the embedded sample.

Qlib's published regularization fits hundreds of stocks; on five it leaves a constant model. These are its lambdas
scaled by the number of rows, with shallow trees; they were not chosen by their results.
"""
