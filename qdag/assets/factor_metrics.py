"""Factor metrics: IC, RankIC, coverage, ICIR and quintile spread of every stored factor, when they became known."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.assets.asset import Asset, Estimate
from qdag.assets.chain import chain
from qdag.assets.feature_table import columns_read
from qdag.assets.inputs import pool_definitions, read_panel, written_pools
from qdag.assets.labels import ASSET as LABELS
from qdag.assets.labels import reach
from qdag.assets.platform import Platform
from qdag.assets.records import lineage_of, reusable_columns
from qdag.assets.result import Result
from qdag.assets.write import BATCH_ROWS, write_sessions
from qdag.core.pools import ALL
from qdag.core.windows import ends, looks_back_on, parts
from qdag.engine import Panel
from qdag.lineage import Definition, Reads
from qdag.quality import metrics
from qdag.quality.checks import Frames, Scope
from qdag.quality.rule import Rule
from qdag.schema import FACTOR_METRICS, QLIB_BIN, RAW_OHLCV, TableSpec
from qdag.settings import QualitySettings, Settings, TopPool
from qdag.store.matrices import table_matrix
from qdag.text import markdown_frame

FACTOR_BLOCK = 32
"""Columns that are read at a time."""
MONTH_SESSIONS = 23
"""Most sessions of a month."""
LEADING = "leading_rank_ic"
METRIC_BYTES = 40


class FactorMetrics(Asset):
    """Metrics of every factor, horizon and pool. Members of a pool are those of the signal session."""

    name = FACTOR_METRICS.name
    group = "factors"
    kinds = frozenset({"numba", "deltalake"})
    unit = "factors"
    seconds_per_million = 12.0

    def table(self, settings: Settings) -> TableSpec:
        return FACTOR_METRICS

    def upstream(self, settings: Settings, universe: str | None = None) -> tuple[str, ...]:
        return (*(features.name for features in settings.feature_sets()), LABELS.name)

    def reads(self, settings: Settings, universe: str, defined: Definition | None = None) -> tuple[Reads, ...]:
        """Labels are read too, but only what had become known by the session, which is told by the directory, and the
        metrics of the sessions before; see :meth:`unsound`."""
        from qdag.factors.dates import ICIR_WINDOW

        columns = (defined or self.definition(settings, universe)).columns
        tables = dict.fromkeys(name.split(".", 1)[0] for name in columns)
        past = reach(settings) + ICIR_WINDOW
        windows = [p.window for p in settings.universe(universe).pools.values() if isinstance(p, TopPool)]
        # members are chosen at the beginning of a month from the traded value of the sessions before
        chosen = (Reads(RAW_OHLCV.name, past=past + MONTH_SESSIONS + max(windows)),) if windows else ()
        features = (Reads(table, past=past, columns=True) for table in tables)
        return (Reads(QLIB_BIN, past=past, columns=True), *features, *chosen)

    def definition(self, settings: Settings, universe: str) -> Definition:
        from qdag.factors import metrics as computed

        names = ("ICIR_WINDOW", "ICIR_MINIMUM", "MINIMUM_PAIRS", "MINIMUM_QUINTILE_PAIRS", "EQUAL_DEVIATION")
        shared = {"version": str(self.version)}
        shared |= {name.lower(): str(getattr(computed, name)) for name in names}
        shared |= {"labels": LABELS.definition(settings, universe).version}
        shared |= {f"pool {name}": text for name, text in pool_definitions(settings, universe).items()}
        sets = {features.name: features for features in settings.feature_sets()}
        evaluated = {f"{name}.{factor}" for name, features in sets.items() for factor in features.factors}
        columns = columns_read(settings, universe, sets)
        return Definition(shared, {name: text for name, text in columns.items() if name in evaluated})

    def unsound(self, platform: Platform, universe: str, sessions: np.ndarray) -> np.ndarray:
        """Sessions that read stale labels, or metrics before them that are stale, or whose pools may have been chosen
        from what the Qlib directory does not hold yet.

        What later sessions add to labels is not known by these: they may have been computed without them, or with all
        of them.
        """
        settings, calendar = platform.settings, platform.calendar(universe).all
        at = np.searchsorted(calendar, sessions)
        whole, lineage = chain(settings), lineage_of(platform, universe, 0, len(calendar))
        versions = whole.versions(universe)
        names = (QLIB_BIN, *self.upstream(settings), self.name)
        read_by = {name: whole[name].reads(settings, universe) for name in names}
        found = lineage.stale(read_by, versions, stop=int(at[-1]) + 1)
        labels, own = found[LABELS.name].sessions, found[self.name].sessions
        if len(labels):
            labels = np.intersect1d(labels, lineage.stale(read_by, versions)[LABELS.name].sessions)
        bad = np.searchsorted(calendar, np.union1d(labels, own[own < sessions[0]]))
        past = {read.asset: read.past for read in self.reads(settings, universe)}
        unsound = looks_back_on(bad, at, past[QLIB_BIN])
        if RAW_OHLCV.name in past:
            behind = np.searchsorted(calendar, found[QLIB_BIN].sessions)
            unsound |= looks_back_on(behind, at, past[RAW_OHLCV.name])
        return unsound

    def rules(self, settings: Settings, limits: QualitySettings) -> tuple[Rule, ...]:
        return metrics.rules(limits)

    def frames(self, scope: Scope) -> Frames:
        return metrics.frames(scope)

    def compute(self, platform: Platform, universe: str, start: date, end: date) -> Result:
        """IC, RankIC, coverage, ICIR and quintile spread of every stored feature, on the dates they became known.

        Once for all instruments and once for each configured pool, whose members are those of the signal session.
        """
        from qdag.factors.dates import history_sessions, signal_sessions
        from qdag.factors.metrics import iter_factor_metrics
        from qdag.factors.report import leading_rank_ic, top_factors

        settings, spec = platform.settings, FACTOR_METRICS
        read = self.upstream(settings)
        factors = tuple(self.definition(settings, universe).columns)
        sessions = platform.window(universe, start, end)
        if not len(sessions):
            return write_sessions(platform, self, universe, sessions, lambda: iter(()))
        dates = ends(sessions)
        # the universe's own history begins with its first stored session: nothing could be known before
        stored = platform.store.sessions(RAW_OHLCV.name, universe)
        calendar = platform.calendar(universe).between(stored[0].item() if len(stored) else dates[0], dates[1])
        signals = signal_sessions(calendar, settings.horizons, dates)
        if not len(signals):
            return write_sessions(platform, self, universe, sessions, lambda: iter(()), inputs=read)
        pools = written_pools(platform, universe)
        # of factors whose columns are what they were the stored metrics stay
        reused = reusable_columns(platform, universe, self, sessions)
        computed = [name for name in factors if name not in reused]

        def batches() -> Iterator[pa.RecordBatch]:
            for chunk in parts(sessions) if reused else ():
                stored = platform.store.read(spec.name, universe, *ends(chunk), columns=spec.arrow().names)
                kept = pc.is_in(stored["factor"], value_set=pa.array(reused, pa.string()))
                yield from stored.filter(kept).to_batches(BATCH_ROWS)
            if not computed:
                return
            panel, _ = read_panel(platform, universe, signals, fields=("close",))
            names = [f"label_{h}" for h in settings.horizons]
            stored_labels = platform.store.read(
                LABELS.name, universe, *ends(signals), columns=["date", "instrument", *names]
            )
            known = table_matrix(stored_labels, names, panel.instruments, panel.sessions)
            before = history_sessions(calendar, dates[0])
            history = None
            if len(before) and platform.store.exists(spec.name):
                history = platform.store.read(spec.name, universe, *ends(before))
            features = _StoredMatrices(platform, universe, computed, panel)
            traded = panel.traded()
            done = 0
            platform.tell(spec.name, 0, len(features))
            for batch in iter_factor_metrics(
                features,
                {h: known[f"label_{h}"] for h in settings.horizons},
                panel.sessions,
                traded,
                pool_name=ALL,
                universe=universe,
                dates=dates,
                calendar=calendar,
                history=history,
                threads=settings.engine.threads,
                others={pool.name: pool.mask(panel.instruments, panel.sessions) & traded for pool in pools},
            ):
                yield batch
                if batch["pool"][0].as_py() == ALL:
                    done = min(len(features), done + len(pc.unique(batch["factor"])))
                    platform.tell(spec.name, done, len(features))
            platform.tell(spec.name, len(features), len(features))

        result = write_sessions(platform, self, universe, sessions, batches, inputs=read)
        horizon = settings.training_for(universe).horizon
        stored_metrics = platform.store.read(spec.name, universe, *dates)
        best = top_factors(stored_metrics, horizon, pool=ALL)
        extra = {**result.extra, f"top_factors_horizon_{horizon}": markdown_frame(best)}
        if reused:
            extra["factors_computed"] = ", ".join(computed) or "none"
        leading = {day: {LEADING: value} for day, value in leading_rank_ic(stored_metrics, horizon, ALL).items()}
        by_session = {day: {**numbers, **leading.get(day, {})} for day, numbers in result.by_session.items()}
        return replace(result, extra=extra, by_session=by_session)

    def estimate(self, settings: Settings, universe: str, days: np.ndarray, per_session: float) -> Estimate:
        factors = sum(len(features.factors) for features in settings.feature_sets())
        rows = len(days) * factors * len(settings.horizons) * (1 + len(settings.universe(universe).pools))
        return Estimate(rows, rows / 1e6 * self.seconds_per_million, rows * METRIC_BYTES)


class _StoredMatrices(Mapping[str, np.ndarray]):
    """Feature columns of stored tables, named ``table.column``, as instruments x sessions, one block of columns loaded
    at a time."""

    def __init__(self, platform: Platform, universe: str, names: Iterable[str], panel: Panel):
        self._platform, self._universe, self._panel = platform, universe, panel
        self._names = list(names)
        self._loaded: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._loaded:
            table = name.split(".", 1)[0]
            at = self._names.index(name)
            block = [n for n in self._names[at : at + FACTOR_BLOCK] if n.startswith(f"{table}.")]
            self._loaded = self._load(table, [n.split(".", 1)[1] for n in block])
        return self._loaded[name]

    def _load(self, table: str, columns: list[str]) -> dict[str, np.ndarray]:
        sessions = self._panel.sessions
        stored = self._platform.store.read(
            table, self._universe, *ends(sessions), columns=["date", "instrument", *columns]
        )
        matrices = table_matrix(stored, columns, self._panel.instruments, sessions)
        return {f"{table}.{column}": matrix for column, matrix in matrices.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


ASSET = FactorMetrics()
