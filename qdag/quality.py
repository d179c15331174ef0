"""Quality rules as data, and the frames they are judged on. What judges them lives with the orchestrator.

A :class:`Rule` says what must hold of one named *frame* of a table: the stored rows themselves (``rows``), or a small
summary with one line per session, instrument, column, bin file and so on. :func:`frames` reads the store and yields
these frames for a window; wide tables are summarised by column here, so that judging stays quick. No I/O but reading.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import unknown
from qdag.features.catalogue import FEATURE_SETS, feature_set
from qdag.quality_reference import LOOKBACK, REFERENCES, adjusted, difference, references
from qdag.schema import FEATURE_TABLES, UNIVERSE, Column, TableSpec
from qdag.sessions import SessionCalendar, calendar_for
from qdag.settings import QualitySettings, Settings

if TYPE_CHECKING:
    from qdag.engine import Panel
    from qdag.store.tables import TableStore

Check = Literal["structure", "completeness", "timeliness", "values", "drift"]
CHECKS: dict[str, str] = {
    "structure": "Keys, types and logic that everything downstream relies on; a failure stops what follows.",
    "completeness": "Whether what should be there is there; a failure warns.",
    "timeliness": "Whether the table is up to date with what it is made from; a failure warns.",
    "values": "Whether the numbers are plausible; a failure warns.",
    "drift": "Whether features are distributed as in the year before; a failure warns.",
}
KINDS = ("unique", "not_null", "between", "ordered", "equals", "empty")

MATURE_SESSIONS = 252
"""Sessions of history after which missing values are judged: the longest rolling window has filled by then."""
ACTIVE_SESSIONS = 20
"""An instrument is expected on a session when it has a row on it or on one of these many sessions before it."""
RAW_BEFORE = 2 * ACTIVE_SESSIONS + 5
"""Sessions read before the window, so that what is said of a row does not depend on where the window begins."""
VOLUME_ROWS, VOLUME_LEAST = 20, 10
CONVENTIONS = ("factor_convention",)
"""Kinds of findings in which vendor and events only follow different conventions."""
FEW_ROWS = 5
"""Fewer refused ones than these are listed but never stop the chain, however small the universe."""
CHUNK_ROWS = 100_000
SAMPLED_INSTRUMENTS = 200
SAMPLED_DAYS = 5
PROFILE_ROWS = 1000
DRIFT_SESSIONS, DRIFT_REFERENCE, DRIFT_LEAST = 20, 252, 60
DRIFT_STEP = 3
LEAST_SHARE = 1e-3
LARGEST = float(np.finfo(np.float64).max)
# float32 columns: an oscillator's rounding noise around 0 stays visible, so its bounds have this slack
SLACK = 1e-3


@dataclass(frozen=True)
class Rule:
    """One thing that must hold.

    Parameters
    ----------
    name : unique within its table
    table : asset whose check judges it
    check : ``structure`` blocks the downstream, the others warn
    kind : ``unique`` (the columns together), ``not_null``, ``between`` (each column within ``minimum`` and/or
        ``maximum``; null passes, infinity does not), ``ordered`` (first column >= second; null passes), ``equals``
        (each column equals ``value``), ``empty`` (the frame has no row)
    columns : columns of the frame
    meaning : why it matters and what to do, for the person who reads the failure
    frame : which frame of :func:`frames`
    parameters : of the kind; ``strict`` makes the bounds of ``between`` and the order of ``ordered`` exclusive
    says : sentence about a line that breaks the rule, with the frame's columns in braces; a plain one by default
    notice : the lines are listed for people and never fail the check
    asks : what is asked, where the bounds do not say it to people
    see : command that shows the lines, with ``universe`` and ``day`` in braces
    """

    name: str
    table: str
    check: Check
    kind: str
    columns: tuple[str, ...]
    meaning: str
    frame: str = "rows"
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    says: str = ""
    notice: bool = False
    asks: str = ""
    see: str = "qdag report -u {universe} --date {day}"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of quality rule", self.kind, KINDS)
        if self.check not in CHECKS:
            raise unknown("check", self.check, CHECKS)

    @property
    def severity(self) -> Literal["error", "warn", "notice"]:
        return "notice" if self.notice else "error" if self.check == "structure" else "warn"

    @property
    def limit(self) -> str:
        """What is asked, in a few characters."""
        if self.asks:
            return self.asks
        p = self.parameters
        if self.kind == "between":
            sign = "<" if p.get("strict") else "<="
            low = f"{p['minimum']:g} {sign} " if p.get("minimum", -LARGEST) > -LARGEST else ""
            high = f" {sign} {p['maximum']:g}" if p.get("maximum", LARGEST) < LARGEST else ""
            return f"{low}value{high}" if low or high else "finite"
        if self.kind == "ordered":
            return f"{self.columns[0]} {'>' if p.get('strict') else '>='} {self.columns[1]}"
        equal = "true" if p.get("value") is True else f"= {p.get('value')}"
        empty = "listed" if self.notice else "none"
        return {"unique": "no duplicate", "not_null": "no null", "empty": empty, "equals": equal}[self.kind]


@dataclass(frozen=True)
class Offence:
    """One line that breaks a rule; ``date`` and ``instrument`` are empty where the line is about no such thing."""

    date: str
    instrument: str
    value: str
    limit: str
    sentence: str


@dataclass(frozen=True)
class RuleResult:
    """How a rule came out: ``judged`` lines (or values), ``violations`` among them, the worst of them, and by date
    how many and the worst of that date."""

    rule: Rule
    judged: int
    violations: int
    observed: str
    offenders: tuple[Offence, ...] = ()
    by_date: Mapping[date, tuple[int, tuple[Offence, ...]]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.rule.notice or not self.violations

    @property
    def dates(self) -> frozenset[date]:
        return frozenset(self.by_date)

    def told(self, universe: str, last: date) -> str:
        """What a person reads first of a broken rule: the worst line, how many are like it, and what shows them.

        ``last`` is the last session that was judged: lines about no session are kept with it.
        """
        worst = self.offenders[0] if self.offenders else Offence("", "", "", "", self.observed)
        about = " on ".join(word for word in (worst.instrument, worst.date) if word)
        more = f"; {self.violations - 1:,} more of {self.judged:,}" if self.violations > 1 else ""
        see = self.rule.see.format(universe=universe, day=worst.date or last)
        return f"{about}{': ' if about else ''}{worst.sentence}{more} ({self.rule.name}). See `{see}`."

    def __add__(self, other: "RuleResult") -> "RuleResult":
        """The result over two parts of one frame; parts do not share a date."""
        worst = other if other.violations > self.violations or not self.judged else self
        return RuleResult(
            self.rule,
            self.judged + other.judged,
            self.violations + other.violations,
            worst.observed,
            (self.offenders + other.offenders)[:OFFENDERS],
            {**self.by_date, **other.by_date},
        )


SUBJECTS = ("instrument", "column", "field", "factor", "label", "source")
"""Columns that say what a line is about, beside its session; the first that a frame has counts."""
OFFENDERS = 10
OFFENDERS_OF_DATE = 5


def violations(rule: Rule, frame: pd.DataFrame) -> pd.Series:
    """Which lines of a frame break a rule: bool, aligned with the frame."""
    columns, p = list(rule.columns), rule.parameters
    if rule.kind == "unique":
        return frame.duplicated(columns, keep=False)
    if rule.kind == "empty":
        return pd.Series(True, index=frame.index)
    if rule.kind == "ordered":
        first, second = (frame[c] for c in columns)
        wrong = first <= second if p.get("strict") else first < second
        return wrong & first.notna() & second.notna()
    wrong = pd.Series(False, index=frame.index)
    for name in columns:
        values = frame[name]
        if rule.kind == "not_null":
            wrong |= values.isna()
        elif rule.kind == "equals":
            wrong |= values.ne(p["value"]) & values.notna()
        else:
            # float64, or a float32 column would take the largest float64 for infinity and let infinity pass
            values = values.astype(np.float64)
            low, high = p.get("minimum", -LARGEST), p.get("maximum", LARGEST)
            wrong |= (values.le(low) | values.ge(high)) if p.get("strict") else (values.lt(low) | values.gt(high))
    return wrong


def describe(rule: Rule, frame: pd.DataFrame, count: int) -> str:
    """What was seen, in a few words."""
    if frame.empty:
        return "nothing to judge"
    if rule.kind == "between":
        values = frame[list(rule.columns)].to_numpy(np.float64, na_value=np.nan)
        if np.isnan(values).all():
            return "all null"
        seen = f"{np.nanmin(values):.6g} .. {np.nanmax(values):.6g}"
        seen = seen if np.nanmin(values) < np.nanmax(values) else f"{np.nanmin(values):.6g}"
        return f"{seen}; {count:,} outside" if count else seen
    if rule.kind == "empty":
        return f"{count:,} listed" if rule.notice else f"{count:,} found"
    return f"{count:,} of {len(frame):,} break it" if count else f"all {len(frame):,} hold"


def offenders(
    rule: Rule, frame: pd.DataFrame
) -> tuple[tuple[Offence, ...], dict[date, tuple[int, tuple[Offence, ...]]]]:
    """The worst lines that break a rule, worst first where there is a worse; and by date how many and the worst."""
    wrong = frame[violations(rule, frame)]
    wrong = wrong.iloc[np.argsort(-_beyond(rule, wrong), kind="stable")]
    worst = tuple(_offence(rule, line) for line in wrong.head(OFFENDERS).to_dict("records"))
    if "date" not in wrong:
        return worst, {}
    dated = wrong[wrong["date"].notna()]
    days = dated["date"].to_numpy().astype("M8[D]")
    counts = dict(zip(*(a.tolist() for a in np.unique(days, return_counts=True)), strict=True))
    lines: dict[date, list[Offence]] = {day: [] for day in counts}
    shown = dated[dated.groupby(days, sort=False).cumcount().to_numpy() < OFFENDERS_OF_DATE]
    for line in shown.to_dict("records"):
        lines[line["date"].date()].append(_offence(rule, line))
    return worst, {day: (counts[day], tuple(lines[day])) for day in counts}


def _beyond(rule: Rule, wrong: pd.DataFrame) -> np.ndarray:
    """How far each line is beyond what is asked; 0 where there is no more or less."""
    if {"value", "low", "high"} <= set(wrong):
        value, low, high = (wrong[c].to_numpy(np.float64, na_value=np.nan) for c in ("value", "low", "high"))
        return np.nan_to_num(np.maximum(low - value, value - high), nan=0.0)
    if rule.kind not in ("between", "ordered"):
        return np.zeros(len(wrong))
    if rule.kind == "ordered":
        first, second = (wrong[c] for c in rule.columns)
        if first.dtype.kind == "M":
            return (second - first).dt.days.to_numpy(np.float64)
        return (second - first).to_numpy(np.float64, na_value=np.nan)
    p = rule.parameters
    low, high = p.get("minimum", -LARGEST), p.get("maximum", LARGEST)
    values = wrong[list(rule.columns)].to_numpy(np.float64, na_value=np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = np.maximum(low - values, values - high)
    return np.nan_to_num(beyond, nan=0.0).max(axis=1, initial=0.0)


def _offence(rule: Rule, line: dict[Any, Any]) -> Offence:
    def shown(value: object) -> str:
        if isinstance(value, pd.Timestamp):
            return f"{value:%Y-%m-%d}"
        return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)

    value, limit = "", rule.limit
    if rule.kind == "between":
        p = rule.parameters
        low, high = p.get("minimum", -LARGEST), p.get("maximum", LARGEST)
        # Python's floats: the largest float64 less a number is still one
        beyond = {c: max(low - float(line[c]), float(line[c]) - high) for c in rule.columns if line[c] == line[c]}
        value = shown(line[max(beyond, key=lambda c: beyond[c])])
    elif rule.kind == "ordered":
        value, limit = shown(line[rule.columns[1]]), f"{rule.columns[0]} {shown(line[rule.columns[0]])}"
    elif "value" in line:
        value = shown(line["value"])
        limit = f"{shown(line['low'])} .. {shown(line['high'])}" if rule.frame == "bounds" else limit
    elif rule.kind in ("equals", "not_null"):
        value = ", ".join(shown(line[c]) for c in rule.columns)
    rest = [c for c in line if c not in ("date", "instrument")]
    if rule.frame == "rows":
        keys = FACTOR_KEYS if rule.table == "factor_metrics" else ()
        rest = [c for c in rest if c in rule.columns or c in keys]
    sentence = rule.says.format_map(line) if rule.says else ", ".join(f"{c} = {shown(line[c])}" for c in rest)
    day = line.get("date")
    instrument = next((line[c] for c in SUBJECTS if c in line), "")
    return Offence(
        "" if day is None or pd.isna(day) else shown(day),
        "" if instrument is None or instrument != instrument else str(instrument),
        value,
        limit,
        sentence,
    )


# -- the rules --------------------------------------------------------------------------------------------------------

PERCENT = (0.0, 100.0)
SHARE = (0.0, 1.0)
BALANCE = (-1.0, 1.0)
NOT_NEGATIVE = (0.0, LARGEST)
RETURN = (-1.0, LARGEST)
FEATURE_BOUNDS: dict[str, dict[str, tuple[float, float]]] = {
    "alpha158": {
        **dict.fromkeys(("KUP2", "KLOW2", "LOW0", "RSQR", "RANK", "RSV", "IMAX", "IMIN", "MIN"), SHARE),
        **dict.fromkeys(("CNTP", "CNTN", "SUMP", "SUMN", "VSUMP", "VSUMN"), SHARE),
        **dict.fromkeys(("KMID2", "KSFT2", "IMXD", "CORR", "CORD", "CNTD", "SUMD", "VSUMD"), BALANCE),
        **dict.fromkeys(("KLEN", "KUP", "KLOW", "OPEN0", "VWAP0", "ROC", "MA", "STD", "QTLU", "QTLD"), NOT_NEGATIVE),
        **dict.fromkeys(("VMA", "VSTD", "WVMA"), NOT_NEGATIVE),
        **dict.fromkeys(("HIGH0", "MAX"), (1.0, LARGEST)),
        **dict.fromkeys(("KMID",), RETURN),
    },
    "basic_statistics": {
        **dict.fromkeys(("MEAN", "STD", "MAX", "MIN", "Q"), NOT_NEGATIVE),
        "CORR": BALANCE,
        "RETURN": RETURN,
    },
    "technical_indicators": {
        **dict.fromkeys(("rsi_14", "volume_rsi_14", "stoch_k", "stoch_d", "kdj_k", "kdj_d", "adx_14"), PERCENT),
        "willr_14": (-100.0, 0.0),
        **dict.fromkeys(("atr_14", "volatility_20", "hist_volatility_20"), NOT_NEGATIVE),
    },
    "price_features": {
        "price_position_20": SHARE,
        **dict.fromkeys(("volume_change", "volume_momentum_5", "volume_momentum_20"), RETURN),
        "price_change_": RETURN,
        **dict.fromkeys(("momentum_5", "momentum_20"), RETURN),
        **dict.fromkeys(("volume_ma_ratio_20", "volatility_5", "volatility_20"), NOT_NEGATIVE),
        **dict.fromkeys(("price_range", "price_range_ratio", "open_to_close"), NOT_NEGATIVE),
        "high_to_close": (1.0, LARGEST),
        "low_to_close": SHARE,
    },
    "labels": {"label_": (-0.9, 3.0)},
}
"""Bounds that a feature has by its definition, by column or by the column's name without its window; for labels,
what is plausible."""


def bounds_of(table: str, columns: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The bounded ones of the columns."""
    known = FEATURE_BOUNDS.get(table, {})
    found = {c: known.get(c, known.get(c.rstrip("0123456789"))) for c in columns}
    return {c: bounds for c, bounds in found.items() if bounds is not None}


