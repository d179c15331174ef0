"""Element by element: arithmetic, comparisons, choices, shifts, and copying between a tile and a panel.

The result's dtype is the precision computed in: float32 stays float32, as in Qlib. A comparison is 1.0 or 0.0, with NaN
where the instrument does not exist.
"""

import numpy as np

from qdag.engine.kernels.flags import kernel

ADD, SUB, MUL, DIV, MAXIMUM, MINIMUM = 0, 1, 2, 3, 4, 5
GT, GE, LT, LE, EQ, NE = 0, 1, 2, 3, 4, 5


@kernel(
    "void(int64, float32[::1], float32[::1], float32[::1])",
    "void(int64, float32[::1], float32[::1], float64[::1])",
    "void(int64, float32[::1], float64[::1], float64[::1])",
    "void(int64, float64[::1], float32[::1], float64[::1])",
    "void(int64, float64[::1], float64[::1], float64[::1])",
)
def binary(op, a, b, out):
    """Arithmetic of two series; maximum and minimum propagate NaN."""
    number = out.dtype.type
    if op == ADD:
        for i in range(out.size):
            out[i] = number(a[i]) + number(b[i])
    elif op == SUB:
        for i in range(out.size):
            out[i] = number(a[i]) - number(b[i])
    elif op == MUL:
        for i in range(out.size):
            out[i] = number(a[i]) * number(b[i])
    elif op == DIV:
        for i in range(out.size):
            out[i] = number(a[i]) / number(b[i])
    elif op == MAXIMUM:
        for i in range(out.size):
            x = number(a[i])
            y = number(b[i])
            out[i] = x if (x > y) | np.isnan(x) else y
    else:
        for i in range(out.size):
            x = number(a[i])
            y = number(b[i])
            out[i] = x if (x < y) | np.isnan(x) else y


@kernel(
    "void(int64, float32[::1], float32, boolean, float32[::1])",
    "void(int64, float32[::1], float64, boolean, float64[::1])",
    "void(int64, float64[::1], float64, boolean, float64[::1])",
)
def binary_scalar(op, a, scalar, scalar_first, out):
    """Arithmetic of a series and a number, which is on the left when scalar_first."""
    number = out.dtype.type
    s = number(scalar)
    if op == ADD:
        for i in range(out.size):
            out[i] = number(a[i]) + s
    elif op == SUB:
        if scalar_first:
            for i in range(out.size):
                out[i] = s - number(a[i])
        else:
            for i in range(out.size):
                out[i] = number(a[i]) - s
    elif op == MUL:
        for i in range(out.size):
            out[i] = number(a[i]) * s
    elif op == DIV:
        if scalar_first:
            for i in range(out.size):
                out[i] = s / number(a[i])
        else:
            for i in range(out.size):
                out[i] = number(a[i]) / s
    elif op == MAXIMUM:
        for i in range(out.size):
            x = number(a[i])
            out[i] = x if (x > s) | np.isnan(x) else s
    else:
        for i in range(out.size):
            x = number(a[i])
            out[i] = x if (x < s) | np.isnan(x) else s


@kernel(
    "void(int64, float32[::1], float32[::1], float32[::1])",
    "void(int64, float32[::1], float64[::1], float32[::1])",
    "void(int64, float64[::1], float32[::1], float32[::1])",
    "void(int64, float64[::1], float64[::1], float32[::1])",
)
def compare(op, a, b, out):
    """Comparison of two series: 1.0 or 0.0; a NaN compares false, but for "not equal"."""
    if op == GT:
        for i in range(out.size):
            out[i] = 1.0 if a[i] > b[i] else 0.0
    elif op == GE:
        for i in range(out.size):
            out[i] = 1.0 if a[i] >= b[i] else 0.0
    elif op == LT:
        for i in range(out.size):
            out[i] = 1.0 if a[i] < b[i] else 0.0
    elif op == LE:
        for i in range(out.size):
            out[i] = 1.0 if a[i] <= b[i] else 0.0
    elif op == EQ:
        for i in range(out.size):
            out[i] = 1.0 if a[i] == b[i] else 0.0
    else:
        for i in range(out.size):
            out[i] = 1.0 if a[i] != b[i] else 0.0


def absolute(x, out):
    """Absolute value, in the dtype of out; numpy does this as fast as a kernel, and the next four."""
    np.abs(x, out=out, dtype=out.dtype)


def sign(x, out):
    """-1, 0 or 1 in float32, which a float64 series is rounded to before; NaN for NaN."""
    np.sign(x.astype(np.float32, copy=False), out=out)


def logarithm(x, out):
    """Natural logarithm, in the dtype of out: -inf for 0, NaN below."""
    np.log(x, out=out, dtype=out.dtype)


