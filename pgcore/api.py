"""What a user calls: pick a backend, build a policy, compute a gradient, take a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.data.spec_checks import check_saved
from pgcore.errors import EstimatorError, OptimizerError, PgcoreError, SpecError, UnknownNameError
from pgcore.interfaces.backend import Backend
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.evaluation import Evaluation
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.optimizer import Optimizer
from pgcore.interfaces.policy import Policy, read_policy
from pgcore.interfaces.signals import Signals
from pgcore.interfaces.surrogate import Surrogate, check_batch
from pgcore.registry.registry import default_backend_name, registry

__all__ = [
    "backend",
    "estimator",
    "generator",
    "gradient",
    "load",
    "optimizer",
    "policy",
    "signals",
]

_backends: dict[str, Backend] = {}


def backend(name: str | None = None) -> Backend:
    """Return a backend: the one named, else the one that PGCORE_BACKEND names, else numpy.

    Raises:
        UnknownNameError: no backend of that name is registered.
        DependencyError: its framework is not installed; says which extra to install.
    """
    chosen = default_backend_name(name)
    if chosen not in _backends:
        _backends[chosen] = cast("type[Backend]", registry().load("backends", chosen))()
    return _backends[chosen]


def policy(
    spec: PolicySpec,
    *,
    backend: str | None = None,
    seed: int = 0,
    dtype: str = "float32",
    device: str | None = None,
    compiled: bool = False,
) -> Policy:
    """Return a new policy on a backend.

    Args:
        spec: Network, head and critic.
        backend: A registered name; see `pgcore.backend`.
        seed: At least 0; the same seed gives the same parameters on every backend.
        dtype: "float32" or "float64".
        device: Where the backend has several.
        compiled: Whether to compile what it computes, where the backend can choose.

    Raises:
        UnknownNameError: no backend of that name is registered.
        SpecError: the backend cannot build this spec, seed, dtype or device, or cannot compile.
    """
    return _backend(backend).policy(spec, seed=seed, dtype=dtype, device=device, compiled=compiled)


def estimator(name: str, **fields: Any) -> Estimator:
    """Return a registered estimator with these hyper-parameters.

    Raises:
        UnknownNameError: no estimator of that name is registered, or it has no hyper-parameter of a name given.
        EstimatorError: a hyper-parameter has a value it cannot take.
    """
    return _build("estimators", name, fields, EstimatorError)


def optimizer(name: str, **fields: Any) -> Optimizer:
    """Return a registered optimizer with these hyper-parameters; it binds to the first policy it steps.

    Raises:
        UnknownNameError: no optimizer of that name is registered, or it has no hyper-parameter of a name given.
        OptimizerError: a hyper-parameter has a value it cannot take.
    """
    return Optimizer(_build("optimizers", name, fields, OptimizerError))


def signals(
    policy: Policy, estimator: Estimator, batch: Batch, *, target: Policy | None = None
) -> Signals:
    """Return the estimator's constants for a whole batch: returns, advantages, targets, reduction weights.

    Slice them with the batch: `gradient(policy, estimator, batch.steps(i), signals=signals.steps(i))`.

    Args:
        policy: The current policy.
        estimator: Whose constants.
        batch: The episodes; a replay batch is one of one-step episodes.
        target: What estimators with bootstrapped action values take those from, such as a copy that is refreshed now and then;
            None takes the current policy.

    Raises:
        EstimatorError: estimator and policy do not fit, or the target policy has another number of actions.
        BatchError: the batch does not fit the policy, or lacks what the estimator needs.
        NonFiniteError: a signal is NaN or infinite; names it and the step.
    """
    estimator.check_fits(policy.spec)
    check_batch(policy.spec, batch)
    return Signals.of(
        estimator, batch, Evaluation(policy, batch, target), policy.dtype, policy.spec.head.width
    )


def gradient(
    policy: Policy,
    estimator: Estimator,
    batch: Batch,
    *,
    signals: Signals | None = None,
    target: Policy | None = None,
) -> Gradient:
    """Return the gradient of the estimator's loss; parameters step against it.

    Args:
        policy: Differentiated with respect to its parameters; not changed.
        estimator: Which loss.
        batch: Whole episodes, or steps of a batch with its signals.
        signals: What `signals` returned for this batch, or its `steps`; None computes them here.
        target: See `signals`; not read where signals are given.

    Raises:
        EstimatorError: estimator and policy do not fit, or signals and batch differ in length.
        BatchError: the batch does not fit the policy, or lacks what the estimator needs.
        NonFiniteError: a signal, a quantity or the gradient is NaN or infinite; names it and the step.
    """
    if signals is None:
        signals = _signals(policy, estimator, batch, target=target)
    return estimator.differentiate(policy, Surrogate(policy.spec, estimator, batch, signals))


def load(
    path: str | Path,
    *,
    backend: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    compiled: bool = False,
    into: Policy | None = None,
) -> Policy:
    """Return the policy that `Policy.save` wrote, on any backend.

    Args:
        path: The safetensors file.
        backend: A registered name; see `pgcore.backend`.
        dtype: "float32" or "float64"; None takes the one it was saved with.
        device: Where the backend has several.
        compiled: Whether to compile what it computes, where the backend can choose.
        into: Load into this policy, as an adopted network must be; None makes a new one. What it is already cannot be asked for otherwise.

    Raises:
        FileError: the file cannot be read, or is not a policy.
        SpecError: its spec is not valid, is not that of `into`, or the backend cannot build it; or `into` is not what else is asked for.
        ParameterError: its parameters are not the spec's.
    """
    saved, parameters, saved_dtype = read_policy(path)
    if into is None:
        spec = PolicySpec.from_json(saved)
        into = policy(
            spec, backend=backend, dtype=dtype or saved_dtype, device=device, compiled=compiled
        )
    else:
        asked = {"backend": backend, "dtype": dtype, "device": device, "compiled": compiled or None}
        had = {
            "backend": into.backend,
            "dtype": into.dtype.name,
            "device": "its own",
            "compiled": into.compiled,
        }
        for name in (name for name, value in asked.items() if value not in (None, had[name])):
            raise SpecError(
                f"load {name}: expected that of the policy to load into, {had[name]!r}, got {asked[name]!r}; leave it out, or leave out `into`"
            )
        check_saved(str(path), into.spec, saved)
    into.load(parameters)
    return into


def generator(seed: int) -> np.random.Generator:
    """Return the random generator that sampling uses: NumPy's Philox, the same stream on every machine.

    Raises:
        SpecError: the seed is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(cast("object", seed), int | np.integer) or seed < 0:
        raise SpecError(
            f"generator: expected a seed that is an integer of at least 0, got {seed!r}; give one"
        )
    return np.random.Generator(np.random.Philox(seed))


def _build(kind: str, name: str, fields: Mapping[str, Any], error: type[PgcoreError]) -> Any:
    cls: Any = registry().load(kind, name)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for field in fields:
        if field not in known:
            raise UnknownNameError(f"{name} hyper-parameter", field, known)
    try:
        return cls(**fields)
    except TypeError as problem:
        raise error(
            f"{name}: expected values for {', '.join(known)}, got {sorted(fields)} ({problem}); give the missing ones"
        ) from problem


# `gradient` and `policy` have parameters that shadow these functions.
_signals = signals
_backend = backend