FACTOR_KEYS = ("date", "pool", "horizon", "factor")
INSTRUMENT_KEYS = ("date", "instrument")


def rules_for(table: str, columns: Sequence[str] = (), limits: QualitySettings | None = None) -> tuple[Rule, ...]:
    """The rules of a table or asset.

    Parameters
    ----------
    columns : those that the table declares (they decide which bounds apply)
    limits : the universe's; the defaults where left out

    Raises
    ------
    UnknownNameError
        The name is no table, feature table or asset.
    """
    limits = limits or QualitySettings()
    if table in FEATURE_TABLES:
        return _feature_rules(table, columns, limits)
    builders: dict[str, Callable[[QualitySettings], tuple[Rule, ...]]] = {
        "raw_ohlcv": _raw_rules,
        "qlib_bin": _bin_rules,
        "labels": _label_rules,
        "factor_metrics": _metric_rules,
        "predictions": _prediction_rules,
        "trained_model": lambda _: (),
        "backtest": lambda _: (),
    }
    if table not in builders:
        raise unknown("table", table, (*FEATURE_TABLES, *builders))
    return builders[table](limits)


def _keyed(table: str, keys: tuple[str, ...], limits: QualitySettings) -> tuple[Rule, ...]:
    """Rules of every table: declared columns, unique keys without nulls, dates that are sessions, up to date."""
    return (
        Rule(
            "declared columns stored",
            table,
            "structure",
            "equals",
            ("stored",),
            "A declared column is not stored: the table was written by an older version; materialize the range again.",
            "schema",
            {"value": True},
            "declared, but not stored",
        ),
        Rule(
            "keys unique",
            table,
            "structure",
            "unique",
            keys,
            "One row per key; a duplicate counts twice everywhere.",
            says="stored more than once" + ("" if keys == INSTRUMENT_KEYS else " in pool {pool}, horizon {horizon}"),
        ),
        Rule(
            "keys not null",
            table,
            "structure",
            "not_null",
            keys,
            "A row without its key belongs to nothing.",
            says="a row without " + " or ".join(keys),
        ),
        Rule(
            "dates are sessions",
            table,
            "structure",
            "equals",
            ("is_session",),
            "A stored date is no session of the universe's exchange: the calendar setting or the source is wrong.",
            "sessions",
            {"value": True},
            "{rows} rows on a day that is no session",
        ),
        Rule(
            "up to date",
            table,
            "timeliness",
            "between",
            ("behind",),
            "The exchange has closed on later sessions than the newest stored one: the delivery is late, or the source "
            "ends there: then set the universe's `end`."
            if table == "raw_ohlcv"
            else "raw_ohlcv has later sessions than this table: materialize them.",
            "timeliness",
            {"maximum": limits.behind_sessions},
            "the newest stored session is {last:%Y-%m-%d}, due is {due:%Y-%m-%d}: {behind} sessions behind"
            + ("; where the source ends, set the universe's end = {last:%Y-%m-%d}" if table == "raw_ohlcv" else ""),
        ),
    )


def _covers(table: str) -> Rule:
    return Rule(
        "a row for every bar",
        table,
        "structure",
        "between",
        ("missing_bars",),
        "Rows of raw_ohlcv without a row here: materialize the sessions again.",
        "sessions",
        {"maximum": 0},
        "{missing_bars} rows of raw_ohlcv have no row here",
    )


