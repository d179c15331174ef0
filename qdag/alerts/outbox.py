"""The outbox: alerts and their deliveries in one SQLite file, from which they are sent. Nothing is judged here.

Raising and sending are apart: :meth:`Outbox.put` keeps what is new in one transaction, :meth:`Outbox.deliver` sends
what waits, so an alert is lost neither by a crash between the two nor by a target that does not answer.

**An alert** that is put is one of three things. It is *known*, if its occurrence was put before: nothing happens. It is
a *repeat*, if one of its kind and key was raised within ``repeat_hours``: that one is counted. Else it is *raised*: a
row of ``alerts``, and a delivery for each target of the settings that wants it.

**A delivery** (one alert, one target) is in one of three states::

    waiting  --claimed, sent-->            sent
    waiting  --claimed, target fails-->    waiting, next try after 1, 2, 4 ... 60 minutes
    waiting  --claimed, time is over-->    waiting, at once
    waiting  --claimed, sender dies-->     waiting, once the claim has run out (two minutes)
    waiting  --give_up_hours passed-->     given up

A *claim* is a time until which no other process takes the delivery. It is written in the transaction that reads what
waits, before anything is sent; so two processes never send the same message, and one that dies after its message left,
before it wrote so, has it sent twice: at least once, never lost.

**The rate limit** is ``max_per_hour`` messages per target. ``messages`` has a row for every one of the last hour; with
those that are claimed they are taken from what may be sent. Where more waits than is left, the last message carries all
of the rest. The severe go first, then the older.
"""

import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from qdag.alerts.alert import LISTED, Alert, ui_address
from qdag.alerts.targets import Target, send, targets_of
from qdag.errors import StoreError
from qdag.settings import AlertSettings, Settings, Severity

HISTORY_DAYS = 90
"""Alerts that were not seen for so long, and do not wait, are forgotten."""
HOUR = 3600.0
"""In seconds."""
DELIVERY_SECONDS = 35
"""A delivery begins no further message after so long: it runs within the tick of a sensor."""
CLAIM_SECONDS = 120
"""Longer than a delivery and its last message take together."""
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 60, 3600
"""The wait after a first failure, doubled with each further one, and the longest."""

_TABLES = """
CREATE TABLE IF NOT EXISTS alerts (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, fields TEXT NOT NULL,
    raised_at REAL NOT NULL, last_seen REAL NOT NULL, seen INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS alerts_of_key ON alerts (kind, key, raised_at);
CREATE TABLE IF NOT EXISTS occurrences (kind TEXT, occurrence TEXT, at REAL NOT NULL, PRIMARY KEY (kind, occurrence));
CREATE TABLE IF NOT EXISTS deliveries (
    alert INTEGER NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL, claimed_until REAL NOT NULL DEFAULT 0, error TEXT, PRIMARY KEY (alert, target));
CREATE INDEX IF NOT EXISTS deliveries_of_state ON deliveries (state, target);
CREATE TABLE IF NOT EXISTS messages (target TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS durations (
    asset TEXT NOT NULL, run TEXT NOT NULL, universe TEXT NOT NULL, size INTEGER NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (asset, run));
"""


@dataclass(frozen=True)
class Raised:
    """An alert of the outbox, and what became of it at each target."""

    alert: Alert
    """What was raised."""
    raised_at: datetime
    """When it was raised, in UTC."""
    last_seen: datetime
    """When it was found last, in UTC; later than ``raised_at`` where it was counted again."""
    seen: int
    """How often it was found."""
    deliveries: dict[str, str]
    """Target -> state, with the tries and the reason of a delivery that failed so far."""


@dataclass
class Delivered:
    """What a delivery did, by target."""

    sent: dict[str, int] = field(default_factory=dict)
    """Alerts sent now."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why sending failed now."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Alerts that wait still."""
    given_up: dict[str, int] = field(default_factory=dict)
    """Alerts that are tried no more from now on."""

    def __str__(self) -> str:
        words = [f"{n} sent to {name}" for name, n in self.sent.items()]
        words += [f"{name} failed: {why}" for name, why in self.failed.items()]
        words += [f"{n} wait for {name}" for name, n in self.waiting.items()]
        words += [f"{n} for {name} given up" for name, n in self.given_up.items()]
        return "; ".join(words) or "nothing to send"


