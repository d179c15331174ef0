"""Settings: one frozen object from a TOML file plus ``QDAG_*`` variables. Defaults need neither.

A table of the file is a class of one module here; :mod:`qdag.settings.load` reads them, and
:mod:`qdag.settings.reference` writes docs/settings.md from them. Nothing here reads data.
"""

from qdag.settings.alerts import AlertKind, AlertSettings, AlertTarget, Severity
from qdag.settings.base import NAME_PATTERN, SYMBOL_PATTERN
from qdag.settings.explain import kind_of, submodels
from qdag.settings.load import CONFIG_VARIABLE, POSTGRES_VARIABLE, load_settings, settings_from
from qdag.settings.platform import (
    CODE_LOCATION,
    AutomationSettings,
    DagsterSettings,
    EngineSettings,
    MlflowSettings,
    RetentionSettings,
)
from qdag.settings.quality import PriceLimit, QualitySettings
from qdag.settings.settings import Settings
from qdag.settings.sources import (
    AkshareSource,
    BaostockSource,
    ColumnMapping,
    FilesSource,
    QlibSource,
    SampleSource,
    Source,
    SyntheticSource,
    WebSource,
    YahooSource,
)
from qdag.settings.training import TrainingSettings
from qdag.settings.universes import INDEXES, FilePool, IndexPool, PoolSettings, TopPool, UniverseSettings

__all__ = [
    "CODE_LOCATION",
    "CONFIG_VARIABLE",
    "INDEXES",
    "NAME_PATTERN",
    "POSTGRES_VARIABLE",
    "SYMBOL_PATTERN",
    "AkshareSource",
    "AlertKind",
    "AlertSettings",
    "AlertTarget",
    "AutomationSettings",
    "BaostockSource",
    "ColumnMapping",
    "DagsterSettings",
    "EngineSettings",
    "FilePool",
    "FilesSource",
    "IndexPool",
    "MlflowSettings",
    "PoolSettings",
    "PriceLimit",
    "QlibSource",
    "QualitySettings",
    "RetentionSettings",
    "SampleSource",
    "Settings",
    "Severity",
    "Source",
    "SyntheticSource",
    "TopPool",
    "TrainingSettings",
    "UniverseSettings",
    "WebSource",
    "YahooSource",
    "kind_of",
    "load_settings",
    "settings_from",
    "submodels",
]
