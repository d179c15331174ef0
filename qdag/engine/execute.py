"""Run a plan on a panel.

1. The panel is trimmed to the sessions wanted plus the plan's look-back.
2. Operators across instruments cut the plan into stages; each stage but the last leaves whole-panel series behind.
3. Instruments are taken in blocks, whose results are handed out before the next block begins: memory is bounded.
4. A block is cut into tiles of a few instruments over a segment of sessions with the history that it needs, small
   enough for the processor's cache. Tiles run in threads. Values do not depend on where a segment begins.
5. In a tile, nodes run in the order of the plan. Rolling nodes on the same series run together: longer windows are put
   together from shorter ones.
6. A series is dropped after its last reader, its memory used again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from qdag.engine.kernels import cross_section, elementwise, extremes, moments, order, pairs, regression, sums
from qdag.engine.kernels.windows import chain
from qdag.engine.operators import Family
from qdag.engine.panel import Panel
from qdag.engine.plan import ALL_HISTORY, DOUBLE, Node, Plan, ema_window, plan
from qdag.errors import PanelError, unknown

TILE_ELEMENTS = 36_864
"""Values of one series in a tile: 64 instruments over 576 sessions, 144 KiB in float32."""
MIN_LANES, MAX_LANES = 64, 256
SEGMENT = 1_024
"""Sessions wanted from a tile, at least; a long panel is cut into segments, each with its own history."""

Progress = Callable[[int, int], None]

_BINARY = {
    "Add": elementwise.ADD,
    "Sub": elementwise.SUB,
    "Mul": elementwise.MUL,
    "Div": elementwise.DIV,
    "Greater": elementwise.MAXIMUM,
    "Less": elementwise.MINIMUM,
    "Or": elementwise.MAXIMUM,
    "And": elementwise.MUL,
}
_COMPARE = {
    "Gt": elementwise.GT,
    "Ge": elementwise.GE,
    "Lt": elementwise.LT,
    "Le": elementwise.LE,
    "Eq": elementwise.EQ,
    "Ne": elementwise.NE,
}
_UNARY: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
    "Abs": lambda x, out: np.abs(x, out=out, dtype=out.dtype),
    "Log": lambda x, out: np.log(x, out=out, dtype=out.dtype),
    "Not": lambda x, out: np.subtract(np.float32(1), x, out=out),
    "Sign": lambda x, out: np.sign(x.astype(np.float32, copy=False), out=out),
}
_DIRECT = {"Add", "Sub", "Mul", "Div"}
_MIRRORED = {"Gt": "Lt", "Ge": "Le", "Lt": "Gt", "Le": "Ge", "Eq": "Eq", "Ne": "Ne"}
# merged from shorter windows, all those of a series together
_MERGED = {
    Family.SUMS,
    Family.VARIANCE,
    Family.HIGHER,
    Family.REGRESSION,
    Family.PAIRS,
    Family.WMA,
    Family.MAX,
    Family.MIN,
    Family.IDXMAX,
    Family.IDXMIN,
}
_CROSS = {
    "CSRank": cross_section.RANK,
    "CSZScore": cross_section.ZSCORE,
    "CSDemean": cross_section.DEMEAN,
    "CSWinsor": cross_section.WINSOR,
}


@dataclass(frozen=True)
class _Step:
    """Nodes that run together, and the nodes whose series end with them; direct: a result that nothing reads."""

    family: Family
    nodes: tuple[Node, ...]
    ends: tuple[int, ...]
    direct: bool = False


def compute(
    expressions: Mapping[str, str] | Plan,
    panel: Panel,
    *,
    threads: int = 2,
    block_instruments: int = 128,
    start: int = 0,
    allow_future: bool = False,
    progress: Progress | None = None,
    pool: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Compute expressions on a panel.

    Parameters
    ----------
    expressions : name -> text, or a plan made before
    panel : Panel, instruments x sessions (I, S); fields are taken as float32, as Qlib's files hold them
    threads : tiles that run at once
    block_instruments : most instruments in a tile, for little memory; tiles are seldom larger than 64
    start : first session position wanted. Earlier sessions serve as history; with the plan's look-back of them, the
        values are the same to the last bit as those of a longer panel
    allow_future : accept negative ``Ref``; only labels may
    progress : called with (instruments done, instruments in all) after each tile
    pool : bool (I, S), who counts in operators across instruments; by default every existing row
    out : float32 (expressions, S - start, I), memory to be filled and returned, to be used again from call to call;
        fresh memory costs about as much as the computation

    Returns
    -------
    dict
        name -> float32 array (I, S - start). NaN where Qlib has NaN, and outside each instrument's life. The arrays are
        views of memory that holds sessions outermost: ``array.T`` is contiguous.

    Raises
    ------
    ExpressionError
        An expression is refused.
    UnknownNameError
        The panel lacks a field or an instrument that the expressions name.
    PanelError
        ``start``, ``pool`` or ``out`` do not fit the panel.
    """
    run = _Run(expressions, panel, threads, block_instruments, start, allow_future, pool)
    instruments = len(panel.instruments)
    names = list(run.plan.outputs)
    shape = (len(names), run.sessions, instruments)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32:
        raise PanelError(
            f"out must be float32 {shape}: expressions, sessions, instruments; got {out.dtype} {out.shape}"
        )
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, instruments)

    run.block(slice(0, instruments), out, tell)
    return {name: out[i].T for i, name in enumerate(names)}


