"""Making things while what was made before is being used, and some at once."""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
AHEAD = 4
THREADS = 2


def ahead(items: Iterator[T], most: int = AHEAD) -> Generator[T]:
    """Make items in a thread, a few ahead of who uses them: computing goes on while one writes."""
    waiting: queue.Queue[T | BaseException | None] = queue.Queue(most)
    stopped = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                return waiting.put(item, timeout=0.1)

    def make() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name="qdag-batches", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def at_once(function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """The function of every item, in their order, ``THREADS`` at a time; the function must not call this itself.

    The threads are the process's: each new one would take memory of its own from the system, and what large arrays
    leave in it is hardly ever given back. A call has few items in them at a time, so that others get their turn.
    """
    waiting: deque[Future[T]] = deque()
    workers = _workers(os.getpid())
    for item in items:
        if len(waiting) > THREADS:
            yield waiting.popleft().result()
        waiting.append(workers.submit(function, item))
    while waiting:
        yield waiting.popleft().result()


@lru_cache(1)
def _workers(process: int) -> ThreadPoolExecutor:
    # a forked process has none of its parent's threads
    return ThreadPoolExecutor(THREADS, "qdag-store")
