"""The rules of Qlib's directory, and the frames they are judged on: calendar, bin files and pools against raw_ohlcv."""

from collections.abc import Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from qdag.quality.checks import INSTRUMENT_KEYS, Frames, Scope, coded, read_rows, row_days
from qdag.quality.rule import Rule
from qdag.schema import QLIB_BIN, RAW_OHLCV
from qdag.settings import QualitySettings

if TYPE_CHECKING:
    from qdag.engine import Panel

ASSET = QLIB_BIN
"""The asset whose checks judge the directory."""
SAMPLED_INSTRUMENTS = 200
"""Qlib's values of so many evenly spaced instruments are turned back into raw ones."""
RAW_IN_BINS = ("open", "high", "low", "close", "vwap", "volume")
"""The columns of raw_ohlcv that the directory holds adjusted."""


def rules(limits: QualitySettings) -> tuple[Rule, ...]:
    """The rules of Qlib's directory under the limits of a universe."""
    rule = partial(Rule, table=ASSET)
    return (
        rule(
            name="calendar complete",
            check="structure",
            kind="equals",
            columns=("is_session", "in_calendar"),
            meaning="Qlib's calendar must hold exactly the exchange's sessions up to the last one written: a gap or a "
            "stranger shifts every later value. Materialize the range again.",
            frame="calendar",
            parameters={"value": True},
            says="a session of the exchange: {is_session}; in Qlib's calendar, in order: {in_calendar}",
        ),
        rule(
            name="bins equal the table",
            check="structure",
            kind="between",
            columns=("different",),
            meaning="Values that Qlib reads differ from raw_ohlcv, or a file of the directory is not what it must be: "
            "materialize the range again.",
            frame="bins",
            parameters={"maximum": 0},
            says="{field}: {different} sessions differ",
            see="qdag verify-bin -u {universe}",
        ),
        rule(
            name="adjusted is raw times factor",
            check="structure",
            kind="between",
            columns=("difference",),
            meaning="Prices over the factor, or volume times it, are not the raw values: Qlib trades at other prices.",
            frame="adjusted",
            parameters={"maximum": 1e-6},
            says="{field} differs from the raw one by up to {difference:.2e} of it",
        ),
        rule(
            name="members of pools have prices",
            check="completeness",
            kind="between",
            columns=("share",),
            meaning="Members of a pool with a close, per session. Suspensions count; a low share is a partial "
            "delivery.",
            frame="pool_prices",
            parameters={"minimum": limits.pool_share},
            says="{priced} of {members} members of {pool} have a price",
        ),
        rule(
            name="configured pools written",
            check="completeness",
            kind="equals",
            columns=("written",),
            meaning="A pool of the settings has no instruments file: it has no stored member, as one of kind top in "
            "the first month; or it was set later: materialize qlib_bin again.",
            frame="pools",
            parameters={"value": True},
            says="pool {pool} has no instruments file",
            see="qdag pools -u {universe}",
        ),
        rule(
            name="spans of pools apart",
            check="structure",
            kind="equals",
            columns=("apart",),
            meaning="Two spans of one member overlap, so it would count twice: materialize qlib_bin again.",
            frame="pool_spans",
            parameters={"value": True},
            says="member of {pool} from {start} to {end}, and of the span before that",
        ),
        rule(
            name="members of pools stored",
            check="structure",
            kind="equals",
            columns=("stored",),
            meaning="A member has days on which nothing of it is stored: materialize qlib_bin again.",
            frame="pool_spans",
            parameters={"value": True},
            says="member of {pool} from {start} to {end}, which is not stored in full",
        ),
        rule(
            name="pools near their size",
            check="completeness",
            kind="between",
            columns=("share",),
            meaning="Stored members over the size of a pool that is meant to be complete, per session: the universe "
            "lacks members of it (`qdag pools` lists them), and metrics of the pool speak of those that are "
            "there.",
            frame="pool_sizes",
            parameters={"minimum": 0.8, "maximum": 1.2},
            says="{pool} has {members} of {size} members",
            see="qdag pools -u {universe}",
        ),
    )


