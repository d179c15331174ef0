"""What is computed: features, labels, metrics of factors, predictions."""

from collections.abc import Iterable, Mapping

from qdag.schema.columns import DATE, INSTRUMENT, UNIVERSE, Column, TableSpec

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

LABELS = "labels"
"""The table of labels, whose columns the horizons decide."""


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
        LABELS,
        ("universe", "date", "instrument"),
        (UNIVERSE, DATE, INSTRUMENT, *columns),
        "Forward returns per horizon; the only table that looks ahead.",
    )
