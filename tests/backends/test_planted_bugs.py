"""Every check of this folder catches the bugs it is for: each is planted here, and the check must fail."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import NonFiniteError
from pgcore.interfaces.surrogate import Surrogate
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.cases import NETWORKS, make_case, suited
from pgcore_check.cases.kinks import worst_at
from pgcore_check.proofs import kinks, variants
from pgcore_check.reference.differences import directional_derivative, random_direction
from pgcore_check.results import gradient_row
from pgcore_estimators.parts.clip import Clip
from pgcore_estimators.preset_classes import PPO
from pgcore_numpy import networks
from pgcore_numpy.discrete_kernels import CategoricalKernel
from pgcore_numpy.gaussian_kernels import GaussianKernel
from pgcore_numpy.policy import NumpyPolicy

ESTIMATORS = variants("estimators")
HEADS = variants("heads")
KINKS = kinks()


def ratio(head="categorical", network="tanh", name="ppo kl"):
    """Return how far the NumPy backend is from the reference, in units of the bound."""
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS[network], HEADS[head], "separate"), "numpy", "float64", seed=1
    )
    estimator = suited(ESTIMATORS[name], HEADS[head])
    signals = pg.signals(policy, estimator, batch)
    found = pg.gradient(policy, estimator, batch, signals=signals).numpy()
    return gradient_row(policy, estimator, batch, signals, found).ratio


def changed(monkeypatch, owner, name, change):
    """Let a method return what `change` makes of its result."""
    original = getattr(owner, name)
    monkeypatch.setattr(
        owner, name, lambda *args, **kwargs: change(original(*args, **kwargs), *args)
    )


def test_nothing_is_reported_without_a_bug():
    for head in HEADS:
        name = "q-learning" if HEADS[head].action_values else "ppo kl"
        assert ratio(head, name=name) <= 1.0


def test_a_temperature_dropped_from_the_derivative(monkeypatch):
    changed(monkeypatch, CategoricalKernel, "backward", lambda d, kernel, _: d * kernel.temperature)
    assert ratio() > 1e6


def test_a_temperature_dropped_from_the_entropy_alone(monkeypatch):
    original = CategoricalKernel.backward

    def backward(kernel, cotangents):
        return original(
            kernel, cotangents | {"entropy": cotangents["entropy"] * kernel.temperature}
        )

    monkeypatch.setattr(CategoricalKernel, "backward", backward)
    assert ratio() > 1e6


def test_a_float32_constant_in_float64(monkeypatch):
    original = PPO.cotangents

    def cotangents(self, **named):
        found = original(self, **named)
        return dict(found) | {"entropy": found["entropy"].astype(np.float32).astype(np.float64)}

    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["table"], HEADS["categorical"], "separate"), "numpy", "float64", 1
    )
    signals = pg.signals(policy, ESTIMATORS["ppo kl"], batch)
    with monkeypatch.context() as planted:
        planted.setattr(PPO, "cotangents", cotangents)
        found = pg.gradient(policy, ESTIMATORS["ppo kl"], batch, signals=signals).numpy()
    assert gradient_row(policy, ESTIMATORS["ppo kl"], batch, signals, found).ratio > 1e3


def test_a_variance_in_place_of_a_standard_deviation(monkeypatch):
    changed(monkeypatch, GaussianKernel, "_outputs", lambda d, kernel, *_: d / kernel.std)
    assert ratio("fixed") > 1e6


def test_a_mean_in_place_of_a_sum_over_steps(monkeypatch):
    changed(
        monkeypatch,
        networks,
        "_sum_by_state",
        lambda _, target, states, d: target.__itruediv__(len(states)),
    )
    assert ratio(network="table") > 1e6


@pytest.mark.parametrize("activation", [networks.Tanh, networks.Sigmoid, networks.Relu])
def test_a_slope_left_out(monkeypatch, activation):
    monkeypatch.setattr(activation, "multiply_derivative", lambda d, h, scratch: None)
    assert (
        ratio(network={"Tanh": "tanh", "Sigmoid": "sigmoid", "Relu": "relu"}[activation.__name__])
        > 1e3
    )


def test_a_transposed_weight(monkeypatch):
    spec = pg.PolicySpec(pg.MLP(6, (6, 6)), HEADS["categorical"], "separate")
    policy, batch = make_case(spec, "numpy", "float64", seed=1)
    signals = pg.signals(policy, ESTIMATORS["ppo"], batch)
    found = pg.gradient(policy, ESTIMATORS["ppo"], batch, signals=signals).numpy()
    found["network.1.weight"] = found["network.1.weight"].T
    told = gradient_row(policy, ESTIMATORS["ppo"], batch, signals, found)
    assert told.ratio > 1e6
    assert told.where.startswith("network.1.weight")


def test_stale_parameters(monkeypatch):
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["shared"], "separate"), "numpy", "float64", 1
    )
    signals = pg.signals(policy, ESTIMATORS["ppo"], batch)
    gradient = pg.gradient(policy, ESTIMATORS["ppo"], batch, signals=signals)
    pg.optimizer("sgd", learning_rate=1e-6).step(policy, gradient)
    assert gradient_row(policy, ESTIMATORS["ppo"], batch, signals, gradient.numpy()).ratio > 1e3


@pytest.mark.parametrize("change", ["NaN", "shape", "dtype", "missing"])
def test_a_result_that_is_not_one(change):
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["shared"], "separate"), "numpy", "float64", 1
    )
    signals = pg.signals(policy, ESTIMATORS["ppo"], batch)
    found = pg.gradient(policy, ESTIMATORS["ppo"], batch, signals=signals).numpy()
    bias = found["network.1.bias"]
    if change == "missing":
        del found["network.1.bias"]
    else:
        found["network.1.bias"] = {
            "NaN": bias * np.nan,
            "shape": bias[:, None],
            "dtype": bias.astype(np.float32),
        }[change]
    told = gradient_row(policy, ESTIMATORS["ppo"], batch, signals, found)
    assert told.ratio == float("inf")
    assert not told.agrees
    assert told.where.startswith("network.1.bias")


def test_a_gap_of_a_few_bounds_is_enough():
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["hot"], "separate"), "numpy", "float64", 1
    )
    signals = pg.signals(policy, ESTIMATORS["gae"], batch)
    found = pg.gradient(policy, ESTIMATORS["gae"], batch, signals=signals).numpy()
    found["network.0.bias"][0] *= 1 + 1e-11
    assert gradient_row(policy, ESTIMATORS["gae"], batch, signals, found).ratio > FACTOR


@pytest.mark.parametrize(
    ("kink", "plant"),
    [
        ("relu at 0", "slope 1"),
        ("ppo ratio at 1 + clip, positive advantage", "clipped at the bound"),
        ("ppo log ratio 1000, positive advantage", "exp before the choice"),
        ("temperature 0.01, likely action", "one minus pi"),
        ("value clip, tie", "clipped on a tie"),
    ],
)
def test_a_wrong_side_of_a_kink(monkeypatch, kink, plant):
    if plant == "slope 1":
        monkeypatch.setattr(
            networks.Relu, "multiply_derivative", lambda d, h, scratch: d.__imul__(h >= 0)
        )
    elif plant == "clipped at the bound":
        monkeypatch.setattr(
            Clip, "clipped", lambda self, log_ratio, advantage: log_ratio >= self._bounds[1]
        )
    elif plant == "exp before the choice":
        monkeypatch.setattr(Clip, "clipped", lambda self, log_ratio, advantage: np.isnan(log_ratio))
    elif plant == "one minus pi":
        original = CategoricalKernel.backward

        def backward(kernel, cotangents):
            d = original(kernel, cotangents)
            chosen = (
                (1.0 - kernel.pi.take(kernel.taken)) * cotangents["log_prob"] / kernel.temperature
            )
            d.reshape(-1)[kernel.taken] = chosen
            return d

        monkeypatch.setattr(CategoricalKernel, "backward", backward)
    else:
        derivatives = PPO.cotangents

        def cotangents(self, **named):
            found = derivatives(self, **named)
            old, target = named["old_value"], named["return_"]
            limited = np.clip(named["value"], old - self.value_clip, old + self.value_clip)
            tied = np.abs(named["value"] - target) == np.abs(limited - target)
            return dict(found) | {"value": np.where(tied, 0.0, found["value"])}

        monkeypatch.setattr(PPO, "cotangents", cotangents)
    point = next(each for each in KINKS if each.name == kink)
    build = partial(pg.policy, backend="numpy", dtype="float64")
    if plant == "exp before the choice":
        with pytest.raises(NonFiniteError, match=r"d surrogate / d log_prob = -?inf at step 0"):
            point.compute(build)
        return
    ratio, where = worst_at(dataclasses.replace(point, atol=0.0), build, np.dtype(np.float64))
    assert ratio > 1e3 * FACTOR
    assert where.startswith(tuple(point.expected))


def planted_estimators():
    class Negated(PPO):
        def cotangents(self, **named):
            return {name: -value for name, value in super().cotangents(**named).items()}

    class Doubled(PPO):
        def cotangents(self, **named):
            found = super().cotangents(**named)
            return dict(found) | {"value": 2.0 * found["value"]}

    class Averaged(PPO):
        def cotangents(self, **named):
            found = super().cotangents(**named)
            return dict(found) | {"entropy": found["entropy"] / len(found["entropy"])}

    return [Negated, Doubled, Averaged]


@pytest.mark.parametrize("planted", planted_estimators(), ids=lambda cls: cls.__name__)
def test_cotangents_that_are_not_the_surrogates_derivatives(planted):
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "separate"), "numpy", "float64", 1
    )
    honest = ESTIMATORS["ppo"]
    signals = pg.signals(policy, honest, batch)
    bugged = planted(clip=0.2, entropy_coefficient=0.01)
    gradient = pg.gradient(policy, bugged, batch, signals=signals).numpy()
    direction = random_direction(gradient, np.random.default_rng(0))
    slope = directional_derivative(
        policy.spec,
        policy.parameters(),
        Surrogate(policy.spec, bugged, batch, signals),
        batch,
        direction,
    )
    assert sum(
        float((gradient[name] * direction[name]).sum()) for name in gradient
    ) != pytest.approx(slope, rel=1e-4)


def test_a_gradient_that_changes_the_parameters(monkeypatch):
    original = NumpyPolicy.gradient

    def gradient(self, surrogate):
        found = original(self, surrogate)
        self.vector *= 1 + 1e-12
        return found

    monkeypatch.setattr(NumpyPolicy, "gradient", gradient)
    assert ratio() > FACTOR
