"""Starting Qlib on the engine."""

from pathlib import Path
from typing import Any

from qdag.errors import MissingDataError, SettingsError

PROVIDER = "EngineDatasetProvider"


def init(
    provider_uri: str | Path | None = None,
    region: str | None = None,
    *,
    universe: str | None = None,
    threads: int | None = None,
    cache_bytes: int | None = None,
    processors: bool = True,
    **qlib_kwargs: Any,
) -> None:
    """Call ``qlib.init`` with the engine as its dataset provider.

    Parameters
    ----------
    provider_uri : a provider directory of daily data, of qdag or of anybody
    region : Qlib's trading rules; by default the universe's, else Qlib's own default
    universe : a universe of qdag's settings, whose directory and region are taken
    threads, cache_bytes : of ``EngineDatasetProvider``; its own defaults where None
    processors : whether configurations that name Qlib's ``CSZScoreNorm``, ``CSZFillna`` or ``ProcessInf`` get qdag's,
        in this process: the same bits without a pandas call for each day. False leaves Qlib's module as it is
    qlib_kwargs : everything else that ``qlib.init`` takes

    Raises
    ------
    SettingsError
        Both or neither of ``provider_uri`` and ``universe``, or settings that cannot be read.
    UnknownNameError
        There is no such universe.
    MissingDataError
        There is no provider directory.
    """
    if (provider_uri is None) == (universe is None):
        given = "both are given" if universe else "neither is given"
        raise SettingsError(f"give provider_uri=... or universe=..., and only one of them; {given}")
    if universe is not None:
        from qdag.settings import load_settings

        settings = load_settings()
        region = region or settings.universe(universe).region
        provider_uri = settings.provider(universe)
    if isinstance(provider_uri, str | Path):
        folder = Path(provider_uri).expanduser()
        if not (folder / "calendars" / "day.txt").is_file():
            remedy = "materialize qlib_bin first" if universe else "give the folder that holds calendars/day.txt"
            raise MissingDataError(f"no Qlib provider at {str(folder)!r}; {remedy}")
        provider_uri = str(folder)

    import qlib

    options = {"threads": threads, "cache_bytes": cache_bytes}
    if region is not None:
        qlib_kwargs["region"] = region
    qlib.init(
        provider_uri=provider_uri,
        dataset_provider={
            "class": PROVIDER,
            "module_path": "qdag.qlib",
            "kwargs": {name: value for name, value in options.items() if value is not None},
        },
        **qlib_kwargs,
    )
    if processors:
        from qdag.qlib.processors import use

        use()
