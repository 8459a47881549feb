"""NumPy's functions of arrays on a device, from a framework's operators and its `Arrays`.

Each function takes the `Device` first, then NumPy's arguments. Sums over runs of rows are by doubling:
log2 of the longest run passes over all rows, without a loop over them and without atomic additions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pgcore.validation.arrays import Array, is_host
from pgcore.xp.namespace import Native

__all__ = ["FUNCTIONS", "UFUNCS", "backward_sum", "standardised"]

TINY = 1e-30  # an eps that changes no quotient but 0 over 0


def kind_of(values: Sequence[Any]) -> str:
    """Return "b" or "i" for booleans or integers alone, else "f"."""
    kinds = {x.dtype.kind if hasattr(x, "dtype") else np.asarray(x).dtype.kind for x in values}
    kinds = {"i" if kind == "u" else kind for kind in kinds}
    return kinds.pop() if len(kinds) == 1 else "f"


def elementwise(
    function: Callable[..., Native], kinds: str, *, of_booleans: Callable[..., Native] | None = None
) -> Callable[..., Any]:
    """Return a ufunc's call by a function of the framework's arrays.

    Args:
        function: Of a namespace and operands.
        kinds: Those that it takes; operands of another are made the first.
        of_booleans: In place of the function where all operands are booleans.
    """

    def call(device: Any, *inputs: Any) -> Any:
        kind, run = kind_of(inputs), function
        if kind == "b" and of_booleans is not None:
            run = of_booleans
        elif kind not in kinds:
            kind = kinds[0]
        return device.array(run(device.arrays.xp, *(device.native(x, kind) for x in inputs)))

    return call


def of_operator(name: str) -> Callable[..., Native]:
    """Return Python's operator as a function of a namespace, which it does not need, and of operands."""
    function: Any = getattr(operator, name)

    def call(_: Any, *operands: Any) -> Native:
        return function(*operands)

    return call


def of_namespace(name: str) -> Callable[..., Native]:
    """Return a namespace's function as one of the namespace and of operands."""

    def call(xp: Any, *operands: Any) -> Native:
        return getattr(xp, name)(*operands)

    return call


def is_nan(_: Any, x: Native) -> Native:
    """Return where x is NaN, which alone differs from itself."""
    return x != x  # noqa: PLR0124


def is_finite(xp: Any, x: Native) -> Native:
    """Return where x is finite."""
    return xp.abs(x) < math.inf


def square(_: Any, x: Native) -> Native:
    """Return x times x."""
    return x * x


