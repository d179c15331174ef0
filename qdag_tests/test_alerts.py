"""Conditions against hand-computed cases and slow references; the outbox and real deliveries to local servers."""

import io
import logging
import os
import signal
import statistics
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from qdag import alerts, schema
from qdag.alerts import Alert, Outbox
from qdag.errors import SettingsError, StoreError, UnknownNameError
from qdag.settings import AlertSettings, Settings, SyntheticSource, UniverseSettings, load_settings
from qdag.stages import Platform
from qdag_tests.sinks import MailServer, Webhook

NOW = datetime(2024, 7, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def settings_of(home, end=date(2024, 12, 31), horizons=(1, 5), **limits) -> Settings:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=date(2023, 1, 3), end=end)
    return Settings(home=home, universes={"toy": universe}, horizons=horizons, alerts=AlertSettings(**limits))


def alert(key="k", kind="run_failure", **fields) -> Alert:
    return Alert(kind, key, f"what of {key}", universe="toy", **fields)


@pytest.fixture
def webhook():
    with Webhook() as sink:
        yield sink


# -- conditions -------------------------------------------------------------------------------------------------------


def bars(platform: Platform, days: list[date], instruments=("AAA", "BBB")):
    rows = [(d, i) for d in days for i in instruments]
    columns = {c.name: [1.0] * len(rows) for c in schema.RAW_OHLCV.columns if c.dtype == "float64"}
    keys = {"universe": ["toy"] * len(rows), "date": [d for d, _ in rows], "instrument": [i for _, i in rows]}
    others = {
        c.name: [None] * len(rows)
        for c in schema.RAW_OHLCV.columns
        if c.name not in keys and c.name not in columns and c.nullable
    }
    table = pa.table({n: (keys | columns | others)[n] for n in schema.RAW_OHLCV.arrow().names})
    platform.store.replace(
        schema.RAW_OHLCV, "toy", min(days), max(days), table.cast(schema.RAW_OHLCV.arrow()), {"run": "test"}
    )


def test_data_is_late_six_hours_after_an_early_close(tmp_path):
    """3 July 2024 closed at 13:00 in New York, 17:00 UTC; 4 July was no session."""
    platform = Platform.open(settings_of(tmp_path))
    bars(platform, [date(2024, 7, 1), date(2024, 7, 2)])
    assert alerts.late_data(platform, "toy", datetime(2024, 7, 3, 22, 59, tzinfo=UTC)) is None
    late = alerts.late_data(platform, "toy", datetime(2024, 7, 3, 23, 0, tzinfo=UTC))
    assert late.sessions == "2024-07-03 .. 2024-07-03"
    assert late.value == "newest stored session 2024-07-02, 1 missing"
    later = alerts.late_data(platform, "toy", datetime(2024, 7, 8, 12, tzinfo=UTC))
    assert later.sessions == "2024-07-03 .. 2024-07-05"
    assert later.value == "newest stored session 2024-07-02, 2 missing"
    assert later.key != late.key
    bars(platform, [date(2024, 7, 5)])
    assert alerts.late_data(platform, "toy", datetime(2024, 7, 8, 12, tzinfo=UTC)) is None


def test_hours_until_late_are_a_setting(tmp_path):
    platform = Platform.open(settings_of(tmp_path, late_hours=0))
    bars(platform, [date(2024, 7, 2)])
    assert alerts.late_data(platform, "toy", datetime(2024, 7, 3, 16, 59, tzinfo=UTC)) is None
    assert alerts.late_data(platform, "toy", datetime(2024, 7, 3, 17, 0, tzinfo=UTC))


def test_nothing_stored_is_late_and_an_ended_universe_never_is(tmp_path):
    now = datetime(2024, 7, 3, 23, tzinfo=UTC)
    late = alerts.late_data(Platform.open(settings_of(tmp_path)), "toy", now)
    assert "session none" in late.value
    assert late.sessions == "2023-01-03 .. 2024-07-03"
    assert alerts.late_data(Platform.open(settings_of(tmp_path, end=date(2024, 6, 25))), "toy", now) is None
    # not begun yet
    assert alerts.late_data(Platform.open(settings_of(tmp_path)), "toy", datetime(2023, 1, 3, 20, tzinfo=UTC)) is None


