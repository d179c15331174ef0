"""Many expressions as one graph: equal sub-expressions are one node, and each node knows the past it needs."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from qdag.engine.operators import MAX_WINDOW, OPERATORS, Family, Kind, family_of
from qdag.engine.parser import SYMBOLS, Call, Expression, Field, Number, parse
from qdag.errors import ExpressionError, nearest

ALL_HISTORY = 1_000_000_000
"""The look-back, in sessions, of an expression that needs everything since the listing."""

EMA_TAIL = 1e-12
"""EMA leaves out the past that weighs less than this share in total: far below the resolution of its float32 result."""

EMA_GAP = 500
"""The longest suspension, in sessions, over which EMA carries its value as Qlib does; beyond it is NaN."""

MAX_EMA_WINDOW = 100_000
MAX_NODES = 100_000
MAX_COST = 10_000
"""The most that the windows of one expression may add up to, in sessions; see ``cost``."""

BOOL, SINGLE, DOUBLE = "bool", "float32", "float64"
_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Greater", "Less", "Power"}
_COMPARISON = {"Gt", "Ge", "Lt", "Le", "Eq", "Ne"}
_EXACT = {"Max", "Min", "IdxMax", "IdxMin"}  # their values are float32 values or small integers


@dataclass(frozen=True)
class Node:
    """One series of the graph.

    Parameters
    ----------
    family : whose kernels compute it
    inputs : ids of series read
    parameters : numbers and texts of the operator; for element-wise operators a number stands where an input is -1
    dtype : "bool", "float32" or "float64", the dtype that the series has in Qlib
    storage : "float32" or "float64", the narrowest dtype that holds its values exactly (a bool is 1.0 or 0.0)
    past, future : sessions needed before and after the session computed
    stage : how many operators across instruments lie below: each needs all instruments before it
    """

    id: int
    operator: str
    family: Family
    inputs: tuple[int, ...]
    parameters: tuple[Any, ...]
    dtype: str
    storage: str
    past: int
    future: int
    stage: int
    text: str


@dataclass(frozen=True)
class Plan:
    """A graph for a set of expressions.

    Attributes
    ----------
    lookback : sessions of past that the whole set needs (``ALL_HISTORY`` when unbounded)
    lookbacks : the same for each expression by name
    lookahead : sessions of future needed; 0 unless the plan was allowed the future
    fields : names read, without ``$``
    cross_sectional : True when an operator across instruments is used; such a plan needs the whole pool at once
    """

    nodes: tuple[Node, ...]
    outputs: Mapping[str, int]
    expressions: Mapping[str, str]
    fields: frozenset[str] = field(default_factory=frozenset)

    @property
    def lookbacks(self) -> dict[str, int]:
        return {name: self.nodes[i].past for name, i in self.outputs.items()}

    @property
    def lookback(self) -> int:
        return max(self.lookbacks.values(), default=0)

    @property
    def lookahead(self) -> int:
        return max((self.nodes[i].future for i in self.outputs.values()), default=0)

    @property
    def cross_sectional(self) -> bool:
        return any(node.family is Family.CROSS for node in self.nodes)

    def memory(self, sessions: int, lanes: int = 16) -> int:
        """Estimated bytes of the intermediate series of a tile of ``lanes`` instruments, as the executor frees them."""
        from qdag.engine.execute import live_bytes

        return live_bytes(self, sessions * lanes)

    def explain(self, sessions: int = 2_500) -> str:
        """Describe the graph: expressions, nodes with their readers and look-back, sharing and memory."""
        readers: dict[int, int] = {}
        for node in self.nodes:
            for i in node.inputs:
                readers[i] = readers.get(i, 0) + 1
        unshared = sum(_size(parse(text)) for text in self.expressions.values())
        past = "all history" if self.lookback >= ALL_HISTORY else f"{self.lookback} sessions"
        lines = [
            f"{len(self.outputs)} expressions, {len(self.nodes)} nodes ({unshared} without sharing), "
            f"fields {', '.join('$' + f for f in sorted(self.fields))}",
            f"look-back {past}, look-ahead {self.lookahead} sessions"
            + (", cross-sectional: needs every instrument of the pool at once" if self.cross_sectional else ""),
            f"about {self.memory(sessions) / 2**20:.1f} MiB of intermediate series per thread "
            f"for tiles of 16 instruments x {sessions} sessions",
            "  id  readers  look-back  dtype    series",
        ]
        for node in self.nodes:
            past = "all" if node.past >= ALL_HISTORY else str(node.past)
            lines.append(f"{node.id:4d}  {readers.get(node.id, 0):7d}  {past:>9}  {node.dtype:7}  {node.text}")
        names: dict[int, list[str]] = {}
        for name, i in self.outputs.items():
            names.setdefault(i, []).append(name)
        lines.append("outputs: " + ", ".join(f"{'='.join(n)}<-{i}" for i, n in names.items()))
        return "\n".join(lines)


def plan(expressions: Mapping[str, str], allow_future: bool = False, fields: Collection[str] | None = None) -> Plan:
    """Build one graph for named expressions.

    Parameters
    ----------
    expressions : name -> text
    allow_future : accept negative ``Ref`` and ``Delta``; only labels may
    fields : the only ones that may be read, without ``$``; any by default, to be found on the panel

    Raises
    ------
    ExpressionError
        A text that does not parse, an unknown field, arguments whose types do not fit, a look into the future that is
        not allowed, or windows that add up to more than ``MAX_COST``.
    """
    builder = _Builder(allow_future, fields)
    outputs = {}
    for name, text in expressions.items():
        builder.text = text
        try:
            outputs[name] = builder.add(_affordable(text))
        except ExpressionError as error:
            raise _named(name, error) from None
    fields = frozenset(node.parameters[0] for node in builder.nodes if node.operator == "Field")
    return Plan(tuple(builder.nodes), outputs, dict(expressions), fields)


def cost(expression: Expression) -> int:
    """What an expression costs for each value, in sessions: the windows of its distinct operators, added up.

    An operator without a window counts 1, an all-history window as the longest that is allowed, and a decay of EMA as
    the span that has it.
    """
    seen: set[Expression] = set()

    def add(part: Expression) -> int:
        if not isinstance(part, Call) or part in seen:
            return 0
        seen.add(part)
        return _window(part) + sum(map(add, part.arguments))

    return add(expression)


def _window(call: Call) -> int:
    if "window" not in OPERATORS[call.operator].parameters:
        return 1
    window = call.parameters[0]
    assert not isinstance(window, str)
    return math.ceil(2 / window - 1) if 0 < window < 1 else int(window) or MAX_WINDOW


def _affordable(text: str) -> Expression:
    expression = parse(text)
    if (total := cost(expression)) > MAX_COST:
        raise ExpressionError(
            f"the windows of the expression add up to {total:,} sessions; at most {MAX_COST:,} are allowed: "
            "use shorter windows, or fewer of them"
        )
    return expression


def _named(name: str, error: ExpressionError) -> ExpressionError:
    named = ExpressionError(f"{name}: {error}")
    named.expression, named.position = error.expression, error.position
    return named


def _size(expression: Expression) -> int:
    return 1 + (sum(map(_size, expression.arguments)) if isinstance(expression, Call) else 0)


def ema_window(parameter: int | float) -> tuple[float, int]:
    """Return (decay per session, window): what a window leaves out weighs ``EMA_TAIL``, after a gap of ``EMA_GAP`` too.

    Qlib's recursion begins at its query's start; a window makes the value the same whenever it is computed.
    """
    alpha = parameter if parameter < 1 else 2.0 / (parameter + 1.0)
    decay = 1.0 - alpha
    if decay <= 0.0:
        return 0.0, 1
    window = math.ceil(math.log(EMA_TAIL) / math.log(decay)) if decay < 1.0 else MAX_EMA_WINDOW + 1
    if window > MAX_EMA_WINDOW:
        raise ExpressionError(f"EMA with alpha {parameter} looks back {window} sessions; at most {MAX_EMA_WINDOW}")
    return decay, max(window, 1) + EMA_GAP


class _Builder:
    def __init__(self, allow_future: bool, fields: Collection[str] | None):
        self.allow_future = allow_future
        self.fields = fields
        self.nodes: list[Node] = []
        self.known: dict[tuple[Any, ...], int] = {}
        self.parsed: dict[Expression, int] = {}
        self.text = ""

    def node(
        self,
        operator: str,
        inputs: tuple[int, ...],
        parameters: tuple[Any, ...],
        dtype: str,
        text: str,
        *,
        storage: str | None = None,
        past: int = 0,
        future: int = 0,
        stage: int = 0,
    ) -> int:
        """Return the id of this node, an existing one where it is equal. 1 and 1.0 differ: they promote differently."""
        key = (operator, inputs, tuple((type(p), p) for p in parameters))
        if key in self.known:
            return self.known[key]
        if len(self.nodes) >= MAX_NODES:
            raise ExpressionError(f"the expressions need more than {MAX_NODES} series; split the set")
        below = [self.nodes[i] for i in inputs if i >= 0]
        past = min(ALL_HISTORY, past + max((n.past for n in below), default=0))
        future = max((n.future for n in below), default=0) + future
        stage += max((n.stage for n in below), default=0)
        storage = storage or (DOUBLE if dtype == DOUBLE else SINGLE)
        family = family_of(operator)
        self.nodes.append(
            Node(len(self.nodes), operator, family, inputs, parameters, dtype, storage, past, future, stage, text)
        )
        self.known[key] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def fail(self, message: str) -> ExpressionError:
        return ExpressionError(f"{message} in {self.text!r}")

    def add(self, expression: Expression) -> int:
        found = self.parsed.get(expression) if not isinstance(expression, Number) else None
        if found is None:
            found = self._add(expression)
            self.parsed[expression] = found
        return found

    def _add(self, expression: Expression) -> int:
        if isinstance(expression, Field):
            if self.fields is not None and expression.name not in self.fields:
                near = nearest(str(expression), [f"${name}" for name in self.fields])
                raise ExpressionError(f"unknown field '{expression}'{near}", self.text, self.text.find(str(expression)))
            return self.node("Field", (), (expression.name,), SINGLE, str(expression))
        if isinstance(expression, Number):
            raise self.fail(f"the number {expression} stands where a series is needed")
        operator = OPERATORS[expression.operator]
        if operator.kind is Kind.ELEMENT:
            return self._element(expression)
        series = [self.add(argument) for argument in expression.arguments]
        if operator.kind is Kind.SHIFT:
            return self._shift(expression, series[0])
        if operator.kind is Kind.ROLLING:
            return self._rolling(expression, series[0])
        if operator.kind is Kind.PAIR:
            return self._pair(expression, series)
        parameters = expression.parameters
        if operator.kind is Kind.INSTRUMENT:
            source = self.nodes[series[0]]
            return self.node(
                "Mask", (series[0],), parameters, source.dtype, str(expression), storage=source.storage, stage=1
            )
        return self.node(expression.operator, tuple(series), parameters, DOUBLE, str(expression), stage=1)

    def _element(self, expression: Call) -> int:
        name = expression.operator
        numbers = tuple(a.value if isinstance(a, Number) else None for a in expression.arguments)
        inputs = tuple(-1 if isinstance(a, Number) else self.add(a) for a in expression.arguments)
        types = [self.nodes[i].dtype if i >= 0 else type(v) for i, v in zip(inputs, numbers, strict=True)]
        text = str(expression)
        if name in ("And", "Or", "Not"):
            if any(t != BOOL for t in types):
                raise self.fail(f"{name} joins comparisons, but {text} has a series of numbers")
            return self.node(name, inputs, numbers, BOOL, text)
        if name in _COMPARISON:
            return self.node(name, inputs, numbers, BOOL, text)
        if name == "If":
            return self.node(name, inputs, numbers, _promote(types[1:], weak_pair=DOUBLE), text)
        if name == "Sign":
            return self.node(name, inputs, numbers, SINGLE, text)
        if name in ("Abs", "Log"):
            dtype = SINGLE if types[0] == BOOL and name == "Log" else types[0]
            if name == "Abs" and dtype == BOOL:
                return inputs[0]
            return self.node(name, inputs, numbers, str(dtype), text)
        assert name in _ARITHMETIC, name
        dtype = _promote(types, weak_pair=DOUBLE)
        if dtype == BOOL:
            # numpy: + and maximum of two bools are "or", * and minimum are "and"
            if name == "Sub":
                raise self.fail(f"two comparisons cannot be subtracted, as {text} does; use If(condition, 1, 0)")
            if name in ("Add", "Greater", "Mul", "Less"):
                return self.node("Or" if name in ("Add", "Greater") else "And", inputs, numbers, BOOL, text)
            dtype = DOUBLE
        return self.node(name, inputs, numbers, dtype, text)

    def _shift(self, expression: Call, source: int) -> int:
        lag = expression.parameters[0]
        if isinstance(lag, int) and lag < 0 and not self.allow_future:
            ahead = f"{-lag} session{'s' if lag < -1 else ''}"
            raise self.fail(f"{expression} looks {ahead} into the future, which only labels may")
        below = self.nodes[source]
        assert isinstance(lag, int)
        past, future = (ALL_HISTORY if lag == 0 else max(lag, 0)), max(-lag, 0)
        dtype = DOUBLE if below.dtype == BOOL else below.dtype
        if expression.operator == "Delta" and below.dtype == BOOL:
            raise self.fail(f"a comparison has no difference, as {expression} wants; use If(condition, 1, 0)")
        shifted = self.node(
            "Ref",
            (source,),
            (lag,),
            dtype,
            f"Ref({below.text}, {lag})",
            storage=below.storage,
            past=past,
            future=future,
        )
        if expression.operator == "Ref":
            return shifted
        return self.node("Sub", (source, shifted), (None, None), dtype, str(expression))

    def _rolling(self, expression: Call, source: int) -> int:
        name, parameters = expression.operator, expression.parameters
        window = parameters[0]
        assert not isinstance(window, str)
        length = ema_window(window)[1] if name == "EMA" else int(window)
        past = length - 1 if length else ALL_HISTORY
        storage = self.nodes[source].storage if name in _EXACT else None
        return self.node(name, (source,), parameters, DOUBLE, str(expression), storage=storage, past=past)

    def _pair(self, expression: Call, series: list[int]) -> int:
        window = expression.parameters[0]
        assert isinstance(window, int)
        past = ALL_HISTORY if window == 0 else window - 1
        x, z = series
        if expression.operator == "Cov":
            return self.node("Cov", (x, z), (window,), DOUBLE, str(expression), past=past)
        # Qlib's guard looks at each series' own standard deviation, which Std may want as well
        inputs = [self.node("PairCorr", (x, z), (window,), DOUBLE, f"unguarded {expression}", past=past)]
        for i in (x, z):
            std = Call("Std", (Field("x"),), (window,))
            inputs.append(
                self.node("Std", (i,), std.parameters, DOUBLE, f"Std({self.nodes[i].text}, {window})", past=past)
            )
        return self.node("Corr", tuple(inputs), (), DOUBLE, str(expression))


def _promote(types: list[Any], weak_pair: str) -> str:
    """numpy 2's result dtype of series dtypes and Python numbers, with int64 widened to float64."""
    strong = [t for t in types if isinstance(t, str)]
    weak = [t for t in types if not isinstance(t, str)]
    if not strong:
        return weak_pair
    if DOUBLE in strong:
        return DOUBLE
    if SINGLE in strong:
        return SINGLE
    return DOUBLE if weak else BOOL


__all__ = ["ALL_HISTORY", "SYMBOLS", "Node", "Plan", "cost", "ema_window", "plan"]
