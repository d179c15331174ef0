"""A processor of one instrument's frame, as users of Qlib write them."""

from typing import Any

import pandas as pd
from qlib.data.inst_processor import InstProcessor


class Weekly(InstProcessor):  # type: ignore[misc]
    """The last row of each week."""

    def __call__(self, df: pd.DataFrame, instrument: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
        if df.empty:
            return df
        return df.groupby(df.index.isocalendar().week.to_numpy()).tail(1)
