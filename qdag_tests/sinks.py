"""Local servers that take messages: an HTTP webhook and an SMTP server, each just enough for a real client."""

import http.server
import json
import socketserver
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage


class Webhook:
    """Takes JSON posts. ``status`` is what it answers; while ``hold`` is cleared, it does not answer at all."""

    def __init__(self):
        self.messages: list[dict] = []
        self.paths: list[str] = []
        self.status = 200
        self.hold = threading.Event()
        self.hold.set()
        self.came = threading.Event()
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sink.came.set()
                sink.hold.wait(30)
                if sink.status == 200:
                    sink.messages.append(json.loads(body))
                    sink.paths.append(self.path)
                try:
                    self.send_response(sink.status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except BrokenPipeError:
                    pass

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def url(self, rest: str = "") -> str:
        return f"json://127.0.0.1:{self._server.server_port}/{rest}"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()


class MailServer:
    """Takes mail; refuses recipients that begin with ``nobody``."""

    def __init__(self):
        self.mails: list[EmailMessage] = []
        sink = self

        class Handler(socketserver.StreamRequestHandler):
            def say(self, line: str):
                self.wfile.write(f"{line}\r\n".encode())

            def handle(self):
                self.say("220 sink ESMTP")
                while line := self.rfile.readline():
                    command = line.decode().strip().upper()
                    if command.startswith("DATA"):
                        self.say("354 go on")
                        body = b""
                        while (part := self.rfile.readline()) not in (b".\r\n", b""):
                            body += part[1:] if part.startswith(b"..") else part
                        sink.mails.append(message_from_bytes(body, policy=policy.default))
                        self.say("250 taken")
                    elif command.startswith("QUIT"):
                        return self.say("221 bye")
                    elif command.startswith("RCPT TO:<NOBODY"):
                        self.say("550 no such person")
                    else:
                        self.say("250 sink")
                return None

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, to: str) -> str:
        return f"mailto://127.0.0.1:{self._server.server_address[1]}?from=qdag@example.com&to={to}&mode=insecure"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
