"""Central moments over windows: Std, Var, Skew, Kurt.

Two windows' moments are merged by the pairwise formulas of Chan, Golub and LeVeque (1983) and Pebay (2008), which work
on differences of means: a large offset or an early spike costs no accuracy, and a constant window has exactly zero
variance.
"""

import numpy as np

from qdag.engine.kernels.flags import kernel

STD, VAR = 0, 1
SKEW, KURT = 0, 1


@kernel(
    "void(float32[::1], int64, int64, int64[::1], int64[:,::1], int64[:,::1], float64[:,:,::1], float64[:,::1])",
    "void(float64[::1], int64, int64, int64[::1], int64[:,::1], int64[:,::1], float64[:,:,::1], float64[:,::1])",
)
def rolling_variance(x, lanes, history, keep, merges, finals, scratch, out):
    """Std and Var with ddof=1 over the valid values; NaN below two.

    finals (K, 2): slot, STD or VAR; scratch (3, slots, elements): count, mean, sum of squared deviations.
    """
    base = history * lanes
    chunk = scratch.shape[2] - base
    scratch[:, :, :base] = 0.0
    for begin in range(0, x.size, chunk):
        width = min(chunk, x.size - begin)
        values = x[begin : begin + width]
        c0 = scratch[0, 0, base : base + width]
        m0 = scratch[1, 0, base : base + width]
        v0 = scratch[2, 0, base : base + width]
        for i in range(width):
            valid = abs(values[i]) < np.inf
            c0[i] = 1.0 if valid else 0.0
            m0[i] = values[i] if valid else 0.0
            v0[i] = 0.0
        for j in range(merges.shape[0]):
            back = merges[j, 2] * lanes
            a = merges[j, 0]
            b = merges[j, 1]
            ca = scratch[0, a, base : base + width]
            ma = scratch[1, a, base : base + width]
            va = scratch[2, a, base : base + width]
            cb = scratch[0, b, base - back : base - back + width]
            mb = scratch[1, b, base - back : base - back + width]
            vb = scratch[2, b, base - back : base - back + width]
            c = scratch[0, j + 1, base : base + width]
            m = scratch[1, j + 1, base : base + width]
            v = scratch[2, j + 1, base : base + width]
            for i in range(width):
                count = ca[i] + cb[i]
                share = cb[i] / (count if count > 1.0 else 1.0)
                delta = mb[i] - ma[i]
                c[i] = count
                m[i] = ma[i] + delta * share
                v[i] = va[i] + vb[i] + delta * delta * (ca[i] * share)
        for k in range(finals.shape[0]):
            c = scratch[0, finals[k, 0], base : base + width]
            v = scratch[2, finals[k, 0], base : base + width]
            result = out[k, begin : begin + width]
            if finals[k, 1] == STD:
                for i in range(width):
                    result[i] = np.sqrt(v[i] / (c[i] - 1.0)) if c[i] > 1.0 else np.nan
            else:
                for i in range(width):
                    result[i] = v[i] / (c[i] - 1.0) if c[i] > 1.0 else np.nan
        for part in range(3):
            for slot in range(scratch.shape[1]):
                tail = keep[slot] * lanes
                scratch[part, slot, base - tail : base] = scratch[part, slot, base + width - tail : base + width]


@kernel(
    "void(float32[::1], int64, int64, int64[::1], int64[:,::1], int64[:,::1], float64[:,:,::1], float64[:,::1])",
    "void(float64[::1], int64, int64, int64[::1], int64[:,::1], int64[:,::1], float64[:,:,::1], float64[:,::1])",
)
def rolling_higher(x, lanes, history, keep, merges, finals, scratch, out):
    """Bias-corrected skewness (3 values at least) and excess kurtosis (4); NaN for a constant window.

    finals (K, 2): slot, SKEW or KURT; scratch (5, slots, elements): count, mean, central sums of order 2, 3, 4.
    """
    base = history * lanes
    chunk = scratch.shape[2] - base
    scratch[:, :, :base] = 0.0
    for begin in range(0, x.size, chunk):
        width = min(chunk, x.size - begin)
        for i in range(width):
            value = x[begin + i]
            valid = abs(value) < np.inf
            scratch[0, 0, base + i] = 1.0 if valid else 0.0
            scratch[1, 0, base + i] = value if valid else 0.0
            scratch[2, 0, base + i] = 0.0
            scratch[3, 0, base + i] = 0.0
            scratch[4, 0, base + i] = 0.0
        for j in range(merges.shape[0]):
            back = merges[j, 2] * lanes
            newer = merges[j, 0]
            older = merges[j, 1]
            for n in range(base, base + width):
                o = n - back
                ca = scratch[0, newer, n]
                cb = scratch[0, older, o]
                count = ca + cb
                safe = count if count > 1.0 else 1.0
                delta = scratch[1, older, o] - scratch[1, newer, n]
                d = delta / safe
                a2 = scratch[2, newer, n]
                b2 = scratch[2, older, o]
                a3 = scratch[3, newer, n]
                b3 = scratch[3, older, o]
                product = ca * cb
                scratch[0, j + 1, n] = count
                scratch[1, j + 1, n] = scratch[1, newer, n] + d * cb
                scratch[2, j + 1, n] = a2 + b2 + delta * d * product
                scratch[3, j + 1, n] = a3 + b3 + delta * d * d * product * (ca - cb) + 3.0 * d * (ca * b2 - cb * a2)
                scratch[4, j + 1, n] = (
                    scratch[4, newer, n]
                    + scratch[4, older, o]
                    + delta * d * d * d * product * (ca * ca - product + cb * cb)
                    + 6.0 * d * d * (ca * ca * b2 + cb * cb * a2)
                    + 4.0 * d * (ca * b3 - cb * a3)
                )
        for k in range(finals.shape[0]):
            slot = finals[k, 0]
            for i in range(width):
                n = scratch[0, slot, base + i]
                m2 = scratch[2, slot, base + i]
                if finals[k, 1] == SKEW:
                    value = n * np.sqrt(n - 1.0) / (n - 2.0) * scratch[3, slot, base + i] / (m2 * np.sqrt(m2))
                    out[k, begin + i] = value if n >= 3.0 and m2 > 0.0 else np.nan
                else:
                    value = n * (n + 1.0) * (n - 1.0) / ((n - 2.0) * (n - 3.0)) * scratch[4, slot, base + i] / (m2 * m2)
                    value -= 3.0 * (n - 1.0) * (n - 1.0) / ((n - 2.0) * (n - 3.0))
                    out[k, begin + i] = value if n >= 4.0 and m2 > 0.0 else np.nan
        for part in range(5):
            for slot in range(scratch.shape[1]):
                tail = keep[slot] * lanes
                scratch[part, slot, base - tail : base] = scratch[part, slot, base + width - tail : base + width]
