"""The code location that Dagster loads."""

from qdag.defs.build import build_defs

defs = build_defs()