def test_p95_by_hand(tmp_path):
    """Of 1, 2, ..., 20 seconds the linear 95 % quantile is 1 + 0.95 * 19 = 19.05; one second of slack."""
    settings = settings_of(tmp_path)
    earlier = [float(s) for s in range(1, 21)]

    def slow(seconds, earlier=earlier):
        return alerts.slow_run(settings, "alpha158", "toy", "2024-07-03 .. 2024-07-03", "run-1", seconds, earlier)

    assert slow(20.05) is None
    found = slow(20.06)
    assert found.value == "20.1 s, median 10.5 s"
    assert "last 20 comparable runs 19.1 s" in found.limit
    assert found.link == "http://127.0.0.1:3000/runs/run-1"
    assert slow(1000.0, earlier[:9]) is None
    assert slow(1000.0, earlier[:10])


@given(st.lists(st.floats(0, 1e4), max_size=80), st.floats(0, 1e4))
def test_p95_equals_a_slow_reference(earlier, seconds):
    settings = Settings(alerts=AlertSettings(slow_history=30))
    last = sorted(earlier[-30:])
    expected = False
    if len(last) >= 10:
        position = 0.95 * (len(last) - 1)
        below, share = int(position), position - int(position)
        above = last[min(below + 1, len(last) - 1)]
        limit = last[below] + share * (above - last[below]) + 1.0
        if abs(seconds - limit) < 1e-6 * max(1.0, limit):
            return
        expected = seconds > limit
    assert (alerts.slow_run(settings, "a", "u", "", "r", seconds, earlier) is not None) == expected


def quarantine(platform: Platform, refused: list[tuple[date, str, str]]):
    rows = {
        "universe": ["toy"] * len(refused),
        "date": [d for d, _, _ in refused],
        "instrument": [i for _, i, _ in refused],
        "source": ["f.csv"] * len(refused),
        "line": list(range(len(refused))),
        "reason": [r for _, _, r in refused],
        "row": [""] * len(refused),
    }
    table = pa.table(rows).cast(schema.QUARANTINE.arrow())
    days = [d for d, _, _ in refused]
    platform.store.replace(schema.QUARANTINE, "toy", min(days), max(days), table, {"run": "test"})


def test_share_of_failed_instruments_by_hand(tmp_path):
    """2 July: 38 stored, 2 refused, 5.0 % and not more. 3 July: 40 stored and a 41st refused. 4 July is no session."""
    platform = Platform.open(settings_of(tmp_path))
    day, other, holiday = date(2024, 7, 2), date(2024, 7, 3), date(2024, 7, 4)
    names = [f"I{i:02d}" for i in range(40)]
    bars(platform, [day], names[2:])
    bars(platform, [other], names)

    def failed(stored, start=day, end=day):
        return alerts.failed_instruments(platform, "raw_ohlcv", "toy", start, end, stored, "run-1")

    assert failed(38) is None
    refused = [(day, "I00", "null_price"), (day, "I01", "null_price"), (day, "I01", "high_below_low")]
    # a second row of a session that has its bar is no failure
    quarantine(platform, [*refused, *((day, name, "null_price") for name in names[2:])])
    assert failed(38) is None
    quarantine(platform, [(other, "NEW", "not_a_table"), *((holiday, name, "no_session") for name in names)])
    assert failed(40, other, holiday) is None
    found = failed(40, end=holiday)
    assert found.what == "3 of 41 instruments failed in raw_ohlcv"
    assert found.value == "7.3%"
    assert found.sessions == "2024-07-02 .. 2024-07-04"
    assert found.detail.startswith("no_session 2, null_price 2, high_below_low 1, not_a_table 1: I00, I01, NEW")


def test_an_instrument_that_is_not_published_has_failed(tmp_path):
    platform = Platform.open(settings_of(tmp_path))
    day = date(2024, 7, 2)
    names = [f"I{i:02d}" for i in range(10)]
    bars(platform, [day], names)
    folder = platform.settings.provider("toy") / "instruments"
    folder.mkdir(parents=True)
    (folder / "all.txt").write_text("".join(f"{n}\t2024-07-02\t2024-07-02\n" for n in names))
    assert alerts.failed_instruments(platform, "qlib_bin", "toy", day, day, 10, "r") is None
    (folder / "all.txt").write_text("".join(f"{n}\t2024-07-02\t2024-07-02\n" for n in names[1:]))
    found = alerts.failed_instruments(platform, "qlib_bin", "toy", day, day, 10, "r")
    assert found.what == "1 of 10 instruments failed in qlib_bin"


