"""Bringing a universe up to date: run after run until nothing that can be computed is stale.

Who runs, and who is told, is the caller's: the command shows progress, the desk returns outcomes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date

from qdag.assets.platform import Platform
from qdag.operations.survey import Blocked, Request, survey


@dataclass(frozen=True)
class Left:
    """What refreshing came to.

    Attributes
    ----------
    ended : whether every run succeeded, and none had to be asked for twice
    blocked : what is stale still and waits for a blocking check of what it reads
    """

    ended: bool
    blocked: list[Blocked] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether nothing is left that is not a model."""
        return self.ended and not self.blocked


def bring_up_to_date(
    platform: Platform,
    universe: str,
    run: Callable[[Request], bool],
    assets: Sequence[str] | None = None,
    judge: bool = True,
) -> Left:
    """Run what can run until nothing is left; models are not trained again.

    Parameters
    ----------
    run : runs a request; whether it succeeded
    assets : only these
    judge : have the checks that others wait for judged again, once
    """
    asked: set[tuple[tuple[str, ...], date, date]] = set()
    while (seen := survey(platform, universe, assets)).requests:
        for request in seen.requests:
            key = (request.assets, request.start, request.end)
            if not run(request) or key in asked:
                return Left(False)
            asked.add(key)
    if seen.blocked and judge and seen.judging and all(run(request) for request in seen.judging):
        return bring_up_to_date(platform, universe, run, assets, judge=False)
    return Left(True, seen.blocked)
