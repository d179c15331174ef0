"""Targets: where they come from, what arrives there, and that their secrets go nowhere else."""

import io
import logging

import pytest

from qdag import alerts
from qdag.alerts import Outbox
from qdag.errors import SettingsError
from qdag.settings import AlertSettings, load_settings
from qdag_tests.alerts.samples import NOW, SECRET, alert, settings_of
from qdag_tests.sinks import MailServer, Webhook


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
