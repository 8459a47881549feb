"""Trust regions of adopted networks: which parameters are the critic's, and an error where nobody can tell."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import OptimizerError
from pgcore.xp.numpy import host
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants

HEADS = variants("heads")

torch = pytest.importorskip("torch")
nn = torch.nn

SPEC = pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "separate")
ESTIMATOR = pg.estimator("trpo", gamma=0.9)


def layers(parameters, prefix):
    """Return the spec's network as a user would write it."""
    found = []
    for number in range(3):
        weight, bias = (
            torch.tensor(parameters[f"{prefix}.{number}.{kind}"]) for kind in ("weight", "bias")
        )
        linear = nn.Linear(*weight.shape, dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight.T)
            linear.bias.copy_(bias)
        found += [linear, nn.Tanh()]
    return nn.Sequential(*found[:-1])


def made():
    policy, batch = make_case(SPEC, "numpy", "float64", seed=76)
    parameters = policy.parameters()
    return policy, batch, layers(parameters, "network"), layers(parameters, "critic")


@pytest.mark.parametrize("name", ["trpo", "natural_gradient", "trust_region"])
def test_an_adopted_policy_takes_the_same_step(name):
    policy, batch, network, critic = made()
    adopted = pg.backend("torch").adopt(network, HEADS["categorical"], critic)
    for each in (policy, adopted):
        pg.optimizer(name).step(each, pg.gradient(each, ESTIMATOR, batch))
    ours, theirs = policy.parameters(), adopted.parameters()
    assert set(theirs) == {
        f"{prefix}{2 * n}.{kind}"
        for prefix in ("", "critic.")
        for n in range(3)
        for kind in ("weight", "bias")
    }
    for n in range(3):
        for prefix, own in (("network", ""), ("critic", "critic.")):
            np.testing.assert_allclose(
                theirs[f"{own}{2 * n}.weight"].T,
                ours[f"{prefix}.{n}.weight"],
                rtol=1e-11,
                atol=1e-13,
            )
            np.testing.assert_allclose(
                theirs[f"{own}{2 * n}.bias"], ours[f"{prefix}.{n}.bias"], rtol=1e-11, atol=1e-13
            )


def test_a_critic_of_actions_steps_beside_an_adopted_policy():
    spec, estimator = dataclasses.replace(SPEC, critic_values="action"), pg.estimator("soft_actor")
    policy, batch = make_case(spec, "numpy", "float64", seed=76)
    network, critic = (layers(policy.parameters(), prefix) for prefix in ("network", "critic"))
    adopted = pg.backend("torch").adopt(network, spec.head, critic, critic_values="action")
    for each in (policy, adopted):
        pg.optimizer("natural_gradient").step(each, pg.gradient(each, estimator, batch))
    np.testing.assert_allclose(
        adopted.parameters()["critic.4.weight"].T,
        policy.parameters()["critic.2.weight"],
        rtol=1e-11,
        atol=1e-13,
    )
    borrowed = pg.backend("torch").adopt(
        network, spec.head, nn.Sequential(network[0], critic[1:]), critic_values="action"
    )
    with pytest.raises(OptimizerError, match=r"got a value that depends on 0\.weight"):
        pg.optimizer("natural_gradient").step(borrowed, pg.gradient(borrowed, estimator, batch))


class Twins(nn.Module):
    """Two critics, whose values stand side by side."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, observations):
        return torch.cat([self.first(observations), self.second(observations)], 1)


def test_twin_critics_step_beside_an_adopted_policy():
    spec = dataclasses.replace(SPEC, critic_values="twin")
    estimator = pg.estimator("soft_actor", twin=True)
    policy, batch = make_case(spec, "numpy", "float64", seed=76)
    network, first, second = (
        layers(policy.parameters(), prefix)
        for prefix in ("network", "critic.first", "critic.second")
    )
    adopted = pg.backend("torch").adopt(
        network, spec.head, Twins(first, second), critic_values="twin"
    )
    for each in (policy, adopted):
        pg.optimizer("natural_gradient").step(each, pg.gradient(each, estimator, batch))
    for which in ("first", "second"):
        np.testing.assert_allclose(
            adopted.parameters()[f"critic.{which}.4.weight"].T,
            policy.parameters()[f"critic.{which}.2.weight"],
            rtol=1e-11,
            atol=1e-13,
        )
    borrowed = Twins(first, nn.Sequential(network[0], second[1:]))
    borrowing = pg.backend("torch").adopt(network, spec.head, borrowed, critic_values="twin")
    with pytest.raises(OptimizerError, match=r"got a value that depends on 0\.weight"):
        pg.optimizer("natural_gradient").step(borrowing, pg.gradient(borrowing, estimator, batch))


class Shared(nn.Module):
    """A critic on somebody else's hidden layers."""

    def __init__(self, network):
        super().__init__()
        self.torso = network[:4]
        self.last = nn.Linear(6, 1, dtype=torch.float64)

    def forward(self, observations):
        return self.last(self.torso(observations))


