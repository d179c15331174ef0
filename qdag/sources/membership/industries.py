"""The industries of a universe's instruments, from a stock list."""

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qdag.errors import SourceError
from qdag.sources.membership.symbols import Symbols


@dataclass(frozen=True)
class Industries:
    """Industries of a universe's instruments.

    Parameters
    ----------
    names : industry names, sorted; a code is a position here, and does not depend on the universe
    codes : instrument -> code, for the instruments whose industry is known
    unknown : instruments without an industry, sorted
    others : lines of the file that are about no instrument of the universe
    """

    names: tuple[str, ...]
    codes: Mapping[str, int]
    unknown: tuple[str, ...]
    others: int

    def series(self, instruments: Sequence[str]) -> np.ndarray:
        """Codes as float32 (I,), NaN where unknown."""
        return np.array([self.codes.get(name, np.nan) for name in instruments], np.float32)


def read_industries(path: Path, region: str, instruments: Collection[str]) -> Industries:
    """Read a stock list: a CSV file with the columns ``ts_code`` (or ``symbol``) and ``industry``.

    Symbols in any usual spelling of the region; an empty industry is unknown. Text is UTF-8.

    Raises
    ------
    SourceError
        The file cannot be read or lacks a column, a symbol means several instruments, or an instrument has two
        industries; the line is named.
    """
    symbols = Symbols(region, instruments)
    industry: dict[str, str] = {}
    every: set[str] = set()
    others = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            key = next((name for name in ("ts_code", "symbol") if name in header), None)
            if key is None or "industry" not in header:
                raise SourceError(
                    f"industry file {str(path)!r} needs the columns ts_code (or symbol) and industry; got {header}"
                )
            for row in reader:
                name, symbol = (row["industry"] or "").strip(), (row[key] or "").strip()
                if name:
                    every.add(name)
                found = symbols.find(symbol)
                where = f"industry file {str(path)!r}, line {reader.line_num}"
                if len(found) > 1:
                    raise SourceError(f"{where}: {symbol!r} may be {' or '.join(found)}; write it as the universe does")
                if not found:
                    others += 1
                elif name and industry.setdefault(found[0], name) != name:
                    raise SourceError(
                        f"{where}: {symbol!r} is in {name!r}, but above in {industry[found[0]]!r}; delete one of them"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"industry file {str(path)!r} cannot be read: {error}; give a UTF-8 CSV file") from error
    names = tuple(sorted(every))
    code = {name: i for i, name in enumerate(names)}
    codes = {instrument: code[name] for instrument, name in sorted(industry.items())}
    return Industries(names, codes, tuple(sorted(set(instruments) - codes.keys())), others)
