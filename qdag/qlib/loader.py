"""Stored tables as a loader of Qlib. Importing this module imports Qlib."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from qlib.data.data import Cal, D, DatasetD
from qlib.data.dataset.loader import DataLoader

from qdag.assets.labels import expressions as label_expressions
from qdag.errors import MissingDataError, SettingsError, unknown
from qdag.features.catalogue import feature_sets
from qdag.models.frames import feature_names
from qdag.qlib.grid import Grid, put_rows
from qdag.qlib.provider import DAY, EngineDatasetProvider, running_on, within
from qdag.schema import LABELS, ROW
from qdag.store.tables import TableStore

if TYPE_CHECKING:
    from qdag.features.feature import FeatureSet
    from qdag.settings import Settings

log = logging.getLogger("qdag.qlib")

Labels = tuple[Sequence[str], Sequence[str]]
"""Expressions and names, as Qlib's handlers take them."""


@dataclass(frozen=True)
class Columns:
    """Columns that come from one table, or from the engine.

    Attributes
    ----------
    table : where they are stored; "" for nowhere
    stored : stored name -> place among all columns
    computed : place -> expression, of those that the engine can compute
    """

    table: str
    stored: dict[str, int]
    computed: dict[int, str]

    @property
    def places(self) -> list[int]:
        return sorted({*self.stored.values(), *self.computed})


