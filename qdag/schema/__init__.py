"""Columns, dtypes, units and keys of every table. Quality rules are data derived from these; no I/O belongs here."""

from qdag.schema.bookkeeping import BOOKKEEPING, CONTRADICTIONS, DELIVERIES, LINEAGE
from qdag.schema.columns import DATE, DTYPES, INSTRUMENT, ROW, UNIVERSE, Column, TableSpec
from qdag.schema.market import ENGINE_FIELDS, FIELDS, FINDINGS, INDUSTRY, QLIB_BIN, QUARANTINE, RAW_OHLCV
from qdag.schema.results import FACTOR_METRICS, LABELS, PREDICTIONS, feature_table, labels_table

TABLES = {spec.name: spec for spec in (RAW_OHLCV, QUARANTINE, FINDINGS, *BOOKKEEPING, FACTOR_METRICS, PREDICTIONS)}
"""Tables whose columns depend on no settings, by name."""
RESERVED_COLUMNS = frozenset({"month"} | {key for spec in TABLES.values() for key in spec.keys})
"""Names that no feature may have: keys of the tables, and the partition column that the store adds."""

__all__ = [
    "BOOKKEEPING",
    "CONTRADICTIONS",
    "DATE",
    "DELIVERIES",
    "DTYPES",
    "ENGINE_FIELDS",
    "FACTOR_METRICS",
    "FIELDS",
    "FINDINGS",
    "INDUSTRY",
    "INSTRUMENT",
    "LABELS",
    "LINEAGE",
    "PREDICTIONS",
    "QLIB_BIN",
    "QUARANTINE",
    "RAW_OHLCV",
    "RESERVED_COLUMNS",
    "ROW",
    "TABLES",
    "UNIVERSE",
    "Column",
    "TableSpec",
    "feature_table",
    "labels_table",
]
