"""How a vendor on the network is asked: the protocol, the errors, the distance between requests. No vendor is known.

One request is all that belongs here; trying it again, and keeping what was fetched, is :mod:`qdag.sources.web.fetched`.
"""

import importlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from qdag.errors import SourceError, install_command
from qdag.sources.actions import Adjustment
from qdag.sources.reasons import Reason, Refuses


class TransientError(Exception):
    """A request that may succeed later. ``wait``: seconds before which the vendor does not want to be asked again."""

    def __init__(self, text: str, wait: float | None = None):
        self.wait = wait
        super().__init__(text)


class PermanentError(Exception):
    """A request that will not succeed by being repeated; ``reason`` is one of an instrument's, else a ValueError."""

    def __init__(self, text: str, reason: Reason = Reason.FETCH_FAILED):
        self.reason = reason.must(Refuses.INSTRUMENT)
        super().__init__(text)


class Client(Protocol):
    """A vendor: how it is asked, and what its answers mean.

    ``kind`` names the source, ``adjustment`` what tells the factor. Of the columns of a history, ``rebased`` ones are
    cumulative levels whose scale differs between answers; only their change from row to row means anything.
    """

    kind: str
    adjustment: Adjustment
    rebased: tuple[str, ...]

    def symbol(self, instrument: str) -> str | None:
        """The vendor's symbol of an instrument in Qlib's spelling; None where it has no such one."""

    def history(self, symbol: str, first: date, last: date) -> pa.Table:
        """Raw daily bars of [first, last] as traded, as ``history_table`` makes them; empty where there are none.

        Raises ``TransientError`` or ``PermanentError``, or lets the library's own error through (see ``judge``).
        """

    def close(self) -> None:
        """Give back connections."""


def require(module: str) -> ModuleType:
    """Import a package of the extra ``sources``."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SourceError(
            f"this source needs the package {module.split('.')[0]!r} ({error}); "
            f"install it: {install_command('sources')}"
        ) from error


def history_table(
    day: Any, numbers: Mapping[str, np.ndarray], bad: np.ndarray | None = None, row: list[str] | None = None
) -> pa.Table:
    """Rows of one instrument, ordered by date.

    Parameters
    ----------
    day : datetime64[D] (N,) or what numpy makes it of
    numbers : float64 (N,) each, NaN where there is none: open, high, low, close, volume, and of amount and the events
        of ``qdag.sources.rows`` what the vendor has
    bad : a cell of the row was neither empty nor a finite number
    row : the rows as delivered, where the numbers do not tell

    Raises
    ------
    PermanentError
        A date is missing.
    """
    day = np.asarray(day, "M8[D]")
    if np.isnat(day).any():
        raise PermanentError("the answer cannot be read: it has a row without a date")
    order = np.argsort(day, kind="stable")
    size = len(day)
    columns = {
        "date": pa.array(day, pa.date32()),
        **{name: pa.array(np.asarray(values, np.float64)) for name, values in numbers.items()},
        "bad": pa.array(np.zeros(size, bool) if bad is None else bad),
        "row": pa.nulls(size, pa.string()) if row is None else pa.array(row, pa.string()),
    }
    return pa.table(columns).take(pa.array(order))


def judge(error: Exception) -> TransientError | PermanentError:
    """Whether a failed request is worth another try, from the error of whichever library."""
    if isinstance(error, TransientError | PermanentError):
        return error
    text = f"{type(error).__name__}: {error}"
    if (status := getattr(getattr(error, "response", None), "status_code", None)) and status >= 400:
        return judge_status(status, text, getattr(error, "response", None))
    # the JSON and URL errors of requests and curl_cffi are both OSError and ValueError
    if not isinstance(error, ValueError) and isinstance(error, OSError | HTTPException):
        return TransientError(text)
    odd = isinstance(error, ValueError | LookupError | TypeError | AttributeError)
    return PermanentError(f"the answer cannot be read: {text}" if odd else text)


def judge_status(status: int, text: str, response: Any = None) -> TransientError | PermanentError:
    """The error of an HTTP status of 400 and more."""
    shown = f"HTTP {status}: {' '.join(text.split())[:300]}"
    if status == 429 or status >= 500:
        headers = getattr(response, "headers", None) or {}
        return TransientError(shown, retry_after(headers.get("Retry-After")))
    return PermanentError(shown)


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None where it is missing or neither."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class Throttle:
    """Called before each request: waits until ``interval`` seconds have passed since the one before."""

    def __init__(self, interval: float, sleep: Callable[[float], None] = time.sleep):
        self.interval = interval
        self._sleep = sleep
        self._next = 0.0

    def __call__(self) -> None:
        """Wait until the next request may be sent."""
        wait = self._next - time.monotonic()
        if wait > 0:
            self._sleep(wait)
        self._next = time.monotonic() + self.interval
