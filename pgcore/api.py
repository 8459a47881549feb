"""The functions that a user calls; examples take `import numpy as np` and `import pgcore as pg`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.episodes import Episodes
from pgcore.data.spec import PolicySpec, ensure_spec
from pgcore.data.spec_checks import check_parameters, check_saved
from pgcore.errors import (
    BatchError,
    EstimatorError,
    OptimizerError,
    PgcoreError,
    SpecError,
    UnknownNameError,
)
from pgcore.interfaces.backend import Backend
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.evaluation import Evaluation
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.optimizer import Optimizer
from pgcore.interfaces.policy import Policy, ensure_policy, read_policy
from pgcore.interfaces.reduction import THE_BATCH, Totals
from pgcore.interfaces.signals import Signals
from pgcore.interfaces.surrogate import Surrogate
from pgcore.registry.registry import default_backend_name, registry
from pgcore.registry.unpackaged import REGISTERED
from pgcore.validation.arrays import put_off
from pgcore.validation.fields import count_from_zero, flag, instance_of
from pgcore.wording import shown
from pgcore.xp.namespace import Native

if TYPE_CHECKING:
    from pgcore.function.laid_out import LaidOutSignals

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

TOTALS = instance_of(Totals, "pgcore.Totals(steps=4096)")

# One instance a process of each backend in use.
_backends: dict[str, Backend] = {}


def backend(name: str | None = None) -> Backend:
    """Return a backend by name; None takes the one in PGCORE_BACKEND, or else numpy.

    Raises:
        UnknownNameError: no backend of that name is registered.
        DependencyError: its framework is not installed; says which extra to install.

    Example:
        >>> pg.backend("numpy").name
        'numpy'
    """
    # Backends keep caches, such as compiled functions, so that one instance serves the process.
    name = default_backend_name(name)
    # A registered class may have replaced the instance's.
    _, cls = REGISTERED.get(("backends", name), (None, None))
    if name not in _backends or not isinstance(_backends[name], cast("type", cls or Backend)):
        _backends[name] = cast("type[Backend]", registry().load("backends", name))()
    return _backends[name]


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
        device: One of the backend's devices; None is its default.
        compiled: Compile the policy's computations, on a backend that can choose.

    Raises:
        UnknownNameError: no backend of that name is registered.
        SpecError: the backend cannot build this spec, seed, dtype or device, or cannot compile.

    Example:
        >>> policy = pg.policy(pg.PolicySpec(pg.Linear(4), pg.Categorical(2)), seed=1)
        >>> policy.parameters()["network.0.weight"].shape
        (4, 2)
    """
    ensure_spec("policy spec", spec)
    flag("policy compiled", compiled, SpecError)
    if device is not None:
        instance_of(str, '"cpu"')("policy device", device, SpecError)
    return _backend(backend).policy(spec, seed=seed, dtype=dtype, device=device, compiled=compiled)


def estimator(name: str, **fields: Any) -> Estimator:
    """Return a registered estimator, such as "ppo", with these hyper-parameters.

    Raises:
        UnknownNameError: no estimator, or no hyper-parameter of it, has a name.
        EstimatorError: a hyper-parameter has a value it cannot take.

    Example:
        >>> pg.estimator("ppo", clip=0.1).quantities
        ('log_prob', 'value')
    """
    return _build("estimators", name, fields, EstimatorError)


def optimizer(name: str, **fields: Any) -> Optimizer:
    """Return a registered optimizer; it binds to the first policy it steps.

    Raises:
        UnknownNameError: no optimizer, or no hyper-parameter of it, has a name.
        OptimizerError: a hyper-parameter has a value it cannot take.

    Example:
        >>> pg.optimizer("sgd", learning_rate=0.5).steps_taken
        0
    """
    return Optimizer(_build("optimizers", name, fields, OptimizerError))


@overload
def signals(
    policy: Policy,
    estimator: Estimator,
    batch: Batch,
    /,
    *,
    target: Policy | None = None,
    totals: Totals | None = None,
) -> Signals: ...


