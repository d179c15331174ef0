"""Alerts: conditions over stored data, an outbox in the data home, delivery through apprise. No orchestrator here.

A condition is a function that returns an :class:`Alert` or nothing. :meth:`Outbox.put` keeps what is new in one
transaction, and :meth:`Outbox.deliver` sends what waits: an alert is lost neither by a crash between the two nor by a
target that does not answer. URLs hold secrets: they leave this module only towards their own server.
"""

import json
import logging
import re
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pyarrow.compute as pc

from qdag.errors import SessionError, SettingsError, StoreError, unknown
from qdag.settings import AlertKind, AlertSettings, Settings, Severity
from qdag.stages import Platform
from qdag.text import without_mentions

SEVERITIES: dict[AlertKind, Severity] = {
    "run_failure": "error",
    "blocked_check": "error",
    "late_data": "error",
    "alerting_error": "error",
    "slow_run": "warning",
    "failed_instruments": "warning",
    "ic_drop": "warning",
}
SHOWN = 700
LISTED = 20
HISTORY_DAYS = 90
HOUR = 3600.0
SEND_SECONDS = 10
DELIVERY_SECONDS = 35
CLAIM_SECONDS = 120
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 60, 3600


@dataclass(frozen=True)
class Alert:
    """What a person should know.

    Two alerts with the same ``key`` are the same alert. ``occurrence`` names the event behind it (a run, a check of a
    run): one event never counts twice. A lasting condition has none.
    """

    kind: AlertKind
    key: str
    what: str
    universe: str = ""
    sessions: str = ""
    value: str = ""
    limit: str = ""
    detail: str = ""
    link: str = ""
    occurrence: str = ""

    @property
    def severity(self) -> Severity:
        return SEVERITIES[self.kind]

    @property
    def title(self) -> str:
        return f"[qdag] {self.severity}: {self.what}"

    @property
    def text(self) -> str:
        """The message: one line per thing that is known."""
        lines = [("what", self.what), ("universe", self.universe), ("sessions", self.sessions), ("value", self.value)]
        lines += [("limit", self.limit), ("detail", _short(self.detail)), ("open", self.link)]
        return "\n".join(f"{name}: {value}" for name, value in lines if value)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 4] + " ..."


# -- conditions -------------------------------------------------------------------------------------------------------


def run_failed(
    settings: Settings, run_id: str, job: str, universe: str, sessions: str, errors: Mapping[str, str]
) -> Alert:
    """A run ended in failure; ``errors``: failed step -> root cause. A retry that fails alike is the same alert."""
    steps = ", ".join(errors) or "no step"
    return Alert(
        "run_failure",
        f"{job}|{universe}|{sessions}|{steps}",
        f"run of {job} failed in {steps}" if errors else f"run of {job} failed",
        universe,
        sessions,
        detail="\n".join(f"{step}: {error}" for step, error in errors.items()),
        link=f"{_ui(settings)}/runs/{run_id}",
        occurrence=run_id,
    )


def check_failed(
    settings: Settings, run_id: str, asset: str, check: str, universe: str, sessions: str, seen: str
) -> Alert:
    """An asset check of severity ERROR failed, and stopped what is downstream."""
    return Alert(
        "blocked_check",
        f"{asset}|{check}|{universe}|{sessions}",
        f"check {check} of {asset} failed and blocks its downstream",
        universe,
        sessions,
        value=_short(seen),
        limit="every rule of the check holds",
        link=f"{_ui(settings)}/assets/{asset}?view=checks",
        occurrence=f"{run_id}|{asset}|{check}",
    )


def late_data(platform: Platform, universe: str, now: datetime) -> Alert | None:
    """Whether raw_ohlcv lacks the newest session whose close is at least ``late_hours`` before ``now``.

    A universe whose ``end`` has passed gets no new sessions and is never late; nor is one whose first session is not
    due yet.
    """
    settings, spec = platform.settings, platform.settings.universe(universe)
    hours = settings.alerts.late_hours
    calendar, closed = platform.calendar(universe), now - timedelta(hours=hours)
    try:
        due = calendar.closed_before(closed)
    except SessionError:
        if closed.date() > calendar.all[0].item():
            raise
        return None
    if spec.end is not None and spec.end < now.date() - timedelta(days=7):
        return None
    store = platform.store
    stored = store.sessions("raw_ohlcv", universe) if store.exists("raw_ohlcv") else np.array([], "M8[D]")
    newest = stored[-1].item() if len(stored) else None
    if newest is not None and newest >= due:
        return None
    missing = calendar.between(newest + timedelta(days=1) if newest else spec.start, due)
    return Alert(
        "late_data",
        f"{universe}|{due}",
        f"market data of {universe} is late",
        universe,
        f"{missing[0]} .. {missing[-1]}",
        value=f"newest stored session {newest or 'none'}, {len(missing)} missing",
        limit=f"{due} stored {hours:g} h after its close",
        link=f"{_ui(settings)}/assets/raw_ohlcv",
    )


