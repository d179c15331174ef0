"""What is worth telling: conditions over what is stored, and over events of runs that the caller has seen.

A condition is a function that returns an :class:`Alert` or nothing. It stores and remembers nothing, and knows no
orchestrator.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow.compute as pc

from qdag.alerts.alert import LISTED, Alert, shortened, ui_address
from qdag.assets.platform import Platform
from qdag.errors import SessionError, unknown
from qdag.schema import FACTOR_METRICS, RAW_OHLCV
from qdag.settings import Settings
from qdag.text import listed


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
        link=f"{ui_address(settings)}/runs/{run_id}",
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
        value=shortened(seen),
        limit="every rule of the check holds",
        link=f"{ui_address(settings)}/assets/{asset}?view=checks",
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
    stored = platform.stored(RAW_OHLCV.name, universe)
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
        link=f"{ui_address(settings)}/assets/{RAW_OHLCV.name}",
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
        link=f"{ui_address(settings)}/runs/{run_id}",
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

    if asset == RAW_OHLCV.name:
        # a row of a day without a session is refused and missed by nobody
        sessions = set(platform.calendar(universe).between(start, end).tolist())
        refused = {(name, day) for name, day in rows("quarantine", start, end) if day in sessions}
        present = rows(RAW_OHLCV.name, start, end, {name for name, _ in refused}) if refused else set()
        failed = {name for name, _ in refused - present}
        if refused:
            whole = store.read("quarantine", universe, start, end, columns=["instrument", "line"])
            failed |= set(whole.filter(pc.field("line") == 0)["instrument"].to_pylist())
        total = stored + len(failed - {name for name, _ in present})
        why = _reasons(platform, universe, start, end, failed) if failed else ""
    else:
        from qdag.store.qlib.reader import read_instruments

        stored_days = platform.stored(RAW_OHLCV.name, universe)
        stored_days = stored_days[(stored_days >= np.datetime64(start)) & (stored_days <= np.datetime64(end))]
        last = stored_days[-1].item() if len(stored_days) else None
        bars = {name for name, _ in rows(RAW_OHLCV.name, last, last)} if last else set()
        failed = bars - read_instruments(settings.provider(universe)).keys()
        total, why = len(bars), "not published in the Qlib directory"
    share = len(failed) / total if total else 0.0
    if share <= settings.alerts.failed_share:
        return None
    names = sorted(failed)
    return Alert(
        "failed_instruments",
        f"{asset}|{universe}|{start}..{end}",
        f"{len(failed)} of {total} instruments failed in {asset}",
        universe,
        f"{start} .. {end}",
        value=f"{share:.1%}",
        limit=f"at most {settings.alerts.failed_share:.1%}",
        detail=f"{why}: {listed(names, LISTED)}",
        link=f"{ui_address(settings)}/runs/{run_id}",
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
    if not store.exists(FACTOR_METRICS.name):
        return []
    sessions = store.sessions(FACTOR_METRICS.name, universe)[-limits.ic_trailing :]
    if len(sessions) <= limits.ic_recent:
        return []
    metrics = store.read(FACTOR_METRICS.name, universe, sessions[0].item())
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
    return best.loc[best["mean_rank_ic"].notna(), "factor"].tolist()


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
        link=f"{ui_address(settings)}/assets/{FACTOR_METRICS.name}",
    )


def condition_broken(settings: Settings, condition: str, universe: str, error: BaseException) -> Alert:
    """A condition could not be judged: somebody must know that nobody is watching."""
    return Alert(
        "alerting_error",
        f"{condition}|{universe}|{type(error).__name__}",
        f"alert condition {condition} cannot be judged",
        universe,
        detail=f"{type(error).__name__}: {error}",
        link=f"{ui_address(settings)}/automation",
    )