class StoredLoader(DataLoader):
    """Loads stored features and labels as ``QlibDataLoader`` would have computed them.

    Qlib must have been started on the universe's directory. What is not stored, columns as well as rows, is computed by
    the engine, which the log ``qdag.qlib`` says.

    Parameters
    ----------
    settings, universe : where the tables are
    features : feature tables, or columns of them as ``table.column``
    label : expressions and names of labels, or the name of a stored label
    versions : table versions to read instead of the newest. With any, nothing is computed: rows are those stored
    suspended : whether sessions without a bar between an instrument's first and last are rows, as they are in Qlib;
        tables do not hold them
    filter_pipe : Qlib's filters of instruments, for pools by name

    Raises
    ------
    UnknownNameError
        A table, a column or a label that is none.
    """

    def __init__(
        self,
        settings: "Settings",
        universe: str,
        features: Sequence[str],
        label: str | Labels,
        versions: Mapping[str, int] | None = None,
        suspended: bool = True,
        filter_pipe: Sequence[Any] | None = None,
    ):
        settings.universe(universe)
        self.settings = settings
        self.store = TableStore(settings.tables)
        self.universe = universe
        self.features = _chosen(settings, features)
        self.label_texts = _labels(settings, label)
        self.versions = dict(versions or {})
        self.suspended = suspended
        self.filter_pipe = filter_pipe
        if strange := sorted(self.versions.keys() - {*self.features, LABELS}):
            raise unknown("table to read", strange[0], [*self.features, LABELS])

    def load(self, instruments: Any = None, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        """Float32 frame indexed (datetime, instrument), sorted, columns ("feature", name) and ("label", name).

        Parameters
        ----------
        instruments : a pool's name, a list, or whatever else ``D.features`` takes; None is ``all``

        Raises
        ------
        SettingsError
            Qlib runs on another directory.
        MissingDataError
            Traded sessions of a table that is no set of expressions, and of versions that were asked for.
        """
        engine = self.engine()
        if instruments is None or isinstance(instruments, str):
            instruments = D.instruments(instruments or "all", filter_pipe=self.filter_pipe)
        spans = engine.spans(instruments)
        days = pd.DatetimeIndex(Cal.calendar(start_time, end_time, DAY))
        names = [*feature_names(self.features), *self.label_texts]
        grid = Grid(list(spans), days)
        wanted, traded = np.empty(0, np.int64), None
        if not len(days) or not spans:
            log.warning("no session of an instrument from %s to %s: the answer is empty", start_time, end_time)
        elif self.versions:
            wanted = np.unique(np.concatenate([self._rows(table, grid) for table in self.features]))
            member = within(spans, days, 0, len(days))
            kept = wanted >= 0 if member is None else (wanted >= 0) & member[grid.positions(wanted)]
            wanted = wanted[kept]
        else:
            close = engine.dataset(spans, ["$close"], days[0], days[-1])
            wanted, traded = grid.codes(close.index), ~np.isnan(close["$close"].to_numpy())
            order = np.argsort(wanted)
            wanted, traded = wanted[order], traded[order]
            if not self.suspended:
                wanted, traded = wanted[traded], traded[traded]
        block = np.full((len(names), len(wanted)), np.nan, np.float32)
        lacking: dict[bytes, tuple[np.ndarray, dict[int, str]]] = {}
        for columns in self._columns() if len(wanted) else ():
            for rows, texts in self._fill(columns, grid, wanted, traded, block):
                lacking.setdefault(rows.tobytes(), (rows, {}))[1].update(texts)
        for rows, texts in lacking.values():
            _compute(texts, grid, wanted, rows, block, engine)
        groups = ["feature"] * (len(names) - len(self.label_texts)) + ["label"] * len(self.label_texts)
        return pd.DataFrame(block.T, grid.index(wanted), pd.MultiIndex.from_arrays([groups, names]), copy=False)

    def engine(self) -> EngineDatasetProvider:
        """The engine on the directory that Qlib runs on: the running one where Qlib has it.

        Raises
        ------
        SettingsError
            It is not the universe's directory.
        """
        here, wanted = running_on(), self.settings.provider(self.universe)
        if here.resolve() != wanted.resolve():
            raise SettingsError(
                f"Qlib was started on {str(here)!r}, and the tables of {self.universe!r} belong to {str(wanted)!r}; "
                f"call qdag.qlib.init(universe={self.universe!r})"
            )
        running = DatasetD._provider
        return running if isinstance(running, EngineDatasetProvider) else EngineDatasetProvider()

    def _columns(self) -> list[Columns]:
        """Where each column comes from."""
        found, at, sets = [], 0, _sets(self.settings)
        for table, columns in self.features.items():
            texts, held = sets[table].expressions, self._held(table)
            places = {column: at + i for i, column in enumerate(columns)}
            if lost := sorted(places.keys() - held - texts.keys()):
                raise MissingDataError(f"{table}.{lost[0]} is not stored and is no expression; materialize {table}")
            if held.isdisjoint(places):
                log.warning("%s is not stored: the engine computes it", table)
            found.append(
                Columns(
                    table if places.keys() & held else "",
                    {column: place for column, place in places.items() if column in held},
                    {place: texts[column] for column, place in places.items() if column in texts},
                )
            )
            at += len(columns)
        held = self._held(LABELS)
        asked = list(enumerate(self.label_texts.values(), at))
        stored = {column: place for place, (column, _) in asked if column in held}
        found.append(Columns(LABELS if stored else "", stored, {place: text for place, (_, text) in asked}))
        return found

    def _held(self, table: str) -> set[str]:
        """Columns that are stored of a table; none of a table that is not there."""
        if not (self.store.exists(table) or table in self.versions):
            return set()
        return set(self.store.columns(table, self.versions.get(table)))

    def _rows(self, table: str, grid: Grid) -> np.ndarray:
        """Codes of a table's rows."""
        version = self.versions.get(table)
        found = self.store.each(table, self.universe, grid.row_codes, *grid.ends, ROW, version)
        return np.concatenate(list(found))

    def _read(
        self, table: str, places: Mapping[str, int], grid: Grid, wanted: np.ndarray, block: np.ndarray
    ) -> np.ndarray:
        """Put a table's columns into their places; which of the rows wanted it has."""
        has, version = np.zeros(len(wanted), bool), self.versions.get(table)

        def put(rows: pa.Table) -> None:
            columns = [rows[column] for column in places]
            put_rows(block, list(places.values()), wanted, grid.row_codes(rows), columns, has)

        for _ in self.store.each(table, self.universe, put, *grid.ends, [*ROW, *places], version):
            pass
        return has

    def _fill(
        self, columns: Columns, grid: Grid, wanted: np.ndarray, traded: np.ndarray | None, block: np.ndarray
    ) -> Iterator[tuple[np.ndarray, dict[int, str]]]:
        """Put a table's columns into the block (columns, rows); which rows lack which expressions."""
        has = np.zeros(len(wanted), bool)
        if columns.table:
            has = self._read(columns.table, columns.stored, grid, wanted, block)
        never = {place: text for place, text in columns.computed.items() if place not in columns.stored.values()}
        if traded is None:
            if never:
                what = ", ".join(sorted(never.values())[:3])
                raise MissingDataError(f"{what} is not stored, and nothing is computed where versions are given")
            return
        again = {place: text for place, text in columns.computed.items() if place not in never}
        absent = ~has & traded
        if columns.table and absent.any():
            days = grid.days[np.unique(grid.positions(wanted[absent])[1])]
            said = f"{absent.sum()} rows of {columns.table} from {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}"
            if len(again) < len(columns.stored):
                raise MissingDataError(
                    f"{said} are not stored, and not all of its columns are expressions; materialize {columns.table}"
                )
            log.warning("%s are not stored: the engine computes them", said)
        if never:
            yield np.ones(len(wanted), bool), never
        if again and not has.all():
            yield ~has, again


def _compute(
    texts: Mapping[int, str],
    grid: Grid,
    wanted: np.ndarray,
    which: np.ndarray,
    block: np.ndarray,
    engine: EngineDatasetProvider,
) -> None:
    """Values of expressions, by place in the block, for some of the rows, a year at a time where they are few."""
    names, days = grid.positions(wanted[which])
    years = np.asarray(grid.days.year)[days] if which.mean() < 0.5 else np.zeros(len(days), int)
    for year in np.unique(years):
        inside = years == year
        some = [grid.names[i] for i in np.unique(names[inside])]
        first, last = grid.days[days[inside].min()], grid.days[days[inside].max()]
        frame = engine.dataset(some, list(texts.values()), first, last)
        codes = grid.codes(frame.index)
        kept = np.isin(codes, wanted[which][inside], assume_unique=True)
        put_rows(block, list(texts), wanted, codes[kept], list(frame.to_numpy().T[:, kept]))


def _chosen(settings: "Settings", names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Columns by table, of sets and ``table.column``."""
    if isinstance(names, str):
        names = [names]
    known = _sets(settings)
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        table, _, column = name.partition(".")
        if table not in known:
            raise unknown("feature set", table, known)
        columns = known[table].columns
        if column and column not in columns:
            raise unknown(f"column of {table}", column, columns)
        found[table] = (*found.get(table, ()), *([column] if column else columns))
    for table, columns in found.items():
        if len(set(columns)) < len(columns):
            raise SettingsError(f"features={list(names)!r} has columns of {table} twice; name each once")
    if not found:
        raise SettingsError("features is empty; name a set, such as those of `qdag features`")
    return found


def _sets(settings: "Settings") -> "dict[str, FeatureSet]":
    """Every set by name, computed by default or not, and the custom factors."""
    return {**feature_sets(), **{one.name: one for one in settings.feature_sets()}}


def _labels(settings: "Settings", label: str | Labels) -> dict[str, tuple[str, str]]:
    """(stored column, expression) of each label by its name in the frame; "" for a column where none is stored."""
    stored = label_expressions(settings)
    if isinstance(label, str):
        if label not in stored:
            raise unknown("label", label, stored)
        return {label: (label, stored[label])}
    fields, names = label
    by_text = {"".join(text.split()): column for column, text in stored.items()}
    return {
        name: (by_text.get("".join(str(text).split()), ""), str(text)) for text, name in zip(fields, names, strict=True)
    }