def _raw_rules(limits: QualitySettings) -> tuple[Rule, ...]:
    def rule(name: str, check: Check, kind: str, columns: tuple[str, ...], meaning: str, **parameters: Any) -> Rule:
        frame = parameters.pop("frame", "rows")
        told = {key: parameters.pop(key) for key in ("says", "notice", "see") if key in parameters}
        return Rule(name, "raw_ohlcv", check, kind, columns, meaning, frame, parameters, **told)

    outside = "The bar contradicts itself: one of its prices is wrong."
    return (
        *_keyed("raw_ohlcv", INSTRUMENT_KEYS, limits),
        rule("close and volume present", "structure", "not_null", ("close", "volume"), "A bar needs both."),
        rule(
            "prices positive",
            "structure",
            "between",
            ("open", "high", "low", "close", "factor"),
            "A price or adjustment factor of zero or below has no return.",
            minimum=0,
            strict=True,
        ),
        rule("high not below low", "structure", "ordered", ("high", "low"), "The day's range is reversed."),
        rule("close not above high", "structure", "ordered", ("high", "close"), outside),
        rule("close not below low", "structure", "ordered", ("close", "low"), outside),
        rule("open not above high", "structure", "ordered", ("high", "open"), outside),
        rule("open not below low", "structure", "ordered", ("open", "low"), outside),
        rule(
            "volume not negative", "structure", "between", ("volume",), "Shares traded cannot be negative.", minimum=0
        ),
        rule(
            "every session has bars",
            "structure",
            "between",
            ("rows",),
            "No instrument has a row on a session although later ones have: a file or a day is missing. Deliver it, or "
            "set the universe's start to the first session that the source covers. Sessions after the newest delivered "
            "one are late, which `timeliness` tells.",
            frame="sessions",
            minimum=1,
            says="no instrument has a bar",
        ),
        rule(
            "few files refused",
            "structure",
            "between",
            ("share",),
            "Many files are no tables at all: the delivery as a whole went wrong (a rate limit, a full disk).",
            frame="refused_share",
            maximum=limits.refused_files,
            says="{refused} of {files} files were refused",
            see="qdag show quarantine -u {universe}",
        ),
        rule(
            "few rows refused",
            "structure",
            "between",
            ("refused_share",),
            "Many rows of one session are broken: the layout or the units of the delivery have changed.",
            frame="sessions",
            maximum=limits.refused_rows,
            says="{refused} rows refused, {rows} stored",
            see="qdag show quarantine -u {universe} --start {day} --end {day}",
        ),
        rule(
            "no file refused",
            "completeness",
            "empty",
            (),
            "A whole file was unreadable (an error page, truncated, empty): deliver it again. Or a delivery has much "
            "less of an instrument than is stored, which is kept: deliver it whole, or take it with `qdag accept`.",
            frame="refused_files",
            says="the file {source} was refused as a whole: {reason}",
            see="qdag show quarantine -u {universe}",
        ),
        rule(
            "no row refused",
            "completeness",
            "empty",
            (),
            "Delivered rows that broke a structural rule; they are in the quarantine table.",
            frame="refused_rows",
            says="{source}, line {line}: {reason}",
            see="qdag show quarantine -u {universe}",
        ),
        rule(
            "fields complete",
            "completeness",
            "between",
            ("null_share",),
            "Nulls of a field that the vendor delivers; one that it never delivers is not judged.",
            frame="fields",
            maximum=limits.field_null_share,
            says="{null_share:.1%} of {rows} rows have no value",
        ),
        rule(
            "instruments complete",
            "completeness",
            "between",
            ("share",),
            "Sessions with a row between an instrument's first and last one. Long suspensions are legitimate.",
            frame="instruments",
            minimum=limits.instruments_share,
            says="{rows} rows on {sessions} sessions",
        ),
        rule(
            "sessions complete",
            "completeness",
            "between",
            ("share",),
            f"Instruments with a row, among those with one in the last {ACTIVE_SESSIONS} sessions. "
            "A low share is a partial delivery.",
            frame="sessions",
            minimum=limits.sessions_share,
            says="{rows} instruments, {expected:.0f} expected",
        ),
        rule(
            "listings and returns",
            "completeness",
            "empty",
            (),
            f"Instruments whose first row for {ACTIVE_SESSIONS} sessions lies in the window: a listing, or the end of "
            "a suspension. Their features have little or no history.",
            frame="listings",
            says="first row for at least {absent} sessions",
            notice=True,
        ),
        rule(
            "no jump without an event",
            "values",
            "ordered",
            ("jump_limit", "move"),
            "The adjusted close moved further than the exchange allows or than is plausible, and no split or dividend "
            "explains it: an unadjusted split or a wrong price, or real news.",
            says="moved {adjusted_return:+.1%} without an event, limit {jump_limit:.1%}",
        ),
        rule(
            "events leave no jump",
            "values",
            "ordered",
            ("event_limit", "move"),
            "On a session with a split or dividend the adjusted close still moved too far: the event is wrong, or "
            "adjusted twice.",
            says="moved {adjusted_return:+.1%} although adjusted by {factor_step:.4g}, limit {event_limit:.1%}",
        ),
        rule(
            "no spike in a bar",
            "values",
            "ordered",
            ("spike_limit", "spike"),
            "The high or the low lies far outside of the bar's open and close and of the session before: a wrong price "
            "(a digit too many), or a trade that was taken back.",
            says="{extreme:g} lies {spike:.1%} beyond {around:g}, the nearest of open, close and the session before; "
            "limit {spike_limit:.1%}",
        ),
        rule(
            "factor follows the events",
            "values",
            "between",
            ("factor_error",),
            "The step of the adjustment factor is not what split and dividend of the session make it.",
            maximum=1e-3,
            says="factor stepped by {factor_step:.6g}; split {split:g} and dividend {dividend:g} tell another",
        ),
        rule(
            "price moves",
            "values",
            "between",
            ("unchanged",),
            "The same close on many rows in a row although there was trading: a price that is carried forward.",
            maximum=limits.stale_sessions - 1,
            says="close {close:g} on {unchanged:.0f} rows in a row, though traded",
        ),
        rule(
            "bars traded",
            "values",
            "between",
            ("volume",),
            "A bar without volume: a suspension delivered as a bar, or a lost volume.",
            minimum=0,
            strict=True,
            says="no volume, close {close:g}",
        ),
        rule(
            "volume plausible",
            "values",
            "between",
            ("volume_ratio",),
            f"Volume (adjusted for splits) over the geometric mean of the {VOLUME_ROWS} rows before: wrong units, or a "
            "placement or news.",
            minimum=1 / limits.volume_ratio,
            maximum=limits.volume_ratio,
            says="{volume_ratio:.4g} times the usual volume",
        ),
        rule(
            "vwap inside the range",
            "values",
            "between",
            ("vwap_outside",),
            "amount and volume are in other units than declared, or on another price scale.",
            maximum=2e-3,
            says="vwap {vwap:g} outside {low:g} .. {high:g}",
        ),
        rule(
            "no finding",
            "values",
            "empty",
            (),
            "Valid rows that were noticed while they were ingested; they are in the findings table.",
            frame="findings",
            says="{kind}: {detail}",
            see="qdag show findings -u {universe}",
        ),
        rule(
            "conventions of the vendor",
            "values",
            "empty",
            (),
            "Sessions whose adjusted close follows another convention than the events: nothing is wrong with either. "
            "They are in the findings table.",
            frame="conventions",
            says="{detail}",
            notice=True,
        ),
    )


def _bin_rules(limits: QualitySettings) -> tuple[Rule, ...]:
    return (
        Rule(
            "calendar complete",
            "qlib_bin",
            "structure",
            "equals",
            ("is_session", "in_calendar"),
            "Qlib's calendar must hold exactly the exchange's sessions up to the last one written: "
            "a gap or a stranger shifts every later value. Materialize the range again.",
            "calendar",
            {"value": True},
            "a session of the exchange: {is_session}; in Qlib's calendar, in order: {in_calendar}",
        ),
        Rule(
            "bins equal the table",
            "qlib_bin",
            "structure",
            "between",
            ("different",),
            "Values that Qlib reads differ from raw_ohlcv, or a file of the directory is not what it must be: "
            "materialize the range again.",
            "bins",
            {"maximum": 0},
            "{field}: {different} sessions differ",
            see="qdag verify-bin -u {universe}",
        ),
        Rule(
            "adjusted is raw times factor",
            "qlib_bin",
            "structure",
            "between",
            ("difference",),
            "Prices over the factor, or volume times it, are not the raw values: Qlib trades at other prices.",
            "adjusted",
            {"maximum": 1e-6},
            "{field} differs from the raw one by up to {difference:.2e} of it",
        ),
        Rule(
            "members of pools have prices",
            "qlib_bin",
            "completeness",
            "between",
            ("share",),
            "Members of a pool with a close, per session. Suspensions count; a low share is a partial delivery.",
            "pool_prices",
            {"minimum": limits.pool_share},
            "{priced} of {members} members of {pool} have a price",
        ),
        Rule(
            "configured pools written",
            "qlib_bin",
            "completeness",
            "equals",
            ("written",),
            "A pool of the settings has no instruments file: it has no stored member, as one of kind top in the first "
            "month; or it was set later: materialize qlib_bin again.",
            "pools",
            {"value": True},
            "pool {pool} has no instruments file",
            see="qdag pools -u {universe}",
        ),
        Rule(
            "spans of pools apart",
            "qlib_bin",
            "structure",
            "equals",
            ("apart",),
            "Two spans of one member overlap, so it would count twice: materialize qlib_bin again.",
            "pool_spans",
            {"value": True},
            "member of {pool} from {start} to {end}, and of the span before that",
        ),
        Rule(
            "members of pools stored",
            "qlib_bin",
            "structure",
            "equals",
            ("stored",),
            "A member has days on which nothing of it is stored: materialize qlib_bin again.",
            "pool_spans",
            {"value": True},
            "member of {pool} from {start} to {end}, which is not stored in full",
        ),
        Rule(
            "pools near their size",
            "qlib_bin",
            "completeness",
            "between",
            ("share",),
            "Stored members over the size of a pool that is meant to be complete, per session: the universe lacks "
            "members of it (`qdag pools` lists them), and metrics of the pool speak of those that are there.",
            "pool_sizes",
            {"minimum": 0.8, "maximum": 1.2},
            "{pool} has {members} of {size} members",
            see="qdag pools -u {universe}",
        ),
    )


