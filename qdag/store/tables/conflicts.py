"""Other writers: what they do to a commit that is being made, and trying again."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
ATTEMPTS = 30
"""Most attempts at a commit that others are faster with."""
SECONDS, LONGEST_SECONDS = 0.02, 0.64
"""Longest pause before the second attempt; it doubles up to the longest of all. The pause itself is drawn by chance."""


class ConflictingCommit(Exception):
    """Another commit changed what this one was about to replace; in words for people."""


class LostFile(Exception):
    """A data file of the version that a write began with is not there.

    Attributes
    ----------
    path : of the file, below the table's folder
    """

    def __init__(self, path: str):
        super().__init__(f"file {path} is missing")
        self.path = path


def retrying(
    attempt: Callable[[], T],
    on: type[Exception] | tuple[type[Exception], ...] = ConflictingCommit,
    longest: float = LONGEST_SECONDS,
) -> T:
    """What ``attempt`` returns; it is called up to ``ATTEMPTS`` times while it raises an error that is retried.

    Parameters
    ----------
    on : the errors after which it is called again; that of the last attempt, and any other one, goes through
    longest : seconds that a pause lasts at most
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    attempts = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(SECONDS, longest),
        retry=retry_if_exception_type(on),
        reraise=True,
    )
    return attempts(attempt)
