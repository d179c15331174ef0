"""What decides the values of an asset besides the sessions that it reads, as text that can be compared later."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256


@dataclass(frozen=True)
class Definition:
    """The definition of an asset in one universe.

    Attributes
    ----------
    shared : what every value depends on, and with it everything that is computed from the values: the version of the
        code, constants, settings
    columns : what each column (factor, pool) holds by itself. A reader names the columns that it reads in a definition
        of its own, so that one more column makes nobody stale who does not read it
    """

    shared: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def version(self) -> str:
        """Short text that changes exactly when the definition does: a digest of either part."""
        return f"{_digest(self.shared)}-{_digest(self.columns)}"

    def text(self) -> str:
        """The definition as JSON, from which :meth:`parse` makes it again."""
        return json.dumps({"shared": dict(self.shared), "columns": dict(self.columns)}, indent=1)

    @classmethod
    def parse(cls, text: str) -> "Definition":
        """Read what :meth:`text` wrote.

        Raises
        ------
        ValueError
            The text is something else, or a part of it.
        """
        given = json.loads(text)
        if not isinstance(given, dict) or given.keys() != {"shared", "columns"}:
            raise ValueError("no definition: shared and columns are expected")
        return cls(given["shared"], given["columns"])


def shared_part(version: str) -> str:
    """The part of a version that readers depend on."""
    return version.partition("-")[0]


def columns_part(version: str) -> str:
    """The part of a version that tells the columns."""
    return version.partition("-")[2]


def _digest(part: Mapping[str, str]) -> str:
    return sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:12]