def write_metrics(platform: Platform, ics: dict[tuple[str, int, str], np.ndarray], sessions: np.ndarray):
    """IC per (pool, horizon, factor); RankIC equals IC."""
    keys = [(pool, horizon, factor, k) for pool, horizon, factor in ics for k in range(len(sessions))]
    ic = np.concatenate(list(ics.values()))
    rows = {
        "universe": ["toy"] * len(keys),
        "date": [sessions[k].item() for *_, k in keys],
        "pool": [p for p, *_ in keys],
        "horizon": [h for _, h, *_ in keys],
        "factor": [f for _, _, f, _ in keys],
        "signal_date": [(sessions[k] - 7).item() for *_, k in keys],
        "ic": pa.array(ic, from_pandas=True),
        "rank_ic": pa.array(ic, from_pandas=True),
    }
    spec = schema.FACTOR_METRICS
    table = pa.table({c.name: rows.get(c.name, pa.nulls(len(keys))) for c in spec.columns}, schema=None).cast(
        spec.arrow()
    )
    platform.store.replace(spec, "toy", sessions[0].item(), sessions[-1].item(), table, {"run": "test"})


def year_of(before: float, recent: float) -> np.ndarray:
    return np.concatenate([np.full(232, before), np.full(20, recent)])


def test_ic_drop_by_hand(tmp_path):
    """232 dates of 0.05 and 20 of x: the year's mean is 0.05 - 20/252 (0.05 - x), so the drop is 232/252 (0.05 - x).

    It exceeds 0.02 where x < 0.05 - 0.02 * 252/232 = 0.028276; likewise with every sign turned.
    """
    platform = Platform.open(settings_of(tmp_path, ic_top=20))
    sessions = platform.calendar("toy").all[:252]
    still = np.full(252, 0.01)
    swing = np.tile([0.2, -0.2], 126)
    holes = year_of(0.05, 0.0)
    holes[-20:-9] = np.nan
    few = year_of(0.05, 0.0)
    few[:130] = np.nan
    ics = {
        ("all", 1, "t.fell"): year_of(0.05, 0.0282),
        ("all", 1, "t.just"): year_of(0.05, 0.0284),
        ("all", 1, "t.rose"): year_of(0.05, 0.2),
        ("all", 1, "t.minus_fell"): year_of(-0.05, -0.0282),
        ("all", 1, "t.minus_just"): year_of(-0.05, -0.0284),
        ("all", 1, "t.minus_grew"): year_of(-0.05, -0.2),
        ("all", 1, "t.turned"): year_of(0.05, -0.05),
        # the same falls on a noisy factor: 0.0201 is 0.4, 0.2 is 3.2 standard errors of a mean of 20
        ("all", 1, "t.noisy"): year_of(0.05, 0.0282) + swing,
        ("all", 1, "t.noisy_fell"): year_of(0.05, -0.1672) + swing,
        ("all", 1, "t.nine_recent"): holes,
        ("all", 1, "t.few"): few,
        ("all", 1, "t.still"): still,
        ("top", 1, "t.fell"): year_of(0.05, 0.0282),
        ("all", 5, "t.fell"): year_of(0.05, 0.0),
    }
    write_metrics(platform, ics, sessions)
    found = {a.key: a for a in alerts.ic_drops(platform, "toy")}
    fallen = ("all|1|t.fell", "all|1|t.minus_fell", "all|1|t.turned", "all|1|t.noisy_fell", "top|1|t.fell")
    assert set(found) == {f"toy|{key}" for key in fallen}
    fell = found["toy|all|1|t.fell"]
    assert fell.value == "mean IC +0.0282 on the last 20 dates, pool all: 0.0201 below"
    assert found["toy|all|1|t.minus_fell"].value.endswith("0.0201 above")
    assert fell.limit == "at most 0.02 and 2 standard errors below the mean of the last 252 dates, +0.0483"
    assert fell.sessions == f"{sessions[-20]} .. {sessions[-1]}"
    # 0.1 / sqrt(20) would be 0.0224; here std is 0.0218 * sqrt(232 * 20 / 252 / 251)
    deviation = 0.0218 * np.sqrt(232 * 20 / 252 / 251)
    assert fell.detail.startswith(f"the drop is {0.0218 * 232 / 252 / (deviation / np.sqrt(20)):.1f} standard errors")


