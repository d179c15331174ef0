"""Compilation: fixed signatures, and a disk cache that several processes may fill at once."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from qdag.engine.kernels import flags, sums
from qdag.engine.kernels.flags import kernel

SCRIPT = """
import numpy as np
from qdag.engine.kernels.sums import rolling_count
for dtype in (np.float32, np.float64):
    out = np.empty(8)
    rolling_count(np.array([1, np.nan, 3, 4, 5, 6, 7, 8], dtype), 2, 3, np.zeros(2, np.int64), out)
    print(out.tolist())
"""


def test_processes_that_start_at_once_share_an_empty_cache(tmp_path: Path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    line = str([1.0, 0.0, 2.0, 1.0, 3.0, 2.0, 3.0, 3.0])
    assert [out.split("\n")[:2] for out, _ in results] == [[line, line]] * 3, results
    assert len(list(tmp_path.rglob("*.nbi"))) == 1
    assert len(list(tmp_path.rglob("*.nbc"))) == 2


def test_another_dtype_is_an_error_not_a_compilation():
    with pytest.raises(TypeError, match="No matching definition"):
        sums.rolling_count(np.ones(4, np.int32), 1, 2, np.zeros(1, np.int64), np.empty(4))


def test_a_kernel_compiles_when_first_called():
    double = kernel("float64(float64)")(lambda x: x * 2.0)
    assert double._compiled is None
    assert double(2.0) == 4.0
    assert double._compiled is not None


UNWRITABLE = """
import logging, os, sys, tempfile
logging.basicConfig(format="%(levelname)s %(message)s")
import numpy as np
from qdag.engine.kernels.flags import kernel
from numba.core import caching, config
{setup}
@kernel("float64(float64)")
def double(x):
    return x * 2.0
@kernel("float64(float64)")
def triple(x):
    return x * 3.0
print(double(2.0), triple(2.0))
"""


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        # no folder that numba would take, as on a read-only root
        ("caching.CacheImpl._locator_classes = []", "no locator available"),
        # nowhere to put the lock
        ("tempfile.gettempdir = lambda: '/proc/nowhere'", "No such file or directory: '/proc/nowhere"),
        ("os.environ['NUMBA_CACHE_DIR'] = '/proc/nowhere'", "No such file or directory: '/proc/nowhere'"),
    ],
)
def test_without_a_folder_for_the_cache_kernels_are_compiled_all_the_same(tmp_path: Path, setup: str, reason: str):
    script = tmp_path / "script.py"
    script.write_text(UNWRITABLE.format(setup=setup))
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["4.0", "6.0"], done.stderr
    # said once, with what to do
    [line] = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert reason in line
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in line


def test_what_one_process_has_compiled_the_next_one_finds(tmp_path: Path):
    """As an image is filled by `qdag compile`: for all kernels that are declared, whether they were called or not."""
    script = tmp_path / "script.py"
    script.write_text(
        "from qdag.engine.kernels import flags\n"
        "assert len(flags._DECLARED) > 20\n"
        "flags._DECLARED.clear()\n"
        "@flags.part\n"
        "def twice(x):\n    return x * 2.0\n"
        "@flags.kernel('(float32,)', '(float64,)')\n"
        "def double(x):\n    return twice(x)\n"
        "@flags.kernel('(float64,)')\n"
        "def triple(x):\n    return x + twice(x)\n"
        "told = []\n"
        "print(flags.load_all(lambda *done: told.append(done)), double(2.0), triple(2.0))\n"
        "assert told == [(1, 2), (2, 2)]\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "made")}
    kept: list[dict[Path, int]] = []
    for _ in range(2):
        done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "2 4.0 6.0\n"
        kept.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")})
    assert len(kept[0]) == 5
    assert kept[0] == kept[1]


def test_an_installation_does_not_wait_for_the_compiler_of_another(tmp_path: Path, monkeypatch):
    """Their kernels lie beside their code; the same code under another name of its folder is one installation."""
    monkeypatch.delenv(flags.CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = flags.__file__
    (tmp_path / "linked").symlink_to(Path(mine).parent)
    for place in (mine, str(tmp_path / "linked" / "flags.py")):
        monkeypatch.setattr(flags, "__file__", place)
        with flags._one_process():
            assert len(list(tmp_path.glob("qdag-kernels-*.lock"))) == 1
    with flags._one_process():
        monkeypatch.setattr(flags, "__file__", str(tmp_path / "other" / "flags.py"))
        with flags._one_process():
            assert len(list(tmp_path.glob("qdag-kernels-*.lock"))) == 2
