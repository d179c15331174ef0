"""Compiled loops of the factor metrics, one factor at a time.

Kernels release the GIL and start no threads themselves: the caller parallelises over factors, one level.
Values arrive as float32, every sum is float64. NaN in a result means null.
"""

import numpy as np

from qdag.engine.kernels.flags import kernel, part

_TILE = 16  # sessions gathered together: 16 float32 fill one cache line of the (instruments, sessions) array
_LANES = 4  # partial sums; a fixed number, so that equal windows give equal bits


@part
def _sort_key(value):
    """Map a finite float32 to an unsigned integer of the same order (-0.0 and 0.0 to one key)."""
    bits = np.float32(value + np.float32(0.0)).view(np.int32)
    return np.uint64((np.int64(bits) if bits >= 0 else np.int64(-2147483648) - np.int64(bits)) + np.int64(2147483648))


@part
def _average_ranks(order, count, pair, values, ranks):
    """Write 1-based average ranks of the instruments in ``pair``; ``order[:count]`` sorts all that have a value.

    A subset of a sorted sequence is sorted, so one sort serves every horizon, whatever labels are missing there.
    """
    ranked = 0
    begin = 0
    while begin < count:
        if not pair[order[begin]]:
            begin += 1
            continue
        value = values[order[begin]]
        size = 0
        end = begin
        while end < count:
            if pair[order[end]]:
                if values[order[end]] != value:
                    break
                size += 1
            end += 1
        rank = ranked + 0.5 * (size + 1)
        for k in range(begin, end):
            if pair[order[k]]:
                ranks[order[k]] = rank
        ranked += size
        begin = end


@kernel("(float32[:,::1], boolean[:,::1])", "(float64[:,::1], boolean[:,::1])")
def rank_labels(labels, members):
    """Sort and rank the known labels of every session's members, once for all factors.

    Parameters
    ----------
    labels : (S, I) float; members : (S, I) bool

    Returns
    -------
    order : (S, I) int32, instruments by ascending label; count : (S,) int32, how many of them are meant;
    ranks : (S, I) float32, average ranks of those (exact: halves below 2**23)
    """
    sessions, instruments = labels.shape
    order = np.zeros((sessions, instruments), np.int32)
    count = np.zeros(sessions, np.int32)
    ranks = np.zeros((sessions, instruments), np.float32)
    known = np.empty(instruments, np.int64)
    values = np.empty(instruments, np.float64)
    has = np.empty(instruments, np.bool_)
    for s in range(sessions):
        n = 0
        for i in range(instruments):
            has[i] = members[s, i] and np.isfinite(labels[s, i])
            if has[i]:
                known[n] = i
                values[n] = labels[s, i]
                n += 1
        sort = np.argsort(values[:n])
        for k in range(n):
            order[s, k] = known[sort[k]]
        count[s] = n
        _average_ranks(order[s], n, has, labels[s], ranks[s])
    return order, count, ranks


# labels are float32 or float64
_CROSS_SECTIONS = (
    "(float32[:,:], int64, boolean[:,::1], {}[:,:,::1], int32[:,:,::1], int32[:,::1], float32[:,:,::1], int64[::1], "
    "int64, int64, int64, int64)"
)


