"""Registers the core's heads, networks, activations, reductions and the constant schedule."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_activations", "pgcore_heads", "pgcore_networks"]
__all__ += ["pgcore_reductions", "pgcore_schedules"]

# Name, class and summary of each built-in head, for `pgcore list heads`.
HEADS = (
    ("categorical", "Categorical", "softmax over n actions with a temperature and masks"),
    ("diagonal_gaussian", "DiagonalGaussian", "independent normals; std fixed, shared or by state"),
    ("epsilon_greedy", "EpsilonGreedy", "the action of the largest value, or a random one"),
    ("squashed_gaussian", "SquashedGaussian", "tanh of independent normals: actions within bounds"),
    ("multi_categorical", "MultiCategorical", "several softmax choices at once, with masks"),
    ("bernoulli", "Bernoulli", "independent binary actions, with masks"),
)


@hookimpl
def pgcore_heads() -> list[Provider]:
    """Provide the core's heads."""
    return [Provider(name, f"pgcore.heads:{cls}", summary) for name, cls, summary in HEADS]


@hookimpl
def pgcore_networks() -> list[Provider]:
    """Provide the core's networks."""
    return [
        Provider("table", "pgcore.data.networks:Table", "one row of outputs a discrete state"),
        Provider("linear", "pgcore.data.networks:Linear", "an affine map of the observations"),
        Provider("conv", "pgcore.data.convolution:Conv", "convolutions of images, then an mlp"),
        Provider("mlp", "pgcore.data.networks:MLP", "fully connected layers with one activation"),
    ]


@hookimpl
def pgcore_activations() -> list[Provider]:
    """Provide the core's activations."""
    return [
        Provider("tanh", "pgcore.data.activations:Tanh", "hyperbolic tangent"),
        Provider("relu", "pgcore.data.activations:Relu", "max(x, 0), with derivative 0 at 0"),
        Provider("sigmoid", "pgcore.data.activations:Sigmoid", "1 / (1 + exp(-x))"),
    ]


@hookimpl
def pgcore_reductions() -> list[Provider]:
    """Provide the reductions that the core's defaults need."""
    module = "pgcore.interfaces.reduction"
    return [
        Provider("step", f"{module}:StepMean", "mean over all steps"),
        Provider("trajectory", f"{module}:EpisodeSum", "sum over an episode's steps, then mean"),
        Provider("episode_step", f"{module}:EpisodeMean", "mean over steps, then over episodes"),
    ]


@hookimpl
def pgcore_schedules() -> list[Provider]:
    """Provide the schedule that a plain number as a learning rate stands for."""
    constant = "pgcore.interfaces.schedules:ConstantSchedule"
    return [Provider("constant", constant, "the same rate at every step")]