def slow_run(
    settings: Settings, asset: str, universe: str, sessions: str, run_id: str, seconds: float, earlier: Sequence[float]
) -> Alert | None:
    """Whether a materialization took longer than the P95 of the asset's ``earlier`` ones (seconds, linear quantile).

    Fewer than ``slow_minimum`` earlier ones judge nothing; ``slow_slack_seconds`` keep the noise of short ones out.
    """
    limits = settings.alerts
    earlier = earlier[-limits.slow_history :]
    if len(earlier) < limits.slow_minimum:
        return None
    p95 = float(np.quantile(earlier, 0.95))
    if seconds <= p95 + limits.slow_slack_seconds:
        return None
    return Alert(
        "slow_run",
        f"{asset}|{universe}",
        f"{asset} took longer than usual",
        universe,
        sessions,
        value=f"{seconds:.1f} s, median {np.median(earlier):.1f} s",
        limit=f"P95 of its last {len(earlier)} comparable runs {p95:.1f} s, plus {limits.slow_slack_seconds:g} s",
        link=f"{_ui(settings)}/runs/{run_id}",
        occurrence=f"{run_id}|{asset}",
    )


def failed_instruments(
    platform: Platform, asset: str, universe: str, start: date, end: date, stored: int, run_id: str
) -> Alert | None:
    """Whether more than ``failed_share`` of the instruments of a window failed in raw_ohlcv or qlib_bin.

    In raw_ohlcv an instrument failed when a row of it was refused and it has no bar in that session, or when all of it
    was refused or held back, though older bars of it stay; ``stored`` is the number of instruments that were stored. In
    qlib_bin it failed when it has a bar in the window's last stored session but is not published.
    """
    settings, store = platform.settings, platform.store

    def rows(table: str, first: date, last: date, only: Collection[str] | None = None) -> set[tuple[str, date]]:
        if not store.exists(table):
            return set()
        found = store.read(table, universe, first, last, only, ["instrument", "date"])
        return set(zip(found["instrument"].to_pylist(), found["date"].to_pylist(), strict=True))

    if asset == "raw_ohlcv":
        # a row of a day without a session is refused and missed by nobody
        sessions = set(platform.calendar(universe).between(start, end).tolist())
        refused = {(name, day) for name, day in rows("quarantine", start, end) if day in sessions}
        present = rows("raw_ohlcv", start, end, {name for name, _ in refused}) if refused else set()
        failed = {name for name, _ in refused - present}
        if refused:
            whole = store.read("quarantine", universe, start, end, columns=["instrument", "line"])
            failed |= set(whole.filter(pc.field("line") == 0)["instrument"].to_pylist())
        total = stored + len(failed - {name for name, _ in present})
        why = _reasons(platform, universe, start, end, failed) if failed else ""
    else:
        from qdag.store.qlib.reader import read_instruments

        stored_days = store.sessions("raw_ohlcv", universe) if store.exists("raw_ohlcv") else np.array([], "M8[D]")
        stored_days = stored_days[(stored_days >= np.datetime64(start)) & (stored_days <= np.datetime64(end))]
        last = stored_days[-1].item() if len(stored_days) else None
        bars = {name for name, _ in rows("raw_ohlcv", last, last)} if last else set()
        failed = bars - read_instruments(settings.provider(universe)).keys()
        total, why = len(bars), "not published in the Qlib directory"
    share = len(failed) / total if total else 0.0
    if share <= settings.alerts.failed_share:
        return None
    names = sorted(failed)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return Alert(
        "failed_instruments",
        f"{asset}|{universe}|{start}..{end}",
        f"{len(failed)} of {total} instruments failed in {asset}",
        universe,
        f"{start} .. {end}",
        value=f"{share:.1%}",
        limit=f"at most {settings.alerts.failed_share:.1%}",
        detail=f"{why}: {', '.join(names[:LISTED])}{more}",
        link=f"{_ui(settings)}/runs/{run_id}",
        occurrence=f"{run_id}|{asset}",
    )


def _reasons(platform: Platform, universe: str, start: date, end: date, instruments: Collection[str]) -> str:
    refused = platform.store.read("quarantine", universe, start, end, instruments, ["reason"])["reason"]
    counts = sorted(pc.value_counts(refused).to_pylist(), key=lambda c: (-c["counts"], c["values"]))
    return ", ".join(f"{c['values']} {c['counts']}" for c in counts)


