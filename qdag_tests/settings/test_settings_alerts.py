"""Who is told of what."""

import pytest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("urls = ['host/path']", "an alert target is an apprise URL"),
        ("urls = [{url='json://a', name='x'}, {url='json://b', name='x'}]", "two alert targets are named 'x'"),
        ("ic_recent = 252", "ic_recent 252 must be less than ic_trailing 252"),
        ("slow_minimum = 51", "slow_minimum 51 is more than slow_history 50"),
    ],
)
def test_alerts_that_do_not_fit_are_refused(refused, text, says):
    refused(f"[alerts]\n{text}", says)


def test_a_url_that_is_refused_is_not_shown(refused):
    assert "hunter2" not in refused("[alerts]\nurls = ['user:hunter2@host']", "apprise URL")


def test_one_text_may_hold_several_targets(load):
    urls = load(QDAG_ALERTS__URLS="json://a mailto://b").alerts.urls
    assert [one.url.get_secret_value() for one in urls] == ["json://a", "mailto://b"]
