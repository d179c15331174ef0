"""The Qlib provider directory: adjusted series of every instrument, written session by session from raw_ohlcv."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from qdag.assets.asset import KEY_BYTES, VALUE_BYTES, Asset, Estimate
from qdag.assets.inputs import memberships, pool_definitions
from qdag.assets.platform import Platform
from qdag.assets.records import forget_sessions, inputs_of, record_sessions
from qdag.assets.result import SHOWN, Result
from qdag.assets.write import why_nothing
from qdag.core.resources import Meter
from qdag.engine import Panel
from qdag.lineage import Definition, Lineage, Reads, Stale
from qdag.quality import provider
from qdag.quality.checks import Frames, Scope
from qdag.quality.rule import Rule
from qdag.schema import ENGINE_FIELDS, QLIB_BIN, RAW_OHLCV
from qdag.settings import QualitySettings, Settings
from qdag.store.bars import change_reach, read_panels
from qdag.store.threads import prefetch
from qdag.text import listed, markdown_table

if TYPE_CHECKING:
    from qdag.core.pools import Pool
    from qdag.sources.membership import Membership
    from qdag.store.qlib.verify import Verification

FUTURE_SESSIONS = 250
"""Sessions that the calendar of the directory has beyond its last one."""


class QlibBin(Asset):
    """Calendar, instruments, pools and adjusted float32 series, readable by ``qlib.init``."""

    name = QLIB_BIN
    group = "market"
    kinds = frozenset({"python", "qlib"})
    seconds_per_million = 15.0
    description = (
        "Qlib provider directory per universe: calendar, instruments and adjusted float32 series, readable by "
        "`qlib.init(provider_uri=...)`. Derived from raw_ohlcv, published data first and calendar last."
    )

    @property
    def elsewhere(self) -> str:
        return "qlib_bin is a Qlib directory, not a table; `qdag verify-bin` reads it, D.features too"

    def upstream(self, settings: Settings, universe: str | None = None) -> tuple[str, ...]:
        return (RAW_OHLCV.name,)

    def reads(self, settings: Settings, universe: str, defined: Definition | None = None) -> tuple[Reads, ...]:
        # the change since the last close: over a suspension raw_ohlcv itself tells what its next row looks back to
        return (Reads(RAW_OHLCV.name, past=1),)

    def definition(self, settings: Settings, universe: str) -> Definition:
        shared = {"version": str(self.version), "fields": ",".join(ENGINE_FIELDS)}
        return Definition(shared, pool_definitions(settings, universe))

    def stored(self, platform: Platform, universe: str) -> np.ndarray:
        from qdag.store.qlib.reader import read_calendar

        return read_calendar(platform.settings.provider(universe), missing_ok=True)

    def stale(self, platform: Platform, lineage: Lineage, found: Stale) -> Stale:
        """The directory is no table with a log: at least its calendar tells which sessions it holds."""
        recorded, stored = lineage.recorded(self.name), self.stored(platform, lineage.universe)
        loose = np.setdiff1d(np.intersect1d(stored, lineage.sessions), recorded)
        rows = np.union1d(np.setdiff1d(recorded, stored), np.setdiff1d(loose, found.missing))
        if not len(rows):
            return found
        missing, code, data = (np.setdiff1d(days, rows) for days in (found.missing, found.code, found.data))
        return Stale(self.name, missing, code, data, rows)

    def rules(self, settings: Settings, limits: QualitySettings) -> tuple[Rule, ...]:
        return provider.rules(limits)

    def frames(self, scope: Scope) -> Frames:
        return provider.frames(scope)

    def estimate(self, settings: Settings, universe: str, days: np.ndarray, per_session: float) -> Estimate:
        rows = round(len(days) * per_session)
        size = rows * (len(ENGINE_FIELDS) * VALUE_BYTES + KEY_BYTES)
        return Estimate(rows, rows / 1e6 * self.seconds_per_million, size)

    def compute(self, platform: Platform, universe: str, start: date, end: date) -> Result:
        """Write the stored sessions into the universe's Qlib provider directory.

        Sessions between the last published one and the window are written as well, with what raw_ohlcv holds for them:
        a provider's calendar has no gaps. So are published ones after the window as far as its prices reach into them
        (``change`` looks back to the last traded close).
        """
        from qdag.store.qlib.reader import read_calendar, read_instruments
        from qdag.store.qlib.writer import QlibBinWriter

        spec = platform.settings.universe(universe)
        provider = platform.settings.provider(universe)
        sessions = platform.window(universe, start, end)
        extra: dict[str, Any] = {
            "provider": str(provider),
            **({} if len(sessions) else why_nothing(platform, universe)),
        }
        names: set[str] = set()
        by_session: dict[date, dict[str, int | float]] = {}
        report = None
        with Meter() as meter:
            if len(sessions):
                version = platform.store.version(RAW_OHLCV.name)
                calendar = platform.calendar(universe).between(spec.start, platform.last_session(universe))
                future = platform.calendar(universe).future(FUTURE_SESSIONS, after=calendar[-1].item())
                listed = read_instruments(provider)
                published = len(read_calendar(provider, missing_ok=True))
                begin = min(published, int(np.searchsorted(calendar, sessions[0])))
                reach = change_reach(platform.store, universe, listed, calendar[begin], sessions[-1], version)
                written = calendar[begin : int(np.searchsorted(calendar, reach, "right"))]
                read = inputs_of(platform, universe, self, written)
                members: list[Membership] = []

                def panels() -> Iterator[Panel]:
                    done = platform.written[self.name] = 0
                    platform.tell(self.name, done, len(written))
                    for panel in read_panels(platform.store, universe, written, version=version):
                        names.update(panel.instruments)
                        rows = np.count_nonzero(panel.traded(), axis=0)
                        platform.written[self.name] += int(rows.sum())
                        by_session.update(
                            (d, {"rows": int(n)}) for d, n in zip(panel.sessions.tolist(), rows, strict=True)
                        )
                        yield panel
                        done += panel.shape[1]
                        platform.tell(self.name, done, len(written))

                def pools(days: Mapping[str, tuple[date, date]], total: np.ndarray) -> "list[Pool]":
                    members.extend(memberships(platform, universe, days, total, version))
                    extra.update(_pool_metadata(members, total))
                    return [member.pool for member in members]

                # a write that dies may leave no calendar, or files of its own, even where it would have changed nothing
                forget_sessions(platform, universe, self, written, read, always=True)
                report = QlibBinWriter(provider).write(prefetch(panels(), 1), calendar, future, pools)
                record_sessions(platform, universe, self, written, read, version)
                following = int(np.count_nonzero(written > sessions[-1]))
                extra |= {"bridged_sessions": len(written) - len(sessions) - following, "following_sessions": following}
                extra |= {
                    name: value for name, value in vars(report).items() if name not in ("pools", "rows", "missing")
                }
                extra["raw_ohlcv_version"] = version
        cells = report.rows * len(ENGINE_FIELDS) if report else 0
        return Result(
            asset=self.name,
            universe=universe,
            version=None,
            rows=report.rows if report else 0,
            instruments=len(names),
            sessions=len(sessions),
            nan_share=report.missing / cells if report and cells else 0.0,
            seconds=meter.seconds,
            peak_mib=meter.peak_mib,
            extra=extra,
            by_session=by_session,
        )


def verify_bins(
    platform: Platform, universe: str, start: date | None = None, end: date | None = None
) -> "Verification":
    """Compare the Qlib directory with raw_ohlcv and the settings' pools, file by file; by default all of it.

    Raises
    ------
    MissingDataError
        One of the two does not exist.
    """
    from qdag.store.qlib.reader import published_days, read_calendar
    from qdag.store.qlib.verify import verify_provider

    provider = platform.settings.provider(universe)
    calendar = platform.calendar(universe)
    published = read_calendar(provider)
    stored = platform.store.sessions(RAW_OHLCV.name, universe)
    members = memberships(platform, universe, published_days(provider), published)
    first = published[0].item() if start is None else start
    last = published[-1].item() if end is None else end
    known = calendar.between(platform.settings.universe(universe).start, platform.last_session(universe))
    future = calendar.future(FUTURE_SESSIONS, after=known[-1].item())
    panels = read_panels(platform.store, universe, calendar.between(first, last))
    found = verify_provider(provider, panels, known, future, [member.pool for member in members])
    behind = stored[stored > published[-1]]
    if end is None and len(behind):
        text = f"ends at {published[-1]}, raw_ohlcv at {behind[-1]}; materialize qlib_bin"
        found = replace(found, problems=(*found.problems, ("calendars/day.txt", text)))
    return found


def _pool_metadata(members: "Sequence[Membership]", sessions: np.ndarray) -> dict[str, Any]:
    """For people: members of every pool on its first and last session, the fewest and the most, and the unmatched."""
    if not members:
        return {}
    rows = []
    unmatched = {}
    for m in members:
        counts = m.pool.counts(sessions)
        counts = counts[np.flatnonzero(counts)[0] :] if counts.any() else counts[-1:]
        lost = m.lost
        seen = (counts[0], counts[-1], counts.min(), counts.max())
        rows.append([m.pool.name, m.kind, m.size or "", *seen, len(lost), m.overlapping, len(m.empty)])
        if lost:
            unmatched[f"pool_{m.pool.name}_unmatched"] = f"{listed(lost, SHOWN)}; `qdag pools` lists all"
    heading = ["pool", "kind", "size", "first", "last", "min", "max", "unmatched", "overlapping", "empty"]
    return {"pools": markdown_table(heading, rows), **unmatched}


ASSET = QlibBin()
