"""Making things while what was made before is being used."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
AHEAD = 4


def ahead(items: Iterator[T], most: int = AHEAD) -> Iterator[T]:
    """Make items in a thread, a few ahead of the writer.

    Delta's writer pulls from inside its own runtime, where the store cannot be read; and computing goes on while one
    writes.
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
