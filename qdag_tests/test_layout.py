"""How the house is built: rooms in one order, no circles, files of a readable size, names where they belong."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from qdag.assets.chain import chain
from qdag.features.catalogue import feature_sets
from qdag.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "qdag"

ORDER = (
    "errors", "text", "calendars", "engine", "schema", "features", "settings", "core", "store", "lineage", "sources",
    "factors", "models", "quality", "assets", "operations", "alerts", "views", "qlib", "defs", "server", "desk", "cli",
    "definitions", "__main__",
)  # fmt: skip
"""A room may import the rooms before it, and no other."""
APART = {"alerts": {"views"}, "views": {"alerts"}, "server": {"defs", "alerts", "views"}, "definitions": {"cli"}}
"""Rooms that stand before another and have nothing to do with it."""
FOR_USERS = {"qlib"}
"""Rooms that no other imports."""

ONLY_IN = {
    "dagster": ("defs/", "definitions.py", "server/webserver.py"),
    "dagster_webserver": ("server/webserver.py",),
    "mlflow": ("models/connection.py", "models/logged.py", "models/tracking.py", "server/experiments.py"),
    "great_expectations": ("quality/validator.py",),
    "jinja2": ("quality/page/",),
    "bokeh_sampledata": ("sources/sample.py",),
    "apprise": ("alerts/targets.py",),
    "numba": ("engine/kernels/flags.py",),
    "tenacity": ("sources/web/fetched.py", "store/tables/conflicts.py"),
    "yfinance": ("sources/web/yahoo.py",),
    "akshare": ("sources/web/akshare.py",),
    "baostock": ("sources/web/baostock.py",),
}
# Subclasses of Qlib's classes must be picklable, so they stand at module level; only functions import these modules.
SUBCLASSING = (
    "models/datasets.py", "models/zoo.py", "qlib/handlers.py", "qlib/loader.py", "qlib/processors.py",
    "qlib/provider.py",
)  # fmt: skip
LAZY = (
    "dagster", "dagster_webserver", "uvicorn", "index_constitution", "mlflow", "great_expectations", "jinja2", "qlib",
    "lightgbm", "exchange_calendars", "deltalake", "talib", "apprise", "requests", "tenacity", "yfinance", "akshare",
    "baostock",
)  # fmt: skip
LINES = 400
"""Most lines of a file."""
OWN_NAMES = ("assets/", "schema/", "features/sets/")
"""Where names of assets are spelled."""
OTHER_THINGS = {"settings/settings.py": {"custom_factors"}, "factors/__init__.py": {"factor_metrics"}}
"""What bears the name of an asset and is none: a key of the settings, a function."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def _where(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update({node.module} | {f"{node.module}.{alias.name}" for alias in node.names})
    return found


@pytest.mark.parametrize("path", MODULES, ids=_where)
def test_imports_run_one_way(path: Path) -> None:
    room, where = _room(path), _where(path)
    if room == "__init__":
        return
    assert room in ORDER, f"{path} is in a room that the order does not know"
    before = {*ORDER[: ORDER.index(room) + 1]} - APART.get(room, set()) - (FOR_USERS - {room})
    for name in _imports(ast.parse(path.read_text())):
        first, *rest = name.split(".")
        if first == "qdag" and rest and rest[0] in ORDER:
            modules = {_name(module) for module in MODULES}
            assert name in modules or name.rpartition(".")[0] in modules, f"{where} imports {name}, which is not there"
            assert rest[0] in before, f"{where} must not import {name}"
        allowed = ONLY_IN.get(first)
        assert allowed is None or where.startswith(allowed), f"{where} must not import {first}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = {_name(path): path for path in MODULES}
    imports = {}
    for name, path in names.items():
        found = {one for one in _imports(ast.parse(path.read_text())) & names.keys() if one != name}
        # a package that is named for what its modules hold is not what is meant
        imports[name] = {one for one in found if not any(other.startswith(f"{one}.") for other in found)}
        imports[name] -= {one for one in imports[name] if name.startswith(f"{one}.")}
    assert list(TopologicalSorter(imports).static_order())


@pytest.mark.parametrize("path", MODULES, ids=_where)
def test_heavy_imports_are_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    heavy = {name.split(".")[0] for name in _imports(top)} & set(LAZY)
    if _room(path) in ("defs", "definitions"):
        heavy -= {"dagster"}
    if _where(path) in SUBCLASSING:
        heavy -= {"qlib", "lightgbm"}
    assert not heavy, f"import {heavy} where it is used"


@pytest.mark.parametrize("path", MODULES, ids=_where)
def test_files_have_a_readable_size(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("path", MODULES, ids=_where)
def test_no_asset_is_named_outside_its_room(path: Path) -> None:
    """What an asset is stands in its file; all others ask the chain."""
    where = _where(path)
    if where.startswith(OWN_NAMES):
        return
    names = {*chain(Settings(custom_factors={"x": "$close"})).names, *feature_sets()} - OTHER_THINGS.get(where, set())
    texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
    assert not {name for name in names if name in texts}


def test_every_asset_and_set_is_in_the_documentation() -> None:
    readme, features = (ROOT / "README.md").read_text(), (ROOT / "docs" / "features.md").read_text()
    for asset in chain(Settings(custom_factors={"x": "$close"})):
        assert f"`{asset.name}`" in readme, asset.name
    for name in feature_sets():
        assert f"## {name}" in features, name


def test_the_map_shows_the_folders() -> None:
    """docs/architecture.md has a line for every room and every folder in it."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    folders = {_where(path.parent) for path in MODULES if path.name == "__init__.py" and path.parent != PACKAGE}
    missing = [folder for folder in sorted(folders) if f"`{folder}/`" not in page]
    assert not missing
    files = {_where(path) for path in MODULES if path.parent == PACKAGE} - {"__init__.py", "__main__.py"}
    assert not [file for file in sorted(files) if f"`{file}`" not in page]


def test_help_imports_nothing_heavy() -> None:
    heavy = {"dagster", "mlflow", "qlib", "pandas", "pyarrow", "numba", "numpy", "great_expectations", "pydantic"}
    code = f"""
import atexit, sys
atexit.register(lambda: print(sorted(set(sys.modules) & {heavy})))
sys.argv = ["qdag", "--help"]
from qdag.cli import main
main()
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_the_code_location_loads_without_the_heavy_neighbours() -> None:
    heavy = {"mlflow", "great_expectations", "qlib", "lightgbm", "numba", "talib", "matplotlib", "jinja2"}
    code = f"import sys, qdag.definitions; print(sorted(set(sys.modules) & {heavy}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
