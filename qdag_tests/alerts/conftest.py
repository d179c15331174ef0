"""A server on loopback that takes what apprise sends."""

from collections.abc import Iterator

import pytest

from qdag_tests.sinks import Webhook


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as sink:
        yield sink
