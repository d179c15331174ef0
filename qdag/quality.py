"""Quality rules as data, and the frames they are judged on. What judges them lives with the orchestrator.

A :class:`Rule` says what must hold of one named *frame* of a table: the stored rows themselves (``rows``), or a small
summary with one line per session, instrument, column, bin file and so on. :func:`frames` reads the store and yields
these frames for a window; wide tables are summarised by column here, so that judging stays quick. No I/O but reading.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from qdag.errors import SessionError, unknown
from qdag.schema import FEATURE_TABLES
from qdag.sessions import SessionCalendar, calendar_for
from qdag.settings import Settings

if TYPE_CHECKING:
    from qdag.store.tables import TableStore

Check = Literal["structure", "completeness", "values"]
CHECKS: dict[str, str] = {
    "structure": "Keys, types and logic that everything downstream relies on; a failure stops what follows.",
    "completeness": "Whether what should be there is there; a failure warns.",
    "values": "Whether the numbers are plausible; a failure warns.",
}
KINDS = ("unique", "not_null", "between", "ordered", "equals", "empty")

MATURE_SESSIONS = 252
"""Sessions of history after which missing values are judged: the longest rolling window has filled by then."""
ACTIVE_SESSIONS = 20
"""An instrument is expected on a session when it has a row on it or on one of these many sessions before it."""
CHUNK_ROWS = 100_000
SAMPLED_INSTRUMENTS = 200
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
    check : ``structure`` blocks the downstream, ``completeness`` and ``values`` warn
    kind : ``unique`` (the columns together), ``not_null``, ``between`` (each column within ``minimum`` and/or
        ``maximum``; null passes, infinity does not), ``ordered`` (first column >= second; null passes), ``equals``
        (each column equals ``value``), ``empty`` (the frame has no row)
    columns : columns of the frame
    meaning : why it matters and what to do, for the person who reads the failure
    frame : which frame of :func:`frames`
    parameters : of the kind; ``strict`` makes the bounds of ``between`` and the order of ``ordered`` exclusive
    """

    name: str
    table: str
    check: Check
    kind: str
    columns: tuple[str, ...]
    meaning: str
    frame: str = "rows"
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of quality rule", self.kind, KINDS)
        if self.check not in CHECKS:
            raise unknown("check", self.check, CHECKS)

    @property
    def severity(self) -> Literal["error", "warn"]:
        return "error" if self.check == "structure" else "warn"

    @property
    def limit(self) -> str:
        """What is asked, in a few characters."""
        p = self.parameters
        if self.kind == "between":
            sign = "<" if p.get("strict") else "<="
            low = f"{p['minimum']:g} {sign} " if p.get("minimum", -LARGEST) > -LARGEST else ""
            high = f" {sign} {p['maximum']:g}" if p.get("maximum", LARGEST) < LARGEST else ""
            return f"{low}value{high}" if low or high else "finite"
        if self.kind == "ordered":
            return f"{self.columns[0]} {'>' if p.get('strict') else '>='} {self.columns[1]}"
        equal = "true" if p.get("value") is True else f"= {p.get('value')}"
        return {"unique": "no duplicate", "not_null": "no null", "empty": "none", "equals": equal}[self.kind]


@dataclass(frozen=True)
class RuleResult:
    """How a rule came out: ``judged`` lines (or values), ``violations`` among them, and a few of the worst."""

    rule: Rule
    judged: int
    violations: int
    observed: str
    offenders: tuple[dict[str, Any], ...] = ()
    dates: frozenset[date] = frozenset()

    @property
    def passed(self) -> bool:
        return not self.violations

    def __add__(self, other: "RuleResult") -> "RuleResult":
        """The result over two parts of one frame."""
        worst = other if other.violations > self.violations or not self.judged else self
        return RuleResult(
            self.rule,
            self.judged + other.judged,
            self.violations + other.violations,
            worst.observed,
            (self.offenders + other.offenders)[:OFFENDERS],
            self.dates | other.dates,
        )


OFFENDERS = 5


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
    return f"{count:,} of {len(frame):,} break it" if count else f"all {len(frame):,} hold"


