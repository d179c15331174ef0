"""What a feature and a set of features are. Only declarations belong here: nothing is read and nothing is computed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from qdag.errors import unknown

if TYPE_CHECKING:
    import numpy as np

    from qdag.engine.panel import Panel
    from qdag.features.references import Reference

UNITS = ("", "currency", "shares")
Bounds = tuple[float, float]
"""Least and largest value, both inclusive."""


@dataclass(frozen=True)
class Feature:
    """A declared feature.

    Parameters
    ----------
    name : column name, unique in its set
    group : what kind of feature it is, for tables and documentation
    expression : Qlib expression; None for a feature that is computed by code
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


class Compute(Protocol):
    """Computes all columns of a set from a panel: float32 arrays, shape (I, S - start), by column. NaN where a value
    does not exist."""

    def __call__(self, panel: "Panel", *, start: int, threads: int) -> "dict[str, np.ndarray]":
        """Columns by name, from position ``start`` of the panel's sessions on."""
        ...


@dataclass(frozen=True)
class Code:
    """How a set is computed whose features are no Qlib expressions.

    Attributes
    ----------
    compute : the computation
    fields : series of the panel that it reads
    lookback : sessions before the first wanted one that it needs
    constants : what the values depend on besides, by name; part of the set's definition
    reaches_back : which instruments of a panel need bars from before it, bool (I,); they are given from their listing
        on. None where ``lookback`` always suffices
    """

    compute: Compute
    fields: tuple[str, ...]
    lookback: int
    constants: Mapping[str, object] = field(default_factory=dict)
    reaches_back: "Callable[[Panel, int], np.ndarray] | None" = None


@dataclass(frozen=True)
class FeatureSet:
    """Features that are stored in one table of the same name.

    Attributes
    ----------
    name : of the set and of its table
    description : a sentence for catalogues
    features : in column order
    version : raised by hand when the code gives other values for the same bars; every stored session is stale then
    code : how it is computed; None for a set of Qlib expressions
    bounds : what a value cannot leave by its definition, by column or by the column's name without its window
    references : slow second opinions by column: a sample of the stored cells is compared with them
    null_share : share of missing values that is usual here, where it is more than the settings' limit
    default : whether it is computed unless the settings choose the sets
    """

    name: str
    description: str
    features: tuple[Feature, ...]
    version: int = 1
    code: Code | None = None
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    references: "Mapping[str, Reference]" = field(default_factory=dict)
    null_share: float = 0.0
    default: bool = True

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"feature set {self.name} declares {twice} more than once")
        if self.code is None and (bare := [f.name for f in self.features if f.expression is None]):
            raise ValueError(f"feature set {self.name} has neither code nor expressions for {bare}")
        if lost := sorted(self.references.keys() - set(names)):
            raise ValueError(f"feature set {self.name} has references for {lost}, which are no features of it")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def expressions(self) -> dict[str, str]:
        """Expression by name, of the features that are expressions."""
        return {feature.name: feature.expression for feature in self.features if feature.expression is not None}

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of the features that are evaluated: all but levels."""
        return tuple(feature.name for feature in self.features if feature.kind == "factor")

    @property
    def levels(self) -> frozenset[str]:
        """Names of the features that have a unit: they move with the market."""
        return frozenset(feature.name for feature in self.features if feature.kind == "level")

    def bounds_of(self, columns: Iterable[str]) -> dict[str, Bounds]:
        """The bounds of those of the columns that have some."""
        return bounds_of(self.bounds, columns)

    def definition(self) -> dict[str, str]:
        """What all values of the set depend on besides their expressions, as text by name."""
        constants = self.code.constants if self.code else {}
        return {"version": str(self.version), **{key: str(value) for key, value in constants.items()}}


def bounds_of(bounds: Mapping[str, Bounds], columns: Iterable[str]) -> dict[str, Bounds]:
    """The bounds of those of the columns that have some, by name or by the name without its window."""
    found = {c: bounds.get(c, bounds.get(c.rstrip("0123456789"))) for c in columns}
    return {c: pair for c, pair in found.items() if pair is not None}
