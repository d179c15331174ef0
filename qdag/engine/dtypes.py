"""The dtypes that series have in Qlib, and the rules by which an operator's result follows from its arguments.

A rule takes the types of an operator's series arguments in order: a dtype, or for a number its Python type. Values do
not matter, as in numpy 2: a Python number is weak, it takes the dtype of the series beside it.
"""

from collections.abc import Callable, Sequence

BOOL, SINGLE, DOUBLE = "bool", "float32", "float64"

ArgumentType = str | type
"""A dtype (``BOOL``, ``SINGLE``, ``DOUBLE``) for a series; ``int`` or ``float`` for a number."""

DtypeRule = Callable[[Sequence[ArgumentType]], str]
"""Types of the arguments -> dtype of the result."""


def storage_of(dtype: str) -> str:
    """The narrowest dtype of an array that holds a series of this dtype exactly: a bool is 1.0 or 0.0."""
    return DOUBLE if dtype == DOUBLE else SINGLE


def boolean(types: Sequence[ArgumentType]) -> str:
    """bool, whatever the arguments are."""
    return BOOL


def single(types: Sequence[ArgumentType]) -> str:
    """float32, whatever the arguments are."""
    return SINGLE


def double(types: Sequence[ArgumentType]) -> str:
    """float64, whatever the arguments are."""
    return DOUBLE


def same(types: Sequence[ArgumentType]) -> str:
    """The dtype of the first argument, which is a series."""
    return str(types[0])


def shifted(types: Sequence[ArgumentType]) -> str:
    """As ``same``, but a comparison becomes float64: a shift brings NaN into it."""
    return DOUBLE if types[0] == BOOL else same(types)


def logarithm(types: Sequence[ArgumentType]) -> str:
    """As ``same``, but a comparison becomes float32."""
    return SINGLE if types[0] == BOOL else same(types)


def promoted(types: Sequence[ArgumentType]) -> str:
    """Result dtype in numpy 2 of series and numbers, with int64 widened to float64; of numbers alone float64."""
    series = {t for t in types if isinstance(t, str)}
    if DOUBLE in series or not series:
        return DOUBLE
    if SINGLE in series:
        return SINGLE
    return BOOL if all(isinstance(t, str) for t in types) else DOUBLE


def divided(types: Sequence[ArgumentType]) -> str:
    """As ``promoted``, but comparisons alone become float64: there is no quotient or power of bools."""
    dtype = promoted(types)
    return DOUBLE if dtype == BOOL else dtype


def branches(types: Sequence[ArgumentType]) -> str:
    """``promoted`` of all arguments but the first, which is the condition."""
    return promoted(types[1:])
