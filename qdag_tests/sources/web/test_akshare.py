"""akshare's real functions over real HTTP; the server answers in Eastmoney's and Sina's formats."""

import json
from datetime import date

import numpy as np
import pytest

from qdag.core.sessions import calendar_for
from qdag.errors import SourceError
from qdag.settings import AkshareSource, UniverseSettings
from qdag.sources import open_source
from qdag.sources.web.akshare import Akshare
from qdag.sources.web.fetched import Fetched
from qdag_tests.sources.web.vendor_server import Vendor

pytest.importorskip("akshare")

# date, open, close, high, low, lots, amount, amplitude, change %, change, turnover
KLINES = [
    "2024-03-04,10.00,10.00,10.20,9.90,100,100500.0,3.0,0.5,0.05,0.1",
    "2024-03-05,10.00,10.10,10.30,9.95,120,121200.0,3.5,1.0,0.10,0.1",
    "2024-03-06,5.00,5.05,5.10,4.95,300,150900.0,1.5,-50.0,-5.05,0.2",
    "2024-03-07,5.05,5.20,5.25,5.00,200,102600.0,5.0,2.97,0.15,0.2",
]
# back-adjusted factors per ex-date, newest first: two shares for one on the 6th
FACTORS = [("2024-03-06", "8.0000000000000000"), ("2020-06-11", "4.0000000000000000"), ("1900-01-01", "1.0")]


class Eastmoney:
    def __init__(self, klines=KLINES, factors=FACTORS):
        self.klines = klines
        self.factors = factors

    def __call__(self, path, query):
        if path.startswith("/push2his.eastmoney.com"):
            code = query["secid"].split(".")[1]
            low, high = query["beg"], query["end"]
            chosen = [k for k in self.klines if low <= k[:10].replace("-", "") <= high]
            data = {"code": code, "klines": chosen} if code != "999999" else None
            return (200, json.dumps({"rc": 0, "data": data}), {})
        symbol = path.split("/")[-2]
        data = {"total": len(self.factors), "data": [{"d": d, "f": f} for d, f in self.factors]}
        return (200, f"var {symbol}hfq={json.dumps(data)}\n/* 2024-03-07 */", {})


@pytest.fixture
def web(monkeypatch):
    import requests

    with Vendor(Eastmoney()).running() as vendor:
        real = requests.Session.request
        monkeypatch.setattr(
            requests.Session, "request", lambda self, method, url, *a, **k: real(self, method, vendor.url(url), *a, **k)
        )
        yield vendor


def source_of(folder, instruments=("SZ000001",), slept=None, today=date(2024, 3, 20), **more):
    settings = UniverseSettings(
        source=AkshareSource(interval=0, cache=folder, **{"retries": 2, "failed_share": 1, **more}),
        calendar="XSHG",
        start=date(2024, 3, 4),
        instruments=instruments,
        region="cn",
    )
    sleep = (slept if slept is not None else []).append
    return Fetched("cn", settings, settings.source, Akshare(settings.source), folder, today=lambda: today, sleep=sleep)


def deliver(source, start=date(2024, 3, 4), end=date(2024, 3, 7)):
    days = calendar_for(source.settings).between(source.settings.start, end)
    return source.deliver(days, start, end)


def test_bars_and_factor(web, tmp_path):
    delivery = deliver(source_of(tmp_path))
    assert delivery.quarantine.num_rows == 0
    bars = delivery.bars
    assert bars["open"].to_pylist() == [10, 10, 5, 5.05]
    assert bars["high"].to_pylist() == [10.2, 10.3, 5.1, 5.25]
    assert bars["low"].to_pylist() == [9.9, 9.95, 4.95, 5]
    assert bars["close"].to_pylist() == [10, 10.1, 5.05, 5.2]
    assert bars["volume"].to_pylist() == [10000, 12000, 30000, 20000]
    assert np.allclose(bars["vwap"].to_numpy(), [10.05, 10.1, 5.03, 5.13])
    assert bars["factor"].to_pylist() == [1, 1, 2, 2]
    assert web.requests[0][1]["fqt"] == "0"
    assert web.requests[0][1]["secid"] == "0.000001"
    assert web.requests[1][0] == "/finance.sina.com.cn/realstock/company/sz000001/hfq.js"


