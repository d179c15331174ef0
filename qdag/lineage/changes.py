"""What a table's own log says about who changed which of its sessions, read once and remembered beside the table.

A record of lineage names the commit that brought its session. Whether the rows are still those is told by the log: a
later commit of a stage has records of its own, one of anybody else (a restore, a repair, another hand) has none. A log
that holds another commit under the recorded version is another table's: one that was deleted and made anew, came back
from a backup, or lost its end in a power cut.
"""

import json
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from qdag.store.files import write_text
from qdag.store.tables import TableStore

STAGE = "definition_version"
"""The key of a commit's provenance by which a stage says that it records what it wrote."""
REMEMBERED = Path("_lineage") / "log.json"
REMEMBER_AFTER = 16
"""Commits that are read again by every process until the file of what was read is renewed."""


@dataclass(frozen=True)
class Touch:
    """A commit that changed rows: of a universe (None: of any) from ``first`` to ``last``, ISO days (None: of any)."""

    version: int
    universe: str | None
    first: str | None
    last: str | None
    stage: bool
    """Whether a stage wrote it, which records what it writes."""

    def concerns(self, universe: str) -> bool:
        """Whether it may have changed rows of the universe."""
        return self.universe in (None, universe)

    def within(self, sessions: np.ndarray) -> np.ndarray:
        """Which sessions (datetime64[D]) it may have changed: bool (S,)."""
        inside = np.ones(len(sessions), bool)
        if self.first is not None:
            inside &= sessions >= np.datetime64(self.first, "D")
        if self.last is not None:
            inside &= sessions <= np.datetime64(self.last, "D")
        return inside


@dataclass(frozen=True)
class Changes:
    """The log of a table: the identity of every commit by its version, and the commits that changed rows, in order."""

    commits: tuple[str, ...] = ()
    touches: tuple[Touch, ...] = ()

    @property
    def version(self) -> int:
        """Newest version; -1 for a table that is not stored."""
        return len(self.commits) - 1

    def holds(self, version: int, commit: str | None) -> bool:
        """Whether a recorded commit is in this log; one without identity is known by its version alone."""
        return 0 <= version <= self.version and commit in (None, self.commits[version])

    def since(self, version: int) -> tuple[Touch, ...]:
        """Commits after a version that changed rows."""
        return tuple(touch for touch in self.touches if touch.version > version)

    def touched(self, universe: str, sessions: np.ndarray) -> np.ndarray:
        """Which sessions (datetime64[D], increasing) any commit may have changed: bool (S,)."""
        mine = [touch for touch in self.touches if touch.concerns(universe)]
        first, last = sessions[[0, -1]].astype(str).tolist()
        begins = np.searchsorted(sessions, np.array([touch.first or first for touch in mine], "M8[D]"))
        ends = np.searchsorted(sessions, np.array([touch.last or last for touch in mine], "M8[D]"), "right")
        opened, closed = (np.bincount(at, minlength=len(sessions) + 1) for at in (begins, ends))
        touched: np.ndarray = np.cumsum(opened - closed)[:-1] > 0
        return touched


def changes(store: TableStore, name: str) -> Changes:
    """Read what the log of a table says; only commits that were not read before are looked at."""
    version = store.version(name)
    if version is None:
        return Changes()
    folder = None if store.remote else Path(store.uri(name))
    found = _remembered(store, name, folder, version)
    if found.version < version:
        commits, touches = list(found.commits), list(found.touches)
        for at in range(found.version + 1, version + 1):
            try:
                actions, content = store.commit(name, at)
            except ValueError:
                # torn: a checkpoint tells what is stored since, nobody tells what it did
                commits.append("")
                touches.append(Touch(at, None, None, None, False))
                continue
            commits.append(_identity(actions, content))
            touches += _touches(at, actions)
        read = len(commits) - len(found.commits)
        found = Changes(tuple(commits), tuple(touches))
        if folder is not None and read >= REMEMBER_AFTER:
            text = json.dumps({"commits": commits, "touches": [list(asdict(touch).values()) for touch in touches]})
            write_text(folder / REMEMBERED, text)
    return found


def _remembered(store: TableStore, name: str, folder: Path | None, version: int) -> Changes:
    """What was read before, where the log still holds it."""
    if folder is None:
        return Changes()
    try:
        given = json.loads((folder / REMEMBERED).read_text("utf-8"))
        found = Changes(tuple(given["commits"]), tuple(Touch(*touch) for touch in given["touches"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Changes()
    # every commit names files of its own: where the last one is the same, so are those before it
    if not 0 <= found.version <= version:
        return Changes()
    try:
        same = _identity(*store.commit(name, found.version)) == found.commits[-1]
    except ValueError:
        same = found.commits[-1] == ""
    return found if same else Changes()


def _identity(actions: list[dict[str, Any]], content: bytes) -> str:
    """A commit's own id; of one that was made by others a digest of its file."""
    info = _info(actions)
    return str(info.get("commit_id") or blake2b(content, digest_size=16).hexdigest())


def _info(actions: list[dict[str, Any]]) -> dict[str, Any]:
    return next((action["commitInfo"] for action in actions if "commitInfo" in action), {})


def _touches(version: int, actions: list[dict[str, Any]]) -> list[Touch]:
    changed = [
        file
        for action in actions
        for file in (action.get("add"), action.get("remove"))
        if file and file.get("dataChange", True)
    ]
    if not changed:
        return []
    info = _info(actions)
    if {"universe", "start", "end"} <= info.keys():
        stage = STAGE in json.loads(info.get("provenance", "{}"))
        return [Touch(version, info["universe"], info["start"], info["end"], stage)]
    spans: dict[str | None, list[tuple[str | None, str | None]]] = {}
    for file in changed:
        partition = file.get("partitionValues") or {}
        spans.setdefault(partition.get("universe"), []).append(_days(partition.get("month")))
    return [
        Touch(
            version,
            universe,
            None if any(first is None for first, _ in found) else min(first for first, _ in found if first),
            None if any(last is None for _, last in found) else max(last for _, last in found if last),
            False,
        )
        for universe, found in spans.items()
    ]


def _days(month: str | None) -> tuple[str | None, str | None]:
    """The days that a partition may hold: its month, or, of a table with yearly ones, the year that January stands
    for."""
    if not month:
        return None, None
    year, number = (int(part) for part in month.split("-"))
    if number == 1:
        return f"{year}-01-01", f"{year}-12-31"
    following = date(year + number // 12, number % 12 + 1, 1)
    return f"{month}-01", str(following - timedelta(days=1))
