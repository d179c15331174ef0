"""Where daily bars come from: one module per kind of source, behind the small protocol of ``base``."""

from pathlib import Path

from qdag.errors import SourceError
from qdag.settings import (
    AkshareSource,
    BaostockSource,
    FilesSource,
    QlibSource,
    SampleSource,
    SyntheticSource,
    UniverseSettings,
    YahooSource,
)
from qdag.sources.base import Delivery, Source

__all__ = ["Delivery", "Source", "open_source"]


def open_source(universe: str, settings: UniverseSettings, downloads: Path | None = None) -> Source:
    """The source of a universe; nothing is read yet.

    ``downloads``: folder where a source on the network keeps what it fetched, unless its settings name one.

    Raises
    ------
    SourceError
        The package of a vendor is not installed, or there is no folder for what it delivers.
    """
    source = settings.source
    if isinstance(source, SampleSource):
        from qdag.sources.sample import Sample

        return Sample(universe, settings)
    if isinstance(source, FilesSource):
        from qdag.sources.files import FilesFolder

        return FilesFolder(universe, settings, source)
    if isinstance(source, QlibSource):
        from qdag.sources.qlib_dir import QlibFolder

        return QlibFolder(universe, settings, source)
    if isinstance(source, SyntheticSource):
        from qdag.sources.synthetic import Synthetic

        return Synthetic(universe, settings, source)
    return _fetched(universe, settings, source, downloads)


def _fetched(
    universe: str,
    settings: UniverseSettings,
    source: YahooSource | AkshareSource | BaostockSource,
    downloads: Path | None,
) -> Source:
    from qdag.sources.fetch import Client, Fetched

    folder = source.cache or downloads
    if folder is None:
        raise SourceError(f"source {source.kind!r} of universe {universe!r} needs a folder; set source.cache")
    client: Client
    if isinstance(source, YahooSource):
        from qdag.sources.yahoo_source import Yahoo

        client = Yahoo(source, folder)
    elif isinstance(source, AkshareSource):
        from qdag.sources.akshare_source import Akshare

        client = Akshare(source)
    else:
        from qdag.sources.baostock_source import Baostock

        client = Baostock(source)
    return Fetched(universe, settings, source, client, folder)