def ic_drops(platform: Platform, universe: str) -> list[Alert]:
    """Factors whose mean IC of the last ``ic_recent`` dates fell below its trailing year's: by more than ``ic_drop``,
    and by at least ``ic_errors`` standard errors of a mean of so few dates.

    The year is the last ``ic_trailing`` dates of factor_metrics, the recent ones included. A fall is measured in the
    factor's own direction, the sign of its year's mean: for a factor that predicts with a minus, it is a rise. Watched
    are ``ic_factors`` at every horizon, else the training horizon's ``ic_top`` by |mean RankIC|, in every pool. A
    factor with fewer ICs than half of either window is not judged.
    """
    settings, limits, store = platform.settings, platform.settings.alerts, platform.store
    if not store.exists("factor_metrics"):
        return []
    sessions = store.sessions("factor_metrics", universe)[-limits.ic_trailing :]
    if len(sessions) <= limits.ic_recent:
        return []
    metrics = store.read("factor_metrics", universe, sessions[0].item())
    horizons = settings.horizons if limits.ic_factors else (settings.training_for(universe).horizon,)
    found = []
    for horizon in horizons:
        of_horizon = metrics.filter(pc.field("horizon") == horizon)
        known = pc.unique(of_horizon["factor"]).to_pylist()
        for factor in limits.ic_factors if known else ():
            if factor not in known:
                raise unknown("factor of alerts.ic_factors", factor, known)
        for pool in sorted(pc.unique(of_horizon["pool"]).to_pylist()):
            of_pool = of_horizon.filter(pc.field("pool") == pool)
            for factor in limits.ic_factors or _best(of_pool, horizon, pool, limits.ic_top):
                ics = of_pool.filter(pc.field("factor") == factor)
                alert = _ic_drop(settings, universe, pool, horizon, factor, ics, sessions)
                found += [alert] if alert else []
    return found


def _best(metrics: Any, horizon: int, pool: str, n: int) -> list[str]:
    from qdag.factors.report import top_factors

    best = top_factors(metrics, horizon, n, pool=pool)
    return best.loc[best["mean_rank_ic"].notna(), "factor"].tolist()  # type: ignore[no-any-return]


def _ic_drop(
    settings: Settings, universe: str, pool: str, horizon: int, factor: str, ics: Any, sessions: np.ndarray
) -> Alert | None:
    limits = settings.alerts
    values = ics["ic"].to_numpy()
    known = np.isfinite(values)
    year, dates = values[known], ics["date"].to_numpy().astype("M8[D]")[known]
    recent = year[dates >= sessions[-limits.ic_recent]]
    if len(recent) < limits.ic_recent / 2 or len(year) < limits.ic_trailing / 2:
        return None
    before, now = float(year.mean()), float(recent.mean())
    drop = (before - now) * (-1 if before < 0 else 1)
    # forward returns of horizon h overlap: about n / h of n dates are independent
    noise = float(year.std(ddof=1)) * np.sqrt(min(horizon, len(recent)) / len(recent))
    if drop <= limits.ic_drop or drop < limits.ic_errors * noise:
        return None
    return Alert(
        "ic_drop",
        f"{universe}|{pool}|{horizon}|{factor}",
        f"IC of {factor} dropped at horizon {horizon}",
        universe,
        f"{dates[-len(recent)]} .. {dates[-1]}",
        value=f"mean IC {now:+.4f} on the last {len(recent)} dates, pool {pool}: {drop:.4f} "
        f"{'above' if before < 0 else 'below'}",
        limit=f"at most {limits.ic_drop:g} and {limits.ic_errors:g} standard errors below the mean of the last "
        f"{len(year)} dates, {before:+.4f}",
        detail=f"the drop is {drop / noise:.1f} standard errors of a mean of so few dates" if noise > 0 else "",
        link=f"{_ui(settings)}/assets/factor_metrics",
    )


def condition_broken(settings: Settings, condition: str, universe: str, error: BaseException) -> Alert:
    """A condition could not be judged: somebody must know that nobody is watching."""
    return Alert(
        "alerting_error",
        f"{condition}|{universe}|{type(error).__name__}",
        f"alert condition {condition} cannot be judged",
        universe,
        detail=f"{type(error).__name__}: {error}",
        link=f"{_ui(settings)}/automation",
    )


def _ui(settings: Settings) -> str:
    return settings.dagster.ui_url.rstrip("/")


