"""Raw bars: read from the source, quarantined where they break a structural rule, stored where they differ."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag import __version__
from qdag.assets.asset import Asset, Estimate, Range
from qdag.assets.corrections import Given, Withdrawal, silent_about
from qdag.assets.delivery import contradict, quarantine_rows, refuse_uncovered, withdrawn
from qdag.assets.platform import Platform
from qdag.assets.result import PREVIEW_ROWS, Result, RowCounter
from qdag.assets.write import BATCH_ROWS, replace_rows, write_sessions
from qdag.core.resources import Meter
from qdag.core.windows import ends, parts
from qdag.lineage import Definition, Lineage, Reads, reconcile
from qdag.quality import market
from qdag.quality.checks import Frames, Scope
from qdag.quality.rule import Rule
from qdag.schema import FINDINGS, QUARANTINE, RAW_OHLCV, TableSpec
from qdag.settings import QualitySettings, Settings, UniverseSettings, WebSource
from qdag.store.digests import Differences, differences
from qdag.text import markdown_table

if TYPE_CHECKING:
    from qdag.sources.protocol import Delivery, Source

ROW_BYTES = 60


class RawOhlcv(Asset):
    """Daily bars as delivered. The source is read and compared as a whole for any session of it."""

    name = RAW_OHLCV.name
    group = "market"
    kinds = frozenset({"python", "deltalake"})
    unit = "steps"
    also = (QUARANTINE, FINDINGS)
    takes = frozenset({"instruments", "accepted"})
    read_whole = True
    seconds_per_million = 30.0

    def table(self, settings: Settings) -> TableSpec:
        return RAW_OHLCV

    def upstream(self, settings: Settings, universe: str | None = None) -> tuple[str, ...]:
        return ()

    def reads(self, settings: Settings, universe: str, defined: Definition | None = None) -> tuple[Reads, ...]:
        return ()

    def definition(self, settings: Settings, universe: str) -> Definition:
        return _dtypes(RAW_OHLCV, settings, universe)

    def request(self, settings: Settings, stale: Sequence[Range], ranges: Mapping[str, Sequence[Range]]) -> list[Range]:
        """One window: the source is read as a whole for any session of it, and only what differs is written."""
        return [(stale[0][0], stale[-1][1])] if stale else []

    def rules(self, settings: Settings, limits: QualitySettings) -> tuple[Rule, ...]:
        return market.rules(limits)

    def frames(self, scope: Scope) -> Frames:
        from qdag.quality import market_frames

        return market_frames.frames(scope)

    def estimate(self, settings: Settings, universe: str, days: np.ndarray, per_session: float) -> Estimate:
        rows = round(len(days) * per_session)
        return Estimate(rows, rows / 1e6 * self.seconds_per_million, rows * ROW_BYTES)

    def compute(
        self,
        platform: Platform,
        universe: str,
        start: date,
        end: date,
        instruments: Collection[str] | None = None,
        accepted: Collection[str] = (),
    ) -> Result:
        """Read the source, quarantine what breaks a structural rule, store the rest.

        Only what differs from what is stored is written, from the first to the last session that does; a delivery of
        files that did not change since they were read is not read again. The source is read and compared as a whole:
        stored sessions outside the window that it gives otherwise are written down as contradictions, and are stale. Of
        a source that is asked by instrument, only ``instruments`` are asked for where they are given; what is stored of
        others stays.

        An instrument that would lose more than the settings' ``withdrawn_share`` of its stored rows is held back: it is
        quarantined like a file that was refused, and what is stored of it stays, unless it is one of ``accepted``.

        Raises
        ------
        SourceError
            The source cannot be read at all, or a window ends before all rows that it was accepted to lose.
        """
        sessions = platform.window(universe, start, end)
        if not len(sessions):
            return write_sessions(platform, self, universe, sessions, lambda: iter(()))
        with Meter() as meter:
            platform.tell(self.name, 0, 2)
            reading = _Reading.of(platform, universe, sessions, instruments, accepted)
            if (since := reading.unchanged_since()) is not None:
                result = _unread(platform, universe, sessions, reading.files, since)
            else:
                result = _take_over(platform, universe, sessions, reading)
            platform.tell(self.name, 2, 2)
        return replace(result, seconds=meter.seconds, peak_mib=meter.peak_mib)


@dataclass(frozen=True)
class _Reading:
    """A source that is about to be read for a window of sessions.

    Attributes
    ----------
    way : digest of what the bars depend on besides the delivered bytes
    asked : the only instruments that it is asked for; None for all
    accepted : instruments that may lose stored rows
    through : last day that it is read for: all that files hold, and no more of a vendor than somebody wants
    """

    platform: Platform
    universe: str
    sessions: np.ndarray
    spec: UniverseSettings
    source: "Source"
    way: str
    asked: Sequence[str] | None
    accepted: Collection[str]
    through: date

    @classmethod
    def of(
        cls,
        platform: Platform,
        universe: str,
        sessions: np.ndarray,
        instruments: Collection[str] | None,
        accepted: Collection[str],
    ) -> "_Reading":
        from qdag.sources import open_source
        from qdag.sources.protocol import FileSource, reader_digest

        spec = platform.settings.universe(universe)
        way, asked = reader_digest(spec), None
        if instruments is not None and isinstance(spec.source, WebSource):
            asked = sorted(set(instruments) & set(spec.instruments or ()))
            # one that fails again takes nothing from those that come
            patient = spec.source.model_copy(update={"failed_share": 1.0})
            spec = spec.model_copy(update={"instruments": tuple(asked), "source": patient})
        source = open_source(universe, spec, platform.settings.downloads)
        through = platform.last_session(universe) if isinstance(source, FileSource) else sessions[-1].item()
        return cls(platform, universe, sessions, spec, source, way, asked, accepted, through)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Digest of every file; none of a source that is no folder."""
        from qdag.sources.protocol import FileSource

        return self.source.hashes() if isinstance(self.source, FileSource) else {}

    @property
    def files(self) -> int:
        return len(self.hashes)

    def unchanged_since(self) -> int | None:
        """Version of the table that holds what the same files gave for the window; None where they must be read."""
        from qdag.sources.protocol import FileSource
        from qdag.store import deliveries

        store = self.platform.store
        if not isinstance(self.source, FileSource) or self.accepted or not store.exists(QUARANTINE.name):
            return None
        return deliveries.unchanged(store, self.universe, *ends(self.sessions), self.hashes, self.way)

    @property
    def everything(self) -> np.ndarray:
        """All sessions that the source is read for."""
        return self.platform.calendar(self.universe).between(self.spec.start, self.through)

    def deliver(self) -> "Delivery":
        return self.source.deliver(self.everything, self.spec.start, self.through)

    def silence(self, refused: pa.Table) -> tuple[list[str], bool]:
        """Instruments about which the delivery says nothing, and whether it says nothing about any: a file of several
        instruments that was refused."""
        from qdag.sources.protocol import FileSource, unspoken

        several = isinstance(self.source, FileSource) and self.source.owners(()) is None
        names, everyone = unspoken(refused, several)
        return list(names), everyone


