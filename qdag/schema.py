"""Columns, dtypes, units and keys of every table. Quality rules are data derived from these; no I/O belongs here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qdag.errors import unknown

if TYPE_CHECKING:
    import pyarrow as pa

DTYPES = ("string", "date32", "float32", "float64", "int32", "int64")


@dataclass(frozen=True)
class Column:
    """One column of a table: its Arrow type by name, unit and meaning."""

    name: str
    dtype: str
    description: str
    unit: str = ""
    nullable: bool = True


@dataclass(frozen=True)
class TableSpec:
    """A Delta table: ``keys`` identify a row; ``universe`` and ``month`` partition the files.

    ``month`` ("YYYY-MM" of ``date``) is derived by the store on writing and hidden on reading. A ``yearly`` table,
    which has few rows a session, keeps those of a year in the partition of January: a long history is few files.
    ``remade``: how rows of a bookkeeping table that are lost come back by themselves, as an end of a sentence; "" for
    tables whose rows a stage must write again.
    """

    name: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]
    description: str
    yearly: bool = False
    remade: str = ""

    def __post_init__(self) -> None:
        names = [c.name for c in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.name} declares a column twice")
        if missing := [k for k in self.keys if k not in names]:
            raise ValueError(f"table {self.name} declares keys {missing} that are no columns")
        if null := [c.name for c in self.columns if c.name in self.keys and c.nullable]:
            raise ValueError(f"table {self.name} declares keys {null} that may be null")
        if bad := [c.name for c in self.columns if c.dtype not in DTYPES]:
            raise ValueError(f"table {self.name} has columns of unknown dtype: {bad}")

    def arrow(self) -> "pa.Schema":
        """The Arrow schema, without the ``month`` partition column."""
        import pyarrow as pa

        types = {name: getattr(pa, name)() for name in DTYPES}
        return pa.schema([pa.field(c.name, types[c.dtype], nullable=c.nullable) for c in self.columns])

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the columns that are not keys."""
        return tuple(c.name for c in self.columns if c.name not in self.keys)


UNIVERSE = Column("universe", "string", "universe of the settings that the row belongs to", nullable=False)
DATE = Column("date", "date32", "trading session", nullable=False)
INSTRUMENT = Column("instrument", "string", "listed security in Qlib's spelling", nullable=False)

RAW_OHLCV = TableSpec(
    "raw_ohlcv",
    ("universe", "date", "instrument"),
    (
        UNIVERSE,
        DATE,
        INSTRUMENT,
        Column("open", "float64", "raw opening price", "currency"),
        Column("high", "float64", "raw highest price", "currency"),
        Column("low", "float64", "raw lowest price", "currency"),
        Column("close", "float64", "raw closing price", "currency", nullable=False),
        Column("volume", "float64", "traded shares", "shares", nullable=False),
        Column("amount", "float64", "traded value; null where the vendor has none", "currency"),
        Column(
            "vwap", "float64", "raw amount / volume; (high+low+close)/3 where unknown or outside the bar", "currency"
        ),
        Column("factor", "float64", "cumulative adjustment factor, 1 at the first session of the universe's history"),
        Column("split", "float64", "split coefficient; 1 without an event, null where the vendor tells none"),
        Column(
            "dividend",
            "float64",
            "cash dividend per share of the day before; 0 without an event, null where the vendor tells none",
            "currency",
        ),
    ),
    "Daily bars as delivered: typed, deduplicated, structurally valid; raw prices with their adjustment factor.",
)

QUARANTINE = TableSpec(
    "quarantine",
    ("universe", "date", "instrument", "source", "line", "reason"),
    (
        UNIVERSE,
        Column("date", "date32", "day of the refused row; the first day asked for where it is unknown", nullable=False),
        Column("instrument", "string", "security the row or file was delivered for", nullable=False),
        Column("source", "string", "file (relative to the source's folder) or source name", nullable=False),
        Column("line", "int64", "1-based line in the file; 0 for a whole file", nullable=False),
        Column("reason", "string", "named rule that the row or file broke", nullable=False),
        Column("row", "string", "what was delivered, as text"),
    ),
    "Rows and files that were refused, each with its reason and source line.",
    yearly=True,
)

