"""The error of a failed step as people are told it."""

import dagster as dg
import pytest

from qdag.defs.failures import root_cause
from qdag.errors import QdagError


def failed_with(error: Exception, cause: Exception | None = None) -> str:
    @dg.op
    def step() -> None:
        raise error from cause

    @dg.job
    def job() -> None:
        step()

    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(instance=instance, raise_on_error=False)
        (failure,) = (event for event in done.all_events if event.is_step_failure)
        return root_cause(failure.step_failure_data.error)


@pytest.mark.parametrize("cause", [None, OSError("a number of the system"), dg.DagsterInvariantViolationError("inner")])
def test_it_is_what_was_raised_and_not_what_it_came_from(cause: Exception | None) -> None:
    assert failed_with(QdagError("not there; put it there"), cause) == "not there; put it there"


def test_an_error_of_dagster_itself_is_told_to_its_end() -> None:
    told = failed_with(dg.DagsterInvariantViolationError("outer"), ValueError("the reason"))
    assert told == "ValueError: the reason"


def test_without_an_error_it_failed() -> None:
    assert root_cause(None) == "failed"
