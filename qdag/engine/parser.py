"""Expression text to a syntax tree. Only what the table of operators knows is allowed, and nothing is ever evaluated.

Python's own parser reads the text; every node of its tree is then checked against a whitelist. Limits on length, depth
and windows are checked before anything is built, so that no text can exhaust the machine.
"""

import ast
import math
import string
import warnings
from dataclasses import dataclass, field
from functools import lru_cache

from qdag.engine.operators import OPERATORS, Constant, Operator, operator_of
from qdag.engine.reach import MAX_WINDOW
from qdag.errors import ExpressionError, nearest

MAX_LENGTH = 4_000
"""The longest expression, in characters."""

MAX_DEPTH = 100
"""The deepest nesting of parentheses and of operators."""

MAX_NUMBER = 1e30
"""The largest number, either sign."""

MODES = ("group", "exposure")
"""What the parameter mode of an operator may be."""

_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_$().,+-*/<>=!&|'\" \t\r\n")


def _notation() -> dict[type, str]:
    """The class of each operator's symbol in Python's syntax trees -> the operator's name."""
    found: dict[type, str] = {}
    for operator in OPERATORS.values():
        if operator.symbol:
            tree = ast.parse(f"x {operator.symbol} y", mode="eval").body
            assert isinstance(tree, ast.BinOp | ast.Compare), operator.symbol
            found[type(tree.op if isinstance(tree, ast.BinOp) else tree.ops[0])] = operator.name
    return found


_NOTATION = _notation()


@dataclass(frozen=True)
class Field:
    """``$name``, a series of the panel.

    Parameters
    ----------
    name : without ``$``
    """

    name: str

    def __str__(self) -> str:
        return f"${self.name}"


@dataclass(frozen=True)
class Number:
    """A number; an int stays one and differs from its float, because numpy promotes the two differently.

    Parameters
    ----------
    value : the number
    kind : its type, so that 1 and 1.0 are not equal
    """

    value: int | float
    kind: type = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", type(self.value))

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class Call:
    """An operator on series (or numbers) with its parameters.

    Parameters
    ----------
    operator : its name
    arguments : series, or numbers where the operator takes them
    parameters : window, lag and the like, in the order of the operator's declaration
    """

    operator: str
    arguments: tuple["Expression", ...]
    parameters: tuple[Constant, ...] = ()

    def __str__(self) -> str:
        operator = operator_of(self.operator)
        if operator.symbol:
            x, y = map(_operand, self.arguments)
            return f"({x}{operator.symbol}{y})"
        series, parameters = list(map(str, self.arguments)), list(map(repr, self.parameters))
        written = parameters + series if operator.parameters_first else series + parameters
        return f"{self.operator}({', '.join(written)})"


Expression = Field | Number | Call
"""A syntax tree."""


def _operand(expression: Expression) -> str:
    """As text between symbols: a negative number in parentheses, because Python reads -2**x as -(2**x)."""
    text = str(expression)
    return f"({text})" if text.startswith("-") else text


@lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """Parse one expression.

    Parameters
    ----------
    text : for example ``"Ref($close, 5)/$close - 1"``

    Raises
    ------
    ExpressionError
        Anything but fields, numbers, arithmetic, comparisons, ``&``, ``|`` and known operators with arguments that fit.
        The message points at the character and names the nearest known operator.
    """
    return _Parser(text).expression()


