"""Qlib datasets on the stored tables: a loader, Qlib's handler with its published processors, and the segments.

Importing this module imports Qlib; do it inside functions.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from qlib.data.dataset.loader import DataLoader

from qdag.errors import UnknownNameError
from qdag.models.frames import Features, feature_frame, label_frame
from qdag.models.split import Split

if TYPE_CHECKING:
    from qdag.store.tables import TableStore

# Qlib's Alpha158 learns on these; trees need no processors on the features. The second DropnaLabel takes the sessions
# whose cross-section has one label or equal labels only: their z-score is undefined and LightGBM refuses NaN labels.
LEARN_PROCESSORS: tuple[dict[str, Any], ...] = (
    {"class": "DropnaLabel"},
    {"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}},
    {"class": "DropnaLabel"},
)


class TableLoader(DataLoader):
    """Loads stored features, and one label, as Qlib's handlers want them; nothing is computed again.

    Attribute names carry no leading underscore: Qlib drops those when a handler is pickled.
    """

    def __init__(
        self,
        store: "TableStore",
        universe: str,
        features: Features,
        label: str | None = None,
        versions: Mapping[str, int] | None = None,
    ):
        self.store = store
        self.universe = universe
        self.features = {table: tuple(columns) for table, columns in features.items()}
        self.label = label
        self.versions = dict(versions or {})

    def load(
        self, instruments: str | Sequence[str] | None = None, start_time: Any = None, end_time: Any = None
    ) -> pd.DataFrame:
        """Frame indexed (datetime, instrument) with ("feature", name) and ("label", name) columns, float32.

        ``instruments`` is a list, or None or "all" for the whole universe.
        """
        if isinstance(instruments, str):
            if instruments != "all":
                raise UnknownNameError(f"pool {instruments!r} cannot be loaded by name; give 'all' or a list")
            instruments = None
        start, end = (None if t is None else pd.Timestamp(t).date() for t in (start_time, end_time))
        features = feature_frame(self.store, self.universe, self.features, start, end, instruments, self.versions)
        features.columns = pd.MultiIndex.from_product([["feature"], features.columns])
        if self.label is None:
            return features
        labels = label_frame(self.store, self.universe, self.label, start, end, instruments, self.versions)
        # a label without features cannot be learnt from; features without a label can still be scored
        labels = labels.reindex(features.index) if not labels.index.equals(features.index) else labels
        labels.columns = pd.MultiIndex.from_product([["label"], labels.columns])
        return pd.concat([features, labels], axis=1)


def build_dataset(
    store: "TableStore",
    universe: str,
    features: Features,
    label: str,
    split: Split,
    versions: Mapping[str, int] | None = None,
) -> DatasetH:
    """Dataset with the split's train, valid and test segments; nothing outside them is used for learning."""
    handler = DataHandlerLP(
        start_time=split.train.first,
        end_time=split.test.last,
        data_loader=TableLoader(store, universe, features, label, versions),
        infer_processors=[],
        learn_processors=list(LEARN_PROCESSORS),
    )
    segments = {name: (str(s.first), str(s.last)) for name, s in split.segments.items()}
    return DatasetH(handler=handler, segments=segments)