def _bounded(table: str, check: Check, meaning: str) -> Rule:
    return Rule(
        "values within their bounds",
        table,
        check,
        "equals",
        ("within",),
        meaning,
        "bounds",
        {"value": True},
        "{column} = {value:.6g}, must be in {low:g} .. {high:.6g}",
    )


def _recomputed(table: str) -> Rule:
    return Rule(
        "a sample computed again",
        table,
        "structure",
        "between",
        ("difference",),
        "Stored values differ from a slow computation from raw_ohlcv: they are stale or wrong. Materialize qlib_bin "
        "and this table again; if it stays, the engine is wrong.",
        "recomputed",
        {"maximum": 1.0},
        "{column}: stored {stored:.7g}, computed again {expected:.7g}",
    )


def _feature_rules(table: str, columns: Sequence[str], limits: QualitySettings) -> tuple[Rule, ...]:
    def summary(name: str, check: Check, column: str, meaning: str, **parameters: float) -> Rule:
        kind = "are infinite" if column == "infinite_share" else "have no value"
        says = f"{{{column}:.2%}} of {{rows}} rows {kind}"
        return Rule(name, table, check, "between", (column,), meaning, "columns", parameters, says)

    nulls = max(0.5, limits.feature_null_share) if table == "custom_factors" else limits.feature_null_share
    bounds = "The feature is bounded by its definition; outside it the computation or its input is wrong."
    return (
        *_keyed(table, INSTRUMENT_KEYS, limits),
        _covers(table),
        *([_recomputed(table)] if table in REFERENCES else []),
        summary(
            "no column all null",
            "completeness",
            "null_share",
            "A column holds nothing at all: its input is missing or its expression is wrong.",
            maximum=1,
            strict=True,
        ),
        summary(
            "null share",
            "completeness",
            "null_share",
            f"Share of missing values after the universe's first {MATURE_SESSIONS} sessions; suspensions count.",
            maximum=nulls,
        ),
        summary(
            "infinite share",
            "values",
            "infinite_share",
            "Divisions by zero; models and metrics drop these values.",
            maximum=limits.infinite_share,
        ),
        *([_bounded(table, "values", bounds)] if table in FEATURE_BOUNDS else []),
        Rule(
            "distribution as in the year before",
            table,
            "drift",
            "between",
            ("drift",),
            f"The last {DRIFT_SESSIONS} sessions against the {DRIFT_REFERENCE} before them: the population stability "
            "index over the reference's deciles and the median have both moved far, and further than so few "
            "instruments move by chance. A market in another state, or a broken input; models trained on the year "
            "before may not hold.",
            "drift",
            {"maximum": 1.0},
            "stability index {psi:.2f} against the year before, median moved by {shift:+.2f} interquartile ranges, "
            "over {instruments:.0f} instruments",
            asks=f"stability index <= {limits.drift:g} or median within {limits.drift_shift:g} interquartile ranges, "
            "both wider for few instruments",
        ),
    )


def _label_rules(limits: QualitySettings) -> tuple[Rule, ...]:
    return (
        *_keyed("labels", INSTRUMENT_KEYS, limits),
        _covers("labels"),
        _recomputed("labels"),
        Rule(
            "no label before it is known",
            "labels",
            "structure",
            "between",
            ("too_early",),
            "A value whose last price is not stored yet: the label looked into data that does not exist.",
            "horizons",
            {"maximum": 0},
            "{too_early} values before their last price is stored",
        ),
        Rule(
            "known labels present",
            "labels",
            "completeness",
            "between",
            ("known_null_share",),
            "Labels older than horizon + 1 sessions should be known, but around suspensions and on the last "
            "horizon + 1 rows of what was delisted: materialize the sessions again.",
            "horizons",
            {"maximum": 0.2},
            "{known_null_share:.1%} of {known_rows} labels that are known have no value",
        ),
        _bounded(
            "labels",
            "values",
            "A forward return this large is an unadjusted split or a wrong price, or real news.",
        ),
    )


def _metric_rules(limits: QualitySettings) -> tuple[Rule, ...]:
    def bounded(columns: tuple[str, ...], low: float, high: float, meaning: str) -> Rule:
        name = f"{' and '.join(columns)} in {low:g}..{high:g}"
        parameters = {"minimum": low - 1e-9, "maximum": high + 1e-9}
        return Rule(name, "factor_metrics", "structure", "between", columns, meaning, "rows", parameters)

    return (
        *_keyed("factor_metrics", FACTOR_KEYS, limits),
        bounded(("ic", "rank_ic"), -1, 1, "A correlation cannot leave these bounds: the computation is wrong."),
        bounded(("coverage",), 0, 1, "A share of the pool cannot leave these bounds: the membership is wrong."),
        Rule(
            "signal before date",
            "factor_metrics",
            "structure",
            "ordered",
            ("date", "signal_date"),
            "A metric is known horizon + 1 sessions after its signal; otherwise it looked ahead.",
            "rows",
            {"strict": True},
        ),
        Rule(
            "coverage not low",
            "factor_metrics",
            "completeness",
            "between",
            ("coverage",),
            "Mean over the window by factor: few pool members have a value, so the metric says little about the pool.",
            "factors",
            {"minimum": 0.5},
            "on average {coverage:.0%} of the members of {pool} have a value",
        ),
    )


def _prediction_rules(limits: QualitySettings) -> tuple[Rule, ...]:
    return (
        *_keyed("predictions", INSTRUMENT_KEYS, limits),
        Rule("scores present", "predictions", "structure", "not_null", ("score",), "A score is what a row is for."),
        Rule(
            "scores finite",
            "predictions",
            "structure",
            "between",
            ("score",),
            "An infinite score breaks every ranking.",
            "rows",
            {"minimum": -LARGEST, "maximum": LARGEST},
        ),
        Rule(
            "trained before the session",
            "predictions",
            "structure",
            "ordered",
            ("date", "trained_on"),
            "A model may not score the session it was trained on or an earlier one.",
            "rows",
            {"strict": True},
        ),
        Rule(
            "scores differ",
            "predictions",
            "values",
            "between",
            ("distinct",),
            "One score for all instruments of a session ranks nothing: the model learned a constant.",
            "scores",
            {"minimum": 2},
            "one score for all {rows} instruments",
        ),
    )


# -- the frames -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scope:
    """What is being judged: a table in a store, for a universe, from ``start`` to ``end`` (days, inclusive).

    ``now`` decides which sessions have closed; by default the clock does.
    """

    store: "TableStore"
    settings: Settings
    universe: str
    start: date
    end: date
    now: datetime | None = None

    @property
    def limits(self) -> QualitySettings:
        return self.settings.quality_for(self.universe)

    def calendar(self) -> SessionCalendar:
        return calendar_for(self.settings.universe(self.universe))

    def sessions(self, before: int = 0) -> np.ndarray:
        """Sessions of the window that have closed, as the stages take it, M8[D], with up to ``before`` in front."""
        calendar = self.calendar()
        window = calendar.closed_between(self.start, self.end, self.now or datetime.now(UTC))
        if not len(window):
            return window
        first = int(np.searchsorted(calendar.all, window[0]))
        return calendar.all[max(0, first - before) : first + len(window)]


Frames = Iterator[tuple[str, pd.DataFrame]]


def frames(table: str, scope: Scope, columns: Sequence[str] = ()) -> Frames:
    """Yield the named frames that the rules of ``table`` are judged on; ``rows`` may come in several parts.

    The frame ``profile`` is judged by no rule: it is what the drift of later sessions is measured against.

    ``columns`` are the declared ones, keys included. A window without a session yields nothing: an empty partition is
    valid. Dates are datetime64; float columns keep their dtype; null is NaN.

    Raises
    ------
    MissingDataError
        The table, or the Qlib directory, does not exist although the window has sessions.
    """
    if not len(scope.sessions()):
        return
    if table != "qlib_bin":
        yield from _schema(table, scope, columns)
        yield from _timeliness(table, scope)
    if table == "raw_ohlcv":
        yield from _raw_frames(scope)
    elif table == "qlib_bin":
        yield from _bin_frames(scope)
    elif table in FEATURE_TABLES or table == "labels":
        yield from _feature_frames(table, scope, columns)
    else:
        yield from _long_frames(table, scope)


def _schema(table: str, scope: Scope, columns: Sequence[str]) -> Frames:
    """One line per declared column. A stored one that is declared no longer (a removed factor) harms nobody."""
    stored = set(scope.store.columns(table))
    yield "schema", pd.DataFrame({"column": list(columns), "stored": [name in stored for name in columns]})


