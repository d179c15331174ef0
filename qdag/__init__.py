"""qdag: a Dagster asset-based data platform for quantitative equity research on Microsoft Qlib."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from qdag.desk.desk import Desk

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(path: "str | Path | None" = None) -> "Desk":
    """Open a data home from Python; nothing of it is read before it is asked for.

    Parameters
    ----------
    path : settings file, or a folder with a ``qdag.toml``; by default what the command finds: ``$QDAG_CONFIG``, else
        ``./qdag.toml`` where it exists, else the defaults. ``QDAG_*`` variables count as for the command.

    Raises
    ------
    SettingsError
        The file cannot be read, or a setting does not fit.
    UnknownNameError
        There is no such file.
    """
    from qdag.desk.desk import open_desk

    return open_desk(path)
