"""Yahoo through the real yfinance and its real HTTP client; the server speaks Yahoo's chart format."""

import json
from datetime import date, datetime, time
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdag.core.sessions import calendar_for
from qdag.errors import SourceError
from qdag.settings import Settings, UniverseSettings, YahooSource
from qdag.sources import open_source
from qdag.sources.web.fetched import Fetched
from qdag.sources.web.yahoo import Yahoo, as_traded
from qdag_tests.sources.web.vendor_server import Vendor

yfinance = pytest.importorskip("yfinance")

NEW_YORK = ZoneInfo("America/New_York")
SPLIT_A, SPLIT_B, PAID = date(2024, 3, 6), date(2024, 3, 12), date(2024, 3, 8)
# as traded: a 2-for-1 split on the 6th, a dividend of 0.60 on the 8th, a 3-for-1 split on the 12th
RAW = {
    date(2024, 3, 4): (99.0, 101.0, 98.0, 100.0, 1200.0),
    date(2024, 3, 5): (100.0, 104.0, 99.0, 102.0, 1800.0),
    SPLIT_A: (51.0, 53.0, 50.0, 52.0, 3000.0),
    date(2024, 3, 7): (52.0, 54.0, 51.0, 53.0, 2400.0),
    PAID: (53.0, 55.0, 52.0, 54.0, 600.0),
    date(2024, 3, 11): (54.0, 56.0, 53.0, 54.0, 900.0),
    SPLIT_B: (18.0, 19.0, 17.0, 18.5, 5000.0),
    date(2024, 3, 13): (18.5, 19.5, 18.0, 19.0, 4000.0),
}
SPLITS = {SPLIT_A: (2, 1), SPLIT_B: (3, 1)}
DIVIDENDS = {PAID: 0.60}


def stamp(day: date) -> int:
    return int(datetime.combine(day, time(9, 30), NEW_YORK).timestamp())


class Yahoos:
    """What Yahoo answers on the evening of ``now``: everything adjusted for the splits up to then, by plain loops."""

    def __init__(self, now: date = date(2024, 3, 13), raw=None):
        self.now = now
        self.raw = dict(raw or RAW)

    def __call__(self, path, query):
        if "chart" not in path:
            return (404, "", {})
        symbol = path.rsplit("/", 1)[1]
        if symbol == "GONE":
            error = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
            return (404, json.dumps({"chart": {"result": None, "error": error}}), {})
        meta = {
            "currency": "USD",
            "symbol": symbol,
            "instrumentType": "EQUITY",
            "exchangeTimezoneName": "America/New_York",
            "timezone": "EST",
            "gmtoffset": -18000,
            "firstTradeDate": 0,
            "regularMarketTime": stamp(self.now),
            "priceHint": 2,
            "validRanges": ["1d", "5d", "max"],
        }
        low, high = int(query.get("period1", 0)), int(query.get("period2", 2**40))
        days = [d for d in sorted(self.raw) if low <= stamp(d) < high and d <= self.now]
        quote = {name: [] for name in ("open", "high", "low", "close", "volume")}
        adjclose = []
        for day in days:
            ratio = self.ratio(day)
            for name, value in zip(quote, self.raw[day], strict=True):
                quote[name].append(value * ratio if name == "volume" else float(np.float32(value / ratio)))
            adjclose.append(quote["close"][-1] * self.paid(day))
        quote["volume"] = [round(v) for v in quote["volume"]]
        result = {
            "meta": meta,
            "timestamp": [stamp(d) for d in days],
            "events": self.events(low, high),
            "indicators": {"quote": [quote], "adjclose": [{"adjclose": adjclose}]},
        }
        return (200, json.dumps({"chart": {"result": [result], "error": None}}), {})

    def ratio(self, day):
        """New shares for one of the day."""
        ratio = 1.0
        for when, (a, b) in SPLITS.items():
            if day < when <= self.now:
                ratio *= a / b
        return ratio

    def paid(self, day):
        """What dividends leave of a price of the day."""
        paid = 1.0
        for when, amount in DIVIDENDS.items():
            if day < when <= self.now:
                before = max(d for d in self.raw if d < when)
                paid *= 1 - amount / self.raw[before][3]
        return paid

    def events(self, low, high):
        events = {"splits": {}, "dividends": {}}
        for when, (a, b) in SPLITS.items():
            if low <= stamp(when) < high and when <= self.now:
                entry = {"date": stamp(when), "numerator": a, "denominator": b, "splitRatio": f"{a}:{b}"}
                events["splits"][str(stamp(when))] = entry
        for when, amount in DIVIDENDS.items():
            if low <= stamp(when) < high and when <= self.now:
                for other, (a, b) in SPLITS.items():
                    if when <= other <= self.now:
                        amount /= a / b
                events["dividends"][str(stamp(when))] = {"date": stamp(when), "amount": amount}
        return events


