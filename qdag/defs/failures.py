"""Why a step failed, out of what Dagster keeps of its error."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster._utils.error import SerializableErrorInfo


def root_cause(error: "SerializableErrorInfo | None") -> str:
    """What the asset raised, with its type where that is not one of qdag's: not what Dagster wrapped it in, nor what it
    was raised from.

    An error of qdag says what to do; what it came from, an error of a library, does not.
    """
    while error and error.cause and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    if error is None:
        return "failed"
    if error.cls_name == "DagsterExecutionInterruptedError":
        return "interrupted; the assets before it are done, and `qdag plan` tells what is left"
    return error.message.strip().removeprefix(f"qdag.errors.{error.cls_name}: ")
