"""Where daily bars come from: one module per kind of source, behind the small protocol of ``base``."""

from qdag.settings import FilesSource, SampleSource, UniverseSettings
from qdag.sources.base import Delivery, Source

__all__ = ["Delivery", "Source", "open_source"]


def open_source(universe: str, settings: UniverseSettings) -> Source:
    """The source of a universe; nothing is read yet."""
    source = settings.source
    if isinstance(source, SampleSource):
        from qdag.sources.sample import Sample

        return Sample(universe, settings)
    if isinstance(source, FilesSource):
        from qdag.sources.files import FilesFolder

        return FilesFolder(universe, settings, source)
    from qdag.sources.synthetic import Synthetic

    return Synthetic(universe, settings, source)
