"""Signals on arrays that refuse numbers of less than float64.

Signals without a reference implementation have no second definition to be compared with. A constant
in single precision would pass: float64 absorbs it, with the constant's error. No result tells, since
the constant has the same value in every precision. The type of each operand does.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Estimator, Evaluate
from pgcore.parts.composed import Composed
from pgcore.validation.arrays import Array

__all__ = ["coarse_number"]

# The dtypes that spoil float64.
COARSE = (np.float16, np.float32, np.complex64)

# The package whose results are guarded too: it computes on Python's numbers, and returns new arrays.
LIBRARY = "pgcore.returns"

# The package whose other modules compute as they are.
CORE = "pgcore"

# NumPy's functions that return its own arrays whatever they get.
MAKERS = (
    *("arange", "array", "asarray", "ascontiguousarray", "asfortranarray", "empty", "eye"),
    *("fromiter", "full", "identity", "linspace", "ones", "require", "zeros"),
)


class CoarseNumberError(TypeError):
    """A number of less than float64 met one of float64, or became of one."""


def coarse_number(estimator: Estimator, batch: Batch, evaluate: Evaluate) -> tuple[str, str] | None:
    """Return where an estimator's signals leave float64, and how; None where they never do.

    Args:
        estimator: Whose signals.
        batch: The episodes.
        evaluate: The current policy.

    Returns:
        The file and line of the estimator's code, and the operation with its dtype.
    """
    try:
        with np.errstate(all="ignore"), guarded_library(estimator):
            signals = estimator.signals(guarded_batch(batch), PreciseEvaluate(evaluate))
            for name, value in signals.items():
                refuse_coarse(f"the signal {name!r}", value)
    except CoarseNumberError as problem:
        return place_of(estimator, problem), str(problem)
    except Exception:  # noqa: BLE001 - code that takes no subclass of arrays cannot be tried
        return None
    return None


class Precise(np.ndarray):
    """An array of float64 that refuses to become less, or to meet what is less."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Apply NumPy's operators and elementary functions."""
        out = options.pop("out", None)
        refuse_coarse(ufunc.__name__, *inputs, *options.values())
        if out is not None:
            options["out"] = tuple(map(plain, out))
        results = getattr(ufunc, method)(*map(plain, inputs), **options)
        refuse_coarse(ufunc.__name__, results)
        # What is written in place stays the array that it is.
        return guarded(results) if out is None or len(out) > 1 else out[0]

    def __array_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Apply NumPy's other functions."""
        refuse_coarse(function.__name__, *args, *kwargs.values())
        results = super().__array_function__(function, types, args, kwargs)
        refuse_coarse(function.__name__, results)
        return guarded(results)

    def astype(self, dtype: Any, *arguments: Any, **options: Any) -> Any:
        """See `numpy.ndarray.astype`."""
        refuse_coarse("astype", np.dtype(dtype))
        return super().astype(dtype, *arguments, **options)

    def __getitem__(self, index: Any) -> Any:
        """Return a part; a single number is an array without axes."""
        return guarded(super().__getitem__(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        """Write a part."""
        refuse_coarse("an assignment", value)
        super().__setitem__(index, value)


class GuardedNumpy(ModuleType):
    """NumPy, whose new arrays are guarded."""

    def __init__(self) -> None:
        """Take NumPy's name."""
        super().__init__(np.__name__)

    def __getattr__(self, name: str) -> Any:
        """Return NumPy's attribute, or the function that guards its result."""
        value = getattr(np, name)
        return guarded_maker(value) if name in MAKERS else value


class PreciseEvaluate:
    """The current policy, whose quantities are guarded; see `pgcore.interfaces.estimator.Evaluate`."""

    def __init__(self, evaluate: Evaluate) -> None:
        """Keep the policy."""
        self._evaluate = evaluate

    def __call__(self, *names: str) -> Mapping[str, Array]:
        """See `Evaluate.__call__`."""
        return {name: guarded_input(value) for name, value in self._evaluate(*names).items()}

    @property
    def target(self) -> PreciseEvaluate:
        """See `Evaluate.target`."""
        return PreciseEvaluate(self._evaluate.target)

    def scores(self, step_weights: Array | None = None) -> Array:
        """See `Evaluate.scores`."""
        weights = None if step_weights is None else plain(step_weights)
        return guarded_input(self._evaluate.scores(weights))


def guarded_batch(batch: Batch) -> Batch:
    """Return a batch whose arrays of floats are guarded; observations in float32 are widened."""
    # The state of a part has the arrays that it would gather later.
    fields = {name: guarded_input(value) for name, value in batch.__getstate__().items()}
    fields["extras"] = {name: guarded_input(value) for name, value in batch.extras.items()}
    return Batch.trusted(fields)


def guarded_input(value: Any) -> Any:
    """Return an array of floats as float64 that is guarded, and all else unchanged."""
    if not isinstance(value, np.ndarray):
        return value
    array = cast("Array", value)
    return np.asarray(array, np.float64).view(Precise) if array.dtype.kind == "f" else array


def guarded(results: Any) -> Any:
    """Return arrays and numbers of float64, alone or in a tuple, as guarded ones."""
    if isinstance(results, tuple):
        parts = cast("tuple[Any, ...]", results)
        return tuple(map(guarded, parts)) if type(parts) is tuple else parts
    if isinstance(results, np.ndarray | np.float64):
        array: Array = np.asarray(cast("Array", results))
        if array.dtype == np.float64:
            return array.view(Precise)
    # Comparisons and indices are plain: they hold no numbers to guard.
    return plain(results)


def plain(value: Any) -> Any:
    """Return a guarded array as NumPy's own, and all else unchanged."""
    return value.view(np.ndarray) if isinstance(value, Precise) else value


def refuse_coarse(operation: str, *values: Any) -> None:
    """Raise where an array, number or dtype, alone or in a list or tuple, is less than float64.

    Raises:
        CoarseNumberError: one is; names the operation and the dtype.
    """
    for value in values:
        if isinstance(value, list | tuple):
            refuse_coarse(operation, *cast("list[Any]", value))
        dtype: Any = getattr(cast("Any", value), "dtype", cast("Any", value))
        if isinstance(dtype, np.dtype | type) and dtype in COARSE:
            name = np.dtype(dtype).name
            raise CoarseNumberError(f"expected float64, got {name} in {operation}")


@contextmanager
def guarded_library(estimator: Estimator) -> Generator[None]:
    """Guard the library functions and the NumPy that the estimator's modules import."""
    replaced: list[tuple[ModuleType, str, Any, Any]] = []
    for module in modules_of(estimator):
        for name, value in vars(module).items():
            if (substitute := guarded_global(value)) is not None:
                replaced.append((module, name, value, substitute))
    try:
        for module, name, _, substitute in replaced:
            setattr(module, name, substitute)
        yield
    finally:
        for module, name, value, _ in replaced:
            setattr(module, name, value)


def guarded_global(value: Any) -> Any:
    """Return the substitute of a module's global; None for one that stays."""
    if value is np:
        return GuardedNumpy()
    if not callable(value):
        return None
    if any(value is getattr(np, name) for name in MAKERS):
        return guarded_maker(value)
    in_library = str(getattr(value, "__module__", "")).startswith(LIBRARY)
    return guarded_function(value) if in_library else None


def guarded_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that refuses coarse arguments, and whose results are guarded."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        refuse_coarse(function.__name__, *arguments, *options.values())
        return guarded(function(*arguments, **options))

    return call


def guarded_maker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return one of `MAKERS` whose result is guarded, and which takes no guarded array to less."""

    @functools.wraps(function)
    def make(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        # A coarse array of the author's own does no harm until it meets one of float64.
        if holds_guarded(arguments):
            refuse_coarse(function.__name__, *arguments, result)
        return guarded(result)

    return make


def holds_guarded(value: Any) -> bool:
    """Return whether a value is a guarded array, or a list or tuple that has one in it."""
    if isinstance(value, list | tuple):
        return any(map(holds_guarded, cast("list[Any]", value)))
    return isinstance(value, Precise)


def modules_of(estimator: Estimator) -> list[ModuleType]:
    """Return the modules of an estimator's classes and parts, and the others of their packages.

    Of the core they are those of the classes alone.
    """
    classes: list[type[Any]] = [*type(estimator).__mro__]
    classes = classes[: classes.index(Estimator)]
    if isinstance(estimator, Composed):
        classes += [type(part) for part in estimator.composition]
    names = {cls.__module__ for cls in classes}
    packages = {package_of(name) for name in names} - {CORE}
    return [
        module
        for name, module in sys.modules.items()
        if name in names or package_of(name) in packages
    ]


def package_of(name: str) -> str:
    """Return the package that a module is in at the top; its own name outside of any."""
    return name.partition(".")[0]


def place_of(estimator: Estimator, problem: CoarseNumberError) -> str:
    """Return the file and line of the estimator's innermost code on the way to an error."""
    files = {getattr(module, "__file__", None) for module in modules_of(estimator)}
    frames = traceback.extract_tb(problem.__traceback__)
    # A test's or a notebook's class may be in no module: then it is the code that called NumPy.
    inside = [frame for frame in frames if frame.filename in files] or [
        frame for frame in frames if frame.filename != __file__
    ]
    if inside:
        return f"{estimator.name}.signals, {inside[-1].filename}:{inside[-1].lineno}"
    # A result that is returned as it is was in no operation.
    code = getattr(type(estimator).signals, "__code__", None)
    return f"{estimator.name}.signals" + (
        f", {code.co_filename}:{code.co_firstlineno}" if code else ""
    )
