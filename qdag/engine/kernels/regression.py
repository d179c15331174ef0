"""Least squares of a window's values on time: Slope, Rsquare, Resi. Moments are merged as in ``moments``."""

import numpy as np

from qdag.engine.kernels.flags import kernel

SLOPE, RSQUARE, RESI, RSQUARE_UNGUARDED = 0, 1, 2, 3
FLAT = 2e-5  # Qlib calls a window flat at this standard deviation and gives NaN


@kernel(
    "void(float32[::1], int64, int64, int64[::1], int64[:,::1], int64[:,::1], float64[:,:,::1], float64[:,::1])",
    "void(float64[::1], int64, int64, int64[::1], int64[:,::1], int64[:,::1], float64[:,:,::1], float64[:,::1])",
)
def rolling_regression(x, lanes, history, keep, merges, finals, scratch, out):
    """Slope, Rsquare and Resi of the valid points, time running 1..N to the newest; NaN below two points.

    An infinity in the window gives NaN (Qlib's Cython code does not drop it). finals (K, 2): slot, kind;
    scratch (6, slots, elements): count, mean age, mean value, and the sums of products of deviations age-age,
    age-value, value-value. Age counts sessions back from the window's end.
    """
    base = history * lanes
    chunk = scratch.shape[2] - base
    scratch[:, :, :base] = 0.0
    for begin in range(0, x.size, chunk):
        width = min(chunk, x.size - begin)
        values = x[begin : begin + width]
        c0 = scratch[0, 0, base : base + width]
        y0 = scratch[2, 0, base : base + width]
        for i in range(width):
            value = values[i]
            missing = np.isnan(value)
            c0[i] = 0.0 if missing else 1.0
            # inf - inf is NaN: the infinity spoils every window it is in, and no other
            y0[i] = 0.0 if missing else value + (value - value)
        for part in (1, 3, 4, 5):
            scratch[part, 0, base : base + width] = 0.0
        for j in range(merges.shape[0]):
            back = merges[j, 2] * lanes
            age = float(merges[j, 2])
            a = merges[j, 0]
            b = merges[j, 1]
            ca = scratch[0, a, base : base + width]
            ta = scratch[1, a, base : base + width]
            ya = scratch[2, a, base : base + width]
            cb = scratch[0, b, base - back : base - back + width]
            tb = scratch[1, b, base - back : base - back + width]
            yb = scratch[2, b, base - back : base - back + width]
            c = scratch[0, j + 1, base : base + width]
            t = scratch[1, j + 1, base : base + width]
            y = scratch[2, j + 1, base : base + width]
            tta = scratch[3, a, base : base + width]
            ttb = scratch[3, b, base - back : base - back + width]
            tt = scratch[3, j + 1, base : base + width]
            tya = scratch[4, a, base : base + width]
            tyb = scratch[4, b, base - back : base - back + width]
            ty = scratch[4, j + 1, base : base + width]
            yya = scratch[5, a, base : base + width]
            yyb = scratch[5, b, base - back : base - back + width]
            yy = scratch[5, j + 1, base : base + width]
            for i in range(width):
                count = ca[i] + cb[i]
                share = cb[i] / (count if count > 1.0 else 1.0)
                # an empty older part has no mean age; its share is 0 and its difference finite
                dt = tb[i] + age - ta[i]
                dy = yb[i] - ya[i]
                weight = ca[i] * share
                c[i] = count
                t[i] = ta[i] + dt * share
                y[i] = ya[i] + dy * share
                tt[i] = tta[i] + ttb[i] + dt * dt * weight
                ty[i] = tya[i] + tyb[i] + dt * dy * weight
                yy[i] = yya[i] + yyb[i] + dy * dy * weight
        for k in range(finals.shape[0]):
            slot = finals[k, 0]
            c = scratch[0, slot, base : base + width]
            t = scratch[1, slot, base : base + width]
            y = scratch[2, slot, base : base + width]
            tt = scratch[3, slot, base : base + width]
            ty = scratch[4, slot, base : base + width]
            yy = scratch[5, slot, base : base + width]
            result = out[k, begin : begin + width]
            if finals[k, 1] == SLOPE:
                for i in range(width):
                    result[i] = -ty[i] / tt[i] if c[i] > 1.0 else np.nan
            elif finals[k, 1] == RESI:
                for i in range(width):
                    slope = -ty[i] / tt[i] if c[i] > 1.0 else np.nan
                    result[i] = values[i] - (y[i] + slope * t[i])
            elif finals[k, 1] == RSQUARE:
                for i in range(width):
                    std = np.sqrt(yy[i] / (c[i] - 1.0))
                    r2 = ty[i] * ty[i] / (tt[i] * yy[i])
                    result[i] = r2 if std > FLAT else np.nan
            else:
                for i in range(width):
                    result[i] = ty[i] * ty[i] / (tt[i] * yy[i])
        for part in range(6):
            for slot in range(scratch.shape[1]):
                tail = keep[slot] * lanes
                scratch[part, slot, base - tail : base] = scratch[part, slot, base + width - tail : base + width]
