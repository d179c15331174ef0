"""baostock's real client against a server that speaks its framing over TCP on the loopback device."""

import json
import socket
import socketserver
import threading
import time
import zlib
from datetime import date

import numpy as np
import pytest

from qdag.core.sessions import calendar_for
from qdag.errors import SourceError
from qdag.settings import BaostockSource, UniverseSettings
from qdag.sources import open_source
from qdag.sources.web.baostock import FIELDS, Baostock
from qdag.sources.web.fetched import Fetched

baostock = pytest.importorskip("baostock")

SPLIT, END = "\x01", b"<![CDATA[]]>\n"
# date, open, high, low, close, preclose, volume, amount, tradestatus; ex-date on the 6th: 10.10 becomes 9.80
ROWS = [
    ["2024-03-04", "10.00", "10.20", "9.90", "10.00", "9.95", "1000", "10050.0", "1"],
    ["2024-03-05", "10.00", "10.30", "9.95", "10.10", "10.00", "1200", "12120.0", "1"],
    ["2024-03-06", "9.80", "9.95", "9.70", "9.90", "9.80", "1500", "14800.0", "1"],
    ["2024-03-07", "9.90", "9.90", "9.90", "9.90", "9.90", "", "", "0"],
    ["2024-03-08", "9.90", "10.10", "9.85", "10.00", "9.90", "900", "8980.0", "1"],
]


