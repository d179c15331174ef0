"""The assets by short names, as tests and measurements call them."""

from collections.abc import Sequence
from functools import partial

from qdag.assets.asset import Asset
from qdag.assets.chain import chain, compute
from qdag.assets.feature_table import FeatureTable
from qdag.assets.labels import Labels
from qdag.assets.platform import Platform
from qdag.assets.qlib_bin import verify_bins
from qdag.assets.result import Result
from qdag.features.catalogue import CUSTOM, feature_set, feature_sets
from qdag.lineage import Definition, Reads
from qdag.quality.checks import Frames, Scope
from qdag.quality.rule import Rule
from qdag.schema import TableSpec
from qdag.settings import QualitySettings, Settings

__all__ = ["Definition", "Platform", "Reads", "Result", "verify_bins"]

raw_ohlcv = partial(compute, "raw_ohlcv")
qlib_bin = partial(compute, "qlib_bin")
labels = partial(compute, "labels")
factor_metrics = partial(compute, "factor_metrics")
trained_model = partial(compute, "trained_model")
predictions = partial(compute, "predictions")


def feature_stage(name: str) -> partial[Result]:
    return partial(compute, name)


def asset_names(settings: Settings) -> tuple[str, ...]:
    return chain(settings).names


def feature_tables(settings: Settings) -> tuple[str, ...]:
    return tuple(features.name for features in settings.feature_sets())


def table_spec(settings: Settings, name: str) -> TableSpec | None:
    return chain(settings)[name].table(settings)


def definition(settings: Settings, universe: str, name: str) -> Definition:
    return chain(settings)[name].definition(settings, universe)


def reads_of(settings: Settings, universe: str, name: str) -> tuple[Reads, ...]:
    return chain(settings)[name].reads(settings, universe)


def code_version(settings: Settings, name: str) -> str:
    return chain(settings)[name].code_version(settings)


def stored_sessions(platform: Platform, name: str, universe: str):
    return chain(platform.settings)[name].stored(platform, universe)


FEATURE_TABLES = (*(one.name for one in feature_sets().values() if one.default), CUSTOM)


def _asset(name: str, settings: Settings) -> Asset:
    """An asset of the settings, or the table of a feature set that they do not compute."""
    whole = chain(
        settings if settings.custom_factors else settings.model_copy(update={"custom_factors": {"x": "$close"}})
    )
    return whole[name] if name in whole or name not in feature_sets() else FeatureTable(feature_set(name))


def rules_for(name: str, columns: Sequence[str] = (), limits: QualitySettings | None = None) -> tuple[Rule, ...]:
    """Rules of an asset, by default under the default limits; ``columns`` decide nothing."""
    settings = Settings(custom_factors={"x": "$close"})
    return _asset(name, settings).rules(settings, limits or QualitySettings())


def frames(name: str, scope: Scope, columns: Sequence[str] = ()) -> Frames:
    """The frames of an asset; ``columns``: those that it declares, where they are others than its own."""
    asset = _asset(name, scope.settings)
    return asset.frames(scope, columns) if columns and isinstance(asset, FeatureTable | Labels) else asset.frames(scope)
