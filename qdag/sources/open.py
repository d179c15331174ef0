"""The source of a universe by the kind that its settings name. Adding a source is one module and its line here."""

import importlib
from pathlib import Path

from qdag.settings import UniverseSettings
from qdag.sources.protocol import Source

MODULES = {
    "sample": "qdag.sources.sample",
    "files": "qdag.sources.files.folder",
    "synthetic": "qdag.sources.synthetic",
    "yahoo": "qdag.sources.web.yahoo",
    "akshare": "qdag.sources.web.akshare",
    "baostock": "qdag.sources.web.baostock",
    "qlib": "qdag.sources.qlib_dir",
}
"""The module of each kind; its ``source_of`` takes the name and settings of a universe, those of its source, and
the folder for downloads."""


def open_source(universe: str, settings: UniverseSettings, downloads: Path | None = None) -> Source:
    """The source of a universe; nothing is read yet.

    Parameters
    ----------
    universe, settings : name, for messages and tables, and settings
    downloads : folder where a source on the network keeps what it fetched, unless its settings name one

    Raises
    ------
    SourceError
        The package of a vendor is not installed, or there is no folder for what it delivers.
    """
    module = importlib.import_module(MODULES[settings.source.kind])
    source: Source = module.source_of(universe, settings, settings.source, downloads)
    return source
