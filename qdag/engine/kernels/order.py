"""Order statistics of windows: Quantile, Med, Rank; and Mad, which like them looks at every value of the window.

A sorted window is kept per lane. Replacing the oldest value by the newest is one pass of compare, min and max over the
window for all lanes at once.
Order statistics are exact, so the values depend on the window alone.
"""

import numpy as np

from qdag.engine.kernels.flags import kernel

QUANTILE, RANK = 0, 1


@kernel(
    "void(float32[::1], int64, int64, float64[::1], int64, float32[:,:,::1], float64[:,::1])",
    "void(float64[::1], int64, int64, float64[::1], int64, float64[:,:,::1], float64[:,::1])",
)
def rolling_order(x, lanes, window, quantiles, with_rank, scratch, out):
    """Quantiles (linear interpolation) and the average-tie percentile rank of the newest value, over valid values.

    out (len(quantiles) + with_rank, n), the rank last; NaN where nothing is valid, and for the rank where the newest
    value is missing. scratch (2, window + 5, lanes): two sorted windows, used in turn, and three rows of their own.
    """
    rows = x.size // lanes
    # sorted rows 1..window; row 0 is below and row window + 1 above everything; a missing value is kept as the largest
    scratch[:] = np.inf
    scratch[:, 0] = -np.inf
    gone = scratch[0, window + 2]
    new = scratch[0, window + 3]
    twice = scratch[0, window + 4]
    count = np.zeros(lanes, np.int64)
    for t in range(rows):
        old_window = scratch[t % 2]
        new_window = scratch[(t + 1) % 2]
        values = x[t * lanes : (t + 1) * lanes]
        for lane in range(lanes):
            valid = abs(values[lane]) < np.inf
            # + 0.0 makes -0.0 and 0.0 one value
            new[lane] = values[lane] + 0.0 if valid else np.inf
            count[lane] += 1 if valid else 0
        if t >= window:
            olds = x[(t - window) * lanes : (t - window + 1) * lanes]
            for lane in range(lanes):
                valid = abs(olds[lane]) < np.inf
                gone[lane] = olds[lane] + 0.0 if valid else np.inf
                count[lane] -= 1 if valid else 0
        for i in range(window):
            before = old_window[i]
            here = old_window[i + 1]
            after = old_window[i + 2]
            target = new_window[i + 1]
            # one write and five reads: with more arrays the compiler gives up proving them apart and vectorising
            for lane in range(lanes):
                lower = before[lane] if before[lane] < gone[lane] else here[lane]
                upper = here[lane] if here[lane] < gone[lane] else after[lane]
                below = upper if upper < new[lane] else new[lane]
                target[lane] = below if below > lower else lower
        lowest = count.min()
        uniform = lowest > 0 and lowest == count.max()
        for q in range(quantiles.size):
            result = out[q, t * lanes : (t + 1) * lanes]
            if uniform:
                place = quantiles[q] * (lowest - 1)
                low = int(place)
                part = place - low
                here = new_window[low + 1]
                after = new_window[low + 2]
                if part > 0.0:
                    for lane in range(lanes):
                        result[lane] = float(here[lane]) + (float(after[lane]) - float(here[lane])) * part
                else:
                    for lane in range(lanes):
                        result[lane] = here[lane]
                continue
            for lane in range(lanes):
                result[lane] = np.nan
                if count[lane] > 0:
                    place = quantiles[q] * (count[lane] - 1)
                    low = int(place)
                    value = float(new_window[low + 1, lane])
                    if place > low:
                        value += (float(new_window[low + 2, lane]) - value) * (place - low)
                    result[lane] = value
        if with_rank:
            twice[:] = 0.0
            for i in range(window):
                here = new_window[i + 1]
                for lane in range(lanes):
                    twice[lane] += (1.0 if here[lane] < new[lane] else 0.0) + (1.0 if here[lane] <= new[lane] else 0.0)
            result = out[quantiles.size, t * lanes : (t + 1) * lanes]
            for lane in range(lanes):
                # (smaller) + (not larger) + 1 is twice the average rank
                rank = (float(twice[lane]) + 1.0) / 2.0 / float(count[lane])
                result[lane] = rank if new[lane] < np.inf else np.nan


@kernel(
    "void(float32[::1], int64, int64, int64[::1], float64[::1])",
    "void(float64[::1], int64, int64, int64[::1], float64[::1])",
)
def rolling_mad(x, lanes, window, first, out):
    """Mean absolute deviation from the window's mean, over valid values; NaN without any."""
    rows = x.size // lanes
    mean = np.empty(lanes)
    total = np.empty(lanes)
    count = np.empty(lanes)
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
