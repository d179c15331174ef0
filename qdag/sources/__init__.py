"""Where daily bars come from: one module per kind of source, behind the small protocol of ``protocol``."""

from qdag.sources.open import open_source
from qdag.sources.protocol import Delivery, Source

__all__ = ["Delivery", "Source", "open_source"]
