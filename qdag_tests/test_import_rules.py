"""The rooms: which module may import which, read from the source itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "qdag"

# room -> the rooms it may import besides itself
ROOMS = {
    "errors": set(),
    "text": set(),
    "schema": {"errors"},
    "calendars": set(),
    "settings": {"errors", "calendars", "schema", "engine"},
    "sessions": {"errors", "settings"},
    "universes": {"errors", "settings", "sessions"},
    "provider": {"errors"},
    "engine": {"errors"},
    "quality": {"errors", "schema", "settings", "sessions", "engine", "features", "store", "quality_reference"},
    "quality_reference": {"errors"},
    "quality_report": {"errors", "schema", "settings", "sessions", "store", "quality"},
    "sources": {"errors", "provider", "schema", "settings", "sessions", "universes", "engine"},
    "features": {"errors", "schema", "settings", "engine"},
    "store": {"errors", "provider", "schema", "settings", "sessions", "universes", "engine"},
    "factors": {"errors", "schema", "settings", "engine"},
    "models": {"errors", "schema", "settings", "sessions", "universes", "engine", "features", "store", "factors"},
}
ROOMS["lineage"] = {"errors", "schema", "store"}
ROOMS["corrections"] = {"errors", "schema", "store"}
DOMAIN = set(ROOMS) | {"__init__"}
ROOMS["stages"] = DOMAIN
ROOMS["refresh"] = DOMAIN | {"stages"}
ROOMS["views"] = DOMAIN | {"stages"}
ROOMS["home"] = {"errors", "settings"}
ROOMS["settings_reference"] = {"errors", "settings"}
ROOMS["server"] = {"errors", "settings", "home", "models"}
ROOMS["doctor"] = DOMAIN | {"home", "draft"}
ROOMS["maintenance"] = DOMAIN | {"stages"}
ROOMS["alerts"] = DOMAIN | {"stages"}
ROOMS["status"] = DOMAIN | {"stages"}
ROOMS["landing"] = ROOMS["refresh"] | {"refresh"}
ROOMS["forecast"] = ROOMS["landing"] | {"landing"}
ROOMS["defs"] = DOMAIN | {"stages", "home", "alerts", "refresh", "landing", "maintenance"}
ROOMS["definitions"] = ROOMS["defs"] | {"defs"}
ROOMS["terminal"] = DOMAIN | {"stages", "home", "defs"}
ROOMS["features_cli"] = ROOMS["terminal"] | {"terminal"}
ROOMS["draft"] = {"errors", "calendars", "settings", "sessions", "sources"}
ROOMS["settings_cli"] = {"errors", "settings", "settings_reference", "draft", "terminal"}
ROOMS["data_cli"] = ROOMS["features_cli"] | {"maintenance"}
ROOMS["alerts_cli"] = ROOMS["features_cli"] | {"alerts"}
ROOMS["automation_cli"] = ROOMS["features_cli"] | {"refresh", "landing", "forecast"}
ROOMS["cli"] = ROOMS["definitions"] | {"definitions", "server", "doctor", "terminal"}
ROOMS["cli"] |= {"settings_cli", "features_cli", "data_cli", "alerts_cli", "automation_cli"}
ROOMS["cli"] |= {"status", "views"}
ROOMS["__main__"] = {"cli"}

ONLY_IN = {
    "dagster": ("defs/", "definitions.py", "cli.py", "server/webserver.py"),
    "dagster_webserver": ("server/webserver.py",),
    "mlflow": ("models/tracking.py", "server/experiments.py"),
    "great_expectations": ("defs/checks.py",),
    "bokeh_sampledata": ("sources/sample.py",),
    "apprise": ("alerts.py",),
    "tenacity": ("sources/fetch.py",),
    "yfinance": ("sources/yahoo_source.py",),
    "akshare": ("sources/akshare_source.py",),
    "baostock": ("sources/baostock_source.py",),
}
# Subclasses of Qlib's classes must be picklable, so they stand at module level; only functions import these modules.
SUBCLASSING = ("models/datasets.py", "models/zoo.py")
LAZY = (
    "dagster",
    "dagster_webserver",
    "uvicorn",
    "index_constitution",
    "mlflow",
    "great_expectations",
    "qlib",
    "lightgbm",
    "exchange_calendars",
    "deltalake",
    "talib",
    "apprise",
    "requests",
    "tenacity",
    "yfinance",
    "akshare",
    "baostock",
)


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def _imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update({node.module} | {f"{node.module}.{alias.name}" for alias in node.names})
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        return
    assert room in ROOMS, f"{path} is in a room the design does not know"
    for name in _imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if (
            parts[0] == "qdag"
            and len(parts) > 1
            and (PACKAGE / parts[1]).with_suffix(".py").exists() | (PACKAGE / parts[1]).is_dir()
        ):
            assert parts[1] == room or parts[1] in ROOMS[room], f"{room} must not import {name}"
        allowed = ONLY_IN.get(parts[0])
        where = str(path.relative_to(PACKAGE))
        assert allowed is None or where.startswith(allowed), f"{where} must not import {parts[0]}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_imports_are_inside_functions(path: Path) -> None:
    room = _room(path)
    tree = ast.parse(path.read_text())
    top = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    heavy = {name.split(".")[0] for name in _imports(top)} & set(LAZY)
    if room in ("defs", "definitions"):
        heavy -= {"dagster"}
    if path.relative_to(PACKAGE).as_posix() in SUBCLASSING:
        heavy -= {"qlib", "lightgbm"}
    assert not heavy, f"import {heavy} where it is used"


def test_help_imports_nothing_heavy() -> None:
    heavy = {"dagster", "mlflow", "qlib", "pandas", "pyarrow", "numba", "numpy", "great_expectations"}
    code = f"import sys, qdag.cli; print(sorted(set(sys.modules) & {heavy}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_code_location_loads_without_the_heavy_neighbours() -> None:
    heavy = {"mlflow", "great_expectations", "qlib", "lightgbm", "numba", "talib", "matplotlib"}
    code = f"import sys, qdag.definitions; print(sorted(set(sys.modules) & {heavy}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
