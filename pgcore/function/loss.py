"""`pgcore.loss`: an estimator's loss of the caller's own log-probabilities, values and entropies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pgcore.data.native import Arrays
from pgcore.errors import EstimatorError, NonFiniteError
from pgcore.function.laid_out import LaidOutSignals
from pgcore.interfaces.estimator import Estimator, ensure_estimator
from pgcore.interfaces.metrics import compute_figures
from pgcore.interfaces.quantities import PER_ACTION
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import Native

__all__ = ["Loss", "loss"]


@dataclass(slots=True, eq=False, repr=False)
class Loss:
    """A loss of the caller's arrays.

    Attributes:
        loss: A number of the framework, sum_t w_t term_t; minimise it.
        terms: Of the layout's shape, the surrogate's term of each step; 0 at entries that are none.
        derivatives: By quantity, of the quantity's shape and of its dtype if that is a float's,
            where the framework does not differentiate (NumPy); else empty.
        arguments: The surrogate's keywords by name, as it was given them.
        signals: Those of the loss.
        estimator: Whose loss.
    """

    loss: Native
    terms: Native
    derivatives: dict[str, Native]
    arguments: dict[str, Native]
    signals: LaidOutSignals
    estimator: Estimator

    def __repr__(self) -> str:
        """Return the estimator's name and the layout."""
        return f"Loss({self.estimator.name}, {list(self.signals.shape)})"

    @property
    def metrics(self) -> dict[str, float]:
        """`loss` and every metric that has its keywords; see `pgcore.interfaces.metrics`.

        Numbers are copied to the host here and nowhere before.
        """
        arrays, signals = self.signals.arrays, self.signals
        arguments = {name: arrays.host(value) for name, value in self.arguments.items()}
        terms, weights = arrays.host(self.terms), arrays.host(signals.stored)
        real = np.ones_like(weights, np.bool_)
        if signals.real is not None:
            real = arrays.host(signals.real)
        # The surrogate may have taken arrays of one axis.
        if any(value.ndim < real.ndim for value in arguments.values()):
            terms, weights, real = terms.reshape(-1), weights.reshape(-1), real.reshape(-1)
        with np.errstate(all="ignore"):
            figures = compute_figures(self.estimator, arguments, terms, weights, real)
        return {"loss": float(arrays.host(self.loss))} | figures


def loss(estimator: Estimator, signals: LaidOutSignals, **quantities: Native) -> Loss:
    """Return an estimator's loss of one's own arrays, in their framework and on their device.

    It computes nothing but the loss: no copy to the host, and in traced code (`torch.compile`,
    `torch.func`, `jax.jit`, `jax.grad`, `jax.vmap`, `tf.function`) no look at numbers. Floats of 16
    bits are computed with in float32, and get derivatives in their own dtype. Entries that are no
    steps may hold anything, NaN too, and get derivative 0.

    Args:
        estimator: Which loss.
        signals: Of `pgcore.signals(estimator, episodes)`, or a part of them.
        quantities: What `estimator.quantities` names, of the layout's shape, such as `log_prob` and
            `entropy` in nats and `value` in reward units; [..., A] of `log_probs` and
            `action_values`.

    Raises:
        EstimatorError: a quantity is missing or unknown, or of another framework or device than the
            signals; or the signals lack one that the estimator reads, or are a policy's.
        ShapeError: a quantity is not laid out as the signals.
        NonFiniteError: outside of traced code, on the CPU: the loss is NaN or infinite; names
            quantity and step.

    Example:
        >>> episodes = pg.Episodes(rewards=[1.0, 2.0], episode_lengths=[2], terminated=[True])
        >>> estimator = pg.estimator("reinforce", gamma=0.5)
        >>> out = pg.loss(estimator, pg.signals(estimator, episodes), log_prob=np.log([0.5, 0.25]))
        >>> out.derivatives["log_prob"].tolist()
        [-2.0, -2.0]
    """
    # Compiled code looks at each call at all it read of modules and objects: so this reads little.
    try:
        names, per_action, constants = estimator.declaration.split("|")
        arrays, averaged, layout = signals.arrays, signals.averaged, signals.stored.shape
    except AttributeError:
        ensure_both(estimator, signals)
        raise
    names, per_action, constants = names.split(), per_action.split(), constants.split()
    if {*quantities} != {*names}:
        raise misnamed(estimator, signals, quantities)
    signals.check_quantities(quantities, per_action)
    takes_layout = signals.takes_layout(estimator, quantities, constants)
    values, inputs, weights, real = signals.fitted(quantities, per_action, flat=not takes_layout)
    values = estimator.finalise_on(arrays, {**values}, real)
    for name in constants:
        if name not in values:
            raise misnamed(estimator, signals, quantities)
        inputs[name] = values[name]
    if arrays.differentiates:
        terms = estimator.surrogate(arrays.xp, **inputs)
    else:
        with np.errstate(all="ignore"):
            terms = estimator.surrogate(arrays.xp, **inputs)
    if real is not None:
        terms = arrays.xp.where(real, terms, 0.0)
    value = arrays.weighted_sum(terms, weights, averaged=averaged)
    if not arrays.is_finite(value):
        raise not_finite(arrays, estimator, signals, inputs, terms)
    derivatives: dict[str, Native] = {}
    if not arrays.differentiates:
        derivatives = derivatives_of(estimator, inputs, weights, real, quantities)
    if len(terms.shape) != len(layout):
        terms = arrays.reshape(terms, tuple(-1 if n is None else n for n in layout))
    return Loss(value, terms, derivatives, inputs, signals, estimator)