class Named(nn.Module):
    """A policy with an attribute that is named as if it were the critic's."""

    def __init__(self, network):
        super().__init__()
        self.body, self.critic = network[:4], nn.ModuleDict({"policy": network[4]})

    def forward(self, observations):
        return self.critic["policy"](self.body(observations))


@pytest.mark.parametrize(
    ("adopt", "words"),
    [
        (
            lambda network, critic: (network, Shared(network)),
            r"got a value that depends on 0\.weight; adopt two networks",
        ),
        (
            lambda network, critic: (Named(network), critic),
            r"got a policy that depends on some of these; adopt two netw",
        ),
    ],
    ids=["shared layers", "misleading name"],
)
def test_a_critic_that_nobody_can_tell_apart_is_refused(adopt, words):
    _, batch, network, critic = made()
    policy = pg.backend("torch").adopt(
        adopt(network, critic)[0], HEADS["categorical"], adopt(network, critic)[1]
    )
    before = policy.parameters()
    with pytest.raises(
        OptimizerError,
        match=rf"expected a critic whose parameters are those named critic\. .*{words}",
    ):
        pg.optimizer("trpo").step(policy, pg.gradient(policy, ESTIMATOR, batch))
    for name, value in policy.parameters().items():
        assert value.tobytes() == before[name].tobytes()


def test_a_value_that_starts_from_zeros_is_found_out_once_it_depends_on_the_policy():
    _, batch, network, _ = made()
    shared = Shared(network)
    nn.init.zeros_(shared.last.weight)
    policy = pg.backend("torch").adopt(network, HEADS["categorical"], shared)
    optimizer = pg.optimizer("trpo")
    report = optimizer.step(policy, pg.gradient(policy, ESTIMATOR, batch))
    assert report is not None
    assert report.accepted
    before = policy.parameters()
    with pytest.raises(
        OptimizerError, match=r"got a value that depends on 0\.weight; adopt two networks"
    ):
        optimizer.step(policy, pg.gradient(policy, ESTIMATOR, batch))
    for name, value in policy.parameters().items():
        assert value.tobytes() == before[name].tobytes()


class Alias(nn.Module):
    """A policy all of whose parameters are named as if they were the critic's."""

    def __init__(self, network):
        super().__init__()
        self.critic = network

    def forward(self, observations):
        return self.critic(observations)


def test_a_policy_without_a_parameter_of_its_own_is_refused():
    _, batch, network, _ = made()
    critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, dtype=torch.float64))
    policy = pg.backend("torch").adopt(Alias(network), HEADS["categorical"], critic)
    with pytest.raises(
        OptimizerError,
        match=r"expected parameters of the policy's own, got none whose name does not beg",
    ):
        pg.optimizer("trpo").step(policy, pg.gradient(policy, ESTIMATOR, batch))


class Attention(nn.Module):
    """A policy with one layer of a transformer."""

    def __init__(self):
        super().__init__()
        self.embedding, self.output = nn.Linear(1, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, activation="gelu", batch_first=True
        )

    def forward(self, observations):
        return self.output(self.layer(self.embedding(observations[..., None])).mean(1))


def test_a_transformer_steps_along_its_fisher_matrix():
    torch.manual_seed(0)
    policy = pg.backend("torch").adopt(Attention().double(), HEADS["categorical"])
    _, batch, _, _ = made()
    vector = np.random.default_rng(0).standard_normal(
        sum(value.size for value in policy.parameters().values())
    )
    # F v is the derivative of KL(pi, pi + h v) / h in h, here by central differences of the exact divergence.
    before, height = policy.parameters(), 1e-4
    start = policy.distribution(batch.observations, batch.action_mask)
    kl = 0.0
    for sign in (1.0, -1.0):
        moved, at = {}, 0
        for name, value in before.items():
            moved[name] = value + sign * height * vector[at : at + value.size].reshape(value.shape)
            at += value.size
        policy.load(moved)
        now = policy.distribution(batch.observations, batch.action_mask)
        kl += float(policy.spec.head.kl(host, start, now).mean())
    policy.load(before)
    product = policy.fisher_vector_product(batch, vector)
    assert vector @ product == pytest.approx(kl / height**2, rel=1e-5)
    report = pg.optimizer("trpo").step(
        policy, pg.gradient(policy, pg.estimator("reinforce"), batch)
    )
    assert report is not None
    assert report.accepted
