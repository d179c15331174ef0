"""Custom factors: expressions of the settings, a set like any other."""

from collections.abc import Mapping

from qdag.features.feature import Feature, FeatureSet

NAME = "custom_factors"
NULL_SHARE = 0.5
"""What people write may well need a long past."""


def of(expressions: Mapping[str, str]) -> FeatureSet | None:
    """The set of some expressions by column; None of none."""
    if not expressions:
        return None
    features = tuple(
        Feature(name, "custom", expression, f"custom factor {expression}", "unknown")
        for name, expression in expressions.items()
    )
    return FeatureSet(NAME, "Expressions of the settings.", features, null_share=NULL_SHARE)
