"""Files as vendors write them, delivered, and what must hold of every delivery."""

from collections import Counter
from datetime import date

from qdag.core.sessions import calendar_for
from qdag.schema import QUARANTINE, RAW_OHLCV
from qdag.settings import FilesSource, UniverseSettings
from qdag.sources import open_source
from qdag.sources.reasons import Reason, Refuses

US = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"

CN = "ts_code,trade_date,open,high,low,close,pre_close,change,pct_chg,vol,amount\n"


def universe(path, start=date(2020, 1, 2), end=date(2020, 1, 31), calendar="XNYS", **more):
    instruments = more.pop("instruments", None)
    source = FilesSource(path=path, **more)
    return UniverseSettings(source=source, calendar=calendar, start=start, end=end, instruments=instruments)


def deliver(spec, start=None, end=None):
    sessions = calendar_for(spec).all
    return open_source("u", spec).deliver(sessions, start or spec.start, end or spec.end)


def reasons(delivery):
    return Counter(delivery.quarantine["reason"].to_pylist())


def us(day, o=10.0, h=11.0, lo=9.0, c=10.0, adj=10.0, v=100, div=0, split=1):
    return f"2020-01-{day:02d},{o},{h},{lo},{c},{adj},{v},{div},{split}\n"


def accounts(delivery):
    rows = sum(1 for line in delivery.quarantine["line"].to_pylist() if line)
    assert delivery.checks["rows_delivered"] == delivery.bars.num_rows + rows + delivery.corrections
    assert delivery.bars.schema.equals(RAW_OHLCV.arrow())
    assert delivery.quarantine.schema.equals(QUARANTINE.arrow())


TEXT = US + us(3)


def refused(delivery) -> dict[str, tuple[str, str]]:
    """Source -> reason and instrument, of what was refused as a whole."""
    rows = [row for row in delivery.quarantine.to_pylist() if row["line"] == 0]
    assert {row["reason"] for row in rows} <= {r for r in Reason if Refuses.FILE in r.refuses}
    return {row["source"]: (row["reason"], row["instrument"]) for row in rows}
