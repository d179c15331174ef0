"""Every kind of source is opened by its module, and a package that lacks is named."""

import builtins
import importlib
import re
import sys
from datetime import date

import pytest

from qdag.errors import SourceError, install_command
from qdag.settings import UniverseSettings, kind_of, submodels
from qdag.sources import open_source
from qdag.sources.open import MODULES


@pytest.mark.parametrize("package", ["yfinance", "akshare", "baostock"])
def test_a_missing_package_names_the_extra(monkeypatch, tmp_path, package):
    def without(real):
        def missing(name, *args, **more):
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *args, **more)

        return missing

    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without(builtins.__import__))
    monkeypatch.setattr(importlib, "import_module", without(importlib.import_module))
    kind = "yahoo" if package == "yfinance" else package
    settings = UniverseSettings(
        source={"kind": kind}, calendar="XSHG", start=date(2024, 1, 2), instruments=("SH600000",)
    )
    with pytest.raises(SourceError, match=rf"'{package}'.*{re.escape(install_command('sources'))}"):
        open_source("u", settings, tmp_path)


def test_every_kind_of_the_settings_has_a_module_and_no_other():
    kinds = {kind_of(model) for model in submodels(UniverseSettings.model_fields["source"].annotation)}
    assert kinds == MODULES.keys()
    assert all(callable(importlib.import_module(module).source_of) for module in MODULES.values())


def test_a_source_on_the_network_needs_a_folder():
    settings = UniverseSettings(
        source={"kind": "baostock"}, calendar="XSHG", start=date(2024, 1, 2), instruments=("SH600000",)
    )
    with pytest.raises(SourceError, match=r"source 'baostock' of universe 'u' needs a folder; set source\.cache"):
        open_source("u", settings)
