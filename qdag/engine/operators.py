"""The table of operators: names, arguments and meaning. No parsing and no computing belongs here."""

from dataclasses import dataclass
from enum import Enum

from qdag.errors import ExpressionError

MAX_WINDOW = 5_000


class Kind(Enum):
    """How an operator reads its inputs."""

    ELEMENT = "element-wise"
    SHIFT = "shift"
    ROLLING = "rolling"
    PAIR = "pair rolling"
    INSTRUMENT = "other instrument"
    CROSS = "cross-section"


class Family(Enum):
    """What one method of the executor computes, and the operators that its kernels know.

    A plan consists of these alone: an operator of ``OPERATORS`` that is in no family is refused when a plan is made.
    """

    GIVEN = ()  # series that were computed before, for all instruments
    FIELD = ("Field",)
    SHIFT = ("Ref",)
    BINARY = ("Add", "Sub", "Mul", "Div", "Greater", "Less", "And", "Or")
    POWER = ("Power",)
    COMPARISON = ("Gt", "Ge", "Lt", "Le", "Eq", "Ne")
    CHOICE = ("If",)
    UNARY = ("Abs", "Sign", "Log", "Not")
    SUMS = ("Sum", "Mean")
    VARIANCE = ("Std", "Var")
    HIGHER = ("Skew", "Kurt")
    REGRESSION = ("Slope", "Rsquare", "Resi")
    PAIRS = ("Cov", "PairCorr")
    GUARD = ("Corr",)
    MAX = ("Max",)
    MIN = ("Min",)
    IDXMAX = ("IdxMax",)
    IDXMIN = ("IdxMin",)
    ORDER = ("Quantile", "Med", "Rank")
    MAD = ("Mad",)
    COUNT = ("Count",)
    WMA = ("WMA",)
    EMA = ("EMA",)
    OTHER = ("Mask",)
    CROSS = ("CSRank", "CSZScore", "CSDemean", "CSWinsor", "CSNeutralize")


_FAMILIES = {name: family for family in Family for name in family.value}


def family_of(operator: str) -> Family:
    """The family whose kernels compute an operator of a plan; ExpressionError where none does."""
    if operator not in _FAMILIES:
        raise ExpressionError(f"operator {operator} is declared, but no kernel computes it; use another operator")
    return _FAMILIES[operator]


@dataclass(frozen=True)
class Operator:
    """One operator.

    Parameters
    ----------
    series : number of series arguments, which come first
    numbers_allowed : whether a number may stand for a series (at least one argument must be a series)
    parameters : names of the arguments after the series: window, lag, quantile, level, instrument, mode
    optional : how many of the last parameters may be left out
    minimum_window : smallest window that has a value
    expanding : whether window 0, all history, is allowed
    """

    name: str
    kind: Kind
    series: int
    meaning: str
    numbers_allowed: bool = False
    parameters: tuple[str, ...] = ()
    optional: int = 0
    minimum_window: int = 1
    expanding: bool = True

    @property
    def signature(self) -> str:
        names = ["x", "y", "z"][: self.series] if self.series < 3 else ["condition", "x", "y"]
        names += [f"{p}=..." if i >= len(self.parameters) - self.optional else p for i, p in enumerate(self.parameters)]
        return f"{self.name}({', '.join(names)})"


def _element(name: str, series: int, meaning: str, numbers_allowed: bool = True) -> Operator:
    return Operator(name, Kind.ELEMENT, series, meaning, numbers_allowed and series > 1)


def _rolling(name: str, meaning: str, **more: object) -> Operator:
    return Operator(name, Kind.ROLLING, 1, meaning, parameters=("window",), **more)  # type: ignore[arg-type]


def _cross(name: str, series: int, meaning: str, **more: object) -> Operator:
    return Operator(name, Kind.CROSS, series, meaning, **more)  # type: ignore[arg-type]


