"""The tags of runs: what a run is about, who asked for it and why. Pages of the Dagster UI filter by them.

Tags of Dagster's own (partitions, sensors, schedules) are in its ``_core.storage.tags``.
"""

from qdag.settings import CODE_LOCATION

UNIVERSE_TAG = "qdag/universe"
"""The universe, of runs about one."""
REASON_TAG = "qdag/reason"
"""Why the run was asked for, in words."""
REQUEST_TAG = "qdag/request"
"""What was asked for and in which state of the data: the same on the run, its retries and later attempts."""
ORIGIN_TAG = "qdag/origin"
"""Who asked, where Dagster has no tag that says so: ``COMMAND``."""
COMMAND = "command"
HOST_TAG = "qdag/host"
"""On runs of the command, which no code server started: the machine that they run on."""
INSTRUMENTS_TAG = "qdag/instruments"
"""The only instruments, separated by commas, that a source is asked for."""
ACCEPT_TAG = "qdag/accept"
"""Instruments, separated by commas, that may lose stored rows which would else be held back."""
REASON_LENGTH = 250
REPOSITORY = f"__repository__@{CODE_LOCATION}"
"""Dagster's label of all that the code location defines, in the tag by which its pages list a job's runs."""
