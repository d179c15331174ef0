"""Factors as predictors: their metrics, dated by when they became known, and reports on them."""

from qdag.factors.dates import history_sessions, signal_sessions
from qdag.factors.metrics import factor_metrics, iter_factor_metrics
from qdag.factors.report import top_factors

__all__ = ["factor_metrics", "history_sessions", "iter_factor_metrics", "signal_sessions", "top_factors"]
