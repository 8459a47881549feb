"""Policies that TensorFlow differentiates."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from pgcore.autodiff.adoption import refusal
from pgcore.autodiff.inputs import Inputs, Outputs
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.data.spec import PolicySpec
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore_tensorflow.gradient import TensorflowGradient
from pgcore_tensorflow.heads import fisher_coordinates, fisher_metric, quantities, surrogate_terms
from pgcore_tensorflow.networks import AdoptedModule, PolicyModule, reason
from pgcore_tensorflow.optimizers import TensorflowOptimizer
from pgcore_tensorflow.packing import Layout, pack, unpack
from pgcore_tensorflow.parameters import TensorflowParameters

__all__ = ["TensorflowPolicy"]

ZERO = tf.UnconnectedGradients.ZERO

# Graphs are kept for this many different things to compute, for each of as many sizes as come up: there are two a doubling.
KEPT = 32


class TensorflowPolicy(TensorflowParameters, AutodiffPolicy):
    """See `AutodiffPolicy`. Graphs take any number of steps; only XLA needs them padded.

    Attributes:
        module: The tf.Module.
    """

    left_out: ClassVar[frozenset[str]] = AutodiffPolicy.left_out | {
        "native",
        "_variables",
        "_graphs",
    }

    def __init__(
        self,
        backend: str,
        spec: PolicySpec,
        dtype: np.dtype[Any],
        module: PolicyModule | AdoptedModule,
        device: str | None,
        *,
        compiled: bool,
    ) -> None:
        """Keep the module and its variables, as they are."""
        self.backend, self.spec, self.dtype, self.compiled = backend, spec, dtype, compiled
        self.module = module
        self.pads = compiled
        self.device = device
        self.rebuild()

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        self.native: dict[str, Any] = self.module.native
        self._variables: list[Any] = list(self.native.values())
        self._graphs = lru_cache(KEPT)(no_graphs)

    def optimizer_state(self, formula: OptimizerSpec) -> TensorflowOptimizer:
        """See `Policy.optimizer_state`."""
        return TensorflowOptimizer(formula, self)

    def forward(self, observations: Array) -> tuple[Array, Array | None]:
        """See `AutodiffPolicy.forward`."""

        def graph(given: Inputs) -> tuple[Any, Any]:
            return self._outputs_of(given.observations)[:2]

        found = self._run(("forward",), graph, Inputs(observations, None, None, {}, None))
        return self.to_numpy(found[0]), None if found[1] is None else self.to_numpy(found[1])

    def run(self, names: tuple[str, ...], inputs: Inputs) -> dict[str, Array]:
        """See `AutodiffPolicy.run`."""

        def graph(given: Inputs) -> dict[str, Any]:
            return quantities(self.spec.head, names, self._outputs_of(given.observations), given)

        return {
            name: self.to_numpy(value)
            for name, value in self._run(("run", *names), graph, inputs).items()
        }

    def differentiate(
        self, surrogate: Surrogate, inputs: Inputs
    ) -> tuple[TensorflowGradient, float]:
        """See `AutodiffPolicy.differentiate`."""
        estimator = surrogate.estimator

        def graph(given: Inputs) -> Any:
            with tf.GradientTape() as tape:
                terms, named = surrogate_terms(
                    self.spec.head, estimator, self._outputs_of(given.observations), given
                )
                loss = tf.reduce_sum(given.weights * terms)
            leaves = dense(tape.gradient(loss, self._variables, unconnected_gradients=ZERO))
            square = tf.add_n([tf.reduce_sum(leaf * leaf) for leaf in leaves])
            return leaves, square, terms, named

        leaves, square, terms, named = self._run(("gradient", estimator), graph, inputs)
        gradient = TensorflowGradient(
            self, surrogate, dict(zip(self.names, leaves, strict=True)), terms, named
        )
        return gradient, float(square)

    def log_prob_products(self, inputs: Inputs, rows: Array) -> Array:
        """See `AutodiffPolicy.log_prob_products`."""

        def graph(given: Inputs, rows: Any) -> list[Any]:
            with tf.GradientTape(persistent=True) as tape:
                found = self._outputs_of(given.observations)
                log_prob = quantities(self.spec.head, ("log_prob",), found, given)["log_prob"]

            def product(row: Any) -> list[Any]:
                return dense(
                    tape.gradient(
                        log_prob, self._variables, output_gradients=row, unconnected_gradients=ZERO
                    )
                )

            return tf.vectorized_map(product, rows)

        found = self._run(("products",), graph, inputs, rows, xla=False)
        return np.concatenate(
            [self.to_numpy(part).reshape(len(rows), -1) for part in found], axis=1
        )

    def fisher_product(self, inputs: Inputs, vector: Array) -> Array:
        """See `AutodiffPolicy.fisher_product`.

        J^T u is linear in u, so its derivative in u is J: reverse mode twice, which more layers have than forward mode.
        """
        head = self.spec.head

        def graph(given: Inputs, direction: Any) -> list[Any]:
            with tf.GradientTape(persistent=True) as tape:
                coordinates = fisher_coordinates(head, self._outputs_of(given.observations), given)

            def pull(u: Any) -> list[Any]:
                return dense(tape.gradient(coordinates, self._variables, u, ZERO))

            u = tf.zeros_like(coordinates)
            with tf.GradientTape() as transposed:
                transposed.watch(u)
                pulled = tf.concat([tf.reshape(part, [-1]) for part in pull(u)], 0)
                along = tf.reduce_sum(pulled * direction)
            tangent = transposed.gradient(along, u, unconnected_gradients=ZERO)
            return pull(fisher_metric(head, coordinates, tangent, given))

        found = self._run(("fisher",), graph, inputs, vector, xla=False)
        return np.concatenate([self.to_numpy(part).reshape(-1) for part in found])

    def _outputs_of(self, observations: Any) -> Outputs:
        found = self.module(observations)
        if isinstance(self.module, AdoptedModule):
            found = found._replace(values=self.flat_values(found.values))
            self.check_outputs(found.outputs, found.values, observations.shape[0])
        return found

    def _run(
        self,
        what: tuple[Any, ...],
        graph: Callable[..., Any],
        inputs: Inputs,
        *more: Array,
        xla: bool = True,
    ) -> Any:
        """Return what `_call` does; name an adopted model where its graph fails."""
        try:
            return self._call(what, graph, inputs, *more, xla=xla)
        except tf.errors.InvalidArgumentError as error:
            if not isinstance(self.module, AdoptedModule):
                raise
            raise refusal(
                str(self.spec.network), inputs.observations, error, reason(error)
            ) from error

    def _call(
        self,
        what: tuple[Any, ...],
        graph: Callable[..., Any],
        inputs: Inputs,
        *more: Array,
        xla: bool = True,
    ) -> Any:
        """Run a function of tensors as a graph that is kept under `what`; one serves every number of steps, with XLA one size.

        Args:
            what: The key, which says all that the function closes over beside the policy.
            graph: Called with the inputs and `more` as tensors.
            inputs: The steps.
            more: Arrays that are not steps.
            xla: Whether to compile with XLA in that mode.
        """
        arrays, layout = pack(inputs, self.dtype)
        xla = xla and self.compiled
        shapes = tuple((array.shape if xla else array.shape[1:], array.dtype) for array in arrays)
        graphs, key = self._graphs(what), (layout, shapes, len(more))
        with self.placed():
            tensors = [tf.constant(array) for array in (*arrays, *more)]
            kept = graphs.get(key)
            if kept is None:
                kept = graphs[key] = built(graph, layout, tensors, len(more), xla=xla)
            return kept(*tensors)


def no_graphs(what: tuple[Any, ...]) -> dict[Any, Callable[..., Any]]:  # noqa: ARG001 - the cache tells by it
    """Return where the graphs that compute something are to be kept, by layout and shapes."""
    return {}


def built(
    graph: Callable[..., Any], layout: Layout, tensors: list[Any], more: int, *, xla: bool
) -> Callable[..., Any]:
    """Return a graph for tensors like these, the last `more` of them of any shape."""
    steps = len(tensors) - more

    def whole(*tensors: Any) -> Any:
        return graph(unpack(tensors[:steps], layout), *tensors[steps:])

    def shape(number: int, tensor: Any) -> Any:
        if number >= steps:
            return [None] * len(tensor.shape)
        return tensor.shape if xla else [None, *tensor.shape[1:]]

    specs = [
        tf.TensorSpec(shape(number, tensor), tensor.dtype) for number, tensor in enumerate(tensors)
    ]
    return tf.function(whole, autograph=False, jit_compile=xla or None).get_concrete_function(
        *specs
    )


def dense(derivatives: list[Any]) -> list[Any]:
    """Return derivatives as tensors: those of a table come as slices."""
    return [tf.convert_to_tensor(derivative) for derivative in derivatives]
