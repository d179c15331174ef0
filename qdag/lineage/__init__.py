"""What every stored session was computed from, and which sessions would be computed differently now.

Only arithmetic on digests, the tables' logs and the table of records belong here; which asset reads which, and what
defines it, is told by the caller.
"""

from qdag.lineage.bars import reconcile
from qdag.lineage.definition import Definition
from qdag.lineage.records import block, forget, record, withdraw
from qdag.lineage.stale import Lineage, Reads, Stale, window_digests

__all__ = [
    "Definition",
    "Lineage",
    "Reads",
    "Stale",
    "block",
    "forget",
    "reconcile",
    "record",
    "window_digests",
    "withdraw",
]
