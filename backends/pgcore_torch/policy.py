"""Policies that PyTorch differentiates."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache, wraps
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pgcore.autodiff.adoption import refused_derivative
from pgcore.autodiff.inputs import Inputs, Outputs
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

__all__ = ["TorchPolicy"]

Method = TypeVar("Method", bound=Callable[..., Any])
Terms = Callable[[Inputs], tuple[Tensor, dict[str, Tensor]]]

# Compiled functions are kept for this many estimators, for each of as many sizes as come up: there are two a doubling.
KEPT = 32


def without_autocast(method: Method) -> Method:
    """Return a policy's method that computes in the policy's dtype, also where the user casts automatically."""

    @wraps(method)
    def called(policy: TorchPolicy, *given: Any, **named: Any) -> Any:
        kind = policy.device.type
        if not torch.is_autocast_enabled(kind):
            return method(policy, *given, **named)
        with torch.autocast(kind, enabled=False):
            return method(policy, *given, **named)

    return cast("Method", called)


class TorchPolicy(TorchParameters, AutodiffPolicy):
    """See `AutodiffPolicy`."""

    left_out: ClassVar[frozenset[str]] = AutodiffPolicy.left_out | {"_kept"}

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
        self.device = next(iter(native.values())).device
        self._tensors = list(native.values())
        self._adopted = isinstance(spec.network, Adopted)
        self._verbatim = not isinstance(module, PolicyModule)
        self._dtype: torch.dtype = getattr(torch, dtype.name)
        self._own = dict(module.head.items())
        self._parameters = dict(module.named_parameters())  # by the module's names
        self.rebuild()

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        self._kept = lru_cache(KEPT)(nothing_compiled)

    def optimizer_state(self, formula: OptimizerSpec) -> TorchOptimizer:
        """See `Policy.optimizer_state`."""
        return TorchOptimizer(formula, self)

    @without_autocast
    @torch.no_grad()
    def forward(self, observations: Array) -> tuple[Array, Array | None]:
        """See `AutodiffPolicy.forward`."""
        found = self._outputs_of(self._tensor(observations))
        return self.to_numpy(found.outputs), None if found.values is None else self.to_numpy(
            found.values
        )

    def head_parameters(self) -> dict[str, Array]:
        """See `AutodiffPolicy.head_parameters`."""
        return {name: self.to_numpy(value) for name, value in self._own.items()}

    @without_autocast
    @torch.no_grad()
    def run(self, names: tuple[str, ...], inputs: Inputs) -> dict[str, Array]:
        """See `AutodiffPolicy.run`."""
        return {
            name: self.to_numpy(value)
            for name, value in self._quantities(names, self._native(inputs)).items()
        }

    @without_autocast
    @torch.inference_mode(mode=False)
    def differentiate(self, surrogate: Surrogate, inputs: Inputs) -> tuple[TorchGradient, float]:
        """See `AutodiffPolicy.differentiate`."""
        native = self._native(inputs)
        estimator = surrogate.estimator
        if self.compiled and not self._adopted:
            whole = self._kept(estimator).get(len(inputs.weights)) or self._whole(
                estimator, len(inputs.weights)
            )
            leaves, terms, named, square = whole(
                {name: value.detach() for name, value in self.native.items()}, native
            )
            return TorchGradient(self, surrogate, leaves, terms, named), float(square)
        terms, named = self._terms(estimator, len(inputs.weights))(native)
        derivatives = self._derivatives(terms, native.weights)
        leaves = {
            name: torch.zeros_like(value) if derivative is None else derivative
            for (name, value), derivative in zip(self.native.items(), derivatives, strict=True)
        }
        gradient = TorchGradient(self, surrogate, leaves, terms, named)
        return gradient, gradient.square()

    @without_autocast
    @torch.inference_mode(mode=False)
    def log_prob_products(self, inputs: Inputs, rows: Array) -> Array:
        """See `AutodiffPolicy.log_prob_products`."""
        self._check_current()
        log_prob = self._quantities(("log_prob",), self._native(inputs))["log_prob"]
        weights = self._tensor(rows)
        if not self._adopted:
            return self._rows(
                torch.autograd.grad(
                    log_prob, self._tensors, weights, is_grads_batched=True, allow_unused=True
                ),
                len(rows),
            )
        # Not every operation of somebody's module has a batched derivative.
        parts = [
            self._derivatives(log_prob, row, retain_graph=True, materialize_grads=True)
            for row in weights
        ]
        return np.concatenate([self._rows([part[None] for part in each], 1) for each in parts])

    @without_autocast
    @torch.inference_mode(mode=False)
    def fisher_product(self, inputs: Inputs, vector: Array) -> Array:
        """See `AutodiffPolicy.fisher_product`.

        J^T u is linear in u, so its derivative in u is J: reverse mode twice, which more modules have than forward mode.
        """
        self._check_current()
        native, head = self._native(inputs), self.spec.head
        with sdpa_kernel(SDPBackend.MATH):  # the derivative of fused attention has none itself
            outputs = self._outputs_of(native.observations)
        coordinates = fisher_coordinates(head, outputs, native)
        u = torch.zeros_like(coordinates, requires_grad=True)
        pulled = self._derivatives(coordinates, u, create_graph=True, materialize_grads=True)
        along = torch.dot(
            flat(dict(zip(self.native, pulled, strict=True))), flat(self.leaves(vector))
        )
        (tangent,) = self._derivatives(along, by=[u], retain_graph=True)
        cotangent = fisher_metric(head, coordinates.detach(), tangent, native)
        product = self._derivatives(coordinates, cotangent, materialize_grads=True)
        return self._rows([part[None] for part in product], 1)[0]

    def _terms(self, estimator: Estimator, size: int) -> Terms:
        """Return the function from native inputs to terms and quantities, compiled for an adopted module that is."""

        def terms(inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
            return surrogate_terms(
                self.spec.head, estimator, self._outputs_of(inputs.observations), inputs
            )

        if not self.compiled:
            return terms
        compiled = self._kept_as(estimator, size, terms)

        def checked(inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
            try:
                return compiled(inputs)
            except RuntimeError:
                self._outputs_of(inputs.observations)  # says what is wrong where it is the module
                raise

        return checked

    def _whole(self, estimator: Estimator, size: int) -> Callable[..., Any]:
        """Return the function from parameters and inputs to leaves, terms, quantities and sum of squares, compiled as one.

        One graph holds the derivative too, which is faster than compiling the terms and leaving the rest to autograd.
        """
        head = self.spec.head
        module = self.module
        assert not isinstance(module, AdoptedModule)
        canonical_names = {id(value): name for name, value in self.native.items()}
        own = {name: canonical_names[id(value)] for name, value in self._parameters.items()}

        def loss(parameters: dict[str, Tensor], inputs: Inputs) -> tuple[Tensor, Any]:
            named = {name: parameters[canonical] for name, canonical in own.items()}
            outputs, values = module.computed(named, inputs.observations)
            found = Outputs(
                outputs, values, {name: parameters[f"head.{name}"] for name in self._own}
            )
            terms, quantities = surrogate_terms(head, estimator, found, inputs)
            return torch.dot(inputs.weights, terms), (terms, quantities)

        def whole(parameters: dict[str, Tensor], inputs: Inputs) -> Any:
            leaves, (terms, named) = torch.func.grad(loss, has_aux=True)(parameters, inputs)
            square = torch.stack([(leaf * leaf).sum() for leaf in leaves.values()]).sum()
            return leaves, terms, named, square

        return self._kept_as(estimator, size, whole)

    def _kept_as(
        self, estimator: Estimator, size: int, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return the function compiled, for each estimator and number of steps once."""
        sizes = self._kept(estimator)
        if size not in sizes:
            compiled: Any = torch.compile
            # Each has its own limit of recompilations; the overloads' types do not know that argument yet.
            sizes[size] = compiled(function, dynamic=False, isolate_recompiles=True)
        return sizes[size]

    def _derivatives(
        self,
        of: Tensor,
        weights: Tensor | None = None,
        by: list[Tensor] | None = None,
        **options: bool,
    ) -> tuple[Any, ...]:
        """Return the derivative by each parameter, or by each of some other tensors, None where there is none."""
        try:
            found = torch.autograd.grad(
                of, by or self._tensors, weights, allow_unused=True, **options
            )
        except RuntimeError as error:
            if not self._adopted or isinstance(error, torch.OutOfMemoryError):
                raise
            self._check_current()
            raise refused_derivative(str(self.spec.network), error) from error
        if self._adopted and any(
            part is None for part in found
        ):  # the module may have other parameters by now
            self._check_current()
        return found

    def _quantities(self, names: Collection[str], inputs: Inputs) -> dict[str, Tensor]:
        return quantities(self.spec.head, names, self._outputs_of(inputs.observations), inputs)

    def _outputs_of(self, observations: Tensor) -> Outputs:
        if not isinstance(self.module, AdoptedModule):
            return Outputs(*self.module.computed(self._parameters, observations), self._own)
        try:
            outputs, values = self.module(observations)
        except BatchError:
            self._check_current()  # which may be why it fails
            raise
        values = self.flat_values(values)
        self.check_outputs(outputs, values, len(observations))
        return Outputs(outputs, values, self._own)

    def _native(self, inputs: Inputs) -> Inputs:
        return Inputs(
            self._tensor(inputs.observations),
            self._tensor(inputs.actions),
            None if inputs.action_mask is None else self._tensor(inputs.action_mask),
            {name: self._tensor(value) for name, value in inputs.signals.items()},
            self._tensor(inputs.weights),
        )

    def _tensor(self, array: Array) -> Tensor:
        """Return a copy as a tensor: modules may write to their inputs."""
        tensor = torch.from_numpy(np.array(array, order="C"))
        return tensor if self.device.type == "cpu" else tensor.to(self.device)

    def _rows(self, parts: Collection[Tensor | None], rows: int) -> Array:
        """Return [R, D] in canonical order from [R, ...] derivatives of each parameter, None for 0."""
        columns: list[Tensor] = []
        for (name, value), part in zip(self.native.items(), parts, strict=True):
            found = value.new_zeros(rows, *value.shape) if part is None else part
            columns.append(canonical(name, found, verbatim=self._verbatim).reshape(rows, -1))
        return self.to_numpy(torch.cat(columns, 1))


def nothing_compiled(estimator: Estimator) -> dict[int, Callable[..., Any]]:  # noqa: ARG001 - the cache tells by it
    """Return where what is compiled for an estimator is to be kept, by number of steps."""
    return {}
