"""What is stored, as small tables for people: the command and the UI show them. Nothing is computed from prices."""

from qdag.views.status import AssetStatus, asset_status
from qdag.views.tables import leaderboard, metrics_of_a_day, models

__all__ = ["AssetStatus", "asset_status", "leaderboard", "metrics_of_a_day", "models"]
