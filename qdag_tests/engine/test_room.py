"""How the engine is built: no circle among its modules, files of a readable size, operators named in one place."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import qdag.engine
from qdag.engine import OPERATORS

ROOM = Path(qdag.engine.__file__).parent
MODULES = sorted(ROOM.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(ROOM).with_suffix("").parts
    return ".".join(("qdag.engine", *(p for p in parts if p != "__init__")))


def _imports(path: Path) -> set[str]:
    """Modules of the room that a module imports, inside of functions too."""
    names = {_name(p) for p in MODULES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & names
            found |= submodules or {node.module}
    return (found & names) - {_name(path)}


def test_modules_import_one_another_one_way():
    order = list(TopologicalSorter({_name(path): _imports(path) for path in MODULES}).static_order())
    assert order[-1] == "qdag.engine"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_files_have_a_readable_size(path: Path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "operators.py"], ids=_name)
def test_only_the_declarations_name_operators(path: Path):
    strings = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
    assert not {name for name in OPERATORS if name in strings}
