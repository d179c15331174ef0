"""Many expressions as one graph: equal sub-expressions are one node, and each node knows the past it needs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from qdag.engine.dtypes import BOOL, ArgumentType, storage_of
from qdag.engine.families import Calling
from qdag.engine.nodes import Node
from qdag.engine.operators import OPERATORS, Constant, Operator, operator_of
from qdag.engine.parser import Call, Expression, Field, Number, parse
from qdag.engine.reach import ALL_HISTORY, NOWHERE, Reach, sessions_of
from qdag.engine.schedule import live_bytes
from qdag.errors import ExpressionError, nearest

MAX_NODES = 100_000
"""The most series that a plan may have."""

MAX_COST = 10_000
"""The most that the windows of one expression may add up to, in sessions; see ``cost``."""


@dataclass(frozen=True)
class Plan:
    """A graph for a set of expressions.

    Attributes
    ----------
    nodes : series by id; each reads series before it only
    outputs : name of an expression -> id of the series that it is
    expressions : name -> text
    fields : names read, without ``$``
    """

    nodes: tuple[Node, ...]
    outputs: Mapping[str, int]
    expressions: Mapping[str, str]
    fields: frozenset[str] = field(default_factory=frozenset)

    @property
    def lookbacks(self) -> dict[str, int]:
        """Sessions of past that each expression needs, by name; ``ALL_HISTORY`` when unbounded."""
        return {name: self.nodes[i].past for name, i in self.outputs.items()}

    @property
    def lookback(self) -> int:
        """Sessions of past that the whole set needs; ``ALL_HISTORY`` when unbounded."""
        return max(self.lookbacks.values(), default=0)

    @property
    def lookahead(self) -> int:
        """Sessions of future needed; 0 unless the plan was allowed the future."""
        return max((self.nodes[i].future for i in self.outputs.values()), default=0)

    @property
    def cross_sectional(self) -> bool:
        """Whether a statistic across instruments is used: such a plan needs the whole pool at once."""
        return any(node.family.calling is Calling.CROSS for node in self.nodes)

    def memory(self, sessions: int, lanes: int = 16) -> int:
        """Estimated bytes of the intermediate series of a tile of ``lanes`` instruments, as the executor frees them."""
        return live_bytes(self.nodes, self.outputs.values(), sessions * lanes)

    def explain(self, sessions: int = 2_500) -> str:
        """Describe the graph: expressions, nodes with their readers and look-back, sharing and memory.

        Parameters
        ----------
        sessions : length of the panel for the estimate of memory
        """
        readers: dict[int, int] = {}
        for node in self.nodes:
            for i in node.sources:
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
        not allowed, windows that add up to more than ``MAX_COST``, or an operator that no kernel computes.
    """
    builder = _Builder(allow_future, fields)
    outputs = {}
    for name, text in expressions.items():
        builder.text = text
        try:
            outputs[name] = builder.add(_affordable(text))
        except ExpressionError as error:
            raise _named(name, error) from None
    read = frozenset(str(n.parameter("name")) for n in builder.nodes if n.family.calling is Calling.FIELD)
    return Plan(tuple(builder.nodes), outputs, dict(expressions), read)


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
        return _window_cost(part) + sum(map(add, part.arguments))

    return add(expression)


def _window_cost(call: Call) -> int:
    if "window" not in OPERATORS[call.operator].parameters:
        return 1
    window = call.parameters[0]
    assert not isinstance(window, str)
    return sessions_of(window)


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


