"""The embedded sample: daily bars of AAPL, FB, GOOG, IBM and MSFT, 2000-03-01 to 2013-03-01.

The rows are the ``stocks.csv.gz`` of the package ``bokeh_sampledata`` (Quandl WIKI prices). Open, high, low, close and
volume are as traded: AAPL's close halves on 2000-06-21 and 2005-02-28, MSFT's on 2003-02-18, each with a factor of
2. The adjusted close is adjusted for splits and dividends, so the factor is adjusted close / close; the events
themselves are not delivered, ``split`` and ``dividend`` are null.
"""

import gzip
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from qdag.errors import SourceError, unknown
from qdag.settings import SampleSource, UniverseSettings
from qdag.sources.cleaning import Cleaner
from qdag.sources.protocol import Delivery
from qdag.sources.rows import RawRows

SOURCE = "stocks.csv.gz"
"""Name of the file in the package."""
COLUMNS = {
    "Open": "open",
    "High": "high",
    "Low": "low",
    "Close": "close",
    "Volume": "volume",
    "Adj Close": "adjusted_close",
}
"""Column of the file -> column of ``RawRows``."""


class Sample:
    """The five stocks."""

    def __init__(self, universe: str, settings: UniverseSettings):
        self.universe = universe
        self.settings = settings

    def deliver(self, sessions: np.ndarray, start: date, end: date) -> Delivery:
        """Read the package's file; see ``Source.deliver``."""
        rows, lines = _rows()
        names = sorted(set(rows.instrument.tolist()))
        if self.settings.instruments is not None:
            for name in self.settings.instruments:
                if name not in names:
                    raise unknown(f"instrument of universe {self.universe!r}", name, names)
            rows = rows.take(np.isin(rows.instrument.astype(str), self.settings.instruments))
        cleaner = Cleaner(self.universe, sessions, self.settings.start, start, end, "adjusted_close")
        cleaner.add(SOURCE, rows, lambda line: [lines[at - 1] for at in line.tolist()])
        return cleaner.finish(files=1)


def _rows() -> tuple[RawRows, list[str]]:
    from pyarrow.csv import ConvertOptions, read_csv

    try:
        import bokeh_sampledata
    except ImportError as error:
        raise SourceError(
            "the sample needs the package bokeh-sampledata; install it with `pip install bokeh-sampledata`"
        ) from error
    data = gzip.decompress((Path(bokeh_sampledata.__file__).parent / "_data" / SOURCE).read_bytes())
    types = {"Ticker": pa.string(), "Date": pa.date32(), **dict.fromkeys(COLUMNS, pa.float64())}
    table = read_csv(
        pa.BufferReader(data), convert_options=ConvertOptions(column_types=types, strings_can_be_null=False)
    )
    numbers = {name: table[column].to_numpy() for column, name in COLUMNS.items()}
    size = table.num_rows
    line = np.arange(2, size + 2)
    day = table["Date"].to_numpy().astype("M8[D]")
    instrument = table["Ticker"].to_numpy()
    return RawRows(instrument.astype(object), day, line, numbers, np.zeros(size, bool)), data.decode().splitlines()


def source_of(universe: str, settings: UniverseSettings, source: SampleSource, downloads: Path | None) -> Sample:
    """See ``qdag.sources.open``."""
    return Sample(universe, settings)
