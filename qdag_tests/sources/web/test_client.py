"""One request: which failures pass, what Retry-After says, distance between requests, packages that lack."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests

from qdag.sources.web.client import PermanentError, TransientError, judge, retry_after


def http_error(status, headers=None):
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers or {})
    return requests.HTTPError("bad", response=response)


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("slow"),
        ConnectionResetError("gone"),
        requests.ConnectTimeout("slow"),
        requests.ReadTimeout("slow"),
        requests.ConnectionError("gone"),
        requests.exceptions.ChunkedEncodingError("cut"),
        http_error(429),
        http_error(500),
        http_error(503),
        TransientError("as it is"),
    ],
    ids=repr,
)
def test_passing_failures(error):
    assert isinstance(judge(error), TransientError)


@pytest.mark.parametrize(
    "error",
    [
        http_error(400),
        http_error(401),
        http_error(404),
        requests.JSONDecodeError("bad", "{", 0),
        json.JSONDecodeError("bad", "{", 0),
        requests.exceptions.InvalidURL("bad"),
        KeyError("data"),
        TypeError("none"),
        ZeroDivisionError("odd"),
        PermanentError("as it is"),
    ],
    ids=repr,
)
def test_final_failures(error):
    assert isinstance(judge(error), PermanentError)


def test_retry_after():
    assert retry_after("7") == 7
    assert retry_after("0.5") == 0.5
    assert retry_after("-3") == 0
    assert retry_after(None) is None
    assert retry_after("soon") is None
    assert retry_after("") is None
    moment = datetime.now(UTC) + timedelta(seconds=90)
    assert 80 < retry_after(format_datetime(moment)) <= 90
    assert retry_after(format_datetime(moment - timedelta(hours=1))) == 0
    assert judge(http_error(429, {"Retry-After": "11"})).wait == 11
