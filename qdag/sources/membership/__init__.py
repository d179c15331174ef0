"""Who belongs to what: pools of instruments, and their industries."""

from qdag.sources.membership.industries import Industries, read_industries
from qdag.sources.membership.pools import Membership, content, definition, pools_of
from qdag.sources.membership.symbols import Symbols

__all__ = ["Industries", "Membership", "Symbols", "content", "definition", "pools_of", "read_industries"]
