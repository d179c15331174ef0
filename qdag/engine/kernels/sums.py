"""Sums over windows: Sum, Mean, Count, and the weighted means WMA and EMA."""

import numpy as np

from qdag.engine.kernels.flags import kernel

SUM, MEAN = 0, 1

_WMA = "int64, int64, int64[::1], int64[:,::1], int64[::1], int64[::1], int64[::1], float64[:,:,::1], float64[:,::1]"


@kernel(
    "void(float32[::1], int64, int64, int64[::1], int64[:,::1], int64[:,::1], float64[:,:,::1], float64[:,::1])",
    "void(float64[::1], int64, int64, int64[::1], int64[:,::1], int64[:,::1], float64[:,:,::1], float64[:,::1])",
)
def rolling_sums(x, lanes, history, keep, merges, finals, scratch, out):
    """Sum and Mean over the valid (finite) values of each window; NaN where there is none.

    finals (K, 2): slot of the window, SUM or MEAN; out (K, n); scratch (2, slots, elements).
    """
    base = history * lanes
    chunk = scratch.shape[2] - base
    scratch[:, :, :base] = 0.0
    for begin in range(0, x.size, chunk):
        width = min(chunk, x.size - begin)
        values = x[begin : begin + width]
        s0 = scratch[0, 0, base : base + width]
        c0 = scratch[1, 0, base : base + width]
        for i in range(width):
            valid = abs(values[i]) < np.inf
            s0[i] = values[i] if valid else 0.0
            c0[i] = 1.0 if valid else 0.0
        for j in range(merges.shape[0]):
            back = merges[j, 2] * lanes
            for part in range(2):
                newer = scratch[part, merges[j, 0], base : base + width]
                older = scratch[part, merges[j, 1], base - back : base - back + width]
                merged = scratch[part, j + 1, base : base + width]
                for i in range(width):
                    merged[i] = newer[i] + older[i]
        for k in range(finals.shape[0]):
            s = scratch[0, finals[k, 0], base : base + width]
            c = scratch[1, finals[k, 0], base : base + width]
            result = out[k, begin : begin + width]
            if finals[k, 1] == MEAN:
                for i in range(width):
                    result[i] = s[i] / c[i]
            else:
                for i in range(width):
                    result[i] = s[i] if c[i] > 0.0 else np.nan
        for part in range(2):
            for slot in range(scratch.shape[1]):
                tail = keep[slot] * lanes
                scratch[part, slot, base - tail : base] = scratch[part, slot, base + width - tail : base + width]


@kernel(
    "void(float32[::1], int64, int64, int64[::1], float64[::1])",
    "void(float64[::1], int64, int64, int64[::1], float64[::1])",
)
def rolling_count(x, lanes, window, first, out):
    """Number of values that are not NaN (an infinity counts, as in pandas); NaN before the listing."""
    rows = x.size // lanes
    running = np.zeros(lanes)
    for t in range(rows):
        for lane in range(lanes):
            i = t * lanes + lane
            if not np.isnan(x[i]) and t >= first[lane]:
                running[lane] += 1.0
            if t - window >= first[lane] and not np.isnan(x[i - window * lanes]):
                running[lane] -= 1.0
            out[i] = running[lane] if t >= first[lane] else np.nan


@kernel(
    f"void(float32[::1], {_WMA})",
    f"void(float64[::1], {_WMA})",
)
def rolling_wma(x, lanes, history, keep, merges, lengths, finals, first, scratch, out):
    """Qlib's WMA: ``nanmean(w * x)`` with w = 1..L / (1 + .. + L), the oldest of the L existing rows weighing least.

    lengths (slots): window length of each slot; scratch (3, slots, elements): sum, weighted sum, count.
    """
    base = history * lanes
    chunk = scratch.shape[2] - base
    scratch[:, :, :base] = 0.0
    for begin in range(0, x.size, chunk):
        width = min(chunk, x.size - begin)
        for i in range(width):
            value = x[begin + i]
            valid = abs(value) < np.inf
            scratch[0, 0, base + i] = value if valid else 0.0
            scratch[1, 0, base + i] = value if valid else 0.0
            scratch[2, 0, base + i] = 1.0 if valid else 0.0
        for j in range(merges.shape[0]):
            back = merges[j, 2] * lanes
            a = merges[j, 0]
            b = merges[j, 1]
            older_length = lengths[b]
            newer_length = lengths[a]
            for i in range(width):
                row = (begin + i) // lanes
                existing = row - newer_length - first[i % lanes] + 1
                shift = float(max(0, min(older_length, existing)))
                n = base + i
                o = n - back
                scratch[0, j + 1, n] = scratch[0, a, n] + scratch[0, b, o]
                scratch[1, j + 1, n] = scratch[1, a, n] + shift * scratch[0, a, n] + scratch[1, b, o]
                scratch[2, j + 1, n] = scratch[2, a, n] + scratch[2, b, o]
        for k in range(finals.shape[0]):
            slot = finals[k]
            for i in range(width):
                row = (begin + i) // lanes
                existing = float(max(0, min(lengths[slot], row - first[i % lanes] + 1)))
                weights = existing * (existing + 1.0) / 2.0
                out[k, begin + i] = scratch[1, slot, base + i] / weights / scratch[2, slot, base + i]
        for part in range(3):
            for slot in range(scratch.shape[1]):
                tail = keep[slot] * lanes
                scratch[part, slot, base - tail : base] = scratch[part, slot, base + width - tail : base + width]


@kernel(
    "void(float32[::1], int64, int64, int64[::1], int64[:,::1], int64, float64, float64[:,:,::1], float64[::1])",
    "void(float64[::1], int64, int64, int64[::1], int64[:,::1], int64, float64, float64[:,:,::1], float64[::1])",
)
def rolling_ema(x, lanes, history, keep, merges, slot, decay, scratch, out):
    """Exponentially weighted mean of the valid values, weights decay**age; NaN where there is none.

    The window is long enough that what it leaves out weighs nothing in float32; scratch (2, slots, elements).
    """
    base = history * lanes
    chunk = scratch.shape[2] - base
    scratch[:, :, :base] = 0.0
    for begin in range(0, x.size, chunk):
        width = min(chunk, x.size - begin)
        values = x[begin : begin + width]
        s0 = scratch[0, 0, base : base + width]
        w0 = scratch[1, 0, base : base + width]
        for i in range(width):
            valid = abs(values[i]) < np.inf
            s0[i] = values[i] if valid else 0.0
            w0[i] = 1.0 if valid else 0.0
        for j in range(merges.shape[0]):
            back = merges[j, 2] * lanes
            factor = decay ** merges[j, 2]
            for part in range(2):
                newer = scratch[part, merges[j, 0], base : base + width]
                older = scratch[part, merges[j, 1], base - back : base - back + width]
                merged = scratch[part, j + 1, base : base + width]
                for i in range(width):
                    merged[i] = newer[i] + factor * older[i]
        s = scratch[0, slot, base : base + width]
        w = scratch[1, slot, base : base + width]
        result = out[begin : begin + width]
        for i in range(width):
            result[i] = s[i] / w[i]
        for part in range(2):
            for row in range(scratch.shape[1]):
                tail = keep[row] * lanes
                scratch[part, row, base - tail : base] = scratch[part, row, base + width - tail : base + width]
