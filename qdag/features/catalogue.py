"""The sets of features: found by their modules, chosen by settings, written as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from qdag.errors import unknown
from qdag.features import sets
from qdag.features.feature import FeatureSet
from qdag.features.sets import custom_factors
from qdag.text import markdown_code, markdown_table

CUSTOM = custom_factors.NAME
HEADING = ("name", "group", "unit", "meaning", "direction", "expression", "look-back")
"""What is told of every feature, in this order."""


@cache
def feature_sets() -> dict[str, FeatureSet]:
    """Every declared set by name: the modules of ``qdag.features.sets`` that have a ``SET``, in alphabetical order.

    Raises
    ------
    ValueError
        A set has not the name of its module.
    """
    found = {}
    for module in sorted(module.name for module in iter_modules(sets.__path__)):
        one = getattr(import_module(f"{sets.__name__}.{module}"), "SET", None)
        if isinstance(one, FeatureSet):
            if one.name != module:
                raise ValueError(f"module {module!r} declares the feature set {one.name!r}; give both the same name")
            found[one.name] = one
    return found


def feature_set(name: str) -> FeatureSet:
    """A declared set by name.

    Raises
    ------
    UnknownNameError
        There is no set of that name.
    """
    if name not in feature_sets():
        raise unknown("feature set", name, feature_sets())
    return feature_sets()[name]


def chosen_sets(names: Sequence[str] | None, custom: Mapping[str, str]) -> tuple[FeatureSet, ...]:
    """The sets that settings ask for: those named, or all that are computed by default, and the custom factors.

    Raises
    ------
    UnknownNameError
        A name that no set has.
    """
    asked = [one.name for one in feature_sets().values() if one.default] if names is None else names
    own = custom_factors.of(custom)
    return (*(feature_set(name) for name in asked), *([own] if own else []))


def expressions(name: str) -> dict[str, str]:
    """Return name -> expression of the features of a set that are expressions, ready for ``qdag.engine.compute``."""
    return feature_set(name).expressions


def lookbacks(one: FeatureSet) -> dict[str, str]:
    """Sessions of past that each feature of a set needs, as text by name: ``all`` where it is unbounded.

    Features that are computed by code all need what the code reads.
    """
    from qdag.engine.plan import ALL_HISTORY, plan

    found = {}
    for feature in one.features:
        if feature.expression is not None:
            past = plan({feature.name: feature.expression}).lookback
        else:
            past = one.code.lookback if one.code else 0
        found[feature.name] = "all" if past >= ALL_HISTORY else str(past)
    return found


def catalogue_markdown(sets: Iterable[FeatureSet]) -> str:
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
    for one in sets:
        past = lookbacks(one)
        count = f"{len(one.features)} features" + (f", levels among them: {len(one.levels)}" if one.levels else "")
        lines += ["", f"## {one.name}", "", f"{count}.", ""]
        rows = (
            (f.name, f.group, f.unit, f.meaning, f.direction, markdown_code(f.expression or ""), past[f.name])
            for f in one.features
        )
        # names and meanings are texts of qdag's own, without markup
        lines.append(markdown_table(HEADING, rows, right=("look-back",), cell=str).rstrip("\n"))
    return "\n".join(lines) + "\n"