@pytest.fixture
def yahoo(monkeypatch):
    """The server, and every request of the real client to any host sent there."""
    from curl_cffi.requests import Session

    with Vendor(Yahoos()).running() as vendor:
        real = Session.request
        monkeypatch.setattr(
            Session, "request", lambda self, method, url, *a, **k: real(self, method, vendor.url(url), *a, **k)
        )
        # answers that yfinance keeps in the process
        yfinance.data.YfData.cache_get.cache_clear()
        yield vendor


def source_of(folder, today=date(2024, 3, 13), instruments=("AAPL",), slept=None, **more):
    settings = UniverseSettings(
        source=YahooSource(interval=0, cache=folder, **{"retries": 2, "failed_share": 1, **more}),
        calendar="XNYS",
        start=date(2024, 3, 4),
        instruments=instruments,
    )
    client = Yahoo(settings.source, folder)
    sleep = (slept if slept is not None else []).append
    return Fetched("us", settings, settings.source, client, folder, today=lambda: today, sleep=sleep)


def deliver(source, start=date(2024, 3, 4), end=date(2024, 3, 13)):
    days = calendar_for(source.settings).between(source.settings.start, end)
    return source.deliver(days, start, end)


def test_prices_are_stored_as_traded(yahoo, tmp_path):
    delivery = deliver(source_of(tmp_path))
    assert delivery.quarantine.num_rows == 0
    bars = delivery.bars
    assert bars["date"].to_pylist() == sorted(RAW)
    for position, name in enumerate(("open", "high", "low", "close", "volume")):
        expected = [RAW[day][position] for day in sorted(RAW)]
        assert np.allclose(bars[name].to_numpy(), expected, rtol=2e-7, atol=0), name
    assert bars["volume"].to_pylist() == [RAW[day][4] for day in sorted(RAW)]
    # by hand: x2 on the 6th, / (1 - 0.60 / 53) on the 8th, x3 on the 12th
    paid = 1 / (1 - 0.60 / 53.0)
    assert np.allclose(bars["factor"].to_numpy(), [1, 1, 2, 2, 2 * paid, 2 * paid, 6 * paid, 6 * paid], rtol=1e-6)
    # and Yahoo's own adjusted close tells the same
    assert delivery.findings.num_rows == 0
    assert bars["split"].to_pylist() == [1, 1, 2, 1, 1, 1, 3, 1]
    assert np.allclose(bars["dividend"].to_numpy(), [0, 0, 0, 0, 0.60, 0, 0, 0], rtol=1e-6)


def test_a_split_after_the_asked_range_changes_nothing_in_it(yahoo, tmp_path):
    whole = deliver(source_of(tmp_path / "a")).bars
    part = deliver(source_of(tmp_path / "b"), date(2024, 3, 5), date(2024, 3, 7)).bars
    assert part.equals(whole.slice(1, 3))


def test_day_by_day_equals_at_once(yahoo, tmp_path):
    whole = deliver(source_of(tmp_path / "whole")).bars
    closes, factors = [], []
    for day in sorted(RAW):
        yahoo.answer = Yahoos(now=day)
        delivery = deliver(source_of(tmp_path / "daily", today=day), day, day)
        assert delivery.quarantine.num_rows == 0
        assert delivery.checks["refetched"] == 0
        assert delivery.findings.num_rows == 0
        closes += delivery.bars["close"].to_pylist()
        factors += delivery.bars["factor"].to_pylist()
    assert np.allclose(closes, whole["close"].to_numpy(), rtol=2e-7, atol=0)
    assert np.allclose(factors, whole["factor"].to_numpy(), rtol=1e-6, atol=0)
    # what is kept holds together: Yahoo's adjusted closes of different days are on one scale
    assert deliver(source_of(tmp_path / "daily")).findings.num_rows == 0
    # a later day asks for the last rows only
    assert int(yahoo.requests[-1][1]["period1"]) > stamp(date(2024, 3, 4))


