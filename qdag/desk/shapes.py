"""Rows of instruments as what people work with: pandas, polars, Arrow, or a panel of matrices."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from qdag.errors import QdagError, install_command, unknown
from qdag.store.arrow import days, text_codes

if TYPE_CHECKING:
    from qdag.engine.panel import Panel

As = Literal["pandas", "polars", "arrow", "numpy"]
"""What rows are given as."""
Layout = Literal["datetime", "instrument"]
"""Which level of a pandas frame comes first: the datetime, or the instrument as in Qlib's ``D.features``."""
SHAPES: tuple[As, ...] = ("pandas", "polars", "arrow", "numpy")
LAYOUTS: tuple[Layout, ...] = ("datetime", "instrument")


def check_shape(as_: str, layout: str = "datetime") -> None:
    """UnknownNameError for a shape or layout that there is not, QdagError for a layout of what has none, and where
    polars is asked for and not installed."""
    if as_ not in SHAPES:
        raise unknown("shape", as_, SHAPES)
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if layout != "datetime" and as_ != "pandas":
        raise QdagError(f"layout {layout!r} is the index of a pandas frame; with as_={as_!r} leave layout out")
    if as_ == "polars":
        _polars()


def shaped(table: pa.Table, as_: As, layout: Layout = "datetime") -> Any:
    """Rows of date and instrument, sorted by both, as what was asked for.

    Returns
    -------
    pandas : DataFrame indexed by (datetime, instrument), or by Qlib's (instrument, datetime); nulls are NaN
    polars : DataFrame with the columns date and instrument and the values; nulls are null
    arrow : the table itself; nulls are null
    numpy : ``qdag.engine.Panel``; a value is ``panel[name]``, an (instruments x sessions) matrix of the column's dtype,
        integers as float64; NaN where there is no row or no value. Columns that are no numbers are left out
    """
    if as_ == "arrow":
        return table
    if as_ == "polars":
        return _polars().from_arrow(table)
    if as_ == "numpy":
        return _panel(table)
    from qdag.models.frames import pandas_frame

    return pandas_frame(table, ("instrument", "datetime") if layout == "instrument" else ("datetime", "instrument"))


def plain_rows(table: pa.Table, as_: As) -> Any:
    """Rows that are not of instruments as a frame or a table: dates of pandas are datetime64.

    QdagError: a panel of them was asked for.
    """
    if as_ == "numpy":
        raise QdagError("rows that are not of instruments make no panel; take as_='pandas', 'polars' or 'arrow'")
    if as_ == "pandas":
        return table.to_pandas(date_as_object=False)
    return _polars().from_arrow(table) if as_ == "polars" else table


def _polars() -> Any:
    try:
        import polars
    except ImportError:
        raise QdagError(
            f"as_='polars' needs polars, the extra qdag[polars]: {install_command('polars')}; "
            f"or take as_='arrow', which polars.from_arrow reads"
        ) from None
    return polars


def _panel(table: pa.Table) -> "Panel":
    from qdag.engine.panel import Panel
    from qdag.store.matrices import table_matrix

    numbers = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    instruments = tuple(sorted(text_codes(table["instrument"])[1]))
    sessions = np.unique(days(table["date"]))
    return Panel(instruments, sessions, table_matrix(table, numbers, instruments, sessions))
