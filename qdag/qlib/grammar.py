"""What Qlib may be given to evaluate: nothing but operators, fields and numbers.

Qlib rewrites the text of an expression with regular expressions and hands the result to ``eval``. The same rewritten
text is parsed here, and every node of its tree is held against a whitelist, so that what is checked is what would run.
"""

import ast
import re
import warnings
from collections.abc import Collection

from qdag.errors import ExpressionError, nearest

MAX_LENGTH = 20_000
"""The longest text that Qlib is given, in characters."""

MAX_DEPTH = 100
"""The deepest nesting."""

MAX_POWER = 1_000
"""The largest base and exponent of a power of two numbers: Python would compute any."""

_FIELDS = ("Feature", "PFeature")
_WORD = re.compile(r"[\w.^-]*")
_ARITHMETIC = ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Pow | ast.BitAnd | ast.BitOr
_COMPARISONS = ast.Gt | ast.GtE | ast.Lt | ast.LtE | ast.Eq | ast.NotEq


def check(text: str, operators: Collection[str]) -> None:
    """Refuse a text that is more than an expression.

    Parameters
    ----------
    text : as Qlib would evaluate it, without spaces
    operators : names that are registered in Qlib

    Raises
    ------
    ExpressionError
        Anything but fields, numbers, arithmetic, comparisons, ``&``, ``|`` and registered operators, whose arguments
        may be words in quotes, too.
    """
    from qlib.utils import parse_field

    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(parse_field(text), mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(f"{text!r} is no expression: {error.msg}") from None
    except (ValueError, MemoryError, RecursionError):
        raise ExpressionError(f"{text[:80]!r} is no expression, or nested too deeply") from None
    checker = _Checker(text, operators)
    if checker.series(tree, 0):
        raise checker.refuse("nothing but a number")


class _Checker:
    def __init__(self, text: str, operators: Collection[str]):
        self.text = text
        self.operators = operators

    def refuse(self, what: str) -> ExpressionError:
        return ExpressionError(f"{what} in {self.text!r}; write fields, numbers and operators only")

    def series(self, node: ast.expr, depth: int) -> bool:
        """Check a part; whether it is a number."""
        if depth > MAX_DEPTH:
            raise self.refuse("too deep a nesting")
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return True
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            if not self.series(node.operand, depth + 1):
                raise self.refuse("Qlib has no sign before a series (write 0-x); a sign")
            return True
        if isinstance(node, ast.BinOp) and isinstance(node.op, _ARITHMETIC):
            left, right = self.series(node.left, depth + 1), self.series(node.right, depth + 1)
            if left and right and isinstance(node.op, ast.Pow):
                self._power(node)
            return left and right
        if isinstance(node, ast.Compare):
            if len(node.ops) > 1:
                raise self.refuse("comparisons cannot be chained (join two with &); a chain")
            if not isinstance(node.ops[0], _COMPARISONS):
                raise self.refuse(f"{type(node.ops[0]).__name__} is not allowed")
            self.series(node.left, depth + 1)
            self.series(node.comparators[0], depth + 1)
            return False
        if isinstance(node, ast.Call):
            self._call(node, depth)
            return False
        if isinstance(node, ast.Name):
            raise self.refuse(f"unknown name {node.id!r}")
        raise self.refuse(f"{type(node).__name__} is not allowed")

    def _power(self, node: ast.BinOp) -> None:
        for part in (node.left, node.right):
            number = part.operand if isinstance(part, ast.UnaryOp) else part
            if not (isinstance(number, ast.Constant) and abs(number.value) <= MAX_POWER):  # type: ignore[arg-type]
                raise self.refuse("too large a power of numbers")

    def _call(self, node: ast.Call, depth: int) -> None:
        function = node.func
        if isinstance(function, ast.Name) and function.id in _FIELDS:
            # what the regular expressions make of $name and $$name
            if len(node.args) != 1 or node.keywords or not self._is_word(node.args[0]):
                raise self.refuse("a field is not so written")
            return
        if not (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and function.value.id == "Operators"
        ):
            raise self.refuse("only operators can be called; a call")
        if function.attr not in self.operators:
            raise ExpressionError(f"unknown operator {function.attr!r}{nearest(function.attr, self.operators)}")
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            if not (self._is_word(argument) or _is_switch(argument)):
                self.series(argument, depth + 1)
        if any(keyword.arg is None for keyword in node.keywords):
            raise self.refuse("** is not allowed in a call")

    def _is_word(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(_WORD.fullmatch(node.value))


def _is_switch(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))
