"""How far operators look: the sessions before and after a value that it depends on."""

import math
from collections.abc import Callable
from typing import NamedTuple

from qdag.errors import ExpressionError

ALL_HISTORY = 1_000_000_000
"""The look-back, in sessions, of an expression that needs everything since the listing."""

MAX_WINDOW = 5_000
"""The longest window and the largest lag that an expression may name, in sessions."""

EMA_TAIL = 1e-12
"""EMA leaves out the past that weighs less than this share in total: far below the resolution of its float32 result."""

EMA_GAP = 500
"""The longest suspension, in sessions, over which EMA carries its value as Qlib does; beyond it is NaN."""

MAX_EMA_WINDOW = 100_000
"""The longest look-back of EMA, in sessions, before ``EMA_GAP`` is added."""


class Reach(NamedTuple):
    """Sessions that an operator reads besides the one computed.

    Attributes
    ----------
    past : sessions before it; ``ALL_HISTORY`` for everything since the listing
    future : sessions after it
    """

    past: int
    future: int = 0


NOWHERE = Reach(0)
"""The reach of what reads one session."""


ReachRule = Callable[[int | float], Reach]
"""An operator's window or lag -> its reach."""


def lagged(lag: int | float) -> Reach:
    """The session ``lag`` ago, a negative one ahead; 0 is the listing."""
    return Reach(ALL_HISTORY if lag == 0 else max(int(lag), 0), max(-int(lag), 0))


def windowed(window: int | float) -> Reach:
    """A window that ends with the session; 0 is all history."""
    return Reach(int(window) - 1 if window else ALL_HISTORY)


def decayed(parameter: int | float) -> Reach:
    """The sessions that ``ema_window`` finds; ExpressionError as there."""
    return windowed(ema_window(parameter)[1])


def ema_window(parameter: int | float) -> tuple[float, int]:
    """Return (decay per session, window in sessions) of EMA.

    What the window leaves out weighs ``EMA_TAIL``, after a gap of ``EMA_GAP`` too. Qlib's recursion begins at its
    query's start; a window makes the value the same whenever it is computed.

    Parameters
    ----------
    parameter : span in sessions, or alpha where it is below 1

    Raises
    ------
    ExpressionError
        The alpha is so small that the window would be longer than ``MAX_EMA_WINDOW``.
    """
    alpha = parameter if parameter < 1 else 2.0 / (parameter + 1.0)
    decay = 1.0 - alpha
    if decay <= 0.0:
        return 0.0, 1
    window = math.ceil(math.log(EMA_TAIL) / math.log(decay)) if decay < 1.0 else MAX_EMA_WINDOW + 1
    if window > MAX_EMA_WINDOW:
        raise ExpressionError(f"EMA with alpha {parameter} looks back {window} sessions; at most {MAX_EMA_WINDOW}")
    return decay, max(window, 1) + EMA_GAP


def sessions_of(window: int | float) -> int:
    """What a window costs: all history as the longest that is allowed, an alpha as the span that has it."""
    return math.ceil(2 / window - 1) if 0 < window < 1 else int(window) or MAX_WINDOW
