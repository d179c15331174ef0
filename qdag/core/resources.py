"""Seconds and memory of this process."""

import time
from contextlib import suppress
from pathlib import Path


class Meter:
    """Seconds and peak memory (MiB) of a ``with`` block; the peak is the process's where the system cannot reset it."""

    seconds: float = 0.0
    peak_mib: float = 0.0

    def __enter__(self) -> "Meter":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.peak_mib = memory_mib("VmHWM:")


def memory_mib(line: str = "VmRSS:") -> float:
    """Memory of the process now, or by another line of the system's status; its peak where there is none."""
    import resource

    with suppress(OSError, IndexError):
        return int(Path("/proc/self/status").read_text().split(line)[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
