"""The feature sets by name: what is computed, what it means and how to read it. Only declarations belong here."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Literal

from qdag.errors import unknown
from qdag.text import markdown_code, markdown_table

UNITS = ("", "currency", "shares")
HEADING = ("name", "group", "unit", "meaning", "direction", "expression", "look-back")
"""What is told of every feature, in this order."""


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
    unit : ``currency`` or ``shares`` where the value is of the size of the adjusted price or volume; empty for a
        number that does not change when all prices are multiplied and all volumes divided by a constant
    """

    name: str
    group: str
    expression: str | None
    meaning: str
    direction: str
    unit: str = ""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise unknown("unit", self.unit, UNITS)

    @property
    def kind(self) -> Literal["factor", "level"]:
        """A *level* has a unit: between instruments it compares the sizes of prices, which depend on the day on which
        the adjustment factor is 1, so it is no factor and is not evaluated as one."""
        return "level" if self.unit else "factor"

    @property
    def about(self) -> str:
        """What the catalogues of columns say of it, beside expression and unit."""
        level = "; a level, not evaluated as a factor" if self.kind == "level" else ""
        return f"{self.group}: {self.meaning}; {self.direction}{level}"


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


def set_definition(name: str) -> dict[str, str]:
    """What the values of a set depend on besides its expressions: the module's ``VERSION``, which is raised by hand
    when its code gives other values, and the constants that its ``constants()`` names."""
    if name not in _MODULES:
        return {"version": "1"}
    module = import_module(_MODULES[name])
    found: Mapping[str, object] = getattr(module, "constants", dict)()
    return {"version": str(getattr(module, "VERSION", 1)), **{key: str(value) for key, value in found.items()}}


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


def lookbacks(features: Iterable[Feature]) -> dict[Feature, str]:
    """Sessions of past that each feature needs, as text: ``all`` where it is unbounded.

    Indicators are computed by code that begins again at fixed sessions (``qdag.features.indicators``).
    """
    from qdag.engine.plan import ALL_HISTORY, plan
    from qdag.features.indicators import WARMUP

    found = {}
    for feature in features:
        past = plan({feature.name: feature.expression}).lookback if feature.expression else WARMUP
        found[feature] = "all" if past >= ALL_HISTORY else str(past)
    return found


def catalogue_markdown(names: Iterable[str]) -> str:
    """The catalogue of some sets as Markdown, one table per set."""
    lines = [
        "# Features",
        "",
        "Written by `qdag features --markdown`. Look-back: sessions of past that a value needs; `all` is unbounded. "
        "Prices and volumes are adjusted. Group, direction and unit are also on the columns in the Dagster UI.",
        "",
        "A feature with a unit is a *level*: its size is that of the adjusted price (`currency`) or volume (`shares`), "
        "so it depends on the day on which the adjustment factor is 1, the first of the universe's history. Levels are "
        "stored, drawn and may be trained on, but they are not evaluated in `factor_metrics`: to compare instruments "
        "by one, divide it, as in `Mean($close, 20)/$close`. All others are *factors*.",
    ]
    for name in names:
        features = feature_set(name)
        past = lookbacks(features)
        levels = sum(f.kind == "level" for f in features)
        count = f"{len(features)} features" + (f", levels among them: {levels}" if levels else "")
        lines += ["", f"## {name}", "", f"{count}.", ""]
        rows = (
            (f.name, f.group, f.unit, f.meaning, f.direction, markdown_code(f.expression or ""), past[f])
            for f in features
        )
        # names and meanings are texts of qdag's own, without markup
        lines.append(markdown_table(HEADING, rows, right=("look-back",), cell=str).rstrip("\n"))
    return "\n".join(lines) + "\n"