@pytest.mark.parametrize("corrected", [False, True])
def test_a_later_split_changes_no_bit_of_what_is_kept(yahoo, tmp_path, corrected):
    """2 / 3 is no 32-bit number: what is computed after the split differs in the eighth digit."""
    yahoo.answer = Yahoos(now=date(2024, 3, 11))
    before = deliver(source_of(tmp_path, today=date(2024, 3, 11)), end=date(2024, 3, 11)).bars
    changed = {**RAW, date(2024, 3, 11): (54.0, 56.0, 53.0, 54.5, 900.0)}
    yahoo.answer = Yahoos(raw=changed if corrected else RAW)
    after = deliver(source_of(tmp_path), end=date(2024, 3, 13))
    assert after.checks["refetched"] == corrected
    same = 5 if corrected else 6
    assert after.bars.slice(0, same).equals(before.slice(0, same))
    assert (after.bars["close"][5].as_py() == before["close"][5].as_py()) != corrected
    other = deliver(source_of(tmp_path / "other")).bars
    assert not other.slice(0, 5).equals(before.slice(0, 5))


def test_a_corrected_history_is_fetched_again(yahoo, tmp_path):
    yahoo.answer = Yahoos(now=date(2024, 3, 8))
    deliver(source_of(tmp_path, today=date(2024, 3, 8)), end=date(2024, 3, 8))
    corrected = {**RAW, date(2024, 3, 4): (99.0, 101.0, 98.0, 98.5, 1200.0), SPLIT_A: (51.0, 53.0, 50.0, 52.5, 3000.0)}
    yahoo.answer = Yahoos(raw=corrected)
    delivery = deliver(source_of(tmp_path))
    assert delivery.checks["refetched"] == 1
    assert np.allclose(delivery.bars["close"].to_numpy()[[0, 2]], [98.5, 52.5], rtol=1e-6)


def test_nothing_is_asked_twice(yahoo, tmp_path):
    first = deliver(source_of(tmp_path))
    asked = len(yahoo.requests)
    again = deliver(source_of(tmp_path))
    assert len(yahoo.requests) == asked
    assert again.bars.equals(first.bars)
    assert (first.checks["fetched"], again.checks["fetched"]) == (1, 0)


def test_a_late_row_is_asked_for_again(yahoo, tmp_path):
    yahoo.answer = Yahoos(now=date(2024, 3, 12))
    early = deliver(source_of(tmp_path))
    assert early.bars["date"].to_pylist()[-1] == date(2024, 3, 12)
    yahoo.answer = Yahoos()
    late = deliver(source_of(tmp_path))
    assert late.bars["date"].to_pylist()[-1] == date(2024, 3, 13)


@pytest.mark.parametrize(
    ("failure", "waits"),
    [
        ((500, "<html>oops</html>", {}), 1),
        ((502, "", {}), 1),
        ((429, "Too Many Requests", {"Retry-After": "7"}), 7),
        ("reset", 1),
        (("slow", 0.6), 1),
    ],
    ids=["500", "502", "429", "reset", "slow"],
)
def test_a_passing_failure_is_tried_again(yahoo, tmp_path, failure, waits):
    yahoo.failures, yahoo.failing = [failure, failure], "chart"
    slept = []
    delivery = deliver(source_of(tmp_path, slept=slept, timeout=0.3))
    assert delivery.bars.num_rows == len(RAW)
    assert not yahoo.failures
    assert len(slept) == 2
    assert slept[0] == 7 if waits == 7 else 0.5 <= slept[0] <= 1