def frames(scope: Scope) -> Frames:
    """Yield the frames of Qlib's directory; none for a window without a session.

    Raises
    ------
    MissingDataError
        The directory, or raw_ohlcv, does not exist.
    """
    from qdag.schema import ENGINE_FIELDS
    from qdag.store.bars import read_panels
    from qdag.store.qlib.reader import read_calendar, read_instruments, read_provider_panel
    from qdag.store.qlib.verify import verify_provider

    window = scope.sessions()
    if not len(window):
        return
    provider = scope.settings.provider(scope.universe)
    lines = read_calendar(provider)
    spec = scope.settings.universe(scope.universe)
    known = [*lines, *window]
    due = scope.calendar().between(max(spec.start, min(known).item()), max(known).item())
    every = np.union1d(lines, due)
    in_order = bool(np.all(np.diff(lines) > np.timedelta64(0, "D")))
    yield (
        "calendar",
        pd.DataFrame(
            {
                "date": every.astype("M8[s]"),
                "is_session": np.isin(every, due),
                "in_calendar": np.isin(every, lines) & in_order,
            }
        ),
    )

    raw = read_rows(scope, RAW_OHLCV.name, window[0], window[-1], [*INSTRUMENT_KEYS, *RAW_IN_BINS, "factor"])
    traded = pc.unique(raw["instrument"]).to_pylist()
    names = sorted({*traded, *read_instruments(provider)})
    picked = np.linspace(0, len(names) - 1, min(SAMPLED_INSTRUMENTS, len(names))).astype(int)
    names = [names[i] for i in np.unique(picked)]
    bins = read_provider_panel(provider, ENGINE_FIELDS, names, window[0], window[-1], missing_ok=True)
    whole = scope.calendar().between(spec.start, due[-1].item())
    ahead = scope.calendar().future(1, after=whole[-1].item())
    found = verify_provider(provider, read_panels(scope.store, scope.universe, window), whole, ahead)
    different = {(d.instrument, d.field): max(d.sessions, 1) for d in found.differences}
    rows = [(name, column, different.get((name, column), 0)) for name in found.instruments for column in ENGINE_FIELDS]
    rows += [(path, text, 1) for path, text in found.problems]
    yield "bins", pd.DataFrame(rows, columns=["instrument", "field", "different"])
    yield "adjusted", _unadjusted(raw, bins, names, window)
    yield "pool_prices", _pool_prices(scope, raw, window)
    yield from _pool_frames(scope, lines)


def _pool_frames(scope: Scope, calendar: np.ndarray) -> Frames:
    """The instruments files of the configured pools: there or not, their spans, and members by session."""
    from qdag.store.qlib.reader import published_days, read_pool

    provider = scope.settings.provider(scope.universe)
    days = published_days(provider)
    window = np.intersect1d(scope.sessions(), calendar)
    written, spans, sizes = [], [], []
    for name, settings in scope.settings.universe(scope.universe).pools.items():
        pool = read_pool(provider, name)
        written.append((name, pool is not None))
        if pool is None:
            continue
        before = None
        for span in pool.spans:
            apart = before is None or before.instrument != span.instrument or before.end < span.start
            first, last = days.get(span.instrument, (date.max, date.min))
            spans.append((name, span.instrument, span.start, span.end, apart, first <= span.start <= span.end <= last))
            before = span
        if settings.expected:
            counts, size = pool.counts(window), settings.expected
            line = {"members": counts, "size": size, "share": counts / size}
            sizes.append(pd.DataFrame({"pool": name, "date": window.astype("M8[s]"), **line}))
    yield "pools", pd.DataFrame(written, columns=["pool", "written"])
    yield "pool_spans", pd.DataFrame(spans, columns=["pool", "instrument", "start", "end", "apart", "stored"])
    if sizes:
        yield "pool_sizes", pd.concat(sizes, ignore_index=True)


def _unadjusted(raw: pa.Table, bins: "Panel", names: Sequence[str], window: np.ndarray) -> pd.DataFrame:
    """Per instrument and field, how far Qlib's value and factor are from the raw value, relative to it at most."""
    from qdag.store.matrices import table_matrix

    stored = table_matrix(raw, RAW_IN_BINS, names, window)
    found = np.isin(bins.sessions, window)
    at = np.searchsorted(window, bins.sessions[found])
    lines = []
    for name in RAW_IN_BINS:
        with np.errstate(all="ignore"):
            values, factor = (bins[n][:, found].astype(np.float64) for n in (name, "factor"))
            back = values * factor if name == "volume" else values / factor
            apart = np.abs(back - stored[name][:, at]) / np.maximum(np.abs(stored[name][:, at]), 1e-12)
        worst = np.where(np.isnan(apart), 0.0, apart).max(axis=1, initial=0.0)
        lines.append(pd.DataFrame({"instrument": list(names), "field": name, "difference": worst}))
    return pd.concat(lines, ignore_index=True)


def _pool_prices(scope: Scope, raw: pa.Table, window: np.ndarray) -> pd.DataFrame:
    """Per pool and session: members, and how many of them have a close."""
    from qdag.store.qlib.reader import read_pool

    codes, names = coded(raw)
    days = row_days(raw)
    known = np.isin(days, window) & (codes >= 0)
    present = np.zeros((len(names), len(window)), bool)
    present[codes[known], np.searchsorted(window, days[known])] = True
    lines = []
    for name in ("all", *scope.settings.universe(scope.universe).pools):
        pool = read_pool(scope.settings.provider(scope.universe), name)
        if pool is None:
            continue  # judged by "configured pools written"
        members = pool.counts(window)
        priced = (pool.mask(names, window) & present).sum(axis=0)
        share = priced / np.where(members > 0, members, np.nan)
        lines.append(
            pd.DataFrame(
                {"date": window.astype("M8[s]"), "pool": name, "members": members, "priced": priced, "share": share}
            )
        )
    columns = ["date", "pool", "members", "priced", "share"]
    return pd.concat(lines, ignore_index=True) if lines else pd.DataFrame(columns=columns)