class BaostockServer(socketserver.ThreadingTCPServer):
    """Answers logins and queries. ``failures`` come first: "close", "silent", "junk", "cut", or an error code."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, rows=ROWS):
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows = rows
        self.failures: list[str] = []
        self.failing = "query"
        self.queries: list[list[str]] = []
        self.logins = 0

    def handle_error(self, *_):
        """The tests break connections on purpose."""


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        buffer = b""
        while True:
            data = self.request.recv(8192)
            if not data:
                return
            buffer += data
            while b"\n" in buffer:
                message, buffer = buffer.split(b"\n", 1)
                if not self.answer(message.decode()):
                    return

    def answer(self, message: str) -> bool:
        server = self.server
        head, crc = message.rsplit(SPLIT, 1)
        assert zlib.crc32(head.encode()) == int(crc)
        _, kind, length = head[:21].split(SPLIT)
        body = head[21:].split(SPLIT)
        assert int(length) == len(head[21:])
        failure = server.failures.pop(0) if server.failures and server.failing in body[0] else None
        if failure == "close":
            self.request.shutdown(socket.SHUT_RDWR)
            return False
        if failure == "silent":
            time.sleep(1.5)
            return False
        if kind == "00":
            server.logins += 1
            self.send("01", SPLIT.join(["0", "success", "login", "anonymous"]), compressed=False)
        elif kind == "95":
            server.queries.append(body)
            self.query(body, failure)
        elif kind == "02":
            self.send("03", SPLIT.join(["0", "success", "logout", "anonymous"]), compressed=False)
        return True

    def query(self, body: list[str], failure: str | None) -> None:
        _, user, page, per_page, code, fields, first, last, frequency, flag = body
        if failure is not None and failure.isdigit():
            return self.send("96", SPLIT.join([failure, "an error of the server"]))
        chosen = [row for row in self.server.rows if first <= row[0] <= last and code != "sz.000404"]
        low = (int(page) - 1) * int(per_page)
        record = json.dumps({"record": chosen[low : low + int(per_page)]})
        if failure == "junk":
            record = record[:-5]
        answer = ["0", "success", "query_history_k_data_plus", user, page, per_page, record, code, fields]
        self.send("96", SPLIT.join([*answer, first, last, frequency, flag]), cut=failure == "cut")

    def send(self, kind: str, body: str, compressed: bool = True, cut: bool = False) -> None:
        content = zlib.compress(body.encode()) if compressed else body.encode()
        head = SPLIT.join(["00.9.40", kind, f"{len(content):010d}"]).encode()
        whole = head + content + b"\x01" + str(zlib.crc32(head + content)).encode() + END
        if cut:
            self.request.sendall(whole[:40])
            self.request.close()
        else:
            self.request.sendall(whole)


@pytest.fixture
def server(monkeypatch):
    """A running server, which the package takes for its own."""
    from baostock.common import contants

    with BaostockServer() as running:
        monkeypatch.setattr(contants, "BAOSTOCK_SERVER_IP", "127.0.0.1")
        monkeypatch.setattr(contants, "BAOSTOCK_SERVER_PORT", running.server_address[1])
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def source_of(folder, instruments=("SH600000",), slept=None, start=date(2024, 3, 4), **more):
    settings = UniverseSettings(
        source=BaostockSource(interval=0, cache=folder, **{"retries": 2, "failed_share": 1, "timeout": 0.5, **more}),
        calendar="XSHG",
        start=start,
        instruments=instruments,
        region="cn",
    )
    sleep = (slept if slept is not None else []).append
    client = Baostock(settings.source)
    return Fetched("cn", settings, settings.source, client, folder, today=lambda: date(2024, 3, 20), sleep=sleep)


def deliver(source, start=date(2024, 3, 4), end=date(2024, 3, 8)):
    days = calendar_for(source.settings).between(source.settings.start, end)
    return source.deliver(days, start, end)


def test_bars_and_factor(server, tmp_path):
    delivery = deliver(source_of(tmp_path))
    assert delivery.quarantine.num_rows == 0
    bars = delivery.bars
    # the suspended 7th is no row
    assert [d.day for d in bars["date"].to_pylist()] == [4, 5, 6, 8]
    assert bars["close"].to_pylist() == [10.0, 10.1, 9.9, 10.0]
    assert bars["volume"].to_pylist() == [1000, 1200, 1500, 900]
    assert bars["amount"].to_pylist() == [10050, 12120, 14800, 8980]
    assert np.allclose(bars["factor"].to_numpy(), [1, 1, 10.1 / 9.8, 10.1 / 9.8], rtol=1e-12)
    assert server.queries[0][4:] == ["sh.600000", ",".join(FIELDS), "2024-03-04", "2024-03-18", "d", "3"]


def test_part_equals_slice(server, tmp_path):
    whole = deliver(source_of(tmp_path / "a")).bars
    part = deliver(source_of(tmp_path / "b"), date(2024, 3, 6), date(2024, 3, 6)).bars
    assert part.equals(whole.slice(2, 1))


def test_more_rows_than_a_page(server, tmp_path):
    first = date(2010, 1, 4)
    settings = source_of(tmp_path).settings.model_copy(update={"start": first})
    days = calendar_for(settings).between(first, date(2024, 3, 8))
    server.rows = [[str(d), "1", "1", "1", "1", "1", "5", "5", "1"] for d in days]
    assert len(days) > 3000
    delivery = deliver(source_of(tmp_path, start=first), first)
    assert delivery.bars.num_rows == len(days)
    assert [query[2] for query in server.queries] == ["1", "2"]
    # the second page fails once: nothing is lost
    server.queries.clear()
    server.failures = ["", "close"]
    again = deliver(source_of(tmp_path / "again", start=first), first)
    assert again.bars.equals(delivery.bars)
    assert [query[2] for query in server.queries] == ["1", "1", "2"]


@pytest.mark.parametrize("failure", ["close", "silent", "cut", "10001001", "10002007"])
def test_a_passing_failure_is_tried_again(server, tmp_path, failure):
    server.failures = [failure]
    slept = []
    delivery = deliver(source_of(tmp_path, slept=slept))
    assert delivery.bars.num_rows == 4
    assert len(slept) == 1
    # over a new connection
    assert server.logins == 2


@pytest.mark.parametrize(("failure", "text"), [("10004011", "10004011"), ("junk", "cannot be read")])
def test_a_final_failure_is_quarantined_at_once(server, tmp_path, failure, text):
    server.failures = [failure]
    slept = []
    delivery = deliver(source_of(tmp_path, instruments=("SZ000001", "SH600000"), slept=slept))
    assert not slept
    assert delivery.bars.num_rows == 4
    row = delivery.quarantine.to_pylist()[0]
    assert (row["instrument"], row["source"], row["reason"]) == ("SZ000001", "baostock:sz.000001", "fetch_failed")
    assert text in row["row"]


def test_no_rows_is_quarantined(server, tmp_path):
    delivery = deliver(source_of(tmp_path, instruments=("SZ000404", "SH600000")))
    assert delivery.quarantine["reason"].to_pylist() == ["empty_answer"]
    assert delivery.bars.num_rows == 4


def test_a_cell_that_is_no_number_costs_its_row(server, tmp_path):
    rows = [list(row) for row in ROWS]
    rows[1][1] = "ten"
    server.rows = rows
    delivery = deliver(source_of(tmp_path))
    assert [d.day for d in delivery.bars["date"].to_pylist()] == [4, 6, 8]
    refused = delivery.quarantine.to_pylist()[0]
    assert (refused["reason"], refused["row"]) == ("bad_number", ",".join(rows[1]))


def test_no_server_is_an_error_of_the_source(server, tmp_path, monkeypatch):
    from baostock.common import contants

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(contants, "BAOSTOCK_SERVER_PORT", unused.getsockname()[1])
        names = tuple(f"SH6000{i}" for i in range(10, 30))
        slept = []
        with pytest.raises(SourceError, match="in a row failed: the vendor cannot be reached"):
            deliver(source_of(tmp_path, instruments=names, slept=slept))
    # ten instruments, each tried three times
    assert len(slept) == 20


def test_spelling(tmp_path):
    client = Baostock(BaostockSource())
    assert client.symbol("SH600000") == "sh.600000"
    assert client.symbol("SZ000001") == "sz.000001"
    assert client.symbol("BJ430047") is None
    assert client.symbol("AAPL") is None
    settings = source_of(tmp_path, instruments=("600000.SH",)).settings
    with pytest.raises(SourceError, match=r"'600000\.SH'"):
        deliver(open_source("cn", settings, tmp_path))