class _Parser:
    def __init__(self, text: str):
        if not isinstance(text, str):
            raise ExpressionError(f"an expression is a string, got {type(text).__name__}")
        self.text = text

    def fail(self, message: str, position: int) -> ExpressionError:
        return ExpressionError(message, self.text, max(0, min(position, len(self.text))))

    def expression(self) -> Expression:
        tree = self._python_tree()
        result = self._convert(tree, 0)
        if isinstance(result, Number):
            raise self.fail(f"the expression is only the number {result}; it needs a field such as $close", 0)
        return result

    def _check_characters(self) -> None:
        """Refuse what Python would read and this language does not have, at its position."""
        text = self.text
        if not text.strip():
            raise ExpressionError("the expression is empty; write for example Mean($close, 5)/$close")
        if len(text) > MAX_LENGTH:
            raise ExpressionError(f"the expression has {len(text)} characters; at most {MAX_LENGTH} are allowed")
        depth = 0
        for position, character in enumerate(text):
            if character not in _CHARACTERS:
                raise self.fail(f"character {character!r} is not allowed in an expression", position)
            if character == "(":
                depth += 1
                if depth > MAX_DEPTH:
                    raise self.fail(f"parentheses are nested deeper than {MAX_DEPTH}", position)
            elif character == ")":
                depth -= 1
            elif character == "$":
                following = text[position + 1 : position + 2]
                if following == "$":
                    raise self.fail("point-in-time fields ($$name) are not supported; use $name", position)
                if not (following.isalpha() or following == "_"):
                    raise self.fail("'$' must be followed by a field's name, as in $close", position)

    def _python_tree(self) -> ast.expr:
        self._check_characters()
        # one character for one character, so that Python's columns are ours
        source = "".join("_" if c == "$" else " " if c in "\r\n\t" else c for c in self.text)
        leading = len(source) - len(source.lstrip())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(source[leading:], mode="eval").body
        except SyntaxError as error:
            raise self.fail(f"syntax error: {error.msg}", leading + (error.offset or 1) - 1) from None
        except (ValueError, MemoryError, RecursionError):
            raise self.fail("the expression is nested too deeply", 0) from None
        self.leading = leading
        return tree

    def at(self, node: ast.expr) -> int:
        return node.col_offset + self.leading

    def _convert(self, node: ast.expr, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise self.fail(f"the expression is nested deeper than {MAX_DEPTH}", self.at(node))
        if isinstance(node, ast.Constant):
            return Number(self._number(node))
        if isinstance(node, ast.Name):
            return self._field(node)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node, depth)
        if isinstance(node, ast.BinOp):
            return self._binary(node, depth)
        if isinstance(node, ast.Compare):
            return self._comparison(node, depth)
        if isinstance(node, ast.Call):
            return self._operator(node, depth)
        if isinstance(node, ast.BoolOp):
            raise self.fail("'and' and 'or' are not allowed; use & and | with parentheses", self.at(node))
        raise self.fail(f"{type(node).__name__} is not allowed in an expression", self.at(node))

    def _binary(self, node: ast.BinOp, depth: int) -> Expression:
        name = _NOTATION.get(type(node.op))
        if name is None:
            raise self.fail(
                f"operator {type(node.op).__name__} is not allowed; use + - * / ** & |", self.at(node.right)
            )
        arguments = (self._convert(node.left, depth + 1), self._convert(node.right, depth + 1))
        if isinstance(arguments[0], Number) and isinstance(arguments[1], Number):
            return self._fold(name, arguments[0].value, arguments[1].value, node)
        return self._call(OPERATORS[name], arguments, (), node)

    def _comparison(self, node: ast.Compare, depth: int) -> Expression:
        if len(node.ops) > 1:
            raise self.fail("comparisons cannot be chained; join two with &", self.at(node.comparators[1]))
        name = _NOTATION.get(type(node.ops[0]))
        if name is None:
            raise self.fail("only > >= < <= == != compare", self.at(node.comparators[0]))
        arguments = (self._convert(node.left, depth + 1), self._convert(node.comparators[0], depth + 1))
        return self._call(OPERATORS[name], arguments, (), node)

    def _field(self, node: ast.Name) -> Field:
        position = self.at(node)
        if self.text[position] == "$":
            return Field(self.text[position + 1 : position + len(node.id)])
        hint = f"; write ${node.id} for a field" if node.id.isidentifier() else ""
        raise self.fail(f"unknown name {node.id!r}{hint}", position)

    def _number(self, node: ast.Constant) -> int | float:
        value = node.value
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.fail(f"{value!r} is not a number", self.at(node))
        if abs(value) > MAX_NUMBER or (isinstance(value, int) and abs(value) > 2**53):
            raise self.fail("the number is too large", self.at(node))
        return value

    def _unary(self, node: ast.UnaryOp, depth: int) -> Expression:
        if not isinstance(node.op, ast.USub | ast.UAdd):
            raise self.fail("only - and + may stand before a number; use Not(x) for a comparison", self.at(node))
        value = self._convert(node.operand, depth + 1)
        if not isinstance(value, Number):
            raise self.fail("Qlib has no unary minus for a series; write 0-x", self.at(node))
        return Number(-value.value if isinstance(node.op, ast.USub) else value.value)

    def _fold(self, name: str, a: int | float, b: int | float, node: ast.expr) -> Number:
        """Arithmetic of two numbers, as Python does it in Qlib."""
        fold = OPERATORS[name].fold
        if fold is None:
            raise self.fail("& and | join comparisons, not numbers", self.at(node))
        try:
            value = fold(a, b)
        except (OverflowError, ZeroDivisionError) as error:
            raise self.fail(f"arithmetic on the numbers fails: {error}", self.at(node)) from None
        if isinstance(value, complex) or not math.isfinite(value) or abs(value) > MAX_NUMBER:
            raise self.fail("arithmetic on the numbers gives no usable number", self.at(node))
        return Number(value)

    def _operator(self, node: ast.Call, depth: int) -> Expression:
        position = self.at(node)
        if not isinstance(node.func, ast.Name):
            raise self.fail(f"{type(node.func).__name__} cannot be called", position)
        name = node.func.id
        if self.text[position] == "$" or name not in OPERATORS:
            raise self.fail(
                f"unknown operator {self.text[position : position + len(name)]!r}{nearest(name, OPERATORS)}", position
            )
        if node.keywords:
            raise self.fail(f"{name} takes no named arguments", self.at(node.keywords[0].value))
        operator = OPERATORS[name]
        given = list(node.args)
        series, most = len(operator.arguments), len(operator.arguments) + len(operator.parameters)
        if not most - len(operator.defaults) <= len(given) <= most:
            raise self.fail(f"{operator.signature} got {len(given)} arguments", position)
        if operator.parameters_first:
            given = given[most - series :] + given[: most - series]
        arguments = tuple(self._convert(argument, depth + 1) for argument in given[:series])
        parameters = tuple(
            self._parameter(operator, kind, argument)
            for kind, argument in zip(operator.parameters, given[series:], strict=False)
        )
        left_out = most - len(given)
        return self._call(
            operator, arguments, parameters + operator.defaults[len(operator.defaults) - left_out :], node
        )

    def _call(
        self,
        operator: Operator,
        arguments: tuple[Expression, ...],
        parameters: tuple[Constant, ...],
        node: ast.expr,
    ) -> Call:
        numbers = [isinstance(argument, Number) for argument in arguments]
        if any(numbers) and not operator.numbers:
            raise self.fail(f"{operator.name} needs a series such as $close, not a number", self.at(node))
        if all(numbers):
            raise self.fail(f"{operator.name} needs at least one series such as $close", self.at(node))
        for name, is_number in zip(operator.arguments, numbers, strict=True):
            if is_number and name not in operator.numbers:
                raise self.fail(
                    f"the {name} of {operator.name} must be a series, for example $close > $open", self.at(node)
                )
        return Call(operator.name, arguments, parameters)

    def _parameter(self, operator: Operator, kind: str, node: ast.expr) -> Constant:
        position = self.at(node)
        if kind in ("instrument", "mode"):
            return self._text(operator, kind, node)
        value = self._convert(node, 0)
        if not isinstance(value, Number):
            raise self.fail(f"the {kind} of {operator.name} must be a number", position)
        number = value.value
        if kind == "quantile" and not 0 <= number <= 1:
            raise self.fail(f"a quantile lies in [0, 1], got {number}", position)
        if kind == "level" and not 0 < number < 0.5:
            raise self.fail(f"a level lies between 0 and 0.5, got {number}", position)
        if kind in ("quantile", "level") or (operator.alpha and 0 < number < 1):
            return float(number)
        return self._sessions(operator, kind, number, position)

    def _text(self, operator: Operator, kind: str, node: ast.expr) -> str:
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            raise self.fail(f"the {kind} of {operator.name} must be a quoted text", self.at(node))
        if kind == "mode" and node.value not in MODES:
            raise self.fail(f"mode must be 'group' or 'exposure', got {node.value!r}", self.at(node))
        return node.value

    def _sessions(self, operator: Operator, kind: str, number: int | float, position: int) -> int:
        """A window or a lag."""
        if not isinstance(number, int):
            raise self.fail(f"the {kind} of {operator.name} must be a whole number of sessions, got {number}", position)
        if abs(number) > MAX_WINDOW:
            raise self.fail(
                f"the {kind} of {operator.name} may be at most {MAX_WINDOW} sessions, got {number}", position
            )
        if kind == "window":
            smallest = operator.minimum_window
            if number == 0 and not operator.all_history:
                raise self.fail(f"{operator.name} has no all-history window 0; give at least {smallest}", position)
            if number != 0 and number < smallest:
                raise self.fail(f"the window of {operator.name} must be at least {smallest}, got {number}", position)
        return number