def compute_blocks(
    expressions: Mapping[str, str] | Plan,
    panel: Panel,
    *,
    threads: int = 2,
    block_instruments: int = 128,
    start: int = 0,
    allow_future: bool = False,
    progress: Progress | None = None,
    pool: np.ndarray | None = None,
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """As ``compute``, one block of instruments at a time, so that the whole result is never in memory.

    Yields
    ------
    slice, dict
        The block's instruments, and name -> float32 array (block, S - start). Each block has memory of its own.
    """
    run = _Run(expressions, panel, threads, block_instruments, start, allow_future, pool)
    instruments = len(panel.instruments)
    names = list(run.plan.outputs)
    for block in _blocks(instruments, block_instruments):
        memory = np.empty((len(names), run.sessions, block.stop - block.start), np.float32)
        run.block(block, memory)
        if progress is not None:
            progress(block.stop, instruments)
        yield block, {name: memory[i].T for i, name in enumerate(names)}


def _blocks(instruments: int, size: int) -> Iterator[slice]:
    for begin in range(0, instruments, size):
        yield slice(begin, min(begin + size, instruments))


class _Run:
    """A plan bound to a panel: stages that need every instrument are done when this is made."""

    def __init__(
        self,
        expressions: Mapping[str, str] | Plan,
        panel: Panel,
        threads: int,
        block_instruments: int,
        start: int,
        allow_future: bool,
        pool: np.ndarray | None,
    ):
        for option, value in (("threads", threads), ("block_instruments", block_instruments)):
            if value < 1:
                raise PanelError(f"{option} must be at least 1, got {value}")
        total = len(panel.sessions)
        if not 0 <= start <= total:
            raise PanelError(f"start must lie in [0, {total}], the panel's sessions, got {start}")
        if pool is not None and (np.shape(pool) != panel.shape or np.asarray(pool).dtype != bool):
            raise PanelError(
                f"pool must be a bool array of the panel's shape {panel.shape}, "
                f"got {np.asarray(pool).dtype} {np.shape(pool)}"
            )
        self.plan = expressions if isinstance(expressions, Plan) else plan(expressions, allow_future)
        for name in sorted(self.plan.fields):
            if name not in panel.fields:
                raise unknown("field", f"${name}", [f"${known}" for known in panel.fields])
        # sessions before the look-back cannot matter
        begin = max(0, start - self.plan.lookback)
        self.panel = panel.window(begin, total) if begin else panel
        self.start = start - begin
        self.sessions = total - start
        self.threads = threads
        self.most_lanes = block_instruments
        self.pool = None if pool is None else np.asarray(pool)[:, begin:]
        self.whole: dict[int, np.ndarray] = {}
        last_stage = max((self.plan.nodes[i].stage for i in self.plan.outputs.values()), default=0)
        for stage in range(last_stage):
            self._stage(stage)
        self.steps = _schedule(self.plan, frozenset(self.plan.outputs.values()), frozenset(self.whole))

    def _stage(self, stage: int) -> None:
        """Compute the nodes that read whole cross-sections or another instrument after ``stage``."""
        bridges = [n for n in self.plan.nodes if n.stage == stage + 1 and n.family in (Family.CROSS, Family.OTHER)]
        bridges = [n for n in bridges if max(self.plan.nodes[i].stage for i in n.inputs) == stage]
        sources = sorted({i for n in bridges for i in n.inputs} - self.whole.keys())
        instruments, sessions = self.panel.shape
        steps = _schedule(self.plan, frozenset(sources), frozenset(self.whole), direct=False)
        memory = np.empty((len(sources), sessions, instruments))
        self._tiles(slice(0, instruments), steps, {i: memory[k] for k, i in enumerate(sources)}, 0)
        series = {i: memory[k] for k, i in enumerate(sources)} | self.whole
        for node in bridges:
            if node.family is Family.OTHER:
                name = str(node.parameters[0])
                known = self.panel.instruments
                row = next((known.index(n) for n in (name, name.upper()) if n in known), None)
                if row is None:
                    raise unknown("instrument", name, known)
                column = series[node.inputs[0]][:, row]
                self.whole[node.id] = np.broadcast_to(column[:, None], (sessions, instruments))
            else:
                self.whole[node.id] = self._cross(node, series)

    def _cross(self, node: Node, series: Mapping[int, np.ndarray]) -> np.ndarray:
        x = np.ascontiguousarray(series[node.inputs[0]])
        exposure = np.ascontiguousarray(series[node.inputs[-1]])
        pool = np.ascontiguousarray((self.panel.exists() if self.pool is None else self.pool).T)
        out = np.empty_like(x)
        if node.operator == "CSNeutralize":
            group = node.parameters[0] == "group"
            kind = cross_section.NEUTRALIZE_GROUP if group else cross_section.NEUTRALIZE
        else:
            kind = _CROSS[node.operator]
        level = float(node.parameters[0]) if node.operator == "CSWinsor" else 0.0
        edges = np.linspace(0, len(x), self.threads + 1).astype(int)
        cross_section.cross_section.load()
        with ThreadPoolExecutor(self.threads) as executor:
            list(
                executor.map(
                    lambda b, e: cross_section.cross_section(x, exposure, pool, kind, level, b, e, out),
                    edges[:-1].tolist(),
                    edges[1:].tolist(),
                )
            )
        return out

    def block(self, block: slice, out: np.ndarray, done: Callable[[int], None] | None = None) -> None:
        """Compute the plan's outputs for a block of instruments into out (outputs, sessions, block)."""
        rows: dict[int, np.ndarray] = {}
        twins: list[tuple[int, int]] = []
        ids = list(self.plan.outputs.values())
        for k, i in enumerate(ids):
            if i in rows:
                twins.append((k, ids.index(i)))
            else:
                rows[i] = out[k]
        self._tiles(block, self.steps, rows, self.start, done)
        for copy, original in twins:
            out[copy] = out[original]

    def _lanes(self, instruments: int) -> int:
        """Instruments per tile: so that a tile stays in the cache and every thread gets as much."""
        wanted = min(max(MIN_LANES, TILE_ELEMENTS // len(self.panel.sessions)), MAX_LANES)
        rounds = max(1, round(instruments / wanted / self.threads))
        lanes = -(-instruments // (rounds * self.threads))
        return min(-(-lanes // 8) * 8, self.most_lanes)

    def _segments(self, ids: Iterable[int], start: int) -> Iterator[tuple[slice, slice]]:
        """(Sessions to compute, sessions wanted of them), until the panel's end."""
        total = len(self.panel.sessions)
        past = max(self.plan.nodes[i].past for i in ids)
        future = max(self.plan.nodes[i].future for i in ids)
        length = max(SEGMENT, 4 * (past + future))  # so that little is computed twice
        for begin in range(start, total, length):
            end = min(begin + length, total)
            yield slice(max(0, begin - past), min(total, end + future)), slice(begin, end)

    def _tiles(
        self,
        block: slice,
        steps: tuple[_Step, ...],
        out: Mapping[int, np.ndarray],
        start: int,
        done: Callable[[int], None] | None = None,
    ) -> None:
        if block.stop == block.start or not len(self.panel.sessions) or not out:
            return
        lanes = self._lanes(block.stop - block.start)
        begins = list(range(block.start, block.stop, lanes))
        segments = list(self._segments(out, start))
        lock = Lock()
        workers = [_Worker() for _ in range(min(self.threads, len(begins)))]
        free = list(workers)

        def run(begin: int) -> None:
            worker = free.pop()
            try:
                end = min(begin + lanes, block.stop)
                for rows, wanted in segments:
                    tile = _Tile(self.panel, self.plan, self.whole, worker, slice(begin, end), rows)
                    place = slice(begin - block.start, end - block.start)
                    into = {i: o[wanted.start - start : wanted.stop - start, place] for i, o in out.items()}
                    tile.run(steps, into, wanted.start - rows.start)
            finally:
                free.append(worker)
            if done is not None:
                with lock:
                    done(end - begin)

        if len(workers) == 1:
            for begin in begins:
                run(begin)
            return
        with ThreadPoolExecutor(len(workers)) as executor:
            list(executor.map(run, begins))


def _schedule(plan: Plan, wanted: frozenset[int], given: frozenset[int], direct: bool = True) -> tuple[_Step, ...]:
    """Order the needed nodes into steps: rolling nodes of one family on one series together.

    direct: whether results may be written without a series of their own, which is for float32 results only.
    """
    needed: set[int] = set()
    stack = list(wanted)
    while stack:
        i = stack.pop()
        if i not in needed:
            needed.add(i)
            if i not in given:
                stack.extend(j for j in plan.nodes[i].inputs if j >= 0)
    groups: dict[tuple[Any, ...], list[Node]] = {}
    for node in plan.nodes:
        if node.id in needed:
            groups.setdefault(_group(node, node.id in given), []).append(node)
    steps = [(key[0], nodes) for key, nodes in groups.items()]
    last_reader: dict[int, int] = {}
    for position, (family, nodes) in enumerate(steps):
        for node in nodes:
            last_reader[node.id] = position
            for i in () if family is Family.GIVEN else node.inputs:
                last_reader[i] = position
    ends: dict[int, list[int]] = {}
    for i, position in last_reader.items():
        if i >= 0:
            ends.setdefault(position, []).append(i)
    return tuple(
        _Step(
            family,
            tuple(nodes),
            tuple(ends.get(k, ())),
            direct and nodes[0].operator in _DIRECT and _is_direct(nodes[0], ends.get(k, ())),
        )
        for k, (family, nodes) in enumerate(steps)
    )


def _is_direct(node: Node, ends: Iterable[int]) -> bool:
    """Whether a node of two series ends with its own step: it is a result, and only that."""
    return node.id in ends and min(node.inputs) >= 0


def _group(node: Node, given: bool) -> tuple[Any, ...]:
    """Key of the nodes that run together."""
    if given:
        return (Family.GIVEN, node.id)
    if node.family in _MERGED:
        # an all-history window is put together apart: its parts are as long as the panel
        return (node.family, node.inputs, node.parameters[0] == 0)
    if node.family is Family.ORDER:
        return (node.family, node.inputs, node.parameters[0])
    return (node.family, node.id)


def live_bytes(plan: Plan, elements: int) -> int:
    """Largest total size of the series that are alive at once in a tile."""
    steps = _schedule(plan, frozenset(plan.outputs.values()), frozenset())
    alive = peak = 0
    for step in steps:
        alive += sum(8 if n.storage == DOUBLE else 4 for n in step.nodes) * elements
        peak = max(peak, alive)
        alive -= sum(8 if plan.nodes[i].storage == DOUBLE else 4 for i in step.ends) * elements
    return peak


class _Worker:
    """The memory of one thread, used again from tile to tile."""

    def __init__(self) -> None:
        self.spare: dict[tuple[Any, tuple[int, ...]], list[np.ndarray]] = {}

    def take(self, dtype: Any, *shape: int) -> np.ndarray:
        kept = self.spare.get((np.dtype(dtype), shape))
        return kept.pop() if kept else np.empty(shape, dtype)

    def give(self, array: np.ndarray) -> None:
        self.spare.setdefault((array.dtype, array.shape), []).append(array)


class _Tile:
    """A few instruments over a segment of sessions, sessions outermost, each series flat."""

    def __init__(
        self,
        panel: Panel,
        plan: Plan,
        whole: Mapping[int, np.ndarray],
        worker: _Worker,
        instruments: slice,
        sessions: slice,
    ):
        self.panel, self.plan, self.whole, self.worker, self.instruments = panel, plan, whole, worker, instruments
        self.sessions = sessions
        self.rows = sessions.stop - sessions.start
        self.lanes = instruments.stop - instruments.start
        self.size = self.rows * self.lanes
        self.first = np.clip(panel.first[instruments] - sessions.start, 0, self.rows)
        self.last = np.clip(panel.last[instruments] - sessions.start, -1, self.rows - 1)
        self.late = bool((self.first > 0).any())
        self.series: dict[int, np.ndarray] = {}
        self.shared: dict[int, np.ndarray] = {}  # node -> the 2-D buffer that its series is a row of
        self.users: Counter[int] = Counter()  # id of such a buffer -> live series

    def run(self, steps: tuple[_Step, ...], out: Mapping[int, np.ndarray], start: int) -> None:
        for step in steps:
            if step.direct:
                self._direct(step.nodes[0], out[step.nodes[0].id], start)
            else:
                _METHODS[step.family](self, step.nodes)
            for node in () if step.direct else step.nodes:
                if node.id in out:
                    elementwise.store(self.series[node.id], self.lanes, start, self.first, self.last, out[node.id])
            for i in step.ends:
                if i in self.series:
                    self._drop(i)

    def _direct(self, node: Node, out: np.ndarray, start: int) -> None:
        """A result that nothing else reads: computed straight into the panel."""
        a, b = (self.series[i] for i in node.inputs)
        elementwise.binary_store(_BINARY[node.operator], a, b, self.lanes, start, self.first, self.last, out)

    def _drop(self, i: int) -> None:
        array = self.series.pop(i)
        buffer = self.shared.pop(i, None)
        if buffer is None:
            self.worker.give(array)
            return
        self.users[id(buffer)] -= 1
        if not self.users[id(buffer)]:
            self.worker.give(buffer)

    def _new(self, node: Node) -> np.ndarray:
        array = self.worker.take(node.storage, self.size)
        self.series[node.id] = array
        return array

    def _rows_for(self, nodes: tuple[Node, ...]) -> np.ndarray:
        buffer = self.worker.take(nodes[0].storage, len(nodes), self.size)
        for k, node in enumerate(nodes):
            self.series[node.id] = buffer[k]
            self.shared[node.id] = buffer
        self.users[id(buffer)] = len(nodes)
        return buffer

    def _given(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            out = self._new(node)
            out.reshape(self.rows, self.lanes)[:] = self.whole[node.id][self.sessions, self.instruments]
            self._blank(out)

    def _field(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            out = self._new(node)
            out.reshape(self.rows, self.lanes)[:] = self.panel[node.parameters[0]][self.instruments, self.sessions].T
            self._blank(out)

    def _blank(self, array: np.ndarray) -> None:
        if self.late:
            elementwise.drop_before(array, self.lanes, self.first)

    # ------------------------------------------------------------------ element-wise

    def _binary(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            out, code = self._new(node), _BINARY[node.operator]
            (a, b), (left, right) = node.inputs, node.parameters
            if a >= 0 and b >= 0:
                elementwise.binary(code, self.series[a], self.series[b], out)
            else:
                scalar = left if a < 0 else right
                series = self.series[b if a < 0 else a]
                elementwise.binary_scalar(code, series, out.dtype.type(scalar), a < 0, out)

    # These and _ref can give a value where an input is NaN: rows before the listing are blanked again.

    def _power(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            out = self._new(node)
            base, exponent = (
                np.dtype(node.storage).type(v) if i < 0 else self.series[i].astype(node.storage, copy=False)
                for i, v in zip(node.inputs, node.parameters, strict=True)
            )
            with np.errstate(all="ignore"):
                np.power(base, exponent, out=out)
            self._blank(out)

    def _compare(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            out, operator = self._new(node), node.operator
            (a, b), (left, right) = node.inputs, node.parameters
            if a < 0:
                a, b, right, operator = b, a, left, _MIRRORED[operator]
            if b >= 0:
                elementwise.compare(_COMPARE[operator], self.series[a], self.series[b], out)
            else:
                # numpy compares a float32 series with a Python number in float32
                dtype = np.float64 if self.plan.nodes[a].dtype == DOUBLE else np.float32
                other = self.worker.take(dtype, self.size)
                other[:] = right
                elementwise.compare(_COMPARE[operator], self.series[a], other, out)
                self.worker.give(other)
            self._blank(out)

    def _choose(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            out, branches = self._new(node), []
            for i, value in zip(node.inputs[1:], node.parameters[1:], strict=True):
                if i < 0:
                    branches.append(np.full(self.size, value, out.dtype))
                else:
                    branches.append(self.series[i].astype(out.dtype, copy=False))
            elementwise.choose(self.series[node.inputs[0]], *branches, out)
            self._blank(out)

    def _unary(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            x, out = self.series[node.inputs[0]], self._new(node)
            with np.errstate(all="ignore"):
                _UNARY[node.operator](x, out)

    def _ref(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            x, out = self.series[node.inputs[0]], self._new(node)
            if node.parameters[0] == 0:
                elementwise.first_value(x, self.lanes, self.first, out)
            else:
                elementwise.shift(x, self.lanes, node.parameters[0], self.last, out)
                if node.parameters[0] < 0:
                    self._blank(out)

    # ------------------------------------------------------------------ rolling

    def _window(self, node: Node) -> int:
        """Window in sessions; 0 means all history, which the panel begins with."""
        return int(node.parameters[0]) or self.rows

    def _merge(self, nodes: tuple[Node, ...], parts: int, kernel: Any, kinds: Mapping[str, int], *series: Any) -> None:
        """Run a family whose windows are put together from shorter ones."""
        windows = tuple(self._window(node) for node in nodes)
        links = chain(windows)
        finals = np.array(
            [(links.slots[w], kinds[n.operator]) for w, n in zip(windows, nodes, strict=True)], np.int64
        ).reshape(-1, 2)
        scratch = self.worker.take(np.float64, parts, *links.scratch(self.lanes))
        kernel(*series, self.lanes, links.history, links.keep, links.merges, finals, scratch, self._rows_for(nodes))
        self.worker.give(scratch)

    def _sums(self, nodes: tuple[Node, ...]) -> None:
        x = self.series[nodes[0].inputs[0]]
        self._merge(nodes, 2, sums.rolling_sums, {"Sum": sums.SUM, "Mean": sums.MEAN}, x)

    def _variance(self, nodes: tuple[Node, ...]) -> None:
        x = self.series[nodes[0].inputs[0]]
        self._merge(nodes, 3, moments.rolling_variance, {"Std": moments.STD, "Var": moments.VAR}, x)

    def _higher(self, nodes: tuple[Node, ...]) -> None:
        x = self.series[nodes[0].inputs[0]]
        self._merge(nodes, 5, moments.rolling_higher, {"Skew": moments.SKEW, "Kurt": moments.KURT}, x)

    def _regression(self, nodes: tuple[Node, ...]) -> None:
        x = self.series[nodes[0].inputs[0]]
        # Qlib guards a flat window only where the window has a length
        rsquare = regression.RSQUARE if nodes[0].parameters[0] else regression.RSQUARE_UNGUARDED
        kinds = {"Slope": regression.SLOPE, "Rsquare": rsquare, "Resi": regression.RESI}
        self._merge(nodes, 6, regression.rolling_regression, kinds, x)

    def _pairs(self, nodes: tuple[Node, ...]) -> None:
        x, z = (self.series[i] for i in nodes[0].inputs)
        self._merge(nodes, 6, pairs.rolling_pairs, {"PairCorr": pairs.CORR, "Cov": pairs.COV}, x, z)

    def _guard(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            raw, std_x, std_z = (self.series[i] for i in node.inputs)
            out = self._new(node)
            out[:] = raw
            pairs.drop_flat(out, std_x, std_z)

    def _extreme(self, nodes: tuple[Node, ...], sign: int) -> None:
        x = self.series[nodes[0].inputs[0]]
        windows = tuple(self._window(node) for node in nodes)
        links = chain(windows)
        scratch = self.worker.take(x.dtype, 1, *links.scratch(self.lanes))
        finals = np.array([links.slots[w] for w in windows], np.int64)
        extremes.rolling_extreme(
            x,
            x.dtype.type(sign),
            self.lanes,
            links.history,
            links.keep,
            links.merges,
            finals,
            scratch,
            self._rows_for(nodes),
        )
        self.worker.give(scratch)

    def _max(self, nodes: tuple[Node, ...]) -> None:
        self._extreme(nodes, 1)

    def _min(self, nodes: tuple[Node, ...]) -> None:
        self._extreme(nodes, -1)

    def _argextreme(self, nodes: tuple[Node, ...], sign: int) -> None:
        x = self.series[nodes[0].inputs[0]]
        windows = tuple(self._window(node) for node in nodes)
        links = chain(windows)
        scratch = self.worker.take(x.dtype, 3, *links.scratch(self.lanes))
        finals = np.array([(links.slots[w], w) for w in windows], np.int64)
        extremes.rolling_argextreme(
            x,
            x.dtype.type(sign),
            self.lanes,
            links.history,
            links.keep,
            links.merges,
            finals,
            self.first,
            scratch,
            self._rows_for(nodes),
        )
        self.worker.give(scratch)

    def _idxmax(self, nodes: tuple[Node, ...]) -> None:
        self._argextreme(nodes, 1)

    def _idxmin(self, nodes: tuple[Node, ...]) -> None:
        self._argextreme(nodes, -1)

    def _order(self, nodes: tuple[Node, ...]) -> None:
        x = self.series[nodes[0].inputs[0]]
        window = self._window(nodes[0])
        # the kernel gives the rank last
        nodes = tuple(sorted(nodes, key=lambda n: n.operator == "Rank"))
        quantiles = np.array(
            [0.5 if n.operator == "Med" else n.parameters[1] for n in nodes if n.operator != "Rank"], np.float64
        )
        scratch = self.worker.take(x.dtype, 2, window + 5, self.lanes)
        order.rolling_order(
            x, self.lanes, window, quantiles, len(nodes) - len(quantiles), scratch, self._rows_for(nodes)
        )
        self.worker.give(scratch)

    def _mad(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            scratch = self.worker.take(np.float64, 3, self.lanes)
            order.rolling_mad(self.series[node.inputs[0]], self.lanes, self._window(node), scratch, self._new(node))
            self.worker.give(scratch)

    def _count(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            sums.rolling_count(self.series[node.inputs[0]], self.lanes, self._window(node), self.first, self._new(node))

    def _wma(self, nodes: tuple[Node, ...]) -> None:
        x = self.series[nodes[0].inputs[0]]
        windows = tuple(self._window(node) for node in nodes)
        links = chain(windows)
        finals = np.array([links.slots[w] for w in windows], np.int64)
        scratch = self.worker.take(np.float64, 3, *links.scratch(self.lanes))
        sums.rolling_wma(
            x,
            self.lanes,
            links.history,
            links.keep,
            links.merges,
            links.lengths,
            finals,
            self.first,
            scratch,
            self._rows_for(nodes),
        )
        self.worker.give(scratch)

    def _ema(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            decay, window = ema_window(node.parameters[0])
            links = chain((window,))
            scratch = self.worker.take(np.float64, 2, *links.scratch(self.lanes))
            sums.rolling_ema(
                self.series[node.inputs[0]],
                self.lanes,
                links.history,
                links.keep,
                links.merges,
                links.slots[window],
                decay,
                scratch,
                self._new(node),
            )
            self.worker.give(scratch)


# all families but those of whole cross-sections, which are done between the stages
_METHODS: dict[Family, Callable[[_Tile, tuple[Node, ...]], None]] = {
    Family.GIVEN: _Tile._given,
    Family.FIELD: _Tile._field,
    Family.SHIFT: _Tile._ref,
    Family.BINARY: _Tile._binary,
    Family.POWER: _Tile._power,
    Family.COMPARISON: _Tile._compare,
    Family.CHOICE: _Tile._choose,
    Family.UNARY: _Tile._unary,
    Family.SUMS: _Tile._sums,
    Family.VARIANCE: _Tile._variance,
    Family.HIGHER: _Tile._higher,
    Family.REGRESSION: _Tile._regression,
    Family.PAIRS: _Tile._pairs,
    Family.GUARD: _Tile._guard,
    Family.MAX: _Tile._max,
    Family.MIN: _Tile._min,
    Family.IDXMAX: _Tile._idxmax,
    Family.IDXMIN: _Tile._idxmin,
    Family.ORDER: _Tile._order,
    Family.MAD: _Tile._mad,
    Family.COUNT: _Tile._count,
    Family.WMA: _Tile._wma,
    Family.EMA: _Tile._ema,
}


__all__ = ["ALL_HISTORY", "Progress", "compute", "compute_blocks"]
