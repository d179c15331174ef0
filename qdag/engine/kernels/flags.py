"""How kernels are compiled: the flags, the disk cache and the lock around it. Nothing else sets numba options."""

import fcntl
import hashlib
import logging
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
_FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}
_LOCK = threading.RLock()
CACHE_VARIABLE = "NUMBA_CACHE_DIR"
log = logging.getLogger(__name__)
_told = False


@contextmanager
def _one_process() -> Iterator[None]:
    """Let one process at a time read or extend numba's cache: two writers would mix up its index and its files.

    Without a folder of its own the cache lies beside the code, and those of other installations are not waited for.
    """
    folder = Path(os.environ.get(CACHE_VARIABLE) or tempfile.gettempdir())
    code = hashlib.sha256(os.fsencode(Path(__file__).resolve().parent)).hexdigest()[:12]
    with (folder / f"qdag-kernels-{os.getuid()}-{code}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _compile(function: Callable[..., Any], signatures: tuple[str, ...]) -> Callable[..., Any]:
    """Compile, or take from the disk cache; where no folder can hold one, compile for this process alone."""
    from numba import njit

    try:
        if folder := os.environ.get(CACHE_VARIABLE):
            Path(folder).mkdir(parents=True, exist_ok=True)
        with _one_process():
            compiled: Callable[..., Any] = njit(list(signatures), cache=True, **_FLAGS)(function)
            return compiled
    except (RuntimeError, OSError) as error:
        if isinstance(error, RuntimeError) and "no locator" not in str(error):
            raise
        _tell_once(str(error))
    compiled = njit(list(signatures), **_FLAGS)(function)
    return compiled


def _tell_once(reason: str) -> None:
    global _told
    if not _told:
        log.warning(
            "compiled kernels cannot be kept (%s), so every process spends half a minute to compile them anew; set %s "
            "to a folder that can be written",
            reason,
            CACHE_VARIABLE,
        )
    _told = True


_DECLARED: "list[Kernel]" = []


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
        _DECLARED.append(self)

    def load(self) -> Callable[..., Any]:
        """Return the compiled function, from the disk cache where it is there."""
        with _LOCK:
            if self._compiled is None:
                self._compiled = _compile(self.function, self.signatures)
        return self._compiled

    def __call__(self, *arguments: Any) -> Any:
        """Run it, compiled or loaded first where it is not yet."""
        return (self._compiled or self.load())(*arguments)


def kernel(*signatures: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel with its numba signatures."""
    return lambda function: Kernel(function, signatures)


def part(function: Callable[..., Any]) -> Any:
    """Declare a function that kernels of the same file call; it becomes a part of each."""
    from numba import njit

    return njit(**_FLAGS)(function)


def load_all(report: Callable[[int, int], object] = lambda done, total: None) -> int:
    """Compile every kernel of the modules that are imported, or find it in the disk cache; returns how many.

    ``report`` is told after each, how many are done and of how many.
    """
    for done, declared in enumerate(_DECLARED, 1):
        declared.load()
        report(done, len(_DECLARED))
    return len(_DECLARED)
