"""Co-moments of two series over windows: Corr, Cov. Moments are merged as in ``moments``."""

import numpy as np

from qdag.engine.kernels.flags import kernel

CORR, COV = 0, 1
EQUAL = 1e-13  # values this close relative to their mean are one value but for the rounding of what made them
FLAT = 2e-5  # Qlib calls a window flat at this standard deviation and gives NaN

_PARTS = "int64, int64, int64[::1], int64[:,::1], int64[:,::1], float64[:,:,::1], float64[:,::1])"


@kernel(
    f"void(float32[::1], float32[::1], {_PARTS}",
    f"void(float32[::1], float64[::1], {_PARTS}",
    f"void(float64[::1], float32[::1], {_PARTS}",
    f"void(float64[::1], float64[::1], {_PARTS}",
)
def rolling_pairs(x, z, lanes, history, keep, merges, finals, scratch, out):
    """Corr and Cov (ddof=1) over the points where both are valid; NaN below two, and Corr where all are equal.

    finals (K, 2): slot, kind; scratch (6, slots, elements): count, means of x and z, sums of xx, xz, zz.
    """
    base = history * lanes
    chunk = scratch.shape[2] - base
    scratch[:, :, :base] = 0.0
    for begin in range(0, x.size, chunk):
        width = min(chunk, x.size - begin)
        xs = x[begin : begin + width]
        zs = z[begin : begin + width]
        c0 = scratch[0, 0, base : base + width]
        x0 = scratch[1, 0, base : base + width]
        z0 = scratch[2, 0, base : base + width]
        for i in range(width):
            valid = (abs(xs[i]) < np.inf) & (abs(zs[i]) < np.inf)
            c0[i] = 1.0 if valid else 0.0
            x0[i] = xs[i] if valid else 0.0
            z0[i] = zs[i] if valid else 0.0
        for part in (3, 4, 5):
            scratch[part, 0, base : base + width] = 0.0
        for j in range(merges.shape[0]):
            back = merges[j, 2] * lanes
            a = merges[j, 0]
            b = merges[j, 1]
            ca = scratch[0, a, base : base + width]
            xa = scratch[1, a, base : base + width]
            za = scratch[2, a, base : base + width]
            cb = scratch[0, b, base - back : base - back + width]
            xb = scratch[1, b, base - back : base - back + width]
            zb = scratch[2, b, base - back : base - back + width]
            c = scratch[0, j + 1, base : base + width]
            mx = scratch[1, j + 1, base : base + width]
            mz = scratch[2, j + 1, base : base + width]
            xxa = scratch[3, a, base : base + width]
            xxb = scratch[3, b, base - back : base - back + width]
            xx = scratch[3, j + 1, base : base + width]
            xza = scratch[4, a, base : base + width]
            xzb = scratch[4, b, base - back : base - back + width]
            xz = scratch[4, j + 1, base : base + width]
            zza = scratch[5, a, base : base + width]
            zzb = scratch[5, b, base - back : base - back + width]
            zz = scratch[5, j + 1, base : base + width]
            for i in range(width):
                count = ca[i] + cb[i]
                share = cb[i] / (count if count > 1.0 else 1.0)
                dx = xb[i] - xa[i]
                dz = zb[i] - za[i]
                weight = ca[i] * share
                c[i] = count
                mx[i] = xa[i] + dx * share
                mz[i] = za[i] + dz * share
                xx[i] = xxa[i] + xxb[i] + dx * dx * weight
                xz[i] = xza[i] + xzb[i] + dx * dz * weight
                zz[i] = zza[i] + zzb[i] + dz * dz * weight
        for k in range(finals.shape[0]):
            slot = finals[k, 0]
            c = scratch[0, slot, base : base + width]
            mx = scratch[1, slot, base : base + width]
            mz = scratch[2, slot, base : base + width]
            xx = scratch[3, slot, base : base + width]
            xz = scratch[4, slot, base : base + width]
            zz = scratch[5, slot, base : base + width]
            result = out[k, begin : begin + width]
            if finals[k, 1] == CORR:
                for i in range(width):
                    spread = (xx[i] > c[i] * (EQUAL * mx[i]) ** 2) & (zz[i] > c[i] * (EQUAL * mz[i]) ** 2)
                    result[i] = xz[i] / np.sqrt(xx[i] * zz[i]) if spread else np.nan
            else:
                for i in range(width):
                    result[i] = xz[i] / (c[i] - 1.0) if c[i] > 1.0 else np.nan
        for part in range(6):
            for slot in range(scratch.shape[1]):
                tail = keep[slot] * lanes
                scratch[part, slot, base - tail : base] = scratch[part, slot, base + width - tail : base + width]


@kernel("void(float64[::1], float64[::1], float64[::1])")
def drop_flat(result, std_x, std_z):
    """Set NaN, in place, where either series' own standard deviation says that its window is flat."""
    for i in range(result.size):
        flat = (std_x[i] <= FLAT) | (std_z[i] <= FLAT)
        result[i] = np.nan if flat else result[i]
