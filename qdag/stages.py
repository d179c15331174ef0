"""One function per table: read what it needs, compute, replace the asked sessions. Dagster, the command and plain
Python all call these; nothing here knows an orchestrator.

Every stage takes a :class:`Platform`, a universe and the first and last calendar day, inclusive, and returns a
:class:`StageResult`. Days outside the universe's own range, and days that are no session of its exchange, are empty.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag import __version__, schema
from qdag.corrections import Given, Withdrawal, silent_about
from qdag.engine import ALL_HISTORY, Panel, compute_blocks, plan
from qdag.errors import MissingDataError, SessionError, SourceError, UnknownNameError, unknown
from qdag.features.catalogue import Feature, feature_set
from qdag.lineage import Definition, Lineage, Reads, forget, reconcile, record
from qdag.schema import ENGINE_FIELDS, INDUSTRY
from qdag.sessions import SessionCalendar, calendar_for
from qdag.settings import Settings, TopPool, UniverseSettings, WebSource
from qdag.store.digests import Differences, differences
from qdag.store.files import write_text
from qdag.store.panels import change_reach, panel_batches, read_panels, table_matrix
from qdag.store.streams import ahead
from qdag.store.tables import TableStore
from qdag.text import markdown_cell

if TYPE_CHECKING:
    import pandas as pd

    from qdag.sources.base import Delivery
    from qdag.sources.membership import Industries, Membership
    from qdag.store.qlib_bin import Verification
    from qdag.universes import Pool

Report = Callable[[str, int, int, int], None]
"""Is told the stage, how much of it is done, how much there is, and rows written so far."""
PREVIEW_ROWS = 5
SHOWN_SYMBOLS = 50
CHUNK_SESSIONS = 250
BATCH_ROWS = 1 << 16
FUTURE_SESSIONS = 250
FACTOR_BLOCK = 32
MONTH_SESSIONS = 23
"""Most sessions of a month."""
POOL = "all"
LEADING = "leading_rank_ic"
MAY_BE_EMPTY = ("quarantine", "findings")
"""Tables without a row where nothing was refused or noticed."""


def _silent(stage: str, done: int, total: int, rows: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Platform:
    """What every stage works with: settings, the table store, and whom to tell about progress."""

    settings: Settings
    store: TableStore
    report: Report = _silent
    provenance: dict[str, str] = field(default_factory=dict)
    written: Counter[str] = field(default_factory=Counter, repr=False, compare=False)

    @classmethod
    def open(cls, settings: Settings, report: Report = _silent) -> "Platform":
        """Open the data home of the settings; nothing is created until something is written."""
        return cls(settings, TableStore(settings.tables), report)

    def for_run(self, run_id: str) -> "Platform":
        """The same platform, whose commits name a Dagster run."""
        return replace(self, provenance={**self.provenance, "dagster_run_id": run_id})

    def tell(self, stage: str, done: int, total: int) -> None:
        """Report progress, with the rows that the stage has written."""
        self.report(stage, done, total, self.written[stage])

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
    by_session: Mapping[date, Mapping[str, int | float]] = field(default_factory=dict, repr=False)
    """Numbers of each session that has rows: ``rows``, ``nan_share`` of its own cells, and what else a stage tells."""


class _Meter:
    """Seconds and peak memory of a ``with`` block (the peak is the process's where the system cannot reset it)."""

    def __enter__(self) -> "_Meter":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.began
        self.peak_mib = memory_mib("VmHWM:")


def memory_mib(line: str = "VmRSS:") -> float:
    """Memory of the process now, or by another line of the system's status; its peak where there is none."""
    import resource

    with suppress(OSError, IndexError):
        return int(Path("/proc/self/status").read_text().split(line)[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass
class _Counter:
    """Counts of what streams to the store, with the first rows kept for the preview."""

    values: tuple[str, ...]
    rows: int = 0
    missing: int = 0
    instruments: set[str] = field(default_factory=set)
    rows_of: Counter[date] = field(default_factory=Counter)
    missing_of: Counter[date] = field(default_factory=Counter)
    missing_in: Counter[str] = field(default_factory=Counter)
    preview: pa.Table | None = None

    def watch(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self.rows += batch.num_rows
            missing = np.zeros(batch.num_rows, np.int64)
            for name in self.values:
                gaps = pc.is_null(batch[name], nan_is_null=True).to_numpy(zero_copy_only=False)
                self.missing_in[name] += int(np.count_nonzero(gaps))
                missing += gaps
            self.missing += int(missing.sum())
            if "instrument" in batch.schema.names:
                self.instruments.update(pc.unique(batch["instrument"]).to_pylist())
            days, at = np.unique(batch["date"].to_numpy(zero_copy_only=False), return_inverse=True)
            for day, rows, cells in zip(days.tolist(), np.bincount(at), np.bincount(at, missing), strict=True):
                self.rows_of[day] += int(rows)
                self.missing_of[day] += int(cells)
            if batch.num_rows:
                self.preview = pa.Table.from_batches([batch.slice(max(0, batch.num_rows - PREVIEW_ROWS))])
            yield batch

    @property
    def empty(self) -> tuple[str, ...]:
        """Columns without any value, such as those that a vendor does not deliver; they count in no share."""
        return tuple(name for name in self.values if self.rows and self.missing_in[name] == self.rows)

    @property
    def nan_share(self) -> float:
        return self._share(self.missing, self.rows)

    @property
    def by_session(self) -> dict[date, dict[str, int | float]]:
        return {
            day: {"rows": rows, "nan_share": self._share(self.missing_of[day], rows)}
            for day, rows in sorted(self.rows_of.items())
        }

    def _share(self, missing: int, rows: int) -> float:
        empty = len(self.empty)
        cells = rows * (len(self.values) - empty)
        return (missing - rows * empty) / cells if cells else 0.0


def window_sessions(platform: Platform, universe: str, start: date, end: date) -> np.ndarray:
    """Sessions of the universe in the asked days, clipped to the universe's own range."""
    return platform.calendar(universe).closed_between(start, end, datetime.now(UTC))


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

    def stream() -> Iterator[pa.RecordBatch]:
        # begun anew when another process has changed the same files meanwhile
        nonlocal counter
        counter = _Counter(spec.values)
        platform.written[spec.name] = 0
        for batch in counter.watch(ahead(batches())):
            platform.written[spec.name] += batch.num_rows
            yield batch

    version = platform.store.version(spec.name)
    with _Meter() as meter:
        if len(sessions):
            read = inputs_of(platform, universe, spec.name, sessions)
            provenance = {
                **platform.provenance,
                "qdag_version": __version__,
                "definition_version": definition(platform.settings, universe, spec.name).version,
                **{
                    f"input.{name}": str(_version_read(platform, universe, spec.name, name, sessions))
                    for name in inputs
                },
            }
            start, end = sessions[0].item(), sessions[-1].item()
            _forget(platform, universe, spec.name, sessions, read)
            version = platform.store.replace(spec, universe, start, end, stream, provenance)
            _record(platform, universe, spec.name, sessions, read, version)
    extra = {} if len(sessions) else _empty(platform, universe)
    return _result(spec.name, universe, version, counter, meter, extra)


def _result(
    table: str, universe: str, version: int | None, counter: _Counter, meter: _Meter, extra: dict[str, Any]
) -> StageResult:
    return StageResult(
        table=table,
        universe=universe,
        version=version,
        rows=counter.rows,
        instruments=len(counter.instruments),
        sessions=len(counter.rows_of),
        nan_share=counter.nan_share,
        seconds=meter.seconds,
        peak_mib=meter.peak_mib,
        preview=counter.preview,
        extra=extra | ({"columns_without_values": _some(counter.empty)} if counter.empty else {}),
        by_session=counter.by_session,
    )


def _empty(platform: Platform, universe: str) -> dict[str, Any]:
    """What a stage says of a window without sessions: days on which only other exchanges are open, or out of range."""
    spec = platform.settings.universe(universe)
    return {
        "note": f"no session of {spec.calendar} in the range of universe {universe!r} (from {spec.start} to "
        f"{min(spec.end, platform.last_session(universe)) if spec.end else 'the last closed session'}): "
        "the partition is valid and empty"
    }


def why_empty(platform: Platform, universe: str, day: date) -> str:
    """Why a day can have no rows of a universe, in a few words; empty for a session that has closed."""
    spec = platform.settings.universe(universe)
    if day < spec.start or (spec.end is not None and day > spec.end):
        return f"outside universe {universe}"
    if not platform.calendar(universe).contains(day):
        return f"no session of {spec.calendar}"
    return "the session has not closed yet" if day > platform.last_session(universe) else ""


# -- lineage ----------------------------------------------------------------------------------------------------------


def reads_of(settings: Settings, universe: str, asset: str, defined: Definition | None = None) -> tuple[Reads, ...]:
    """What a session of an asset reads: other assets' sessions before and after it. Empty for raw_ohlcv.

    ``defined``: as an earlier definition of the asset read; by default the current one.

    factor_metrics reads labels too, but only what had become known by its session, which is told by the provider,
    and its own sessions before; see ``inputs_of``.
    """
    reach = max(settings.horizons) + 1
    if asset == "qlib_bin":
        # the change since the last close: over a suspension raw_ohlcv itself tells what its next row looks back to
        return (Reads("raw_ohlcv", past=1),)
    if asset == "labels":
        return (Reads("qlib_bin", future=reach),)
    columns = (defined or definition(settings, universe, asset)).columns
    tables = tuple(dict.fromkeys(name.split(".", 1)[0] for name in columns))
    if asset == "factor_metrics":
        from qdag.factors.metrics import ICIR_WINDOW

        past = reach + ICIR_WINDOW
        windows = [p.window for p in settings.universe(universe).pools.values() if isinstance(p, TopPool)]
        # members are chosen at the beginning of a month from the traded value of the sessions before
        chosen = (Reads("raw_ohlcv", past=past + MONTH_SESSIONS + max(windows)),) if windows else ()
        features = (Reads(table, past=past, columns=True) for table in tables)
        return (Reads("qlib_bin", past=past, columns=True), *features, *chosen)
    if asset == "trained_model":
        training = settings.training_for(universe)
        past = training.train_sessions + training.valid_sessions + training.test_sessions + 3 * reach
        return (Reads("qlib_bin", past=past), *(Reads(table, past=past, columns=True) for table in tables))
    if asset == "predictions":
        return tuple(Reads(table, columns=True) for table in tables)
    if asset in schema.FEATURE_TABLES:
        past = _lookback(asset, columns)
        # an indicator looks back over suspensions, to bars before the sessions that it reads
        far = (Reads("raw_ohlcv", past=past, memory=True),) if asset == "technical_indicators" else ()
        return (Reads("qlib_bin", past=past), *far)
    return ()


def _lookback(table: str, columns: Mapping[str, str]) -> int:
    """Sessions of past that the columns of a feature table need."""
    if table == "technical_indicators":
        from qdag.features.indicators import WARMUP

        return WARMUP
    return _deepest(frozenset(_expression(text) for text in columns.values()))


@lru_cache(maxsize=256)
def _deepest(expressions: frozenset[str]) -> int:
    """Look-back of expressions; planning a set takes longer than everything else that lineage asks."""
    return plan({str(at): text for at, text in enumerate(sorted(expressions))}).lookback


def _lineage(platform: Platform, universe: str, first: int, last: int) -> Lineage:
    """Records from one position of the calendar to another, as far as it goes."""
    calendar = platform.calendar(universe).all
    return Lineage(platform.store, universe, calendar[max(0, first) : last + 1], calendar)


def versions_of(settings: Settings, universe: str) -> dict[str, str]:
    """The version of every asset's definition in a universe."""
    return {name: definition(settings, universe, name).version for name in asset_names(settings)}


def inputs_of(
    platform: Platform, universe: str, asset: str, sessions: np.ndarray, defined: Definition | None = None
) -> np.ndarray | None:
    """Digests of what the sessions (without gaps) would be computed from now; None for what has no lineage.

    ``defined``: by an earlier definition of the asset; by default the current one.
    """
    settings = platform.settings
    reads = reads_of(settings, universe, asset, defined)
    if not reads:
        return None
    calendar = platform.calendar(universe).all
    at = np.searchsorted(calendar, sessions)
    versions = versions_of(settings, universe)
    if asset != "factor_metrics":
        first, last = at[0] - max(read.past for read in reads), at[-1] + max(read.future for read in reads)
        lineage = _lineage(platform, universe, first, last)
        return lineage.inputs(reads, versions)[np.searchsorted(lineage.sessions, sessions)]
    lineage = _lineage(platform, universe, 0, len(calendar))
    digests = lineage.inputs(reads, versions)[at]
    # labels are read too, and the metrics of the sessions before: what is computed from stale ones must not pass
    # for what it is not. What later sessions add to labels is not known by these: they may have been computed
    # without them, or with all of them
    names = ("qlib_bin", *feature_tables(settings), "labels", "factor_metrics")
    chain = {name: reads_of(settings, universe, name) for name in names}
    found = lineage.stale(chain, versions, stop=int(at[-1]) + 1)
    labels, own = found["labels"].sessions, found["factor_metrics"].sessions
    if len(labels):
        labels = np.intersect1d(labels, lineage.stale(chain, versions)["labels"].sessions)
    bad = np.searchsorted(calendar, np.union1d(labels, own[own < sessions[0]]))
    past = max(read.past for read in reads if read.asset == "qlib_bin")
    digests[np.searchsorted(bad, at, "right") > np.searchsorted(bad, at - past)] ^= np.uint64(1)
    return digests


def _version_read(platform: Platform, universe: str, asset: str, name: str, sessions: np.ndarray) -> int | None:
    """Version of a table that an asset reads; of raw_ohlcv, which it reads through the Qlib directory, the newest one
    whose bars lie there."""
    reads = {read.asset: read for read in reads_of(platform.settings, universe, asset)}
    if name != "raw_ohlcv" or "qlib_bin" not in reads:
        return platform.store.version(name)
    read, at = reads["qlib_bin"], np.searchsorted(platform.calendar(universe).all, [sessions[0], sessions[-1]])
    versions = _lineage(platform, universe, at[0] - read.past, at[1] + read.future).records("qlib_bin").versions
    return int(versions.max(initial=-1)) if (versions >= 0).any() else None


def _record(
    platform: Platform,
    universe: str,
    asset: str,
    sessions: np.ndarray,
    inputs: np.ndarray | None,
    version: int | None,
) -> None:
    if inputs is not None and len(sessions):
        defined = definition(platform.settings, universe, asset)
        if defined.columns:
            file = _definition_file(platform, defined.version)
            if not file.exists():
                write_text(file, defined.text())
        record(platform.store, universe, asset, sessions, inputs, defined.version, version, platform.provenance)


def _definition_file(platform: Platform, version: str) -> Path:
    """Where a definition is kept, by its version."""
    return platform.settings.home / "definitions" / f"{version}.json"


def reusable_columns(platform: Platform, universe: str, asset: str, sessions: np.ndarray) -> tuple[str, ...]:
    """Columns (or factors) whose stored values would not come out differently: only the definition of others changed.

    None where the inputs have changed, where sessions are of several definitions or of none, where other rows are
    stored than were recorded, and where nothing has changed at all: then somebody wants everything computed again.
    """
    at = np.searchsorted(platform.calendar(universe).all, sessions)
    records = _lineage(platform, universe, int(at[0]), int(at[-1])).records(asset)
    versions = set(records.definitions.tolist())
    current = definition(platform.settings, universe, asset)
    if not (records.known & records.intact).all() or len(versions) != 1 or versions == {current.version}:
        return ()
    try:
        old = Definition.parse(_definition_file(platform, versions.pop()).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return ()
    if old.shared != current.shared:
        return ()
    if np.any(inputs_of(platform, universe, asset, sessions, old) != records.inputs):
        return ()
    return tuple(name for name, text in current.columns.items() if old.columns.get(name) == text)


def _forget(
    platform: Platform,
    universe: str,
    asset: str,
    sessions: np.ndarray,
    inputs: np.ndarray | None,
    always: bool = False,
) -> None:
    if inputs is not None:
        version = definition(platform.settings, universe, asset).version
        forget(platform.store, universe, asset, sessions, inputs, version, platform.provenance, always)


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


def factors_of(settings: Settings, table: str) -> tuple[str, ...]:
    """Columns of a feature table that are evaluated in factor_metrics: all but levels."""
    return tuple(f.name for f in features_of(settings, table) if f.kind == "factor")


def table_spec(settings: Settings, table: str) -> schema.TableSpec | None:
    """Columns of a table; None for what is no Delta table (the Qlib directory, models)."""
    if table in ("qlib_bin", "trained_model"):
        return None
    if table == "labels":
        return schema.labels_table(settings.horizons)
    if table in schema.FEATURE_TABLES:
        features = features_of(settings, table)
        columns = [(f.name, f.about + (f". `{f.expression}`" if f.expression else "")) for f in features]
        return schema.feature_table(table, columns, DESCRIPTIONS[table], {f.name: f.unit for f in features})
    return schema.table(table)


DESCRIPTIONS = {
    "qlib_bin": "Qlib provider directory per universe: calendar, instruments and adjusted float32 series, readable by "
    "`qlib.init(provider_uri=...)`. Derived from raw_ohlcv, published data first and calendar last.",
    "alpha158": "Qlib's 158 Alpha158 expressions, with Qlib's own values.",
    "basic_statistics": "Rolling mean, deviation, extremes, quantiles, correlation and returns as Qlib expressions.",
    "technical_indicators": "Moving averages to KDJ; TA-Lib where TA-Lib has it.",
    "price_features": "Price changes, positions, ratios, volatilities and momentum.",
    "custom_factors": "Expressions of the settings.",
    "trained_model": "LightGBM per universe and month end, trained on stored features and tracked in MLflow. Its "
    "partitions are months: choosing sessions of the other assets trains nothing, the job `training` does.",
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


VERSIONS = {"qlib_bin": 1, "labels": 1, "factor_metrics": 1, "trained_model": 1, "predictions": 1}
"""Raised by hand when the code of an asset gives other values for the same inputs; feature sets have their own."""


def definition(settings: Settings, universe: str, asset: str) -> Definition:
    """What decides the values of an asset in a universe besides what it reads: no prose, and nothing of others."""
    from qdag.engine import VERSION as ENGINE_VERSION
    from qdag.features.catalogue import set_definition

    shared = {"version": str(VERSIONS[asset])} if asset in VERSIONS else {}
    if asset in schema.FEATURE_TABLES:
        shared = {"engine": str(ENGINE_VERSION), **set_definition(asset)}
        return Definition(shared, {f.name: _column(settings, universe, f) for f in features_of(settings, asset)})
    if asset == "qlib_bin":
        return Definition({**shared, "fields": ",".join(ENGINE_FIELDS)}, _pool_definitions(settings, universe))
    if asset == "labels":
        return Definition({**shared, "engine": str(ENGINE_VERSION)}, label_expressions(settings))
    if asset == "factor_metrics":
        from qdag.factors import metrics

        names = ("ICIR_WINDOW", "ICIR_MINIMUM", "MINIMUM_PAIRS", "MINIMUM_QUINTILE_PAIRS", "EQUAL_DEVIATION")
        shared |= {name.lower(): str(getattr(metrics, name)) for name in names}
        shared |= {"labels": definition(settings, universe, "labels").version}
        shared |= {f"pool {name}": text for name, text in _pool_definitions(settings, universe).items()}
        evaluated = {f"{table}.{name}" for table in feature_tables(settings) for name in factors_of(settings, table)}
        columns = _columns_read(settings, universe, feature_tables(settings))
        return Definition(shared, {name: text for name, text in columns.items() if name in evaluated})
    if asset in ("trained_model", "predictions"):
        training = settings.training_for(universe)
        if asset == "trained_model":
            labels_version = definition(settings, universe, "labels").version
            shared |= {"training": training.model_dump_json(), "labels": labels_version}
        return Definition(shared, _columns_read(settings, universe, training.features))
    dtypes = ",".join(f"{column.name} {column.dtype}" for column in schema.table(asset).columns)
    return Definition({"dtypes": dtypes, "calendar": settings.universe(universe).calendar})


def _columns_read(settings: Settings, universe: str, tables: Iterable[str]) -> dict[str, str]:
    """Definitions of feature columns, by table and column."""
    return {
        f"{table}.{name}": text
        for table in tables
        for name, text in definition(settings, universe, table).columns.items()
    }


def _column(settings: Settings, universe: str, feature: Feature) -> str:
    """What a feature's values are: its expression, and what else that looks up."""
    from qdag.sources.membership import content

    text = feature.expression or ""
    listed = settings.universe(universe).industries
    return f"{text}\n{INDUSTRY}: {content(listed) if listed else 'none'}" if f"${INDUSTRY}" in text else text


def _expression(column: str) -> str:
    """The expression in the definition of a column."""
    return column.partition("\n")[0]


def _pool_definitions(settings: Settings, universe: str) -> dict[str, str]:
    from qdag.sources.membership import definition as pool_definition

    return {name: pool_definition(pool) for name, pool in settings.universe(universe).pools.items()}


def label_expressions(settings: Settings) -> dict[str, str]:
    """The forward return of every horizon, by column."""
    return {f"label_{h}": f"Ref($close, -{h + 1})/Ref($close, -1) - 1" for h in settings.horizons}


def code_version(settings: Settings, asset: str) -> str:
    """Short hash that changes exactly when the definition of an asset changes in some universe."""
    found = [f"{name} {definition(settings, name, asset).version}" for name in sorted(settings.universes)]
    return sha256("\n".join(found).encode()).hexdigest()[:12]


# -- market data ------------------------------------------------------------------------------------------------------


def raw_ohlcv(
    platform: Platform,
    universe: str,
    start: date,
    end: date,
    instruments: Collection[str] | None = None,
    accepted: Collection[str] = (),
) -> StageResult:
    """Read the source, quarantine what breaks a structural rule, store the rest.

    Only what differs from what is stored is written, from the first to the last session that does; a delivery of files
    that did not change since they were read is not read again. The source is read and compared as a whole: stored
    sessions outside the window that it gives otherwise are written down as contradictions, and are stale. Of a source
    that is asked by instrument, only ``instruments`` are asked for where they are given; what is stored of others
    stays.

    An instrument that would lose more than the settings' ``withdrawn_share`` of its stored rows is held back: it is
    quarantined like a file that was refused, and what is stored of it stays, unless it is one of ``accepted``.

    Raises
    ------
    SourceError
        The source cannot be read at all, or a window ends before all rows that it was accepted to lose.
    """
    from qdag.sources import open_source
    from qdag.sources.base import FileSource, unspoken
    from qdag.store import deliveries

    sessions = window_sessions(platform, universe, start, end)
    if not len(sessions):
        return _write(platform, schema.RAW_OHLCV, universe, sessions, lambda: iter(()))
    spec = platform.settings.universe(universe)
    first, last = sessions[0].item(), sessions[-1].item()
    reading = reading_of(spec)
    asked = None
    if instruments is not None and isinstance(spec.source, WebSource):
        asked = sorted(set(instruments) & set(spec.instruments or ()))
        # one that fails again takes nothing from those that come
        patient = spec.source.model_copy(update={"failed_share": 1.0})
        spec = spec.model_copy(update={"instruments": tuple(asked), "source": patient})
    with _Meter() as meter:
        platform.tell("raw_ohlcv", 0, 2)
        source = open_source(universe, spec, platform.settings.downloads)
        # files hold what they hold; a vendor is not asked for sessions that nobody wants
        through = platform.last_session(universe) if isinstance(source, FileSource) else last
        if isinstance(source, FileSource):
            hashes = source.hashes()
            since = deliveries.unchanged(platform.store, universe, first, last, hashes, reading)
            if since is not None and not accepted and platform.store.exists("quarantine"):
                return _unread(platform, universe, sessions, len(hashes), since)
        everything = platform.calendar(universe).between(spec.start, through)
        delivery = source.deliver(everything, spec.start, through)
        platform.tell("raw_ohlcv", 1, 2)
        hashes = {file.source: file.sha256 for file in delivery.versions}
        mark = {deliveries.DELIVERY: deliveries.fingerprint(hashes, reading)} if hashes else {}
        told = replace(platform, provenance={**platform.provenance, **mark})

        # a file of several instruments that was refused says nothing about any
        several = isinstance(source, FileSource) and source.owners(()) is None
        refused, everyone = unspoken(delivery.quarantine, several)
        given = Given(schema.RAW_OHLCV, delivery.parts, silent_about(refused, everyone, asked))
        stored = _raw_digests(platform, universe, everything)
        unlike = given.unlike(everything, stored)
        held = withdrawn(platform, universe, given, unlike, delivery.quarantine)
        if cut := {name: lost for name, lost in held.items() if name in accepted}:
            _covered_by(universe, cut, first, last)
        held = {name: lost for name, lost in held.items() if name not in accepted}
        if held:
            given = replace(given, silent=silent_about([*refused, *held], everyone, asked), held=tuple(held))
        quarantine = quarantine_rows(delivery.quarantine, universe, first, spec.source.kind, held)
        listed = ((schema.QUARANTINE, quarantine), (schema.FINDINGS, delivery.findings))
        for table, rows in listed:
            # what the source as a whole is like is known now, whatever was asked for
            _correct(told, Given(table, [rows], silent_about((), asked=asked)), universe, everything)
        result, found = _correct(told, given, universe, sessions)
        reconcile(platform.store, universe, platform.calendar(universe).all, platform.provenance)
        outside = unlike[(unlike < sessions[0]) | (unlike > sessions[-1])]
        if refused or held or asked is not None:
            outside = given.confirmed(platform.store, universe, outside)
        contradicted = _contradict(platform, universe, everything, outside, stored, asked is not None)
        if delivery.versions:
            provenance = {**platform.provenance, "qdag_version": __version__}
            files = [vars(file) for file in delivery.versions]
            compared = spec.start, through
            deliveries.record(platform.store, universe, *compared, files, reading, result.version, provenance)
        platform.tell("raw_ohlcv", 2, 2)
    extra = _delivered(replace(delivery, quarantine=quarantine), found, first, last, contradicted, held)
    return replace(result, seconds=meter.seconds, peak_mib=meter.peak_mib, extra=result.extra | extra)


def _delivered(
    delivery: "Delivery",
    found: Differences,
    first: date,
    last: date,
    contradicted: np.ndarray,
    held: Mapping[str, Withdrawal],
) -> dict[str, Any]:
    """For people: what a delivery changed from ``first`` to ``last``, and what else is to be known of it. Corrections
    and the figures of its checks are of all sessions that it tells."""

    def inside(rows: pa.Table) -> pa.Table:
        return rows.filter((pc.field("date") >= first) & (pc.field("date") <= last))

    refused, findings = inside(delivery.quarantine), inside(delivery.findings)
    extra: dict[str, Any] = {
        "files": delivery.files,
        **_counts(found),
        "corrections": delivery.corrections,
        "quarantined": refused.num_rows,
        **{key: float(value) for key, value in delivery.checks.items()},
    }
    if not found:
        extra["note"] = "what was delivered is what is stored: nothing written"
    if len(contradicted):
        extra["sessions_contradicted"] = len(contradicted)
        extra["contradicted"] = (
            f"{contradicted[0]} .. {contradicted[-1]}: sessions outside the window that are stored otherwise than they "
            "are delivered now; `qdag refresh` brings them in line"
        )
    if held:
        shown = [f"{name}: {lost}" for name, lost in held.items()]
        extra["held_back"] = "; ".join(shown[:PREVIEW_ROWS]) + (" ..." if len(shown) > PREVIEW_ROWS else "")
    counts = pc.value_counts(refused["reason"]).to_pylist()
    if counts:
        extra["quarantine_reasons"] = _rows(["reason", "rows"], ([c["values"], c["counts"]] for c in counts))
    if findings.num_rows:
        listing = findings.slice(0, PREVIEW_ROWS).select(["date", "instrument", "kind", "detail"])
        extra["first_findings"] = _rows(listing.column_names, zip(*listing.to_pydict().values(), strict=True))
    return extra


def _raw_digests(platform: Platform, universe: str, sessions: np.ndarray) -> np.ndarray:
    """Digest of the rows that raw_ohlcv holds of each session, uint64 (S,); 0 where it holds none."""
    records = Lineage(platform.store, universe, sessions, platform.calendar(universe).all).records("raw_ohlcv")
    return np.where(records.known, records.inputs, np.uint64(0))


def withdrawn(
    platform: Platform,
    universe: str,
    given: Given,
    days: np.ndarray,
    refused: pa.Table,
    instruments: Collection[str] | None = None,
) -> dict[str, Withdrawal]:
    """Instruments that lose more of their history by a delivery than the settings let pass.

    ``days``: sessions on which anything differs. ``instruments``: only these are looked at. Those that the settings no
    longer name are gone on purpose, and those whose name differs only in capitals from another, which the delivery has
    ``refused``, make way for it.
    """
    if not len(days) or not platform.store.exists("raw_ohlcv"):
        return {}
    limits, named = platform.settings.quality_for(universe), platform.settings.universe(universe).instruments
    found = given.withdrawn(platform.store, universe, days, limits.withdrawn_share, limits.withdrawn_rows, instruments)
    clashing = set(refused.filter(pc.field("reason") == "name_clash")["instrument"].to_pylist())
    return {name: lost for name, lost in found.items() if (named is None or name in named) and name not in clashing}


def _covered_by(universe: str, lost: Mapping[str, Withdrawal], first: date, last: date) -> None:
    begin, finish = min(one.first for one in lost.values()), max(one.last for one in lost.values())
    if begin < first or finish > last:
        raise SourceError(
            f"{first} .. {last} is not all that {_some(sorted(lost))} of universe {universe!r} would lose; "
            f"accept it for {min(begin, first)} .. {max(finish, last)}"
        )


def quarantine_rows(
    refused: pa.Table, universe: str, first: date, source: str, held: Mapping[str, Withdrawal]
) -> pa.Table:
    """What a delivery has refused, with what is held back. What has no date is told on the first asked session."""
    from qdag.sources.base import UNDATED, WITHDRAWN

    rows = [
        {"universe": universe, "date": first, "instrument": name, "source": f"{source}:{name}", "line": 0,
         "reason": WITHDRAWN,
         "row": f"{lost}; nothing of the instrument was taken over. Deliver it whole, or take it as it is: "
         f"`qdag accept {name} --universe {universe}`"}
        for name, lost in held.items()
    ]  # fmt: skip
    undated = pc.or_(pc.equal(refused["line"], 0), pc.is_in(refused["reason"], value_set=pa.array(UNDATED)))
    days = pc.if_else(undated, pa.scalar(first, pa.date32()), refused["date"])
    refused = refused.set_column(refused.column_names.index("date"), refused.schema.field("date"), days)
    both = pa.concat_tables([refused, pa.Table.from_pylist(rows, schema=schema.QUARANTINE.arrow())])
    return both.sort_by([(key, "ascending") for key in ("date", "instrument", "source", "line")])


def _contradict(
    platform: Platform, universe: str, sessions: np.ndarray, outside: np.ndarray, stored: np.ndarray, partly: bool
) -> np.ndarray:
    """Keep in mind which sessions outside the window a delivery contradicts; returns those of them that are stored.

    ``sessions`` are all that it was compared with, ``stored`` their digests. ``partly``: it spoke of some instruments
    only, and what was known of the others stays.
    """
    from qdag.store import deliveries

    new = stored[np.searchsorted(sessions, outside)] == 0
    days, kinds = outside, new
    if partly:
        known, known_new = deliveries.contradictions(platform.store, universe)
        days = np.union1d(outside, known)
        kinds = np.isin(days, np.concatenate([outside[new], known[known_new]]))
    start, end = _ends(np.sort(np.concatenate([sessions, days])))
    deliveries.contradict(platform.store, universe, start, end, days, kinds, platform.provenance)
    return outside[~new]


def reading_of(spec: UniverseSettings) -> str:
    """Digest of what the bars of given files depend on besides."""
    from importlib.metadata import version

    from qdag.sources.base import READING

    chosen = spec.model_dump_json(include={"source", "calendar", "start", "instruments"})
    return sha256(f"{chosen} {READING} {__version__} {version('exchange-calendars')}".encode()).hexdigest()


def _counts(found: Differences) -> dict[str, int]:
    return {name: value for name, value in vars(found).items() if isinstance(value, int)}


def _unread(platform: Platform, universe: str, sessions: np.ndarray, files: int, since: int) -> StageResult:
    """The result of a delivery that need not be read, from what is stored."""
    counter = _Counter(schema.RAW_OHLCV.values)
    with _Meter() as meter:
        for at in range(0, len(sessions), CHUNK_SESSIONS):
            part = sessions[at : at + CHUNK_SESSIONS]
            stored = platform.store.read("raw_ohlcv", universe, part[0].item(), part[-1].item())
            for _ in counter.watch(iter(stored.to_batches())):
                pass
    extra = {
        "files": files,
        **_counts(Differences(sessions_unchanged=len(counter.rows_of))),
        "quarantined": platform.store.count("quarantine", universe, sessions[0].item(), sessions[-1].item()),
        "note": f"all files are as they were read for version {since}: not read again, nothing written",
    }
    platform.tell("raw_ohlcv", 2, 2)
    return _result("raw_ohlcv", universe, platform.store.version("raw_ohlcv"), counter, meter, extra)


def _correct(platform: Platform, given: Given, universe: str, sessions: np.ndarray) -> tuple[StageResult, Differences]:
    """Bring the stored rows of the window of ``sessions`` in line with a delivery.

    One commit replaces the range from the first to the last session that differs; none is made where none does. The
    result describes the whole window, and a table that is not there yet is made.
    """
    store, spec, (start, end) = platform.store, given.spec, _ends(sessions)
    exists = store.exists(spec.name)
    empty = not exists or not store.count(spec.name, universe, start, end)

    def stored(first: date, last: date) -> pa.Table:
        return spec.arrow().empty_table() if empty else store.read(spec.name, universe, first, last)

    def batches(first: date, last: date) -> Iterator[pa.RecordBatch]:
        for part, low, high in given.spans(first, last):
            yield from given.rows(part, low, high, stored(low, high)).to_batches(BATCH_ROWS)

    if not exists or (empty and given.has(start, end)):
        result = _write(platform, spec, universe, sessions, partial(batches, start, end))
        new = Differences(sessions_new=result.sessions, rows_new=result.rows, first=start, last=end)
        return result, new if result.rows else Differences()
    counter, found = _Counter(spec.values), Differences()
    with _Meter() as meter:
        for part, low, high in given.spans(start, end):
            old = stored(low, high)
            rows = given.rows(part, low, high, old)
            found += differences(old, rows, spec.keys)
            for _ in counter.watch(iter(rows.to_batches())):
                pass
    if found.first and found.last:
        changed = np.array([found.first, found.last], "M8[D]")
        _write(platform, spec, universe, changed, partial(batches, found.first, found.last))
    return _result(spec.name, universe, store.version(spec.name), counter, meter, {}), found


def qlib_bin(platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """Write the stored sessions into the universe's Qlib provider directory.

    Sessions between the last published one and the window are written as well, with what raw_ohlcv holds for them:
    a provider's calendar has no gaps. So are published ones after the window as far as its prices reach into them
    (``change`` looks back to the last traded close).
    """
    from qdag.store.qlib_bin import QlibBinWriter, read_calendar, read_instruments

    spec = platform.settings.universe(universe)
    provider = platform.settings.provider(universe)
    sessions = window_sessions(platform, universe, start, end)
    extra: dict[str, Any] = {"provider": str(provider), **({} if len(sessions) else _empty(platform, universe))}
    names: set[str] = set()
    by_session: dict[date, dict[str, int | float]] = {}
    report = None
    with _Meter() as meter:
        if len(sessions):
            version = platform.store.version("raw_ohlcv")
            calendar = platform.calendar(universe).between(spec.start, platform.last_session(universe))
            future = platform.calendar(universe).future(FUTURE_SESSIONS, after=calendar[-1].item())
            listed = read_instruments(provider)
            published = len(read_calendar(provider, missing_ok=True))
            begin = min(published, int(np.searchsorted(calendar, sessions[0])))
            reach = change_reach(platform.store, universe, listed, calendar[begin], sessions[-1], version)
            written = calendar[begin : int(np.searchsorted(calendar, reach, "right"))]
            read = inputs_of(platform, universe, "qlib_bin", written)
            members: list[Membership] = []

            def panels() -> Iterator[Panel]:
                done = platform.written["qlib_bin"] = 0
                platform.tell("qlib_bin", done, len(written))
                for panel in read_panels(platform.store, universe, written, version=version):
                    names.update(panel.instruments)
                    rows = np.count_nonzero(panel.traded(), axis=0)
                    platform.written["qlib_bin"] += int(rows.sum())
                    by_session.update((d, {"rows": int(n)}) for d, n in zip(panel.sessions.tolist(), rows, strict=True))
                    yield panel
                    done += panel.shape[1]
                    platform.tell("qlib_bin", done, len(written))

            def pools(days: Mapping[str, tuple[date, date]], total: np.ndarray) -> "list[Pool]":
                members.extend(memberships(platform, universe, days, total, version))
                extra.update(_pool_metadata(members, total))
                return [member.pool for member in members]

            # a write that dies may leave no calendar, or files of its own, even where it would have changed nothing
            _forget(platform, universe, "qlib_bin", written, read, always=True)
            report = QlibBinWriter(provider).write(ahead(panels(), 1), calendar, future, pools)
            _record(platform, universe, "qlib_bin", written, read, version)
            following = int(np.count_nonzero(written > sessions[-1]))
            extra |= {"bridged_sessions": len(written) - len(sessions) - following, "following_sessions": following}
            extra |= {name: value for name, value in vars(report).items() if name not in ("pools", "rows", "missing")}
            extra["raw_ohlcv_version"] = version
    cells = report.rows * len(ENGINE_FIELDS) if report else 0
    return StageResult(
        table="qlib_bin",
        universe=universe,
        version=None,
        rows=report.rows if report else 0,
        instruments=len(names),
        sessions=len(sessions),
        nan_share=report.missing / cells if report and cells else 0.0,
        seconds=meter.seconds,
        peak_mib=meter.peak_mib,
        extra=extra,
        by_session=by_session,
    )


def verify_bins(
    platform: Platform, universe: str, start: date | None = None, end: date | None = None
) -> "Verification":
    """Compare the Qlib directory with raw_ohlcv and the settings' pools, file by file; by default all of it.

    Raises
    ------
    MissingDataError
        One of the two does not exist.
    """
    from qdag.store.pools import published_days
    from qdag.store.qlib_bin import read_calendar, verify_provider

    provider = platform.settings.provider(universe)
    calendar = platform.calendar(universe)
    published = read_calendar(provider)
    stored = platform.store.sessions("raw_ohlcv", universe)
    members = memberships(platform, universe, published_days(provider), published)
    first = published[0].item() if start is None else start
    last = published[-1].item() if end is None else end
    known = calendar.between(platform.settings.universe(universe).start, platform.last_session(universe))
    future = calendar.future(FUTURE_SESSIONS, after=known[-1].item())
    panels = read_panels(platform.store, universe, calendar.between(first, last))
    found = verify_provider(provider, panels, known, future, [member.pool for member in members])
    behind = stored[stored > published[-1]]
    if end is None and len(behind):
        text = f"ends at {published[-1]}, raw_ohlcv at {behind[-1]}; materialize qlib_bin"
        found = replace(found, problems=(*found.problems, ("calendars/day.txt", text)))
    return found


def memberships(
    platform: Platform,
    universe: str,
    days: Mapping[str, tuple[date, date]],
    sessions: np.ndarray,
    version: int | None = None,
) -> "tuple[Membership, ...]":
    """The configured pools of a universe whose instruments have the given first and last days.

    ``sessions`` are all of the universe's, from its first to the last one published; ``version`` of raw_ohlcv tells
    traded value.
    """
    from qdag.sources.membership import pools_of

    def traded() -> tuple[list[str], np.ndarray]:
        names = sorted(days)
        value = np.full((len(names), len(sessions)), np.nan)
        at = 0
        for chunk in _parts(sessions):
            columns = ["close", "volume", "amount"]
            first, last, keys = chunk[0].item(), chunk[-1].item(), ["date", "instrument"]
            rows = platform.store.read("raw_ohlcv", universe, first, last, columns=[*keys, *columns], version=version)
            bars = table_matrix(rows, columns, names, chunk)
            amount = bars["amount"]
            value[:, at : at + len(chunk)] = np.where(np.isnan(amount), bars["close"] * bars["volume"], amount)
            at += len(chunk)
        return names, value

    return pools_of(platform.settings.universe(universe), days, sessions, traded)


def _some(symbols: Sequence[str]) -> str:
    more = len(symbols) - SHOWN_SYMBOLS
    return ", ".join(symbols[:SHOWN_SYMBOLS]) + (f" and {more} more" if more > 0 else "")


def _pool_metadata(members: "Sequence[Membership]", sessions: np.ndarray) -> dict[str, Any]:
    """For people: members of every pool on its first and last session, the fewest and the most, and the unmatched."""
    if not members:
        return {}
    rows = []
    unmatched = {}
    for m in members:
        counts = m.pool.counts(sessions)
        counts = counts[np.flatnonzero(counts)[0] :] if counts.any() else counts[-1:]
        lost = m.lost
        seen = (counts[0], counts[-1], counts.min(), counts.max())
        rows.append([m.pool.name, m.kind, m.size or "", *seen, len(lost), m.overlapping, len(m.empty)])
        if lost:
            unmatched[f"pool_{m.pool.name}_unmatched"] = f"{_some(lost)}; `qdag pools` lists all"
    heading = ["pool", "kind", "size", "first", "last", "min", "max", "unmatched", "overlapping", "empty"]
    return {"pools": _rows(heading, rows), **unmatched}


def _panel(
    platform: Platform,
    universe: str,
    sessions: np.ndarray,
    before: int = 0,
    after: int = 0,
    fields: Sequence[str] = ENGINE_FIELDS,
    instruments: Sequence[str] | None = None,
) -> tuple[Panel, int]:
    """Adjusted fields of the sessions with up to ``before`` more in front and ``after`` more behind, of all instruments
    or some.

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
    # which cells are rows is told by the close
    read = tuple(dict.fromkeys([*(f for f in fields if f != INDUSTRY), "close"]))
    panel = read_provider_panel(provider, read, instruments, stored[left], stored[right])
    if INDUSTRY in fields:
        panel = replace(panel, fields={**panel.fields, INDUSTRY: _industry_codes(platform, universe, panel)})
    return panel, begin - left


def industries_of(platform: Platform, universe: str, instruments: Sequence[str]) -> "Industries":
    """Industries of a universe's instruments; all unknown where the universe has no list of them."""
    from qdag.sources.membership import Industries, read_industries

    spec = platform.settings.universe(universe)
    if spec.industries is None:
        return Industries((), {}, tuple(sorted(instruments)), 0)
    return read_industries(spec.industries, spec.region, instruments)


def _industry_codes(platform: Platform, universe: str, panel: Panel) -> np.ndarray:
    codes = industries_of(platform, universe, panel.instruments).series(panel.instruments)
    return np.where(panel.exists(), codes[:, None], np.float32(np.nan))


# -- features and labels ----------------------------------------------------------------------------------------------


def feature_stage(table: str) -> Callable[[Platform, str, date, date], StageResult]:
    """The stage that computes a feature table."""
    return technical_indicators if table == "technical_indicators" else partial(expression_features, table)


def expression_features(table: str, platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """Compute a table of Qlib expressions on the engine, reading exactly the past they need."""
    expressions = {f.name: f.expression for f in features_of(platform.settings, table) if f.expression}
    spec = _spec(platform.settings, table)
    sessions = window_sessions(platform, universe, start, end)
    result = _expressions(platform, spec, universe, sessions, expressions)
    if len(sessions) and INDUSTRY in plan(expressions).fields:
        from qdag.store.pools import published_days

        names = published_days(platform.settings.provider(universe))
        without = industries_of(platform, universe, tuple(names)).unknown
        note = f"{len(without)} of {len(names)}" + (f": {_some(without)}" if without else "")
        result = replace(result, extra={**result.extra, "instruments_without_industry": note})
    return result


def technical_indicators(platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """Compute the indicators, reading the past that defines them."""
    from qdag.features.indicators import FIELDS, WARMUP, compute_indicators, reach_back
    from qdag.store.pools import published_days

    spec = _spec(platform.settings, "technical_indicators")
    sessions = window_sessions(platform, universe, start, end)

    def batches() -> Iterator[pa.RecordBatch]:
        for chunk in _chunks(platform, spec.name, sessions):
            panel, begin = _panel(platform, universe, chunk, before=WARMUP, fields=FIELDS)
            columns = compute_indicators(panel, start=begin, threads=platform.settings.engine.threads)
            names = [panel.instruments[row] for row in np.flatnonzero(reach_back(panel, begin)).tolist()]
            listed = published_days(platform.settings.provider(universe)) if names else {}
            # listed within the panel: it holds all there is
            names = [name for name in names if listed[name][0] < panel.sessions[0].item()]
            if names:
                whole, first = _panel(platform, universe, chunk, before=ALL_HISTORY, fields=FIELDS, instruments=names)
                rows = [panel.instruments.index(name) for name in names]
                again = compute_indicators(whole, start=first, threads=platform.settings.engine.threads)
                for name, values in again.items():
                    columns[name][rows] = values
            wanted = panel.window(begin, begin + len(chunk))
            yield from panel_batches(spec, universe, wanted, columns)

    result = _write(platform, spec, universe, sessions, batches, inputs=("raw_ohlcv",))
    platform.tell(spec.name, len(sessions), len(sessions))
    return result


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
    expressions = label_expressions(settings)
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
    standing: tuple[str, ...] = ()
    if spec.name in schema.FEATURE_TABLES and len(sessions):
        standing = reusable_columns(platform, universe, spec.name, sessions)
    expressions = {name: text for name, text in expressions.items() if name not in standing}
    planned = plan(expressions, allow_future=allow_future)
    engine = platform.settings.engine

    def batches() -> Iterator[pa.RecordBatch]:
        for chunk in _chunks(platform, spec.name, sessions):
            panel, begin = _panel(platform, universe, chunk, planned.lookback, after, sorted(planned.fields))
            wanted = panel.window(begin, begin + len(chunk))
            kept = {}
            if standing:
                stored = platform.store.read(
                    spec.name, universe, *_ends(chunk), columns=["date", "instrument", *standing]
                )
                kept = table_matrix(stored, standing, panel.instruments, chunk)
            blocks = compute_blocks(
                expressions,
                panel,
                threads=engine.threads,
                block_instruments=engine.block_instruments,
                start=begin,
                allow_future=allow_future,
                pool=panel.traded(),
            )
            for which, arrays in blocks:
                columns = {name: values[:, : len(chunk)] for name, values in arrays.items()}
                columns |= {name: values[which] for name, values in kept.items()}
                yield from panel_batches(spec, universe, wanted.rows(which), columns)

    result = _write(platform, spec, universe, sessions, batches, inputs=("raw_ohlcv",))
    platform.tell(spec.name, len(sessions), len(sessions))
    if standing:
        result = replace(result, extra={**result.extra, "columns_computed": ", ".join(expressions) or "none"})
    return result


def _ends(sessions: np.ndarray) -> tuple[date, date]:
    return sessions[0].item(), sessions[-1].item()


def _parts(sessions: np.ndarray) -> list[np.ndarray]:
    """Sessions cut into parts of nearly the same size."""
    return np.array_split(sessions, max(1, -(-len(sessions) // CHUNK_SESSIONS)))


def _chunks(platform: Platform, stage: str, sessions: np.ndarray) -> Iterator[np.ndarray]:
    """Some sessions at a time, so that memory does not grow with history; reports progress between them."""
    done = 0
    platform.tell(stage, done, len(sessions))
    for chunk in _parts(sessions):
        yield chunk
        done += len(chunk)
        platform.tell(stage, done, len(sessions))


# -- factors ----------------------------------------------------------------------------------------------------------


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
            table, self._universe, sessions[0].item(), sessions[-1].item(), columns=["date", "instrument", *columns]
        )
        matrices = table_matrix(stored, columns, self._panel.instruments, sessions)
        return {f"{table}.{column}": matrix for column, matrix in matrices.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def factor_metrics(platform: Platform, universe: str, start: date, end: date) -> StageResult:
    """IC, RankIC, coverage, ICIR and quintile spread of every stored feature, on the dates they became known.

    Once for all instruments and once for each configured pool, whose members are those of the signal session.
    """
    from qdag.factors.metrics import history_sessions, iter_factor_metrics, signal_sessions
    from qdag.factors.report import leading_rank_ic, top_factors

    settings, spec = platform.settings, schema.FACTOR_METRICS
    tables = feature_tables(settings)
    factors = tuple(definition(settings, universe, spec.name).columns)
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
    pools = _written_pools(platform, universe)
    # of factors whose columns are what they were the stored metrics stay
    reused = reusable_columns(platform, universe, spec.name, sessions)
    computed = [name for name in factors if name not in reused]

    def batches() -> Iterator[pa.RecordBatch]:
        for chunk in _parts(sessions) if reused else ():
            stored = platform.store.read(spec.name, universe, *_ends(chunk), columns=spec.arrow().names)
            kept = pc.is_in(stored["factor"], value_set=pa.array(reused, pa.string()))
            yield from stored.filter(kept).to_batches(BATCH_ROWS)
        if not computed:
            return
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
        features = _StoredMatrices(platform, universe, computed, panel)
        traded = panel.traded()
        done = 0
        platform.tell(spec.name, 0, len(features))
        for batch in iter_factor_metrics(
            features,
            {h: known[f"label_{h}"] for h in settings.horizons},
            panel.sessions,
            traded,
            pool_name=POOL,
            universe=universe,
            dates=dates,
            calendar=calendar,
            history=history,
            threads=settings.engine.threads,
            others={pool.name: pool.mask(panel.instruments, panel.sessions) & traded for pool in pools},
        ):
            yield batch
            if batch["pool"][0].as_py() == POOL:
                done = min(len(features), done + len(pc.unique(batch["factor"])))
                platform.tell(spec.name, done, len(features))
        platform.tell(spec.name, len(features), len(features))

    result = _write(platform, spec, universe, sessions, batches, inputs=(*tables, "labels"))
    horizon = settings.training_for(universe).horizon
    metrics = platform.store.read(spec.name, universe, *dates)
    best = top_factors(metrics, horizon, pool=POOL)
    extra = {**result.extra, f"top_factors_horizon_{horizon}": _frame_rows(best)}
    if reused:
        extra["factors_computed"] = ", ".join(computed) or "none"
    leading = {day: {LEADING: value} for day, value in leading_rank_ic(metrics, horizon, POOL).items()}
    by_session = {day: {**numbers, **leading.get(day, {})} for day, numbers in result.by_session.items()}
    return replace(result, extra=extra, by_session=by_session)


def _written_pools(platform: Platform, universe: str) -> "list[Pool]":
    """The configured pools as qlib_bin has written them."""
    from qdag.store.pools import published_days, read_pool
    from qdag.store.qlib_bin import read_calendar

    provider = platform.settings.provider(universe)
    names = list(platform.settings.universe(universe).pools)
    pools = {name: pool for name in names if (pool := read_pool(provider, name))}
    if len(pools) < len(names):
        # Qlib reads no empty file, so a pool without members has none: only what has members was never written
        due = memberships(platform, universe, published_days(provider), read_calendar(provider))
        absent = {m.pool.name: m.pool for m in due if m.pool.name not in pools}
        if unwritten := [name for name, pool in absent.items() if pool.spans]:
            raise MissingDataError(
                f"pools {unwritten} are not in {str(provider)!r}; materialize qlib_bin to write them"
            )
        pools |= absent
    return [pools[name] for name in names]


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
    extra = {} if len(sessions) else _empty(platform, universe)
    if len(sessions) and not days:
        extra["note"] = "no month of the window has had its last session yet: nothing to train"
    rows = instruments = 0
    with _Meter() as meter:
        for done, day in enumerate(days):
            platform.tell("trained_model", done, len(days))
            trained_on = np.array([day], "M8[D]")
            read = inputs_of(platform, universe, "trained_model", trained_on)
            model = train(settings, platform.store, universe, day)
            tracked = track(settings, model, platform.provenance.get("dagster_run_id"))
            _record(platform, universe, "trained_model", trained_on, read, None)
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
            platform.tell("trained_model", done + 1, len(days))
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
    extra = {} if len(sessions) else _empty(platform, universe)

    def batches() -> Iterator[pa.RecordBatch]:
        platform.tell("predictions", 0, len(sessions))
        scored = predict(platform.settings, platform.store, universe, sessions)
        extra["models"] = _rows(["model", "sessions"], scored.models.items())
        extra["sessions_without_model"] = len(scored.without_model)
        extra["sessions_without_features"] = len(scored.without_features)
        platform.tell("predictions", len(sessions), len(sessions))
        yield from scored.table.to_batches()

    training = platform.settings.training_for(universe)
    result = _write(platform, schema.PREDICTIONS, universe, sessions, batches, inputs=training.features)
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
    version: int | None = None,
) -> "pd.DataFrame":
    """The newest rows of a table between two days, as a frame; of an older version where one is given.

    Raises
    ------
    UnknownNameError
        No stage of these settings writes a table of that name, and none is stored.
    MissingDataError
        It holds nothing for the universe and the days.
    SessionError
        The days are reversed.
    """
    store = platform.store
    if start is not None and end is not None and end < start:
        raise SessionError(f"start {start} is after end {end}; give the earlier day first")
    if not store.exists(table):
        raise _not_stored(platform.settings, table, store.names())
    if start is None:
        sessions = store.sessions(table, universe, version)
        sessions = sessions[sessions <= np.datetime64(end)] if end else sessions
        if not len(sessions) and table in MAY_BE_EMPTY and len(stored_sessions(platform, "raw_ohlcv", universe)):
            return store.read(table, universe, version=version).to_pandas()
        if not len(sessions):
            until = f" up to {end}" if end else ""
            raise MissingDataError(f"table {table!r} holds nothing for universe {universe!r}{until}{_whence(table)}")
        start = sessions[-min(rows, len(sessions))].item()
    keys = [c for c in ("date", "instrument", "pool", "horizon", "factor") if c in store.columns(table, version)]
    wanted = list(dict.fromkeys([*keys, *columns])) if columns else None
    found = store.read(table, universe, start, end, instruments, wanted, version)
    return found.slice(max(0, found.num_rows - rows)).to_pandas()


def _not_stored(settings: Settings, table: str, stored: Iterable[str]) -> MissingDataError | UnknownNameError:
    """Why a table cannot be shown: it is no table at all, or nothing has been written to it yet."""
    if table == "trained_model":
        return MissingDataError("models are in MLflow, not in a table; `qdag models` lists them")
    if table == "qlib_bin":
        return MissingDataError("qlib_bin is a Qlib directory, not a table; `qdag verify-bin` reads it, D.features too")
    known = {*asset_names(settings), *schema.TABLES, *stored} - {"trained_model", "qlib_bin"}
    if table not in known:
        return unknown("table", table, known)
    return MissingDataError(f"table {table!r} holds nothing yet{_whence(table)}")


def _whence(table: str) -> str:
    """What brings rows into a table, for the end of a message that it has none."""
    return f"; materialize {'raw_ohlcv' if table in (*MAY_BE_EMPTY, 'deliveries', 'lineage') else table} first"


@dataclass(frozen=True)
class PoolReport:
    """The pools of a universe, for people: a line per pool, members by day, and named lists of symbols."""

    summary: "pd.DataFrame"
    counts: "pd.DataFrame"
    lists: dict[str, tuple[str, ...]]


def pool_report(platform: Platform, universe: str, day: date | None = None) -> PoolReport:
    """Pools as the settings have them now on what qlib_bin holds: members on each year's last session, or on ``day``.

    Raises
    ------
    MissingDataError
        qlib_bin holds nothing yet.
    SessionError
        ``day`` is no session that it holds.
    """
    import pandas as pd

    from qdag.store.pools import published_days, read_pool
    from qdag.store.qlib_bin import read_calendar
    from qdag.universes import all_pool

    provider = platform.settings.provider(universe)
    sessions = read_calendar(provider)
    held = published_days(provider)
    members = memberships(platform, universe, held, sessions)
    if day is not None and np.datetime64(day, "D") not in sessions:
        raise SessionError(f"{day} is no session of {str(provider)!r} ({sessions[0]} .. {sessions[-1]}); choose one")
    years = sessions.astype("M8[Y]")
    days = sessions[np.append(years[1:] != years[:-1], True)] if day is None else np.array([day], "M8[D]")
    every = all_pool({n: d[0] for n, d in held.items()}, {n: d[1] for n, d in held.items()})
    rows, lists = [], {}
    for m in members:
        stored = read_pool(provider, m.pool.name)
        written = "yes" if (stored.spans if stored else ()) == m.pool.spans else "outdated" if stored else "no"
        counts = m.pool.counts(sessions)
        distinct = len({span.instrument for span in m.pool.spans})
        rows.append((m.pool.name, m.kind, m.size or "", distinct, counts.min(), counts.max(), len(m.lost),
                     m.overlapping, len(m.empty), written))  # fmt: skip
        if day is None:
            lists[f"unmatched members of {m.pool.name}"] = m.lost
        else:
            lists[f"{m.pool.name} on {day}"] = m.pool.members(day)
    heading = ["pool", "kind", "size", "instruments", "min", "max", "unmatched", "overlapping", "empty", "written"]
    pools = [every, *(m.pool for m in members)]
    return PoolReport(
        pd.DataFrame(rows, columns=heading),
        pd.DataFrame({"session": days.astype(str), **{pool.name: pool.counts(days) for pool in pools}}),
        lists,
    )


def summary(result: StageResult) -> str:
    """One line for a log."""
    instruments = f"{result.instruments} instruments, " if result.instruments else ""
    return (
        f"{result.table} of {result.universe}: {result.rows:,} rows, {instruments}"
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
    lines += ["| " + " | ".join(markdown_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _spec(settings: Settings, table: str) -> schema.TableSpec:
    spec = table_spec(settings, table)
    if spec is None:
        raise unknown("table", table, (*feature_tables(settings), *schema.TABLES))
    return spec