@overload
def signals(
    estimator: Estimator,
    episodes: Episodes,
    /,
    *,
    totals: Totals | None = None,
    **evaluations: Native,
) -> LaidOutSignals: ...


def signals(*arguments: Any, totals: Totals | None = None, **options: Any) -> Any:
    """Return the estimator's constants for a whole batch, such as advantages and reduction weights.

    With a policy they are those of `gradient`. Slice them with the batch:
    `gradient(policy, estimator, batch.steps(i), signals=signals.steps(i))`. Without one,
    `signals(estimator, episodes)`, they are those of `loss`, from what the episodes recorded, laid
    out as the episodes and in the framework of their arrays. Arrays on an accelerator are computed
    with there, in float64 where the rewards are, else in float32; their numbers are not checked.

    Args:
        arguments: The current policy, an estimator and the batch; a replay batch is one of one-step
            episodes. Or an estimator and episodes.
        totals: Of the whole that this batch is a part of, such as a micro-batch or a rank's share;
            None where the batch is the whole. Gradients of the parts then add up to the whole's.
        options: With a policy `target`, the source of bootstrapped action values, such as an older
            copy; None is the current policy. Without one, evaluations that the episodes do not hold,
            laid out as the episodes, such as `log_prob=` of the current policy or
            `target_action_values=`; [E, ...] of `final_action_values=`, 0 where an episode terminated.

    Raises:
        EstimatorError: estimator and policy do not fit, or the target has another number of actions;
            an evaluation is unknown, not read by the estimator, or of another framework than the
            episodes; or the estimator counts a step that the batch's `loss_mask` leaves out.
        BatchError: the batch does not fit the policy, or lacks what the estimator needs; or totals
            are smaller than the batch, or lack a number that the reduction divides by.
        ShapeError: an evaluation is not laid out as the episodes.
        NonFiniteError: a signal is NaN or infinite; names it and the step.

    Example:
        >>> policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(2)))
        >>> batch = pg.Batch(observations=np.eye(2), actions=[0, 1], rewards=[1.0, 2.0],
        ...                  episode_lengths=[2], terminated=[True])
        >>> pg.signals(policy, pg.estimator("reinforce", gamma=0.5), batch)["advantage"].tolist()
        [2.0, 2.0]
        >>> pg.signals(pg.estimator("reinforce", gamma=0.5), batch)["advantage"].tolist()
        [2.0, 2.0]
    """
    whole = TOTALS("signals totals", THE_BATCH if totals is None else totals, BatchError)
    if len(arguments) == 2:
        # Imported here, since a policy needs none of it.
        from pgcore.function.signals import laid_out_signals

        return laid_out_signals(*arguments, options, whole)
    return _of_policy(*arguments, **options, whole=whole)


