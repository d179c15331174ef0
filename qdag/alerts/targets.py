"""Where alerts go: the targets of the settings, and sending one message through apprise.

URLs hold secrets: they leave this module only towards their own server, neither into a log nor into a reason for a
failure.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from qdag.alerts.alert import Alert, ui_address
from qdag.errors import SettingsError
from qdag.settings import AlertKind, Settings, Severity
from qdag.text import without_mentions

SEND_SECONDS = 10
"""A server that does not answer for so long has failed."""


@dataclass(frozen=True)
class Target:
    """One place to send to. The URL is in no text form of it."""

    name: str
    """What it is called where its deliveries are told."""
    url: str = field(repr=False)
    """Address of apprise, with its secrets."""
    severity: Severity
    """The mildest that goes here."""
    kinds: tuple[AlertKind, ...] | None
    """Kinds that go here; None for all."""

    def wants(self, alert: Alert) -> bool:
        """Whether the alert is severe enough and of a kind that goes here."""
        severe = alert.severity == "error" or self.severity == "warning"
        return severe and (self.kinds is None or alert.kind in self.kinds)


def targets_of(settings: Settings) -> list[Target]:
    """Targets of the settings; one without a name is called after its scheme, ``json-1``, ``slack-1``, ``slack-2``."""
    found: list[Target] = []
    unnamed: dict[str, int] = {}
    for target in settings.alerts.urls:
        url = target.url.get_secret_value()
        scheme = url.split("://", 1)[0].lower()
        if target.name is None:
            unnamed[scheme] = unnamed.get(scheme, 0) + 1
        found.append(Target(target.name or f"{scheme}-{unnamed[scheme]}", url, target.severity, target.kinds))
    return found


def send(target: Target, title: str, body: str, severity: Severity | None = None) -> str | None:
    """Send one message now; return why it failed, or None. The reason holds nothing of the URL but its host name."""
    import apprise

    asset = apprise.AppriseAsset(app_id="qdag", app_desc="qdag alerts", async_mode=False, service_timeout=SEND_SECONDS)
    kind = {"error": "failure", "warning": "warning", None: "info"}[severity]
    with _unheard(), apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as log:
        try:
            plugin = apprise.Apprise.instantiate(target.url, asset=asset)
            if plugin is None:
                return _reason("apprise does not understand this URL", log.getvalue(), target.url)
            host = plugin.host if not (plugin.template_tokens.get("host") or {"private": True}).get("private") else None
            service = apprise.Apprise(asset=asset)
            service.add(plugin)
            body, title = without_mentions(body), without_mentions(title)
            result = service.notify(body=body, title=title, notify_type=kind, body_format="text")
        except Exception as error:
            # a plugin's own failure is a failed delivery of its target and of no other
            return _reason(type(error).__name__, str(error), target.url)
        return None if result else _reason("not delivered", log.getvalue(), target.url, keep=host)


def _reason(what: str, said: str, url: str, keep: str | None = None) -> str:
    said = " ".join(said.split())
    given = re.split(r"[/@:?&=#,;\s]+", url.split("://", 1)[-1])
    plain = {unquote(piece) for piece in given}
    for piece in sorted({url, *given, *plain, *(quote(p, safe="") for p in plain)}, key=len, reverse=True):
        if len(piece) > 2 and piece != keep:
            said = re.sub(re.escape(piece), "***", said, flags=re.IGNORECASE)
    return f"{what}: {said[:300]}" if said else what


_sending: ContextVar[bool] = ContextVar("qdag_sending", default=False)


def _not_sending(record: logging.LogRecord) -> bool:
    return not _sending.get()


@contextmanager
def _unheard() -> Iterator[None]:
    """While sending, what apprise and its HTTP client log (whole URLs among it) reaches no log of the process."""
    logger = logging.getLogger("apprise")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    for name in ("urllib3.connectionpool", "urllib3.util.retry"):
        # adding the same filter again does nothing
        logging.getLogger(name).addFilter(_not_sending)
    token = _sending.set(True)
    try:
        yield
    finally:
        _sending.reset(token)


def send_test(settings: Settings) -> list[tuple[str, str | None]]:
    """Send a test message to every target, past severity, kinds and limits; per target its name and why it failed.

    Raises
    ------
    SettingsError
        No target is set.
    """
    targets = targets_of(settings)
    if not targets:
        raise SettingsError(
            'no alert target is set: put apprise URLs into the settings file, [alerts] urls = ["json://HOST/PATH"], or '
            "into the variable QDAG_ALERTS__URLS (one URL, or a JSON list); mailto://, slack://, discord:// and others "
            "are described at https://appriseit.com/services"
        )
    body = f"Alerts of qdag reach this target.\nopen: {ui_address(settings)}"
    return [(target.name, send(target, "[qdag] test message", body)) for target in targets]