FINDINGS = TableSpec(
    "findings",
    ("universe", "date", "instrument", "kind"),
    (
        UNIVERSE,
        DATE,
        INSTRUMENT,
        Column("kind", "string", "what was noticed, for example factor_difference or ticker_reuse", nullable=False),
        Column("value", "float64", "what the delivery holds"),
        Column("expected", "float64", "what it was compared with"),
        Column("detail", "string", "one sentence for people"),
    ),
    "Stored rows that are valid but noticeable: listed by the checks of raw_ohlcv, never hidden.",
    yearly=True,
)

LINEAGE = TableSpec(
    "lineage",
    ("universe", "date", "asset"),
    (
        UNIVERSE,
        DATE,
        Column("asset", "string", "table or other asset whose session this is", nullable=False),
        Column(
            "inputs",
            "int64",
            "digest of what the session was computed from; for raw_ohlcv, of the session's own rows",
            nullable=False,
        ),
        Column("definition", "string", "version of what was computed: columns, expressions, settings", nullable=False),
        Column("version", "int64", "Delta version that brought the session; of qlib_bin, the one of raw_ohlcv it read"),
        Column("commit", "string", "identity of that version's commit; null for what is no table"),
        Column(
            "past",
            "int64",
            "of raw_ohlcv, digest of the last closes before the rows that follow a gap; null without such rows",
        ),
        Column(
            "memory",
            "int64",
            "of raw_ohlcv, digest of the bars before a gap that the rows after it may look back to; null without such "
            "rows",
        ),
        Column("blocked", "string", "blocking checks that the session failed; null where it may be read"),
    ),
    "What every stored session was computed from: where it differs from what it would be computed from now, the "
    "session is stale.",
    yearly=True,
    remade="`qdag refresh` computes the sessions again that have no record",
)

DELIVERIES = TableSpec(
    "deliveries",
    ("universe", "date", "since", "source"),
    (
        UNIVERSE,
        Column("date", "date32", "last session that was compared with what is stored", nullable=False),
        Column("since", "date32", "first session that was compared", nullable=False),
        Column("source", "string", "file, relative to the source's folder", nullable=False),
        Column("sha256", "string", "digest of the file's bytes", nullable=False),
        Column("bytes", "int64", "size of the file", "bytes", nullable=False),
        Column("modified", "int64", "time of the file's last change when it was read, since 1970", "nanoseconds"),
        Column("rows", "int64", "data lines of the file, refused ones included", "rows", nullable=False),
        Column("first", "date32", "first date in the file"),
        Column("last", "date32", "last date in the file"),
        Column("reading", "string", "digest of what else the bars depend on: settings, calendar, version of qdag"),
        Column("version", "int64", "version of raw_ohlcv that holds what the file gave"),
        Column("contradicted", "int64", "sessions in the table contradictions, without which a reading says nothing"),
    ),
    "The newest reading of a universe's files: which version of which file. What is stored of the sessions from since "
    "to date is what these files give, but for the sessions of the table contradictions.",
    yearly=True,
    remade="the files are read again when raw_ohlcv is materialized",
)

CONTRADICTIONS = TableSpec(
    "contradictions",
    ("universe", "date"),
    (
        UNIVERSE,
        DATE,
        Column("kind", "string", "new: nothing is stored of the session; changed: other rows are", nullable=False),
    ),
    "Sessions on which the newest reading of the source gives other rows than raw_ohlcv holds, until it is "
    "materialized for them.",
    yearly=True,
    remade="the files are read again when raw_ohlcv is materialized",
)

