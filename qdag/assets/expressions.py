"""Expressions of the Qlib directory's fields into a table, reading exactly the past they need."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod

import numpy as np
import pyarrow as pa

from qdag.assets.asset import Asset
from qdag.assets.inputs import read_panel
from qdag.assets.platform import Platform
from qdag.assets.records import reusable_columns
from qdag.assets.result import Result
from qdag.assets.write import chunks, write_sessions
from qdag.core.windows import CHUNK_SESSIONS, ends
from qdag.engine import compute, plan
from qdag.schema import RAW_OHLCV
from qdag.store.matrices import panel_batches, table_matrix

VALUES_AT_ONCE = 128 << 20
"""Most float32 values that are computed before they are written: 512 MiB. Fewer sessions at a time would have more of
the sessions before them computed again, for what looks back."""
LEAST_SESSIONS = 20


def write_expressions(
    platform: Platform,
    asset: Asset,
    universe: str,
    sessions: np.ndarray,
    expressions: Mapping[str, str],
    after: int = 0,
) -> Result:
    """Replace sessions of an asset's table by the values of expressions, by column.

    Columns whose stored values would not come out differently are kept. ``after``: sessions behind the last one that
    the expressions may look ahead; of such all columns are computed.
    """
    spec = asset.table(platform.settings)
    assert spec is not None
    standing = reusable_columns(platform, universe, asset, sessions) if len(sessions) and not after else ()
    wanted = {name: text for name, text in expressions.items() if name not in standing}
    planned, engine = plan(wanted, allow_future=after > 0), platform.settings.engine

    def batches() -> Iterator[pa.RecordBatch]:
        memory = np.empty(0, np.float32)
        for chunk in chunks(platform, asset.name, sessions, _sessions_at_once(platform, universe, len(expressions))):
            panel, begin = read_panel(platform, universe, chunk, planned.lookback, after, sorted(planned.fields))
            kept: dict[str, np.ndarray] = {}
            if standing:
                keys = ["date", "instrument", *standing]
                stored = platform.store.read(spec.name, universe, *ends(chunk), columns=keys)
                kept = table_matrix(stored, standing, panel.instruments, chunk)
            shape = (len(wanted), panel.shape[1] - begin, panel.shape[0])
            if memory.size < (size := prod(shape)):
                memory = np.empty(size, np.float32)
            values = compute(
                planned,
                panel,
                threads=engine.threads,
                block_instruments=engine.block_instruments,
                start=begin,
                pool=panel.traded(),
                out=memory[:size].reshape(shape),
            )
            columns = {name: array[:, : len(chunk)] for name, array in values.items()} | kept
            yield from panel_batches(spec, universe, panel.window(begin, begin + len(chunk)), columns)

    result = write_sessions(platform, asset, universe, sessions, batches, inputs=(RAW_OHLCV.name,))
    platform.tell(asset.name, len(sessions), len(sessions))
    if standing:
        result = replace(result, extra={**result.extra, "columns_computed": ", ".join(wanted) or "none"})
    return result


def _sessions_at_once(platform: Platform, universe: str, columns: int) -> int:
    from qdag.store.qlib.reader import read_instruments

    listed = len(read_instruments(platform.settings.provider(universe)))
    return min(CHUNK_SESSIONS, max(LEAST_SESSIONS, VALUES_AT_ONCE // max(1, columns * listed)))
