"""What comes from a source: bars, what was refused of them, what was noticed; and the fields that they become."""

from qdag.schema.columns import DATE, INSTRUMENT, UNIVERSE, Column, TableSpec

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

QLIB_BIN = "qlib_bin"
"""The Qlib provider directory of a universe, which is no table."""
ENGINE_FIELDS = ("open", "high", "low", "close", "volume", "vwap", "change", "factor", "amount")
"""Series of the Qlib directory, which expressions read as ``$open``."""
INDUSTRY = "industry"
"""Field of panels, not of the provider: the code of each instrument's industry, NaN where unknown."""
FIELDS = (*ENGINE_FIELDS, INDUSTRY)
"""Everything that an expression may read."""
