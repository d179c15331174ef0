"""Figures of a trained model, drawn without a display and without pyplot's global state."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qdag.models.training import TrainedModel

TOP_FEATURES = 30


def figures(model: "TrainedModel") -> dict[str, "Figure"]:
    """Figures by file name: learning curves, feature importance, and the daily IC of valid and test."""
    return {
        "learning_curves.png": _curves(model),
        "feature_importance.png": _importance(model),
        "daily_ic.png": _daily_ic(model),
    }


def blank_figure(title: str, width: float = 9, height: float = 4.5) -> "Figure":
    """A figure with a title, without axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure


def _title(model: "TrainedModel", what: str) -> str:
    return f"{what}: {model.universe}, trained on {model.training_date}"


def _curves(model: "TrainedModel") -> "Figure":
    figure = blank_figure(_title(model, "Loss by boosting round"))
    axes = figure.subplots()
    for name, values in model.curves.items():
        axes.plot(np.arange(1, len(values) + 1), values, label=name)
    axes.axvline(model.best_iteration, color="grey", linestyle=":", label=f"best round {model.best_iteration}")
    axes.set(xlabel="boosting round", ylabel="loss on z-scored label")
    axes.legend()
    return figure


def _importance(model: "TrainedModel") -> "Figure":
    return importance_figure(_title(model, "Feature importance"), model.importance)


def importance_figure(title: str, importance: pd.DataFrame) -> "Figure":
    """Gain and splits of the first features of a frame as of :func:`qdag.models.training.importance_of`."""
    top = importance.head(TOP_FEATURES).iloc[::-1]
    figure = blank_figure(title, height=1.5 + 0.22 * len(top))
    for axes, column in zip(figure.subplots(1, 2, sharey=True), ("gain", "split"), strict=True):
        axes.barh(top["feature"], top[column])
        axes.set(xlabel=column)
        axes.tick_params(axis="y", labelsize=8)
    return figure


def _daily_ic(model: "TrainedModel") -> "Figure":
    figure = blank_figure(_title(model, "Cumulative daily IC"))
    axes = figure.subplots()
    for segment, days in model.daily.groupby("segment", sort=False):
        for column in ("ic", "rank_ic"):
            axes.plot(pd.to_datetime(days["date"]), days[column].fillna(0.0).cumsum(), label=f"{segment} {column}")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(ylabel="sum of daily IC since the segment's start")
    axes.legend()
    return figure
