"""Which requests the Dagster UI answers: those of its own pages and of programs, never those of other web pages.

Dagster's webserver has no login, takes orders by GET and by forms, and answers under any name. A browser on the same
machine reaches it, so any page that a person visits could launch runs or wipe assets: by a request across sites, or
under a name of its own that resolves to this machine. The guard stands before the whole application and knows nothing
of Dagster but the place of its GraphQL endpoint.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?")
# what other sites may not show in a frame of theirs, where a person would click on it unknowingly
_FRAMES = ((b"x-frame-options", b"SAMEORIGIN"), (b"content-security-policy", b"frame-ancestors 'self'"))


class Guard:
    """An ASGI application that refuses with 403 what another web page could have sent, and passes on the rest.

    Parameters
    ----------
    app : what answers the requests that pass
    hosts : names, without port, under which browsers reach it; an IPv6 address in brackets
    """

    def __init__(self, app: Application, hosts: Iterable[str] = LOOPBACK):
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif reason := self.refusal(scope):
            await _refuse(scope, send, reason)
        else:
            await self._app(scope, receive, _unframed(send))

    def refusal(self, scope: Scope) -> str:
        """Why a request is refused; empty where it passes."""
        given: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.lower(), []).append(value.decode("latin-1").strip().lower())
        for name in (b"host", b"origin", b"content-type", b"sec-fetch-site"):
            if len(given.get(name, ())) > 1:
                return f"several {name.decode()} headers"
        headers = {name: values[0] for name, values in given.items()}
        host = headers.get(b"host", "")
        parts = _AUTHORITY.fullmatch(host)
        if not parts or parts[1] not in self._hosts:
            return f"host {host[:100]!r}; the names that are answered are set by dagster.allowed_hosts"
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            return f"a page of {origin[:100]!r}"
        if ".." in scope["path"].split("/"):
            return "a path that leaves its folder"
        graphql = scope["path"].lstrip("/").lower().startswith("graphql")
        return _of_another_page(scope, headers, graphql) or _not_offered(scope, headers, graphql)


def _of_another_page(scope: Scope, headers: Mapping[bytes, str], graphql: bool) -> str:
    if headers.get(b"sec-fetch-site", "none") in ("none", "same-origin"):
        return ""
    # a link on another page may be followed, for it only shows a page of the UI
    link = headers.get(b"sec-fetch-mode") == "navigate" and headers.get(b"sec-fetch-dest") == "document"
    shows = scope["type"] == "http" and scope.get("method", "GET") == "GET" and not graphql
    return "" if link and shows else "a request of another page"


def _not_offered(scope: Scope, headers: Mapping[bytes, str], graphql: bool) -> str:
    method = scope.get("method", "GET")
    if scope["type"] == "websocket":
        return ""
    if method in ("GET", "HEAD"):
        return "GraphQL by the address alone" if graphql and scope.get("query_string") else ""
    if method != "POST" or not graphql:
        return f"{method} {scope['path'][:100]!r} is not offered here"
    # with any other type, a form of another page could send it without asking first
    if headers.get(b"content-type", "").partition(";")[0].rstrip() != "application/json":
        return "GraphQL must come as application/json"
    return ""


async def _refuse(scope: Scope, send: Send, reason: str) -> None:
    if scope["type"] == "websocket":
        # before it is accepted, which the server answers with 403
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": f"refused: {reason}\n".encode()})


def _unframed(send: Send) -> Send:
    async def framed(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_FRAMES]
        await send(message)

    return framed