@pytest.mark.parametrize(
    ("failure", "reason", "text"),
    [
        ((404, json.dumps({"chart": {"result": None, "error": {"description": "No data found"}}}), {}), "", "No data"),
        ((200, '{"chart": {"result": [{', {}), "fetch_failed", "cannot be read"),
        ((200, "<html>Sorry</html>", {}), "fetch_failed", "cannot be read"),
        ((200, "", {}), "fetch_failed", "cannot be read"),
        ((200, '{"chart": {"result": [], "error": null}}', {}), "empty_answer", "no price data found"),
        ((403, "Forbidden", {}), "fetch_failed", ""),
    ],
    ids=["404", "cut", "html", "nothing", "empty", "403"],
)
def test_a_final_failure_is_quarantined_at_once(yahoo, tmp_path, failure, reason, text):
    good = deliver(source_of(tmp_path / "warm", instruments=("MSFT",))).bars
    yahoo.failing = "chart/AAPL"
    # the second one only for a client that asks for a time zone first, or with another cookie
    yahoo.failures = [failure] * 3
    slept = []
    delivery = deliver(source_of(tmp_path, instruments=("AAPL", "MSFT"), slept=slept))
    assert delivery.bars.drop_columns("instrument").equals(good.drop_columns("instrument"))
    row = delivery.quarantine.to_pylist()[0]
    assert (row["instrument"], row["source"], row["line"]) == ("AAPL", "yahoo:AAPL", 0)
    assert row["reason"] == reason or not reason
    assert text in row["row"]
    assert not slept
    assert delivery.checks["fetch_failed"] == 1


def test_an_unknown_symbol_is_quarantined_and_the_rest_goes_on(yahoo, tmp_path):
    delivery = deliver(source_of(tmp_path, instruments=("GONE", "AAPL")))
    assert delivery.bars.num_rows == len(RAW)
    assert delivery.quarantine["instrument"].to_pylist() == ["GONE"]


def test_symbols():
    client = Yahoo.__new__(Yahoo)
    client.source = YahooSource(symbols={"BRK.B": "BRK-B"})
    assert client.symbol("SH600000") == "600000.SS"
    assert client.symbol("SZ000001") == "000001.SZ"
    assert client.symbol("AAPL") == "AAPL"
    assert client.symbol("0700.HK") == "0700.HK"
    assert client.symbol("^GSPC") == "^GSPC"
    assert client.symbol("BRK.B") == "BRK-B"
    for text in ("../x", "A/B", "A?x=1", "A B", "", "A#"):
        assert client.symbol(text) is None


def test_a_strange_instrument_is_refused_by_name(tmp_path):
    with pytest.raises(SourceError, match=r"'A_B'.*'yahoo'"):
        deliver(source_of(tmp_path, instruments=("A_B",)))


def test_open_source_opens_it(yahoo, tmp_path):
    settings = UniverseSettings(
        source=YahooSource(interval=0), calendar="XNYS", start=date(2024, 3, 4), instruments=("AAPL",)
    )
    bars = deliver(open_source("us", settings, tmp_path)).bars
    assert bars.num_rows == len(RAW)
    assert (tmp_path / "yahoo" / "AAPL.parquet").exists()
    with pytest.raises(SourceError, match=r"source\.cache"):
        open_source("us", settings)


def test_settled_sessions_are_kept_beyond_the_asked_end(yahoo, tmp_path):
    """A backfill in months asks once: but the last two days may still change and are not kept."""
    source = source_of(tmp_path, today=date(2024, 3, 13))
    deliver(source, end=date(2024, 3, 5))
    kept = source.cache.read("AAPL", "AAPL")
    assert kept is not None
    assert kept.until == date(2024, 3, 11)
    assert kept.table["date"].to_pylist()[-1] == date(2024, 3, 11)


