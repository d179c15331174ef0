"""Dagster's view of the chain: assets, checks, jobs, sensors, schedules, storage and launcher."""
