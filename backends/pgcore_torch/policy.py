"""Policies that PyTorch differentiates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import lru_cache, wraps
from types import FunctionType
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pgcore.autodiff.adoption import refused_derivative
from pgcore.autodiff.gathering import Gather, minibatch
from pgcore.autodiff.inputs import Inputs, Outputs, arrays_in, each
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.data.spec import Adopted, PolicySpec
from pgcore.errors import BatchError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore_torch.gradient import TorchGradient
from pgcore_torch.heads import fisher_coordinates, fisher_metric, quantities, surrogate_terms
from pgcore_torch.networks import AdoptedModule, FormulaModule, PolicyModule
from pgcore_torch.optimizers import TorchOptimizer
from pgcore_torch.parameters import TorchParameters, canonical, flat
from pgcore_torch.xp import xp

__all__ = ["TorchPolicy"]

Method = TypeVar("Method", bound=Callable[..., Any])
Terms = Callable[[Inputs], tuple[Tensor, dict[str, Tensor]]]

# Estimators whose compiled functions stay in memory, for every padded size: two a doubling.
KEPT = 32

# Bytes of the largest array that goes by way of page-locked memory, which PyTorch keeps: 1 MiB.
PAGE_LOCKED = 1 << 20

# Bytes of the largest observations that are copied, 32 KiB: sharing NumPy's memory takes as long.
COPIED = 1 << 15

# PyTorch stores compiled code at a function's code object, eight compilations at most. Each padded
# size has a limit of its own: by this option, or before 2.13 by a code object of its own.
ISOLATION = {"isolate_recompiles": True}
if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
    ISOLATION = {}


def without_autocast(method: Method) -> Method:
    """Return a policy's method that computes in the policy's dtype, under autocast too."""

    @wraps(method)
    def wrapper(policy: TorchPolicy, *args: Any, **kwargs: Any) -> Any:
        kind = policy.device.type
        # Entering the context takes time, so it is entered only under autocast.
        if not torch.is_autocast_enabled(kind):
            return method(policy, *args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return method(policy, *args, **kwargs)

    return cast("Method", wrapper)


class TorchPolicy(TorchParameters, AutodiffPolicy):
    """See `AutodiffPolicy`."""

    left_out: ClassVar[frozenset[str]] = AutodiffPolicy.left_out | {"_functions"}

    def __init__(
        self,
        backend: str,
        spec: PolicySpec,
        dtype: np.dtype[Any],
        module: PolicyModule | FormulaModule | AdoptedModule,
        native: dict[str, Tensor],
        *,
        compiled: bool,
    ) -> None:
        """Keep the module and its parameters, as they are."""
        self.backend, self.spec, self.dtype, self.compiled = backend, spec, dtype, compiled
        self.module = module
        self.native = native
        self.pads = compiled
        # Looked up once, since a gradient at batch 64 takes tenths of a millisecond.
        self.device = next(iter(native.values())).device
        self._on_host = self.device.type == "cpu"
        self.resident = not self._on_host
        self._tensors = list(native.values())
        self._adopted = isinstance(spec.network, Adopted)
        self._verbatim = not isinstance(module, PolicyModule)
        self._dtype: torch.dtype = getattr(torch, dtype.name)
        self._head = dict(module.head.items())
        self._parameters = dict(module.named_parameters())  # by the module's names
        self.rebuild()

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        self._functions = lru_cache(KEPT)(no_functions)

    def optimizer_state(self, formula: OptimizerSpec) -> TorchOptimizer:
        """See `Policy.optimizer_state`."""
        return TorchOptimizer(formula, self)

    @without_autocast
    @torch.no_grad()
    def forward(self, observations: Any) -> tuple[Tensor, Tensor | None]:
        """See `AutodiffPolicy.forward`."""
        return self._outputs_of(each(self._observed, observations))[:2]

    def head_parameters(self) -> dict[str, Array]:
        """See `AutodiffPolicy.head_parameters`."""
        return {name: self.to_numpy(value) for name, value in self._head.items()}

    @without_autocast
    @torch.no_grad()
    def run(self, names: tuple[str, ...], inputs: Inputs) -> dict[str, Tensor]:
        """See `AutodiffPolicy.run`."""
        return self._quantities(names, self._native(inputs))

    @without_autocast
    @torch.inference_mode(mode=False)
    def differentiate(self, surrogate: Surrogate, inputs: Inputs) -> tuple[TorchGradient, Tensor]:
        """See `AutodiffPolicy.differentiate`."""
        native, estimator, size = self._native(inputs), surrogate.estimator, len(inputs.weights)
        if self.compiled and not self._adopted:
            whole = self._functions(estimator).get(size) or self._whole(estimator, size)
            parameters = {name: value.detach() for name, value in self.native.items()}
            leaves, terms, quantities_used, square = whole(parameters, native)
            return TorchGradient(self, surrogate, leaves, terms, quantities_used), square
        terms, quantities_used = self._terms(estimator, size)(native)
        derivatives = self._derivatives(terms, native.weights)
        leaves: dict[str, Tensor] = {}
        # A parameter that the loss does not depend on has derivative 0.
        for (name, value), derivative in zip(self.native.items(), derivatives, strict=True):
            leaves[name] = torch.zeros_like(value) if derivative is None else derivative
        gradient = TorchGradient(self, surrogate, leaves, terms, quantities_used)
        return gradient, gradient.squared()

    @without_autocast
    @torch.inference_mode(mode=False)
    def log_prob_products(self, inputs: Inputs, rows: Array) -> Array:
        """See `AutodiffPolicy.log_prob_products`."""
        self._check_current()
        log_prob = self._quantities(("log_prob",), self._native(inputs))["log_prob"]
        weights = self.to_native(rows)
        if not self._adopted:
            batched = torch.autograd.grad(
                log_prob, self._tensors, weights, is_grads_batched=True, allow_unused=True
            )
            return self._rows(batched, len(rows))
        # Not every operation of a user's module has a batched derivative.
        products: list[Array] = []
        for row in weights:
            derivatives = self._derivatives(
                log_prob, row, retain_graph=True, materialize_grads=True
            )
            products.append(self._rows([part[None] for part in derivatives], 1))
        return np.concatenate(products)

    @without_autocast
    @torch.inference_mode(mode=False)
    def fisher_product(self, inputs: Inputs, vector: Array) -> Array:
        """See `AutodiffPolicy.fisher_product`.

        J^T u is linear in u, so its derivative in u is J. Reverse mode twice, since more modules
        have it than forward mode.
        """
        self._check_current()
        native, head = self._native(inputs), self.spec.head
        # Fused attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            outputs = self._outputs_of(native.observations)
        coordinates = fisher_coordinates(head, outputs, native)
        u = torch.zeros_like(coordinates, requires_grad=True)
        pulled = self._derivatives(coordinates, u, create_graph=True, materialize_grads=True)
        transposed = dict(zip(self.native, pulled, strict=True))
        along = torch.dot(flat(transposed), flat(self.leaves(vector)))
        (tangent,) = self._derivatives(along, by=[u], retain_graph=True)
        cotangent = fisher_metric(head, coordinates.detach(), tangent, native)
        product = self._derivatives(coordinates, cotangent, materialize_grads=True)
        return self._rows([part[None] for part in product], 1)[0]

    def _terms(self, estimator: Estimator, size: int) -> Terms:
        """Return the function from native inputs to terms and quantities.

        Args:
            estimator: The estimator.
            size: Number of steps; with an adopted module in compiled mode there is one function
                for each.
        """

        def terms(inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
            return surrogate_terms(
                self.spec.head, estimator, self._outputs_of(inputs.observations), inputs
            )

        if not self.compiled:
            return terms
        compiled = self._compile(estimator, size, terms)

        def checked(inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
            try:
                return compiled(inputs)
            except RuntimeError:
                # Run eagerly, a module at fault raises an error with its name.
                self._outputs_of(inputs.observations)
                raise

        return checked

    def _whole(self, estimator: Estimator, size: int) -> Callable[..., Any]:
        """Return the compiled function of parameters and inputs that gives a whole gradient.

        Its results are leaves, terms, quantities and the sum of squares. One graph holds the
        derivative too, which is faster than compiling the terms alone.
        """
        head = self.spec.head
        module = self.module
        assert not isinstance(module, AdoptedModule)
        # From the module's names to canonical ones, by identity.
        names = {id(value): name for name, value in self.native.items()}
        canonical_names = {name: names[id(value)] for name, value in self._parameters.items()}

        def loss(parameters: dict[str, Tensor], inputs: Inputs) -> tuple[Tensor, Any]:
            tensors = {name: parameters[place] for name, place in canonical_names.items()}
            outputs, values = module.computed(tensors, inputs.observations)
            head_tensors = {name: parameters[f"head.{name}"] for name in self._head}
            terms, quantities = surrogate_terms(
                head, estimator, Outputs(outputs, values, head_tensors), inputs
            )
            return torch.dot(inputs.weights, terms), (terms, quantities)

        def whole(parameters: dict[str, Tensor], inputs: Inputs) -> Any:
            leaves, (terms, quantities) = torch.func.grad(loss, has_aux=True)(parameters, inputs)
            square = torch.stack([(leaf * leaf).sum() for leaf in leaves.values()]).sum()
            return leaves, terms, quantities, square

        return self._compile(estimator, size, whole)

    def _compile(
        self, estimator: Estimator, size: int, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return the function compiled, for each estimator and number of steps once."""
        sizes = self._functions(estimator)
        if size not in sizes:
            compiled: Any = torch.compile  # whose overloads' types lack the arguments
            # PyTorch's guards check each input's shape. The compiled code need not assert shapes
            # again, but for operations of a user's module, whose results may differ from the trace.
            options = {"size_asserts": self._adopted}
            isolated = function if ISOLATION else with_own_code(function)
            sizes[size] = compiled(isolated, dynamic=False, options=options, **ISOLATION)
        return sizes[size]

    def _derivatives(
        self,
        of: Tensor,
        weights: Tensor | None = None,
        by: list[Tensor] | None = None,
        **options: bool,
    ) -> tuple[Any, ...]:
        """Return the derivatives of a tensor, None for those that it does not depend on.

        Args:
            of: The tensor.
            weights: Its cotangent; None for a scalar.
            by: The tensors to differentiate by; None for all parameters.
            options: Further ones of `torch.autograd.grad`.
        """
        try:
            derivatives = torch.autograd.grad(
                of, by or self._tensors, weights, allow_unused=True, **options
            )
        except RuntimeError as error:
            if not self._adopted or isinstance(error, torch.OutOfMemoryError):
                raise
            self._check_current()
            raise refused_derivative(str(self.spec.network), error) from error
        # The module may have other parameters by now.
        if self._adopted and any(part is None for part in derivatives):
            self._check_current()
        return derivatives

    def _quantities(self, names: Collection[str], inputs: Inputs) -> dict[str, Tensor]:
        return quantities(self.spec.head, names, self._outputs_of(inputs.observations), inputs)

    def _outputs_of(self, observations: Any) -> Outputs:
        if not isinstance(self.module, AdoptedModule):
            return Outputs(*self.module.computed(self._parameters, observations), self._head)
        try:
            outputs, values = self.module(observations)
        except BatchError:
            # Replaced layers may be the reason, and then say so.
            self._check_current()
            raise
        values = self.flat_values(values)
        self.check_outputs(outputs, values, len(arrays_in(observations)[0]))
        return Outputs(outputs, values, self._head)

    def gathered(self, whole: Inputs, gather: Gather) -> Inputs:
        """See `ResidentPolicy.gathered`."""
        return minibatch(xp, take, real_steps, whole, gather)

    def to_native(self, array: Array | Tensor) -> Tensor:
        """See `AutodiffParameters.to_native`; a copy of NumPy's, since modules may write to inputs."""
        if isinstance(array, Tensor):
            return array
        tensor = torch.from_numpy(np.array(array, order="C"))
        if self._on_host:
            return tensor
        # From page-locked memory the copy does not wait for earlier work on the device.
        pinned = self.device.type == "cuda" and tensor.nbytes <= PAGE_LOCKED
        if pinned:
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=pinned)

    def _native(self, inputs: Inputs) -> Inputs:
        # A user's module may write to its inputs, and a batch's tensors serve many calls.
        if self._adopted and isinstance(arrays_in(inputs.observations)[0], Tensor):
            observations = each(torch.clone, inputs.observations)
        else:
            observations = each(self._observed, inputs.observations)
        return Inputs(
            observations,
            self.to_native(inputs.actions),
            None if inputs.action_mask is None else self.to_native(inputs.action_mask),
            {name: self.to_native(value) for name, value in inputs.signals.items()},
            self.to_native(inputs.weights),
        )

    def _observed(self, array: Array | Tensor) -> Tensor:
        """Return observations as a tensor; own networks read NumPy's memory and write to none."""
        if not isinstance(array, np.ndarray) or array.nbytes <= COPIED:
            return self.to_native(array)
        own = self._on_host and isinstance(self.module, PolicyModule)
        # At negative strides PyTorch ends the process.
        if own and array.flags.c_contiguous:
            with suppress(BufferError):  # older versions share no read-only memory
                return torch.from_dlpack(array)
        return self.to_native(array)

    def _rows(self, parts: Collection[Tensor | None], rows: int) -> Array:
        """Return [R, D] in canonical order from [R, ...] derivatives by parameter, None for 0."""
        columns: list[Tensor] = []
        for (name, value), part in zip(self.native.items(), parts, strict=True):
            stacked = value.new_zeros(rows, *value.shape) if part is None else part
            columns.append(canonical(name, stacked, verbatim=self._verbatim).reshape(rows, -1))
        return self.to_numpy(torch.cat(columns, 1))


def take(array: Tensor, rows: Tensor) -> Tensor:
    """Return rows of an array."""
    return array.index_select(0, rows)


def real_steps(weights: Tensor, steps: int) -> Tensor | None:
    """Return [N] bool, true for the first steps; None where all are."""
    if len(weights) == steps:
        return None
    return torch.arange(len(weights), device=weights.device) < steps


def no_functions(estimator: Estimator) -> dict[int, Callable[..., Any]]:  # noqa: ARG001 - the key
    """Return an empty store of an estimator's compiled functions, by number of steps."""
    return {}


def with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a function that has a code object of its own."""
    assert isinstance(function, FunctionType)
    code = function.__code__.replace()
    return FunctionType(code, function.__globals__, closure=function.__closure__)