def negation(x, out):
    """Logical not of 1.0 and 0.0; NaN stays."""
    np.subtract(np.float32(1), x, out=out)


def power(x, y, out):
    """Power ``x**y``, either a series or a number of out's dtype; 1 for x**0 and 1**y, also of NaN."""
    np.power(x, y, out=out)


@kernel(
    "void(float32[::1], float32[::1], float32[::1], float32[::1])",
    "void(float32[::1], float64[::1], float64[::1], float64[::1])",
    "void(float64[::1], float32[::1], float32[::1], float32[::1])",
    "void(float64[::1], float64[::1], float64[::1], float64[::1])",
)
def choose(condition, a, b, out):
    """Take a where the condition is not zero (a float NaN is not zero, as in numpy), else b."""
    for i in range(out.size):
        out[i] = a[i] if condition[i] != 0.0 else b[i]


@kernel(
    "void(float32[::1], int64, int64, int64[::1], float32[::1])",
    "void(float64[::1], int64, int64, int64[::1], float64[::1])",
)
def shift(x, lanes, steps, last, out):
    """The value ``steps`` sessions ago, or ahead when negative: then only up to the instrument's last row."""
    n = x.size
    if steps >= 0:
        head = min(n, steps * lanes)
        out[:head] = np.nan
        out[head:] = x[: n - head]
    else:
        rows = n // lanes
        for t in range(rows):
            for lane in range(lanes):
                source = t - steps
                inside = source < rows and source <= last[lane]
                out[t * lanes + lane] = x[source * lanes + lane] if inside else np.nan


@kernel(
    "void(float32[::1], int64, int64[::1], float32[::1])",
    "void(float64[::1], int64, int64[::1], float64[::1])",
)
def first_value(x, lanes, first, out):
    """The value at the listing, on every row since."""
    rows = x.size // lanes
    for t in range(rows):
        for lane in range(lanes):
            out[t * lanes + lane] = x[first[lane] * lanes + lane] if t >= first[lane] else np.nan


@kernel("void(float32[::1], int64, int64[::1])", "void(float64[::1], int64, int64[::1])")
def drop_before(x, lanes, first):
    """Set NaN, in place, on the rows before the listing."""
    rows = x.size // lanes
    for lane in range(lanes):
        for t in range(min(rows, first[lane])):
            x[t * lanes + lane] = np.nan


@kernel(
    "void(float32[::1], int64, int64, int64[::1], int64[::1], float32[:,:])",
    "void(float64[::1], int64, int64, int64[::1], int64[::1], float32[:,:])",
    "void(float32[::1], int64, int64, int64[::1], int64[::1], float64[:,:])",
    "void(float64[::1], int64, int64, int64[::1], int64[::1], float64[:,:])",
)
def store(x, lanes, start, first, last, out):
    """Copy sessions from ``start`` on into a panel (sessions, lanes); NaN outside each instrument's life."""
    for t in range(start, start + out.shape[0]):
        source = x[t * lanes : (t + 1) * lanes]
        target = out[t - start]
        for lane in range(lanes):
            alive = (t >= first[lane]) & (t <= last[lane])
            target[lane] = source[lane] if alive else np.nan


@kernel(
    "void(int64, float32[::1], float32[::1], int64, int64, int64[::1], int64[::1], float32[:,:])",
    "void(int64, float32[::1], float64[::1], int64, int64, int64[::1], int64[::1], float32[:,:])",
    "void(int64, float64[::1], float32[::1], int64, int64, int64[::1], int64[::1], float32[:,:])",
    "void(int64, float64[::1], float64[::1], int64, int64, int64[::1], int64[::1], float32[:,:])",
)
def binary_store(op, a, b, lanes, start, first, last, out):
    """``binary`` (without maximum and minimum) and ``store`` in one pass.

    Two float32 operands are computed in float32 even where Qlib has float64: one operation on float32 values rounds to
    the same float32 either way.
    """
    rows = a.size // lanes
    whole = first.max() <= start and last.min() >= rows - 1
    for t in range(start, start + out.shape[0]):
        x = a[t * lanes : (t + 1) * lanes]
        y = b[t * lanes : (t + 1) * lanes]
        target = out[t - start]
        if op == ADD:
            for lane in range(lanes):
                target[lane] = x[lane] + y[lane]
        elif op == SUB:
            for lane in range(lanes):
                target[lane] = x[lane] - y[lane]
        elif op == MUL:
            for lane in range(lanes):
                target[lane] = x[lane] * y[lane]
        else:
            for lane in range(lanes):
                target[lane] = x[lane] / y[lane]
        if not whole:
            for lane in range(lanes):
                if t < first[lane] or t > last[lane]:
                    target[lane] = np.nan
