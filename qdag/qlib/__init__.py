"""The engine and the tables inside Qlib: what Qlib has, computed by qdag or read.

``init`` starts Qlib on the engine in one line; ``EngineDatasetProvider`` is the class for ``qlib.init``'s
``dataset_provider``. ``StoredHandler``, ``Alpha158Stored`` and ``Alpha360Stored`` are handlers on the stored tables.
Importing this package does not import Qlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qdag.qlib.start import init

if TYPE_CHECKING:
    from qdag.qlib.handlers import Alpha158Stored, Alpha360Stored, StoredHandler
    from qdag.qlib.processors import CSZFillna, CSZScoreNorm, ProcessInf
    from qdag.qlib.provider import EngineDatasetProvider

__all__ = [
    "Alpha158Stored",
    "Alpha360Stored",
    "CSZFillna",
    "CSZScoreNorm",
    "EngineDatasetProvider",
    "ProcessInf",
    "StoredHandler",
    "init",
]

_MODULES = {
    "EngineDatasetProvider": "provider",
    "StoredHandler": "handlers",
    "Alpha158Stored": "handlers",
    "Alpha360Stored": "handlers",
    "CSZFillna": "processors",
    "CSZScoreNorm": "processors",
    "ProcessInf": "processors",
}


def __getattr__(name: str) -> Any:
    # Qlib looks its classes up by name in the module that a configuration gives
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
