"""The suite's own test: every planted bug is found by what `pgcore check` runs, and at the stage where it was planted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from mutations_page import listed, section, times

import pgcore as pg
from pgcore import api
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.heads.diagonal_gaussian import HALF_LOG_2PI, DiagonalGaussian
from pgcore.interfaces.estimator import Reduction
from pgcore.interfaces.gradient import Gradient
from pgcore.returns import normalise
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.cases.kinks import worst_at
from pgcore_check.compare import STAGES
from pgcore_check.planted import first_disagreement
from pgcore_check.proofs import kinks, variants
from pgcore_estimators.preset_classes import PPO, ActorCritic
from pgcore_estimators.reinforce import Reinforce
from pgcore_numpy.backend import NumpyBackend
from pgcore_numpy.discrete_kernels import CategoricalKernel
from pgcore_numpy.gaussian_kernels import GaussianKernel
from pgcore_numpy.gradient import NumpyGradient
from pgcore_numpy.heads import make_kernel
from pgcore_numpy.networks import Relu
from pgcore_numpy.optimizers import NumpyOptimizer
from pgcore_numpy.policy import NumpyPolicy

ESTIMATORS = variants("estimators")
HEADS = variants("heads")
KINKS = kinks()

HEADING = "# Planted bugs"
KINK = "gradient at a kink"


@dataclass(frozen=True)
class Mutation:
    """One planted bug.

    Attributes:
        name: What is wrong.
        planted: In which part of which backend or estimator.
        stage: Where it must be found.
        plant: Given a monkeypatch, plants it and returns the estimator to run, or None for the usual one.
        variant: The usual estimator.
        head: Label of the head.
        network: Label of the network.
        backend: On which it is run.
        kink: The kink that it is looked for at, or None for a case.
    """

    name: str
    planted: str
    stage: str
    plant: Callable[[pytest.MonkeyPatch], Any]
    variant: str = "ppo kl"
    head: str = "categorical"
    network: str = "tanh"
    backend: str = "numpy"
    kink: str | None = None

    def run(
        self, monkeypatch: pytest.MonkeyPatch, *, planted: bool = True
    ) -> tuple[str | None, float]:
        """Return the first stage that disagrees, or None, and the ratio there or the largest one."""
        estimator = (self.plant(monkeypatch) if planted else None) or ESTIMATORS[self.variant]
        if self.kink is not None:
            return at_kink(self.kink, self.backend)
        head = estimator[1] if isinstance(estimator, tuple) else HEADS[self.head]
        estimator = estimator[0] if isinstance(estimator, tuple) else estimator
        return first_disagreement(
            estimator, pg.PolicySpec(NETWORKS[self.network], head, "separate"), self.backend
        )


def at_kink(name: str, backend: str) -> tuple[str | None, float]:
    kink = next(kink for kink in KINKS if kink.name == name)
    ratio, _ = worst_at(
        kink, partial(pg.policy, backend=backend, dtype="float64"), np.dtype(np.float64)
    )
    return (None if ratio <= FACTOR else KINK), ratio


def changing(
    owner: Any, method: str, change: Callable[..., Any]
) -> Callable[[pytest.MonkeyPatch], None]:
    """Return a plant that lets a method return what `change` makes of its result and arguments."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, method)
        monkeypatch.setattr(
            owner, method, lambda *args, **kwargs: change(original(*args, **kwargs), *args)
        )

    return plant


def quantity(name: str, change: Callable[[Any, Any], Any], kernel: Any = CategoricalKernel) -> Any:
    """Return a plant in one of a head's quantities."""

    def changed(found: dict[str, Any], kernel: Any, *_: Any) -> dict[str, Any]:
        return found | ({name: change(found[name], kernel)} if name in found else {})

    return changing(kernel, "quantities", changed)


