"""A tile: a few instruments over a segment of sessions, in one thread's memory, with a method for each way of calling.

Series are flat, sessions outermost: element ``t * lanes + lane``. Before an instrument's listing every series is NaN.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qdag.engine.dtypes import DOUBLE
from qdag.engine.families import Calling
from qdag.engine.kernels import elementwise, order
from qdag.engine.kernels.windows import Chain, chain
from qdag.engine.nodes import Node
from qdag.engine.operators import Constant
from qdag.engine.panel import Panel
from qdag.engine.plan import Plan
from qdag.engine.reach import ema_window
from qdag.engine.schedule import Step


class Memory:
    """The arrays of one thread, used again from tile to tile."""

    def __init__(self) -> None:
        self.spare: dict[tuple[np.dtype[Any], tuple[int, ...]], list[np.ndarray]] = {}

    def take(self, dtype: Any, *shape: int) -> np.ndarray:
        """An array of this dtype and shape, with whatever it held before."""
        kept = self.spare.get((np.dtype(dtype), shape))
        return kept.pop() if kept else np.empty(shape, dtype)

    def give(self, array: np.ndarray) -> None:
        """Hand an array back; nothing may use it any more."""
        self.spare.setdefault((array.dtype, array.shape), []).append(array)


class Tile:
    """A few instruments over a segment of sessions.

    Parameters
    ----------
    panel : where fields are read
    plan : whose nodes are computed
    whole : id -> array (sessions, instruments) of the panel, for series that were computed before
    memory : of the thread
    instruments, sessions : positions in the panel

    Attributes
    ----------
    rows, lanes : sessions and instruments of the tile
    first, last : int64 (lanes,), rows of each instrument's listing and of its last session
    series : id -> float32 or float64 (rows * lanes,), the node's storage; those that are alive
    """

    def __init__(
        self,
        panel: Panel,
        plan: Plan,
        whole: Mapping[int, np.ndarray],
        memory: Memory,
        instruments: slice,
        sessions: slice,
    ):
        self.panel, self.plan, self.whole, self.memory = panel, plan, whole, memory
        self.instruments, self.sessions = instruments, sessions
        self.rows = sessions.stop - sessions.start
        self.lanes = instruments.stop - instruments.start
        self.size = self.rows * self.lanes
        self.first = np.clip(panel.first[instruments] - sessions.start, 0, self.rows)
        self.last = np.clip(panel.last[instruments] - sessions.start, -1, self.rows - 1)
        self.late = bool((self.first > 0).any())
        self.series: dict[int, np.ndarray] = {}
        self.shared: dict[int, np.ndarray] = {}  # node -> the 2-D buffer that its series is a row of
        self.users: Counter[int] = Counter()  # id of such a buffer -> live series

    def run(self, steps: tuple[Step, ...], out: Mapping[int, np.ndarray], start: int) -> None:
        """Compute steps and store their results.

        Parameters
        ----------
        steps : in order
        out : id -> array (sessions wanted, lanes) to be filled; NaN outside each instrument's life
        start : first row wanted
        """
        for step in steps:
            if step.direct:
                self._store_directly(step.nodes[0], out[step.nodes[0].id], start)
            else:
                self._compute(step)
                for node in step.nodes:
                    if node.id in out:
                        elementwise.store(self.series[node.id], self.lanes, start, self.first, self.last, out[node.id])
            for i in step.ends:
                if i in self.series:
                    self._drop(i)

    def _compute(self, step: Step) -> None:
        if step.given:
            self._given(step.nodes[0])
        else:
            METHODS[step.nodes[0].family.calling](self, step.nodes)
        if self.late:
            for node in step.nodes:
                if step.given or node.operator.revives:
                    elementwise.drop_before(self.series[node.id], self.lanes, self.first)

    def _store_directly(self, node: Node, out: np.ndarray, start: int) -> None:
        """A result that nothing else reads: computed straight into the panel."""
        x, y = self._inputs(node)
        elementwise.binary_store(node.code, x, y, self.lanes, start, self.first, self.last, out)

    # ------------------------------------------------------------------ series

    def _inputs(self, node: Node) -> list[np.ndarray]:
        return [self.series[i] for i in node.sources]

    def _new(self, node: Node) -> np.ndarray:
        """Memory for a node's series."""
        array = self.memory.take(node.storage, self.size)
        self.series[node.id] = array
        return array

    def _new_rows(self, nodes: tuple[Node, ...]) -> np.ndarray:
        """Memory for the series of several nodes of one storage: (nodes, rows * lanes)."""
        buffer = self.memory.take(nodes[0].storage, len(nodes), self.size)
        for k, node in enumerate(nodes):
            self.series[node.id] = buffer[k]
            self.shared[node.id] = buffer
        self.users[id(buffer)] = len(nodes)
        return buffer

    def _drop(self, i: int) -> None:
        array = self.series.pop(i)
        buffer = self.shared.pop(i, None)
        if buffer is None:
            self.memory.give(array)
            return
        self.users[id(buffer)] -= 1
        if not self.users[id(buffer)]:
            self.memory.give(buffer)

    def _given(self, node: Node) -> None:
        self._new(node).reshape(self.rows, self.lanes)[:] = self.whole[node.id][self.sessions, self.instruments]

    def _field(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            values = self.panel[str(node.parameter("name"))][self.instruments, self.sessions]
            self._new(node).reshape(self.rows, self.lanes)[:] = values.T

    # ------------------------------------------------------------------ element by element

    def _unary(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            [x] = self._inputs(node)
            out = self._new(node)
            with np.errstate(all="ignore"):
                _kernel(node)(x, out)

    def _binary(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            out, series = self._new(node), self._inputs(node)
            if len(series) == 2:
                elementwise.binary(node.code, *series, out)
            else:
                [number] = (n for n in node.numbers if n is not None)
                elementwise.binary_scalar(node.code, *series, out.dtype.type(number), node.inputs[0] < 0, out)

    def _power(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            out = self._new(node)
            base, exponent = (
                out.dtype.type(number) if i < 0 else self.series[i].astype(out.dtype, copy=False)
                for i, number in zip(node.inputs, node.numbers, strict=True)
            )
            with np.errstate(all="ignore"):
                _kernel(node)(base, exponent, out)

    def _compare(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            out, series = self._new(node), self._inputs(node)
            if len(series) == 2:
                _kernel(node)(node.code, *series, out)
                continue
            # numpy compares a float32 series with a Python number in float32
            dtype = np.float64 if self.plan.nodes[node.inputs[0]].dtype == DOUBLE else np.float32
            other = self.memory.take(dtype, self.size)
            other[:] = node.numbers[1]
            _kernel(node)(node.code, *series, other, out)
            self.memory.give(other)

    def _choose(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            out, branches = self._new(node), []
            for i, number in zip(node.inputs[1:], node.numbers[1:], strict=True):
                if i < 0:
                    branches.append(np.full(self.size, number, out.dtype))
                else:
                    branches.append(self.series[i].astype(out.dtype, copy=False))
            _kernel(node)(self.series[node.inputs[0]], *branches, out)

    def _shift(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            [x] = self._inputs(node)
            out, lag = self._new(node), node.parameter("lag")
            if lag == 0:
                elementwise.first_value(x, self.lanes, self.first, out)
            else:
                _kernel(node)(x, self.lanes, lag, self.last, out)

    def _guard(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            raw, *deviations = self._inputs(node)
            out = self._new(node)
            out[:] = raw
            _kernel(node)(out, *deviations)

    # ------------------------------------------------------------------ windows

    def _sessions(self, node: Node) -> int:
        """The window in sessions; all history is as long as the tile, which then begins with it."""
        return node.window() or self.rows

    def _each_window(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            [x] = self._inputs(node)
            _kernel(node)(x, self.lanes, self._sessions(node), self.first, self._new(node))

    def _chain(self, nodes: tuple[Node, ...], dtype: Any) -> tuple[Chain, list[int], np.ndarray]:
        """How the windows of nodes are put together, the slot of each, and working memory."""
        windows = tuple(self._sessions(node) for node in nodes)
        links = chain(windows)
        scratch = self.memory.take(dtype, nodes[0].family.scratch, *links.scratch(self.lanes))
        return links, [links.slots[window] for window in windows], scratch

    def _merge(self, nodes: tuple[Node, ...]) -> None:
        links, slots, scratch = self._chain(nodes, np.float64)
        finals = np.array([(slot, node.code) for slot, node in zip(slots, nodes, strict=True)], np.int64)
        out = self._new_rows(nodes)
        series = self._inputs(nodes[0])
        _kernel(nodes[0])(*series, self.lanes, links.history, links.keep, links.merges, finals, scratch, out)
        self.memory.give(scratch)

    def _extreme(self, nodes: tuple[Node, ...]) -> None:
        [x] = self._inputs(nodes[0])
        links, slots, scratch = self._chain(nodes, x.dtype)
        sign, finals, out = x.dtype.type(nodes[0].code), np.array(slots, np.int64), self._new_rows(nodes)
        _kernel(nodes[0])(x, sign, self.lanes, links.history, links.keep, links.merges, finals, scratch, out)
        self.memory.give(scratch)

    def _place(self, nodes: tuple[Node, ...]) -> None:
        [x] = self._inputs(nodes[0])
        links, slots, scratch = self._chain(nodes, x.dtype)
        finals = np.array([(slot, self._sessions(node)) for slot, node in zip(slots, nodes, strict=True)], np.int64)
        sign, out = x.dtype.type(nodes[0].code), self._new_rows(nodes)
        merged = links.history, links.keep, links.merges
        _kernel(nodes[0])(x, sign, self.lanes, *merged, finals, self.first, scratch, out)
        self.memory.give(scratch)

    def _weighted(self, nodes: tuple[Node, ...]) -> None:
        [x] = self._inputs(nodes[0])
        links, slots, scratch = self._chain(nodes, np.float64)
        finals, out = np.array(slots, np.int64), self._new_rows(nodes)
        merged = links.history, links.keep, links.merges, links.lengths
        _kernel(nodes[0])(x, self.lanes, *merged, finals, self.first, scratch, out)
        self.memory.give(scratch)

    def _decayed(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            [x] = self._inputs(node)
            decay, window = ema_window(_number(node.parameter("window")))
            links = chain((window,))
            scratch = self.memory.take(np.float64, node.family.scratch, *links.scratch(self.lanes))
            merged, out = (links.history, links.keep, links.merges, links.slots[window]), self._new(node)
            _kernel(node)(x, self.lanes, *merged, decay, scratch, out)
            self.memory.give(scratch)

    def _order(self, nodes: tuple[Node, ...]) -> None:
        [x] = self._inputs(nodes[0])
        window = self._sessions(nodes[0])
        # the kernel gives the rank last
        nodes = tuple(sorted(nodes, key=lambda node: node.code == order.RANK))
        quantiles = np.array([n.parameter("quantile") for n in nodes if n.code == order.QUANTILE], np.float64)
        scratch = self.memory.take(x.dtype, 2, window + 5, self.lanes)
        out = self._new_rows(nodes)
        _kernel(nodes[0])(x, self.lanes, window, quantiles, len(nodes) - len(quantiles), scratch, out)
        self.memory.give(scratch)


def _kernel(node: Node) -> Callable[..., Any]:
    kernel = node.family.kernel
    assert kernel is not None, node.family
    return kernel


def _number(value: Constant | None) -> int | float:
    assert isinstance(value, int | float), value
    return value


METHODS: dict[Calling, Callable[[Tile, tuple[Node, ...]], None]] = {
    Calling.FIELD: Tile._field,
    Calling.UNARY: Tile._unary,
    Calling.BINARY: Tile._binary,
    Calling.COMPARISON: Tile._compare,
    Calling.POWER: Tile._power,
    Calling.CHOICE: Tile._choose,
    Calling.SHIFT: Tile._shift,
    Calling.GUARD: Tile._guard,
    Calling.WINDOW: Tile._each_window,
    Calling.MERGED: Tile._merge,
    Calling.WEIGHTED: Tile._weighted,
    Calling.DECAYED: Tile._decayed,
    Calling.EXTREME: Tile._extreme,
    Calling.PLACE: Tile._place,
    Calling.ORDER: Tile._order,
}
"""Way of calling -> what calls the kernel for nodes of one step; the executor does what is across instruments."""
