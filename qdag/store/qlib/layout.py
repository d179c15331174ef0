"""The layout of a Qlib provider directory of daily data: how things are named in it, and what its files hold.

Writing one belongs to the modules beside this one, taking data from a foreign one to ``qdag.sources``; both read it as
told here.
A file that does not hold what it should is a ValueError: what is to be done about it depends on whose directory it is.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

SUFFIX = ".day.bin"
"""Of a data file; before it stands the field in lower case."""
# what Qlib's pandas.read_csv of the instruments file takes for a missing value (its default list)
MISSING_WORDS = frozenset(
    [
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    ]
)
# names that Windows reserves: Qlib looks for them with a prefix (qlib.utils.code_to_fname)
RESERVED = frozenset(["CON", "PRN", "AUX", "NUL", *(f"COM{i}" for i in range(10)), *(f"LPT{i}" for i in range(10))])


def qlib_symbol(instrument: str) -> str:
    """The name by which Qlib finds an instrument; a word that it reads as missing gets a tail (``NA`` -> ``NA_``)."""
    return f"{instrument}_" if instrument.rstrip("_") in MISSING_WORDS else instrument


def instrument_of(symbol: str) -> str:
    """The instrument that Qlib knows by a symbol: the inverse of ``qlib_symbol``."""
    return symbol[:-1] if symbol.endswith("_") and symbol.rstrip("_") in MISSING_WORDS else symbol


# asked for with every file
@lru_cache(maxsize=1 << 16)
def folder_name(instrument: str) -> str:
    """The folder of an instrument below ``features``."""
    symbol = qlib_symbol(instrument)
    return (f"_qlib_{symbol}" if symbol.upper() in RESERVED else symbol).lower()


def read_days(path: Path) -> np.ndarray:
    """The days of a calendar file, datetime64[D]; ValueError where it is no list of dates."""
    try:
        return np.array(path.read_text("utf-8").split(), "datetime64[D]")
    except ValueError as error:
        raise ValueError(f"{path} is no list of dates ({error})") from None


def read_lines(path: Path) -> Iterator[tuple[str, np.datetime64, np.datetime64]]:
    """Instrument, first and last day of each line of an instruments file, in order.

    ValueError where a line is none of a name, a first and a last day.
    """
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            symbol, start, end = line.split("\t")[:3]
            span = np.datetime64(start, "D"), np.datetime64(end, "D")
        except ValueError:
            raise ValueError(f"{path}, line {number}: {line!r} is no instrument with a first and a last day") from None
        yield instrument_of(symbol), *span


def read_spans(path: Path) -> dict[str, tuple[np.datetime64, np.datetime64]]:
    """First and last day of each instrument of an instruments file; several spans of one instrument count as one.

    ValueError as of :func:`read_lines`.
    """
    spans: dict[str, tuple[np.datetime64, np.datetime64]] = {}
    for name, first, last in read_lines(path):
        known = spans.get(name, (first, last))
        spans[name] = min(first, known[0]), max(last, known[1])
    return spans


def parse_bin(content: bytes, path: str | Path) -> tuple[int, np.ndarray]:
    """Position of a data file's first session in the calendar, and its float32 values from there on.

    ValueError where it does not begin with a position; ``path`` is for that message.
    """
    # a torn append leaves part of a number at the end
    values = np.frombuffer(content[: len(content) // 4 * 4], "<f4")
    if not len(values) or not np.isfinite(values[0]) or values[0] < 0 or values[0] != int(values[0]):
        raise ValueError(f"{path} does not begin with a calendar position")
    return int(values[0]), values[1:]
