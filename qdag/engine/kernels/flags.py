"""How kernels are compiled: the flags, the disk cache and the lock around it. Nothing else sets numba options."""

import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# error_model: IEEE division (x/0 is inf or NaN) as numpy has it, and no branch that would stop vectorisation.
# fastmath stays off: NaN marks a missing value and sums must not be reordered between two runs.
# parallel stays off: the engine runs tiles in threads, one level only.
_FLAGS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": False}
_LOCK = threading.RLock()


@contextmanager
def _one_process() -> Iterator[None]:
    """Let one process at a time read or extend numba's cache: two writers would mix up its index and its files."""
    path = Path(tempfile.gettempdir()) / f"qdag-kernels-{os.getuid()}.lock"
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class Kernel:
    """A function that is compiled for its listed signatures, all at once, when it is first called.

    Fixed signatures keep the disk cache's content the same whichever process fills it, and a call with another
    dtype an error instead of a silent compilation.
    """

    def __init__(self, function: Callable[..., Any], signatures: tuple[str, ...]):
        self.function = function
        self.signatures = signatures
        self.__doc__ = function.__doc__
        self._compiled: Callable[..., Any] | None = None

    def load(self) -> Callable[..., Any]:
        """Return the compiled function, from the disk cache where it is there."""
        with _LOCK:
            if self._compiled is None:
                from numba import njit

                with _one_process():
                    self._compiled = njit(list(self.signatures), **_FLAGS)(self.function)
        return self._compiled

    def __call__(self, *arguments: Any) -> Any:
        return (self._compiled or self.load())(*arguments)


def kernel(*signatures: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel with its numba signatures."""
    return lambda function: Kernel(function, signatures)