def sum_of(device: Any, x: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """See `numpy.sum`."""
    return along(device, x, axis, device.arrays.xp.sum, keepdims=keepdims)


def any_of(device: Any, x: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """See `numpy.any`."""
    return sum_of(device, x.astype(bool), axis, keepdims=keepdims) > 0


def all_of(device: Any, x: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """See `numpy.all`."""
    return sum_of(device, ~x.astype(bool), axis, keepdims=keepdims) == 0


def mean_of(device: Any, x: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """See `numpy.mean`."""
    total = sum_of(device, x, axis, keepdims=keepdims)
    return total / (x.size / max(total.size, 1))


def variance_of(
    device: Any, x: Any, axis: Any = None, *, ddof: int = 0, keepdims: bool = False
) -> Any:
    """See `numpy.var`."""
    centred = x - mean_of(device, x, axis, keepdims=True)
    total = sum_of(device, centred * centred, axis, keepdims=keepdims)
    return total / (x.size / max(total.size, 1) - ddof)


def extreme_of(name: str) -> Callable[..., Any]:
    """Return `numpy.max` or `numpy.min`, by the namespace's function of two arrays."""

    def call(device: Any, x: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
        if x.size == 0:
            raise NotImplementedError("no entries")
        xp = device.arrays.xp

        def fold(native: Native, axis: int) -> Native:
            # Halves are compared with each other until one entry is left.
            before = (slice(None),) * axis
            while (count := native.shape[axis]) > 1:
                half = count // 2
                low, high = (
                    native[(*before, slice(half))],
                    native[(*before, slice(count - half, None))],
                )
                folded = getattr(xp, name)(low, high)
                if count % 2:
                    middle = native[(*before, slice(half, half + 1))]
                    folded = xp.concatenate((folded, middle), axis)
                native = folded
            return native[(*before, 0)]

        return along(device, x, axis, fold, keepdims=keepdims)

    return call


def along(
    device: Any, x: Any, axis: Any, function: Callable[..., Native], *, keepdims: bool
) -> Any:
    """Return a function of floats over one axis, or over all entries with None."""
    shape = x.shape
    if axis is None:
        x, kept, axis = x.ravel(), (1,) * len(shape), 0
    else:
        axis = operator.index(axis) % len(shape)
        kept = (*shape[:axis], 1, *shape[axis + 1 :])
    result = device.array(function(device.native(x, "f"), axis))
    return result.reshape(*kept) if keepdims else result


def argmax_of(device: Any, x: Any, axis: Any = None) -> Any:
    """See `numpy.argmax`, of all entries or of each row."""
    if x.ndim > 2 or (axis is not None and axis % x.ndim != x.ndim - 1):
        raise NotImplementedError("other axes")
    rows = x.reshape(1, x.size) if axis is None or x.ndim == 1 else x
    xp, columns = device.arrays.xp, device.native(np.arange(rows.shape[1]))
    number = xp.sum(xp.where(xp.first_largest(rows.native), columns, 0), 1)
    return device.array(number if rows is x else number[0])


def cumulative_sum(device: Any, x: Any, axis: Any = None) -> Any:
    """See `numpy.cumsum`."""
    if axis is None:
        x, axis = x.ravel(), 0
    if not -x.ndim <= operator.index(axis) < x.ndim:
        raise NotImplementedError("axes that are not there")
    axis %= x.ndim
    xp, y, before = device.arrays.xp, device.native(x, "f"), (slice(None),) * axis
    step, count = 1, x.shape[axis]
    # Each pass doubles the number of entries that a sum has seen.
    while step < count:
        first, later = y[(*before, slice(step))], y[(*before, slice(step, None))]
        y = xp.concatenate((first, later + y[(*before, slice(count - step))]), axis)
        step *= 2
    return device.array(y)


def backward_sum(device: Any, x: Any, coefficient: Any, longest: int) -> Any:
    """Return [B, ...] y with y_t = x_t + coefficient_t y_{t+1}, and y = x at the last row.

    Each pass doubles the number of rows that a sum has seen.

    Args:
        device: Of one of the two.
        x: [B, ...] float.
        coefficient: [B] float, 0 at the last row of each run; the last is not read.
        longest: The rows of the longest run.
    """
    xp, (y, factor) = device.arrays.xp, (device.native(value, "f") for value in (x, coefficient))
    factor = device.arrays.reshape(factor, (-1, *[1] * (len(y.shape) - 1)))[:-1]
    step, count = 1, y.shape[0]
    while step < min(longest, count):
        # The factor at t is the product over the rows from t to t + step - 1.
        y = xp.concatenate((y[: count - step] + factor * y[step:], y[count - step :]), 0)
        factor = factor[: max(count - 2 * step, 0)] * factor[step:]
        step *= 2
    return device.array(y)


def sums_by_number(device: Any, x: Any, numbers: Array, count: int) -> Any:
    """Return [count, ...] the sums of the rows of x with each number, [B] integers on the host."""
    order = np.argsort(numbers, kind="stable")
    if (order[1:] < order[:-1]).any():
        x = x[order]
    ordered = numbers[order]
    starts = np.flatnonzero(np.append([True], ordered[1:] != ordered[:-1]))
    lengths = np.diff(starts, append=len(ordered))
    goes_on = np.ones(len(ordered))
    goes_on[starts + lengths - 1] = 0.0
    sums = backward_sum(device, x, goes_on, int(lengths.max()))[starts]
    if count == len(starts):
        return sums
    result = full(device, sums, 0, shape=(count, *sums.shape[1:]))
    result[ordered[starts]] = sums
    return result


def reduceat(device: Any, x: Any, starts: Any, axis: int = 0) -> Any:
    """See `numpy.ufunc.reduceat` of `numpy.add`, for starts in order."""
    starts = np.asarray(starts)
    ends = np.append(starts[1:], len(x))
    if axis != 0 or (ends <= starts).any():
        raise NotImplementedError("runs without rows")
    numbers = np.repeat(np.arange(len(starts)), ends - starts)
    return sums_by_number(device, x[int(starts[0]) :], numbers, len(starts))


def add_at(device: Any, total: Any, numbers: Any, x: Any) -> None:
    """See `numpy.ufunc.at` of `numpy.add`."""
    total += sums_by_number(device, x, np.asarray(numbers), len(total))


def bincount(device: Any, numbers: Array, /, weights: Any = None, minlength: int = 0) -> Any:
    """See `numpy.bincount`; numbers are on the host."""
    if weights is None or not is_host(numbers) or len(numbers) == 0:
        raise NotImplementedError("numbers on the device")
    count = max(int(numbers.max()) + 1, minlength)
    return sums_by_number(device, device.array(device.native(weights, "f")), numbers, count)


def where(device: Any, condition: Any, x: Any, y: Any) -> Any:
    """See `numpy.where`."""
    kind, marks = kind_of((x, y)), device.native(condition, "b")
    x, y = device.native(x, kind), device.native(y, kind)
    xp = device.arrays.xp
    if not hasattr(x, "shape") and not hasattr(y, "shape"):
        y = xp.full_like(device.arrays.cast(marks, device.dtype), y)
    return device.array(xp.where(marks, x, y))


def full(device: Any, x: Any, value: Any, dtype: Any = None, shape: Any = None) -> Any:
    """See `numpy.full_like`."""
    axes = x.shape if shape is None else tuple(np.atleast_1d(shape).tolist())
    kind = x.dtype.kind if dtype is None else np.dtype(dtype).kind
    if axes == x.shape:
        value = device.native(value, kind)
        return device.array(device.arrays.xp.full_like(device.native(x, kind), value))
    return device.array(device.native(np.full(axes, value, dtype or x.dtype), kind))


def concatenate(device: Any, parts: Any, axis: int = 0) -> Any:
    """See `numpy.concatenate`."""
    kind = kind_of(parts)
    natives = tuple(device.native(part, kind) for part in parts)
    return device.array(device.arrays.xp.concatenate(natives, axis))


def stack(device: Any, parts: Any, axis: int = 0) -> Any:
    """See `numpy.stack`, of arrays of one axis along a new one."""
    if axis not in (0, 1) or any(np.ndim(part) != 1 for part in parts):
        raise NotImplementedError("other axes")
    shape = (1, -1) if axis == 0 else (-1, 1)
    return concatenate(device, [part.reshape(*shape) for part in parts], axis)


def repeat(_: Any, x: Any, repeats: Any, axis: Any = None) -> Any:
    """See `numpy.repeat`, of rows."""
    if axis != 0 and (axis is not None or x.ndim > 1):
        raise NotImplementedError("other axes")
    return x[np.repeat(np.arange(len(x)), repeats)]


def argsort(device: Any, x: Any, **_: Any) -> Any:
    """See `numpy.argsort`, of one axis; stable."""
    if x.ndim != 1:
        raise NotImplementedError("other axes")
    return device.array(device.arrays.order(device.native(x, "f")))


def sort(device: Any, x: Any, **_: Any) -> Any:
    """See `numpy.sort`, of one axis."""
    return x[argsort(device, x)]


def quantile(device: Any, x: Any, q: float) -> Any:
    """See `numpy.quantile`, of one axis and one number."""
    place = float(q) * (len(x) - 1)
    below = math.floor(place)
    low, high = (sort(device, x)[i] for i in (below, min(below + 1, len(x) - 1)))
    return low + (high - low) * (place - below)


def average(device: Any, x: Any, axis: Any = None, weights: Any = None) -> Any:
    """See `numpy.average`."""
    if weights is None:
        return mean_of(device, x, axis)
    if axis is not None:
        raise NotImplementedError("other axes")
    return (x * weights).sum() / np.sum(weights)


def dot(device: Any, x: Any, y: Any) -> Any:
    """See `numpy.vdot`."""
    return sum_of(device, x * y)


def broadcast_to(device: Any, x: Any, shape: Any) -> Any:
    """See `numpy.broadcast_to`."""
    return x + full(device, x, 0, shape=tuple(shape))


def standardised(x: Any, weights: Any, *, ddof: int, eps: float) -> Any:
    """Return `pgcore.returns.normalise` of an array on a device, whose numbers are not checked."""
    device = x.place
    real = None if weights is None else device.native(weights, "f") > 0
    if real is not None:
        x = where(device, device.array(real), x, 0.0)
    result = device.arrays.normalised(x.native, real, ddof=ddof, eps=eps or TINY)
    return device.array(result)


def filled(value: float) -> Callable[..., Any]:
    """Return `numpy.zeros_like` or `numpy.ones_like`."""

    def call(device: Any, x: Any, dtype: Any = None, shape: Any = None) -> Any:
        return full(device, x, value, dtype, shape)

    return call


def deviation_of(device: Any, x: Any, axis: Any = None, **options: Any) -> Any:
    """See `numpy.std`."""
    return np.sqrt(variance_of(device, x, axis, **options))


def added_up(device: Any, x: Any, axis: Any = 0, **options: Any) -> Any:
    """See `numpy.ufunc.reduce` of `numpy.add`."""
    return sum_of(device, x, axis, **options)


def clip(_: Any, x: Any, low: Any, high: Any) -> Any:
    """See `numpy.clip`."""
    return np.minimum(np.maximum(x, low), high)


def count_nonzero(device: Any, x: Any) -> Any:
    """See `numpy.count_nonzero`."""
    return sum_of(device, x.astype(bool))


def dimensions(_: Any, x: Any) -> int:
    """See `numpy.ndim`."""
    return x.ndim


def shape_of(_: Any, x: Any) -> tuple[int, ...]:
    """See `numpy.shape`."""
    return x.shape


def reshape(_: Any, x: Any, shape: Any) -> Any:
    """See `numpy.reshape`."""
    return x.reshape(shape)


# Ufuncs that Python's operators and functions of the namespace are.
COMPARISONS = {
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
}
ARITHMETIC = {"subtract": "sub", "negative": "neg"}
# Of booleans the second.
SUMS = {"add": ("add", "or_"), "multiply": ("mul", "and_")}
LOGICAL = {"and": "and_", "or": "or_", "xor": "ne", "not": "invert"}
FLOATS = {
    **{name: of_namespace(name) for name in ("exp", "log", "sqrt", "tanh")},
    "divide": of_operator("truediv"),
    "power": of_operator("pow"),
    "absolute": of_namespace("abs"),
    "square": square,
    "isnan": is_nan,
    "isfinite": is_finite,
}
CALLS = {
    **{name: elementwise(of_operator(x), "fib") for name, x in COMPARISONS.items()},
    **{name: elementwise(of_operator(x), "fi") for name, x in ARITHMETIC.items()},
    **{name: elementwise(of_namespace(name), "fi") for name in ("maximum", "minimum")},
    **{name: elementwise(function, "f") for name, function in FLOATS.items()},
    **{
        name: elementwise(of_operator(x), "fi", of_booleans=of_operator(y))
        for name, (x, y) in SUMS.items()
    },
    **{f"logical_{name}": elementwise(of_operator(x), "b") for name, x in LOGICAL.items()},
    **{f"bitwise_{name}": elementwise(of_operator(x), "b") for name, x in LOGICAL.items()},
    "invert": elementwise(of_operator("invert"), "b"),
}
# By the name of a ufunc and its method.
UFUNCS: dict[tuple[str, str], Callable[..., Any]] = {
    **{(name, "__call__"): call for name, call in CALLS.items()},
    ("add", "reduce"): added_up,
    ("add", "reduceat"): reduceat,
    ("add", "at"): add_at,
}
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.sum: sum_of,
    np.any: any_of,
    np.all: all_of,
    np.mean: mean_of,
    np.var: variance_of,
    np.std: deviation_of,
    np.argmax: argmax_of,
    np.cumsum: cumulative_sum,
    np.max: extreme_of("maximum"),
    np.min: extreme_of("minimum"),
    np.bincount: bincount,
    np.where: where,
    np.full_like: full,
    np.ones_like: filled(1),
    np.zeros_like: filled(0),
    np.empty_like: filled(0),
    np.concatenate: concatenate,
    np.stack: stack,
    np.repeat: repeat,
    np.argsort: argsort,
    np.sort: sort,
    np.quantile: quantile,
    np.average: average,
    np.vdot: dot,
    np.broadcast_to: broadcast_to,
    np.clip: clip,
    np.count_nonzero: count_nonzero,
    np.ndim: dimensions,
    np.shape: shape_of,
    np.reshape: reshape,
}
