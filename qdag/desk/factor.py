"""A factor on the desk: what it means, how it did, a picture of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qdag.core.pools import ALL
from qdag.desk.notebook import Picture, table_html
from qdag.desk.results import factor_name, metrics

if TYPE_CHECKING:
    import pandas as pd

    from qdag.assets.platform import Platform
    from qdag.features.feature import Feature


@dataclass(frozen=True, repr=False)
class Factor:
    """A factor of a universe.

    Attributes
    ----------
    name : ``table.column``
    feature : its expression (None of an indicator that is computed by code), group, meaning and direction; None of a
        column that no set declares any more
    metrics : its stored metrics, tidy, as of ``Desk.metrics``, of the pool that has every instrument
    """

    universe: str
    name: str
    feature: "Feature | None"
    metrics: "pd.DataFrame"

    def summary(self) -> "pd.DataFrame":
        """By horizon: the means of ic, rank_ic, long_short and coverage, and the number of dates with an ic."""
        by = self.metrics.groupby("horizon")
        return by[["ic", "rank_ic", "long_short", "coverage"]].mean().assign(dates=by["ic"].count())

    def plot(self) -> Picture:
        """The sum of the daily RankIC by horizon."""
        from qdag.models.plots import blank_figure

        drawn = blank_figure(f"Cumulative RankIC: {self.name}, {self.universe}")
        axes = drawn.subplots()
        for horizon, rows in self.metrics.groupby("horizon"):
            axes.plot(rows["date"], rows["rank_ic"].fillna(0.0).cumsum(), label=f"{horizon} sessions")
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(ylabel="sum of RankIC")
        axes.legend(title="horizon")
        return Picture(drawn)

    def __repr__(self) -> str:
        told = self.feature
        return f"Factor({self.name}, {self.universe}{f': {told.meaning}' if told else ''})"

    def _repr_html_(self) -> str:
        told = self.feature
        rows = []
        if told is not None:
            rows = [("meaning", told.meaning), ("group", told.group), ("expression", told.expression or "code")]
        html = table_html(f"{self.name}, {self.universe}", rows)
        return html + self.summary().to_html(notebook=True)


def factor(platform: "Platform", universe: str, name: str) -> Factor:
    """A factor by name, see ``Desk.factor``."""
    from qdag.desk.shapes import plain_rows

    found = plain_rows(metrics(platform, universe, [name], pool=ALL), "pandas")
    whole = factor_name(name, found["factor"].unique())
    table, _, column = whole.partition(".")
    declared = {one.name: one for one in platform.settings.feature_sets()}
    features = {one.name: one for one in declared[table].features} if table in declared else {}
    return Factor(universe, whole, features.get(column), found)
