"""``qdag alerts`` in processes of its own."""

import subprocess

import pytest

from qdag.alerts import Outbox
from qdag_tests.alerts.samples import HOUR, NOW, SECRET, alert, settings_of
from qdag_tests.cli.homes import command
from qdag_tests.sinks import Webhook


@pytest.fixture
def webhook():
    with Webhook() as sink:
        yield sink


def alerts(home, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return command(home, "alerts", *arguments, QDAG_HOME=str(home), **environ)


def test_the_test_command(tmp_path, webhook):
    none = alerts(tmp_path, "test")
    assert none.returncode == 2
    assert "QDAG_ALERTS__URLS" in none.stderr
    good = alerts(tmp_path, "test", QDAG_ALERTS__URLS=webhook.url(SECRET))
    assert (good.returncode, good.stdout) == (0, "json-1: sent\n")
    assert webhook.messages[0]["title"] == "[qdag] test message"
    both = alerts(tmp_path, "test", QDAG_ALERTS__URLS=f"{webhook.url()} json://127.0.0.1:1/{SECRET}")
    assert both.returncode == 1
    assert both.stdout.startswith("json-1: sent\njson-2: FAILED: not delivered")
    assert SECRET not in both.stdout + both.stderr
    assert "Traceback" not in both.stderr


def test_the_list_command(tmp_path):
    assert "no alert was raised" in alerts(tmp_path, "list").stdout
    outbox = Outbox(settings_of(tmp_path, urls=["json://127.0.0.1:1/x"]))
    outbox.put([alert("a"), alert("b", "ic_drop")], NOW)
    outbox.put([alert("a")], NOW + HOUR)
    outbox.deliver(NOW)
    listed = alerts(tmp_path, "list", "--rows", "5").stdout
    assert "2024-07-10 12:00 UTC  error  run_failure, seen 2 times until 2024-07-10 13:00" in listed
    assert "    what: what of b" in listed
    assert "    -> json-1: waiting, tried 1 times: not delivered" in listed
