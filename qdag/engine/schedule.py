"""The order in which the nodes of a plan are computed, and how much memory their series take."""

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

from qdag.engine.nodes import Node, family_key


@dataclass(frozen=True)
class Step:
    """What is computed at once.

    Parameters
    ----------
    nodes : of one family; several where one call of its kernel computes them
    ends : ids of the series that nothing reads after this step
    given : whether the series was computed before, for all instruments
    direct : whether it is a result that nothing reads, and may be written into the panel without a series of its own
    """

    nodes: tuple[Node, ...]
    ends: tuple[int, ...]
    given: bool = False
    direct: bool = False


def schedule(
    nodes: Sequence[Node], wanted: Iterable[int], given: Collection[int] = (), *, direct: bool = True
) -> tuple[Step, ...]:
    """Order what is needed into steps.

    Parameters
    ----------
    nodes : of the plan, by id
    wanted : ids of the series that are results
    given : ids of the series that were computed before; what lies below them is not needed for their sake
    direct : whether results may be written without a series of their own, which is for float32 results only
    """
    needed = _needed(nodes, wanted, given)
    groups: dict[Hashable, list[Node]] = {}
    for node in nodes:
        if node.id in needed:
            groups.setdefault(node.id if node.id in given else family_key(node), []).append(node)
    steps = list(groups.values())
    last_reader: dict[int, int] = {}
    for position, group in enumerate(steps):
        for node in group:
            last_reader[node.id] = position
            for i in () if node.id in given else node.sources:
                last_reader[i] = position
    ends: dict[int, list[int]] = {}
    for i, position in last_reader.items():
        ends.setdefault(position, []).append(i)
    return tuple(
        Step(
            tuple(group),
            tuple(ends.get(position, ())),
            given=group[0].id in given,
            direct=direct and group[0].id not in given and _is_direct(group[0], ends.get(position, ())),
        )
        for position, group in enumerate(steps)
    )


def _needed(nodes: Sequence[Node], wanted: Iterable[int], given: Collection[int]) -> set[int]:
    """Ids of the wanted series and of all that they are computed from."""
    needed: set[int] = set()
    stack = list(wanted)
    while stack:
        i = stack.pop()
        if i not in needed:
            needed.add(i)
            if i not in given:
                stack.extend(nodes[i].sources)
    return needed


def _is_direct(node: Node, ends: Iterable[int]) -> bool:
    """Whether a node of two series ends with its own step: it is a result, and only that."""
    return node.operator.rounds_once and node.id in ends and min(node.inputs) >= 0


def live_bytes(nodes: Sequence[Node], wanted: Iterable[int], elements: int) -> int:
    """Largest total size, in bytes, of the series that are alive at once in a tile of so many elements."""
    alive = peak = 0
    for step in schedule(nodes, wanted):
        alive += sum(node.bytes_per_value for node in step.nodes) * elements
        peak = max(peak, alive)
        alive -= sum(nodes[i].bytes_per_value for i in step.ends) * elements
    return peak
