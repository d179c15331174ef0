"""Threads for what a loop would wait for: items made before they are asked for, and a function of several items at a
time. What is computed in them does not belong here."""

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
PREFETCHED = 4
"""Most items that :func:`prefetch` has ready by default."""
THREADS = 2
"""Threads of :func:`map_threads`, whichever calls there are."""


def prefetch(items: Iterator[T], most: int = PREFETCHED) -> Generator[T]:
    """The same items, made in a thread before they are asked for: computing goes on while one writes.

    Parameters
    ----------
    items : is iterated over in the thread; an exception of it is raised to the caller, after the items before it
    most : items that wait to be taken at a time; one more is being made

    The thread ends with the items, or when the generator is closed: it then finishes the item it is making.
    """
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

    thread = threading.Thread(target=make, name="qdag-prefetch", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def map_threads(function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
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