class NextEpisode(Reinforce):
    """Returns run on into the next episode."""

    def signals(self, batch, evaluate):
        merged = pg.Batch(
            observations=batch.observations,
            actions=batch.actions,
            rewards=batch.rewards,
            episode_lengths=[batch.num_steps],
            terminated=[True],
        )
        return super().signals(merged, evaluate)


class OffByOne(Reinforce):
    """Returns leave out the step's own reward."""

    def signals(self, batch, evaluate):
        found = dict(super().signals(batch, evaluate))
        return found | {"advantage": found["advantage"] - batch.rewards}


class InsideTheRoot(PPO):
    """Normalises with epsilon inside the root."""

    def finalise(self, signals, padding):
        x = signals["advantage"]
        return signals | {"advantage": (x - x.mean()) / np.sqrt(x.var(ddof=self.ddof) + 1e-8)}


class OtherDdof(PPO):
    """Normalises with a standard deviation over n, where n - 1 was asked for."""

    def finalise(self, signals, padding):
        return signals | {"advantage": normalise(signals["advantage"], padding, ddof=0)}


class LiveTarget(ActorCritic):
    """Takes the advantage from the critic as it is differentiated, with the right value and a wrong derivative."""

    def surrogate(self, xp, *, log_prob, value, advantage, return_, entropy=None):
        moving = advantage + (value - self.held(value))
        return super().surrogate(
            xp, log_prob=log_prob, value=value, advantage=moving, return_=return_, entropy=entropy
        )

    @staticmethod
    def held(value):
        """Return the value as a constant, in whichever framework."""
        return value.detach() if hasattr(value, "detach") else value


class WholeBatchEntropy(PPO):
    """Gives every step the entropy of the whole batch, with the right cotangents."""

    cotangents = PPO.cotangents

    def surrogate(
        self,
        xp,
        *,
        log_prob,
        value,
        old_log_prob,
        advantage,
        return_,
        entropy=0.0,
        kl=None,
        old_value=None,
    ):
        given = {
            "log_prob": log_prob,
            "value": value,
            "old_log_prob": old_log_prob,
            "advantage": advantage,
            "return_": return_,
            "entropy": 0.0 * entropy,
        }
        return super().surrogate(xp, **given) - self.entropy_coefficient * xp.sum(entropy, 0)


class HalfValueLoss(ActorCritic):
    """Divides the value loss by two once more."""

    def surrogate(self, xp, *, log_prob, value, advantage, return_, entropy=None):
        plain = super().surrogate(
            xp, log_prob=log_prob, value=value, advantage=advantage, return_=return_
        )
        return plain - 0.25 * self.value_coefficient * (value - return_) * (value - return_)


class Upwards(Reinforce):
    """Ascends: the sign of term and derivative alike."""

    def surrogate(self, xp, *, log_prob, advantage, value=None, entropy=None, return_=None):
        return log_prob * advantage

    def cotangents(self, *, log_prob, advantage, value=None, entropy=None, return_=None):
        return {"log_prob": advantage}


class Moving(DiagonalGaussian):
    """Lets the action move with the mean, as a reparameterised sample does; the values are the parent's."""

    fisher = DiagonalGaussian.fisher

    def log_prob(self, xp, distribution, actions):
        mean = distribution[:, : self.n]
        return super().log_prob(xp, distribution, mean + (actions - mean).detach())


# Its values are the parent's, and on NumPy so is the correct derivative.
make_kernel.register(Moving, GaussianKernel)


def estimator(cls: type[Any], variant: str) -> Callable[[pytest.MonkeyPatch], Any]:
    """Return a plant of an estimator with the fields of one of the kit's."""
    usual: Any = ESTIMATORS[variant]
    fields = {field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)}
    return lambda _: cls(**fields)


def stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute gradients at the parameters of the step before."""
    original = NumpyPolicy.gradient

    def gradient(self, surrogate):
        now = self.vector.copy()
        self.vector[...] = getattr(self, "_before", now)
        try:
            found = original(self, surrogate)
        finally:
            self.vector[...] = now
        self._before = now
        return found

    monkeypatch.setattr(NumpyPolicy, "gradient", gradient)


def keras_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add epsilon to the root before its bias correction."""

    def step(self, gradient, scalars):
        self.count = getattr(self, "count", 0) + 1
        beta1, beta2, eps = self.spec.beta1, self.spec.beta2, self.spec.eps
        first = beta1 * self._slots["first_moment"] + (1 - beta1) * gradient.vector
        second = beta2 * self._slots["second_moment"] + (1 - beta2) * gradient.vector**2
        rate = 1e-3 * math.sqrt(1 - beta2**self.count) / (1 - beta1**self.count)
        self.policy.vector -= rate * first / (np.sqrt(second) + eps)
        self._slots = {"first_moment": first, "second_moment": second}

    monkeypatch.setattr(NumpyOptimizer, "step", step)


def transposed(found: dict[str, Any], *_: Any) -> dict[str, Any]:
    return {
        name: value.T if value.ndim == 2 and value.shape[0] == value.shape[1] else value
        for name, value in found.items()
    }


def nan_in_one_entry(found: dict[str, Any], *_: Any) -> dict[str, Any]:
    if "network.0.weight" in found:
        found["network.0.weight"][1, 2] = np.nan
    return found


def entropy_without_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    original = CategoricalKernel.backward

    def backward(kernel, cotangents):
        factors = {"entropy": kernel.temperature}
        return original(kernel, {n: value * factors.get(n, 1) for n, value in cotangents.items()})

    monkeypatch.setattr(CategoricalKernel, "backward", backward)


def without_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    original = CategoricalKernel.forward
    monkeypatch.setattr(
        CategoricalKernel,
        "forward",
        lambda kernel, outputs, own, _: original(kernel, outputs, own, None),
    )


def torch_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clip as frameworks do that split the gradient on a tie."""
    torch = pytest.importorskip("torch")
    xp = pytest.importorskip("pgcore_torch.xp")
    monkeypatch.setattr(
        xp.TorchNamespace,
        "clip",
        staticmethod(lambda x, low, high: torch.minimum(torch.maximum(x, low), high)),
    )


def tensorflow_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clip with the bounds first, to which TensorFlow gives the gradient on a tie."""
    tf = pytest.importorskip("tensorflow")
    xp = pytest.importorskip("pgcore_tensorflow.xp")

    def clip(x, low, high):
        return tf.minimum(
            tf.convert_to_tensor(high, x.dtype), tf.maximum(tf.convert_to_tensor(low, x.dtype), x)
        )

    monkeypatch.setattr(type(xp.xp), "clip", staticmethod(clip))


def jax_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clip as JAX does, which splits the gradient on a tie."""
    jnp = pytest.importorskip("jax.numpy")
    xp = pytest.importorskip("pgcore_jax.xp")
    functions = pytest.importorskip("pgcore_jax.compiled")
    monkeypatch.setattr(
        type(xp.xp),
        "clip",
        staticmethod(lambda x, low, high: jnp.minimum(jnp.maximum(x, low), high)),
    )
    # What was compiled without the bug is not looked up, nor what is compiled with it kept.
    monkeypatch.setattr(functions, "differentiate", functions.differentiate.__wrapped__)


def torch_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load and save square weights as PyTorch has them, [out, in]."""
    parameters = pytest.importorskip("pgcore_torch.parameters")
    original = parameters.canonical

    def canonical(name, tensor, *, verbatim):
        square = tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]
        return tensor if square else original(name, tensor, verbatim=verbatim)

    monkeypatch.setattr(parameters, "canonical", canonical)
    monkeypatch.setattr("pgcore_torch.policy.canonical", canonical)