def test_watched_factors_are_watched_at_every_horizon_and_unknown_ones_are_refused(tmp_path):
    platform = Platform.open(settings_of(tmp_path, ic_factors=["t.a"]))
    sessions = platform.calendar("toy").all[:252]
    write_metrics(platform, {("all", h, f): year_of(0.05, 0.0) for h in (1, 5) for f in ("t.a", "t.b")}, sessions)
    assert {a.key for a in alerts.ic_drops(platform, "toy")} == {"toy|all|1|t.a", "toy|all|5|t.a"}
    wrong = Platform.open(settings_of(tmp_path, ic_factors=["t.aa"]))
    with pytest.raises(UnknownNameError, match=r"did you mean 't\.a'"):
        alerts.ic_drops(wrong, "toy")


def test_ic_of_a_short_history_is_not_judged(tmp_path):
    platform = Platform.open(settings_of(tmp_path))
    assert alerts.ic_drops(platform, "toy") == []
    sessions = platform.calendar("toy").all[:120]
    write_metrics(platform, {("all", 1, "t.a"): year_of(0.05, -0.5)[-120:]}, sessions)
    assert alerts.ic_drops(platform, "toy") == []


@budget(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(30, 60), st.sampled_from([0.0, 1.0, 2.0]))
def test_ic_drops_equal_a_slow_reference(tmp_path_factory, seed, horizon, length, errors):
    rng = np.random.default_rng(seed)
    platform = Platform.open(
        settings_of(
            tmp_path_factory.mktemp("ic"), horizons=(1, horizon), ic_recent=5, ic_trailing=40, ic_top=3,
            ic_factors=["t.a", "t.b", "t.c"], ic_errors=errors,
        )
    )  # fmt: skip
    sessions = platform.calendar("toy").all[:length]
    ics = {}
    for pool in ("all", "top"):
        for h in (1, horizon):
            for factor in ("t.a", "t.b", "t.c"):
                values = rng.normal(rng.normal(0, 0.05), 0.05, length)
                values[rng.random(length) < 0.4] = np.nan
                ics[pool, h, factor] = values
    write_metrics(platform, ics, sessions)
    expected = set()
    for (pool, h, factor), values in ics.items():
        year = [v for v in values[-40:] if v == v]
        recent = [v for v in values[-5:] if v == v]
        if len(recent) >= 3 and len(year) >= 20:
            before, now = sum(year) / len(year), sum(recent) / len(recent)
            drop = before - now if before >= 0 else now - before
            if drop > 0.02 and drop >= errors * statistics.stdev(year) / (len(recent) / min(h, len(recent))) ** 0.5:
                expected.add(f"toy|{pool}|{h}|{factor}")
    assert {a.key for a in alerts.ic_drops(platform, "toy")} == expected


# -- the outbox -------------------------------------------------------------------------------------------------------


def test_one_message_says_everything(tmp_path, webhook):
    outbox = Outbox(settings_of(tmp_path, urls=[webhook.url("hook")]))
    known = Alert(
        "failed_instruments", "k", "3 of 41 instruments failed in raw_ohlcv", "toy", "2024-07-02 .. 2024-07-03",
        "7.3%", "at most 5.0%", "null_price 2", "http://127.0.0.1:3000/runs/abc",
    )  # fmt: skip
    assert outbox.put([known], NOW) == 1
    done = outbox.deliver(NOW)
    assert (done.sent, done.failed, done.waiting) == ({"json-1": 1}, {}, {})
    (message,) = webhook.messages
    assert message["title"] == "[qdag] warning: 3 of 41 instruments failed in raw_ohlcv"
    assert message["type"] == "warning"
    assert message["message"].splitlines() == [
        "what: 3 of 41 instruments failed in raw_ohlcv",
        "universe: toy",
        "sessions: 2024-07-02 .. 2024-07-03",
        "value: 7.3%",
        "limit: at most 5.0%",
        "detail: null_price 2",
        "open: http://127.0.0.1:3000/runs/abc",
    ]


def test_mail_arrives_and_a_refused_recipient_is_a_failure(tmp_path):
    with MailServer() as server:
        urls = [server.url("desk@example.com"), {"url": server.url("nobody@example.com"), "name": "gone"}]
        outbox = Outbox(settings_of(tmp_path, urls=urls))
        outbox.put([alert("mail")], NOW)
        done = outbox.deliver(NOW)
    assert done.sent == {"mailto-1": 1}
    assert set(done.failed) == {"gone"}
    (mail,) = server.mails
    assert mail["Subject"] == "[qdag] error: what of mail"
    assert "desk@example.com" in mail["To"]
    text = mail.get_body(("plain", "html")).get_content()
    assert "universe: toy" in text