class Outbox:
    """Alerts and their deliveries in one SQLite file, ``alerts/alerts.db`` in the data home; any number of processes.

    Every method is one transaction, or several around the sending. A message whose sender dies is sent again after
    two minutes: at least once, never lost.
    """

    def __init__(self, settings: Settings):
        """Of the data home of some settings; the file is made with the first alert.

        ``path`` : the file
        """
        self.settings = settings
        self.path = settings.home / "alerts" / "alerts.db"

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # alerts tell what was found in the data: for its owner alone, as are the files that SQLite puts beside it
            self.path.touch(0o600)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o600)
            with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
                connection.row_factory = sqlite3.Row
                # takes the write lock at once: what is read below cannot change before it is written
                connection.execute("BEGIN IMMEDIATE")
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                # closing without a commit rolls back
                yield connection
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the alerts' state {str(self.path)!r} cannot be used: {error}; make it writable, or delete a damaged "
                "file: alerts then begin anew"
            ) from error

    @property
    def limits(self) -> AlertSettings:
        """What the settings say of alerts."""
        return self.settings.alerts

    def put(self, alerts: Iterable[Alert], now: datetime | None = None) -> int:
        """Keep alerts for delivery; return how many are new.

        An alert whose key was raised within ``repeat_hours`` is counted there and not sent again.
        """
        at = _epoch(now)
        targets = targets_of(self.settings)
        new = 0
        with self._transaction() as db:
            for alert in alerts:
                if alert.occurrence:
                    known = "INSERT OR IGNORE INTO occurrences VALUES (?, ?, ?)"
                    if not db.execute(known, (alert.kind, alert.occurrence, at)).rowcount:
                        continue
                last = db.execute(
                    "SELECT id, raised_at FROM alerts WHERE kind = ? AND key = ? ORDER BY raised_at DESC LIMIT 1",
                    (alert.kind, alert.key),
                ).fetchone()
                if last and last["raised_at"] > at - self.limits.repeat_hours * HOUR:
                    db.execute("UPDATE alerts SET seen = seen + 1, last_seen = ? WHERE id = ?", (at, last["id"]))
                    continue
                row = (alert.kind, alert.key, json.dumps(asdict(alert)), at, at)
                raised = "INSERT INTO alerts (kind, key, fields, raised_at, last_seen, seen) VALUES (?, ?, ?, ?, ?, 1)"
                number = db.execute(raised, row).lastrowid
                waiting = [(number, t.name, "waiting", at) for t in targets if t.wants(alert)]
                db.executemany("INSERT INTO deliveries (alert, target, state, next_try) VALUES (?, ?, ?, ?)", waiting)
                new += 1
            old = at - HISTORY_DAYS * 24 * HOUR
            db.execute("DELETE FROM occurrences WHERE at < ?", (old,))
            db.execute(
                "DELETE FROM alerts WHERE last_seen < ? AND id NOT IN "
                "(SELECT alert FROM deliveries WHERE state = 'waiting')",
                (old,),
            )
            db.execute("DELETE FROM deliveries WHERE alert NOT IN (SELECT id FROM alerts)")
        return new

    def recent(self, n: int = 50) -> list[Raised]:
        """The last ``n`` alerts, newest first."""
        if not self.path.exists():
            return []
        with self._transaction() as db:
            rows = db.execute("SELECT * FROM alerts ORDER BY raised_at DESC, id DESC LIMIT ?", (n,)).fetchall()
            found = []
            for row in rows:
                of_alert = db.execute("SELECT * FROM deliveries WHERE alert = ? ORDER BY target", (row["id"],))
                found.append(
                    Raised(
                        Alert(**json.loads(row["fields"])),
                        datetime.fromtimestamp(row["raised_at"], UTC),
                        datetime.fromtimestamp(row["last_seen"], UTC),
                        row["seen"],
                        {d["target"]: _state(d) for d in of_alert},
                    )
                )
        return found

    def deliver(self, now: datetime | None = None) -> Delivered:
        """Send what waits, the severe first, and say what happened; a target that fails does not hold up the others.

        A failed target is tried again after a minute, then two, four, up to an hour, until ``give_up_hours`` after
        the alert. ``max_per_hour`` holds per target; the last message that it leaves carries all that is left over.
        """
        done = Delivered()
        at = _epoch(now)
        if not self.path.exists():
            return done
        self._give_up(at, done)
        stop = time.monotonic() + DELIVERY_SECONDS
        for target in targets_of(self.settings):
            messages = self._claim(target, at)
            while messages:
                if time.monotonic() > stop:
                    self._settle(target, messages, at)
                    break
                why = send(target, *_message(messages[0], self.settings))
                if why is not None:
                    done.failed[target.name] = why
                    self._settle(target, messages, at, error=why)
                    break
                sent = messages.pop(0)
                self._sent(target, sent, at)
                done.sent[target.name] = done.sent.get(target.name, 0) + len(sent)
        with self._transaction() as db:
            rows = db.execute("SELECT target, count(*) AS n FROM deliveries WHERE state = 'waiting' GROUP BY target")
            done.waiting = {row["target"]: row["n"] for row in rows}
        return done

    def _give_up(self, at: float, done: Delivered) -> None:
        late = (
            "state = 'waiting' AND alert IN (SELECT id FROM alerts WHERE raised_at < ?)",
            (at - self.limits.give_up_hours * HOUR,),
        )
        with self._transaction() as db:
            rows = db.execute(f"SELECT target, count(*) AS n FROM deliveries WHERE {late[0]} GROUP BY target", late[1])
            done.given_up = {row["target"]: row["n"] for row in rows}
            db.execute(f"UPDATE deliveries SET state = 'given up' WHERE {late[0]}", late[1])
            db.execute("DELETE FROM messages WHERE at <= ?", (at - HOUR,))

    def _claim(self, target: Target, at: float) -> list[list[tuple[int, Alert]]]:
        """Messages to send now, each of one or more alerts; claimed, so that no other process sends them too."""
        with self._transaction() as db:
            sent = "SELECT count(*) FROM messages WHERE target = ? AND at > ?"
            under_way = "SELECT count(*) FROM deliveries WHERE target = ? AND state = 'waiting' AND claimed_until > ?"
            left = self.limits.max_per_hour
            left -= db.execute(sent, (target.name, at - HOUR)).fetchone()[0]
            left -= db.execute(under_way, (target.name, at)).fetchone()[0]
            if left <= 0:
                return []
            rows = db.execute(
                "SELECT id, fields FROM deliveries JOIN alerts ON alert = id WHERE target = ? AND state = 'waiting' "
                "AND next_try <= ? AND claimed_until <= ? ORDER BY raised_at, id",
                (target.name, at, at),
            ).fetchall()
            waiting = [(int(row["id"]), Alert(**json.loads(row["fields"]))) for row in rows]
            waiting.sort(key=lambda w: w[1].severity != "error")
            db.executemany(
                "UPDATE deliveries SET claimed_until = ? WHERE alert = ? AND target = ?",
                [(at + CLAIM_SECONDS, number, target.name) for number, _ in waiting],
            )
        if len(waiting) <= left:
            return [[w] for w in waiting]
        return [[w] for w in waiting[: left - 1]] + [waiting[left - 1 :]]

    def _sent(self, target: Target, message: Sequence[tuple[int, Alert]], at: float) -> None:
        with self._transaction() as db:
            db.execute("INSERT INTO messages VALUES (?, ?)", (target.name, at))
            db.executemany(
                "UPDATE deliveries SET state = 'sent', attempts = attempts + 1, claimed_until = 0, error = NULL "
                "WHERE alert = ? AND target = ?",
                [(number, target.name) for number, _ in message],
            )

    def _settle(
        self, target: Target, messages: Iterable[Collection[tuple[int, Alert]]], at: float, error: str | None = None
    ) -> None:
        """Give claimed messages back: at once, or after a failure with a later next try."""
        with self._transaction() as db:
            for number in [number for message in messages for number, _ in message]:
                key = (number, target.name)
                tried = db.execute("SELECT attempts FROM deliveries WHERE alert = ? AND target = ?", key).fetchone()[0]
                wait = min(FIRST_RETRY_SECONDS * 2 ** min(tried, 10), LAST_RETRY_SECONDS) if error else 0
                db.execute(
                    "UPDATE deliveries SET claimed_until = 0, attempts = attempts + ?, next_try = ?, "
                    "error = coalesce(?, error) WHERE alert = ? AND target = ?",
                    (1 if error else 0, at + wait, error, *key),
                )

    def note_duration(
        self, asset: str, universe: str, run_id: str, sessions: int, seconds: float
    ) -> list[float] | None:
        """Remember how long a materialization took; return the earlier comparable ones, oldest first, in seconds.

        Comparable are those of the same asset and universe with about as many sessions (the same power of two). None
        where the run was noted before.
        """
        size = int(sessions).bit_length()
        with self._transaction() as db:
            earlier = db.execute(
                "SELECT seconds FROM durations WHERE asset = ? AND universe = ? AND size = ? "
                "ORDER BY rowid DESC LIMIT ?",
                (asset, universe, size, self.limits.slow_history),
            ).fetchall()
            row = (asset, run_id, universe, size, seconds)
            if not db.execute("INSERT OR IGNORE INTO durations VALUES (?, ?, ?, ?, ?)", row).rowcount:
                return None
        return [float(row[0]) for row in reversed(earlier)]


def _epoch(now: datetime | None) -> float:
    return (now or datetime.now(UTC)).timestamp()


def _state(row: sqlite3.Row) -> str:
    if row["state"] == "waiting" and row["error"]:
        return f"waiting, tried {row['attempts']} times: {row['error']}"
    return str(row["state"])


def _message(message: Sequence[tuple[int, Alert]], settings: Settings) -> tuple[str, str, Severity]:
    """Title, text and severity of a message of one or more alerts."""
    alerts = [alert for _, alert in message]
    if len(alerts) == 1:
        return alerts[0].title, alerts[0].text, alerts[0].severity
    worst: Severity = "error" if any(a.severity == "error" for a in alerts) else "warning"
    lines = [f"{a.severity}: {a.what}" + (f", universe {a.universe}" if a.universe else "") for a in alerts[:LISTED]]
    if len(alerts) > LISTED:
        lines.append(f"and {len(alerts) - LISTED} more")
    lines.append(f"This target has had its {settings.alerts.max_per_hour} messages of the hour: `qdag alerts list`")
    return f"[qdag] {worst}: {len(alerts)} alerts", "\n".join([*lines, f"open: {ui_address(settings)}"]), worst