class _Builder:
    """Puts expressions into one graph, each equal part once."""

    def __init__(self, allow_future: bool, fields: Collection[str] | None):
        self.allow_future = allow_future
        self.fields = fields
        self.nodes: list[Node] = []
        self.known: dict[tuple[Any, ...], int] = {}
        self.added: dict[Expression, int] = {}
        self.text = ""

    def fail(self, message: str) -> ExpressionError:
        return ExpressionError(f"{message} in {self.text!r}")

    def add(self, expression: Expression, text: str = "") -> int:
        """Return the id of the series of an expression; text is what it stands for, itself by default."""
        if isinstance(expression, Number):
            raise self.fail(f"the number {expression} stands where a series is needed")
        added = self.added.get(expression)
        if added is None:
            added = self._field(expression) if isinstance(expression, Field) else self._call(expression, text)
            self.added[expression] = added
        return added

    def _field(self, field: Field) -> int:
        if self.fields is not None and field.name not in self.fields:
            near = nearest(str(field), [f"${name}" for name in self.fields])
            raise ExpressionError(f"unknown field '{field}'{near}", self.text, self.text.find(str(field)))
        return self._node(operator_of("Field"), (), (), (field.name,), str(field))

    def _call(self, call: Call, text: str) -> int:
        text = text or str(call)
        operator = operator_of(call.operator)
        numbers = tuple(a.value if isinstance(a, Number) else None for a in call.arguments)
        inputs = tuple(-1 if isinstance(a, Number) else self.add(a) for a in call.arguments)
        types = self._types(inputs, numbers)
        comparisons = bool(types) and all(t == BOOL for t in types)
        if operator.joins_comparisons and not comparisons:
            raise self.fail(f"{operator.name} joins comparisons, but {text} has a series of numbers")
        if comparisons and operator.refuses_comparisons:
            raise self.fail(operator.refuses_comparisons.format(call=text))
        if comparisons and operator.of_comparisons:
            operator = operator_of(operator.of_comparisons)
        if operator.mirrored and inputs[0] < 0:
            operator, inputs, numbers = operator_of(operator.mirrored), inputs[::-1], numbers[::-1]
        reach = self._reach(operator, call.parameters, text)
        if operator.made_of:
            return self.add(_expanded(operator, call), text)
        return self._node(operator, inputs, numbers, call.parameters, text, reach)

    def _types(self, inputs: tuple[int, ...], numbers: tuple[int | float | None, ...]) -> list[ArgumentType]:
        return [self.nodes[i].dtype if i >= 0 else type(n) for i, n in zip(inputs, numbers, strict=True)]

    def _node(
        self,
        operator: Operator,
        inputs: tuple[int, ...],
        numbers: tuple[int | float | None, ...],
        parameters: tuple[Constant, ...],
        text: str,
        reach: Reach = NOWHERE,
    ) -> int:
        """Return the id of this node, an existing one where it is equal. 1 and 1.0 differ: they promote differently."""
        key = (operator.name, inputs, tuple((type(c), c) for c in (*numbers, *parameters)))
        if key in self.known:
            return self.known[key]
        if len(self.nodes) >= MAX_NODES:
            raise ExpressionError(f"the expressions need more than {MAX_NODES} series; split the set")
        family, code = operator.computed_by(parameters)
        below = [self.nodes[i] for i in inputs if i >= 0]
        dtype = operator.dtype(self._types(inputs, numbers))
        self.nodes.append(
            Node(
                id=len(self.nodes),
                operator=operator,
                family=family,
                code=code,
                inputs=inputs,
                numbers=numbers,
                parameters=parameters,
                dtype=dtype,
                storage=below[0].storage if operator.exact else storage_of(dtype),
                past=min(ALL_HISTORY, reach.past + max((n.past for n in below), default=0)),
                future=reach.future + max((n.future for n in below), default=0),
                stage=family.across + max((n.stage for n in below), default=0),
                text=text,
            )
        )
        self.known[key] = len(self.nodes) - 1
        return self.known[key]

    def _reach(self, operator: Operator, parameters: tuple[Constant, ...], text: str) -> Reach:
        if operator.reach is None:
            return NOWHERE
        first = parameters[0]
        assert not isinstance(first, str)
        reach = operator.reach(first)
        if reach.future and not self.allow_future:
            ahead = f"{reach.future} session{'s' if reach.future > 1 else ''}"
            raise self.fail(f"{text} looks {ahead} into the future, which only labels may")
        return reach


def _expanded(operator: Operator, call: Call) -> Call:
    """The call of other operators that stands for a call of this one, as its declaration says."""
    given: dict[str, Any] = dict(zip(operator.arguments, call.arguments, strict=True))
    given |= zip(operator.parameters, call.parameters, strict=True)

    def build(template: tuple[Any, ...]) -> Call:
        name, *parts = template
        values: list[Any] = [build(p) if isinstance(p, tuple) else given[p] if isinstance(p, str) else p for p in parts]
        series = len(operator_of(name).arguments)
        return Call(name, tuple(values[:series]), tuple(values[series:]))

    return build(operator.made_of)


__all__ = ["ALL_HISTORY", "MAX_COST", "Plan", "cost", "plan"]
