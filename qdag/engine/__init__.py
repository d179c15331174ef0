"""The expression engine: Qlib expressions on panels.

``parse`` reads one expression, ``plan`` makes one graph of many, ``compute`` and ``compute_blocks`` run it on a panel.
"""

from qdag.engine.execute import compute, compute_blocks
from qdag.engine.operators import OPERATORS
from qdag.engine.panel import Panel
from qdag.engine.parser import parse
from qdag.engine.plan import ALL_HISTORY, Plan, plan

VERSION = 1
"""Raised by hand when a kernel gives other values: everything that was computed by it becomes stale."""

__all__ = ["ALL_HISTORY", "OPERATORS", "VERSION", "Panel", "Plan", "compute", "compute_blocks", "parse", "plan"]
