"""The feature sets by name: what is computed, what it means and how to read it. Only declarations belong here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from qdag.errors import unknown


@dataclass(frozen=True)
class Feature:
    """A declared feature.

    Parameters
    ----------
    name : column name, unique in its set
    group : what kind of feature it is, for tables and documentation
    expression : Qlib expression; None for an indicator that is computed by code
    meaning : what it measures, with its unit where it has one
    direction : how to read a large or a small value
    """

    name: str
    group: str
    expression: str | None
    meaning: str
    direction: str


# set -> module that declares FEATURES; read when it is first asked for
_MODULES = {
    "alpha158": "qdag.features.alpha158",
    "alpha360": "qdag.features.alpha360",
    "basic_statistics": "qdag.features.basic_statistics",
    "price_features": "qdag.features.price_features",
    "technical_indicators": "qdag.features.indicators",
}


@cache
def feature_set(name: str) -> tuple[Feature, ...]:
    """Return a set's features, in column order.

    Raises
    ------
    UnknownNameError
        There is no set of that name.
    """
    if name not in _MODULES:
        raise unknown("feature set", name, _MODULES)
    features: tuple[Feature, ...] = import_module(_MODULES[name]).FEATURES
    return features


class _FeatureSets(Mapping[str, tuple[Feature, ...]]):
    def __getitem__(self, name: str) -> tuple[Feature, ...]:
        if name not in _MODULES:
            raise KeyError(name)
        return feature_set(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


FEATURE_SETS: Mapping[str, tuple[Feature, ...]] = _FeatureSets()
"""Set name -> features, each set built when it is first looked up."""


def expressions(name: str) -> dict[str, str]:
    """Return name -> expression of the features of a set that are expressions, ready for ``qdag.engine.compute``."""
    return {feature.name: feature.expression for feature in feature_set(name) if feature.expression is not None}
