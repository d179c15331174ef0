"""Expressions of the Qlib directory's fields into a table, reading exactly the past they need."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from qdag.assets.asset import Asset
from qdag.assets.inputs import read_panel
from qdag.assets.platform import Platform
from qdag.assets.records import reusable_columns
from qdag.assets.result import Result
from qdag.assets.write import chunks, write_sessions
from qdag.core.windows import ends
from qdag.engine import compute_blocks, plan
from qdag.schema import RAW_OHLCV
from qdag.store.matrices import panel_batches, table_matrix


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
        for chunk in chunks(platform, asset.name, sessions):
            panel, begin = read_panel(platform, universe, chunk, planned.lookback, after, sorted(planned.fields))
            window = panel.window(begin, begin + len(chunk))
            kept = {}
            if standing:
                keys = ["date", "instrument", *standing]
                stored = platform.store.read(spec.name, universe, *ends(chunk), columns=keys)
                kept = table_matrix(stored, standing, panel.instruments, chunk)
            blocks = compute_blocks(
                wanted,
                panel,
                threads=engine.threads,
                block_instruments=engine.block_instruments,
                start=begin,
                allow_future=after > 0,
                pool=panel.traded(),
            )
            for which, arrays in blocks:
                columns = {name: values[:, : len(chunk)] for name, values in arrays.items()}
                columns |= {name: values[which] for name, values in kept.items()}
                yield from panel_batches(spec, universe, window.rows(which), columns)

    result = write_sessions(platform, asset, universe, sessions, batches, inputs=(RAW_OHLCV.name,))
    platform.tell(asset.name, len(sessions), len(sessions))
    if standing:
        result = replace(result, extra={**result.extra, "columns_computed": ", ".join(wanted) or "none"})
    return result