@given(
    rows=st.lists(
        st.tuples(
            st.floats(1, 500), st.sampled_from([0, 0, 0, 2, 3, 0.1, 1.5]), st.sampled_from([0, 0, 0, 0.25, 0.01])
        ),
        min_size=1,
        max_size=12,
    )
)
def test_as_traded_undoes_any_splits(rows):
    close, split, dividend = (np.array(c, float) for c in zip(*rows, strict=True))
    volume = np.arange(1.0, len(rows) + 1) * 600
    ratio = np.where(split > 0, split, 1)
    shown = {name: [] for name in ("Open", "High", "Low", "Close", "Adj Close", "Volume", "Dividends", "Stock Splits")}
    for t in range(len(rows)):
        later = 1.0
        for u in range(t + 1, len(rows)):
            later *= ratio[u]
        for name, scale in (("Open", 1), ("High", 1.01), ("Low", 0.99), ("Close", 1), ("Adj Close", 1)):
            shown[name].append(close[t] * scale / later)
        shown["Volume"].append(volume[t] * later)
        # paid per share of the day before
        shown["Dividends"].append(dividend[t] / (later * ratio[t]))
        shown["Stock Splits"].append(split[t])
    days = pd.date_range("2024-01-01", periods=len(rows), tz="America/New_York")
    table = as_traded(pd.DataFrame(shown, index=days))
    assert np.allclose(table["close"].to_numpy(), close, rtol=1e-12)
    assert np.allclose(table["high"].to_numpy(), close * 1.01, rtol=1e-12)
    assert table["volume"].to_pylist() == volume.tolist()
    assert np.allclose(np.nan_to_num(table["dividend"].to_numpy()), dividend, rtol=1e-12)
    assert np.array_equal(np.nan_to_num(table["split"].to_numpy()), split)
    assert table["date"].to_pylist() == [d.date() for d in days]


def test_a_dividend_that_yahoo_did_not_adjust_for_is_a_finding(yahoo, tmp_path):
    """As where prices are in pence and dividends in pounds: the two ways to the factor differ."""

    class Pounds(Yahoos):
        def __call__(self, path, query):
            status, body, headers = super().__call__(path, query)
            answer = json.loads(body or "{}")
            for result in answer.get("chart", {}).get("result", []):
                for event in result["events"]["dividends"].values():
                    event["amount"] /= 100
            return (status, json.dumps(answer), headers)

    yahoo.answer = Pounds()
    found = deliver(source_of(tmp_path)).findings.to_pylist()
    assert [(f["date"], f["kind"]) for f in found] == [(PAID, "factor_difference")]


def test_the_stage_keeps_what_it_fetched_in_the_data_home(yahoo, tmp_path):
    from qdag.assets.platform import Platform
    from qdag_tests.stages import raw_ohlcv

    universe = UniverseSettings(
        source=YahooSource(interval=0), calendar="XNYS", start=date(2024, 3, 4), instruments=("AAPL",)
    )
    platform = Platform.open(Settings(home=tmp_path, universes={"us": universe}))
    result = raw_ohlcv(platform, "us", date(2024, 3, 4), date(2024, 3, 13))
    assert result.rows == len(RAW)
    assert result.extra["fetched"] == 1
    assert (tmp_path / "downloads" / "yahoo" / "AAPL.parquet").exists()
    asked = len(yahoo.requests)
    again = raw_ohlcv(platform, "us", date(2024, 3, 5), date(2024, 3, 6))
    assert (again.rows, len(yahoo.requests)) == (2, asked)


class Flaky(Yahoos):
    """Knows nothing of one symbol while it is down."""

    down = True

    def recover(self):
        self.down = False
        # the answers that yfinance keeps in the process
        yfinance.data.YfData.cache_get.cache_clear()

    def __call__(self, path, query):
        if self.down and path.endswith("/BAD"):
            return (404, "", {})
        return super().__call__(path, query)