@kernel(_CROSS_SECTIONS.format("float32"), _CROSS_SECTIONS.format("float64"))
def cross_sections(
    values, first, members, labels, label_order, label_count, label_ranks, horizons, offset, dates,
    min_pairs, min_quintile_pairs,
):  # fmt: skip
    """Compare one factor with the labels of every horizon, session by session.

    Parameters
    ----------
    values : (I, V) float32 factor; its column ``first`` is session 0 of the other arrays
    members : (S, I) bool; labels : (H, S, I) float; label_order, _count, _ranks : from `rank_labels`
    horizons : (H,) int64
    offset : metric date 0 is session ``offset`` counted from session 0
    dates : number of metric dates

    Returns
    -------
    ic, rank_ic, coverage, long_short : (H, dates) float64; n : (H, dates) int32
    """
    sessions, instruments = members.shape
    ic = np.full((len(horizons), dates), np.nan)
    rank_ic = np.full((len(horizons), dates), np.nan)
    coverage = np.full((len(horizons), dates), np.nan)
    long_short = np.full((len(horizons), dates), np.nan)
    pairs = np.zeros((len(horizons), dates), np.int32)

    tile = np.empty((_TILE, instruments), np.float32)
    keys = np.empty(instruments, np.uint64)
    order = np.empty(instruments, np.int32)
    finite = np.empty(instruments, np.bool_)
    pair = np.empty(instruments, np.bool_)
    own_ranks = np.empty(instruments, np.float32)
    part_ranks = np.empty(instruments, np.float32)
    part_label_ranks = np.empty(instruments, np.float32)
    for block in range(0, sessions, _TILE):
        width = min(_TILE, sessions - block)
        for i in range(instruments):
            for k in range(width):
                tile[k, i] = values[i, first + block + k]
        for k in range(width):
            s = block + k
            x = tile[k]
            listed = 0
            count = 0
            for i in range(instruments):
                finite[i] = False
                if members[s, i]:
                    listed += 1
                    if np.isfinite(x[i]):
                        finite[i] = True
                        keys[count] = (_sort_key(x[i]) << np.uint64(32)) | np.uint64(i)
                        count += 1
            keys[:count].sort()
            for j in range(count):
                order[j] = np.int32(keys[j] & np.uint64(0xFFFFFFFF))
            _average_ranks(order, count, finite, x, own_ranks)

            for h in range(len(horizons)):
                t = s + horizons[h] + 1 - offset
                if t < 0 or t >= dates:
                    continue
                if listed > 0:
                    coverage[h, t] = count / listed
                y = labels[h, s]
                n = 0
                sum_x = 0.0
                sum_y = 0.0
                for i in range(instruments):
                    pair[i] = finite[i] and np.isfinite(y[i])
                    if pair[i]:
                        n += 1
                        sum_x += x[i]
                        sum_y += y[i]
                pairs[h, t] = n
                if n < min_pairs and n < min_quintile_pairs:
                    continue
                # ranks among the pairs are the ranks among all when nobody dropped out on that side
                rx = own_ranks
                if n < count:
                    rx = part_ranks
                    _average_ranks(order, count, pair, x, rx)
                ry = label_ranks[h, s]
                if n < label_count[h, s]:
                    ry = part_label_ranks
                    _average_ranks(label_order[h, s], label_count[h, s], pair, y, ry)
                mean_x = sum_x / n
                mean_y = sum_y / n
                middle = 0.5 * (n + 1)
                xx = yy = xy = 0.0
                # rank sums are multiples of 1/4 below 2**53, so they are exact and zero only for a constant side
                rank_xx = rank_yy = rank_xy = 0.0
                top = bottom = 0.0
                n_top = np.int64(0)
                n_bottom = np.int64(0)
                for i in range(instruments):
                    if not pair[i]:
                        continue
                    place = np.float64(rx[i]) - 1.0
                    dx = np.float64(x[i]) - mean_x
                    dy = np.float64(y[i]) - mean_y
                    xx += dx * dx
                    yy += dy * dy
                    xy += dx * dy
                    dx = np.float64(rx[i]) - middle
                    dy = np.float64(ry[i]) - middle
                    rank_xx += dx * dx
                    rank_yy += dy * dy
                    rank_xy += dx * dy
                    # selected, not branched on: which way an instrument goes is unpredictable
                    low = 5.0 * place <= n - 1
                    high = 5.0 * place > 4 * (n - 1)
                    bottom += y[i] if low else 0.0
                    top += y[i] if high else 0.0
                    n_bottom += low
                    n_top += high
                if n >= min_quintile_pairs and n_top > 0 and n_bottom > 0:
                    long_short[h, t] = top / n_top - bottom / n_bottom
                if n >= min_pairs and rank_xx > 0 and rank_yy > 0 and xx > 0 and yy > 0:
                    ic[h, t] = min(1.0, max(-1.0, xy / (np.sqrt(xx) * np.sqrt(yy))))
                    rank_ic[h, t] = min(1.0, max(-1.0, rank_xy / np.sqrt(rank_xx * rank_yy)))
    return ic, rank_ic, coverage, long_short, pairs


@kernel("(float64[:,:], int64, int64, float64)")
def trailing_ratio(values, window, minimum, equal):
    """Mean / sample standard deviation of the values that are not NaN in each trailing window.

    Parameters
    ----------
    values : (R, window - 1 + T) float64; result t looks at values[:, t : t + window]
    minimum : fewest values for a ratio, at least 2
    equal : a standard deviation up to this is rounding of equal values

    Returns
    -------
    ratio : (R, T) float64, NaN with too few values or all equal; count : (R, T) int32

    Every window is summed anew, in two passes: 252 additions cost less than a running sum's lost digits.
    """
    rows = values.shape[0]
    dates = values.shape[1] - window + 1
    ratio = np.full((rows, dates), np.nan)
    count = np.zeros((rows, dates), np.int32)
    valid = np.empty(values.shape[1], np.float64)
    for r in range(rows):
        high = 0  # valid[low:high] is the window without its NaN
        low = 0
        for k in range(window - 1):
            if not np.isnan(values[r, k]):
                valid[high] = values[r, k]
                high += 1
        for t in range(dates):
            if t > 0 and not np.isnan(values[r, t - 1]):
                low += 1
            if not np.isnan(values[r, t + window - 1]):
                valid[high] = values[r, t + window - 1]
                high += 1
            n = high - low
            count[r, t] = n
            if n < minimum:
                continue
            part = valid[low:high]
            s0 = s1 = s2 = s3 = 0.0
            whole = n - n % _LANES
            for k in range(0, whole, _LANES):
                s0 += part[k]
                s1 += part[k + 1]
                s2 += part[k + 2]
                s3 += part[k + 3]
            for k in range(whole, n):
                s0 += part[k]
            mean = (s0 + s1 + s2 + s3) / n
            s0 = s1 = s2 = s3 = 0.0
            for k in range(0, whole, _LANES):
                s0 += (part[k] - mean) ** 2
                s1 += (part[k + 1] - mean) ** 2
                s2 += (part[k + 2] - mean) ** 2
                s3 += (part[k + 3] - mean) ** 2
            for k in range(whole, n):
                s0 += (part[k] - mean) ** 2
            deviation = np.sqrt((s0 + s1 + s2 + s3) / (n - 1))
            if deviation > equal:
                ratio[r, t] = mean / deviation
    return ratio, count