def test_the_same_alert_is_silent_for_the_window_then_comes_again(tmp_path, webhook):
    settings = settings_of(tmp_path, urls=[webhook.url()], repeat_hours=24)
    for hours in (0, 1, 23.9):
        Outbox(settings).put([alert()], NOW + hours * HOUR)
        Outbox(settings).deliver(NOW + hours * HOUR)
    assert len(webhook.messages) == 1
    (seen,) = Outbox(settings).recent()
    assert seen.seen == 3
    assert seen.last_seen == NOW + 23.9 * HOUR
    # another kind and another key are other alerts
    Outbox(settings).put([alert(kind="late_data"), alert("other")], NOW + 2 * HOUR)
    Outbox(settings).put([alert()], NOW + 24 * HOUR)
    Outbox(settings).deliver(NOW + 24 * HOUR)
    assert len(webhook.messages) == 4


def test_one_event_counts_once_however_often_it_is_found(tmp_path):
    outbox = Outbox(settings_of(tmp_path))
    assert outbox.put([alert(occurrence="run-1"), alert(occurrence="run-1")], NOW) == 1
    assert outbox.put([alert(occurrence="run-1")], NOW + 48 * HOUR) == 0
    assert outbox.recent()[0].seen == 1
    assert outbox.put([alert(occurrence="run-2")], NOW + 48 * HOUR) == 1


@budget(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 10)), max_size=25), st.floats(0.5, 30))
def test_repeats_equal_a_slow_reference(tmp_path_factory, steps, window):
    outbox = Outbox(settings_of(tmp_path_factory.mktemp("box"), repeat_hours=window))
    now, last, expected = NOW, {}, Counter()
    for key, hours in steps:
        now += hours * HOUR
        at = now.timestamp()
        fresh = key not in last or last[key] <= at - window * 3600
        if fresh:
            last[key] = at
            expected[key] += 1
        assert outbox.put([alert(key)], now) == fresh
    assert Counter(r.alert.key for r in outbox.recent(100)) == expected


def test_targets_get_what_is_severe_enough_and_of_their_kinds(tmp_path, webhook):
    urls = [
        webhook.url("all"),
        {"url": webhook.url("severe"), "name": "severe", "severity": "error"},
        {"url": webhook.url("models"), "name": "models", "kinds": ["ic_drop", "run_failure"]},
    ]
    outbox = Outbox(settings_of(tmp_path, urls=urls))
    outbox.put([alert("1", "run_failure"), alert("2", "ic_drop"), alert("3", "slow_run"), alert("4", "late_data")], NOW)
    outbox.deliver(NOW)
    got = {(path, title[-1]) for path, title in zip(webhook.paths, webhook.titles, strict=True)}
    assert got == {
        *(("/all", n) for n in "1234"), ("/severe", "1"), ("/severe", "4"), ("/models", "1"), ("/models", "2")
    }  # fmt: skip


def test_a_target_that_fails_is_tried_later_and_holds_up_nobody(tmp_path, webhook):
    with Webhook() as broken:
        broken.status = 500
        urls = [{"url": broken.url(), "name": "broken"}, {"url": webhook.url(), "name": "good"}]
        outbox = Outbox(settings_of(tmp_path, urls=urls))
        outbox.put([alert("1"), alert("2")], NOW)
        done = outbox.deliver(NOW)
        assert done.sent == {"good": 2}
        assert "error=500" in done.failed["broken"]
        assert done.waiting == {"broken": 2}
        assert "waiting, tried 1 times: not delivered" in outbox.recent()[0].deliveries["broken"]
        # silent until the next try, in another process's outbox too
        quiet = Outbox(outbox.settings).deliver(NOW + timedelta(seconds=59))
        assert (quiet.failed, quiet.waiting) == ({}, {"broken": 2})
        assert Outbox(outbox.settings).deliver(NOW + timedelta(seconds=60)).failed
        broken.status = 200
        assert outbox.deliver(NOW + timedelta(seconds=179)).sent == {}
        assert outbox.deliver(NOW + timedelta(seconds=180)).sent == {"broken": 2}
        assert len(broken.messages) == 2
    assert len(webhook.messages) == 2


