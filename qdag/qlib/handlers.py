"""Handlers of Qlib on stored tables. Importing this module imports Qlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlib.contrib.data.handler import (
    _DEFAULT_INFER_PROCESSORS,
    _DEFAULT_LEARN_PROCESSORS,
    check_transform_proc,
)
from qlib.data.dataset.handler import DataHandlerLP

from qdag.errors import SettingsError
from qdag.features.sets import alpha158, alpha360
from qdag.qlib.loader import Labels, StoredLoader
from qdag.qlib.provider import DAY, running_on
from qdag.settings import load_settings

if TYPE_CHECKING:
    from qdag.settings import Settings

LABEL: Labels = (["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"])
"""What Qlib's handlers learn: the return of the next session after the one on which one could buy."""


class StoredHandler(DataHandlerLP):
    """Qlib's handler on qdag's feature tables: nothing is computed that is stored.

    Qlib's processors, ``DatasetH`` and ``TSDatasetH`` work on it as on ``Alpha158``, with the same index, names and
    dtypes. Qlib must have been started on the universe's directory (``qdag.qlib.init(universe=...)``).

    Parameters
    ----------
    universe : of qdag's settings; by default the one whose directory Qlib was started on
    features : feature tables, and columns as ``table.column``
    label : expressions and names as Qlib's handlers take them, or the name of a stored label
    versions : table -> version to read instead of the newest; then nothing is computed, and rows are those stored
    suspended : whether sessions without a bar between an instrument's first and last are rows, as in Qlib
    config : settings file, found as the command finds it by default
    instruments, start_time, end_time, infer_processors, learn_processors, fit_start_time, fit_end_time, filter_pipe :
        as of Qlib's ``Alpha158``
    others : everything else that ``DataHandlerLP`` takes

    Raises
    ------
    SettingsError
        Qlib runs on a directory of no universe or another one; ``inst_processors`` or a frequency other than ``day``.
    UnknownNameError
        A universe, table, column, label or pool that is none.
    MissingDataError
        Something is not stored and cannot be computed.
    """

    def __init__(  # noqa: PLR0913 -- the signature of Qlib's handlers, and what is stored
        self,
        universe: str | None = None,
        features: Sequence[str] = (alpha158.SET.name,),
        instruments: Any = "all",
        start_time: Any = None,
        end_time: Any = None,
        freq: str = DAY,
        infer_processors: Sequence[Any] = (),
        learn_processors: Sequence[Any] = tuple(_DEFAULT_LEARN_PROCESSORS),
        fit_start_time: Any = None,
        fit_end_time: Any = None,
        filter_pipe: Sequence[Any] | None = None,
        inst_processors: Any = None,
        label: str | Labels = LABEL,
        versions: Mapping[str, int] | None = None,
        suspended: bool = True,
        config: str | Path | None = None,
        **others: Any,
    ):
        if freq != DAY:
            raise SettingsError(f"freq={freq!r} is not stored; tables hold days, so give {DAY!r} or use Qlib's handler")
        if inst_processors:
            raise SettingsError("inst_processors change what features are computed from; use Qlib's handler for them")
        settings = load_settings(config)
        loader = StoredLoader(
            settings, universe or _running(settings), features, label, versions, suspended, filter_pipe
        )
        super().__init__(
            instruments=instruments,
            start_time=start_time,
            end_time=end_time,
            data_loader=loader,
            infer_processors=check_transform_proc(infer_processors, fit_start_time, fit_end_time),
            learn_processors=check_transform_proc(learn_processors, fit_start_time, fit_end_time),
            **others,
        )


class Alpha158Stored(StoredHandler):
    """Qlib's ``Alpha158`` from the stored table, with its default processors; parameters of ``StoredHandler``."""

    def __init__(self, universe: str | None = None, **arguments: Any):
        super().__init__(universe, (alpha158.SET.name,), **arguments)


class Alpha360Stored(StoredHandler):
    """Qlib's ``Alpha360`` from the stored table, with its default processors; parameters of ``StoredHandler``."""

    def __init__(
        self,
        universe: str | None = None,
        infer_processors: Sequence[Any] = tuple(_DEFAULT_INFER_PROCESSORS),
        **arguments: Any,
    ):
        super().__init__(universe, (alpha360.SET.name,), infer_processors=infer_processors, **arguments)


def _running(settings: "Settings") -> str:
    """The universe whose directory Qlib was started on."""
    here = running_on().resolve()
    for universe in settings.universes:
        if settings.provider(universe).resolve() == here:
            return universe
    raise SettingsError(
        f"Qlib was started on {str(here)!r}, the directory of no universe ({', '.join(settings.universes) or 'none'}); "
        "call qdag.qlib.init(universe=...), or give config=..."
    )
