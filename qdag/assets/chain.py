"""The assets of some settings in the order in which they are made, found by their modules."""

from collections.abc import Iterator
from datetime import date
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import qdag.assets
from qdag.assets.asset import Asset
from qdag.assets.platform import Platform
from qdag.assets.result import Result
from qdag.errors import unknown
from qdag.settings import QualitySettings, Settings


class Chain:
    """The assets of some settings: each stands after all that it is made from.

    Iterating gives the assets; ``chain[name]`` is the one of a name.
    """

    def __init__(self, settings: Settings):
        declared = {asset.name: asset for asset in _declared(settings)}
        upstream = {name: asset.upstream(settings) for name, asset in declared.items()}
        self._assets: dict[str, Asset] = {}
        while len(self._assets) < len(declared):
            ready = [n for n in declared if n not in self._assets and all(up in self._assets for up in upstream[n])]
            if not ready:
                left = {n: [u for u in upstream[n] if u not in self._assets] for n in declared if n not in self._assets}
                raise ValueError(f"these assets wait for each other, or for assets that do not exist: {left}")
            self._assets |= {name: declared[name] for name in ready}
        self._after_months = self._fed_by({n for n, asset in declared.items() if asset.period == "month"}, upstream)
        self._settings = settings

    def _fed_by(self, names: set[str], upstream: dict[str, tuple[str, ...]]) -> set[str]:
        found = set(names)
        for name in self._assets:
            if found & set(upstream[name]):
                found.add(name)
        return found - names

    def __iter__(self) -> Iterator[Asset]:
        return iter(self._assets.values())

    def __contains__(self, name: object) -> bool:
        return name in self._assets

    def __getitem__(self, name: str) -> Asset:
        if name not in self._assets:
            raise unknown("asset", name, self._assets)
        return self._assets[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all assets, in order."""
        return tuple(self._assets)

    @property
    def sessions(self) -> tuple[Asset, ...]:
        """Those whose partitions are sessions."""
        return tuple(asset for asset in self if asset.period == "session")

    @property
    def months(self) -> tuple[Asset, ...]:
        """Those whose partitions are months."""
        return tuple(asset for asset in self if asset.period == "month")

    @property
    def after_months(self) -> tuple[Asset, ...]:
        """Those of sessions that are made from what is made by month."""
        return tuple(asset for asset in self.sessions if asset.name in self._after_months)

    def versions(self, universe: str) -> dict[str, str]:
        """The version of every asset's definition in a universe."""
        return {asset.name: asset.definition(self._settings, universe).version for asset in self}

    def judged(self) -> dict[str, frozenset[str] | None]:
        """Names of the assets that have rules, in order, each with its levels; None where no drift is judged."""
        return {asset.name: asset.levels for asset in self if asset.rules(self._settings, QualitySettings())}

    def writer_of(self, table: str) -> Asset | None:
        """The asset that writes a table; None where there is none."""
        for asset in self:
            own = asset.table(self._settings)
            if (own and own.name == table) or table in {spec.name for spec in asset.also}:
                return asset
        return None


def chain(settings: Settings) -> Chain:
    """The assets of the settings."""
    return Chain(settings)


def compute(name: str, platform: Platform, universe: str, start: date, end: date, **asked: object) -> Result:
    """Compute the sessions of an asset by its name; ``asked`` are the further arguments that it ``takes``.

    Raises
    ------
    UnknownNameError
        The settings have no such asset.
    """
    return chain(platform.settings)[name].compute(platform, universe, start, end, **asked)


@cache
def _modules() -> tuple[object, ...]:
    names = sorted(module.name for module in iter_modules(qdag.assets.__path__))
    return tuple(import_module(f"{qdag.assets.__name__}.{name}") for name in names)


def _declared(settings: Settings) -> Iterator[Asset]:
    for module in _modules():
        if several := getattr(module, "assets", None):
            yield from several(settings)
        elif isinstance(one := getattr(module, "ASSET", None), Asset):
            yield one
