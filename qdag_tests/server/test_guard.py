"""The guard of the Dagster UI, asked directly: what another web page could send is refused."""

import asyncio
from typing import Any

import pytest

from qdag.server.guard import Guard
from qdag.server.webserver import allowed_hosts
from qdag.settings import Settings

UI = "127.0.0.1:3000"
JSON = ("content-type", "application/json")


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"reached"})


def ask(path: str, *headers: tuple[str, str], method: str = "GET", host: str | None = UI, query: str = "") -> Any:
    """The messages that a request is answered with; a method of "WS" is a websocket's handshake."""
    given = [("host", host), *headers] if host is not None else headers
    scope: dict[str, Any] = {
        "type": "websocket" if method == "WS" else "http",
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given],
    }
    if method != "WS":
        scope["method"] = method
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(application, ("127.0.0.1", "localhost", "[::1]", "Qdag.example"))(scope, None, send))  # type: ignore[arg-type]
    return sent


def status(*arguments: Any, **options: Any) -> int:
    first = ask(*arguments, **options)[0]
    return {"websocket.accept": 101, "websocket.close": 403}.get(first["type"]) or int(first["status"])


ORIGIN = ("origin", f"http://{UI}")
OWN = (ORIGIN, ("sec-fetch-site", "same-origin"))
FOREIGN = ("origin", "http://evil.example")
LINK = (("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"))


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        (("/",), {}),
        (("/assets/raw_ohlcv",), {"query": "view=overview"}),
        (("/graphql",), {}),
        (("/server_info",), {"host": "localhost:8080"}),
        (("/server_info",), {"host": "[::1]:3000"}),
        (("/server_info",), {"host": "qdag.example"}),
        (("/server_info",), {"host": "LOCALHOST"}),
        (("/graphql", JSON), {"method": "POST"}),
        (("/graphql", ("content-type", "application/json; charset=utf-8"), *OWN), {"method": "POST"}),
        (("/graphql",), {"method": "WS"}),
        (("/graphql", *OWN), {"method": "WS"}),
        (("/graphql", ("origin", "https://qdag.example")), {"method": "WS", "host": "qdag.example"}),
        (("/static/app.js", ("sec-fetch-site", "same-origin")), {}),
        (("/", ("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")), {}),
        # a link on another page, as the one to a run on MLflow's
        (("/runs/1", *LINK), {}),
    ],
)
def test_the_uis_own_requests_and_those_of_programs_pass(asked, options):
    assert status(*asked, **options) in (200, 101)


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        # a name that resolves to this machine
        (("/",), {"host": "evil.example"}),
        (("/",), {"host": "evil.example:3000"}),
        (("/",), {"host": "127.0.0.1.evil.example"}),
        (("/",), {"host": "127.0.0.1:3000@evil.example"}),
        (("/",), {"host": "localhost."}),
        (("/",), {"host": ""}),
        (("/",), {"host": None}),
        (("/", ("host", "evil.example")), {}),
        (("/graphql",), {"method": "WS", "host": "evil.example"}),
        # a page of another origin, whatever else is right
        (("/graphql", JSON, FOREIGN), {"method": "POST"}),
        (("/graphql", JSON, ("origin", "null")), {"method": "POST"}),
        (("/graphql", JSON, ("origin", "http://127.0.0.1:5000")), {"method": "POST"}),
        (("/graphql", JSON, ("origin", "http://localhost:3000")), {"method": "POST"}),
        (("/graphql", JSON, ORIGIN, FOREIGN), {"method": "POST"}),
        (("/graphql", FOREIGN), {"method": "WS"}),
        (("/graphql", ("sec-fetch-site", "same-site")), {"method": "WS"}),
        (("/", FOREIGN), {}),
        # out of the folder of logs, as the server has decoded it
        (("/logs/../../etc/passwd",), {}),
        (("/..",), {"method": "HEAD"}),
        # a request across sites that carries no origin
        (("/logs/x", ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")), {}),
        (("/", *LINK[:2], ("sec-fetch-dest", "iframe")), {}),
        (("/graphql", *LINK), {}),
        (("/graphql", JSON, *LINK), {"method": "POST"}),
        (("/", JSON, *LINK), {"method": "POST"}),
        # orders by the address alone
        (("/graphql",), {"query": "query=mutation"}),
        (("/graphql",), {"query": "%71uery=mutation"}),
        (("/graphql",), {"query": "query=mutation", "method": "HEAD"}),
        (("/graphql\n",), {"query": "query=mutation"}),
        (("//graphql",), {"query": "query=mutation"}),
        (("/graphql",), {"query": "query=mutation", "method": "POST"}),
        # what a form can send without asking
        (("/graphql", ("content-type", "text/plain; application/json")), {"method": "POST"}),
        (("/graphql", ("content-type", "text/plain, application/json")), {"method": "POST"}),
        (("/graphql", ("content-type", "application/graphql")), {"method": "POST"}),
        (("/graphql", ("content-type", "application/x-www-form-urlencoded")), {"method": "POST"}),
        (("/graphql", JSON, ("content-type", "text/plain")), {"method": "POST"}),
        # the preflight of a foreign page, and what a UI never asks for
        (("/graphql", FOREIGN, ("access-control-request-method", "POST")), {"method": "OPTIONS"}),
        (("/graphql",), {"method": "PUT"}),
        (("/report_asset_materialization/raw_ohlcv", JSON), {"method": "POST", "query": "metadata=%7B%7D"}),
        (("/report_asset_check/raw_ohlcv", JSON), {"method": "POST"}),
    ],
)
def test_what_another_page_could_send_is_refused(asked, options):
    assert status(*asked, **options) == 403


def test_a_refusal_says_why_and_what_to_set():
    start, body = ask("/", host="evil.example")
    assert body["body"] == (
        b"refused: host 'evil.example'; the names that are answered are set by dagster.allowed_hosts\n"
    )
    assert dict(start["headers"])[b"content-type"] == b"text/plain; charset=utf-8"


def test_other_sites_may_not_frame_it():
    headers = ask("/")[0]["headers"]
    assert (b"x-own", b"1") in headers
    assert (b"x-frame-options", b"SAMEORIGIN") in headers
    assert (b"content-security-policy", b"frame-ancestors 'self'") in headers


def test_the_lifespan_of_the_application_passes():
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(Guard(inner)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


@pytest.mark.parametrize(
    ("dagster", "more"),
    [
        ({}, ()),
        ({"ui_url": "https://dagster.example/"}, ("dagster.example",)),
        ({"ui_url": "https://me:word@dagster.example:8443"}, ("dagster.example",)),
        ({"ui_url": "http://[::1]:3000"}, ()),
        ({"ui_url": "http://a.example", "allowed_hosts": ["b.example", "[fe80::1]"]},
         ("a.example", "b.example", "[fe80::1]")),
    ],
)  # fmt: skip
def test_hosts_that_are_answered(dagster, more):
    assert allowed_hosts(Settings(dagster=dagster)) == ("127.0.0.1", "localhost", "[::1]", *more)


@pytest.mark.parametrize("name", ["*", "a.example:3000", "http://a.example", "a b", "a.example\n", ""])
def test_a_host_is_a_name(name):
    with pytest.raises(ValueError, match="allowed_hosts"):
        Settings(dagster={"allowed_hosts": [name]})
