"""The operators: one declaration says all there is to know of each. Nothing else in the engine lists them.

An operator is added by a declaration here and a kernel: ``family`` names the kernel and how it is called.

Left out of Qlib's list: TResample (raises TypeError in Qlib 0.9.7 itself and changes the index), P and PRef with
$$fields (point-in-time statements, another kind of data), the bare base classes Rolling and Feature, the all-history
window 0 of Corr and Cov (both fail in Qlib) and of EMA (whose decay would then depend on the length of the history).
"""

import operator as python
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from qdag.engine import dtypes, families
from qdag.engine.dtypes import DtypeRule
from qdag.engine.families import Family
from qdag.engine.kernels import cross_section, elementwise, extremes, moments, order, pairs, regression, sums
from qdag.engine.reach import ReachRule, decayed, lagged, windowed
from qdag.errors import ExpressionError

Constant = int | float | str
"""A parameter's value: a window, a lag, a quantile, a level, an instrument's name, a mode."""


class Source(Enum):
    """Where an operator comes from."""

    QLIB = "the class of the same name in qlib.data.ops"
    EXTENSION = "qdag: Qlib evaluates one instrument at a time and has nothing across instruments"
    PART = "a part of other operators, which no expression may call"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator.

    Parameters
    ----------
    name : as it is called in an expression
    meaning : one line for people
    source : where it comes from
    arguments : names of the arguments that are series, which come first
    numbers : those of them that may be a number instead; one of them is a series in any case
    parameters : names of the arguments after the series: window, lag, quantile, level, instrument, mode
    defaults : values of the last parameters, where they are left out
    parameters_first : whether the parameters are written before the series
    symbol : as it is written between two arguments, in Python's notation
    mirrored : name of the operator that it is with its two arguments changed over; empty for none
    fold : what it makes of two numbers when the expression is read; None where numbers alone have no meaning
    minimum_window : smallest window that has a value, in sessions
    all_history : whether window 0, everything since the listing, is allowed
    alpha : whether a window between 0 and 1 is allowed: the weight of the newest value
    dtype : rule by which the result's dtype follows from the arguments' (``qdag.engine.dtypes``)
    exact : whether its values are those of its first series, or small integers: they fit into memory of that dtype
    joins_comparisons : whether it takes comparisons only
    refuses_comparisons : why comparisons alone are refused, in the words of a message; empty where they are not
    of_comparisons : name of the operator that takes its place where all arguments are comparisons; empty for none
    reach : rule by which look-back and look-ahead follow from the first parameter; None where it reads one session
    revives : whether it may give a number where its series are NaN; rows before the listing are then made NaN again
    rounds_once : whether float32 arguments give the same float32 result, whichever precision it is computed in
    family : the kernel that computes it and how that is called; None where it is made of others
    code : what a kernel that knows several operators knows it by; a function of the parameters where they decide
    made_of : the call that stands for it, as (operator, argument, ...): a text is the argument or parameter of that
        name, a tuple is a call again; empty where a kernel computes it
    """

    name: str
    meaning: str
    source: Source = Source.QLIB
    arguments: tuple[str, ...] = ("x",)
    numbers: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    defaults: tuple[Constant, ...] = ()
    parameters_first: bool = False
    symbol: str = ""
    mirrored: str = ""
    fold: Callable[[Any, Any], int | float | complex] | None = None
    minimum_window: int = 1
    all_history: bool = True
    alpha: bool = False
    dtype: DtypeRule = dtypes.double
    exact: bool = False
    joins_comparisons: bool = False
    refuses_comparisons: str = ""
    of_comparisons: str = ""
    reach: ReachRule | None = None
    revives: bool = False
    rounds_once: bool = False
    family: Family | None = None
    code: int | Callable[[tuple[Constant, ...]], int] | None = None
    made_of: tuple[Any, ...] = ()

    @property
    def signature(self) -> str:
        """As it is called, for messages: ``Quantile(x, window, quantile)``; what may be left out with ``=...``."""
        needed = len(self.parameters) - len(self.defaults)
        parameters = [name if i < needed else f"{name}=..." for i, name in enumerate(self.parameters)]
        written = [*parameters, *self.arguments] if self.parameters_first else [*self.arguments, *parameters]
        return f"{self.name}({', '.join(written)})"

    def computed_by(self, parameters: tuple[Constant, ...]) -> tuple[Family, int | None]:
        """The kernel's family, and the code by which the kernel knows this operator with these parameters.

        Raises
        ------
        ExpressionError
            The declaration names no kernel, or no code for a kernel that knows several operators.
        """
        code = self.code(parameters) if callable(self.code) else self.code
        if self.family is None or (self.family.calling.coded and code is None):
            raise ExpressionError(f"operator {self.name} is declared, but no kernel computes it; use another operator")
        return self.family, code


def _power(base: int | float, exponent: int | float) -> int | float | complex:
    """As Python does it; whole numbers stay whole as long as they are small."""
    whole = isinstance(base, int) and isinstance(exponent, int) and abs(base) <= 1000 and 0 <= exponent <= 5
    return base**exponent if whole else float(base) ** float(exponent)


def _unary(name: str, meaning: str, kernel: Callable[..., Any], **more: Any) -> Operator:
    return Operator(name=name, meaning=meaning, family=families.unary(kernel), **more)


def _binary(name: str, meaning: str, code: int, **more: Any) -> Operator:
    declared = {"numbers": ("x", "y"), "dtype": dtypes.promoted, "family": families.BINARY, **more}
    return Operator(name=name, meaning=meaning, code=code, arguments=("x", "y"), **declared)


def _comparison(name: str, symbol: str, mirrored: str, code: int, of_nan: str = "false") -> Operator:
    declared = {"dtype": dtypes.boolean, "family": families.COMPARISON, "revives": True, "mirrored": mirrored}
    return _binary(name, f"x {symbol} y; {of_nan} for NaN", code, symbol=symbol, **declared)


def _rolling(name: str, meaning: str, family: Family | None, code: Any = None, **more: Any) -> Operator:
    declared = {"parameters": ("window",), "reach": windowed, **more}
    return Operator(name=name, meaning=meaning, family=family, code=code, **declared)


def _pair(name: str, meaning: str, family: Family | None, code: int | None = None, **more: Any) -> Operator:
    return _rolling(name, meaning, family, code, arguments=("x", "y"), all_history=False, **more)


def _cross(name: str, meaning: str, code: int | Callable[[tuple[Constant, ...]], int], **more: Any) -> Operator:
    return Operator(name=name, meaning=meaning, source=Source.EXTENSION, family=families.CROSS, code=code, **more)


_DECLARATIONS = (
    # ------------------------------------------------------------------ element by element
    _unary("Abs", "absolute value", elementwise.absolute, dtype=dtypes.same),
    _unary("Sign", "sign, in float32", elementwise.sign, dtype=dtypes.single),
    _unary("Log", "natural logarithm", elementwise.logarithm, dtype=dtypes.logarithm),
    _unary("Not", "logical not of a comparison", elementwise.negation, dtype=dtypes.boolean, joins_comparisons=True),
    _binary(
        "Add",
        "x + y",
        elementwise.ADD,
        symbol="+",
        fold=python.add,
        rounds_once=True,
        of_comparisons="Or",
    ),
    _binary(
        "Sub",
        "x - y",
        elementwise.SUB,
        symbol="-",
        fold=python.sub,
        rounds_once=True,
        refuses_comparisons="two comparisons cannot be subtracted, as {call} does; use If(condition, 1, 0)",
    ),
    _binary(
        "Mul",
        "x * y",
        elementwise.MUL,
        symbol="*",
        fold=python.mul,
        rounds_once=True,
        of_comparisons="And",
    ),
    _binary(
        "Div",
        "x / y; x/0 is infinite or NaN",
        elementwise.DIV,
        symbol="/",
        fold=python.truediv,
        rounds_once=True,
        dtype=dtypes.divided,
    ),
    Operator(
        name="Power",
        meaning="x to the power of y",
        arguments=("x", "y"),
        numbers=("x", "y"),
        symbol="**",
        fold=_power,
        dtype=dtypes.divided,
        revives=True,
        family=families.POWER,
    ),
    _binary("Greater", "the larger of two; NaN if either is", elementwise.MAXIMUM, of_comparisons="Or"),
    _binary("Less", "the smaller of two; NaN if either is", elementwise.MINIMUM, of_comparisons="And"),
    _comparison("Gt", ">", "Lt", elementwise.GT),
    _comparison("Ge", ">=", "Le", elementwise.GE),
    _comparison("Lt", "<", "Gt", elementwise.LT),
    _comparison("Le", "<=", "Ge", elementwise.LE),
    _comparison("Eq", "==", "Eq", elementwise.EQ),
    _comparison("Ne", "!=", "Ne", elementwise.NE, of_nan="true"),
    # of 1.0 and 0.0, "and" is the product and "or" the larger one
    _binary(
        "And",
        "both of two comparisons",
        elementwise.MUL,
        symbol="&",
        numbers=(),
        dtype=dtypes.boolean,
        joins_comparisons=True,
    ),
    _binary(
        "Or",
        "either of two comparisons",
        elementwise.MAXIMUM,
        symbol="|",
        numbers=(),
        dtype=dtypes.boolean,
        joins_comparisons=True,
    ),
    Operator(
        name="If",
        meaning="x where the condition holds, else y",
        arguments=("condition", "x", "y"),
        numbers=("x", "y"),
        dtype=dtypes.branches,
        revives=True,
        family=families.CHOICE,
    ),
    # ------------------------------------------------------------------ other sessions
    Operator(
        name="Ref",
        meaning="the value lag sessions ago; 0: at the listing",
        parameters=("lag",),
        dtype=dtypes.shifted,
        exact=True,
        reach=lagged,
        revives=True,
        family=families.SHIFT,
    ),
    Operator(
        name="Delta",
        meaning="x minus its value lag sessions ago; 0: at the listing",
        parameters=("lag",),
        reach=lagged,
        refuses_comparisons="a comparison has no difference, as {call} wants; use If(condition, 1, 0)",
        made_of=("Sub", "x", ("Ref", "x", "lag")),
    ),
    # ------------------------------------------------------------------ windows
    _rolling("Mean", "mean of the valid values", families.SUMS, sums.MEAN),
    _rolling("Sum", "sum of the valid values", families.SUMS, sums.SUM),
    _rolling("Std", "standard deviation, ddof=1", families.VARIANCE, moments.STD),
    _rolling("Var", "variance, ddof=1", families.VARIANCE, moments.VAR),
    _rolling("Skew", "bias-corrected skewness", families.HIGHER_MOMENTS, moments.SKEW, minimum_window=3),
    _rolling("Kurt", "bias-corrected excess kurtosis", families.HIGHER_MOMENTS, moments.KURT, minimum_window=4),
    _rolling("Max", "largest valid value", families.EXTREME, extremes.LARGEST, exact=True),
    _rolling("Min", "smallest valid value", families.EXTREME, extremes.SMALLEST, exact=True),
    _rolling(
        "IdxMax",
        "1-based place of the first largest value; a missing value wins",
        families.PLACE,
        extremes.LARGEST,
        exact=True,
    ),
    _rolling(
        "IdxMin",
        "1-based place of the first smallest value; a missing value wins",
        families.PLACE,
        extremes.SMALLEST,
        exact=True,
    ),
    _rolling(
        "Quantile",
        "quantile of the valid values, linear interpolation",
        families.ORDER,
        order.QUANTILE,
        parameters=("window", "quantile"),
    ),
    _rolling("Med", "median of the valid values", None, made_of=("Quantile", "x", "window", 0.5)),
    _rolling("Rank", "percentile rank of the newest value, ties averaged", families.ORDER, order.RANK),
    _rolling("Mad", "mean absolute deviation from the window's mean", families.window(order.rolling_mad)),
    _rolling("Count", "number of values that are not NaN", families.window(sums.rolling_count)),
    _rolling("Slope", "slope of the least-squares line on time", families.REGRESSION, regression.SLOPE),
    _rolling(
        "Rsquare",
        "r squared of the least-squares line on time; NaN for a flat window",
        families.REGRESSION,
        # Qlib guards a flat window only where the window has a length
        lambda parameters: regression.RSQUARE if parameters[0] else regression.RSQUARE_UNGUARDED,
    ),
    _rolling(
        "Resi",
        "residual of the newest value from the least-squares line on time",
        families.REGRESSION,
        regression.RESI,
    ),
    _rolling("WMA", "Qlib's weighted mean: nanmean of value times linear weight", families.WEIGHTED),
    _rolling(
        "EMA",
        "exponentially weighted mean, span=window, or alpha=window when below 1",
        families.DECAYED,
        all_history=False,
        alpha=True,
        reach=decayed,
    ),
    _pair("Cov", "covariance, ddof=1", families.PAIRS, pairs.COV),
    # Qlib's guard looks at each series' own standard deviation, which an expression may want as well
    _pair(
        "Corr",
        "correlation; NaN where either series is flat",
        None,
        made_of=(
            "DropFlat",
            ("UnguardedCorr", "x", "y", "window"),
            ("Std", "x", "window"),
            ("Std", "y", "window"),
        ),
    ),
    _pair("UnguardedCorr", "correlation, also of flat series", families.PAIRS, pairs.CORR, source=Source.PART),
    Operator(
        name="DropFlat",
        meaning="x, NaN where either of two standard deviations says that its window is flat",
        source=Source.PART,
        arguments=("x", "first", "second"),
        family=families.GUARD,
    ),
    # ------------------------------------------------------------------ other instruments
    Operator(
        name="Mask",
        meaning="the series of another instrument, Mask(x, 'AAPL')",
        parameters=("instrument",),
        dtype=dtypes.same,
        exact=True,
        family=families.OTHER,
    ),
    Operator(
        name="ChangeInstrument",
        meaning="the series of another instrument, ChangeInstrument('AAPL', x)",
        parameters=("instrument",),
        parameters_first=True,
        made_of=("Mask", "x", "instrument"),
    ),
    _cross("CSRank", "percentile rank in the pool, ties averaged", cross_section.RANK),
    _cross("CSZScore", "distance from the pool's mean in standard deviations, ddof=1", cross_section.ZSCORE),
    _cross("CSDemean", "distance from the pool's mean", cross_section.DEMEAN),
    _cross(
        "CSWinsor",
        "clipped to the pool's [level, 1 - level] quantiles",
        cross_section.WINSOR,
        parameters=("level",),
    ),
    _cross(
        "CSNeutralize",
        "residual of x regressed on an exposure y, or x minus the mean of its group y with mode 'group'",
        lambda parameters: cross_section.NEUTRALIZE_GROUP if parameters[0] == "group" else cross_section.NEUTRALIZE,
        arguments=("x", "y"),
        parameters=("mode",),
        defaults=("exposure",),
    ),
    # ------------------------------------------------------------------ the panel
    Operator(
        name="Field",
        meaning="a series of the panel, in float32",
        source=Source.PART,
        arguments=(),
        parameters=("name",),
        dtype=dtypes.single,
        revives=True,
        family=families.FIELD,
    ),
)

OPERATORS: dict[str, Operator] = {o.name: o for o in _DECLARATIONS if o.source is not Source.PART}
"""Name -> operator that an expression may call."""

PARTS: dict[str, Operator] = {o.name: o for o in _DECLARATIONS if o.source is Source.PART}
"""Name -> operator that stands in plans only."""


def operator_of(name: str) -> Operator:
    """The operator of this name, callable or a part of others; KeyError where there is none."""
    return OPERATORS[name] if name in OPERATORS else PARTS[name]
