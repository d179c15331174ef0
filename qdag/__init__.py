"""qdag: a Dagster asset-based data platform for quantitative equity research on Microsoft Qlib."""

__version__ = "0.1.0"
