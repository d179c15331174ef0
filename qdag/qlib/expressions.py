"""Which expressions the engine computes as Qlib does, and how far Qlib looks for each."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qdag.engine import Plan, parse, plan
from qdag.engine.parser import Call, Expression
from qdag.errors import ExpressionError
from qdag.qlib.grammar import check

ALIGNING = frozenset(["Add", "Sub", "Mul", "Div"])
"""Operators for which Qlib joins series of other rows, NaN where one has none, as they are on a panel."""

_CALLED = re.compile(r"(\w+)\(")

OF_OTHERS = frozenset(["Mask", "ChangeInstrument"])
"""Operators whose rows are another instrument's in Qlib."""


@dataclass(frozen=True)
class Ours:
    """An expression for the engine.

    Attributes
    ----------
    text : without spaces
    fields : that it reads, without ``$``
    past, future : sessions before and after a value that are read, as Qlib reads them
    cut : whether Qlib begins ``past`` sessions before the range although the expression looks farther back: an
        all-history window, EMA, and Delta, whose first value Qlib leaves out
    aligns : whether it is arithmetic of fields only, so that their rows may differ
    across : whether it reads whole cross-sections
    """

    text: str
    fields: tuple[str, ...]
    past: int
    future: int
    cut: bool
    aligns: bool
    across: bool


@dataclass(frozen=True)
class Theirs:
    """An expression for Qlib, and why."""

    text: str
    reason: str


class Sorter:
    """Sorts expressions, and keeps what it found until operators are registered."""

    def __init__(self) -> None:
        self.registered: dict[str, Any] = {}
        self.known: dict[str, Ours | Theirs] = {}
        self.plans: dict[tuple[str, ...], Plan] = {}

    def sort(self, texts: Sequence[str]) -> list[Ours | Theirs]:
        """The expressions, in order.

        Raises
        ------
        ExpressionError
            A text that is no pure expression; Qlib, too, is never given it.
        """
        from qlib.data.ops import Operators

        if Operators._ops != self.registered:
            self.registered = dict(Operators._ops)
            self.known.clear()
        for text in texts:
            if text not in self.known:
                self.known[text] = self._sorted(text)
        return [self.known[text] for text in texts]

    def plan(self, texts: tuple[str, ...]) -> Plan:
        """One graph of expressions, named by their place."""
        if texts not in self.plans:
            if len(self.plans) >= 32:
                self.plans.pop(next(iter(self.plans)))
            self.plans[texts] = plan({str(i): text for i, text in enumerate(texts)}, allow_future=True)
        return self.plans[texts]

    def _sorted(self, text: str) -> Ours | Theirs:
        if foreign := sorted(name for name in set(_CALLED.findall(text)) if self._is_changed(name)):
            check(text, self.registered)
            return Theirs(text, f"{foreign[0]} is an operator of yours")
        try:
            made = plan({text: text}, allow_future=True)
            tree = parse(text)
        except ExpressionError as error:
            check(text, self.registered)
            return Theirs(text, f"the engine does not take it ({str(error).splitlines()[0].removeprefix(f'{text}: ')})")
        names = {part.operator for part in _calls(tree)}
        if names & OF_OTHERS:
            check(text, self.registered)
            return Theirs(text, "it reads another instrument, whose rows it takes")
        (past,), future = made.lookbacks.values(), made.lookahead
        reach = past
        if not made.cross_sectional:
            check(text, self.registered)
            reach = int(_qlib_reach(text))
        return Ours(
            text=text,
            fields=tuple(sorted(made.fields)),
            past=min(past, reach),
            future=future,
            cut=past > reach,
            aligns=names <= ALIGNING,
            across=made.cross_sectional,
        )

    def _is_changed(self, name: str) -> bool:
        """Whether an operator's name means something else in this process than in Qlib as it comes."""
        from qlib.data import ops

        registered = self.registered.get(name)
        return registered is not None and registered is not getattr(ops, name, None)


def _qlib_reach(text: str) -> float:
    """Sessions before a range from which on Qlib computes an expression; the text has been checked."""
    from qlib.data.data import ExpressionD

    return ExpressionD.get_expression_instance(text).get_extended_window_size()[0]


def _calls(tree: Expression) -> Iterator[Call]:
    if isinstance(tree, Call):
        yield tree
        for argument in tree.arguments:
            yield from _calls(argument)
