"""Order statistics of windows: Quantile, Med, Rank; and Mad, which like them looks at every value of the window.

A sorted window is kept per lane. Replacing the oldest value by the newest is one pass of compare, min and max over the
window for all lanes at once.
Order statistics are exact, so the values depend on the window alone.
"""

import numpy as np

from qdag.engine.kernels.flags import kernel


@kernel(
    "void(float32[::1], int64, int64, float64[::1], int64, float32[:,::1], float64[:,::1])",
    "void(float64[::1], int64, int64, float64[::1], int64, float64[:,::1], float64[:,::1])",
)
def rolling_order(x, lanes, window, quantiles, with_rank, scratch, out):
    """Quantiles (linear interpolation) and the average-tie percentile rank of the newest value, over valid values.

    out (len(quantiles) + with_rank, n), the rank last; NaN where nothing is valid, and for the rank where the newest
    value is missing. scratch (window + 6, lanes).
    """
    rows = x.size // lanes
    ordered = scratch[: window + 1]
    ordered[:] = np.inf  # a missing value is kept as the largest
    gone = scratch[window + 1]
    new = scratch[window + 2]
    previous = scratch[window + 3]
    less = scratch[window + 4]
    equal = scratch[window + 5]
    count = np.zeros(lanes, np.int64)
    for t in range(rows):
        values = x[t * lanes : (t + 1) * lanes]
        for lane in range(lanes):
            valid = abs(values[lane]) < np.inf
            # + 0.0 makes -0.0 and 0.0 one value
            new[lane] = values[lane] + 0.0 if valid else np.inf
            count[lane] += 1 if valid else 0
            previous[lane] = -np.inf
            less[lane] = 0.0
            equal[lane] = 0.0
        if t >= window:
            olds = x[(t - window) * lanes : (t - window + 1) * lanes]
            for lane in range(lanes):
                valid = abs(olds[lane]) < np.inf
                gone[lane] = olds[lane] + 0.0 if valid else np.inf
                count[lane] -= 1 if valid else 0
        else:
            gone[:] = np.inf
        for i in range(window):
            here = ordered[i]
            after = ordered[i + 1]
            for lane in range(lanes):
                kept = here[lane] if here[lane] < gone[lane] else after[lane]
                below = kept if kept < new[lane] else new[lane]
                here[lane] = below if below > previous[lane] else previous[lane]
                previous[lane] = kept
                less[lane] += 1.0 if kept < new[lane] else 0.0
                equal[lane] += 1.0 if kept == new[lane] else 0.0
        for q in range(quantiles.size):
            result = out[q, t * lanes : (t + 1) * lanes]
            for lane in range(lanes):
                if count[lane] == 0:
                    result[lane] = np.nan
                else:
                    place = quantiles[q] * (count[lane] - 1)
                    low = int(place)
                    value = float(ordered[low, lane])
                    if place > low:
                        value += (ordered[low + 1, lane] - value) * (place - low)
                    result[lane] = value
        if with_rank:
            result = out[quantiles.size, t * lanes : (t + 1) * lanes]
            for lane in range(lanes):
                rank = (less[lane] + 0.5 * equal[lane] + 1.0) / count[lane]
                result[lane] = rank if new[lane] < np.inf else np.nan


@kernel(
    "void(float32[::1], int64, int64, float64[:,::1], float64[::1])",
    "void(float64[::1], int64, int64, float64[:,::1], float64[::1])",
)
def rolling_mad(x, lanes, window, scratch, out):
    """Mean absolute deviation from the window's mean, over valid values, NaN without any. scratch (3, lanes)."""
    rows = x.size // lanes
    mean = scratch[0]
    total = scratch[1]
    count = scratch[2]
    for t in range(rows):
        oldest = max(0, t - window + 1)
        total[:] = 0.0
        count[:] = 0.0
        # newest first: the order of summation is then the same however long the panel is
        for step in range(t - oldest + 1):
            values = x[(t - step) * lanes : (t - step + 1) * lanes]
            for lane in range(lanes):
                valid = abs(values[lane]) < np.inf
                total[lane] += values[lane] if valid else 0.0
                count[lane] += 1.0 if valid else 0.0
        for lane in range(lanes):
            mean[lane] = total[lane] / count[lane]
            total[lane] = 0.0
        for step in range(t - oldest + 1):
            values = x[(t - step) * lanes : (t - step + 1) * lanes]
            for lane in range(lanes):
                valid = abs(values[lane]) < np.inf
                total[lane] += abs(values[lane] - mean[lane]) if valid else 0.0
        result = out[t * lanes : (t + 1) * lanes]
        for lane in range(lanes):
            result[lane] = total[lane] / count[lane]
