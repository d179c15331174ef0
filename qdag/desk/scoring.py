"""A registered model on the desk: scores of frames, importance, a picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qdag.desk.notebook import Picture, table_html
from qdag.errors import MissingDataError, unknown
from qdag.models.frames import feature_names
from qdag.models.plots import importance_figure

if TYPE_CHECKING:
    import pandas as pd

    from qdag.models.records import Registered
    from qdag.models.tracking import Model
    from qdag.settings import Settings


@dataclass(frozen=True, repr=False)
class StoredModel:
    """A registered model and what is recorded of it.

    Attributes
    ----------
    registered : name, version, training_date, run_id, versions of the tables that it was trained on
    model : the booster and its columns
    """

    registered: "Registered"
    model: "Model"

    @property
    def features(self) -> list[str]:
        """Columns that it needs, as ``desk.features(universe, model.tables)`` calls them."""
        return feature_names(self.model.features)

    @property
    def tables(self) -> list[str]:
        """Feature tables that have them."""
        return list(self.model.features)

    def predict(self, frame: "pd.DataFrame") -> "pd.Series":
        """Scores (float64, higher is better) of the rows of a frame that has the model's columns; missing values are
        taken as LightGBM takes them.

        UnknownNameError: a column is not there.
        """
        import pandas as pd

        for name in self.features:
            if name not in frame.columns:
                raise unknown("column of the frame", name, map(str, frame.columns))
        return pd.Series(self.model.predict(frame), frame.index, name="score")

    def importance(self) -> "pd.DataFrame":
        """Gain and number of splits of every feature, the largest gain first."""
        from qdag.models.training import importance_of

        return importance_of(self.model.booster, self.features)

    def plot(self) -> Picture:
        """The features with the largest gain."""
        return Picture(importance_figure(f"Feature importance: {self.registered.label}", self.importance()))

    def __repr__(self) -> str:
        told = self.registered
        return f"StoredModel({told.label}, trained on {told.training_date}, {len(self.features)} features)"

    def _repr_html_(self) -> str:
        told = self.registered
        rows: list[tuple[str, Any]] = [
            ("trained on", told.training_date),
            ("trees", self.model.booster.num_trees()),
            ("features", f"{len(self.features)} of {', '.join(self.tables)}"),
            ("trained on versions", ", ".join(f"{name} {version}" for name, version in sorted(told.versions.items()))),
            ("MLflow run", told.run_id),
        ]
        return table_html(told.label, rows)


def load_model(settings: "Settings", universe: str, version: int | None) -> StoredModel:
    """Load a model, see ``Desk.load_model``."""
    from qdag.models.tracking import load, registered_models

    known = {model.version: model for model in registered_models(settings, universe)}
    if not known:
        raise MissingDataError(
            f"no model of universe {universe!r} is registered; materialize the chain over a month end"
        )
    chosen = list(known)[-1] if version is None else version
    if chosen not in known:
        raise unknown(f"version of the model of universe {universe!r}", str(version), map(str, known))
    return StoredModel(known[chosen], load(settings, known[chosen]))
