"""Largest and smallest values of windows and where they are: Max, Min, IdxMax, IdxMin.

Merging two windows' extremes is one comparison, done for many instruments at once; it is exact, so it equals any deque.
"""

import numpy as np

from qdag.engine.kernels.flags import kernel

LARGEST, SMALLEST = 1, -1  # the sign that makes it the largest

_ARG = "int64, int64, int64[::1], int64[:,::1], int64[:,::1], int64[::1]"


@kernel(
    "void(float32[::1], float32, int64, int64, int64[::1], int64[:,::1], int64[::1], float32[:,:,::1], float32[:,::1])",
    "void(float64[::1], float64, int64, int64, int64[::1], int64[:,::1], int64[::1], float64[:,:,::1], float64[:,::1])",
)
def rolling_extreme(x, sign, lanes, history, keep, merges, finals, scratch, out):
    """Maximum (sign 1) or minimum (sign -1) of the valid values, NaN without any. scratch (1, slots, elements)."""
    base = history * lanes
    chunk = scratch.shape[2] - base
    scratch[:, :, :base] = -np.inf
    for begin in range(0, x.size, chunk):
        width = min(chunk, x.size - begin)
        values = x[begin : begin + width]
        leaf = scratch[0, 0, base : base + width]
        for i in range(width):
            leaf[i] = sign * values[i] if abs(values[i]) < np.inf else -np.inf
        for j in range(merges.shape[0]):
            back = merges[j, 2] * lanes
            newer = scratch[0, merges[j, 0], base : base + width]
            older = scratch[0, merges[j, 1], base - back : base - back + width]
            merged = scratch[0, j + 1, base : base + width]
            for i in range(width):
                merged[i] = newer[i] if newer[i] > older[i] else older[i]
        for k in range(finals.size):
            extreme = scratch[0, finals[k], base : base + width]
            result = out[k, begin : begin + width]
            for i in range(width):
                result[i] = sign * extreme[i] if extreme[i] > -np.inf else np.nan
        for slot in range(scratch.shape[1]):
            tail = keep[slot] * lanes
            scratch[0, slot, base - tail : base] = scratch[0, slot, base + width - tail : base + width]


@kernel(
    f"void(float32[::1], float32, {_ARG}, float32[:,:,::1], float32[:,::1])",
    f"void(float64[::1], float64, {_ARG}, float64[:,:,::1], float64[:,::1])",
)
def rolling_argextreme(x, sign, lanes, history, keep, merges, finals, first, scratch, out):
    """1-based place of the first maximum (sign 1) or minimum (sign -1), counted from the window's oldest existing row.

    As numpy's argmax on a window with gaps: a missing value wins. NaN where every value is missing.
    finals (K, 2): slot, window; scratch (3, slots, elements): value, row, whether anything is valid.
    """
    base = history * lanes
    chunk = scratch.shape[2] - base
    scratch[0, :, :base] = -np.inf
    scratch[1, :, :base] = 0.0
    scratch[2, :, :base] = 0.0
    for begin in range(0, x.size, chunk):
        width = min(chunk, x.size - begin)
        for t in range(width // lanes):
            row = begin // lanes + t
            values = x[begin + t * lanes : begin + (t + 1) * lanes]
            v0 = scratch[0, 0, base + t * lanes : base + (t + 1) * lanes]
            p0 = scratch[1, 0, base + t * lanes : base + (t + 1) * lanes]
            a0 = scratch[2, 0, base + t * lanes : base + (t + 1) * lanes]
            for lane in range(lanes):
                valid = abs(values[lane]) < np.inf
                v0[lane] = sign * values[lane] if valid else (np.inf if row >= first[lane] else -np.inf)
                p0[lane] = row
                a0[lane] = 1.0 if valid else 0.0
        for j in range(merges.shape[0]):
            back = merges[j, 2] * lanes
            a = merges[j, 0]
            b = merges[j, 1]
            va = scratch[0, a, base : base + width]
            pa = scratch[1, a, base : base + width]
            aa = scratch[2, a, base : base + width]
            vb = scratch[0, b, base - back : base - back + width]
            pb = scratch[1, b, base - back : base - back + width]
            ab = scratch[2, b, base - back : base - back + width]
            v = scratch[0, j + 1, base : base + width]
            p = scratch[1, j + 1, base : base + width]
            any_valid = scratch[2, j + 1, base : base + width]
            for i in range(width):
                older_wins = vb[i] >= va[i]
                v[i] = vb[i] if older_wins else va[i]
                p[i] = pb[i] if older_wins else pa[i]
                any_valid[i] = ab[i] if ab[i] > aa[i] else aa[i]
        for k in range(finals.shape[0]):
            for t in range(width // lanes):
                row = begin // lanes + t
                p = scratch[1, finals[k, 0], base + t * lanes : base + (t + 1) * lanes]
                any_valid = scratch[2, finals[k, 0], base + t * lanes : base + (t + 1) * lanes]
                result = out[k, begin + t * lanes : begin + (t + 1) * lanes]
                for lane in range(lanes):
                    oldest = max(row - finals[k, 1] + 1, first[lane])
                    result[lane] = p[lane] - oldest + 1 if any_valid[lane] > 0.0 else np.nan
        for part in range(3):
            for slot in range(scratch.shape[1]):
                tail = keep[slot] * lanes
                scratch[part, slot, base - tail : base] = scratch[part, slot, base + width - tail : base + width]