def test_day_by_day_equals_at_once(web, tmp_path):
    whole = deliver(source_of(tmp_path / "whole")).bars
    parts = []
    for row in KLINES:
        day = date.fromisoformat(row[:10])
        web.answer = Eastmoney([k for k in KLINES if k <= row], [f for f in FACTORS if f[0] <= row[:10]])
        parts.append(deliver(source_of(tmp_path / "daily", today=day), day, day))
    assert [row for part in parts for row in part.bars.to_pylist()] == whole.to_pylist()
    assert sum(part.checks["refetched"] for part in parts) == 0


def test_a_changed_factor_is_fetched_again(web, tmp_path):
    web.answer = Eastmoney(KLINES[:3])
    deliver(source_of(tmp_path, today=date(2024, 3, 6)), end=date(2024, 3, 6))
    web.answer = Eastmoney(factors=[("2024-03-06", "12.0"), *FACTORS[1:]])
    delivery = deliver(source_of(tmp_path))
    assert delivery.checks["refetched"] == 1
    assert delivery.bars["factor"].to_pylist() == [1, 1, 3, 3]


@pytest.mark.parametrize("failing", ["eastmoney", "sina"])
@pytest.mark.parametrize("failure", [(500, "<html>", {}), (429, "", {"Retry-After": "3"}), "reset", ("slow", 0.6)])
def test_a_passing_failure_is_tried_again(web, tmp_path, failing, failure):
    web.failures, web.failing = [failure], failing
    slept = []
    delivery = deliver(source_of(tmp_path, slept=slept, timeout=0.3))
    assert delivery.bars.num_rows == 4
    assert len(slept) == 1
    assert slept[0] == 3 if isinstance(failure[0], int) and failure[0] == 429 else slept[0] <= 1


@pytest.mark.parametrize(
    ("failing", "failure", "reason"),
    [
        ("eastmoney", (404, "no", {}), "fetch_failed"),
        ("eastmoney", (200, "<html>blocked</html>", {}), "fetch_failed"),
        ("eastmoney", (200, '{"data": {"klines": ["2024-03-04,1,2"]}}', {}), "fetch_failed"),
        ("eastmoney", (200, "{}", {}), "fetch_failed"),
        ("eastmoney", (200, '{"data": null}', {}), "empty_answer"),
        ("sina", (404, "", {}), "fetch_failed"),
        ("sina", (200, "<html>blocked</html>", {}), "fetch_failed"),
        ("sina", (200, 'var x={"total":0,"data":[]}', {}), "fetch_failed"),
        ("sina", (200, "var x={__import__('os').abort()}", {}), "fetch_failed"),
    ],
)
def test_a_final_failure_is_quarantined_at_once(web, tmp_path, failing, failure, reason):
    web.failures, web.failing = [failure], failing
    slept = []
    delivery = deliver(source_of(tmp_path, instruments=("SZ000001", "SH600000"), slept=slept))
    assert not slept
    assert set(delivery.bars["instrument"].to_pylist()) == {"SH600000"}
    row = delivery.quarantine.to_pylist()[0]
    assert (row["instrument"], row["source"], row["reason"]) == ("SZ000001", "akshare:sz000001", reason)


def test_a_damaged_row_costs_the_row(web, tmp_path):
    web.answer = Eastmoney([KLINES[0], KLINES[1].replace("10.10", "-"), *KLINES[2:]])
    delivery = deliver(source_of(tmp_path))
    assert delivery.bars.num_rows == 3
    assert delivery.quarantine["reason"].to_pylist() == ["null_price"]


def test_the_package_is_left_as_it_was(web, tmp_path):
    import requests
    from akshare.stock_feature import stock_hist_em

    web.failures, web.failing = [(404, "", {})], "eastmoney"
    deliver(source_of(tmp_path, instruments=("SZ000001", "SH600000")))
    assert stock_hist_em.requests is requests


def test_spelling(tmp_path):
    client = Akshare(AkshareSource())
    assert client.symbol("SH600000") == "sh600000"
    assert client.symbol("BJ430047") == "bj430047"
    assert client.symbol("000001.SZ") is None
    settings = source_of(tmp_path, instruments=("AAPL",)).settings
    with pytest.raises(SourceError, match="'AAPL'"):
        deliver(open_source("cn", settings, tmp_path))
