"""The desk: one data home from Python."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from qdag.core.windows import within
from qdag.desk.days import Day, span
from qdag.desk.reading import Reading
from qdag.errors import MissingDataError, QdagError, unknown
from qdag.schema import FACTOR_METRICS, RAW_OHLCV

if TYPE_CHECKING:
    import pandas as pd

    from qdag.core.pools import Pool
    from qdag.defs.launch import Launched
    from qdag.desk.factor import Factor
    from qdag.desk.scoring import StoredModel
    from qdag.desk.shapes import As
    from qdag.settings import Settings


class Desk(Reading):
    """What is stored of a data home, what the engine computes from it, and runs that bring it up to date.

    Parameters
    ----------
    settings : as ``qdag.settings.load_settings`` gives them; ``qdag.open()`` finds them as the command does

    Notes
    -----
    Nothing is read before it is asked for, and nothing is written but by :meth:`materialize` and :meth:`refresh`. What
    bars, features, labels and predictions have in common is told in :class:`qdag.desk.reading.Reading`.
    """

    def __init__(self, settings: "Settings"):
        self.settings = settings
        self._moment = ""

    def __repr__(self) -> str:
        when = f" as of {self._moment}" if self._moment else ""
        return f"Desk({str(self.settings.home)!r}, universes: {', '.join(self.settings.universes)}){when}"

    def _repr_html_(self) -> str:
        from qdag.desk.notebook import desk_html

        return desk_html(repr(self), self.universes(), self.versions())

    # -- what there is -------------------------------------------------------------------------------------------------

    def universes(self) -> "pd.DataFrame":
        """Universes by name: calendar, region, source, first and last day (NaT: open), pools, and of the published
        bars the number of instruments, and of the stored ones that of sessions, the first and the last (NaT: none)."""
        import pandas as pd

        from qdag.store.qlib.reader import read_instruments

        rows = {}
        for name, spec in self.settings.universes.items():
            sessions = self.platform.stored(RAW_OHLCV.name, name)
            rows[name] = {
                "calendar": spec.calendar,
                "region": spec.region,
                "source": spec.source.kind,
                "start": pd.Timestamp(spec.start),
                "end": pd.Timestamp(spec.end) if spec.end else pd.NaT,
                "pools": ", ".join(["all", *spec.pools]),
                "instruments": len(read_instruments(self.settings.provider(name))),
                "sessions": len(sessions),
                "first": pd.Timestamp(sessions[0]) if len(sessions) else pd.NaT,
                "last": pd.Timestamp(sessions[-1]) if len(sessions) else pd.NaT,
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("universe")

    def sessions(self, universe: str, start: Day | None = None, end: Day | None = None) -> "pd.DatetimeIndex":
        """Sessions of a universe that have closed, stored or not, between two days; empty where there are none.

        Raises
        ------
        UnknownNameError
            No such universe.
        SessionError
            What is no day, or a reversed range.
        """
        import pandas as pd

        self.settings.universe(universe)
        first, last = span(start, end)
        return pd.DatetimeIndex(within(self.platform.sessions(universe), first, last).astype("M8[us]"), name="datetime")

    def instruments(self, universe: str, pool: str | None = None, day: Day | None = None) -> list[str]:
        """Instruments of a universe's published bars, or of a pool, sorted; with a ``day`` the members on it.

        Raises
        ------
        UnknownNameError
            No such universe or pool.
        SessionError
            The day is no session that is stored.
        MissingDataError
            Nothing is stored.
        """
        from qdag.core.pools import all_pool
        from qdag.desk.days import session
        from qdag.desk.rows import rows_asked
        from qdag.store.qlib.reader import published_days, read_calendar

        rows = rows_asked(self.platform, universe, pool=pool)
        provider = self.settings.provider(universe)
        calendar = read_calendar(provider)
        members: Pool = rows.pool or all_pool(*_first_and_last(published_days(provider)))
        if day is not None:
            return list(members.members(session(day, calendar, f"universe {universe!r}")))
        return sorted({one.instrument for one in members.spans})

    # -- results -------------------------------------------------------------------------------------------------------

    def metrics(
        self,
        universe: str,
        factors: str | Sequence[str] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        *,
        horizon: int | None = None,
        pool: str | None = None,
        as_: "As" = "pandas",
    ) -> Any:
        """Cross-sectional quality of factors, tidy: a row for every date, pool, horizon and factor.

        Parameters
        ----------
        factors : ``"alpha158.KMID"``, or ``"KMID"`` where one set alone has it; one or several, by default all
        start, end : of the dates on which a metric became known, both inclusive, as in :class:`Reading`
        horizon : sessions of forward return; by default all
        pool : whose members were judged; by default all pools
        as_ : ``"pandas"``, ``"polars"`` or ``"arrow"``

        Returns
        -------
        date, pool, horizon, factor, signal_date (whose values were judged), ic, rank_ic, coverage, n, icir, rank_icir,
        icir_n and long_short, as ``docs/assets.md`` tells them, sorted by date, pool, horizon and factor. Missing where
        it is not defined.

        Raises
        ------
        UnknownNameError
            No such universe, factor, horizon or pool among the stored metrics.
        SessionError
            What is no day, or a reversed range.
        MissingDataError
            No metric is stored on these days.
        """
        from qdag.desk.results import metrics
        from qdag.desk.shapes import check_shape, plain_rows

        check_shape(as_)
        first, last = span(start, end)
        chosen = [factors] if isinstance(factors, str) else factors
        return plain_rows(metrics(self.platform, universe, chosen, first, last, horizon, pool), as_)

    def leaderboard(
        self,
        universe: str,
        n: int = 10,
        start: Day | None = None,
        end: Day | None = None,
        *,
        horizon: int | None = None,
        pool: str = "all",
        table: str | None = None,
    ) -> "pd.DataFrame":
        """The best factors by the absolute mean RankIC over the dates, best first.

        Parameters
        ----------
        n : how many
        horizon : sessions of forward return; by default that of training
        table : only factors of this feature table

        Returns
        -------
        DataFrame of factor, mean_ic, mean_rank_ic, icir, rank_icir (NaN where not defined), t (the mean RankIC in its
        standard errors; the best of many factors has a large one by chance), long_short, coverage and dates.

        Raises
        ------
        UnknownNameError
            No such universe, horizon, pool or table.
        MissingDataError
            No metric is stored on these days.
        """
        from qdag.desk.rows import readable
        from qdag.views import leaderboard

        first, last = span(start, end)
        self.settings.universe(universe)
        readable(self.platform, [FACTOR_METRICS.name])
        return leaderboard(self.platform, universe, horizon, pool, first, last, n, table)

    def factor(self, universe: str, name: str) -> "Factor":
        """A factor with what it means and how it did: shows itself in a notebook, and ``plot()`` draws its RankIC.

        UnknownNameError, MissingDataError: as of :meth:`metrics`.
        """
        from qdag.desk.factor import factor

        return factor(self.platform, universe, name)

    def models(self, universe: str) -> "pd.DataFrame":
        """Registered models, the newest first: version, trained_on, whether it serves, trees, IC and RankIC on the
        validation and test sessions (NaN where MLflow has lost the run), and the run. Those of now, also as of earlier.

        MissingDataError: none is registered.
        """
        from qdag.views import models

        self.settings.universe(universe)
        return models(self.platform, universe)

    def load_model(self, universe: str, version: int | None = None) -> "StoredModel":
        """A registered model, by default the one that serves: its scores, its importance, a plot of it.

        Raises
        ------
        UnknownNameError
            No such universe or version.
        MissingDataError
            None is registered.
        StoreError
            Its file is lost, or is not the one that was trained.
        """
        from qdag.desk.scoring import load_model

        self.settings.universe(universe)
        return load_model(self.settings, universe, version)

    # -- versions ------------------------------------------------------------------------------------------------------

    def versions(self, table: str | None = None, limit: int | None = 20) -> "pd.DataFrame":
        """Versions of a table, the newest first; without a table the newest version of each.

        Columns: table, version, time (UTC), operation, universe, start and end of what was replaced, match, rows, run
        (of Dagster), definition, inputs (versions that were read), note.

        UnknownNameError: no such table is stored.
        """
        from qdag.views.versions import newest_versions, table_versions

        return newest_versions(self.platform) if table is None else table_versions(self.platform, table, limit)

    def as_of(self, moment: "str | date | datetime") -> "Desk":
        """The same desk on what was stored at a moment, or when a run had ended; it is for reading.

        Parameters
        ----------
        moment : a day (its end, UTC), a datetime (UTC unless it says otherwise), either as text, or the id of a Dagster
            run, of which a few characters are enough

        Notes
        -----
        Of a run the tables that it wrote are as it left them and those that it read as it read them; all others are as
        of its last commit. Bars, and expressions, come from raw_ohlcv as it was. The settings, the pools and the
        registered models are those of now.

        Raises
        ------
        UnknownNameError
            What is neither a moment nor a run; the newest runs are named.
        MissingDataError
            Nothing was stored at that moment.
        """
        from qdag.desk.moments import moment_of
        from qdag.store.versions import versions_at, versions_of_run

        store = self.platform.store.without({})
        when = moment_of(moment)
        if when is None:
            versions, told = versions_of_run(store, str(moment)), f"run {moment}"
        else:
            versions, told = versions_at(store, when), f"{when:%Y-%m-%d %H:%M:%S} UTC"
        if all(version is None for version in versions.values()):
            raise MissingDataError(f"nothing was stored at {told}; desk.versions() tells when tables were written")
        desk = Desk(self.settings)
        desk._moment = told
        desk.__dict__["platform"] = replace(self.platform, store=store.at(versions))
        return desk

    # -- runs ----------------------------------------------------------------------------------------------------------

    def stale(self, universe: str) -> "pd.DataFrame":
        """What would be computed differently now, by asset: the number of sessions, the first and the last (NaT where
        there is none) and why. Files that changed since they were read are looked at.

        UnknownNameError: no such universe. SourceError: its files cannot be looked at.
        """
        from qdag.desk.runs import stale

        self._newest("stale")
        self.settings.universe(universe)
        return stale(self.platform, universe)

    def materialize(
        self,
        universe: str,
        assets: str | Sequence[str] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        *,
        months: int = 3,
    ) -> "Launched":
        """Compute and store assets over a range of sessions, as one run that Dagster records, with its checks.

        Parameters
        ----------
        assets : one name or several; by default the whole chain
        start, end : by default the universe's own range
        months : train at the ends of the last so many whole months of the range

        Returns
        -------
        What each asset wrote, how the checks came out, and the run ids.

        Raises
        ------
        UnknownNameError
            No such universe or asset.
        SessionError
            The range is reversed or has no session.
        QdagError
            A run failed, with its errors; or the desk is as of earlier.
        """
        from qdag.desk.runs import run

        self._newest("materialize")
        first, last = span(start, end)
        return run(self.settings, universe, [assets] if isinstance(assets, str) else assets, first, last, months)

    def refresh(self, universe: str, assets: str | Sequence[str] | None = None) -> "list[Launched]":
        """Read files that changed and compute exactly what is stale, in the order of the chain; no model is trained.

        Returns the runs, none where all was up to date. Errors are those of :meth:`materialize`, and QdagError where
        something waits for a failed check.
        """
        from qdag.desk.runs import refresh

        self._newest("refresh")
        self.settings.universe(universe)
        return refresh(self.platform, universe, [assets] if isinstance(assets, str) else assets)

    def _newest(self, what: str) -> None:
        if self._moment:
            raise QdagError(f"a desk as of {self._moment} is for reading; {what} on the desk of qdag.open()")


def open_desk(path: Any = None) -> Desk:
    """See ``qdag.open``."""
    from pathlib import Path

    from qdag.settings import load_settings

    if path is None:
        return Desk(load_settings())
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "qdag.toml"
    if not file.exists():
        folder = file.parent
        known = [str(one) for one in folder.glob("*.toml")] if folder.is_dir() else []
        raise unknown("settings file", str(file), known)
    return Desk(load_settings(file))


def _first_and_last(days: Mapping[str, tuple[date, date]]) -> tuple[dict[str, date], dict[str, date]]:
    return {name: first for name, (first, _) in days.items()}, {name: last for name, (_, last) in days.items()}
