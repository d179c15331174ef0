"""Nodes: the series of which a plan consists."""

from collections.abc import Hashable
from dataclasses import dataclass

from qdag.engine.dtypes import DOUBLE
from qdag.engine.families import Family, Together
from qdag.engine.operators import Constant, Operator


@dataclass(frozen=True)
class Node:
    """One series of a plan.

    Parameters
    ----------
    id : position in the plan; a node reads nodes before it only
    operator : what it is a call of
    family, code : the kernel that computes it, and what the kernel knows the operator by
    inputs : ids of the series read, one for each argument; -1 where a number stands
    numbers : the number of each argument, None where a series stands
    parameters : the operator's parameters, in the order of its declaration
    dtype : "bool", "float32" or "float64", the dtype that the series has in Qlib
    storage : "float32" or "float64", the narrowest dtype that holds its values exactly (a bool is 1.0 or 0.0)
    past, future : sessions needed before and after the session computed, by all that lies below too
    stage : how many operators across instruments lie below, itself included: each needs all instruments before it
    text : the expression that it is
    """

    id: int
    operator: Operator
    family: Family
    code: int | None
    inputs: tuple[int, ...]
    numbers: tuple[int | float | None, ...]
    parameters: tuple[Constant, ...]
    dtype: str
    storage: str
    past: int
    future: int
    stage: int
    text: str

    @property
    def bytes_per_value(self) -> int:
        """Size of one value in memory, in bytes."""
        return 8 if self.storage == DOUBLE else 4

    @property
    def sources(self) -> tuple[int, ...]:
        """Ids of the series read, without the places of numbers."""
        return tuple(i for i in self.inputs if i >= 0)

    def parameter(self, name: str) -> Constant | None:
        """The parameter of this name; None where the operator has none."""
        return dict(zip(self.operator.parameters, self.parameters, strict=True)).get(name)

    def window(self) -> int:
        """The operator's window in sessions; 0 means all history."""
        return int(self.parameter("window") or 0)


def family_key(node: Node) -> Hashable:
    """Equal for the nodes that one call of a kernel computes; a key of its own where that is one node."""
    together = node.family.calling.together
    if together is Together.NONE:
        return node.id
    if together is Together.OPERATORS_OF_WINDOW:
        return node.family, node.inputs, node.window()
    # an all-history window is put together apart: its parts are as long as the panel
    merged = node.family, node.inputs, node.window() == 0
    return merged if together is Together.WINDOWS else (*merged, node.code)