def test_failed_instruments_are_asked_for_alone(yahoo, tmp_path):
    from qdag.assets.platform import Platform
    from qdag.operations.failed import failed_instruments
    from qdag.store.deliveries import contradicted
    from qdag_tests.stages import raw_ohlcv

    def platform(name):
        universe = UniverseSettings(
            source=YahooSource(interval=0), calendar="XNYS", start=date(2024, 3, 4), instruments=("AAPL", "BAD", "MSFT")
        )
        return Platform.open(Settings(home=tmp_path / name, universes={"us": universe}))

    yahoo.answer = Flaky()
    first = platform("first")
    raw_ohlcv(first, "us", date(2024, 3, 4), date(2024, 3, 8))
    raw_ohlcv(first, "us", date(2024, 3, 11), date(2024, 3, 13))
    failed = failed_instruments(first, "us")
    assert [(one.instrument, one.reason, one.start) for one in failed] == [
        # once, however often it was met
        ("BAD", "fetch_failed", date(2024, 3, 11)),
    ]
    stored = first.store.read("raw_ohlcv", "us")
    assert set(stored["instrument"].to_pylist()) == {"AAPL", "MSFT"}

    # while it fails again, nothing is lost
    with pytest.raises(SourceError, match="1 of 1 instruments failed"):
        raw_ohlcv(first, "us", date(2024, 3, 4), date(2024, 3, 13), instruments=["BAD"])
    assert first.store.read("raw_ohlcv", "us").equals(stored)
    assert failed_instruments(first, "us") == failed

    yahoo.answer.recover()
    yahoo.requests.clear()
    result = raw_ohlcv(first, "us", date(2024, 3, 11), date(2024, 3, 13), instruments=["BAD"])
    assert result.extra["rows_new"] == 3
    # the sessions before, on which it failed as well, are not forgotten
    assert contradicted(first.store, "us").tolist() == sorted(RAW)[:5]
    raw_ohlcv(first, "us", date(2024, 3, 4), date(2024, 3, 8))
    assert len(contradicted(first.store, "us")) == 0
    assert {path.rsplit("/", 1)[1] for path, _, _ in yahoo.requests if "chart" in path} == {"BAD"}
    assert failed_instruments(first, "us") == []
    second = platform("second")
    raw_ohlcv(second, "us", date(2024, 3, 4), date(2024, 3, 13))
    assert first.store.read("raw_ohlcv", "us").equals(second.store.read("raw_ohlcv", "us"))


def test_a_dividend_that_is_told_late_makes_the_stored_sessions_stale(yahoo, tmp_path, monkeypatch):
    from qdag.assets.platform import Platform
    from qdag.store.deliveries import contradicted
    from qdag_tests.stages import raw_ohlcv

    def platform(name):
        universe = UniverseSettings(
            source=YahooSource(interval=0), calendar="XNYS", start=date(2024, 3, 4), instruments=("AAPL",)
        )
        return Platform.open(Settings(home=tmp_path / name, universes={"us": universe}))

    daily = platform("daily")
    days = sorted(RAW)[:6]
    for day in days:
        with monkeypatch.context() as patch:
            if day <= PAID:
                patch.delitem(DIVIDENDS, PAID)
            yahoo.answer = Yahoos(now=day)
            # these days are long settled now: what is kept of them would not be asked for again
            for path in daily.settings.downloads.glob("yahoo/*.parquet"):
                path.unlink()
            result = raw_ohlcv(daily, "us", day, day)
        stale = contradicted(daily.store, "us").tolist()
        assert stale == ([PAID] if day > PAID else []), day
        assert ("contradicted" in result.extra) == (day > PAID)
    raw_ohlcv(daily, "us", PAID, PAID)
    assert len(contradicted(daily.store, "us")) == 0
    once = platform("once")
    raw_ohlcv(once, "us", days[0], days[-1])
    got, expected = (p.store.read("raw_ohlcv", "us") for p in (daily, once))
    for name in ("close", "factor", "dividend"):
        assert np.allclose(got[name].to_numpy(), expected[name].to_numpy(), rtol=1e-6), name


def test_the_command_retries_and_computes_what_follows(yahoo, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from qdag.cli import app

    for name in ("DAGSTER_HOME", "QDAG_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    names = ["BAD", *(f"GOOD{i}" for i in range(24))]
    (tmp_path / "qdag.toml").write_text(
        'home = "home"\nhorizons = [1]\n[universes.us]\ncalendar = "XNYS"\nstart = 2024-03-04\nend = 2024-03-13\n'
        f'instruments = {names}\nsource = {{ kind = "yahoo", interval = 0 }}\n'
    )
    monkeypatch.chdir(tmp_path)

    def qdag(*arguments):
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
        return result.exit_code, result.output

    yahoo.answer = Flaky()
    code, told = qdag("materialize", "raw_ohlcv", "qlib_bin", "price_features")
    assert code == 0, told
    code, told = qdag("retry-failed")
    assert code == 1
    assert "BAD" in told
    assert "fetch_failed" in told
    assert "1 of 1 instruments failed" in told
    yahoo.answer.recover()
    code, told = qdag("retry-failed")
    assert code == 0, told
    code, told = qdag("retry-failed")
    assert (code, told.strip()) == (0, "no instrument failed")
    code, told = qdag("show", "price_features", "--rows", "200")
    assert told.count("BAD") == len(RAW)