def offenders(rule: Rule, frame: pd.DataFrame) -> tuple[tuple[dict[str, Any], ...], frozenset[date]]:
    """A few of the lines that break a rule, worst first where there is a worse, and the dates of all of them."""
    wrong = frame[violations(rule, frame)]
    dates = frozenset(pd.to_datetime(wrong["date"]).dt.date) if "date" in wrong else frozenset()
    if rule.kind == "between":
        p = rule.parameters
        low, high = p.get("minimum", -LARGEST), p.get("maximum", LARGEST)
        values = wrong[list(rule.columns)].to_numpy(np.float64, na_value=np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            beyond = np.nan_to_num(np.maximum(low - values, values - high), nan=0.0).max(axis=1)
        wrong = wrong.iloc[np.argsort(-beyond, kind="stable")]
    if rule.frame == "rows":
        keys = FACTOR_KEYS if rule.table == "factor_metrics" else INSTRUMENT_KEYS
        wrong = wrong[[*(k for k in keys if k in wrong), *(c for c in rule.columns if c not in keys)]]
    lines = wrong.head(OFFENDERS).to_dict("records")
    return tuple({str(k): v for k, v in line.items()} for line in lines), dates


# -- the rules --------------------------------------------------------------------------------------------------------

PERCENT = (0.0, 100.0)
NOT_NEGATIVE = (0.0, LARGEST)
INDICATOR_BOUNDS: dict[str, tuple[float, float]] = {
    "rsi_14": PERCENT,
    "volume_rsi_14": PERCENT,
    "stoch_k": PERCENT,
    "stoch_d": PERCENT,
    "kdj_k": PERCENT,
    "kdj_d": PERCENT,
    "adx_14": PERCENT,
    "willr_14": (-100.0, 0.0),
    "atr_14": NOT_NEGATIVE,
    "volatility_20": NOT_NEGATIVE,
    "hist_volatility_20": NOT_NEGATIVE,
}
"""Bounds that an indicator has by definition."""

FACTOR_KEYS = ("date", "pool", "horizon", "factor")
INSTRUMENT_KEYS = ("date", "instrument")


def rules_for(table: str, columns: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The rules of a table or asset; ``columns`` are those that the table declares (they decide bounds and labels).

    Raises
    ------
    UnknownNameError
        The name is no table, feature table or asset.
    """
    if table in FEATURE_TABLES:
        return _feature_rules(table, columns)
    builders: dict[str, Callable[[Sequence[str]], tuple[Rule, ...]]] = {
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
    return builders[table](columns)


def _keyed(table: str, keys: tuple[str, ...]) -> tuple[Rule, ...]:
    """Rules of every table: declared columns, unique keys without nulls, dates that are sessions."""
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
        ),
        Rule(
            "keys unique", table, "structure", "unique", keys, "One row per key; a duplicate counts twice everywhere."
        ),
        Rule("keys not null", table, "structure", "not_null", keys, "A row without its key belongs to nothing."),
        Rule(
            "dates are sessions",
            table,
            "structure",
            "equals",
            ("is_session",),
            "A stored date is no session of the universe's exchange: the calendar setting or the source is wrong.",
            "sessions",
            {"value": True},
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
    )


def _raw_rules(_: Sequence[str]) -> tuple[Rule, ...]:
    def rule(name: str, check: Check, kind: str, columns: tuple[str, ...], meaning: str, **parameters: Any) -> Rule:
        frame = parameters.pop("frame", "rows")
        return Rule(name, "raw_ohlcv", check, kind, columns, meaning, frame, parameters)

    return (
        *_keyed("raw_ohlcv", INSTRUMENT_KEYS),
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
        rule("close not above high", "structure", "ordered", ("high", "close"), "The close lies outside the range."),
        rule("close not below low", "structure", "ordered", ("close", "low"), "The close lies outside the range."),
        rule(
            "volume not negative", "structure", "between", ("volume",), "Shares traded cannot be negative.", minimum=0
        ),
        rule(
            "every session has bars",
            "structure",
            "between",
            ("rows",),
            "No instrument has a row on a session: the delivery is late or its file is missing. "
            "Deliver it, or set the universe's start and end to what the source covers.",
            frame="sessions",
            minimum=1,
        ),
        rule(
            "instruments complete",
            "completeness",
            "between",
            ("share",),
            "Sessions with a row between an instrument's first and last one. Long suspensions are legitimate.",
            frame="instruments",
            minimum=0.9,
        ),
        rule(
            "sessions complete",
            "completeness",
            "between",
            ("share",),
            f"Instruments with a row, among those with one in the last {ACTIVE_SESSIONS} sessions. "
            "A low share is a partial delivery.",
            frame="sessions",
            minimum=0.7,
        ),
        rule(
            "no file refused",
            "completeness",
            "empty",
            (),
            "A whole file was unreadable (an error page, truncated, empty): deliver it again.",
            frame="refused_files",
        ),
        rule(
            "few rows refused",
            "completeness",
            "between",
            ("share",),
            "Delivered rows that broke a structural rule, by reason; they are in the quarantine table.",
            frame="refused_rows",
            maximum=0.01,
        ),
        rule(
            "adjusted returns plausible",
            "values",
            "between",
            ("adjusted_return",),
            "A jump of the adjusted close: an unadjusted split or a wrong price, or real news.",
            minimum=-0.5,
            maximum=1.0,
        ),
        rule(
            "vwap near close",
            "values",
            "between",
            ("vwap_over_close",),
            "amount and volume are in other units than declared.",
            minimum=0.5,
            maximum=2.0,
        ),
    )


def _bin_rules(_: Sequence[str]) -> tuple[Rule, ...]:
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
        ),
        Rule(
            "bins equal the table",
            "qlib_bin",
            "structure",
            "between",
            ("different",),
            "Values that Qlib reads differ from raw_ohlcv: materialize the range again. "
            f"Of more than {SAMPLED_INSTRUMENTS} instruments an evenly spaced sample is compared.",
            "bins",
            {"maximum": 0},
        ),
    )


def _feature_rules(table: str, columns: Sequence[str]) -> tuple[Rule, ...]:
    def summary(name: str, check: Check, column: str, meaning: str, **parameters: float) -> Rule:
        return Rule(name, table, check, "between", (column,), meaning, "columns", parameters)

    bounded = [
        Rule(
            f"{name} in {low:g}..{high:g}" if high < LARGEST else f"{name} not negative",
            table,
            "values",
            "between",
            (name,),
            "The indicator is bounded by its definition; outside it the computation or its input is wrong.",
            "rows",
            {"minimum": low - SLACK, "maximum": high + SLACK},
        )
        for name, (low, high) in INDICATOR_BOUNDS.items()
        if table == "technical_indicators" and name in columns
    ]
    return (
        *_keyed(table, INSTRUMENT_KEYS),
        _covers(table),
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
            maximum=0.5 if table == "custom_factors" else 0.3,
        ),
        summary(
            "infinite share",
            "values",
            "infinite_share",
            "Divisions by zero; models and metrics drop these values.",
            maximum=0.001,
        ),
        *bounded,
    )


def _label_rules(columns: Sequence[str]) -> tuple[Rule, ...]:
    labels = tuple(c for c in columns if c.startswith("label_"))
    plausible = tuple(
        Rule(
            f"{name} plausible",
            "labels",
            "values",
            "between",
            (name,),
            "A forward return this large is an unadjusted split or a wrong price, or real news.",
            "rows",
            {"minimum": -0.9, "maximum": 3.0},
        )
        for name in labels
    )
    return (
        *_keyed("labels", INSTRUMENT_KEYS),
        _covers("labels"),
        Rule(
            "no label before it is known",
            "labels",
            "structure",
            "between",
            ("too_early",),
            "A value whose last price is not stored yet: the label looked into data that does not exist.",
            "horizons",
            {"maximum": 0},
        ),
        Rule(
            "known labels present",
            "labels",
            "completeness",
            "between",
            ("known_null_share",),
            "Labels older than horizon + 1 sessions should be known unless suspended: materialize the sessions again.",
            "horizons",
            {"maximum": 0.2},
        ),
        *plausible,
    )


def _metric_rules(_: Sequence[str]) -> tuple[Rule, ...]:
    def bounded(columns: tuple[str, ...], low: float, high: float, meaning: str) -> Rule:
        name = f"{' and '.join(columns)} in {low:g}..{high:g}"
        parameters = {"minimum": low - 1e-9, "maximum": high + 1e-9}
        return Rule(name, "factor_metrics", "structure", "between", columns, meaning, "rows", parameters)

    return (
        *_keyed("factor_metrics", FACTOR_KEYS),
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
        ),
    )


def _prediction_rules(_: Sequence[str]) -> tuple[Rule, ...]:
    return (
        *_keyed("predictions", INSTRUMENT_KEYS),
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
        ),
    )


# -- the frames -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scope:
    """What is being judged: a table in a store, for a universe, from ``start`` to ``end`` (days, inclusive)."""

    store: "TableStore"
    settings: Settings
    universe: str
    start: date
    end: date

    def calendar(self) -> SessionCalendar:
        return calendar_for(self.settings.universe(self.universe))

    def sessions(self, before: int = 0) -> np.ndarray:
        """Sessions of the window within the universe's range, M8[D], with up to ``before`` sessions before it."""
        spec = self.settings.universe(self.universe)
        if self.end < self.start:
            raise SessionError(f"start {self.start} is after end {self.end}; give the earlier day first")
        end = min(self.end, spec.end) if spec.end else self.end
        start = max(self.start, spec.start)
        if end < start:
            return np.array([], "M8[D]")
        everything = self.calendar().between(spec.start, end)
        return everything[max(0, int(np.searchsorted(everything, np.datetime64(start, "D"))) - before) :]


Frames = Iterator[tuple[str, pd.DataFrame]]


def frames(table: str, scope: Scope, columns: Sequence[str] = ()) -> Frames:
    """Yield the named frames that the rules of ``table`` are judged on; ``rows`` may come in several parts.

    ``columns`` are the declared ones, keys included. A window without a session yields nothing: an empty partition is
    valid. Dates are datetime64; float columns keep their dtype; null is NaN.

    Raises
    ------
    MissingDataError
        The table, or the Qlib directory, does not exist although the window has sessions.
    """
    if not len(scope.sessions()):
        return
    if table == "raw_ohlcv":
        yield from _schema(table, scope, columns)
        yield from _raw_frames(scope)
    elif table == "qlib_bin":
        yield from _bin_frames(scope)
    elif table in FEATURE_TABLES:
        yield from _schema(table, scope, columns)
        yield from _feature_frames(table, scope, columns)
    elif table == "labels":
        yield from _schema(table, scope, columns)
        yield from _label_frames(scope, columns)
    elif table in ("factor_metrics", "predictions"):
        yield from _schema(table, scope, columns)
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
    """Parts of a table of about ``CHUNK_ROWS`` rows, whole days each."""
    for start, end in _spans(scope, table, sessions):
        yield _read(scope, table, start, end, columns)


def _spans(scope: Scope, table: str, sessions: np.ndarray) -> Iterator[tuple[np.datetime64, np.datetime64]]:
    rows = scope.store.count(table, scope.universe, sessions[0].item(), sessions[-1].item())
    step = max(1, int(CHUNK_ROWS * len(sessions) / max(rows, 1)))
    for at in range(0, len(sessions), step):
        # up to the day before the next part, so that a stored date that is no session is read too
        yield sessions[at], sessions[at + step] - 1 if at + step < len(sessions) else sessions[-1]


def _days(frame: pd.DataFrame) -> np.ndarray:
    return frame["date"].to_numpy().astype("M8[D]")


def _session_frame(sessions: np.ndarray, dates: np.ndarray) -> pd.DataFrame:
    """One line per session of the window and per stored date: how many rows, and whether it is a session."""
    stored, counts = np.unique(dates, return_counts=True)
    every = np.union1d(sessions, stored)
    rows = np.zeros(len(every), np.int64)
    rows[np.searchsorted(every, stored)] = counts
    return pd.DataFrame({"date": every.astype("M8[s]"), "is_session": np.isin(every, sessions), "rows": rows})


def _raw_frames(scope: Scope) -> Frames:
    window = scope.sessions()
    sessions = scope.sessions(before=ACTIVE_SESSIONS)
    names = ["date", "instrument", "open", "high", "low", "close", "volume", "vwap", "factor"]
    bars = _read(scope, "raw_ohlcv", sessions[0], sessions[-1], names)
    adjusted = bars["close"] * bars["factor"]
    bars["adjusted_return"] = adjusted / adjusted.groupby(bars["instrument"]).shift() - 1
    bars["vwap_over_close"] = bars["vwap"] / bars["close"]
    days = _days(bars)
    inside = days >= window[0]
    rows = bars[inside]
    yield "rows", rows
    frame = _session_frame(window, days[inside])

    codes, instruments = pd.factorize(bars["instrument"])
    known = np.isin(days, sessions)
    present = np.zeros((len(instruments), len(sessions)), bool)
    present[codes[known], np.searchsorted(sessions, days[known])] = True
    counts = np.concatenate([np.zeros((len(instruments), 1), np.int32), present.cumsum(axis=1, dtype=np.int32)], axis=1)
    at = np.arange(1, len(sessions) + 1)
    active = counts[:, at] > counts[:, np.maximum(at - 1 - ACTIVE_SESSIONS, 0)]
    skip = len(sessions) - len(window)
    expected = pd.Series(active.sum(axis=0)[skip:], index=window.astype("M8[s]"))
    frame["expected"] = frame["date"].map(expected)
    frame["share"] = frame["rows"] / frame["expected"].where(frame["expected"] > 0)
    yield "sessions", frame

    last = len(sessions) - 1 - present[:, ::-1].argmax(axis=1)
    first = np.maximum(present.argmax(axis=1), skip)
    listed = np.maximum(last - first + 1, 0)
    seen = present[:, skip:].sum(axis=1)
    spans = pd.DataFrame({"instrument": instruments, "sessions": listed, "rows": seen})[listed > 0]
    spans["share"] = spans["rows"] / spans["sessions"]
    yield "instruments", spans

    yield from _refusals(scope, window, len(rows))


def _refusals(scope: Scope, window: np.ndarray, rows: int) -> Frames:
    names = ["date", "instrument", "source", "line", "reason"]
    if scope.store.exists("quarantine"):
        refused = _read(scope, "quarantine", window[0], window[-1], names)
    else:
        refused = pd.DataFrame({name: pd.Series([], dtype=object) for name in names})
    yield "refused_files", refused[refused["line"] == 0]
    lines = refused[refused["line"] != 0]
    by_reason = lines.groupby("reason", as_index=False).agg(refused=("line", "size"), example=("source", "first"))
    by_reason["share"] = by_reason["refused"] / (rows + len(lines))
    yield "refused_rows", by_reason


def _feature_frames(table: str, scope: Scope, columns: Sequence[str]) -> Frames:
    window = scope.sessions()
    stored = scope.store.columns(table)
    values = [c for c in (columns or stored) if c in stored and c not in ("universe", *INSTRUMENT_KEYS)]
    bounded = [c for r in rules_for(table, values) if r.frame == "rows" and r.kind == "between" for c in r.columns]
    mature = _mature_from(scope)
    counts = np.zeros((3, len(values)), np.int64)
    sessions = []
    for start, end in _spans(scope, table, window):
        chunk = _read(scope, table, start, end, [*INSTRUMENT_KEYS, *values])
        yield "rows", chunk[[*INSTRUMENT_KEYS, *bounded]]
        sessions.append(_covered(scope, window, start, end, chunk))
        if mature is not None:
            old = chunk.loc[_days(chunk) >= mature, values].to_numpy(np.float32)
            counts[0] += len(old)
            counts[1] += np.isnan(old).sum(axis=0)
            counts[2] += np.isinf(old).sum(axis=0)
    total = np.maximum(counts[0], 1)
    shares = {"rows": counts[0], "null_share": counts[1] / total, "infinite_share": counts[2] / total}
    summary = pd.DataFrame({"column": values, **shares})
    yield "columns", summary[summary["rows"] > 0]
    yield "sessions", pd.concat(sessions, ignore_index=True)


def _mature_from(scope: Scope) -> np.datetime64 | None:
    """First session with enough history behind it to judge missing values; None while there is none."""
    stored = scope.store.sessions("raw_ohlcv", scope.universe)
    return stored[MATURE_SESSIONS] if len(stored) > MATURE_SESSIONS else None


def _covered(
    scope: Scope, sessions: np.ndarray, start: np.datetime64, end: np.datetime64, keys: pd.DataFrame
) -> pd.DataFrame:
    """The session frame of a part of a table, with the rows of raw_ohlcv that have no row in it."""
    frame = _session_frame(sessions[(sessions >= start) & (sessions <= end)], _days(keys))
    bars = _read(scope, "raw_ohlcv", start, end, INSTRUMENT_KEYS)
    pairs = bars.merge(keys[list(INSTRUMENT_KEYS)].drop_duplicates(), how="left", indicator="side")
    lost = pairs.loc[pairs["side"] == "left_only"].groupby("date").size()
    return frame.assign(missing_bars=frame["date"].map(lost).fillna(0).astype(np.int64))


def _label_frames(scope: Scope, columns: Sequence[str]) -> Frames:
    stored = scope.store.columns("labels")
    labels = [c for c in (columns or stored) if c in stored and c.startswith("label_")]
    horizons = {name: int(name.removeprefix("label_")) for name in labels}
    # labels of earlier sessions become known with the window's prices
    sessions = scope.sessions(before=max(horizons.values(), default=0) + 1)
    bars = scope.store.sessions("raw_ohlcv", scope.universe)
    parts, counts = [], dict.fromkeys(labels, np.zeros(3, np.int64))
    for start, end in _spans(scope, "labels", sessions):
        chunk = _read(scope, "labels", start, end, [*INSTRUMENT_KEYS, *labels])
        yield "rows", chunk
        parts.append(_covered(scope, sessions, start, end, chunk))
        days = _days(chunk)
        for name, horizon in horizons.items():
            known = days < bars[-horizon - 1] if len(bars) > horizon else np.zeros(len(days), bool)
            null = chunk[name].isna().to_numpy()
            counts[name] = counts[name] + (known.sum(), (known & null).sum(), (~known & ~null).sum())
    lines = [
        {"label": n, "known_rows": c[0], "known_null_share": c[1] / c[0] if c[0] else np.nan, "too_early": c[2]}
        for n, c in counts.items()
    ]
    yield "horizons", pd.DataFrame(lines, columns=["label", "known_rows", "known_null_share", "too_early"])
    yield "sessions", pd.concat(parts, ignore_index=True)


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
    from qdag.store.panels import read_panel
    from qdag.store.qlib_bin import read_calendar, read_instruments, read_provider_panel

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

    traded = _read(scope, "raw_ohlcv", window[0], window[-1], ["instrument"])["instrument"].unique()
    names = sorted({*traded, *read_instruments(provider)})
    picked = np.linspace(0, len(names) - 1, min(SAMPLED_INSTRUMENTS, len(names))).astype(int)
    names = [names[i] for i in np.unique(picked)]
    table = read_panel(scope.store, scope.universe, window, names)
    bins = read_provider_panel(provider, tuple(table.fields), names, window[0], window[-1], missing_ok=True)
    at, found = np.searchsorted(window, bins.sessions), np.isin(bins.sessions, window)
    rows: list[dict[str, Any]] = []
    for name in table.fields:
        stored = np.full(table.shape, np.nan, np.float32)
        stored[:, at[found]] = bins[name][:, found]
        same = (stored == table[name]) | (np.isnan(stored) & np.isnan(table[name]))
        different = (~same).sum(axis=1).tolist()
        rows += [{"instrument": i, "field": name, "different": n} for i, n in zip(names, different, strict=True)]
    yield "bins", pd.DataFrame(rows, columns=["instrument", "field", "different"])
