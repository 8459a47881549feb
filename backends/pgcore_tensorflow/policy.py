"""Policies that TensorFlow differentiates."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from pgcore.autodiff.adoption import refusal
from pgcore.autodiff.gathering import Gather, minibatch
from pgcore.autodiff.inputs import Inputs, Outputs, arrays_in
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.data.spec import PolicySpec
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore_tensorflow.gradient import TensorflowGradient
from pgcore_tensorflow.heads import fisher_coordinates, fisher_metric, quantities, surrogate_terms
from pgcore_tensorflow.networks import AdoptedModule, PolicyModule, reason
from pgcore_tensorflow.optimizers import TensorflowOptimizer
from pgcore_tensorflow.packing import Layout, listed, pack, unpack
from pgcore_tensorflow.parameters import TensorflowParameters
from pgcore_tensorflow.xp import xp

__all__ = ["TensorflowPolicy"]

# A parameter that the loss does not depend on has derivative 0.
ZERO = tf.UnconnectedGradients.ZERO

# Computations whose graphs stay in memory, for every padded size: two a doubling.
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
        # Graphs take any number of steps; XLA compiles for one.
        self.backend, self.spec, self.dtype, self.compiled = backend, spec, dtype, compiled
        self.module = module
        self.pads = compiled
        self.device = device
        self.rebuild()

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        self.native: dict[str, Any] = self.module.native
        self._variables: list[Any] = list(self.native.values())
        self.resident = "CPU" not in self._variables[0].device
        self._graphs = lru_cache(KEPT)(no_graphs)

    def optimizer_state(self, formula: OptimizerSpec) -> TensorflowOptimizer:
        """See `Policy.optimizer_state`."""
        return TensorflowOptimizer(formula, self)

    def forward(self, observations: Any) -> tuple[Any, Any]:
        """See `AutodiffPolicy.forward`."""

        def graph(steps: Inputs) -> tuple[Any, Any]:
            return self._outputs_of(steps.observations)[:2]

        steps = Inputs(observations, None, None, {}, None)
        return self._run(("forward",), graph, steps)

    def run(self, names: tuple[str, ...], inputs: Inputs) -> dict[str, Any]:
        """See `AutodiffPolicy.run`."""

        def graph(steps: Inputs) -> dict[str, Any]:
            return quantities(self.spec.head, names, self._outputs_of(steps.observations), steps)

        return self._run(("run", *names), graph, inputs)

    def differentiate(self, surrogate: Surrogate, inputs: Inputs) -> tuple[TensorflowGradient, Any]:
        """See `AutodiffPolicy.differentiate`."""
        estimator = surrogate.estimator

        def graph(steps: Inputs) -> Any:
            with tf.GradientTape() as tape:
                terms, used = surrogate_terms(
                    self.spec.head, estimator, self._outputs_of(steps.observations), steps
                )
                loss = tf.reduce_sum(steps.weights * terms)
            leaves = dense(tape.gradient(loss, self._variables, unconnected_gradients=ZERO))
            # The sum of squares in the same graph shows whether an entry is NaN or infinite.
            square = tf.add_n([tf.reduce_sum(leaf * leaf) for leaf in leaves])
            return leaves, square, terms, used

        tensors, square, terms, used = self._run(("gradient", estimator), graph, inputs)
        leaves = dict(zip(self.names, tensors, strict=True))
        return TensorflowGradient(self, surrogate, leaves, terms, used), square

    def log_prob_products(self, inputs: Inputs, rows: Array) -> Array:
        """See `AutodiffPolicy.log_prob_products`."""

        def graph(steps: Inputs, rows: Any) -> list[Any]:
            # Persistent, since every row asks for a derivative.
            with tf.GradientTape(persistent=True) as tape:
                outputs = self._outputs_of(steps.observations)
                log_prob = quantities(self.spec.head, ("log_prob",), outputs, steps)["log_prob"]

            def product(row: Any) -> list[Any]:
                return dense(tape.gradient(log_prob, self._variables, row, ZERO))

            return tf.vectorized_map(product, rows)

        parts = self._run(("products",), graph, inputs, rows, xla=False)
        columns = [self.to_numpy(part).reshape(len(rows), -1) for part in parts]
        return np.concatenate(columns, axis=1)

    def fisher_product(self, inputs: Inputs, vector: Array) -> Array:
        """See `AutodiffPolicy.fisher_product`.

        J^T u is linear in u, so its derivative in u is J. Reverse mode twice, since more layers
        have it than forward mode.
        """
        head = self.spec.head

        def graph(steps: Inputs, direction: Any) -> list[Any]:
            with tf.GradientTape(persistent=True) as tape:
                coordinates = fisher_coordinates(head, self._outputs_of(steps.observations), steps)

            def pull(u: Any) -> list[Any]:
                return dense(tape.gradient(coordinates, self._variables, u, ZERO))

            u = tf.zeros_like(coordinates)
            with tf.GradientTape() as transposed:
                transposed.watch(u)
                pulled = tf.concat([tf.reshape(part, [-1]) for part in pull(u)], 0)
                along = tf.reduce_sum(pulled * direction)
            tangent = transposed.gradient(along, u, unconnected_gradients=ZERO)
            return pull(fisher_metric(head, coordinates, tangent, steps))

        parts = self._run(("fisher",), graph, inputs, vector, xla=False)
        return np.concatenate([self.to_numpy(part).reshape(-1) for part in parts])

    def gathered(self, whole: Inputs, gather: Gather) -> Inputs:
        """See `ResidentPolicy.gathered`."""
        with self.placed():
            return minibatch(xp, tf.gather, real_steps, whole, gather)

    def to_native(self, array: Any) -> Any:
        """See `AutodiffParameters.to_native`."""
        if tf.is_tensor(array):
            return array
        with self.placed():
            return tf.constant(array)

    def _outputs_of(self, observations: Any) -> Outputs:
        result = self.module(observations)
        # A user's model may return any shapes; this runs while the graph is built.
        if isinstance(self.module, AdoptedModule):
            result = result._replace(values=self.flat_values(result.values))
            self.check_outputs(result.outputs, result.values, arrays_in(observations)[0].shape[0])
        return result

    def _run(
        self,
        key: tuple[Any, ...],
        graph: Callable[..., Any],
        inputs: Inputs,
        *more: Array,
        xla: bool = True,
    ) -> Any:
        """Return the result of `_call`; name an adopted model if its graph fails."""
        try:
            return self._call(key, graph, inputs, *more, xla=xla)
        except tf.errors.InvalidArgumentError as error:
            if not isinstance(self.module, AdoptedModule):
                raise
            raise refusal(
                str(self.spec.network), inputs.observations, error, reason(error)
            ) from error

    def _call(
        self,
        key: tuple[Any, ...],
        graph: Callable[..., Any],
        inputs: Inputs,
        *more: Array,
        xla: bool = True,
    ) -> Any:
        """Run a function of tensors as a graph, built once for every number of steps.

        With XLA there is one graph for each number of steps.

        Args:
            key: The graph's name and all values that the function closes over beside the policy.
            graph: Called with the inputs and `more` as tensors.
            inputs: The steps.
            more: Arrays that are not steps.
            xla: Whether to compile with XLA in that mode.
        """
        # Tensors of a batch on the device stay apart: joining them would copy them.
        native = not isinstance(arrays_in(inputs.observations)[0], np.ndarray)
        arrays, layout = listed(inputs) if native else pack(inputs, self.dtype)
        xla = xla and self.compiled
        # Without XLA the number of steps is left open.
        shapes = tuple((array.shape if xla else array.shape[1:], array.dtype) for array in arrays)
        graphs, signature = self._graphs(key), (layout, shapes, len(more))
        with self.placed():
            tensors = [
                tf.constant(array) if isinstance(array, np.ndarray) else array
                for array in (*arrays, *more)
            ]
            function = graphs.get(signature)
            if function is None:
                function = build_graph(graph, layout, tensors, len(more), xla=xla)
                graphs[signature] = function
            return function(*tensors)


def real_steps(weights: Any, steps: int) -> Any:
    """Return [N] bool, true for the first steps; None where all are."""
    if len(weights) == steps:
        return None
    return tf.range(len(weights)) < steps


def no_graphs(key: tuple[Any, ...]) -> dict[Any, Callable[..., Any]]:  # noqa: ARG001 - the cache's key
    """Return an empty store of the graphs of one computation, by layout and shapes."""
    return {}


def build_graph(
    graph: Callable[..., Any], layout: Layout, tensors: list[Any], more: int, *, xla: bool
) -> Callable[..., Any]:
    """Return a graph for tensors like these.

    Args:
        graph: See `TensorflowPolicy._call`.
        layout: The inputs' places in the tensors.
        tensors: Examples of the arguments.
        more: Number of tensors at the end that are not steps, and may have any shape.
        xla: Whether to compile with XLA, which fixes the shapes of all others.
    """
    steps = len(tensors) - more

    def whole(*tensors: Any) -> Any:
        return graph(unpack(tensors[:steps], layout), *tensors[steps:])

    specs: list[Any] = []
    for number, tensor in enumerate(tensors):
        shape: list[Any] = tensor.shape.as_list()
        # A None leaves the length open.
        if number >= steps:
            shape = [None] * len(shape)
        elif not xla:
            shape = [None, *shape[1:]]
        specs.append(tf.TensorSpec(shape, tensor.dtype))
    function = tf.function(whole, autograph=False, jit_compile=xla or None)
    return function.get_concrete_function(*specs)


def dense(derivatives: list[Any]) -> list[Any]:
    """Return derivatives as tensors; those of a table come as slices."""
    return [tf.convert_to_tensor(derivative) for derivative in derivatives]