def _take_over(platform: Platform, universe: str, sessions: np.ndarray, reading: _Reading) -> Result:
    """Read the source and bring what is stored in line with it, in the order in which a kill loses nothing: other files
    that were read before are forgotten; what was refused and noticed, the bars of the window, their digests, the
    contradictions outside it, the files."""
    from qdag.store import deliveries

    first, last = ends(sessions)
    everything, delivery = reading.everything, reading.deliver()
    platform.tell(RAW_OHLCV.name, 1, 2)
    hashes = {file.source: file.sha256 for file in delivery.versions}
    mark = {deliveries.DELIVERY: deliveries.fingerprint(hashes, reading.way)} if hashes else {}
    told = replace(platform, provenance={**platform.provenance, **mark})

    refused, everyone = reading.silence(delivery.quarantine)
    given = Given(RAW_OHLCV, delivery.parts, silent_about(refused, everyone, reading.asked))
    stored = _raw_digests(platform, universe, everything)
    unlike = given.unlike(everything, stored)
    held = withdrawn(platform, universe, given, unlike, delivery.quarantine)
    if cut := {name: lost for name, lost in held.items() if name in reading.accepted}:
        refuse_uncovered(universe, cut, first, last)
    held = {name: lost for name, lost in held.items() if name not in reading.accepted}
    if held:
        given = replace(given, silent=silent_about([*refused, *held], everyone, reading.asked), held=tuple(held))
    known = deliveries.newest_reading(platform.store, universe)
    if known and (known.hashes, known.reader_digest) != (hashes, reading.way):
        # should they return before this reading has come to its end, they are read again
        deliveries.forget(platform.store, universe, platform.provenance)
    quarantine = quarantine_rows(delivery.quarantine, universe, first, reading.spec.source.kind, held)
    for table, rows in ((QUARANTINE, quarantine), (FINDINGS, delivery.findings)):
        # what the source as a whole is like is known now, whatever was asked for
        _correct(told, Given(table, [rows], silent_about((), asked=reading.asked)), universe, everything)
    result, found = _correct(told, given, universe, sessions)
    reconcile(platform.store, universe, platform.calendar(universe).all, platform.provenance)
    outside = unlike[(unlike < sessions[0]) | (unlike > sessions[-1])]
    if refused or held or reading.asked is not None:
        outside = given.confirmed(platform.store, universe, outside)
    contradicted = contradict(platform, universe, everything, outside, stored, reading.asked is not None)
    if delivery.versions:
        provenance = {**platform.provenance, "qdag_version": __version__}
        files = [vars(file) for file in delivery.versions]
        compared = reading.spec.start, reading.through
        deliveries.record(platform.store, universe, *compared, files, reading.way, result.version, provenance)
    extra = _delivered(replace(delivery, quarantine=quarantine), found, first, last, contradicted, held)
    return replace(result, extra=result.extra | extra)