def without_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply by J^T J."""
    compiled = pytest.importorskip("pgcore_jax.compiled")
    monkeypatch.setattr(
        compiled,
        "fisher_metric",
        lambda head, at, tangent, inputs: inputs.weights[:, None] * tangent,
    )
    # Its own cache may hold what was compiled before.
    monkeypatch.setattr(compiled, "fisher_product", compiled.fisher_product.__wrapped__)


def stale_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differentiate at the parameters of the step before."""
    policy = pytest.importorskip("pgcore_jax.policy").JaxPolicy
    original = policy.differentiate

    def differentiate(self, surrogate, inputs):
        now = self.native
        self.native = getattr(self, "_before", now)
        try:
            return original(self, surrogate, inputs)
        finally:
            self.native = self._before = now

    monkeypatch.setattr(policy, "differentiate", differentiate)


def reversed_kl(found: Any, kernel: Any) -> Any:
    log_old = np.where(
        kernel.pi_reference > 0, np.log(np.maximum(kernel.pi_reference, 1e-300)), 0.0
    )
    return np.add.reduce(
        kernel.pi * (np.where(np.isfinite(kernel.log_pi), kernel.log_pi, 0.0) - log_old)
    )


MUTATIONS = (
    Mutation(
        "sign of the whole loss",
        "estimator: surrogate and cotangents",
        "surrogate",
        estimator(Upwards, "reinforce"),
        "reinforce",
    ),
    Mutation(
        "sign of the gradient",
        "numpy: gradient",
        "kernel",
        changing(NumpyPolicy, "gradient", lambda g, *_: g.scaled(-1.0)),
    ),
    Mutation(
        "1/tau dropped on the entropy alone", "numpy: head", "kernel", entropy_without_temperature
    ),
    Mutation(
        "1/tau dropped",
        "numpy: head",
        "kernel",
        changing(CategoricalKernel, "backward", lambda d, kernel, _: d * kernel.temperature),
    ),
    Mutation(
        "return off by one",
        "estimator: signals",
        "signals",
        estimator(OffByOne, "reinforce"),
        "reinforce",
    ),
    Mutation(
        "return of the next episode",
        "estimator: signals",
        "signals",
        estimator(NextEpisode, "reinforce"),
        "reinforce",
    ),
    Mutation(
        "missing stop-gradient",
        "estimator on torch: surrogate",
        "gradient",
        estimator(LiveTarget, "td"),
        "td",
        backend="torch",
    ),
    Mutation(
        "action not held constant",
        "head on torch: log_prob",
        "gradient",
        lambda _: (ESTIMATORS["reinforce"], Moving(2, "shared", std=1.5)),
        "reinforce",
        "shared",
        backend="torch",
    ),
    Mutation("ddof 0 for 1", "estimator: finalise", "signals", estimator(OtherDdof, "ppo"), "ppo"),
    Mutation(
        "epsilon inside the root",
        "estimator: finalise",
        "signals",
        estimator(InsideTheRoot, "ppo"),
        "ppo",
    ),
    Mutation(
        "mean for sum",
        "core: reduction",
        "signals",
        changing(
            type(Reduction.TRAJECTORY),
            "weights",
            lambda weights, reduction, batch, totals: (
                weights / batch.episode_lengths[batch.episode_of_step]
            ),
        ),
        "reinforce",
    ),
    Mutation(
        "entropy summed over the batch",
        "estimator: surrogate",
        "cotangents",
        estimator(WholeBatchEntropy, "ppo"),
        "ppo",
    ),
    Mutation(
        "value loss halved",
        "estimator: surrogate",
        "surrogate",
        estimator(HalfValueLoss, "gae"),
        "gae",
    ),
    Mutation(
        "wrong tie at the clip",
        "torch: xp",
        KINK,
        torch_clip,
        backend="torch",
        kink="limited ratio, at high, A > 0",
    ),
    Mutation(
        "wrong tie at the clip",
        "tensorflow: xp",
        KINK,
        tensorflow_clip,
        backend="tensorflow",
        kink="limited ratio, at high, A > 0",
    ),
    Mutation(
        "wrong tie at the clip",
        "jax: xp",
        KINK,
        jax_clip,
        backend="jax",
        kink="limited ratio, at high, A > 0",
    ),
    Mutation(
        "relu'(0) = 1",
        "numpy: network",
        KINK,
        lambda monkeypatch: monkeypatch.setattr(
            Relu,
            "multiply_derivative",
            staticmethod(lambda d, h, scratch: np.multiply(d, h >= 0, out=d)),
        ),
        kink="relu at 0",
    ),
    Mutation(
        "float32 constant in float64",
        "numpy: head",
        "quantities",
        quantity(
            "log_prob",
            lambda found, kernel: found + 2 * (HALF_LOG_2PI - float(np.float32(HALF_LOG_2PI))),
            GaussianKernel,
        ),
        head="shared",
    ),
    Mutation(
        "log(p + 1e-8) in the entropy",
        "numpy: head",
        "quantities",
        quantity("entropy", lambda _, kernel: -np.add.reduce(kernel.pi * np.log(kernel.pi + 1e-8))),
    ),
    Mutation("KL in the other direction", "numpy: head", "quantities", quantity("kl", reversed_kl)),
    Mutation(
        "mask ignored",
        "numpy: head",
        "kernel",
        without_mask,
        "ppo value clip",
    ),
    Mutation(
        "float32 inside float64",
        "numpy: head",
        "quantities",
        quantity("log_prob", lambda found, _: found.astype(np.float32).astype(np.float64)),
    ),
    Mutation(
        "transposed weight",
        "numpy: gradient",
        "gradient",
        changing(NumpyGradient, "numpy", transposed),
        network="sigmoid",
    ),
    Mutation(
        "transposed weight",
        "torch: parameter map",
        "quantities",
        torch_map,
        "reinforce",
        network="sigmoid",
        backend="torch",
    ),
    Mutation(
        "result of a wrong dtype",
        "numpy: gradient",
        "kernel",
        changing(
            NumpyGradient,
            "numpy",
            lambda found, _: {name: value.astype(np.float32) for name, value in found.items()},
        ),
    ),
    Mutation(
        "NaN in one entry",
        "numpy: gradient",
        "gradient",
        changing(NumpyGradient, "numpy", nan_in_one_entry),
    ),
    Mutation(
        "clipping by c / (norm + 1e-6)",
        "core: clipping",
        "clipped gradient",
        changing(Gradient, "norm", lambda norm, *_: norm + 1e-6),
    ),
    Mutation(
        "Fisher information over the temperature, not over its square",
        "numpy: head",
        "Fisher product",
        changing(CategoricalKernel, "fisher", lambda found, kernel, *_: found * kernel.temperature),
        head="hot",
    ),
    Mutation(
        "Fisher information of a sum over steps, not of their mean",
        "numpy: policy",
        "Fisher product",
        changing(
            NumpyPolicy,
            "fisher_vector_product",
            lambda found, _, batch, *__: found * batch.num_steps,
        ),
    ),
    Mutation(
        "Fisher information over the standard deviation, not over its square",
        "head on torch: fisher",
        "Fisher product",
        changing(
            DiagonalGaussian,
            "fisher",
            lambda found, head, xp, at, _: (
                found * xp.concatenate((xp.exp(at[:, 2:]), xp.full_like(at[:, 2:], 1.0)), 1)
            ),
        ),
        head="shared",
        backend="torch",
    ),
    Mutation(
        "Fisher information of the distribution left out",
        "jax: policy",
        "Fisher product",
        without_metric,
        backend="jax",
    ),
    Mutation("Keras's Adam", "numpy: optimizer", "1 step", keras_adam),
    Mutation("stale parameters", "numpy: gradient", "10 steps", stale),
    Mutation("stale parameters", "jax: gradient", "10 steps", stale_jax, backend="jax"),
)


