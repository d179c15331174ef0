"""What an alert is and how it reads. Nothing is judged here and nothing is sent."""

from dataclasses import dataclass

from qdag.settings import AlertKind, Settings, Severity

SEVERITIES: dict[AlertKind, Severity] = {
    "run_failure": "error",
    "blocked_check": "error",
    "late_data": "error",
    "alerting_error": "error",
    "slow_run": "warning",
    "failed_instruments": "warning",
    "ic_drop": "warning",
}
"""How bad an alert of each kind is."""
MESSAGE_LENGTH = 700
"""Characters of a detail that a message has at most."""
LISTED = 20
"""Instruments, or alerts of one message, that are named; more are counted."""


@dataclass(frozen=True)
class Alert:
    """What a person should know.

    Two alerts with the same ``key`` are the same alert. ``occurrence`` names the event behind it (a run, a check of a
    run): one event never counts twice. A lasting condition has none.
    """

    kind: AlertKind
    """Which condition was met; targets choose by it."""
    key: str
    """What makes it the same alert as another one of its kind."""
    what: str
    """What happened, in one line: the title of the message."""
    universe: str = ""
    """Where, if it is of one universe."""
    sessions: str = ""
    """First and last session that it is about."""
    value: str = ""
    """What was measured."""
    limit: str = ""
    """What would have been in order."""
    detail: str = ""
    """Whatever else helps, in one line or several."""
    link: str = ""
    """Page of the UI that shows it."""
    occurrence: str = ""
    """The event behind it; empty for a lasting condition."""

    @property
    def severity(self) -> Severity:
        """How bad it is, by its kind."""
        return SEVERITIES[self.kind]

    @property
    def title(self) -> str:
        """Heading of the message."""
        return f"[qdag] {self.severity}: {self.what}"

    @property
    def text(self) -> str:
        """The message: one line per thing that is known."""
        lines = [("what", self.what), ("universe", self.universe), ("sessions", self.sessions), ("value", self.value)]
        lines += [("limit", self.limit), ("detail", shortened(self.detail)), ("open", self.link)]
        return "\n".join(f"{name}: {value}" for name, value in lines if value)


def shortened(text: str) -> str:
    """A text as long as a message takes; what is left out is told by dots."""
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 4] + " ..."


def ui_address(settings: Settings) -> str:
    """Address of the Dagster UI, where the pages that alerts link to are."""
    return settings.dagster.ui_url.rstrip("/")
