"""The rules of raw_ohlcv: a bar's own logic, completeness of the delivery, and what the rows before say of a row.

The frames that they are judged on are read by :mod:`qdag.quality.market_frames`. No I/O belongs here.
"""

from functools import partial

from qdag.quality.checks import INSTRUMENT_KEYS, keyed
from qdag.quality.rule import Rule
from qdag.schema import RAW_OHLCV
from qdag.settings import QualitySettings

TABLE = RAW_OHLCV.name
ACTIVE_SESSIONS = 20
"""An instrument is expected on a session when it has a row on it or on one of these many sessions before it."""
VOLUME_ROWS = 20
"""The usual volume of an instrument is that of so many rows before."""


def rules(limits: QualitySettings) -> tuple[Rule, ...]:
    """The rules of raw_ohlcv under the limits of a universe."""
    rule = partial(Rule, table=TABLE)
    outside = "The bar contradicts itself: one of its prices is wrong."
    return (
        *keyed(
            TABLE,
            INSTRUMENT_KEYS,
            limits,
            late="The exchange has closed on later sessions than the newest stored one: the delivery is late, or the "
            "source ends there: then set the universe's `end`.",
            ends="; where the source ends, set the universe's end = {last:%Y-%m-%d}",
        ),
        rule(
            name="close and volume present",
            check="structure",
            kind="not_null",
            columns=("close", "volume"),
            meaning="A bar needs both.",
        ),
        rule(
            name="prices positive",
            check="structure",
            kind="between",
            columns=("open", "high", "low", "close", "factor"),
            meaning="A price or adjustment factor of zero or below has no return.",
            parameters={"minimum": 0, "strict": True},
        ),
        rule(
            name="high not below low",
            check="structure",
            kind="ordered",
            columns=("high", "low"),
            meaning="The day's range is reversed.",
        ),
        rule(
            name="close not above high", check="structure", kind="ordered", columns=("high", "close"), meaning=outside
        ),
        rule(name="close not below low", check="structure", kind="ordered", columns=("close", "low"), meaning=outside),
        rule(name="open not above high", check="structure", kind="ordered", columns=("high", "open"), meaning=outside),
        rule(name="open not below low", check="structure", kind="ordered", columns=("open", "low"), meaning=outside),
        rule(
            name="volume not negative",
            check="structure",
            kind="between",
            columns=("volume",),
            meaning="Shares traded cannot be negative.",
            parameters={"minimum": 0},
        ),
        rule(
            name="every session has bars",
            check="structure",
            kind="between",
            columns=("rows",),
            meaning="No instrument has a row on a session although later ones have: a file or a day is missing. "
            "Deliver it, or set the universe's start to the first session that the source covers. Sessions "
            "after the newest delivered one are late, which `timeliness` tells.",
            frame="sessions",
            parameters={"minimum": 1},
            says="no instrument has a bar",
        ),
        rule(
            name="few files refused",
            check="structure",
            kind="between",
            columns=("share",),
            meaning="Many files are no tables at all: the delivery as a whole went wrong (a rate limit, a full disk).",
            frame="refused_share",
            parameters={"maximum": limits.refused_files},
            says="{refused} of {files} files were refused",
            see="qdag show quarantine -u {universe}",
        ),
        rule(
            name="few rows refused",
            check="structure",
            kind="between",
            columns=("refused_share",),
            meaning="Many rows of one session are broken: the layout or the units of the delivery have changed.",
            frame="sessions",
            parameters={"maximum": limits.refused_rows},
            says="{refused} rows refused, {rows} stored",
            see="qdag show quarantine -u {universe} --start {day} --end {day}",
        ),
        rule(
            name="no file refused",
            check="completeness",
            kind="empty",
            columns=(),
            meaning="A whole file was unreadable (an error page, truncated, empty): deliver it again. Or a delivery "
            "has much less of an instrument than is stored, which is kept: deliver it whole, or take it with "
            "`qdag accept`.",
            frame="refused_files",
            says="the file {source} was refused as a whole: {reason}",
            see="qdag show quarantine -u {universe}",
        ),
        rule(
            name="no row refused",
            check="completeness",
            kind="empty",
            columns=(),
            meaning="Delivered rows that broke a structural rule; they are in the quarantine table.",
            frame="refused_rows",
            says="{source}, line {line}: {reason}",
            see="qdag show quarantine -u {universe}",
        ),
        rule(
            name="fields complete",
            check="completeness",
            kind="between",
            columns=("null_share",),
            meaning="Nulls of a field that the vendor delivers; one that it never delivers is not judged.",
            frame="fields",
            parameters={"maximum": limits.field_null_share},
            says="{null_share:.1%} of {rows} rows have no value",
        ),
        rule(
            name="instruments complete",
            check="completeness",
            kind="between",
            columns=("share",),
            meaning="Sessions with a row between an instrument's first and last one. Long suspensions are legitimate.",
            frame="instruments",
            parameters={"minimum": limits.instruments_share},
            says="{rows} rows on {sessions} sessions",
        ),
        rule(
            name="sessions complete",
            check="completeness",
            kind="between",
            columns=("share",),
            meaning=f"Instruments with a row, among those with one in the last {ACTIVE_SESSIONS} sessions. "
            "A low share is a partial delivery.",
            frame="sessions",
            parameters={"minimum": limits.sessions_share},
            says="{rows} instruments, {expected:.0f} expected",
        ),
        rule(
            name="listings and returns",
            check="completeness",
            kind="empty",
            columns=(),
            meaning=f"Instruments whose first row for {ACTIVE_SESSIONS} sessions lies in the window: a listing, or the "
            "end of a suspension. Their features have little or no history.",
            frame="listings",
            says="first row for at least {absent} sessions",
            notice=True,
        ),
        rule(
            name="no jump without an event",
            check="values",
            kind="ordered",
            columns=("jump_limit", "move"),
            meaning="The adjusted close moved further than the exchange allows or than is plausible, and no split or "
            "dividend explains it: an unadjusted split or a wrong price, or real news.",
            says="moved {adjusted_return:+.1%} without an event, limit {jump_limit:.1%}",
        ),
        rule(
            name="events leave no jump",
            check="values",
            kind="ordered",
            columns=("event_limit", "move"),
            meaning="On a session with a split or dividend the adjusted close still moved too far: the event is wrong, "
            "or adjusted twice.",
            says="moved {adjusted_return:+.1%} although adjusted by {factor_step:.4g}, limit {event_limit:.1%}",
        ),
        rule(
            name="no spike in a bar",
            check="values",
            kind="ordered",
            columns=("spike_limit", "spike"),
            meaning="The high or the low lies far outside of the bar's open and close and of the session before: a "
            "wrong price (a digit too many), or a trade that was taken back.",
            says="{extreme:g} lies {spike:.1%} beyond {around:g}, the nearest of open, close and the session before; "
            "limit {spike_limit:.1%}",
        ),
        rule(
            name="factor follows the events",
            check="values",
            kind="between",
            columns=("factor_error",),
            meaning="The step of the adjustment factor is not what split and dividend of the session make it.",
            parameters={"maximum": 1e-3},
            says="factor stepped by {factor_step:.6g}; split {split:g} and dividend {dividend:g} tell another",
        ),
        rule(
            name="price moves",
            check="values",
            kind="between",
            columns=("unchanged",),
            meaning="The same close on many rows in a row although there was trading: a price that is carried forward.",
            parameters={"maximum": limits.stale_sessions - 1},
            says="close {close:g} on {unchanged:.0f} rows in a row, though traded",
        ),
        rule(
            name="bars traded",
            check="values",
            kind="between",
            columns=("volume",),
            meaning="A bar without volume: a suspension delivered as a bar, or a lost volume.",
            parameters={"minimum": 0, "strict": True},
            says="no volume, close {close:g}",
        ),
        rule(
            name="volume plausible",
            check="values",
            kind="between",
            columns=("volume_ratio",),
            meaning=f"Volume (adjusted for splits) over the geometric mean of the {VOLUME_ROWS} rows before: wrong "
            "units, or a placement or news.",
            parameters={"minimum": 1 / limits.volume_ratio, "maximum": limits.volume_ratio},
            says="{volume_ratio:.4g} times the usual volume",
        ),
        rule(
            name="vwap inside the range",
            check="values",
            kind="between",
            columns=("vwap_outside",),
            meaning="amount and volume are in other units than declared, or on another price scale.",
            parameters={"maximum": 2e-3},
            says="vwap {vwap:g} outside {low:g} .. {high:g}",
        ),
        rule(
            name="no finding",
            check="values",
            kind="empty",
            columns=(),
            meaning="Valid rows that were noticed while they were ingested; they are in the findings table.",
            frame="findings",
            says="{kind}: {detail}",
            see="qdag show findings -u {universe}",
        ),
        rule(
            name="conventions of the vendor",
            check="values",
            kind="empty",
            columns=(),
            meaning="Sessions whose adjusted close follows another convention than the events: nothing is wrong with "
            "either. They are in the findings table.",
            frame="conventions",
            says="{detail}",
            notice=True,
        ),
    )