@pytest.mark.parametrize(
    "mutation", MUTATIONS, ids=lambda mutation: f"{mutation.name} in {mutation.planted}"
)
def test_a_planted_bug_is_found_at_its_stage(mutation, monkeypatch):
    if mutation.backend != "numpy":
        pytest.importorskip(f"pgcore_{mutation.backend}.backend")
    stage, ratio = mutation.run(monkeypatch, planted=False)
    assert stage is None, f"without the bug: {ratio}"
    stage, ratio = mutation.run(monkeypatch)
    assert stage == mutation.stage
    assert ratio > 10 * FACTOR


@pytest.mark.parametrize(
    "mutation", [m for m in MUTATIONS if m.planted.startswith("estimator: s")], ids=lambda m: m.name
)
def test_a_planted_estimator_is_found_on_every_backend(mutation, monkeypatch, backend):
    # A framework derives its cotangents: there, surrogates are the first to differ.
    derives = isinstance(
        pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2)), backend=backend), AutodiffPolicy
    )
    stage = "surrogate" if derives and mutation.stage == "cotangents" else mutation.stage
    assert dataclasses.replace(mutation, backend=backend).run(monkeypatch)[0] == stage


class Regrouped(NumpyBackend):
    """Adds gradients up in another order, which is honest."""

    def policy(self, spec, **options):
        made = super().policy(spec, **options)
        made.__class__ = RegroupedPolicy
        return made


