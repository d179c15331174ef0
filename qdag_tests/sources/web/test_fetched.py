"""The mechanism under every source on the network, with a small client of its own over real HTTP."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import date

import numpy as np
import pyarrow.compute as pc
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.core.sessions import calendar_for
from qdag.errors import SettingsError, SourceError
from qdag.settings import UniverseSettings, YahooSource, load_settings
from qdag.sources.web.client import Throttle, history_table
from qdag.sources.web.fetched import Fetched
from qdag_tests.sources.web.vendor_server import Vendor

DAYS = np.arange("2024-01-02", "2024-03-30", dtype="M8[D]")
DAYS = DAYS[np.is_busday(DAYS, holidays=["2024-01-15", "2024-02-19", "2024-03-29"])]


def price(symbol: str, day: str) -> float:
    return sum(map(ord, symbol)) + int(day[8:]) + int(day[5:7]) * 100.0


class Tiny:
    """A vendor whose answers are lists of [date, close]."""

    def __init__(self, last="2024-03-29"):
        self.last = last
        self.changed: dict[str, float] = {}

    def __call__(self, path, query):
        symbol = path.strip("/")
        days = [d for d in DAYS.astype(str).tolist() if query["first"] <= d <= min(query["last"], self.last)]
        return (200, json.dumps([[d, price(symbol, d) + self.changed.get(d, 0)] for d in days]), {})


class TinyClient:
    kind = "tiny"
    adjustment = "none"
    rebased = ()

    def __init__(self, base, throttle=lambda: None):
        self.base = base
        self.throttle = throttle

    def symbol(self, instrument):
        return instrument.lower()

    def history(self, symbol, first, last):
        self.throttle()
        answer = requests.get(f"{self.base}/{symbol}", params={"first": first, "last": last}, timeout=5)
        answer.raise_for_status()
        rows = answer.json()
        close = np.array([c for _, c in rows])
        numbers = dict.fromkeys(("open", "high", "low", "close"), close)
        return history_table([d for d, _ in rows], {**numbers, "volume": close * 0 + 100})

    def close(self):
        pass


@pytest.fixture
def vendor():
    with Vendor(Tiny()).running() as running:
        yield running


def source_of(vendor, folder, names=("A", "B", "C"), today=date(2024, 4, 10), slept=None, start="2024-01-02", **more):
    interval = more.pop("interval", 0)
    settings = UniverseSettings(
        source=YahooSource(interval=interval, **{"retries": 2, "failed_share": 1, **more}),
        calendar="XNYS",
        start=date.fromisoformat(start),
        instruments=names,
    )
    sleep = (slept if slept is not None else []).append
    client = TinyClient(vendor.base, Throttle(interval))
    return Fetched("us", settings, settings.source, client, folder, today=lambda: today, sleep=sleep)


def deliver(source, start="2024-01-02", end="2024-03-28"):
    start, end = date.fromisoformat(start), date.fromisoformat(end)
    return source.deliver(calendar_for(source.settings).between(source.settings.start, end), start, end)


def test_waits_grow_and_are_bounded(vendor, tmp_path):
    vendor.failures = [(500, "", {})] * 6
    slept = []
    deliver(source_of(vendor, tmp_path, ("A",), slept=slept, retries=6, longest_wait=5))
    for waited, most in zip(slept, [1, 2, 4, 5, 5, 5], strict=True):
        assert most / 2 <= waited <= most
    assert len(set(slept)) > 3


def test_retry_after_is_kept_and_a_long_one_ends_the_tries(vendor, tmp_path):
    vendor.failures = [(429, "", {"Retry-After": "40"}), (503, "", {"Retry-After": "3"})]
    slept = []
    delivery = deliver(source_of(vendor, tmp_path, ("A",), slept=slept))
    assert slept == [40, 3]
    assert delivery.quarantine.num_rows == 0
    vendor.failures = [(429, "", {"Retry-After": "3600"})]
    slept.clear()
    delivery = deliver(source_of(vendor, tmp_path / "other", ("A", "B"), slept=slept))
    assert not slept
    assert delivery.quarantine["instrument"].to_pylist() == ["A"]
    assert "asked to wait 3600 s" in delivery.quarantine["row"][0].as_py()


def test_tries_are_bounded(vendor, tmp_path):
    vendor.failures = [(500, "boom", {})] * 3
    delivery = deliver(source_of(vendor, tmp_path, ("A", "B")))
    assert vendor.paths() == ["/a"] * 3 + ["/b"]
    row = delivery.quarantine.to_pylist()[0]
    assert (row["instrument"], row["reason"], row["line"]) == ("A", "fetch_failed", 0)
    assert "500" in row["row"]
    assert set(delivery.bars["instrument"].to_pylist()) == {"B"}


def test_requests_keep_their_distance(vendor, tmp_path):
    vendor.failures = [(500, "", {})]
    deliver(source_of(vendor, tmp_path, interval=0.05))
    moments = [moment for _, _, moment in vendor.requests]
    assert len(moments) == 4
    # the server's clock sees the requests a little closer or farther than they were sent
    assert min(np.diff(moments)) > 0.03
    assert moments[-1] - moments[0] > 0.14


def test_more_failures_than_allowed_are_an_error(vendor, tmp_path):
    names = tuple("ABCDEFGHIJ")
    vendor.failures = [(404, "", {})] * 2
    delivery = deliver(source_of(vendor, tmp_path / "two", names, failed_share=0.2))
    assert delivery.checks["fetch_failed"] == 2
    vendor.failures = [(404, "", {})] * 3
    with pytest.raises(SourceError, match=r"3 of 10 instruments failed.*failed_share = 0\.2.*404"):
        deliver(source_of(vendor, tmp_path / "three", names, failed_share=0.2))
    vendor.failures = [(404, "", {})]
    with pytest.raises(SourceError, match="1 of 1 instruments failed"):
        deliver(source_of(vendor, tmp_path / "one", ("A",), failed_share=0.2))


def test_all_failing_is_an_error_whatever_the_limit(vendor, tmp_path):
    vendor.failures = [(404, "", {})] * 2
    with pytest.raises(SourceError, match="2 of 2 instruments failed"):
        deliver(source_of(vendor, tmp_path, ("A", "B"), failed_share=1))


@pytest.mark.parametrize(
    ("failure", "tries"), [((500, "", {}), 3), ((403, "go away", {}), 1), ((200, "<html>", {}), 1)]
)
def test_a_vendor_that_is_down_is_left_alone(vendor, tmp_path, failure, tries):
    names = tuple(f"N{i}" for i in range(40))
    vendor.failures = [failure] * 1000
    with pytest.raises(SourceError, match="10 instruments in a row failed: the vendor cannot be reached"):
        deliver(source_of(vendor, tmp_path, names))
    assert len(vendor.requests) == 10 * tries


def test_after_an_error_only_what_lacks_is_fetched(vendor, tmp_path):
    names = tuple("ABCDEFGH")
    vendor.failing, vendor.failures = "/f", [(404, "", {})]
    with pytest.raises(SourceError):
        deliver(source_of(vendor, tmp_path, names, failed_share=0))
    assert vendor.paths() == [f"/{c}" for c in "abcdef"]
    vendor.requests.clear()
    delivery = deliver(source_of(vendor, tmp_path, names, failed_share=0))
    assert vendor.paths() == ["/f", "/g", "/h"]
    whole = deliver(source_of(vendor, tmp_path / "else", names))
    assert delivery.bars.equals(whole.bars)


def test_after_a_kill_only_what_lacks_is_fetched(vendor, tmp_path):
    """A real process, killed while it waits for its fourth instrument."""
    vendor.failing, vendor.failures = "/d", [("slow", 3)]
    code = f"""
        import sys
        from types import SimpleNamespace
        from qdag_tests.sources.web.test_fetched import deliver, source_of
        from pathlib import Path
        deliver(source_of(SimpleNamespace(base={vendor.base!r}), Path({str(tmp_path)!r}), tuple("ABCDEF")))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    deadline = time.monotonic() + 60
    while "/d" not in vendor.paths():
        assert process.poll() is None, "the process ended before"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert vendor.paths() == ["/a", "/b", "/c", "/d"]
    vendor.requests.clear()
    vendor.failures.clear()
    delivery = deliver(source_of(vendor, tmp_path, tuple("ABCDEF")))
    assert vendor.paths() == ["/d", "/e", "/f"]
    assert delivery.bars.equals(deliver(source_of(vendor, tmp_path / "else", tuple("ABCDEF"))).bars)


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "half"])
def test_a_damaged_file_is_fetched_anew(vendor, tmp_path, damage):
    source = source_of(vendor, tmp_path, ("A",))
    first = deliver(source)
    path = source.cache.path("A")
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        path.write_text("<html>")
    else:
        # killed while writing: the file itself is whole, its successor is not
        path.with_name(f".{path.name}.0.part").write_bytes(content[:100])
        path.unlink()
    again = deliver(source_of(vendor, tmp_path, ("A",)))
    assert len(vendor.requests) == 2
    assert again.bars.equals(first.bars)
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", path.name]
    deliver(source_of(vendor, tmp_path, ("A",)))
    assert len(vendor.requests) == 2


