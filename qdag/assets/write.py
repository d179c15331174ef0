"""Replacing the sessions of a table: records withdrawn, rows written, records made."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from qdag import __version__
from qdag.assets.asset import Asset
from qdag.assets.platform import Platform
from qdag.assets.records import forget_sessions, inputs_of, record_sessions, version_read
from qdag.assets.result import Result, RowCounter
from qdag.core.resources import Meter
from qdag.core.windows import CHUNK_SESSIONS, ends, parts
from qdag.schema import TableSpec
from qdag.store.threads import prefetch

BATCH_ROWS = 1 << 16
AHEAD = 1
"""Batches, mostly a month each, that wait for the writer."""

Batches = Callable[[], Iterator[pa.RecordBatch]]
"""Begins the stream of rows; begun anew when another process has changed the same files meanwhile."""


def write_sessions(
    platform: Platform,
    asset: Asset,
    universe: str,
    sessions: np.ndarray,
    batches: Batches,
    inputs: tuple[str, ...] = (),
) -> Result:
    """Replace sessions (without gaps) of an asset's table by the streamed rows, account for them and record them.

    ``inputs``: tables whose version the commit names. A window without sessions writes nothing and says why.
    """
    spec = asset.table(platform.settings)
    if spec is None:
        raise TypeError(f"{asset} has no table to write")
    counter, version = RowCounter(spec.values), platform.store.version(spec.name)
    with Meter() as meter:
        if len(sessions):
            read = inputs_of(platform, universe, asset, sessions)
            provenance = {
                "definition_version": asset.definition(platform.settings, universe).version,
                **{f"input.{n}": str(version_read(platform, universe, asset, n, sessions)) for n in inputs},
            }
            forget_sessions(platform, universe, asset, sessions, read)
            counter, version = replace_rows(platform, spec, universe, sessions, batches, provenance)
            record_sessions(platform, universe, asset, sessions, read, version)
    return counter.result(
        asset.name, universe, version, meter, {} if len(sessions) else why_nothing(platform, universe)
    )


def replace_rows(
    platform: Platform,
    spec: TableSpec,
    universe: str,
    sessions: np.ndarray,
    batches: Batches,
    provenance: Mapping[str, str],
) -> tuple[RowCounter, int]:
    """Replace sessions (at least one) of a table by the streamed rows; nothing is recorded.

    Returns what was counted of the rows, and the version that holds them.
    """
    counter = RowCounter(spec.values)

    def stream() -> Iterator[pa.RecordBatch]:
        nonlocal counter
        counter = RowCounter(spec.values)
        platform.written[spec.name] = 0
        for batch in counter.watch(prefetch(batches(), AHEAD)):
            platform.written[spec.name] += batch.num_rows
            yield batch

    told = {**platform.provenance, "qdag_version": __version__, **provenance}
    version = platform.store.replace(spec, universe, *ends(sessions), stream, told)
    return counter, version


def why_nothing(platform: Platform, universe: str) -> dict[str, Any]:
    """What is said of a window without sessions: days on which only other exchanges are open, or out of range."""
    spec = platform.settings.universe(universe)
    return {
        "note": f"no session of {spec.calendar} in the range of universe {universe!r} (from {spec.start} to "
        f"{min(spec.end, platform.last_session(universe)) if spec.end else 'the last closed session'}): "
        "the partition is valid and empty"
    }


def chunks(platform: Platform, name: str, sessions: np.ndarray, most: int = CHUNK_SESSIONS) -> Iterator[np.ndarray]:
    """At ``most`` so many sessions at a time, so that memory does not grow with history; reports progress between."""
    done = 0
    platform.tell(name, done, len(sessions))
    for chunk in parts(sessions, most):
        yield chunk
        done += len(chunk)
        platform.tell(name, done, len(sessions))
