"""China A shares of Shanghai and Shenzhen through the package baostock, which speaks a protocol of its own over TCP.

- ``query_history_k_data_plus`` with ``adjustflag="3"`` gives prices as traded, volume in shares and amount in yuan.
- ``preclose`` is the close of the session before, on an ex-date the reference price adjusted for the event: the factor
  follows from it.
- A suspended session comes as a row with ``tradestatus`` 0, the last close as its prices and an empty volume: no row.

The package waits for ever for a silent server, spins when the connection is closed, prints its errors and ends a list
of pages quietly when one of them fails. So the connection is ours, and the pages are counted.
"""

import io
import re
import socket
from contextlib import redirect_stdout, suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qdag.settings import BaostockSource, UniverseSettings
from qdag.sources.actions import Adjustment
from qdag.sources.files.cells import to_numbers
from qdag.sources.web.client import PermanentError, Throttle, TransientError, history_table, require
from qdag.sources.web.fetched import Fetched, cache_folder

_INSTRUMENT = re.compile(r"(SH|SZ)(\d{6})")
_COLUMNS = {
    "open": "open",
    "high": "high",
    "low": "low",
    "close": "close",
    "preclose": "pre_close",
    "volume": "volume",
    "amount": "amount",
}
FIELDS = ("date", *_COLUMNS, "tradestatus")
"""Columns that are asked for, in the order of the answer."""
# not logged in (the server forgets a session), too many logins, the network, the server's own errors
_PASSING = re.compile(r"1000100[15]|100020\d\d|10005001")


class Baostock:
    """The client; see ``client.Client``."""

    kind = "baostock"
    adjustment: Adjustment = "pre_close"
    rebased: tuple[str, ...] = ()

    def __init__(self, source: BaostockSource):
        self.source = source
        self.baostock = require("baostock")
        self.throttle = Throttle(source.interval)
        self._connected = False

    def symbol(self, instrument: str) -> str | None:
        """``SH600000`` -> ``sh.600000``."""
        match = _INSTRUMENT.fullmatch(instrument)
        return f"{match[1].lower()}.{match[2]}" if match else None

    def history(self, symbol: str, first: date, last: date) -> pa.Table:
        """Bars as traded with the previous close; see ``client.Client.history``."""
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                if not self._connected:
                    self._login(printed)
                rows = self._rows(symbol, first, last, printed)
        except Exception:
            self._disconnect()
            raise
        status = FIELDS.index("tradestatus")
        traded = [row for row in rows if row[status] != "0"]
        columns = dict(zip(FIELDS, zip(*traded, strict=True), strict=True)) if traded else dict.fromkeys(FIELDS, ())
        bad = np.zeros(len(traded), bool)
        numbers = {}
        for column, name in _COLUMNS.items():
            numbers[name], wrong = to_numbers(pa.chunked_array([pa.array(columns[column], pa.string())]))
            bad |= wrong
        return history_table(list(columns["date"]), numbers, bad, [",".join(row) for row in traded])

    def _rows(self, symbol: str, first: date, last: date, printed: io.StringIO) -> list[list[str]]:
        self.throttle()
        result = self.baostock.query_history_k_data_plus(
            symbol, ",".join(FIELDS), first.isoformat(), last.isoformat(), frequency="d", adjustflag="3"
        )
        _check(result, printed)
        if tuple(result.fields) != FIELDS:
            raise PermanentError(f"the answer has the columns {result.fields}, asked for were {list(FIELDS)}")
        page = require("baostock.common.contants").BAOSTOCK_PER_PAGE_COUNT
        rows: list[list[str]] = []
        while result.next():
            rows.append(result.get_row_data())
            if len(rows) % page == 0:
                # the next step asks for another page
                self.throttle()
        _check(result, printed)
        if len(result.data) == page:
            # a full page is followed by another one, be it empty
            raise TransientError(f"the answer broke off after {len(rows)} rows: {_said(printed)}")
        return rows

    def _login(self, printed: io.StringIO) -> None:
        """Log in over a connection with a time limit; the package's own would have none."""
        util = require("baostock.util.socketutil")
        utility, timeout = util.SocketUtil, self.source.timeout

        class Connecting(utility):  # type: ignore[misc, valid-type]
            def connect(self, api_key: str) -> None:
                address = (util.cons.BAOSTOCK_SERVER_IP, util.cons.BAOSTOCK_SERVER_PORT)
                util.context.default_socket = _Connection(socket.create_connection(address, timeout))

        # the package asks this class for its one instance when it connects
        before, utility.instance = utility.instance, object.__new__(Connecting)
        try:
            self.throttle()
            _check(self.baostock.login(), printed)
        finally:
            utility.instance = before
        self._connected = True

    def _disconnect(self) -> None:
        context: Any = require("baostock.common.context")
        if isinstance(connection := getattr(context, "default_socket", None), _Connection):
            connection.close()
            context.default_socket = None
        self._connected = False

    def close(self) -> None:
        """Log out."""
        if self._connected:
            with suppress(Exception), redirect_stdout(io.StringIO()):
                self.baostock.logout()
        self._disconnect()


class _Connection:
    """What the package needs of a socket; a closed connection is an error and not an endless empty answer."""

    def __init__(self, connected: socket.socket):
        self._socket = connected

    def send(self, data: bytes) -> int:
        self._socket.sendall(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        data = self._socket.recv(size)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()


def _check(result: Any, printed: io.StringIO) -> None:
    if result.error_code != "0":
        text = f"baostock error {result.error_code}: {result.error_msg} {_said(printed)}".rstrip()
        raise TransientError(text) if _PASSING.fullmatch(result.error_code) else PermanentError(text)


def _said(printed: io.StringIO) -> str:
    """What the package printed: it swallows the exceptions of the network."""
    return " ".join(printed.getvalue().split())[-300:]


def source_of(universe: str, settings: UniverseSettings, source: BaostockSource, downloads: Path | None) -> Fetched:
    """See ``qdag.sources.open``."""
    folder = cache_folder(universe, source.kind, source.cache or downloads)
    return Fetched(universe, settings, source, Baostock(source), folder)
