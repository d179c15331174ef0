"""Statistics across instruments, session by session: CSRank, CSZScore, CSDemean, CSWinsor, CSNeutralize."""

import numpy as np

from qdag.engine.kernels.flags import kernel

RANK, ZSCORE, DEMEAN, WINSOR, NEUTRALIZE, NEUTRALIZE_GROUP = 0, 1, 2, 3, 4, 5


@kernel("void(float64[:,::1], float64[:,::1], boolean[:,::1], int64, float64, int64, int64, float64[:,::1])")
def cross_section(x, exposure, pool, kind, level, begin, end, out):
    """Evaluate one operator for sessions [begin, end).

    x, exposure, out (sessions, instruments); pool: who counts. Members without a finite value (and, for neutralising,
    without a finite exposure) are left out and get NaN, like everybody outside the pool.
    """
    instruments = x.shape[1]
    who = np.empty(instruments, np.int64)
    values = np.empty(instruments)
    for t in range(begin, end):
        n = 0
        for i in range(instruments):
            out[t, i] = np.nan
            valid = pool[t, i] and abs(x[t, i]) < np.inf
            if kind >= NEUTRALIZE:
                valid = valid and abs(exposure[t, i]) < np.inf
            if valid:
                who[n] = i
                values[n] = x[t, i]
                n += 1
        if n == 0:
            continue
        if kind == RANK:
            order = np.argsort(values[:n], kind="mergesort")
            i = 0
            while i < n:
                j = i
                while j + 1 < n and values[order[j + 1]] == values[order[i]]:
                    j += 1
                for k in range(i, j + 1):
                    out[t, who[order[k]]] = (0.5 * (i + j) + 1.0) / n
                i = j + 1
        elif kind == WINSOR:
            ordered = np.sort(values[:n])
            place = level * (n - 1)
            step = int(place)
            low = ordered[step]
            high = ordered[n - 1 - step]
            if place > step:
                low += (ordered[step + 1] - low) * (place - step)
                high += (ordered[n - 2 - step] - high) * (place - step)
            for k in range(n):
                out[t, who[k]] = min(max(values[k], low), high)
        elif kind == NEUTRALIZE_GROUP:
            groups = np.empty(n)
            for k in range(n):
                groups[k] = exposure[t, who[k]]
            order = np.argsort(groups, kind="mergesort")
            i = 0
            while i < n:
                j = i
                total = 0.0
                while j < n and groups[order[j]] == groups[order[i]]:
                    total += values[order[j]]
                    j += 1
                for k in range(i, j):
                    out[t, who[order[k]]] = values[order[k]] - total / (j - i)
                i = j
        else:
            mean = 0.0
            for k in range(n):
                mean += values[k]
            mean /= n
            if kind == DEMEAN:
                for k in range(n):
                    out[t, who[k]] = values[k] - mean
            elif kind == ZSCORE:
                square = 0.0
                for k in range(n):
                    square += (values[k] - mean) ** 2
                std = np.sqrt(square / (n - 1)) if n > 1 else np.nan
                for k in range(n):
                    out[t, who[k]] = (values[k] - mean) / std
            else:
                centre = 0.0
                for k in range(n):
                    centre += exposure[t, who[k]]
                centre /= n
                square = 0.0
                product = 0.0
                for k in range(n):
                    deviation = exposure[t, who[k]] - centre
                    square += deviation * deviation
                    product += deviation * (values[k] - mean)
                # an exposure that is the same for all explains nothing
                slope = product / square if square > 0.0 else 0.0
                for k in range(n):
                    out[t, who[k]] = values[k] - mean - slope * (exposure[t, who[k]] - centre)