def test_what_cannot_be_delivered_is_given_up_and_said(tmp_path):
    outbox = Outbox(settings_of(tmp_path, urls=["json://127.0.0.1:1/x"], give_up_hours=2))
    outbox.put([alert()], NOW)
    assert "127.0.0.1" in outbox.deliver(NOW).failed["json-1"]
    done = outbox.deliver(NOW + 3 * HOUR)
    assert done.given_up == {"json-1": 1}
    assert "1 for json-1 given up" in str(done)
    assert outbox.recent()[0].deliveries == {"json-1": "given up"}
    assert outbox.deliver(NOW + 4 * HOUR).given_up == {}


def test_an_alert_of_a_target_that_is_gone_is_still_counted(tmp_path, webhook):
    Outbox(settings_of(tmp_path, urls=[{"url": webhook.url(), "name": "old"}])).put([alert()], NOW)
    done = Outbox(settings_of(tmp_path, urls=[{"url": webhook.url(), "name": "new"}])).deliver(NOW)
    assert done.waiting == {"old": 1}
    # a changed URL under the old name gets it
    done = Outbox(settings_of(tmp_path, urls=[{"url": webhook.url("moved"), "name": "old"}])).deliver(NOW)
    assert done.sent == {"old": 1}
    assert webhook.paths == ["/moved"]


def test_a_storm_is_a_few_messages_and_loses_nothing(tmp_path, webhook):
    outbox = Outbox(settings_of(tmp_path, urls=[webhook.url()], max_per_hour=3))
    outbox.put([alert(f"n{i}", "slow_run") for i in range(30)] + [alert("worst", "run_failure")], NOW)
    assert outbox.deliver(NOW).sent == {"json-1": 31}
    assert webhook.titles == ["[qdag] error: what of worst", "[qdag] warning: what of n0", "[qdag] warning: 29 alerts"]
    assert "and 9 more" in webhook.messages[-1]["message"]
    outbox.put([alert("next")], NOW + timedelta(minutes=59))
    assert outbox.deliver(NOW + timedelta(minutes=59)).waiting == {"json-1": 1}
    assert outbox.deliver(NOW + timedelta(minutes=61)).sent == {"json-1": 1}


@budget(max_examples=10)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 90), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_no_hour_has_more_messages_than_allowed_and_each_alert_comes_once(tmp_path_factory, steps, limit):
    with Webhook() as sink:
        outbox = Outbox(settings_of(tmp_path_factory.mktemp("rate"), urls=[sink.url()], max_per_hour=limit))
        now, number, times, delivered = NOW, 0, [], 0
        for new, minutes, up in [*steps, (0, 61, True), (0, 61, True)]:
            now += timedelta(minutes=minutes)
            sink.status = 200 if up else 503
            outbox.put([alert(f"n{number + i}") for i in range(new)], now)
            number += new
            before = len(sink.messages)
            delivered += outbox.deliver(now).sent.get("json-1", 0)
            times += [now] * (len(sink.messages) - before)
        assert delivered == number
        for at in times:
            assert sum(at <= other < at + HOUR for other in times) <= limit
        alone = [m["title"] for m in sink.messages if " alerts" not in m["title"]]
        assert len(alone) == len(set(alone))


RACE = """
import sys
from pathlib import Path
from datetime import UTC, datetime
from qdag.alerts import Alert, Outbox
from qdag.settings import load_settings
outbox = Outbox(load_settings())
now = datetime.fromtimestamp(float(sys.argv[1]), UTC)
print("ready", flush=True)
sys.stdin.readline()
print(outbox.put([Alert("run_failure", f"k{i}", f"what {i}") for i in range(20)], now), flush=True)
outbox.deliver(now)
"""