# -- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """One place to send to. The URL is in no text form of it."""

    name: str
    url: str = field(repr=False)
    severity: Severity
    kinds: tuple[AlertKind, ...] | None

    def wants(self, alert: Alert) -> bool:
        """Whether the alert is severe enough and of a kind that goes here."""
        severe = alert.severity == "error" or self.severity == "warning"
        return severe and (self.kinds is None or alert.kind in self.kinds)


def targets_of(settings: Settings) -> list[Target]:
    """Targets of the settings; one without a name is called after its scheme, ``json-1``, ``slack-1``, ``slack-2``."""
    found: list[Target] = []
    unnamed: dict[str, int] = {}
    for target in settings.alerts.urls:
        url = target.url.get_secret_value()
        scheme = url.split("://", 1)[0].lower()
        if target.name is None:
            unnamed[scheme] = unnamed.get(scheme, 0) + 1
        found.append(Target(target.name or f"{scheme}-{unnamed[scheme]}", url, target.severity, target.kinds))
    return found


def send(target: Target, title: str, body: str, severity: Severity | None = None) -> str | None:
    """Send one message now; return why it failed, or None. The reason holds nothing of the URL but its host name."""
    import apprise

    asset = apprise.AppriseAsset(app_id="qdag", app_desc="qdag alerts", async_mode=False, service_timeout=SEND_SECONDS)
    kind = {"error": "failure", "warning": "warning", None: "info"}[severity]
    with _unheard(), apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as log:
        try:
            plugin = apprise.Apprise.instantiate(target.url, asset=asset)
            if plugin is None:
                return _reason("apprise does not understand this URL", log.getvalue(), target.url)
            host = plugin.host if not (plugin.template_tokens.get("host") or {"private": True}).get("private") else None
            service = apprise.Apprise(asset=asset)
            service.add(plugin)
            body, title = without_mentions(body), without_mentions(title)
            result = service.notify(body=body, title=title, notify_type=kind, body_format="text")
        except Exception as error:
            # a plugin's own failure is a failed delivery of its target and of no other
            return _reason(type(error).__name__, str(error), target.url)
        return None if result else _reason("not delivered", log.getvalue(), target.url, keep=host)


def _reason(what: str, said: str, url: str, keep: str | None = None) -> str:
    said = " ".join(said.split())
    given = re.split(r"[/@:?&=#,;\s]+", url.split("://", 1)[-1])
    plain = {unquote(piece) for piece in given}
    for piece in sorted({url, *given, *plain, *(quote(p, safe="") for p in plain)}, key=len, reverse=True):
        if len(piece) > 2 and piece != keep:
            said = re.sub(re.escape(piece), "***", said, flags=re.IGNORECASE)
    return f"{what}: {said[:300]}" if said else what


_sending: ContextVar[bool] = ContextVar("qdag_sending", default=False)


def _not_sending(record: logging.LogRecord) -> bool:
    return not _sending.get()


@contextmanager
def _unheard() -> Iterator[None]:
    """While sending, what apprise and its HTTP client log (whole URLs among it) reaches no log of the process."""
    logger = logging.getLogger("apprise")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    for name in ("urllib3.connectionpool", "urllib3.util.retry"):
        # adding the same filter again does nothing
        logging.getLogger(name).addFilter(_not_sending)
    token = _sending.set(True)
    try:
        yield
    finally:
        _sending.reset(token)


def send_test(settings: Settings) -> list[tuple[str, str | None]]:
    """Send a test message to every target, past severity, kinds and limits; per target its name and why it failed.

    Raises
    ------
    SettingsError
        No target is set.
    """
    targets = targets_of(settings)
    if not targets:
        raise SettingsError(
            'no alert target is set: put apprise URLs into the settings file, [alerts] urls = ["json://HOST/PATH"], or '
            "into the variable QDAG_ALERTS__URLS (one URL, or a JSON list); mailto://, slack://, discord:// and others "
            "are described at https://appriseit.com/services"
        )
    body = f"Alerts of qdag reach this target.\nopen: {_ui(settings)}"
    return [(target.name, send(target, "[qdag] test message", body)) for target in targets]


# -- outbox -----------------------------------------------------------------------------------------------------------

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
    """An alert of the outbox: when it was raised and last seen (UTC), how often, and where it went."""

    alert: Alert
    raised_at: datetime
    last_seen: datetime
    seen: int
    deliveries: dict[str, str]


@dataclass
class Delivered:
    """What a delivery did: alerts sent per target; why a target failed; alerts that still wait; and those given up."""

    sent: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    given_up: dict[str, int] = field(default_factory=dict)

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
    return f"[qdag] {worst}: {len(alerts)} alerts", "\n".join([*lines, f"open: {_ui(settings)}"]), worst
