"""An existing Qlib provider directory of daily data as a source.

A provider holds adjusted numbers: price x factor, volume / factor. Here they are turned back into raw ones by its
``factor``, and the factor goes along. They are 32-bit numbers, exact to about 1e-7 of their value. An instrument
without a factor file counts as not adjusted (factor 1), and in the check ``without_factor``.

``amount`` is what traded value is taken from, and where there is no such file ``vwap`` x ``volume``, whose factors
cancel. A session on which open, high, low, close and volume are all NaN is no row (Qlib's mark of a suspension).
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from qdag.errors import SourceError, unknown
from qdag.settings import QlibSource, UniverseSettings
from qdag.sources.actions import without_factor
from qdag.sources.cleaning import Cleaner
from qdag.sources.files.profiles import plain_symbol
from qdag.sources.protocol import Delivery
from qdag.sources.reasons import Reason
from qdag.sources.rows import NEEDED, RawRows
from qdag.store.qlib.layout import SUFFIX, folder_name, parse_bin, read_days, read_spans

OPTIONAL = ("factor", "amount", "vwap")
"""Fields that a provider may lack; ``NEEDED`` ones it must have."""


class QlibFolder:
    """Daily bars from ``calendars/day.txt``, ``instruments/all.txt`` and ``features``."""

    def __init__(self, universe: str, settings: UniverseSettings, source: QlibSource):
        self.universe = universe
        self.settings = settings
        self.folder = source.path.expanduser()

    def deliver(self, sessions: np.ndarray, start: date, end: date) -> Delivery:
        """Read the directory; see ``Source.deliver``."""
        calendar, listed = self.index()
        names = sorted(listed) if self.settings.instruments is None else list(self.settings.instruments)
        for name in names:
            if name not in listed:
                raise unknown(f"instrument of universe {self.universe!r}", name, listed)
        calendar = calendar[: int(np.searchsorted(calendar, np.datetime64(end, "D"), side="right"))]
        cleaner = Cleaner(self.universe, sessions, self.settings.start, start, end, "factor")
        refused = without = 0
        last = ""
        for name in names:
            source = f"features/{folder_name(name)}"
            if plain_symbol(name) is None:
                cleaner.refuse_file("instruments/all.txt", name, Reason.BAD_INSTRUMENT, repr(name))
                refused, last = refused + 1, repr(name)
                continue
            if other := cleaner.clash(name):
                cleaner.refuse_file(source, name, Reason.NAME_CLASH, f"{other!r} was read before")
                continue
            try:
                fields = self._fields(self.folder / source, len(calendar))
            except (OSError, ValueError) as error:
                cleaner.refuse_file(source, name, Reason.UNREADABLE, str(error))
                refused, last = refused + 1, f"{source}: {error}"
                continue
            without += "factor" not in fields
            self._add(cleaner, source, name, calendar, fields)
        if refused and refused == len(names):
            raise SourceError(f"no instrument of {str(self.folder)!r} can be read ({last}); correct source.path")
        delivery = cleaner.finish(len(names))
        return replace(delivery, checks={**delivery.checks, "without_factor": float(without)})

    def index(self) -> tuple[np.ndarray, list[str]]:
        """Its days and its instruments; SourceError where they cannot be read."""
        days, instruments = self.folder / "calendars" / "day.txt", self.folder / "instruments" / "all.txt"
        if not days.is_file():
            raise SourceError(
                f"{str(self.folder)!r} of universe {self.universe!r} is no Qlib provider directory "
                "(no calendars/day.txt); correct source.path"
            )
        try:
            calendar, listed = read_days(days), list(read_spans(instruments))
        except (OSError, ValueError) as error:
            raise SourceError(f"the index of {str(self.folder)!r} cannot be read: {error}; build it anew") from error
        if not listed:
            raise SourceError(f"{str(self.folder)!r} lists no instrument in instruments/all.txt; build it anew")
        if np.any(calendar[1:] <= calendar[:-1]):
            raise SourceError(f"the calendar of {str(self.folder)!r} is not increasing; build it anew")
        return calendar, listed

    def _fields(self, folder: Path, limit: int) -> dict[str, np.ndarray]:
        """Stored values over the calendar, float64 (limit,), NaN outside a file; without the optional files lacking."""
        fields = {}
        for field in (*NEEDED, *OPTIONAL):
            try:
                path = folder / f"{field}{SUFFIX}"
                begin, values = parse_bin(path.read_bytes(), path)
            except FileNotFoundError:
                if field in OPTIONAL:
                    continue
                raise
            values = values[: max(limit - begin, 0)]
            fields[field] = np.full(limit, np.nan)
            fields[field][begin : begin + len(values)] = values
        return fields

    def _add(
        self, cleaner: Cleaner, source: str, name: str, calendar: np.ndarray, fields: dict[str, np.ndarray]
    ) -> None:
        at = np.flatnonzero(~np.all([np.isnan(fields[field]) for field in NEEDED], axis=0))
        if not len(at):
            return
        stored = {field: values[at] for field, values in fields.items()}
        bad = np.any([np.isinf(values) for values in stored.values()], axis=0)
        factor = stored.get("factor", np.ones(len(at)))
        with np.errstate(invalid="ignore", over="ignore"):
            numbers = without_factor({"factor": factor, **{field: stored[field] for field in NEEDED}})
            traded = stored.get("vwap", np.full(len(at), np.nan)) * stored["volume"]
        numbers["amount"] = stored.get("amount", traded)

        def text(line: np.ndarray) -> Iterator[str]:
            for row in np.searchsorted(at, line - 1).tolist():
                cells = (f"{field}={values[row]:.9g}" for field, values in stored.items())
                yield ",".join([f"date={calendar[at[row]]}", *cells])

        cleaner.add(source, RawRows(np.full(len(at), name, object), calendar[at], at + 1, numbers, bad), text, name)


def source_of(universe: str, settings: UniverseSettings, source: QlibSource, downloads: Path | None) -> QlibFolder:
    """See ``qdag.sources.open``."""
    return QlibFolder(universe, settings, source)