def _of_policy(
    policy: Policy,
    estimator: Estimator,
    batch: Batch,
    *,
    whole: Totals,
    target: Policy | None = None,
) -> Signals:
    """Return the signals of a policy; see `signals`."""
    ensure_policy("signals policy", policy)
    policy.check_fits(estimator)
    policy.check(batch)
    if target is not None:
        ensure_policy("signals target", target)
    dtype, width = policy.dtype, policy.spec.head.width

    def of(batch: Batch) -> Signals:
        evaluate = Evaluation(policy, batch, target)
        return Signals.of(estimator, batch, evaluate, dtype, width, whole)

    device, computed = batch.device, None
    if device is not None and policy.beside(batch):
        wide = "float64" if "float64" in (device.dtype, dtype.name) else "float32"
        with put_off() as checks, suppress(Exception), device.arrays.computing(wide):
            computed = of(batch.on_device(wide)).settled(dtype)
        if computed is not None:
            policy.run_checks(checks)
    # Code that takes no arrays but NumPy's gets those, and an error has its step from them.
    if computed is None:
        computed = of(batch)
    if policy.resident:
        batch.remember_device()
        computed.remember_device()
    return computed


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
        signals: The result of `signals` for this batch, or its `steps`; None computes them.
        target: See `signals`; not read where signals are passed.

    Raises:
        EstimatorError: estimator and policy do not fit, or signals and batch differ in length.
        BatchError: the batch does not fit the policy, or lacks what the estimator needs.
        NonFiniteError: a signal, a quantity or the gradient is NaN or infinite; names it and the step.

    Example:
        >>> policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(2)))
        >>> batch = pg.Batch(observations=np.eye(2), actions=[0, 1], rewards=[1.0, 2.0],
        ...                  episode_lengths=[2], terminated=[True])
        >>> gradient = pg.gradient(policy, pg.estimator("reinforce"), batch)
        >>> pg.optimizer("adam", learning_rate=1e-3).step(policy, gradient)
    """
    ensure_policy("gradient policy", policy)
    if signals is None:
        # An inner loop passes slices of signals that were computed once.
        signals = _signals(policy, estimator, batch, target=target)
    surrogate = Surrogate(policy.spec, estimator, batch, signals)
    if batch.checks and not policy.beside(batch):
        batch.run_checks()
    return estimator.differentiate(policy, surrogate)


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
        dtype: "float32" or "float64"; None is the dtype it was saved in.
        device: See `policy`.
        compiled: See `policy`.
        into: The policy to load into, with which other options must agree; None makes a new one.

    Raises:
        FileError: the file cannot be read, or is not a policy.
        SpecError: the backend cannot build the spec, or spec or options disagree with `into`.
        ParameterError: its parameters are not the spec's.

    Example:
        >>> import tempfile
        >>> policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(2)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     policy.save(f"{folder}/policy.safetensors")
        ...     pg.load(f"{folder}/policy.safetensors").spec == policy.spec
        True
    """
    saved, parameters, saved_dtype = read_policy(path)
    if dtype is not None:
        instance_of(str, '"float32"')("load dtype", dtype, SpecError)
    if into is None:
        dtype, spec = dtype or saved_dtype, PolicySpec.from_json(saved)
        # Before a policy is built: a damaged spec may be of any size.
        shapes = {name: value.shape for name, value in parameters.items()}
        if shapes != spec.parameter_shapes:
            check_parameters(spec, parameters, np.dtype(np.float64))
        into = policy(spec, backend=backend, dtype=dtype, device=device, compiled=compiled)
    else:
        # The policy decides all of this already; an option may only repeat it.
        ensure_policy("load into", into)
        flag("load compiled", compiled, SpecError)
        asked = {"backend": backend, "dtype": dtype, "device": device, "compiled": compiled or None}
        settings = {"backend": into.backend, "dtype": into.dtype.name, "compiled": into.compiled}
        for name, option in asked.items():
            present = settings.get(name, "its own")
            if option is not None and not (isinstance(option, str | bool) and option == present):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise SpecError(
                    f"load {name}: expected that of the policy to load into, {present!r}, "
                    f"got {shown(option)}; leave it out, or leave out `into`"
                )
        check_saved(str(path), into.spec, saved)
    into.load(parameters)
    return into


def generator(seed: int) -> np.random.Generator:
    """Return the random generator that sampling uses: NumPy's Philox, one stream on every machine.

    Raises:
        SpecError: the seed is not an integer of at least 0.

    Example:
        >>> pg.generator(0).integers(0, 100, 3).tolist()
        [13, 1, 93]
    """
    return np.random.Generator(np.random.Philox(count_from_zero("generator seed", seed)))


def _build(kind: str, name: str, fields: Mapping[str, Any], error: type[PgcoreError]) -> Any:
    """Return a registered dataclass with these fields."""
    # A dataclass's own error would name its class, and list nothing.
    cls: Any = registry().load(kind, name)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    for field in fields:
        if field not in names:
            raise UnknownNameError(f"{name} hyper-parameter", field, names)
    try:
        return cls(**fields)
    except TypeError as problem:
        raise error(
            f"{name}: expected values for {', '.join(names)}, got {sorted(fields)} ({problem}); "
            "give the missing ones"
        ) from problem


# `gradient` and `policy` have parameters that shadow these functions.
_signals = signals
_backend = backend
