"""The engine inside Qlib: ``D.features``, handlers and filters as Qlib has them, computed by qdag.

``init`` starts Qlib on it in one line; ``EngineDatasetProvider`` is the class for ``qlib.init``'s ``dataset_provider``.
Importing this package does not import Qlib.
"""

from typing import TYPE_CHECKING, Any

from qdag.qlib.start import init

if TYPE_CHECKING:
    from qdag.qlib.provider import EngineDatasetProvider

__all__ = ["EngineDatasetProvider", "init"]


def __getattr__(name: str) -> Any:
    # Qlib looks its classes up by name in the module that a configuration gives
    if name == "EngineDatasetProvider":
        from qdag.qlib.provider import EngineDatasetProvider

        return EngineDatasetProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