def _delivered(
    delivery: "Delivery",
    found: Differences,
    first: date,
    last: date,
    contradicted: np.ndarray,
    held: Mapping[str, Withdrawal],
) -> dict[str, Any]:
    """For people: what a delivery changed from ``first`` to ``last``, and what else is to be known of it. Corrections
    and the figures of its checks are of all sessions that it tells."""

    def inside(rows: pa.Table) -> pa.Table:
        return rows.filter((pc.field("date") >= first) & (pc.field("date") <= last))

    refused, findings = inside(delivery.quarantine), inside(delivery.findings)
    extra: dict[str, Any] = {
        "files": delivery.files,
        **_counts(found),
        "corrections": delivery.corrections,
        "quarantined": refused.num_rows,
        **{key: float(value) for key, value in delivery.checks.items()},
    }
    if not found:
        extra["note"] = "what was delivered is what is stored: nothing written"
    if len(contradicted):
        extra["sessions_contradicted"] = len(contradicted)
        extra["contradicted"] = (
            f"{contradicted[0]} .. {contradicted[-1]}: sessions outside the window that are stored otherwise than they "
            "are delivered now; `qdag refresh` brings them in line"
        )
    if held:
        shown = [f"{name}: {lost}" for name, lost in held.items()]
        extra["held_back"] = "; ".join(shown[:PREVIEW_ROWS]) + (" ..." if len(shown) > PREVIEW_ROWS else "")
    counts = pc.value_counts(refused["reason"]).to_pylist()
    if counts:
        extra["quarantine_reasons"] = markdown_table(["reason", "rows"], ([c["values"], c["counts"]] for c in counts))
    if findings.num_rows:
        listing = findings.slice(0, PREVIEW_ROWS).select(["date", "instrument", "kind", "detail"])
        extra["first_findings"] = markdown_table(listing.column_names, zip(*listing.to_pydict().values(), strict=True))
    return extra


def _counts(found: Differences) -> dict[str, int]:
    """What changed, counted, by name."""
    return {name: value for name, value in vars(found).items() if isinstance(value, int)}


def _raw_digests(platform: Platform, universe: str, sessions: np.ndarray) -> np.ndarray:
    """Digest of the rows that raw_ohlcv holds of each session, uint64 (S,); 0 where it holds none."""
    records = Lineage(platform.store, universe, sessions, platform.calendar(universe).all).records(RAW_OHLCV.name)
    return np.where(records.known, records.inputs, np.uint64(0))


