"""A vendor's web server on the loopback device, for the tests of sources on the network. It can be made to fail."""

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

# an answer: status, body, headers; "reset" breaks the connection in the middle of a body, a number sleeps first
Answer = tuple


class Vendor:
    """Answers ``/host/path?query`` by the function ``answer(path, query)``; ``failures`` are answered before that.

    ``failures``: list of answers, each an ``(status, body, headers)``, ``"reset"`` or ``("slow", seconds)``, for the
    next requests whose path contains ``failing``. ``requests`` lists (path, query, moment) of every request.
    """

    def __init__(self, answer: Callable[[str, dict[str, str]], Answer]):
        self.answer = answer
        self.failures: list = []
        self.failing = ""
        self.requests: list[tuple[str, dict[str, str], float]] = []
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                parts = urlsplit(self.path)
                query = dict(parse_qsl(parts.query))
                vendor.requests.append((parts.path, query, time.monotonic()))
                given = vendor.failures.pop(0) if vendor.failures and vendor.failing in parts.path else None
                if given == "reset":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000000")
                    self.end_headers()
                    self.wfile.write(b'{"chart": {"result": [')
                    self.wfile.flush()
                    # close at once, with a reset
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                if given is not None and given[0] == "slow":
                    time.sleep(given[1])
                    given = None
                status, body, headers = given or vendor.answer(parts.path, query)
                content = body if isinstance(body, bytes) else body.encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                try:
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """The tests break connections on purpose."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_port}"

    def paths(self, part: str = "") -> list[str]:
        return [path for path, _, _ in self.requests if part in path]

    def url(self, url: str) -> str:
        """Where a request to a vendor's address goes instead."""
        parts = urlsplit(url)
        if parts.hostname == "127.0.0.1":
            return url
        return f"{self.base}/{parts.hostname}{parts.path}" + (f"?{parts.query}" if parts.query else "")

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()
