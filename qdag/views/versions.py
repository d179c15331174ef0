"""Versions of tables as frames for people."""

from typing import TYPE_CHECKING, Any

from qdag.assets.platform import Platform
from qdag.operations.upkeep import check_tables, protected_versions
from qdag.store.versions import Version, versions

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("table", "version", "time", "operation", "universe", "start", "end", "match", "rows", "run", "definition",
           "inputs", "note")  # fmt: skip
"""What is told of a version."""


def table_versions(platform: Platform, table: str, limit: int | None = None) -> "pd.DataFrame":
    """Versions of a table, the newest first: when (UTC), which run, which sessions, how many rows, from which inputs.

    UnknownNameError: no such table is stored.
    """
    check_tables(platform, [table])
    protected = protected_versions(platform.settings).get(table, set())
    return _frame([_row(table, one, one.version in protected) for one in versions(platform.store, table, limit)])


def newest_versions(platform: Platform) -> "pd.DataFrame":
    """The newest version of every stored table."""
    rows = []
    for table in platform.store.names():
        rows += [_row(table, one, False) for one in versions(platform.store, table, 1)]
    return _frame(rows)


def _row(table: str, of: Version, protected: bool) -> dict[str, Any]:
    told = of.provenance
    notes = [f"of version {told['restored_version']}"] if "restored_version" in told else []
    notes += ["read by a model"] if protected else []
    notes += [told["reason"]] if "reason" in told else []
    notes += [] if of.readable else ["files gone"]
    return {
        "table": table,
        "version": of.version,
        "time": of.time,
        "operation": of.operation,
        "universe": of.universe or "",
        "start": of.start,
        "end": of.end,
        "match": of.match or "",
        "rows": of.rows,
        "run": of.run or "",
        "definition": told.get("definition_version", ""),
        "inputs": ", ".join(f"{name} {version}" for name, version in sorted(of.inputs.items())),
        "note": ", ".join(notes),
    }


def _frame(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.assign(
        start=pd.to_datetime(frame["start"]), end=pd.to_datetime(frame["end"]), rows=frame["rows"].astype("Int64")
    )