FACTOR_METRICS = TableSpec(
    "factor_metrics",
    ("universe", "date", "pool", "horizon", "factor"),
    (
        UNIVERSE,
        Column("date", "date32", "session at whose close the metric became known", nullable=False),
        Column("pool", "string", "point-in-time membership list", nullable=False),
        Column("horizon", "int32", "sessions of forward return", "sessions", nullable=False),
        Column("factor", "string", "table.column of the feature", nullable=False),
        Column("signal_date", "date32", "session of the factor values: horizon + 1 sessions earlier", nullable=False),
        Column("ic", "float64", "Pearson correlation of factor and forward return across the pool"),
        Column("rank_ic", "float64", "Spearman correlation (average ranks) across the pool"),
        Column(
            "coverage", "float64", "members traded on signal_date with a finite factor value / members traded", "share"
        ),
        Column("n", "int32", "pairs used for ic and rank_ic", "instruments"),
        Column("icir", "float64", "mean / sample std of ic over the trailing 252 dates, not annualised"),
        Column("rank_icir", "float64", "mean / sample std of rank_ic over the trailing 252 dates, not annualised"),
        Column("icir_n", "int32", "dates with an ic in the trailing window", "sessions"),
        Column(
            "long_short",
            "float64",
            "mean forward return of the top quintile minus the bottom quintile; null below 10 pairs",
            "return",
        ),
    ),
    "Cross-sectional quality of every factor, on the date it became known.",
)

PREDICTIONS = TableSpec(
    "predictions",
    ("universe", "date", "instrument"),
    (
        UNIVERSE,
        DATE,
        INSTRUMENT,
        Column("score", "float64", "model output for the session; higher is better", nullable=False),
        Column("model", "string", "registered model and version that scored", nullable=False),
        Column("trained_on", "date32", "training date of that model, before the session", nullable=False),
    ),
    "Scores of the newest model trained before each session.",
)

TABLES = {
    spec.name: spec
    for spec in (RAW_OHLCV, QUARANTINE, FINDINGS, DELIVERIES, CONTRADICTIONS, LINEAGE, FACTOR_METRICS, PREDICTIONS)
}

RESERVED_COLUMNS = frozenset({"month"} | {key for spec in TABLES.values() for key in spec.keys})
"""Names that no feature may have: keys of the tables, and the partition column that the store adds."""

ENGINE_FIELDS = ("open", "high", "low", "close", "volume", "vwap", "change", "factor", "amount")
"""Series of the Qlib directory, which expressions read as ``$open``."""
INDUSTRY = "industry"
"""Field of panels, not of the provider: the code of each instrument's industry, NaN where unknown."""
FIELDS = (*ENGINE_FIELDS, INDUSTRY)
"""Everything that an expression may read."""

FEATURE_TABLES = ("alpha158", "basic_statistics", "technical_indicators", "price_features", "custom_factors")


def feature_table(
    name: str, features: Iterable[tuple[str, str]], description: str, units: Mapping[str, str] | None = None
) -> TableSpec:
    """Declare a float32 table of ``(column, meaning)`` features keyed by universe, date and instrument.

    ``units``: of the columns that have one.
    """
    units = units or {}
    columns = tuple(Column(column, "float32", meaning, units.get(column, "")) for column, meaning in features)
    return TableSpec(name, ("universe", "date", "instrument"), (UNIVERSE, DATE, INSTRUMENT, *columns), description)


def labels_table(horizons: Iterable[int]) -> TableSpec:
    """Declare the label table: one ``label_<h>`` forward return per horizon, null until it is known."""
    columns = tuple(
        Column(
            f"label_{h}",
            "float32",
            f"Ref($close, -{h + 1})/Ref($close, -1) - 1, known at the close of session +{h + 1}",
            "return",
        )
        for h in horizons
    )
    return TableSpec(
        "labels",
        ("universe", "date", "instrument"),
        (UNIVERSE, DATE, INSTRUMENT, *columns),
        "Forward returns per horizon; the only table that looks ahead.",
    )


def table(name: str) -> TableSpec:
    """Return a fixed table by name; feature and label tables are declared by ``qdag.features``."""
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    return TABLES[name]
