"""Families: which kernel computes an operator, and how a tile calls it.

Operators of one family share a kernel, which tells them apart by their codes. A tile has one method for each way of
calling (``qdag.engine.tile.METHODS``): a new kernel that is called in one of these ways needs nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from qdag.engine.kernels import cross_section, elementwise, extremes, moments, order, pairs, regression, sums


class Together(Enum):
    """Which nodes a kernel computes in one call."""

    NONE = "each by itself"
    WINDOWS = "all windows of the family's operators on a series: longer ones are put together from shorter ones"
    WINDOWS_OF_OPERATOR = "all windows of one operator on a series, put together likewise"
    OPERATORS_OF_WINDOW = "all of the family's operators on one window of a series"


class Calling(Enum):
    """A way of calling a kernel. Series are flat, sessions outermost (``qdag.engine.kernels``).

    Attributes
    ----------
    arguments : of the kernel, in order; out is what it fills
    together : which nodes it computes in one call
    coded : whether an operator needs a code, because the kernel knows several
    """

    def __init__(self, arguments: str, together: Together = Together.NONE, coded: bool = False):
        self.arguments = arguments
        self.together = together
        self.coded = coded

    FIELD = ("no kernel: the series is copied from the panel",)
    UNARY = ("x, out",)
    BINARY = ("code, x, y, out; the kernels of elementwise, also for a number and for results", Together.NONE, True)
    COMPARISON = ("code, x, y, out; a number is made a series", Together.NONE, True)
    POWER = ("x, y, out; either may be a number",)
    CHOICE = ("condition, x, y, out",)
    SHIFT = ("x, lanes, lag, last, out; lag 0: first_value of elementwise",)
    GUARD = ("x (in and out), deviation of one series, deviation of the other",)
    WINDOW = ("x, lanes, window, first, out",)
    MERGED = ("each series, lanes, history, keep, merges, finals (slot, code), scratch, out", Together.WINDOWS, True)
    WEIGHTED = ("x, lanes, history, keep, merges, lengths, finals (slot), first, scratch, out", Together.WINDOWS)
    DECAYED = ("x, lanes, history, keep, merges, slot, decay, scratch, out",)
    EXTREME = (
        "x, code as sign, lanes, history, keep, merges, finals (slot), scratch, out",
        Together.WINDOWS_OF_OPERATOR,
        True,
    )
    PLACE = (
        "x, code as sign, lanes, history, keep, merges, finals (slot, window), first, scratch, out",
        Together.WINDOWS_OF_OPERATOR,
        True,
    )
    ORDER = ("x, lanes, window, quantiles, with rank, scratch, out", Together.OPERATORS_OF_WINDOW, True)
    CROSS = ("x, exposure, pool, code, level, begin, end, out, each (sessions, instruments)", Together.NONE, True)
    OTHER = ("no kernel: the series of another instrument",)


@dataclass(frozen=True)
class Family:
    """A kernel and how it is called.

    Parameters
    ----------
    calling : how
    kernel : compiled, or a function of numpy; None where the way of calling has kernels of its own
    scratch : arrays of working memory that a kernel of merged windows keeps for each window
    """

    calling: Calling
    kernel: Callable[..., Any] | None = None
    scratch: int = 1

    @property
    def across(self) -> bool:
        """Whether a value depends on other instruments: such a series is computed for the whole panel at once."""
        return self.calling in (Calling.CROSS, Calling.OTHER)


FIELD = Family(Calling.FIELD)
BINARY = Family(Calling.BINARY)
COMPARISON = Family(Calling.COMPARISON, elementwise.compare)
POWER = Family(Calling.POWER, elementwise.power)
CHOICE = Family(Calling.CHOICE, elementwise.choose)
SHIFT = Family(Calling.SHIFT, elementwise.shift)
SUMS = Family(Calling.MERGED, sums.rolling_sums, scratch=2)
VARIANCE = Family(Calling.MERGED, moments.rolling_variance, scratch=3)
HIGHER_MOMENTS = Family(Calling.MERGED, moments.rolling_higher, scratch=5)
REGRESSION = Family(Calling.MERGED, regression.rolling_regression, scratch=6)
PAIRS = Family(Calling.MERGED, pairs.rolling_pairs, scratch=6)
GUARD = Family(Calling.GUARD, pairs.drop_flat)
EXTREME = Family(Calling.EXTREME, extremes.rolling_extreme)
PLACE = Family(Calling.PLACE, extremes.rolling_argextreme, scratch=3)
ORDER = Family(Calling.ORDER, order.rolling_order)
WEIGHTED = Family(Calling.WEIGHTED, sums.rolling_wma, scratch=3)
DECAYED = Family(Calling.DECAYED, sums.rolling_ema, scratch=2)
CROSS = Family(Calling.CROSS, cross_section.cross_section)
OTHER = Family(Calling.OTHER)


def unary(kernel: Callable[..., Any]) -> Family:
    """The family of one element-wise function, kernel(x, out)."""
    return Family(Calling.UNARY, kernel)


def window(kernel: Callable[..., Any]) -> Family:
    """The family of one statistic of windows, kernel(x, lanes, window, first, out)."""
    return Family(Calling.WINDOW, kernel)
