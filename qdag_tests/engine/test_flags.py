"""Compilation: fixed signatures, and a disk cache that several processes may fill at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qdag.engine.kernels import sums
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
