"""One function per table: read what it needs, compute, replace the asked sessions. Dagster, the command and plain
Python all call these; nothing here knows an orchestrator.

Every stage takes a :class:`Platform`, a universe and the first and last calendar day, inclusive, and returns a
:class:`StageResult`. Days outside the universe's own range, and days that are no session of its exchange, are empty.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag import __version__, schema
from qdag.engine import Panel, compute_blocks, plan
from qdag.errors import MissingDataError, SessionError, unknown
from qdag.features.catalogue import Feature, feature_set
from qdag.sessions import SessionCalendar, calendar_for
from qdag.settings import Settings
from qdag.store.panels import ENGINE_FIELDS, panel_batches, read_panel, table_matrix
from qdag.store.tables import TableStore

if TYPE_CHECKING:
    import pandas as pd

Report = Callable[[str, int, int], None]
PREVIEW_ROWS = 5
CHUNK_SESSIONS = 250
FUTURE_SESSIONS = 250
FACTOR_BLOCK = 32
AHEAD_BATCHES = 4
POOL = "all"


def _silent(stage: str, done: int, total: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Platform:
    """What every stage works with: settings, the table store, and whom to tell about progress."""

    settings: Settings
    store: TableStore
    report: Report = _silent
    provenance: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, settings: Settings, report: Report = _silent) -> "Platform":
        """Open the data home of the settings; nothing is created until something is written."""
        return cls(settings, TableStore(settings.tables), report)

    def for_run(self, run_id: str) -> "Platform":
        """The same platform, whose commits name a Dagster run."""
        return replace(self, provenance={**self.provenance, "dagster_run_id": run_id})

    def last_session(self, universe: str) -> date:
        """The last session of the universe that has closed."""
        return self.calendar(universe).closed_before(datetime.now(UTC))

    def calendar(self, universe: str) -> SessionCalendar:
        return calendar_for(self.settings.universe(universe))


@dataclass(frozen=True)
class StageResult:
    """What a stage did, for people: counts, share of missing values, seconds, and a few rows."""

    table: str
    universe: str
    version: int | None
    rows: int
    instruments: int
    sessions: int
    nan_share: float
    seconds: float
    peak_mib: float
    preview: pa.Table | None = field(default=None, repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)


class _Meter:
    """Seconds and peak memory of a ``with`` block (the peak is the process's where the system cannot reset it)."""

    def __enter__(self) -> "_Meter":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.began
        import resource

        self.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        with suppress(OSError, IndexError):
            status = Path("/proc/self/status").read_text()
            self.peak_mib = int(status.split("VmHWM:")[1].split()[0]) / 1024


@dataclass
class _Counter:
    """Counts of what streams to the store, with the first rows kept for the preview."""

    values: tuple[str, ...]
    rows: int = 0
    missing: int = 0
    instruments: set[str] = field(default_factory=set)
    dates: set[date] = field(default_factory=set)
    preview: pa.Table | None = None

    def watch(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self.rows += batch.num_rows
            for name in self.values:
                column = batch[name]
                self.missing += column.null_count
                if pa.types.is_floating(column.type):
                    self.missing += pc.sum(pc.is_nan(column)).as_py() or 0
            if "instrument" in batch.schema.names:
                self.instruments.update(pc.unique(batch["instrument"]).to_pylist())
            self.dates.update(pc.unique(batch["date"]).to_pylist())
            if batch.num_rows:
                self.preview = pa.Table.from_batches([batch.slice(max(0, batch.num_rows - PREVIEW_ROWS))])
            yield batch

    @property
    def nan_share(self) -> float:
        cells = self.rows * len(self.values)
        return self.missing / cells if cells else 0.0


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Make batches in a thread, a few ahead of the writer.

    The writer pulls from inside its own runtime, where the store cannot be read; and computing goes on while it writes.
    """
    waiting: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(AHEAD_BATCHES)
    stopped = threading.Event()

    def put(item: pa.RecordBatch | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                return waiting.put(item, timeout=0.1)

    def make() -> None:
        try:
            for batch in batches:
                put(batch)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name="qdag-batches", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def window_sessions(platform: Platform, universe: str, start: date, end: date) -> np.ndarray:
    """Sessions of the universe in the asked days, clipped to the universe's own range."""
    if end < start:
        raise SessionError(f"start {start} is after end {end}; give the earlier day first")
    spec = platform.settings.universe(universe)
    start, end = max(start, spec.start), min(end, platform.last_session(universe))
    return platform.calendar(universe).between(start, end) if start <= end else np.array([], "M8[D]")


def _write(
    platform: Platform,
    spec: schema.TableSpec,
    universe: str,
    sessions: np.ndarray,
    batches: Callable[[], Iterator[pa.RecordBatch]],
    inputs: tuple[str, ...] = (),
) -> StageResult:
    """Replace ``sessions`` of a table by the streamed rows, and account for them."""
    counter = _Counter(spec.values)
    version = platform.store.version(spec.name)
    with _Meter() as meter:
        if len(sessions):
            provenance = {
                **platform.provenance,
                "qdag_version": __version__,
                **{f"input.{name}": str(platform.store.version(name)) for name in inputs},
            }
            reader = counter.watch(_ahead(batches()))
            start, end = sessions[0].item(), sessions[-1].item()
            version = platform.store.replace(spec, universe, start, end, reader, provenance)
    return StageResult(
        table=spec.name,
        universe=universe,
        version=version,
        rows=counter.rows,
        instruments=len(counter.instruments),
        sessions=len(counter.dates),
        nan_share=counter.nan_share,
        seconds=meter.seconds,
        peak_mib=meter.peak_mib,
        preview=counter.preview,
    )


# -- declarations -----------------------------------------------------------------------------------------------------


def feature_tables(settings: Settings) -> tuple[str, ...]:
    """Feature tables of the settings, in order; ``custom_factors`` only when some are set."""
    return tuple(t for t in schema.FEATURE_TABLES if t != "custom_factors" or settings.custom_factors)


def asset_names(settings: Settings) -> tuple[str, ...]:
    """Everything that is materialized, in the order of the chain."""
    return (
        "raw_ohlcv",
        "qlib_bin",
        *feature_tables(settings),
        "labels",
        "factor_metrics",
        "trained_model",
        "predictions",
    )


def training_tables(settings: Settings) -> tuple[str, ...]:
    """Feature tables that some universe trains on."""
    used = {table for universe in settings.universes for table in settings.training_for(universe).features}
    return tuple(table for table in feature_tables(settings) if table in used)


def features_of(settings: Settings, table: str) -> tuple[Feature, ...]:
    """Features that a table stores; custom factors come from the settings."""
    if table == "custom_factors":
        return tuple(
            Feature(name, "custom", expression, f"custom factor {expression}", "unknown")
            for name, expression in settings.custom_factors.items()
        )
    return feature_set(table)


def table_spec(settings: Settings, table: str) -> schema.TableSpec | None:
    """Columns of a table; None for what is no Delta table (the Qlib directory, models)."""
    if table in ("qlib_bin", "trained_model"):
        return None
    if table == "labels":
        return schema.labels_table(settings.horizons)
    if table in schema.FEATURE_TABLES:
        columns = [
            (f.name, f"{f.group}: {f.meaning}; {f.direction}" + (f". {f.expression}" if f.expression else ""))
            for f in features_of(settings, table)
        ]
        return schema.feature_table(table, columns, DESCRIPTIONS[table])
    return schema.table(table)


DESCRIPTIONS = {
    "qlib_bin": "Qlib provider directory per universe: calendar, instruments and adjusted float32 series, readable by "
    "`qlib.init(provider_uri=...)`. Derived from raw_ohlcv, published data first and calendar last.",
    "alpha158": "Qlib's 158 Alpha158 expressions, with Qlib's own values.",
    "basic_statistics": "Rolling mean, deviation, extremes, quantiles, correlation and returns as Qlib expressions.",
    "technical_indicators": "Moving averages to KDJ; TA-Lib where TA-Lib has it.",
    "price_features": "Price changes, positions, ratios, volatilities and momentum.",
    "custom_factors": "Expressions of the settings.",
    "trained_model": "LightGBM per universe and month end, trained on stored features and tracked in MLflow.",
}


def describe(settings: Settings, table: str) -> str:
    """A paragraph for the catalogue: what it is, where it lies, what doing it again means."""
    spec = table_spec(settings, table)
    if spec is None:
        return DESCRIPTIONS[table]
    return (
        f"{spec.description}\n\nDelta table `{settings.tables / table}`, keys {', '.join(spec.keys)}. "
        "Materializing sessions again replaces them in one commit."
    )


def definition_text(settings: Settings, table: str) -> str:
    """Text that changes exactly when what a table computes changes."""
    if table in schema.FEATURE_TABLES:
        return "\n".join(f"{f.name}={f.expression or f.meaning}" for f in features_of(settings, table))
    if table == "trained_model":
        return "\n".join(settings.training_for(universe).model_dump_json() for universe in sorted(settings.universes))
    spec = table_spec(settings, table)
    return repr(spec.columns) if spec else DESCRIPTIONS[table]


# -- market data ------------------------------------------------------------------------------------------------------


def raw_ohlcv(platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """Read the source, quarantine what breaks a structural rule, store the rest."""
    from qdag.sources import open_source

    sessions = window_sessions(platform, universe, start, end)
    if not len(sessions):
        return _write(platform, schema.RAW_OHLCV, universe, sessions, lambda: iter(()))
    spec = platform.settings.universe(universe)
    first, last = sessions[0].item(), sessions[-1].item()
    with _Meter() as meter:
        platform.report("raw_ohlcv", 0, 2)
        everything = platform.calendar(universe).between(spec.start, last)
        delivery = open_source(universe, spec).deliver(everything, first, last)
        platform.report("raw_ohlcv", 1, 2)
        _write(platform, schema.QUARANTINE, universe, sessions, lambda: iter(delivery.quarantine.to_batches()))
        result = _write(platform, schema.RAW_OHLCV, universe, sessions, lambda: iter(delivery.bars.to_batches()))
        platform.report("raw_ohlcv", 2, 2)
    counts = pc.value_counts(delivery.quarantine["reason"]).to_pylist()
    extra = {
        "files": delivery.files,
        "corrections": delivery.corrections,
        "quarantined": delivery.quarantine.num_rows,
        **{key: float(value) for key, value in delivery.checks.items()},
    }
    if counts:
        extra["quarantine_reasons"] = _rows(["reason", "rows"], ([c["values"], c["counts"]] for c in counts))
    return replace(result, seconds=meter.seconds, peak_mib=meter.peak_mib, extra=extra)


def qlib_bin(platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """Write the stored sessions into the universe's Qlib provider directory.

    Sessions between the last published one and the window are written as well, with what raw_ohlcv holds for them:
    a provider's calendar has no gaps.
    """
    from qdag.store.qlib_bin import QlibBinWriter, read_calendar

    spec = platform.settings.universe(universe)
    provider = platform.settings.provider(universe)
    sessions = window_sessions(platform, universe, start, end)
    panel = Panel([], sessions, {})
    extra: dict[str, Any] = {"provider": str(provider)}
    with _Meter() as meter:
        if len(sessions):
            platform.report("qlib_bin", 0, 2)
            calendar = platform.calendar(universe).between(spec.start, platform.last_session(universe))
            published = len(read_calendar(provider, missing_ok=True))
            begin = min(published, int(np.searchsorted(calendar, sessions[0])))
            written = calendar[begin : int(np.searchsorted(calendar, sessions[-1])) + 1]
            panel = read_panel(platform.store, universe, written)
            platform.report("qlib_bin", 1, 2)
            future = platform.calendar(universe).future(FUTURE_SESSIONS, after=calendar[-1].item())
            report = QlibBinWriter(provider).write(panel, calendar, future)
            platform.report("qlib_bin", 2, 2)
            extra |= {"bridged_sessions": len(written) - len(sessions), **vars(report)}
            extra["raw_ohlcv_version"] = platform.store.version("raw_ohlcv")
    exists = panel.exists()
    missing = [np.isnan(panel[name])[exists].mean() for name in panel.fields] if exists.any() else []
    return StageResult(
        table="qlib_bin",
        universe=universe,
        version=None,
        rows=int(exists.sum()),
        instruments=len(panel.instruments),
        sessions=len(sessions),
        nan_share=float(np.mean(missing)) if missing else 0.0,
        seconds=meter.seconds,
        peak_mib=meter.peak_mib,
        extra=extra,
    )


def _panel(
    platform: Platform,
    universe: str,
    sessions: np.ndarray,
    before: int = 0,
    after: int = 0,
    fields: Sequence[str] = ENGINE_FIELDS,
) -> tuple[Panel, int]:
    """Adjusted fields of the sessions with up to ``before`` more in front and ``after`` more behind.

    Returns the panel and the position in it where the asked sessions begin.
    """
    from qdag.store.qlib_bin import read_calendar, read_provider_panel

    provider = platform.settings.provider(universe)
    stored = read_calendar(provider, missing_ok=True)
    missing = np.setdiff1d(sessions, stored)
    if len(missing):
        raise MissingDataError(
            f"qlib_bin of universe {universe!r} lacks {len(missing)} of the asked sessions, the first is {missing[0]}; "
            f"materialize raw_ohlcv and qlib_bin for them first"
        )
    begin = int(np.searchsorted(stored, sessions[0]))
    finish = int(np.searchsorted(stored, sessions[-1]))
    left, right = max(0, begin - before), min(len(stored) - 1, finish + after)
    panel = read_provider_panel(provider, tuple(fields), start=stored[left], end=stored[right])
    return panel, begin - left


# -- features and labels ----------------------------------------------------------------------------------------------


def feature_stage(table: str) -> Callable[[Platform, str, date, date], StageResult]:
    """The stage that computes a feature table."""
    return technical_indicators if table == "technical_indicators" else partial(expression_features, table)


def expression_features(table: str, platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """Compute a table of Qlib expressions on the engine, reading exactly the past they need."""
    expressions = {f.name: f.expression for f in features_of(platform.settings, table) if f.expression}
    spec = _spec(platform.settings, table)
    return _expressions(platform, spec, universe, window_sessions(platform, universe, start, end), expressions)


def technical_indicators(platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """Compute the indicators, reading the past that defines them."""
    from qdag.features.indicators import FIELDS, WARMUP, compute_indicators

    spec = _spec(platform.settings, "technical_indicators")
    sessions = window_sessions(platform, universe, start, end)

    def batches() -> Iterator[pa.RecordBatch]:
        for chunk in _chunks(platform, spec.name, sessions):
            panel, begin = _panel(platform, universe, chunk, before=WARMUP, fields=FIELDS)
            columns = compute_indicators(panel, start=begin, threads=platform.settings.engine.threads)
            wanted = panel.window(begin, begin + len(chunk))
            yield from panel_batches(spec, universe, wanted, columns)

    return _write(platform, spec, universe, sessions, batches, inputs=("raw_ohlcv",))


def labels(platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """Forward returns of every horizon.

    A label becomes known ``horizon + 1`` sessions later, so the sessions before ``start`` whose labels became known in
    the window are written again, and stored later sessions are read where they are there already.
    """
    settings = platform.settings
    sessions = window_sessions(platform, universe, start, end)
    reach = max(settings.horizons) + 1
    if len(sessions):
        calendar = platform.calendar(universe)
        position = calendar.position(sessions[0].item())
        sessions = np.concatenate([calendar.all[max(0, position - reach) : position], sessions])
        stored = platform.store.sessions("raw_ohlcv", universe)
        sessions = sessions[sessions >= (stored[0] if len(stored) else sessions[0])]
    expressions = {f"label_{h}": f"Ref($close, -{h + 1})/Ref($close, -1) - 1" for h in settings.horizons}
    return _expressions(platform, schema.labels_table(settings.horizons), universe, sessions, expressions, after=reach)


def _expressions(
    platform: Platform,
    spec: schema.TableSpec,
    universe: str,
    sessions: np.ndarray,
    expressions: dict[str, str],
    after: int = 0,
) -> StageResult:
    allow_future = after > 0
    planned = plan(expressions, allow_future=allow_future)
    engine = platform.settings.engine

    def batches() -> Iterator[pa.RecordBatch]:
        for chunk in _chunks(platform, spec.name, sessions):
            panel, begin = _panel(platform, universe, chunk, planned.lookback, after, sorted(planned.fields))
            wanted = panel.window(begin, begin + len(chunk))
            blocks = compute_blocks(
                expressions,
                panel,
                threads=engine.threads,
                block_instruments=engine.block_instruments,
                start=begin,
                allow_future=allow_future,
            )
            for which, arrays in blocks:
                columns = {name: values[:, : len(chunk)] for name, values in arrays.items()}
                yield from panel_batches(spec, universe, wanted.rows(which), columns)

    return _write(platform, spec, universe, sessions, batches, inputs=("raw_ohlcv",))


def _chunks(platform: Platform, stage: str, sessions: np.ndarray) -> Iterator[np.ndarray]:
    """Some sessions at a time, so that memory does not grow with history; reports progress between them."""
    done = 0
    platform.report(stage, done, len(sessions))
    for chunk in np.array_split(sessions, max(1, -(-len(sessions) // CHUNK_SESSIONS))):
        yield chunk
        done += len(chunk)
        platform.report(stage, done, len(sessions))


# -- factors ----------------------------------------------------------------------------------------------------------


class _StoredMatrices(Mapping[str, np.ndarray]):
    """Feature columns of stored tables as instruments x sessions, one block of columns loaded at a time."""

    def __init__(self, platform: Platform, universe: str, tables: Sequence[str], panel: Panel):
        self._platform, self._universe, self._panel = platform, universe, panel
        self._names = [f"{t}.{c}" for t in tables for c in _spec(platform.settings, t).values]
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
            table, self._universe, sessions[0].item(), sessions[-1].item(), columns=["date", "instrument", *columns]
        )
        matrices = table_matrix(stored, columns, self._panel.instruments, sessions)
        return {f"{table}.{column}": matrix for column, matrix in matrices.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def factor_metrics(platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """IC, RankIC, coverage, ICIR and quintile spread of every stored feature, on the dates they became known."""
    from qdag.factors.metrics import history_sessions, iter_factor_metrics, signal_sessions

    settings, spec = platform.settings, schema.FACTOR_METRICS
    tables = feature_tables(settings)
    sessions = window_sessions(platform, universe, start, end)
    if not len(sessions):
        return _write(platform, spec, universe, sessions, lambda: iter(()))
    dates = (sessions[0].item(), sessions[-1].item())
    # the universe's own history begins with its first stored session: nothing could be known before
    stored = platform.store.sessions("raw_ohlcv", universe)
    calendar = platform.calendar(universe).between(stored[0].item() if len(stored) else dates[0], dates[1])
    signals = signal_sessions(calendar, settings.horizons, dates)
    if not len(signals):
        return _write(platform, spec, universe, sessions, lambda: iter(()), inputs=(*tables, "labels"))

    def batches() -> Iterator[pa.RecordBatch]:
        panel, _ = _panel(platform, universe, signals, fields=("close",))
        names = [f"label_{h}" for h in settings.horizons]
        stored_labels = platform.store.read(
            "labels", universe, signals[0].item(), signals[-1].item(), columns=["date", "instrument", *names]
        )
        known = table_matrix(stored_labels, names, panel.instruments, panel.sessions)
        before = history_sessions(calendar, dates[0])
        history = None
        if len(before) and platform.store.exists(spec.name):
            history = platform.store.read(spec.name, universe, before[0].item(), before[-1].item())
        features = _StoredMatrices(platform, universe, tables, panel)
        done = 0
        platform.report(spec.name, 0, len(features))
        for batch in iter_factor_metrics(
            features,
            {h: known[f"label_{h}"] for h in settings.horizons},
            panel.sessions,
            panel.exists(),
            pool_name=POOL,
            universe=universe,
            dates=dates,
            calendar=calendar,
            history=history,
            threads=settings.engine.threads,
        ):
            yield batch
            done = min(len(features), done + len(pc.unique(batch["factor"])))
            platform.report(spec.name, done, len(features))
        platform.report(spec.name, len(features), len(features))

    result = _write(platform, spec, universe, sessions, batches, inputs=(*tables, "labels"))
    horizon = settings.training_for(universe).horizon
    best = best_factors(platform, universe, horizon, dates[0], dates[1])
    return replace(result, extra={**result.extra, f"top_factors_horizon_{horizon}": _frame_rows(best)})


def best_factors(
    platform: Platform, universe: str, horizon: int, start: date | None = None, end: date | None = None, n: int = 10
) -> "pd.DataFrame":
    """The factors with the largest |mean RankIC| over the dates."""
    from qdag.factors.report import top_factors

    return top_factors(platform.store.read("factor_metrics", universe, start, end), horizon, n, pool=POOL)


# -- models -----------------------------------------------------------------------------------------------------------


def trained_model(platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """Train and track one model for every month whose last session lies in the window."""
    from qdag.models.tracking import track
    from qdag.models.training import train

    settings = platform.settings.for_universe(universe)
    sessions = window_sessions(platform, universe, start, end)
    days = np.intersect1d(platform.calendar(universe).month_ends(), sessions).tolist()
    extra: dict[str, Any] = {}
    if len(sessions) and not days:
        extra["note"] = "no month of the window has had its last session yet: nothing to train"
    rows = instruments = 0
    with _Meter() as meter:
        for done, day in enumerate(days):
            platform.report("trained_model", done, len(days))
            model = train(settings, platform.store, universe, day)
            tracked = track(settings, model, platform.provenance.get("dagster_run_id"))
            rows += sum(segment.used for segment in model.rows.values())
            instruments = model.instruments
            extra = {
                "model": tracked.registered.label,
                "training_date": str(day),
                "champion": tracked.champion,
                "training_rows": rows,
                "training_instruments": instruments,
                "mlflow_run": tracked.url,
                "mlflow_model": f"{settings.mlflow.ui_url.rstrip('/')}/#/models/{tracked.registered.name}",
                "mlflow_run_id": tracked.run_id,
                "best_iteration": model.best_iteration,
                **{
                    f"{segment}_{name}": value
                    for segment, metrics in model.metrics.items()
                    for name in ("ic", "rank_ic", "icir", "rank_icir")
                    if (value := getattr(metrics, name)) is not None
                },
                **{f"version_{table}": version for table, version in model.versions.items()},
                "top_features": _frame_rows(model.importance.head(10)),
                **({"warnings": "\n".join(model.warnings) + "\n"} if model.warnings else {}),
            }
            platform.report("trained_model", done + 1, len(days))
    return StageResult(
        table="trained_model",
        universe=universe,
        version=None,
        rows=rows,
        instruments=instruments,
        sessions=len(days),
        nan_share=0.0,
        seconds=meter.seconds,
        peak_mib=meter.peak_mib,
        extra=extra,
    )


def predictions(platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """Score sessions with the newest model trained before each."""
    from qdag.models.predict import predict

    sessions = window_sessions(platform, universe, start, end)
    extra: dict[str, Any] = {}

    def batches() -> Iterator[pa.RecordBatch]:
        platform.report("predictions", 0, len(sessions))
        scored = predict(platform.settings, platform.store, universe, sessions)
        extra["models"] = _rows(["model", "sessions"], scored.models.items())
        extra["sessions_without_model"] = len(scored.without_model)
        extra["sessions_without_features"] = len(scored.without_features)
        platform.report("predictions", len(sessions), len(sessions))
        yield from scored.table.to_batches()

    result = _write(
        platform, schema.PREDICTIONS, universe, sessions, batches, inputs=platform.settings.training.features
    )
    return replace(result, extra=extra)


# -- for people -------------------------------------------------------------------------------------------------------


def stored_sessions(platform: Platform, table: str, universe: str) -> np.ndarray:
    """Sessions that a table, the Qlib directory or the registered models hold for a universe."""
    if table == "qlib_bin":
        from qdag.store.qlib_bin import read_calendar

        return read_calendar(platform.settings.provider(universe), missing_ok=True)
    if table == "trained_model":
        from qdag.models.tracking import registered_models

        dates = {model.training_date for model in registered_models(platform.settings, universe)}
        return np.array(sorted(dates), "M8[D]")
    return platform.store.sessions(table, universe) if platform.store.exists(table) else np.array([], "M8[D]")


def look(
    platform: Platform,
    table: str,
    universe: str,
    start: date | None,
    end: date | None,
    instruments: list[str] | None,
    columns: list[str] | None,
    rows: int,
) -> "pd.DataFrame":
    """The newest rows of a table between two days, as a frame."""
    store = platform.store
    if not store.exists(table):
        raise unknown("table", table, store.names())
    if start is None:
        sessions = store.sessions(table, universe)
        sessions = sessions[sessions <= np.datetime64(end)] if end else sessions
        if not len(sessions):
            raise MissingDataError(f"table {table!r} holds nothing for universe {universe!r}; materialize it first")
        start = sessions[-min(rows, len(sessions))].item()
    keys = [c for c in ("date", "instrument", "pool", "horizon", "factor") if c in store.columns(table)]
    wanted = list(dict.fromkeys([*keys, *columns])) if columns else None
    found = store.read(table, universe, start, end, instruments, wanted)
    return found.slice(max(0, found.num_rows - rows)).to_pandas()


def summary(result: StageResult) -> str:
    """One line for a log."""
    return (
        f"{result.table} of {result.universe}: {result.rows:,} rows, {result.instruments} instruments, "
        f"{result.sessions} sessions, {result.nan_share:.2%} missing, {result.seconds:.2f} s"
    )


def markdown(table: pa.Table, columns: int = 12) -> str:
    """A few rows as a Markdown table; further columns are counted in the heading of the last."""
    names = table.column_names
    shown = names[:columns] if len(names) > columns else names
    rows = [[_cell(row[name]) for name in shown] for row in table.select(shown).to_pylist()]
    more = f"\n\n{len(names) - len(shown)} more columns" if len(names) > len(shown) else ""
    return _rows(shown, rows) + more


def _frame_rows(frame: "pd.DataFrame") -> str:
    return _rows([str(c) for c in frame.columns], ([_cell(v) for v in row] for row in frame.itertuples(index=False)))


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _rows(names: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _spec(settings: Settings, table: str) -> schema.TableSpec:
    spec = table_spec(settings, table)
    if spec is None:
        raise unknown("table", table, (*feature_tables(settings), *schema.TABLES))
    return spec
