"""What messages hold, and what they must not."""

import pytest

from qdag.errors import ExpressionError, QdagError, StoreError, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIA1:pa/ss+word@bucket/x?bad=1", "s3://***@bucket/x?bad=1"),
        ("'http://user:hunter2@host:5000' answers", "'http://***@host:5000' answers"),
        ("postgresql+psycopg2://qdag:p@ss@db/qdag, tried twice", "postgresql+psycopg2://***@db/qdag, tried twice"),
        ('invalid dsn: missing "=" after "//u:p@h"', 'invalid dsn: missing "=" after "//***@h"'),
        ("https://h/x?token=abc&n=1", "https://h/x?token=***&n=1"),
        ("host=db password=hunter2 user=x", "host=db password=*** user=x"),
        ("password='two words' port=1", "password=*** port=1"),
        ("https://h/?X-Amz-Signature=ab12 failed", "https://h/?X-Amz-Signature=*** failed"),
        ("AWS_SECRET_ACCESS_KEY=abc/def", "AWS_SECRET_ACCESS_KEY=***"),
    ],
)
def test_credentials_do_not_show(text, shown):
    assert redact(text) == shown
    assert redact(shown) == shown
    for error in (QdagError, StoreError):
        assert str(error(f"it fails: {text}")) == f"it fails: {shown}"
        assert text not in repr(error(text))


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/1",
        "give postgresql://USER:PASSWORD@HOST:5432/DATABASE",
        "sqlite:////home/me@work/.qdag/mlflow/mlflow.db",
        "/home/me@work/tables",
        "Mean($close, 5)/$close - 1",
        "mail ops@example.com about // this",
        "",
    ],
)
def test_everything_else_does(text):
    assert redact(text) == text


def test_the_place_in_an_expression_is_kept():
    assert str(ExpressionError("unknown", "Mean($close, 5)", 5)).endswith("Mean($close, 5)\n       ^")