def racer(home, webhook) -> subprocess.Popen:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("QDAG_")}
    environ |= {"QDAG_HOME": str(home), "QDAG_ALERTS__URLS": webhook.url(), "QDAG_ALERTS__MAX_PER_HOUR": "1000"}
    child = subprocess.Popen(
        [sys.executable, "-c", RACE, str(NOW.timestamp())],
        env=environ, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return child


def test_processes_that_race_send_each_alert_once(tmp_path, webhook):
    children = [racer(tmp_path, webhook) for _ in range(3)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    new = [int(child.communicate(timeout=60)[0]) for child in children]
    assert sum(new) == 20
    # what a process could not claim is sent with the next tick
    Outbox(settings_of(tmp_path, urls=[webhook.url()], max_per_hour=1000)).deliver(NOW)
    assert Counter(webhook.titles) == {f"[qdag] error: what {i}": 1 for i in range(20)}


def test_a_sender_that_is_killed_loses_nothing(tmp_path, webhook):
    webhook.hold.clear()
    child = racer(tmp_path, webhook)
    child.stdin.write("\n")
    child.stdin.flush()
    assert webhook.came.wait(60)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    webhook.hold.set()
    outbox = Outbox(settings_of(tmp_path, urls=[webhook.url()], max_per_hour=1000))
    webhook.messages.clear()
    assert outbox.deliver(NOW + timedelta(seconds=119)).sent == {}
    assert outbox.deliver(NOW + timedelta(seconds=121)).sent == {"json-1": 20}
    assert {f"[qdag] error: what {i}" for i in range(20)} <= set(webhook.titles)


def test_durations_of_like_runs_are_compared(tmp_path):
    outbox = Outbox(settings_of(tmp_path, slow_history=3, slow_minimum=2))
    for n, seconds in enumerate((1.0, 2.0, 3.0, 4.0)):
        outbox.note_duration("alpha158", "toy", f"day-{n}", 1, seconds)
    assert outbox.note_duration("alpha158", "toy", "year", 250, 900.0) == []
    assert outbox.note_duration("alpha158", "other", "day", 1, 9.0) == []
    assert outbox.note_duration("labels", "toy", "day-9", 1, 9.0) == []
    assert outbox.note_duration("alpha158", "toy", "day-4", 1, 5.0) == [2.0, 3.0, 4.0]
    assert outbox.note_duration("alpha158", "toy", "day-4", 1, 5.0) is None
    assert outbox.note_duration("alpha158", "toy", "half", 150, 500.0) == [900.0]


def test_a_damaged_state_says_so(tmp_path):
    outbox = Outbox(settings_of(tmp_path))
    outbox.path.parent.mkdir(parents=True)
    outbox.path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="delete a damaged file"):
        outbox.put([alert()], NOW)


# -- secrets ----------------------------------------------------------------------------------------------------------

SECRET = "hunter2TOKENhunter2"


def secret_urls(webhook: Webhook, mail: MailServer) -> list[str]:
    host = webhook.url().split("//")[1].rstrip("/")
    return [
        f"json://{host}/{SECRET}?+X-Token={SECRET}",
        f"json://user:{SECRET}@{host}/path/{SECRET}",
        f"json://127.0.0.1:1/{SECRET}",
        f"json://{SECRET}.invalid/{SECRET}",
        f"slack://{SECRET}/{SECRET}",
        f"nosuch://{SECRET}@host/{SECRET}?token={SECRET}",
        mail.url("nobody@example.com").replace("mailto://", f"mailto://user:{SECRET}@"),
    ]


def test_no_secret_is_in_logs_results_state_or_settings(tmp_path, webhook, capfd):
    # a handler of its own: pytest's is attached to loggers that propagate nothing, too
    root, log = logging.getLogger(), io.StringIO()
    noisy = [root, *map(logging.getLogger, ("apprise", "urllib3", "urllib3.connectionpool"))]
    handler, levels = logging.StreamHandler(log), [logger.level for logger in noisy]
    root.addHandler(handler)
    for logger in noisy:
        logger.setLevel(logging.DEBUG)
    try:
        with MailServer() as mail:
            settings = settings_of(tmp_path, urls=secret_urls(webhook, mail))
            outbox = Outbox(settings)
            outbox.put([alert()], NOW)
            done = outbox.deliver(NOW)
            webhook.status = 500
            tested = alerts.send_test(settings)
    finally:
        root.removeHandler(handler)
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
    assert len(done.sent) == 2
    assert len(done.failed) == 5
    assert all(why for _, why in tested)
    assert len(tested) == 7
    shown = [str(done), repr(done), str(tested), repr(settings), settings.model_dump_json(), log.getvalue()]
    shown += [repr(alerts.targets_of(settings)), repr(outbox.recent()), *capfd.readouterr()]
    shown.append(outbox.path.read_bytes().decode("latin-1"))
    for text in shown:
        assert SECRET.lower() not in text.lower()
    # and yet a person sees what is wrong
    assert "127.0.0.1" in done.failed["json-3"]
    assert "does not understand" in done.failed["nosuch-1"]


@pytest.mark.parametrize(
    "given_as",
    [
        {"QDAG_ALERTS__URLS": f"{SECRET}"},
        {"QDAG_ALERTS__URLS": f'["json://{SECRET}", 5]'},
        {"QDAG_ALERTS__URLS": f'["json://{SECRET}"'},
        {"QDAG_ALERTS__URLS": f'[{{"url": "json://{SECRET}", "severity": "{SECRET}"}}]'},
        {"QDAG_ALERTS__URLS__URL": f"json://{SECRET}"},
        {"QDAG_ALERTS": f"json://{SECRET}"},
        {"QDAG_ALERTS__LATE_HOURS": f"json://{SECRET}"},
        {"QDAG_ALERTS__URL": f"json://{SECRET}"},
    ],
)
def test_a_wrong_setting_does_not_show_the_secret(given_as):
    with pytest.raises(SettingsError) as caught:
        load_settings(environ=given_as)
    error: BaseException | None = caught.value
    while error:
        assert SECRET not in str(error)
        error = error.__cause__ or error.__context__


def test_urls_come_from_a_variable_or_a_file(tmp_path):
    variable = load_settings(environ={"QDAG_ALERTS__URLS": "json://a/x  slack://b/c/d"})
    assert [t.name for t in alerts.targets_of(variable)] == ["json-1", "slack-1"]
    file = tmp_path / "qdag.toml"
    file.write_text(
        '[alerts]\nurls = ["json://a/x", "json://b/y", { url = "mailto://c", name = "desk", severity = "error" }]\n'
    )
    read = load_settings(file, {})
    assert [(t.name, t.severity) for t in alerts.targets_of(read)] == [
        ("json-1", "warning"), ("json-2", "warning"), ("desk", "error")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"urls": [{"url": "json://a", "name": "x"}, {"url": "json://b", "name": "x"}]}, "two alert targets are named"),
        ({"ic_recent": 252}, "less than ic_trailing"),
        ({"slow_minimum": 60}, "more than slow_history"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(limits, says):
    with pytest.raises(ValueError, match=says):
        AlertSettings(**limits)


# -- the command ------------------------------------------------------------------------------------------------------


def command(home, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("QDAG_", "DAGSTER_"))}
    return subprocess.run(
        [sys.executable, "-m", "qdag", "alerts", *arguments],
        cwd=home, env=clean | {"QDAG_HOME": str(home)} | environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_the_test_command(tmp_path, webhook):
    none = command(tmp_path, "test")
    assert none.returncode == 2
    assert "QDAG_ALERTS__URLS" in none.stderr
    good = command(tmp_path, "test", QDAG_ALERTS__URLS=webhook.url(SECRET))
    assert (good.returncode, good.stdout) == (0, "json-1: sent\n")
    assert webhook.messages[0]["title"] == "[qdag] test message"
    both = command(tmp_path, "test", QDAG_ALERTS__URLS=f"{webhook.url()} json://127.0.0.1:1/{SECRET}")
    assert both.returncode == 1
    assert both.stdout.startswith("json-1: sent\njson-2: FAILED: not delivered")
    assert SECRET not in both.stdout + both.stderr
    assert "Traceback" not in both.stderr


def test_the_list_command(tmp_path):
    assert "no alert was raised" in command(tmp_path, "list").stdout
    outbox = Outbox(settings_of(tmp_path, urls=["json://127.0.0.1:1/x"]))
    outbox.put([alert("a"), alert("b", "ic_drop")], NOW)
    outbox.put([alert("a")], NOW + HOUR)
    outbox.deliver(NOW)
    listed = command(tmp_path, "list", "--rows", "5").stdout
    assert "2024-07-10 12:00 UTC  error  run_failure, seen 2 times until 2024-07-10 13:00" in listed
    assert "    what: what of b" in listed
    assert "    -> json-1: waiting, tried 1 times: not delivered" in listed


def test_the_outbox_is_for_its_owner(tmp_path):
    outbox = Outbox(settings_of(tmp_path))
    outbox.put([alert()], NOW)
    assert outbox.path.stat().st_mode & 0o777 == 0o600
    # one that was made before
    outbox.path.chmod(0o644)
    outbox.put([alert()], NOW)
    assert outbox.path.stat().st_mode & 0o777 == 0o600
