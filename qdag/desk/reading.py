"""Rows of instruments from a desk: bars, features, labels, predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from qdag.desk.days import Day
from qdag.desk.names import Asked, Names
from qdag.errors import QdagError, unknown
from qdag.schema import ENGINE_FIELDS, FIELDS, LABELS, PREDICTIONS, RAW_OHLCV

if TYPE_CHECKING:
    import pandas as pd

    from qdag.assets.platform import Platform
    from qdag.desk.shapes import As, Layout
    from qdag.settings import Settings

Version = int | Mapping[str, int]
"""A version of the one table that is read, or versions by table."""
Instruments = str | Sequence[str]
"""One instrument, or several."""


class Reading:
    """What a desk reads.

    Notes
    -----
    The methods have these parameters in common.

    - ``universe``: its name in the settings.
    - ``start``, ``end``: first and last day, both inclusive; a date, a datetime, or a text as "2020-01-31", "2020-01"
      (the month's first day as a start, its last as an end) or "2020". Left out, that side is open.
    - ``instruments``: one name or several; left out, all.
    - ``pool``: name of a pool; rows are those of its members of the day, and operators across instruments see these
      alone. Left out, or ``"all"``: all that traded. Stored columns were computed over all that traded.
    - ``version``: read an older version of a table; a number where one table is read, else numbers by table.
      Expressions and adjusted bars are then computed from that version of raw_ohlcv.
    - ``as_``: ``"pandas"``, ``"polars"``, ``"arrow"`` or ``"numpy"``, see below.
    - ``layout``: of a pandas frame, which level of the index comes first: ``"datetime"``, or ``"instrument"`` as in
      Qlib's ``D.features``.

    All give one row for every bar, sorted by the index. pandas: a DataFrame indexed by (datetime, instrument), missing
    values are NaN. polars and arrow: a DataFrame and a Table with the columns date and instrument first, missing values
    are null. numpy: a ``qdag.engine.Panel``, whose ``panel[column]`` is a matrix (instruments x sessions), NaN where
    there is no row or no value.

    They raise UnknownNameError for a name that there is not (it names the nearest one), SessionError for what is no
    day, a reversed range and days without a session, MissingDataError where nothing is stored, StoreError for a version
    that never existed or was vacuumed, and QdagError where polars is asked for and is not installed.
    """

    settings: "Settings"
    """The settings; they cannot be changed."""

    @cached_property
    def platform(self) -> "Platform":
        """Settings and tables, as assets use them; opened at the first use."""
        from qdag.assets.platform import Platform

        return Platform.open(self.settings)

    # -- bars ----------------------------------------------------------------------------------------------------------

    @overload
    def bars(
        self,
        universe: str,
        fields: str | Sequence[str] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        *,
        adjusted: bool = True,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: Literal["pandas"] = "pandas",
        layout: "Layout" = "datetime",
    ) -> "pd.DataFrame": ...
    @overload
    def bars(
        self,
        universe: str,
        fields: str | Sequence[str] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        *,
        adjusted: bool = True,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: "As",
        layout: "Layout" = "datetime",
    ) -> Any: ...
    def bars(
        self,
        universe: str,
        fields: str | Sequence[str] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        *,
        adjusted: bool = True,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: "As" = "pandas",
        layout: "Layout" = "datetime",
    ) -> Any:
        """Daily bars, adjusted or as they were delivered.

        Parameters
        ----------
        fields : one or several; by default all that there are. Adjusted: open, high, low, close, volume, vwap, change,
            factor, amount, and industry where it is asked for. Raw: the columns of raw_ohlcv
        adjusted : prices are raw x factor and volume is raw / factor, float32, the very values that features are
            computed from; else float64 as the vendor has them. ``change`` is the close over the last traded close, - 1

        Returns
        -------
        A column per field, see :class:`Reading` for shapes, missing values, the other parameters and errors.
        """
        known = FIELDS if adjusted else RAW_OHLCV.values
        chosen = (ENGINE_FIELDS if adjusted else known) if fields is None else _listed(fields)
        for field in chosen:
            if field not in known:
                raise unknown("adjusted field" if adjusted else "raw field", field, known)
        if adjusted:
            asked = Asked(list(chosen), expressions={field: f"${field}" for field in chosen})
        else:
            asked = Asked(list(chosen), stored={RAW_OHLCV.name: {field: field for field in chosen}})
        return self._rows(universe, lambda _: asked, start, end, instruments, pool, version, as_, layout)

    # -- features ------------------------------------------------------------------------------------------------------

    @overload
    def features(
        self,
        universe: str,
        names: Names,
        start: Day | None = None,
        end: Day | None = None,
        *,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: Literal["pandas"] = "pandas",
        layout: "Layout" = "datetime",
    ) -> "pd.DataFrame": ...
    @overload
    def features(
        self,
        universe: str,
        names: Names,
        start: Day | None = None,
        end: Day | None = None,
        *,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: "As",
        layout: "Layout" = "datetime",
    ) -> Any: ...
    def features(
        self,
        universe: str,
        names: Names,
        start: Day | None = None,
        end: Day | None = None,
        *,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: "As" = "pandas",
        layout: "Layout" = "datetime",
    ) -> Any:
        """Features: stored ones are read, expressions are computed on the spot.

        Parameters
        ----------
        names : one name or several, or names by the columns that they become. A name is a set (``"alpha158"``: all of
            its columns), a stored column (``"alpha158.KMID"``, or ``"RSI_14"`` where one set alone has it), or any
            expression of Qlib's language (``"Mean($close, 5)/$close"``), which is computed with exactly the past that
            it needs, the same values as in a feature table, to the last bit

        Returns
        -------
        float32 columns in the order asked for, see :class:`Reading` for shapes, missing values, the other parameters
        and errors. A row that only one of several tables has is missing in the others.

        Raises
        ------
        ExpressionError
            Text that is no expression, or one that looks into the future; it shows the place.
        """
        from qdag.desk.rows import asked_columns

        return self._rows(
            universe, lambda at: asked_columns(at, names), start, end, instruments, pool, version, as_, layout
        )

    # -- labels and predictions ----------------------------------------------------------------------------------------

    @overload
    def labels(
        self,
        universe: str,
        horizons: int | Sequence[int] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        *,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: Literal["pandas"] = "pandas",
        layout: "Layout" = "datetime",
    ) -> "pd.DataFrame": ...
    @overload
    def labels(
        self,
        universe: str,
        horizons: int | Sequence[int] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        *,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: "As",
        layout: "Layout" = "datetime",
    ) -> Any: ...
    def labels(
        self,
        universe: str,
        horizons: int | Sequence[int] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        *,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: "As" = "pandas",
        layout: "Layout" = "datetime",
    ) -> Any:
        """Forward returns: close of session t + 1 + h over the close of t + 1, minus 1, on the row of session t.

        Parameters
        ----------
        horizons : h in sessions, one or several; by default all of the settings

        Returns
        -------
        float32 columns ``label_<h>``, missing while a return is not known yet; see :class:`Reading` for shapes, the
        other parameters and errors.
        """
        known = self.settings.horizons
        chosen = known if horizons is None else tuple(np.atleast_1d(horizons).tolist())
        for horizon in chosen:
            if horizon not in known:
                raise unknown("horizon", str(horizon), map(str, known))
        columns = [f"label_{horizon}" for horizon in chosen]
        asked = Asked(columns, stored={LABELS: {column: column for column in columns}})
        return self._rows(universe, lambda _: asked, start, end, instruments, pool, version, as_, layout)

    @overload
    def predictions(
        self,
        universe: str,
        start: Day | None = None,
        end: Day | None = None,
        *,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: Literal["pandas"] = "pandas",
        layout: "Layout" = "datetime",
    ) -> "pd.DataFrame": ...
    @overload
    def predictions(
        self,
        universe: str,
        start: Day | None = None,
        end: Day | None = None,
        *,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: "As",
        layout: "Layout" = "datetime",
    ) -> Any: ...
    def predictions(
        self,
        universe: str,
        start: Day | None = None,
        end: Day | None = None,
        *,
        instruments: Instruments | None = None,
        pool: str | None = None,
        version: Version | None = None,
        as_: "As" = "pandas",
        layout: "Layout" = "datetime",
    ) -> Any:
        """Scores of the newest model that was trained before each session.

        Returns
        -------
        score (float64, higher is better), model (name/version) and trained_on (its training date, before the session);
        a panel has the score alone. See :class:`Reading` for shapes, missing values, the parameters and errors.
        """
        columns = {column: column for column in PREDICTIONS.values}
        asked = Asked(list(columns), stored={PREDICTIONS.name: columns})
        return self._rows(universe, lambda _: asked, start, end, instruments, pool, version, as_, layout)

    # -- one mechanism -------------------------------------------------------------------------------------------------

    def _rows(
        self,
        universe: str,
        meant: "Callable[[Platform], Asked]",
        start: Day | None,
        end: Day | None,
        instruments: Instruments | None,
        pool: str | None,
        version: Version | None,
        as_: "As",
        layout: "Layout",
    ) -> Any:
        """Stored and computed columns; ``meant`` says which, on the tables of a platform."""
        from qdag.desk.rows import features, rows_asked
        from qdag.desk.shapes import check_shape, shaped

        check_shape(as_, layout)
        platform = self.platform
        rows = rows_asked(platform, universe, start, end, instruments, pool)
        asked = meant(platform)
        if version is not None:
            platform = self._at(version, [*asked.stored, *([RAW_OHLCV.name] if asked.expressions else [])])
            asked = meant(platform)
        return shaped(features(platform, rows, asked), as_, layout)

    def _at(self, version: Version, tables: Sequence[str]) -> "Platform":
        """The platform with tables as of versions; a number is of the one table that is read."""
        from qdag.store.versions import check_readable

        platform = self.platform
        if not isinstance(version, Mapping):
            if len(tables) != 1:
                raise QdagError(
                    f"version {version} is of one table, and {', '.join(tables)} are read; give versions by table, "
                    f"as version={{{tables[0]!r}: {version}}}"
                )
            version = {tables[0]: version}
        stored = platform.store.without({})
        for table, number in version.items():
            if not stored.exists(table):
                raise unknown("table", table, stored.names())
            check_readable(stored, table, number)
        numbers = {table: int(number) for table, number in version.items()}
        return replace(platform, store=platform.store.at(numbers))


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