# Left out of Qlib's list: TResample (raises TypeError in Qlib 0.9.7 itself and changes the index), P and PRef with
# $$fields (point-in-time statements, another kind of data), the bare base classes Rolling and Feature, the all-history
# window 0 of Corr and Cov (both fail in Qlib) and of EMA (whose decay would then depend on the length of the history).
OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        _element("Abs", 1, "absolute value"),
        _element("Sign", 1, "sign, in float32"),
        _element("Log", 1, "natural logarithm"),
        _element("Not", 1, "logical not of a comparison"),
        _element("Add", 2, "x + y"),
        _element("Sub", 2, "x - y"),
        _element("Mul", 2, "x * y"),
        _element("Div", 2, "x / y; x/0 is infinite or NaN"),
        _element("Power", 2, "x to the power of y"),
        _element("Greater", 2, "the larger of two; NaN if either is"),
        _element("Less", 2, "the smaller of two; NaN if either is"),
        _element("Gt", 2, "x > y; false for NaN"),
        _element("Ge", 2, "x >= y; false for NaN"),
        _element("Lt", 2, "x < y; false for NaN"),
        _element("Le", 2, "x <= y; false for NaN"),
        _element("Eq", 2, "x == y; false for NaN"),
        _element("Ne", 2, "x != y; true for NaN"),
        _element("And", 2, "both of two comparisons", numbers_allowed=False),
        _element("Or", 2, "either of two comparisons", numbers_allowed=False),
        _element("If", 3, "x where the condition holds, else y"),
        Operator("Ref", Kind.SHIFT, 1, "the value lag sessions ago; 0: at the listing", parameters=("lag",)),
        Operator("Delta", Kind.SHIFT, 1, "x minus its value lag sessions ago; 0: at the listing", parameters=("lag",)),
        _rolling("Mean", "mean of the valid values"),
        _rolling("Sum", "sum of the valid values"),
        _rolling("Std", "standard deviation, ddof=1"),
        _rolling("Var", "variance, ddof=1"),
        _rolling("Skew", "bias-corrected skewness", minimum_window=3),
        _rolling("Kurt", "bias-corrected excess kurtosis", minimum_window=4),
        _rolling("Max", "largest valid value"),
        _rolling("Min", "smallest valid value"),
        _rolling("IdxMax", "1-based place of the first largest value; a missing value wins"),
        _rolling("IdxMin", "1-based place of the first smallest value; a missing value wins"),
        Operator(
            "Quantile",
            Kind.ROLLING,
            1,
            "quantile of the valid values, linear interpolation",
            parameters=("window", "quantile"),
        ),
        _rolling("Med", "median of the valid values"),
        _rolling("Mad", "mean absolute deviation from the window's mean"),
        _rolling("Rank", "percentile rank of the newest value, ties averaged"),
        _rolling("Count", "number of values that are not NaN"),
        _rolling("Slope", "slope of the least-squares line on time"),
        _rolling("Rsquare", "r squared of the least-squares line on time; NaN for a flat window"),
        _rolling("Resi", "residual of the newest value from the least-squares line on time"),
        _rolling("WMA", "Qlib's weighted mean: nanmean of value times linear weight"),
        _rolling("EMA", "exponentially weighted mean, span=window, or alpha=window when below 1", expanding=False),
        Operator(
            "Corr",
            Kind.PAIR,
            2,
            "correlation; NaN where either series is flat",
            parameters=("window",),
            expanding=False,
        ),
        Operator("Cov", Kind.PAIR, 2, "covariance, ddof=1", parameters=("window",), expanding=False),
        Operator(
            "Mask", Kind.INSTRUMENT, 1, "the series of another instrument, Mask(x, 'AAPL')", parameters=("instrument",)
        ),
        Operator(
            "ChangeInstrument",
            Kind.INSTRUMENT,
            1,
            "the series of another instrument, ChangeInstrument('AAPL', x)",
            parameters=("instrument",),
        ),
        # Extension: Qlib evaluates one instrument at a time and has no operator across instruments.
        _cross("CSRank", 1, "percentile rank in the pool, ties averaged"),
        _cross("CSZScore", 1, "distance from the pool's mean in standard deviations, ddof=1"),
        _cross("CSDemean", 1, "distance from the pool's mean"),
        _cross("CSWinsor", 1, "clipped to the pool's [level, 1 - level] quantiles", parameters=("level",)),
        _cross(
            "CSNeutralize",
            2,
            "residual of x regressed on an exposure y, or x minus the mean of its group y with mode 'group'",
            parameters=("mode",),
            optional=1,
        ),
    )
}