def _read(scope: Scope, table: str, start: np.datetime64, end: np.datetime64, columns: Sequence[str]) -> pd.DataFrame:
    first, last = (day.astype("M8[D]").astype(date) for day in (start, end))
    read = scope.store.read(table, scope.universe, first, last, columns=list(columns))
    return read.to_pandas(date_as_object=False)


def _chunks(scope: Scope, table: str, sessions: np.ndarray, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Parts of a table of about ``CHUNK_ROWS`` rows."""
    for start, end in _spans(scope, table, sessions):
        yield _read(scope, table, start, end, columns)


def _spans(scope: Scope, table: str, sessions: np.ndarray) -> Iterator[tuple[np.datetime64, np.datetime64]]:
    """First and last day of each part: whole months, as they are stored, until there are ``CHUNK_ROWS`` rows."""
    rows = scope.store.count(table, scope.universe, sessions[0].item(), sessions[-1].item())
    most = max(1, int(CHUNK_ROWS * len(sessions) / max(rows, 1)))
    months = sessions.astype("M8[M]")
    begins = [0]
    for at in (np.flatnonzero(months[1:] != months[:-1]) + 1).tolist():
        following = int(np.searchsorted(months, months[at], side="right"))
        if following - begins[-1] > most:
            begins.append(at)
    for at, following in pairwise([*begins, len(sessions)]):
        # up to the day before the next part, so that a stored date that is no session is read too
        yield sessions[at], sessions[following] - 1 if following < len(sessions) else sessions[-1]


def _days(frame: pd.DataFrame) -> np.ndarray:
    return frame["date"].to_numpy().astype("M8[D]")


def _session_frame(sessions: np.ndarray, dates: np.ndarray) -> pd.DataFrame:
    """One line per session of the window and per stored date: how many rows, and whether it is a session."""
    stored, counts = np.unique(dates, return_counts=True)
    every = np.union1d(sessions, stored)
    rows = np.zeros(len(every), np.int64)
    rows[np.searchsorted(every, stored)] = counts
    return pd.DataFrame({"date": every.astype("M8[s]"), "is_session": np.isin(every, sessions), "rows": rows})


RAW_FIELDS = ("open", "high", "low", "close", "volume", "amount", "vwap", "factor", "split", "dividend")
RAW_IN_BINS = ("open", "high", "low", "close", "vwap", "volume")


def _arrow(
    scope: Scope,
    table: str,
    start: np.datetime64,
    end: np.datetime64,
    columns: Sequence[str],
    instruments: Sequence[str] | None = None,
) -> pa.Table:
    first, last = (day.astype("M8[D]").astype(date) for day in (start, end))
    return scope.store.read(table, scope.universe, first, last, instruments, columns=list(columns))


def _numbers(rows: pa.Table, name: str) -> np.ndarray:
    """A column as floats, null as NaN."""
    return np.asarray(rows[name].to_numpy())


def _row_days(rows: pa.Table) -> np.ndarray:
    return np.asarray(rows["date"].to_numpy()).astype("M8[D]")


def _coded(rows: pa.Table) -> tuple[np.ndarray, list[str]]:
    """Position of each row's instrument in the list of names; -1 for none."""
    from qdag.store.arrow import text_codes

    return text_codes(rows["instrument"])


def _timeliness(table: str, scope: Scope) -> Frames:
    """One line: how many sessions the table is behind. A window of older sessions than the newest says nothing."""
    bars = np.array([], "M8[D]")
    if scope.store.exists("raw_ohlcv"):
        bars = scope.store.sessions("raw_ohlcv", scope.universe)
    last = bars if table == "raw_ohlcv" else scope.store.sessions(table, scope.universe)
    window = scope.sessions()
    if not len(last) or not len(bars) or window[-1] < last[-1]:
        return
    if table == "raw_ohlcv":
        due = scope.calendar().closed_before(scope.now or datetime.now(UTC))
        end = scope.settings.universe(scope.universe).end
        due = min(due, end) if end else due
    else:
        due = bars[-1].item()
    behind = scope.calendar().between(last[-1].item(), due) if due > last[-1].item() else last[-1:]
    line = {"last": pd.Timestamp(last[-1]), "due": pd.Timestamp(due), "behind": len(behind) - 1}
    yield "timeliness", pd.DataFrame([line])


def _raw_frames(scope: Scope) -> Frames:
    window = scope.sessions()
    sessions = scope.sessions(before=RAW_BEFORE)
    bars = _arrow(scope, "raw_ohlcv", sessions[0], sessions[-1], [*INSTRUMENT_KEYS, *RAW_FIELDS])
    days = _row_days(bars)
    codes, names = _coded(bars)
    values = {name: _numbers(bars, name).astype(np.float64, copy=False) for name in RAW_FIELDS}
    position = np.searchsorted(sessions, days)
    values |= _measures(scope.limits, values, codes, np.array(names, object), days, position)
    inside = days >= window[0]
    date_column = days[inside].astype("M8[s]")
    instrument = pd.Categorical.from_codes(codes[inside], pd.Index(names, dtype=object))
    shown = {name: values[name][inside] for name in (*RAW_FIELDS, *MEASURES)}
    rows = pd.DataFrame({"date": date_column, "instrument": instrument, **shown}, copy=False)
    yield "rows", rows

    frame = _session_frame(window, days[inside])
    known = np.isin(days, sessions) & (codes >= 0)
    present = np.zeros((len(names), len(sessions)), bool)
    present[codes[known], position[known]] = True
    counts = np.concatenate([np.zeros((len(names), 1), np.int32), present.cumsum(axis=1, dtype=np.int32)], axis=1)
    at = np.arange(1, len(sessions) + 1)
    active = counts[:, at] > counts[:, np.maximum(at - 1 - ACTIVE_SESSIONS, 0)]
    skip = len(sessions) - len(window)
    expected = pd.Series(active.sum(axis=0)[skip:], index=window.astype("M8[s]"))
    frame["expected"] = frame["date"].map(expected)
    frame["share"] = frame["rows"] / frame["expected"].where(frame["expected"] > 0)
    refused = _refused(scope, window)
    lines = refused[refused["line"] != 0]
    frame["refused"] = frame["date"].map(lines.groupby("date").size()).fillna(0).astype(np.int64)
    share = frame["refused"] / (frame["refused"] + frame["rows"]).clip(lower=1)
    frame["refused_share"] = share.where(frame["refused"] >= FEW_ROWS, 0.0)
    yield "sessions", frame[frame["date"] <= _delivered(scope, frame)]

    last = len(sessions) - 1 - present[:, ::-1].argmax(axis=1)
    first = np.maximum(present.argmax(axis=1), skip)
    listed = np.maximum(last - first + 1, 0)
    seen = present[:, skip:].sum(axis=1)
    spans = pd.DataFrame({"instrument": names, "sessions": listed, "rows": seen})[listed > 0]
    spans["share"] = spans["rows"] / spans["sessions"]
    yield "instruments", spans

    nulls = {name: float(np.isnan(shown[name]).mean()) if len(rows) else 1.0 for name in RAW_FIELDS}
    fields = pd.DataFrame({"field": list(nulls), "rows": len(rows), "null_share": list(nulls.values())})
    yield "fields", fields[fields["null_share"] < 1]
    begins = rows[rows["absent"] >= ACTIVE_SESSIONS]
    yield "listings", begins[["date", "instrument", "absent"]].astype({"absent": np.int64, "instrument": object})

    yield "refused_files", refused[refused["line"] == 0]
    # one line of every file and reason comes before the second of any
    turn = lines.groupby(["source", "reason"]).cumcount()
    yield "refused_rows", lines.iloc[np.argsort(turn.to_numpy(), kind="stable")]
    files = refused.loc[refused["line"] == 0, "source"].nunique()
    total = files + len(np.unique(codes[inside]))
    many = files / max(total, 1)
    yield "refused_share", pd.DataFrame([{"refused": files, "files": total, "share": many}])
    noticed = _findings(scope, window)
    explained = noticed["kind"].isin(CONVENTIONS)
    yield "findings", noticed[~explained]
    yield "conventions", noticed[explained]
    columns = [*RAW_FIELDS, "adjusted_return"]
    yield "profile", profile(days[inside], columns, np.column_stack([shown[c] for c in columns]))


def _delivered(scope: Scope, sessions: pd.DataFrame) -> pd.Timestamp:
    """The newest session of the delivery: the sessions after it are late, which is another matter than a hole.

    Of a universe without any row, the last session of the window.
    """
    stored = scope.store.sessions("raw_ohlcv", scope.universe)
    if not len(stored):
        return sessions["date"].max()
    refused = sessions.loc[sessions["refused"] > 0, "date"]
    return max([pd.Timestamp(stored[-1]), *refused.tail(1)])


MEASURES = (
    "adjusted_return",
    "move",
    "jump_limit",
    "event_limit",
    "spike",
    "spike_limit",
    "extreme",
    "around",
    "factor_step",
    "factor_error",
    "unchanged",
    "volume_ratio",
    "vwap_outside",
    "absent",
)


def _measures(
    limits: QualitySettings,
    values: Mapping[str, np.ndarray],
    codes: np.ndarray,
    names: np.ndarray,
    days: np.ndarray,
    position: np.ndarray,
) -> dict[str, np.ndarray]:
    """What the rows before say of each row; NaN where there is nothing to say.

    A row is compared with the instrument's row before it, if that is at most ``ACTIVE_SESSIONS`` sessions old.
    """
    order = np.argsort(codes, kind="stable")
    at = position[order]
    size = len(order)
    if not size:
        return {name: np.empty(0) for name in MEASURES}
    row = np.arange(size)
    new = np.append(True, codes[order][1:] != codes[order][:-1])
    begin = np.maximum.accumulate(np.where(new, row, 0))
    v = {name: column[order] for name, column in values.items()}

    def before(column: np.ndarray) -> np.ndarray:
        return np.where(new, np.nan, np.append(np.nan, column[:-1]))

    gap = np.where(new, at - at.min(), at - np.append(0, at[:-1]))
    near = ~new & (gap <= ACTIVE_SESSIONS)
    # sessions without a row before this one: of a first row, those since the data begins
    absent = np.where(new, gap, gap - 1)
    starts = absent >= ACTIVE_SESSIONS
    start = np.maximum.accumulate(np.where(new | starts, row, 0))
    fresh = starts[start] & (row - start < limits.listing_sessions)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        adjusted = v["close"] * v["factor"]
        previous = before(adjusted)
        change = np.where(near, adjusted / previous - 1, np.nan)
        step = np.where(near, v["factor"] / before(v["factor"]), np.nan)
        event = (np.nan_to_num(v["split"], nan=1.0) != 1) | (np.nan_to_num(v["dividend"]) > 0)
        event |= np.abs(np.nan_to_num(step, nan=1.0) - 1) > 1e-9
        band = _price_limits(limits, names, codes[order], days[order])
        banded = ~fresh & ~np.isnan(band)
        # the exchange rounds the previous close and the limit price, half a tick each
        rounded = band + limits.tick / (previous / v["factor"]) + 1e-6
        limit = np.where(banded, rounded, limits.jump)

        # what else is known of the row's prices: open and close, and the range of the row before
        def reach(inner: np.ndarray, earlier: np.ndarray, widest: np.ufunc) -> np.ndarray:
            return widest(inner, np.where(near, before(earlier * v["factor"]) / v["factor"], np.nan))

        top = reach(np.fmax(v["open"], v["close"]), v["high"], np.fmax)
        bottom = reach(np.fmin(v["open"], v["close"]), v["low"], np.fmin)
        above, below = v["high"] / top - 1, 1 - v["low"] / bottom
        upwards = np.nan_to_num(above) >= np.nan_to_num(below)

        paid = v["dividend"] / before(v["close"])
        expected = v["split"] / np.where(paid < 1, 1 - paid, np.nan)
        error = np.where(~new & (gap == 1), np.abs(step / expected - 1), np.nan)

        still = near & (v["close"] == before(v["close"])) & (v["volume"] > 0)
        run = row - np.maximum.accumulate(np.where(still, 0, row)) + 1.0

        shares = v["volume"] / v["factor"]
        logarithm = np.where(shares > 0, np.log(shares), 0.0)
        # a bar of one price is locked at a limit: its volume says nothing of the usual one
        counted = (shares > 0) & np.isfinite(logarithm) & (v["high"] > v["low"])
        total = np.append(0.0, np.cumsum(np.where(counted, logarithm, 0.0)))
        count = np.append(0, np.cumsum(counted))
        low = np.maximum(begin, row - VOLUME_ROWS)
        known = count[row] - count[low]
        usual = (total[row] - total[low]) / np.maximum(known, 1)
        ratio = np.where((known >= VOLUME_LEAST) & counted, np.exp(logarithm - usual), np.nan)

        outside = np.maximum(np.maximum(v["low"] - v["vwap"], v["vwap"] - v["high"]), 0) / v["close"]
    found = {
        "adjusted_return": change,
        "move": np.abs(change),
        "jump_limit": np.where(event, np.nan, limit),
        "event_limit": np.where(event, limit, np.nan),
        "spike": np.fmax(above, below),
        "spike_limit": np.where(banded, rounded, limits.spike),
        "extreme": np.where(upwards, v["high"], v["low"]),
        "around": np.where(upwards, top, bottom),
        "factor_step": step,
        "factor_error": error,
        "unchanged": run,
        "volume_ratio": ratio,
        "vwap_outside": outside,
        "absent": absent.astype(np.float64),
    }
    back = np.empty(size, np.int64)
    back[order] = row
    return {name: column[back] for name, column in found.items()}


def _price_limits(limits: QualitySettings, names: np.ndarray, codes: np.ndarray, days: np.ndarray) -> np.ndarray:
    """The exchange's limit of each row, NaN where it has none."""
    band = np.full(len(codes), np.nan)
    for rule in sorted(limits.price_limits, key=lambda r: (len(r.prefix), r.since or date.min)):
        fits = np.array([str(name).startswith(rule.prefix) for name in names], bool)[codes]
        if rule.since is not None:
            fits &= days >= np.datetime64(rule.since, "D")
        band[fits] = rule.limit
    return band


def _refused(scope: Scope, window: np.ndarray) -> pd.DataFrame:
    names = ["date", "instrument", "source", "line", "reason"]
    if scope.store.exists("quarantine"):
        return _read(scope, "quarantine", window[0], window[-1], names)
    return pd.DataFrame({name: pd.Series([], dtype="M8[s]" if name == "date" else object) for name in names})


def _findings(scope: Scope, window: np.ndarray) -> pd.DataFrame:
    names = ["date", "instrument", "kind", "value", "expected", "detail"]
    if not scope.store.exists("findings"):
        return pd.DataFrame({name: pd.Series([], dtype=object) for name in names})
    found = _read(scope, "findings", window[0], window[-1], names)
    # one of every kind comes before the second of any
    return found.iloc[np.argsort(found.groupby("kind").cumcount().to_numpy(), kind="stable")]


def _feature_frames(table: str, scope: Scope, columns: Sequence[str]) -> Frames:
    """Of a feature table, or of the labels: these are judged from before the window on, where its prices make earlier
    labels known."""
    stored = scope.store.columns(table)
    values = [c for c in (columns or stored) if c in stored and c not in ("universe", *INSTRUMENT_KEYS)]
    horizons = {c: int(c.removeprefix("label_")) for c in values} if table == "labels" else {}
    sessions = scope.sessions(before=max(horizons.values()) + 1 if horizons else 0)
    bars = scope.store.sessions("raw_ohlcv", scope.universe)
    mature = bars[MATURE_SESSIONS] if len(bars) > MATURE_SESSIONS else None
    picked = _sample(table, scope, sessions)
    bounds = bounds_of(table, values)
    known = np.zeros((len(horizons), 3), np.int64)
    parts, covered, outside, cells, profiles = [], [], [], [], []
    for start, end in _spans(scope, table, sessions):
        rows = _arrow(scope, table, start, end, [*INSTRUMENT_KEYS, *values])
        days = _row_days(rows)
        codes, names = _coded(rows)
        instrument = pd.Categorical.from_codes(codes, pd.Index(names, dtype=object))
        keys = pd.DataFrame({"date": days.astype("M8[s]"), "instrument": instrument})
        parts.append(keys)
        covered.append(_covered(scope, sessions, start, end, days, codes, names))
        # column by column: every reader of the matrix takes columns
        matrix = np.empty((len(values), len(days)), np.float32).T
        for i, name in enumerate(values):
            matrix[:, i] = _numbers(rows, name)
        outside += _out_of_bounds(keys, values, matrix, bounds)
        cells += _picked(picked, keys, values, matrix)
        profiles.append(profile(days, values, matrix))
        for i, (name, horizon) in enumerate(horizons.items()):
            old = days < bars[-horizon - 1] if len(bars) > horizon else np.zeros(len(days), bool)
            null = np.isnan(matrix[:, values.index(name)])
            known[i] += old.sum(), (old & null).sum(), (~old & ~null).sum()
    yield "rows", pd.concat([part.astype({"instrument": object}) for part in parts], ignore_index=True)
    described = pd.concat(profiles, ignore_index=True)
    # what a young universe lacks says nothing
    old = described[described["date"] >= pd.Timestamp(mature)] if mature is not None else described.iloc[:0]
    totals = old.groupby("column", sort=False)[["rows", "nulls", "infinite"]].sum().reset_index()
    shares = {f"{k}_share": totals[c] / totals["rows"] for k, c in (("null", "nulls"), ("infinite", "infinite"))}
    yield "columns", totals[["column", "rows"]].assign(**shares)
    yield "sessions", pd.concat(covered, ignore_index=True)
    yield "bounds", _bounds_frame(bounds, outside)
    yield "recomputed", _recomputed_frame(table, scope, cells, picked)
    if horizons:
        share = np.where(known[:, 0] > 0, known[:, 1] / np.maximum(known[:, 0], 1), np.nan)
        lines = {"label": values, "known_rows": known[:, 0], "known_null_share": share, "too_early": known[:, 2]}
        yield "horizons", pd.DataFrame(lines)
    described = described[described["date"] >= pd.Timestamp(scope.sessions()[0])]
    yield "profile", described
    if not horizons:
        compared = described[~described["column"].isin(levels(table))]
        yield "drift", drift(_history(table, scope), compared, scope.limits)


def _covered(
    scope: Scope,
    sessions: np.ndarray,
    start: np.datetime64,
    end: np.datetime64,
    days: np.ndarray,
    codes: np.ndarray,
    names: Sequence[str],
) -> pd.DataFrame:
    """The session frame of a part of a table, with the rows of raw_ohlcv that have no row in it."""
    frame = _session_frame(sessions[(sessions >= start) & (sessions <= end)], days)
    bars = _arrow(scope, "raw_ohlcv", start, end, INSTRUMENT_KEYS)
    bar_days = _row_days(bars)
    bar_codes = pc.fill_null(pc.index_in(bars["instrument"], value_set=pa.array(names, pa.string())), -1).to_numpy()
    width = len(names) + 1
    have = days.astype(np.int64) * width + codes
    want = bar_days.astype(np.int64) * width + bar_codes
    lost = bar_days[(bar_codes < 0) | ~np.isin(want, have)]
    at, count = np.unique(lost, return_counts=True)
    missing = pd.Series(count, index=at.astype("M8[s]"))
    return frame.assign(missing_bars=frame["date"].map(missing).fillna(0).astype(np.int64))


def _out_of_bounds(
    keys: pd.DataFrame, values: Sequence[str], matrix: np.ndarray, bounds: Mapping[str, tuple[float, float]]
) -> list[pd.DataFrame]:
    """Lines of the values that leave their bounds; null and infinity are judged elsewhere."""
    found = []
    for name, (low, high) in bounds.items():
        column = matrix[:, values.index(name)]
        largest = float(np.finfo(np.float32).max)
        wrong = (column < np.float32(low - SLACK)) | (column > np.float32(min(high + SLACK, largest)))
        wrong &= np.isfinite(column)
        if wrong.any():
            lines = keys[wrong].astype({"instrument": object})
            found.append(lines.assign(column=name, value=column[wrong].astype(np.float64), low=low, high=high))
    return found


def _bounds_frame(bounds: Mapping[str, tuple[float, float]], outside: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One line per bounded column, and one per value that leaves its bounds."""
    lines = [{"column": c, "low": low, "high": high, "value": np.nan} for c, (low, high) in bounds.items()]
    frame = pd.DataFrame(lines, columns=["column", "low", "high", "value"]).assign(within=True, instrument="")
    frame["date"] = pd.Series(pd.NaT, index=frame.index, dtype="M8[s]")
    return pd.concat([frame, *(part.assign(within=False) for part in outside)], ignore_index=True)


def _sample(table: str, scope: Scope, sessions: np.ndarray) -> pd.DataFrame:
    """Rows of raw_ohlcv whose named features are computed again: seeded by what is judged, so that a run repeats."""
    n = scope.limits.sampled_cells
    if not n or table not in REFERENCES:
        return pd.DataFrame({"date": pd.Series([], dtype="M8[s]"), "instrument": pd.Series([], dtype=object)})
    seed = zlib.crc32(f"{scope.universe}/{table}/{sessions[0]}/{sessions[-1]}".encode())
    random = np.random.default_rng(seed)
    days = np.sort(random.choice(sessions, min(len(sessions), SAMPLED_DAYS), replace=False))
    parts = []
    for day in days:
        names = _arrow(scope, "raw_ohlcv", day, day, ["instrument"])["instrument"].to_pylist()
        share = -(-n // len(days))
        chosen = sorted(random.choice(len(names), min(share, len(names)), replace=False)) if names else []
        parts.append(pd.DataFrame({"date": day.astype("M8[s]"), "instrument": [names[i] for i in chosen]}))
    return pd.concat(parts, ignore_index=True)


def _picked(
    picked: pd.DataFrame, keys: pd.DataFrame, values: Sequence[str], matrix: np.ndarray
) -> list[tuple[np.datetime64, str, dict[str, float]]]:
    """The sampled cells that lie in a part of a table."""
    found = []
    days = keys["date"].to_numpy()
    codes, names = keys["instrument"].cat.codes.to_numpy(), keys["instrument"].cat.categories
    for day, name in zip(picked["date"].to_numpy(), picked["instrument"].tolist(), strict=True):
        low, high = np.searchsorted(days, day, "left"), np.searchsorted(days, day, "right")
        mine = names.get_indexer(pd.Index([name]))[0]
        for i in np.flatnonzero((codes[low:high] == mine) & (mine >= 0)).tolist():
            found.append((day, name, dict(zip(values, matrix[low + i].astype(np.float64).tolist(), strict=True))))
    return found


def _recomputed_frame(
    table: str, scope: Scope, cells: Sequence[tuple[np.datetime64, str, dict[str, float]]], picked: pd.DataFrame
) -> pd.DataFrame:
    """One line per sampled cell and named feature: what is stored, what a slow computation says."""
    lines: list[dict[str, Any]] = []
    names = sorted({name for _, name, _ in cells})
    if names:
        everything = scope.calendar().all
        days = np.array([day for day, _, _ in cells], "M8[D]")
        ahead = 1 + max((int(c.removeprefix("label_")) for c in cells[0][2]), default=0) if table == "labels" else 0
        first = max(0, int(np.searchsorted(everything, days.min())) - LOOKBACK)
        last = min(len(everything) - 1, int(np.searchsorted(everything, days.max())) + ahead)
        sessions = everything[first : last + 1]
        columns = [*INSTRUMENT_KEYS, *RAW_IN_BINS, "factor"]
        raw = _arrow(scope, "raw_ohlcv", sessions[0], sessions[-1], columns, names)
        raw_days, codes, coded = _row_days(raw), *_coded(raw)
        series: dict[str, dict[str, np.ndarray]] = {}
        for i, name in enumerate(coded):
            mine = np.flatnonzero((codes == i) & np.isin(raw_days, sessions))
            fields = {}
            for field_name in (*RAW_IN_BINS, "factor"):
                fields[field_name] = np.full(len(sessions), np.nan)
                fields[field_name][np.searchsorted(sessions, raw_days[mine])] = _numbers(raw, field_name)[mine]
            series[name] = adjusted(fields)
        for day, name, stored in cells:
            bars, t = series[name], int(np.searchsorted(sessions, day.astype("M8[D]")))
            for column, reference in references(table, list(stored)).items():
                with np.errstate(all="ignore"):
                    expected = reference(bars, t)
                gap = difference(table, column, stored[column], expected, bars["close"][t])
                lines.append(
                    {
                        "date": pd.Timestamp(day),
                        "instrument": name,
                        "column": column,
                        "stored": stored[column],
                        "expected": expected,
                        "difference": min(gap, LARGEST),
                    }
                )
    return pd.DataFrame(lines, columns=["date", "instrument", "column", "stored", "expected", "difference"])


# -- what distributions looked like --------------------------------------------------------------------------------

QUANTILES = tuple(f"q{p:03d}" for p in range(0, 101, 5))
_PLACES = np.linspace(0, 1, len(QUANTILES))


def profile(days: np.ndarray, columns: Sequence[str], matrix: np.ndarray) -> pd.DataFrame:
    """Per session and column: rows, nulls, infinities, and quantiles of up to ``PROFILE_ROWS`` evenly spaced rows.

    Parameters
    ----------
    days : datetime64[D], shape (N,), increasing
    matrix : floats, shape (N, len(columns)); NaN is null

    Returns
    -------
    One line per session and column, quantiles NaN where there is no finite value.
    """
    sessions, begins = np.unique(days, return_index=True)
    edges = np.append(begins, len(days))
    rows, nulls, infinite, quantiles = [], [], [], []
    for low, high in pairwise(edges.tolist()):
        block = matrix[low:high]
        missing = np.isnan(block)
        rows.append(np.full(len(columns), high - low))
        nulls.append(missing.sum(axis=0))
        infinite.append(np.isinf(block).sum(axis=0))
        part = np.where(np.isinf(block), np.nan, block)[:: -(-(high - low) // PROFILE_ROWS)]
        part = np.sort(part, axis=0)
        valid = (~np.isnan(part)).sum(axis=0)
        at = np.rint(_PLACES[:, None] * np.maximum(valid - 1, 0)).astype(np.int64)
        quantiles.append(np.take_along_axis(part, at, axis=0).T)
    empty = np.empty((0, len(QUANTILES)))
    frame = pd.DataFrame(np.concatenate(quantiles) if quantiles else empty, columns=list(QUANTILES), dtype=np.float32)
    keys = {"date": np.repeat(sessions, len(columns)).astype("M8[s]"), "column": np.tile(columns, len(sessions))}
    counted = {
        name: np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
        for name, parts in (("rows", rows), ("nulls", nulls), ("infinite", infinite))
    }
    return pd.concat([pd.DataFrame({**keys, **counted}), frame], axis=1)


def _history(table: str, scope: Scope) -> pd.DataFrame:
    """Stored profiles of the sessions before the window that its drift is measured against."""
    name = profile_table(table).name
    before = scope.sessions(before=DRIFT_REFERENCE + DRIFT_SESSIONS)[: -len(scope.sessions())]
    if not len(before) or not scope.store.exists(name):
        return pd.DataFrame()
    return _read(scope, name, before[0], before[-1], ["date", "column", *QUANTILES])


def levels(table: str) -> frozenset[str]:
    """Columns of a table that are levels: these move with the market, so their drift says nothing."""
    if table not in FEATURE_SETS:
        return frozenset()
    return frozenset(f.name for f in feature_set(table) if f.kind == "level")


def drift(history: pd.DataFrame, current: pd.DataFrame, limits: QualitySettings) -> pd.DataFrame:
    """How far each column has moved, for every ``DRIFT_SESSIONS`` sessions of ``current``, the newest last.

    Both frames are profiles. The last ``DRIFT_SESSIONS`` sessions are compared with up to ``DRIFT_REFERENCE`` before
    them: the distribution of several sessions is the mean of theirs, each taken as straight between its quantiles. With
    p and q the shares of both between the reference's deciles, the index is sum (p - q) ln (p / q).

    Few instruments differ by chance. Of n independent ones in ten bins the index is 9 / n on average, and the standard
    error of a median about 1 / sqrt(n) interquartile ranges: the first is taken off the index, four of the second widen
    what is allowed to the median.

    Returns
    -------
    date (the newest session compared), column, psi (the index), shift (of the median, in interquartile ranges of the
    reference), instruments (with a value, in the mean of the sessions), drift (above 1 where both psi and shift are
    beyond the limits), reference_sessions; no line where fewer than ``DRIFT_LEAST`` sessions came before.
    """
    both = pd.concat([history, current[["date", "column", *QUANTILES]]], ignore_index=True)
    columns = ["date", "column", "psi", "shift", "instruments", "drift", "reference_sessions"]
    lines: list[pd.DataFrame] = []
    sessions = np.unique(both["date"].to_numpy())
    own = np.unique(current["date"].to_numpy())
    ends = np.arange(len(sessions), len(sessions) - max(len(own), 1), -DRIFT_SESSIONS)
    ends = ends[ends - DRIFT_SESSIONS >= DRIFT_LEAST]
    if not len(ends) or current.empty:
        return pd.DataFrame(columns=columns)
    features = [c for c in dict.fromkeys(current["column"]) if c is not None]
    at = pd.Index(features).get_indexer(both["column"])
    cube = np.full((len(features), len(sessions), len(QUANTILES)), np.nan)
    kept = at >= 0
    places = np.searchsorted(sessions, both["date"].to_numpy())
    cube[at[kept], places[kept]] = both.loc[kept, list(QUANTILES)].to_numpy(np.float64)
    seen = np.full((len(features), len(sessions)), np.nan)
    where = pd.Index(features).get_indexer(current["column"]), np.searchsorted(sessions, current["date"].to_numpy())
    seen[where] = (current["rows"] - current["nulls"] - current["infinite"]).to_numpy(np.float64)
    for end in sorted(ends.tolist()):
        begin = end - DRIFT_SESSIONS
        past = cube[:, max(0, begin - DRIFT_REFERENCE) : begin][:, ::-DRIFT_STEP]
        psi, shift, known = _stability(past, cube[:, begin:end])
        known *= DRIFT_STEP
        psi[known < DRIFT_LEAST] = np.nan
        counted = np.isfinite(seen[:, begin:end])
        few = np.where(counted, seen[:, begin:end], 0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        n = np.maximum(few, 1)
        moved = np.minimum((psi - 9 / n) / limits.drift, np.abs(shift) / (limits.drift_shift + 4 / np.sqrt(n)))
        block = {"column": features, "psi": psi, "shift": shift, "instruments": few, "drift": moved}
        lines.append(pd.DataFrame({"date": pd.Timestamp(sessions[end - 1]), **block, "reference_sessions": known}))
    return pd.concat(lines, ignore_index=True)[columns]


def _stability(reference: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index, shift and known sessions of each column; quantiles by column and session, shape (F, sessions, Q)."""
    known = (~np.isnan(reference[:, :, 0])).sum(axis=1)
    # quantiles are evenly spaced: all of them together are a sample of the mean distribution; NaN sorts to the end
    pooled, latest = (np.sort(x.reshape(len(x), -1), axis=1) for x in (reference, current))
    sizes = [np.maximum((~np.isnan(x)).sum(axis=1), 1) for x in (pooled, latest)]

    def quantile(x: np.ndarray, size: np.ndarray, share: float) -> np.ndarray:
        return x[np.arange(len(x)), np.rint(share * (size - 1)).astype(int)]

    edges = np.stack([quantile(pooled, sizes[0], tenth / 10) for tenth in range(1, 10)], axis=1)
    shares = []
    for values, size in zip((pooled, latest), sizes, strict=True):
        below = np.stack([(values <= edges[:, i : i + 1]).sum(axis=1) for i in range(9)], axis=1) / size[:, None]
        whole = np.concatenate([np.zeros((len(values), 1)), below, np.ones((len(values), 1))], axis=1)
        shares.append(np.maximum(np.diff(whole, axis=1), LEAST_SHARE))
    q, p = shares
    spread = quantile(pooled, sizes[0], 0.75) - quantile(pooled, sizes[0], 0.25)
    moved = quantile(latest, sizes[1], 0.5) - quantile(pooled, sizes[0], 0.5)
    shift = np.divide(moved, spread, out=np.zeros(len(moved)), where=spread > 0)
    psi = ((p - q) * np.log(p / q)).sum(axis=1)
    return np.where(np.isnan(latest[:, 0]), np.nan, psi), shift, known


def _long_frames(table: str, scope: Scope) -> Frames:
    """Rows by session of the metrics and the predictions."""
    window = scope.sessions()
    metrics = table == "factor_metrics"
    values = ["signal_date", "ic", "rank_ic", "coverage"] if metrics else ["score", "trained_on"]
    keys = FACTOR_KEYS if metrics else INSTRUMENT_KEYS
    dates, coverage, scores = [], [], []
    for chunk in _chunks(scope, table, window, [*keys, *values]):
        yield "rows", chunk
        dates.append(_days(chunk))
        if metrics:
            coverage.append(chunk.groupby(["pool", "factor"])["coverage"].agg(["sum", "count"]))
        else:
            scores.append(
                chunk.groupby("date", as_index=False).agg(rows=("score", "size"), distinct=("score", "nunique"))
            )
    stored = _session_frame(window, np.concatenate(dates))
    yield "sessions", stored[stored["rows"] > 0] if metrics else stored
    if metrics:
        total = pd.concat(coverage).groupby(level=[0, 1]).sum()
        yield "factors", (total["sum"] / total["count"]).rename("coverage").reset_index()
    else:
        by_session = pd.concat(scores, ignore_index=True)
        yield "scores", by_session[by_session["rows"] > 1]


def _bin_frames(scope: Scope) -> Frames:
    from qdag.schema import ENGINE_FIELDS
    from qdag.store.bars import read_panels
    from qdag.store.qlib.reader import read_calendar, read_instruments, read_provider_panel
    from qdag.store.qlib.verify import verify_provider

    window = scope.sessions()
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

    raw = _arrow(scope, "raw_ohlcv", window[0], window[-1], [*INSTRUMENT_KEYS, *RAW_IN_BINS, "factor"])
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

    codes, names = _coded(raw)
    days = _row_days(raw)
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


# -- what is kept ------------------------------------------------------------------------------------------------------

_DAY = Column("date", "date32", "session that the line is about", nullable=False)


def quality_table(table: str) -> TableSpec:
    """How the rules of a table came out, by session; read by the quality report."""
    return TableSpec(
        f"quality_{table}",
        ("universe", "date", "rule"),
        (
            UNIVERSE,
            _DAY,
            Column("rule", "string", "name of the rule", nullable=False),
            Column("check", "string", "asset check that it belongs to"),
            Column("severity", "string", "error, warn or notice"),
            Column("violations", "int64", "lines of the session that break it; on the last session of the window also "
                   "those that are about no session"),
            Column("required", "string", "what is asked"),
            Column("observed", "string", "what was seen in the window"),
            Column("judged", "int64", "lines judged in the window"),
            Column("meaning", "string", "why it matters and what to do"),
            Column("offenders", "string", "JSON list of the worst lines: date, instrument, value, limit, sentence"),
            Column("judged_from", "date32", "first session of the window that was judged"),
        ),
        f"Outcome of the quality rules of {table}, one row per rule and session.",
        yearly=True,
        remade=f"the rules are judged again when {table} is materialized",
    )  # fmt: skip


def profile_table(table: str) -> TableSpec:
    """Distributions of a table's columns by session; drift is measured against them."""
    return TableSpec(
        f"profile_{table}",
        ("universe", "date", "column"),
        (
            UNIVERSE,
            _DAY,
            Column("column", "string", "column of the table", nullable=False),
            Column("rows", "int64", "rows of the session"),
            Column("nulls", "int64", "rows without a value"),
            Column("infinite", "int64", "infinite values"),
            *(Column(q, "float32", f"{int(q[1:])} % quantile of the finite values") for q in QUANTILES),
        ),
        f"What the columns of {table} looked like on each session: counts and quantiles across instruments.",
        yearly=True,
        remade=f"they are measured again when {table} is materialized",
    )


def outcome(results: Sequence[RuleResult], universe: str, sessions: np.ndarray) -> pa.Table:
    """Rows of :func:`quality_table` for the sessions of a window (at least one)."""
    lines: list[dict[str, Any]] = []
    days: list[date] = sessions.tolist()
    for result in results:
        rule = result.rule
        inside = {day: result.by_date[day] for day in days if day in result.by_date}
        undated = result.violations - sum(count for count, _ in inside.values())
        for day in days:
            count, worst = inside.get(day, (0, ()))
            if day == days[-1] and undated:
                others = tuple(o for o in result.offenders if o not in worst and o.date not in map(str, inside))
                count, worst = count + undated, worst + others
            lines.append(
                {
                    "universe": universe,
                    "date": day,
                    "rule": rule.name,
                    "check": rule.check,
                    "severity": rule.severity,
                    "violations": count,
                    "required": rule.limit,
                    "observed": result.observed,
                    "judged": result.judged,
                    "meaning": rule.meaning,
                    "offenders": json.dumps([asdict(o) for o in worst]) if worst else "[]",
                    "judged_from": days[0],
                }
            )
    return pa.Table.from_pylist(lines, schema=quality_table("any").arrow())


def kept_profile(table: str, universe: str, frame: pd.DataFrame) -> pa.Table:
    """Rows of :func:`profile_table`."""
    frame = frame.assign(universe=universe, date=frame["date"].dt.date)
    return pa.Table.from_pandas(frame, schema=profile_table(table).arrow(), preserve_index=False)
