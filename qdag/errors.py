"""One family of errors. Each message says what was wrong, with the value, and what to do about it."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

# user and password of an address, but where a remedy says that they stand there; and what names itself a secret, in an
# address's query or a database's parameters
_CREDENTIALS = re.compile(r"(?<!/)(//)(?!/|USER:PASSWORD@)[^\s'\"<>]*@")
_NAMED = re.compile(
    r"(?i)([\w.-]*(?:password|passwd|secret|token|access_key|api_?key|signature)[\w.-]*=)('[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)"
)


def redact(text: str) -> str:
    """Return a text without the credentials in its addresses, fit for messages, logs and pages."""
    return _NAMED.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", text))


class QdagError(Exception):
    """Base of every error that qdag raises on purpose; its text is fit to be shown to a person: without credentials."""

    def __init__(self, message: str = ""):
        super().__init__(redact(message))


class SettingsError(QdagError):
    """The settings file or a ``QDAG_*`` variable is wrong."""


class UnknownNameError(QdagError):
    """A universe, table, asset, pool, factor, field or operator that does not exist."""


class SourceError(QdagError):
    """A source cannot be read at all (a missing folder, no usable file, an unknown column layout)."""


class SessionError(QdagError):
    """A date range is empty, reversed or outside an exchange calendar."""


class PanelError(QdagError):
    """Arrays given as a panel do not fit each other."""


class ExpressionError(QdagError):
    """A feature expression is refused; ``position`` is the 0-based character it points at."""

    def __init__(self, message: str, expression: str = "", position: int | None = None):
        self.expression = expression
        self.position = position
        if position is not None and expression:
            shown = expression.replace("\n", " ")
            left = max(0, position - 60)
            message = f"{message}\n  {shown[left : left + 120]}\n  {' ' * (position - left)}^"
        super().__init__(message)


class StoreError(QdagError):
    """A table or a Qlib provider directory cannot be written or read as asked."""


class MissingDataError(QdagError):
    """A computation needs stored data that is not there yet."""


class TrainingError(QdagError):
    """A model cannot be trained on the data that is known at its training date."""


def install_command(extra: str) -> str:
    """How packages of an extra come into the environment; qdag is on no index, so it names the folder."""
    return f'.venv/bin/uv pip install -e ".[{extra}]" in the folder of qdag'


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` plus the known names, for the end of an error message."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    listed = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return f"{hint} Known: {listed}." if names else "; there is none yet."


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that does not exist, naming the nearest one that does."""
    return UnknownNameError(f"unknown {kind} {name!r}{nearest(name, known)}")
