"""The servers that qdag starts: the Dagster UI behind its guard, the MLflow UI, and what watches them."""