def test_names_that_are_no_file_names(vendor, tmp_path):
    names = ("^GSPC", "A..", "CON", "EURUSD=X", "x" * 60)
    source = source_of(vendor, tmp_path / "in", names)
    # settings refuse these; the cache would not need it
    odd = (*names, "..", "a/b", "a%2Fb", "ä")
    assert len({source.cache.path(n) for n in odd}) == len(odd)
    assert {source.cache.path(n).parent for n in odd} == {tmp_path / "in" / "tiny"}
    deliver(source)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert len(list((tmp_path / "in" / "tiny").glob("*.parquet"))) == len(names)


def test_two_at_once_fetch_everything_once(vendor, tmp_path):
    names = tuple("ABCDEFGH")
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(deliver(source_of(vendor, tmp_path, names)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(vendor.paths()) == [f"/{c}" for c in "abcdefgh"]
    assert len(found) == 3
    assert all(delivery.bars.equals(found[0].bars) for delivery in found)


def test_a_later_day_asks_for_the_new_part_only(vendor, tmp_path):
    vendor.answer.last = "2024-02-29"
    deliver(source_of(vendor, tmp_path, ("A",), today=date(2024, 2, 29)), end="2024-02-29")
    vendor.answer.last = "2024-03-29"
    delivery = deliver(source_of(vendor, tmp_path, ("A",)))
    first = vendor.requests[-1][1]["first"]
    # of Feb 23, 26, 27, 28, 29
    assert first == "2024-02-23"
    assert delivery.checks["refetched"] == 0
    assert delivery.bars.equals(deliver(source_of(vendor, tmp_path / "else", ("A",))).bars)


def test_a_changed_history_is_fetched_whole(vendor, tmp_path):
    vendor.answer.last = "2024-02-29"
    deliver(source_of(vendor, tmp_path, ("A",), today=date(2024, 2, 29)), end="2024-02-29")
    vendor.answer.last = "2024-03-29"
    vendor.answer.changed = {"2024-01-10": 0.5, "2024-02-28": 0.5}
    delivery = deliver(source_of(vendor, tmp_path, ("A",)))
    assert delivery.checks["refetched"] == 1
    assert [query["first"] for _, query, _ in vendor.requests] == ["2024-01-02", "2024-02-23", "2024-01-02"]
    assert delivery.bars.equals(deliver(source_of(vendor, tmp_path / "else", ("A",))).bars)


def test_an_update_that_fails_leaves_what_is_known(vendor, tmp_path):
    vendor.answer.last = "2024-02-29"
    before = deliver(source_of(vendor, tmp_path, ("A", "B"), today=date(2024, 2, 29)), end="2024-02-29")
    vendor.answer.last = "2024-03-29"
    vendor.failing, vendor.failures = "/a", [(404, "", {})]
    after = deliver(source_of(vendor, tmp_path, ("A", "B")))
    rows = after.bars.to_pylist()
    assert [r for r in rows if r["instrument"] == "A"] == [r for r in before.bars.to_pylist() if r["instrument"] == "A"]
    assert after.quarantine["instrument"].to_pylist() == ["A"]
    assert max(r["date"] for r in rows if r["instrument"] == "B") == date(2024, 3, 28)


def test_an_earlier_start_fetches_what_lies_before(vendor, tmp_path):
    deliver(source_of(vendor, tmp_path, ("A",), start="2024-02-01"), "2024-02-01")
    delivery = deliver(source_of(vendor, tmp_path, ("A",)))
    assert delivery.bars["date"][0].as_py() == date(2024, 1, 2)
    asked = len(vendor.requests)
    # and a later one finds it
    late = deliver(source_of(vendor, tmp_path, ("A",), start="2024-02-01"), "2024-02-01")
    assert len(vendor.requests) == asked
    assert late.bars["date"][0].as_py() == date(2024, 2, 1)


def test_a_changed_history_is_fetched_for_the_universe_that_begins_first(vendor, tmp_path):
    """Two universes share what was fetched: the later one must not cut off what the other needs."""
    vendor.answer.last = "2024-02-29"
    deliver(source_of(vendor, tmp_path, ("A",), today=date(2024, 2, 29)), end="2024-02-29")
    vendor.answer.last = "2024-03-29"
    vendor.answer.changed = {"2024-02-28": 0.5}
    deliver(source_of(vendor, tmp_path, ("A",), start="2024-02-01"), "2024-02-01")
    assert vendor.requests[-1][1]["first"] == "2024-01-02"
    asked = len(vendor.requests)
    deliver(source_of(vendor, tmp_path, ("A",)))
    assert len(vendor.requests) == asked


def test_appending_for_a_later_universe_keeps_the_earlier_part_known(vendor, tmp_path):
    vendor.answer.last = "2024-02-29"
    deliver(source_of(vendor, tmp_path, ("A",), today=date(2024, 2, 29)), end="2024-02-29")
    vendor.answer.last = "2024-03-29"
    deliver(source_of(vendor, tmp_path, ("A",), start="2024-02-01"), "2024-02-01")
    asked = len(vendor.requests)
    delivery = deliver(source_of(vendor, tmp_path, ("A",)))
    assert len(vendor.requests) == asked == 2
    assert delivery.bars["date"][0].as_py() == date(2024, 1, 2)


class Book:
    """A client without a network: a vendor that divides its prices by the splits up to ``now``, as Yahoo does."""

    kind, adjustment, rebased = "book", "events", ("adjusted_close",)
    splits = {10: 2.0, 25: 3.0, 26: 0.5, 40: 2.0}  # noqa: RUF012

    def __init__(self):
        self.now = DAYS[-1]

    def symbol(self, instrument):
        return instrument

    def history(self, symbol, first, last):
        whole = np.array([price(symbol, str(d)) for d in DAYS])
        event = np.array([self.splits.get(i, np.nan) for i in range(len(DAYS))])
        event[np.array([price(symbol, str(d)) % 4 == 0 for d in DAYS])] = np.nan
        splits = np.cumprod(np.nan_to_num(event, nan=1.0))
        raw = whole / splits
        told = (np.datetime64(first) <= DAYS) & (np.datetime64(last) >= DAYS) & (self.now >= DAYS)
        scale = np.prod(np.nan_to_num(event[self.now >= DAYS], nan=1.0))
        numbers = dict.fromkeys(("open", "high", "low", "close"), raw[told])
        numbers |= {"volume": raw[told] * 0 + 100, "split": event[told], "dividend": event[told] * np.nan}
        return history_table(DAYS[told], {**numbers, "adjusted_close": whole[told] / scale})

    def close(self):
        pass


@settings(max_examples=10)
@given(
    asked=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 30), st.integers(0, 12)), min_size=1, max_size=7),
    start=st.integers(0, 20),
)
def test_any_order_of_requests_gives_slices_of_the_whole(tmp_path_factory, asked, start):
    """On day ``now``, [now - back - length, now - back] is asked for; days only go forward."""
    spec = UniverseSettings(
        source=YahooSource(interval=0), calendar="XNYS", start=DAYS[start].item(), instruments=("A", "B", "CC")
    )
    client = Book()

    def deliver_on(folder, now, first, last):
        client.now = DAYS[now]
        source = Fetched("u", spec, spec.source, client, folder, today=lambda: DAYS[now].item())
        days = DAYS[start : last + 1]
        return source.deliver(days, DAYS[first].item(), DAYS[last].item())

    kept = tmp_path_factory.mktemp("kept")
    whole = deliver_on(tmp_path_factory.mktemp("whole"), len(DAYS) - 1, start, len(DAYS) - 1).bars
    for now, back, length in sorted(asked):
        last = max(now - back, start)
        first = max(last - length, start)
        delivery = deliver_on(kept, max(now, last), first, last)
        inside = pc.and_(
            pc.greater_equal(whole["date"], DAYS[first].item()), pc.less_equal(whole["date"], DAYS[last].item())
        )
        assert delivery.bars.combine_chunks().equals(whole.filter(inside).combine_chunks())
        assert delivery.quarantine.num_rows == delivery.findings.num_rows == delivery.checks["refetched"] == 0


def test_settings(tmp_path):
    file = tmp_path / "qdag.toml"

    def load(source, instruments="instruments=['A']"):
        file.write_text(f"[universes.w]\ncalendar='XNYS'\nstart=2024-01-02\n{instruments}\nsource={source}")
        return load_settings(file, {}).universe("w").source

    assert load("{kind='yahoo', cache='kept', interval=2}").cache == tmp_path / "kept"
    assert load("{kind='qlib', path='q'}", "").path == tmp_path / "q"
    assert load("{kind='baostock'}").interval == 0.1
    assert load_settings(file, {"QDAG_HOME": "/data"}).downloads.as_posix() == "/data/downloads"
    for kind in ("yahoo", "akshare", "baostock"):
        with pytest.raises(SettingsError, match=f"source '{kind}' needs instruments"):
            load(f"{{kind='{kind}'}}", "")
        with pytest.raises(SettingsError, match="did you mean 'interval'"):
            load(f"{{kind='{kind}', intervall=1}}")
    for wrong in ("interval=-1", "timeout=0", "retries=-1", "retries=21", "failed_share=1.5", "longest_wait=0"):
        with pytest.raises(SettingsError, match=wrong.split("=")[0]):
            load(f"{{kind='yahoo', {wrong}}}")
