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

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from qdag.engine.families import Calling
from qdag.engine.kernels.cross_section import cross_section
from qdag.engine.nodes import Node
from qdag.engine.panel import Panel
from qdag.engine.plan import Plan, plan
from qdag.engine.schedule import Step, schedule
from qdag.engine.tile import Memory, Tile
from qdag.errors import PanelError, unknown

TILE_ELEMENTS = 36_864
"""Values of one series in a tile: 64 instruments over 576 sessions, 144 KiB in float32."""

MIN_LANES, MAX_LANES = 64, 256
"""Fewest and most instruments in a tile."""

SEGMENT = 1_024
"""Sessions wanted from a tile, at least; a long panel is cut into segments, each with its own history."""

Progress = Callable[[int, int], None]
"""Called with (instruments done, instruments in all)."""


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
        self.steps = schedule(self.plan.nodes, self.plan.outputs.values(), self.whole)

    def _stage(self, stage: int) -> None:
        """Compute the nodes that read whole cross-sections or another instrument after ``stage``."""
        nodes = self.plan.nodes
        bridges = [n for n in nodes if n.family.across and max(nodes[i].stage for i in n.inputs) == stage]
        sources = sorted({i for n in bridges for i in n.inputs} - self.whole.keys())
        instruments, sessions = self.panel.shape
        memory = np.empty((len(sources), sessions, instruments))
        computed = {i: memory[k] for k, i in enumerate(sources)}
        steps = schedule(nodes, sources, self.whole, direct=False)
        self._tiles(slice(0, instruments), steps, computed, 0)
        series = computed | self.whole
        for node in bridges:
            across = self._cross if node.family.calling is Calling.CROSS else self._other
            self.whole[node.id] = across(node, series)

    def _other(self, node: Node, series: Mapping[int, np.ndarray]) -> np.ndarray:
        """One instrument's series as everybody's, (sessions, instruments)."""
        name = str(node.parameter("instrument"))
        known = self.panel.instruments
        row = next((known.index(n) for n in (name, name.upper()) if n in known), None)
        if row is None:
            raise unknown("instrument", name, known)
        column = series[node.inputs[0]][:, row]
        return np.broadcast_to(column[:, None], (len(column), len(known)))

    def _cross(self, node: Node, series: Mapping[int, np.ndarray]) -> np.ndarray:
        """A statistic across instruments, (sessions, instruments), the sessions shared among the threads."""
        x = np.ascontiguousarray(series[node.inputs[0]])
        exposure = np.ascontiguousarray(series[node.inputs[-1]])
        pool = np.ascontiguousarray((self.panel.exists() if self.pool is None else self.pool).T)
        out = np.empty_like(x)
        level = float(node.parameter("level") or 0.0)
        edges = np.linspace(0, len(x), self.threads + 1).astype(int)
        cross_section.load()
        with ThreadPoolExecutor(self.threads) as executor:
            list(
                executor.map(
                    lambda begin, end: cross_section(x, exposure, pool, node.code, level, begin, end, out),
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
        steps: tuple[Step, ...],
        out: Mapping[int, np.ndarray],
        start: int,
        done: Callable[[int], None] | None = None,
    ) -> None:
        """Compute steps for a block of instruments from session ``start`` on; out: id -> array (sessions, block)."""
        if block.stop == block.start or not len(self.panel.sessions) or not out:
            return
        lanes = self._lanes(block.stop - block.start)
        begins = list(range(block.start, block.stop, lanes))
        segments = list(self._segments(out, start))
        lock = Lock()
        memories = [Memory() for _ in range(min(self.threads, len(begins)))]
        free = list(memories)

        def run(begin: int) -> None:
            memory = free.pop()
            try:
                end = min(begin + lanes, block.stop)
                for rows, wanted in segments:
                    tile = Tile(self.panel, self.plan, self.whole, memory, slice(begin, end), rows)
                    place = slice(begin - block.start, end - block.start)
                    into = {i: o[wanted.start - start : wanted.stop - start, place] for i, o in out.items()}
                    tile.run(steps, into, wanted.start - rows.start)
            finally:
                free.append(memory)
            if done is not None:
                with lock:
                    done(end - begin)

        if len(memories) == 1:
            for begin in begins:
                run(begin)
            return
        with ThreadPoolExecutor(len(memories)) as executor:
            list(executor.map(run, begins))
