"""What a table's log tells: its commits, the files of each version, and the checksums that commits named."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import pyarrow as pa

import qdag.store.tables.log as log
from qdag.store.tables.location import Location
from qdag.store.tables.read import data_files


def history(location: Location, name: str, after: int = -1) -> list[dict[str, Any]]:
    """Commits after a version, newest first, as of ``TableStore.history``."""
    # read from the log itself: deltalake numbers its history wrongly while others commit
    found = []
    for version in range(location.table(name).version(), after, -1):
        try:
            info = log.info_of(location.actions(name, version))
        except FileNotFoundError:
            break
        except ValueError:
            info = {}
        found.append(
            {
                "version": version,
                "commit_id": info.get("commit_id"),
                "timestamp": datetime.fromtimestamp(info.get("timestamp", 0) / 1000, UTC),
                "operation": info.get("does", info.get("operation", "unknown")),
                "provenance": json.loads(info.get("provenance", "{}")),
                "universe": info.get("universe"),
                "start": date.fromisoformat(info["start"]) if "start" in info else None,
                "end": date.fromisoformat(info["end"]) if "end" in info else None,
                "match": info.get("match"),
                "rows": info.get("rows", info.get("operationMetrics", {}).get("num_added_rows")),
            }
        )
    return found


def files(location: Location, name: str, version: int | None = None) -> pa.Table:
    """Data files of a version, as of ``TableStore.files``."""
    found = data_files(location, name, location.table(name, version))
    columns = {
        "path": ("path", pa.string()),
        "universe": ("partition.universe", pa.string()),
        "month": ("partition.month", pa.string()),
        "size": ("size_bytes", pa.int64()),
        "rows": ("num_records", pa.int64()),
        "first": ("min.date", pa.date32()),
        "last": ("max.date", pa.date32()),
    }
    empty = found.num_rows == 0
    return pa.table({k: pa.array([], d) if empty else found[c].cast(d) for k, (c, d) in columns.items()})


def needed(location: Location, name: str, versions: Iterable[int]) -> Iterator[tuple[int, set[str]]]:
    """Some versions with the data files that they need, as of ``TableStore.needed``."""
    newest = location.table(name).version()
    wanted = sorted({version for version in versions if 0 <= version <= newest})
    checkpoints = log.checkpoint_versions(location.log_names(name))
    begin = max((c for c in checkpoints if wanted and c <= wanted[0]), default=0)
    return log.replay(
        partial(location.actions, name), wanted, begin, lambda v: files(location, name, v)["path"].to_pylist()
    )


def mentioned(location: Location, name: str, newest: int) -> set[str]:
    """Data files that some commit up to the version ``newest`` puts in or takes out."""
    found = set()
    for version in log.commit_versions(location.log_names(name)):
        if version <= newest:
            with suppress(ValueError):
                found |= log.mentioned(location.actions(name, version))
    return found


def told_checksums(location: Location, name: str) -> dict[str, str]:
    """SHA-256 of data files by path, as the commits that brought them told."""
    found: dict[str, str] = {}
    for version in log.commit_versions(location.log_names(name)):
        with suppress(ValueError):
            found |= log.info_of(location.actions(name, version)).get("sha256", {})
    return found
