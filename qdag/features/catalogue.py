"""The feature sets by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One column of a feature table."""

    name: str
    group: str
    expression: str | None
    meaning: str
    direction: str
