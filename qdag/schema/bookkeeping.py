"""How the other tables came about: what was read, and what every stored session was computed from."""

from qdag.schema.columns import DATE, UNIVERSE, Column, TableSpec

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

BOOKKEEPING = (DELIVERIES, CONTRADICTIONS, LINEAGE)
"""Tables that no asset is asked for."""
