"""Server processes as children: with a log file each, watched, started again when they die, stopped together."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from qdag.errors import QdagError

STOP_SECONDS = 30
SHORT_SECONDS = 60
"""A server that lives shorter than this has failed to start, rather than died."""
TRIES = 3
LOG_BYTES = 50 * 2**20
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
# as Dagster, MLflow and uvicorn write them
_ERROR = re.compile(r"^\d{4}[-/]\d\d[-/]\d\d .*?\b(?:ERROR|CRITICAL)\b[ :-]*(?P<text>.*)")


@dataclass
class Child:
    """One server.

    Attributes
    ----------
    command : program and arguments
    whole : whether it has all its parts; one that has lost them, or not got them in time, is started again
    """

    name: str
    command: Sequence[str]
    whole: Callable[[int], bool] = lambda pid: True
    process: subprocess.Popen[bytes] | None = None
    log: Path = Path(os.devnull)
    began: float = 0.0
    complete: bool = False
    short: int = 0
    seen: int = 0
    told: str = ""
    groups: list[int] = field(default_factory=list)


class Children:
    """Servers that live and end together.

    Parameters
    ----------
    logs : folder of the log files, NAME.log; what was there becomes NAME.log.1
    say : is told what a person should know, a line at a time
    """

    def __init__(self, logs: Path, environment: Mapping[str, str], say: Callable[[str], object]):
        self._logs = logs
        self._environment = dict(environment)
        self._say = say
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], whole: Callable[[int], bool] = lambda pid: True) -> None:
        """Start a server; it is watched from then on."""
        child = Child(name, command, whole, log=self._logs / f"{name.lower().replace(' ', '-')}.log")
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            if child.log.exists():
                child.log.replace(child.log.with_suffix(".log.1"))
        except OSError as error:
            raise QdagError(
                f"logs cannot be written below {str(self._logs)!r}: {error}; free it or set QDAG_HOME"
            ) from error
        self._children.append(child)
        self._launch(child)

    def wait(self, answers: Callable[[], bool], name: str, seconds: float) -> None:
        """Wait until a server answers.

        Raises
        ------
        QdagError
            A server ended meanwhile, or did not answer in time; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not answers():
            for child in self._children:
                if child.process and child.process.poll() is not None:
                    raise QdagError(f"{child.name} {_ending(child.process)} while starting. {_tail(child.log)}")
            if time.monotonic() > deadline:
                [child] = [c for c in self._children if c.name == name]
                raise QdagError(f"{name} did not answer within {seconds:.0f} s. {_tail(child.log)}")
            time.sleep(0.2)

    def watch(self) -> bool:
        """Look at all of them once: tell new errors of their logs, start those again that have died.

        Returns False when one cannot be kept alive; what it was has then been said.
        """
        for child in self._children:
            self._tell(child)
            assert child.process
            age = time.monotonic() - child.began
            if child.process.poll() is None:
                now = child.whole(child.process.pid)
                child.complete |= now
                if now or (not child.complete and age < SHORT_SECONDS):
                    continue
            ending = _ending(child.process) if child.process.poll() is not None else "lost a process of its own"
            child.short = child.short + 1 if age < SHORT_SECONDS else 0
            if child.short >= TRIES:
                self._say(f"{child.name} {ending} again, {TRIES} times within a minute of its start: giving up")
                self._say(_tail(child.log))
                return False
            self._say(f"{child.name} {ending}; starting it again (log: {child.log})")
            # it alone: runs that it has started go on
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()
            self._launch(child)
        return True

    def stop(self) -> None:
        """Interrupt all, and end what is left of them after a while."""
        running = [child.process for child in self._children if child.process]
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        # whatever they left behind in their own groups
        for group in (group for child in self._children for group in child.groups):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        for process in running:
            process.wait()

    def _launch(self, child: Child) -> None:
        # a log may repeat what an address or a setting holds
        log = os.open(child.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # A process group of its own, so that one signal reaches all of it; SIGINT restored because a
            # non-interactive shell starts background jobs with it ignored, and then they would never stop.
            child.process = subprocess.Popen(
                child.command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        finally:
            os.close(log)
        child.began, child.complete = time.monotonic(), False
        child.groups.append(child.process.pid)

    def _tell(self, child: Child) -> None:
        size = child.log.stat().st_size if child.log.exists() else 0
        if size <= child.seen:
            return
        with child.log.open("rb") as file:
            file.seek(child.seen)
            new = file.read(min(size - child.seen, 1 << 20))
        child.seen = size
        for line in new.decode("utf-8", "replace").splitlines():
            found = _ERROR.match(_ESCAPES.sub("", line))
            if found and found["text"] and found["text"] != child.told:
                child.told = found["text"]
                self._say(f"{child.name}: {child.told} (log: {child.log})")
        if size > LOG_BYTES:
            # the server goes on writing to the same file
            shutil.copyfile(child.log, child.log.with_suffix(".log.1"))
            os.truncate(child.log, 0)
            child.seen = 0


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"


def _tail(log: Path, lines: int = 15) -> str:
    text = log.read_text("utf-8", "replace") if log.exists() else ""
    last = "\n".join(_ESCAPES.sub("", text).splitlines()[-lines:])
    return f"Its log {log} ends with:\n{last}"
