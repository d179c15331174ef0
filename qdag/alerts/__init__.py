"""Alerts: conditions over stored data, an outbox in the data home, delivery through apprise. No orchestrator here.

What an alert is and says is in ``alert``, what is worth one in ``conditions``, where they go in ``targets``, and that
none is lost or sent too often in ``outbox``.
"""

from qdag.alerts.alert import Alert
from qdag.alerts.conditions import (
    check_failed,
    condition_broken,
    failed_instruments,
    ic_drops,
    late_data,
    run_failed,
    slow_run,
)
from qdag.alerts.outbox import Delivered, Outbox, Raised
from qdag.alerts.targets import Target, send, send_test, targets_of

__all__ = [
    "Alert",
    "Delivered",
    "Outbox",
    "Raised",
    "Target",
    "check_failed",
    "condition_broken",
    "failed_instruments",
    "ic_drops",
    "late_data",
    "run_failed",
    "send",
    "send_test",
    "slow_run",
    "targets_of",
]