def _unread(platform: Platform, universe: str, sessions: np.ndarray, files: int, since: int) -> Result:
    """The result of a delivery that need not be read, from what is stored."""
    store, counter = platform.store, RowCounter(RAW_OHLCV.values)
    for part in parts(sessions):
        counter.count(iter(store.read(RAW_OHLCV.name, universe, *ends(part)).to_batches()))
    extra = {
        "files": files,
        **_counts(Differences(sessions_unchanged=len(counter.rows_of))),
        "quarantined": store.count(QUARANTINE.name, universe, *ends(sessions)),
        "note": f"all files are as they were read for version {since}: not read again, nothing written",
    }
    return counter.result(RAW_OHLCV.name, universe, store.version(RAW_OHLCV.name), Meter(), extra)


def _correct(platform: Platform, given: Given, universe: str, sessions: np.ndarray) -> tuple[Result, Differences]:
    """Bring the stored rows of the window of ``sessions`` in line with a delivery.

    One commit replaces the range from the first to the last session that differs; none is made where none does. The
    result describes the whole window, and a table that is not there yet is made.
    """
    correction = _Correction(platform, given, universe, *ends(sessions))
    counter, found, version = correction.written_whole() or correction.written_where_it_differs()
    return counter.result(given.spec.name, universe, version, Meter(), {}), found


@dataclass(frozen=True)
class _Correction:
    """The rows that a table should hold from ``start`` to ``end``, beside those that it holds."""

    platform: Platform
    given: Given
    universe: str
    start: date
    end: date

    @cached_property
    def exists(self) -> bool:
        return self.platform.store.exists(self.given.spec.name)

    @cached_property
    def empty(self) -> bool:
        """Nothing is stored of the window."""
        spec = self.given.spec
        return not self.exists or not self.platform.store.count(spec.name, self.universe, self.start, self.end)

    def stored(self, first: date, last: date) -> pa.Table:
        """The stored rows of some days of the window."""
        spec = self.given.spec
        return (
            spec.arrow().empty_table()
            if self.empty
            else self.platform.store.read(spec.name, self.universe, first, last)
        )

    def rows(self, first: date, last: date) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The stored rows of some days and those that should be, part by part."""
        for part, low, high in self.given.spans(first, last):
            old = self.stored(low, high)
            yield old, self.given.rows(part, low, high, old)

    def written_whole(self) -> tuple[RowCounter, Differences, int] | None:
        """Write all given rows where none is stored; None where some are, or nothing is given for a table that
        exists."""
        if self.exists and not (self.empty and self.given.has(self.start, self.end)):
            return None
        counter, version = self._write(self.start, self.end)
        sessions, rows = len(counter.rows_of), counter.rows
        new = Differences(sessions_new=sessions, rows_new=rows, first=self.start, last=self.end)
        return counter, new if rows else Differences(), version

    def written_where_it_differs(self) -> tuple[RowCounter, Differences, int | None]:
        """Compare row by row, and write from the first to the last session that differs."""
        spec = self.given.spec
        counter, found = RowCounter(spec.values), Differences()
        for old, rows in self.rows(self.start, self.end):
            found += differences(old, rows, spec.keys)
            counter.count(iter(rows.to_batches()))
        if found.first and found.last:
            self._write(found.first, found.last)
        return counter, found, self.platform.store.version(spec.name)

    def _write(self, first: date, last: date) -> tuple[RowCounter, int]:
        def batches() -> Iterator[pa.RecordBatch]:
            for _, rows in self.rows(first, last):
                yield from rows.to_batches(BATCH_ROWS)

        spec, settings = self.given.spec, self.platform.settings
        provenance = {"definition_version": _dtypes(spec, settings, self.universe).version}
        days = np.array([first, last], "M8[D]")
        return replace_rows(self.platform, spec, self.universe, days, batches, provenance)


def _dtypes(spec: TableSpec, settings: Settings, universe: str) -> Definition:
    """The definition of a table of delivered rows: how they are stored."""
    dtypes = ",".join(f"{column.name} {column.dtype}" for column in spec.columns)
    return Definition({"dtypes": dtypes, "calendar": settings.universe(universe).calendar})


ASSET = RawOhlcv()
