"""The outbox with real deliveries to local servers: repeats, tries, the rate limit, and processes that race or die."""

import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from qdag.alerts import Alert, Outbox
from qdag.errors import StoreError
from qdag_tests.alerts.samples import HOUR, NOW, alert, settings_of
from qdag_tests.sinks import Webhook


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


def test_the_outbox_is_for_its_owner(tmp_path):
    outbox = Outbox(settings_of(tmp_path))
    outbox.put([alert()], NOW)
    assert outbox.path.stat().st_mode & 0o777 == 0o600
    # one that was made before
    outbox.path.chmod(0o644)
    outbox.put([alert()], NOW)
    assert outbox.path.stat().st_mode & 0o777 == 0o600
