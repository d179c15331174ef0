"""Two frames of Qlib, compared."""

import numpy as np
import pandas as pd

NOTHING = 1e-8
"""What Qlib's running sums leave of an exact 0: a flat window, no gain."""


def differing(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, int]:
    """Cells apart by more than 1e-5 of the value, by column; all else of the two frames must be equal.

    Compared are index, levels, names, columns, dtypes and the pattern of NaN.
    """
    assert ours.columns.equals(theirs.columns)
    assert list(ours.dtypes) == list(theirs.dtypes)
    assert ours.index.equals(theirs.index)
    assert ours.index.names == theirs.index.names
    for a, b in zip(ours.index.levels, theirs.index.levels, strict=True):
        assert a.dtype == b.dtype
        assert a.equals(b)
    found = {}
    for at, column in enumerate(ours.columns):
        name = column[-1] if isinstance(column, tuple) else str(column)
        a, b = (frame.iloc[:, at].to_numpy(float) for frame in (ours, theirs))
        assert np.array_equal(np.isnan(a), np.isnan(b)), name
        with np.errstate(all="ignore"):
            apart = ~((a == b) | (np.abs(a - b) <= 1e-5 * np.abs(b) + NOTHING) | np.isnan(a))
        found[name] = int(apart.sum())
    return {name: count for name, count in found.items() if count}