def ensure_both(estimator: Estimator, signals: object) -> None:
    """Raise EstimatorError unless these are an estimator and signals of `pgcore.signals`."""
    ensure_estimator("loss estimator", estimator)
    if not isinstance(signals, LaidOutSignals):
        raise EstimatorError(
            f"loss of {estimator.name}: expected the signals of pgcore.signals(estimator, episodes), "
            f"got {type(signals).__name__}; those of a policy are for pgcore.gradient"
        ) from None


def misnamed(
    estimator: Estimator, signals: LaidOutSignals, quantities: Mapping[str, Native]
) -> EstimatorError:
    """Return the error for quantities or signals that are not the estimator's."""
    if {*quantities} != {*estimator.quantities}:
        return EstimatorError(
            f"loss of {estimator.name}: expected the quantities {', '.join(estimator.quantities)}, got "
            f"{', '.join(quantities) or 'none'}; pass each of the first and no other"
        )
    names = (*quantities, *signals.values)
    missing = [name for name in estimator.keywords if name not in names]
    return EstimatorError(
        f"loss of {estimator.name}: expected signals with {', '.join(missing)}, got "
        f"{', '.join(signals.values)}; compute them with pgcore.signals of this estimator"
    )


def derivatives_of(
    estimator: Estimator,
    inputs: Mapping[str, Array],
    weights: Array,
    real: Array | None,
    quantities: Mapping[str, Array],
) -> dict[str, Array]:
    """Return the derivatives of the loss by each quantity, see `Loss.derivatives`.

    Args:
        estimator: With a closed form.
        inputs: The surrogate's keywords, [N, ...].
        weights: [N] of the terms.
        real: [N] bool, entries that count; None for all.
        quantities: As they were passed.
    """
    result: dict[str, Array] = {}
    # Entries that are no steps may overflow, before they are left out.
    with np.errstate(all="ignore"):
        cotangents = estimator.cotangents(**inputs)
        for name, given in quantities.items():
            slope = np.asarray(cotangents[name])
            column = slope.ndim > 1
            slope = slope * (weights[:, None] if column else weights)
            if real is not None:
                slope = np.where(real[:, None] if column else real, slope, 0.0)
            # Numbers that are no floats have a derivative that is.
            kind = given.dtype if given.dtype.kind == "f" else slope.dtype
            result[name] = slope.reshape(given.shape).astype(kind)
    return result


def not_finite(
    arrays: Arrays,
    estimator: Estimator,
    signals: LaidOutSignals,
    inputs: Mapping[str, Native],
    terms: Native,
) -> NonFiniteError:
    """Return the error for a loss that is NaN or infinite: the first array and entry to blame."""
    for name, value in {**inputs, "terms": terms}.items():
        numbers = arrays.host(value)
        if numbers.ndim >= len(signals.shape):
            numbers = numbers.reshape(-1, *numbers.shape[len(signals.shape) :])
        bad = ~np.isfinite(numbers.reshape(len(numbers), -1)).all(1)
        # A masked action's log-probability is -inf.
        if name in PER_ACTION:
            bad = np.isnan(numbers).any(1)
        if bad.any():
            place = [int(i) for i in np.unravel_index(int(bad.argmax()), signals.shape)]
            return NonFiniteError(
                f"loss of {estimator.name}: expected finite numbers, got {numbers[bad.argmax()]} as "
                f"{name} at step {place[0] if len(place) == 1 else place}; mend that step, or leave "
                "it out with a mask"
            )
    return NonFiniteError(
        f"loss of {estimator.name}: expected a finite number, got {arrays.host(terms).sum()}; "
        "scale the rewards down, or use float64"
    )