class RegroupedPolicy(NumpyPolicy):
    def gradient(self, surrogate):
        order = np.random.default_rng(0).permutation(surrogate.batch.num_steps)
        moved = pg.Signals(
            {name: value[order] for name, value in surrogate.values.items()},
            surrogate.weights[order],
            padded=True,
        )
        other = object.__new__(type(surrogate))
        other.estimator, other.values, other.weights = (
            surrogate.estimator,
            moved.values,
            moved.weights,
        )
        other.batch = surrogate.batch.steps(order)
        found = super().gradient(other)
        plain = super().gradient(surrogate)
        return NumpyGradient(self, found.vector, surrogate, [plain.arguments()])


@pytest.mark.parametrize("variant", ["reinforce", "ppo kl", "gae"])
def test_another_order_of_summation_is_no_bug(variant, monkeypatch):
    monkeypatch.setitem(api._backends, "regrouped", Regrouped())
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "separate")
    policy, batch = make_case(spec, "numpy", "float64", seed=61)
    report = pg.compare(
        spec, ESTIMATORS[variant], batch, backends=["regrouped"], parameters=policy.parameters()
    )
    assert report.agrees, str(report)
    exact = pg.compare(
        spec, ESTIMATORS[variant], batch, backends=["numpy"], parameters=policy.parameters()
    )
    assert [row.ratio for row in report.rows] != [row.ratio for row in exact.rows]


def section_of_bugs() -> str:
    """Return the page's section, from a run."""
    rows: list[list[str]] = []
    for mutation in MUTATIONS:
        with pytest.MonkeyPatch.context() as monkeypatch:
            stage, ratio = mutation.run(monkeypatch)
        rows.append([mutation.name, mutation.planted, str(stage), times(ratio)])
    text = [
        "Each bug was planted alone, and `pgcore check` must find it at the first stage that runs the wrong code. The last",
        "column is the error of the first stage that disagrees, as a multiple of the limit. The tests plant the bugs in every",
        "run, and `python tests/conformance/mutations_page.py` writes this page.",
    ]
    return section(HEADING, text, ("bug", "planted in", "found at", "times the limit"), rows)


def test_the_page_lists_these_bugs_at_these_stages():
    assert listed(HEADING, 3) == [
        (mutation.name, mutation.planted, mutation.stage) for mutation in MUTATIONS
    ]
    assert {mutation.stage for mutation in MUTATIONS} >= set(STAGES[:9])
