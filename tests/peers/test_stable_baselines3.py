"""stable-baselines3's PPO and A2C: a real `train` on a rollout buffer, up to the optimizer's step."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

import pgcore as pg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sb3 = pytest.importorskip("stable_baselines3")
    torch_layers = pytest.importorskip("stable_baselines3.common.torch_layers")
    logger = pytest.importorskip("stable_baselines3.common.logger")

GAMMA = 0.9


class Never(gymnasium.Env):
    """An environment that says how many observations and actions there are, and takes no step."""

    def __init__(self, count, actions):
        self.observation_space = gymnasium.spaces.Discrete(count)
        self.action_space = actions


class Float64(torch_layers.FlattenExtractor):
    """One-hot observations in double precision; the library casts them to float32 before."""

    def forward(self, observations):
        return super().forward(observations).double()


class Recorder(torch.optim.SGD):
    """An optimizer that keeps the gradients of its steps."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.seen = []

    def step(self, closure=None):
        parameters = self.param_groups[0]["params"]
        self.seen.append([parameter.grad.clone() for parameter in parameters])
        return super().step(closure)


def trained(algorithm, steps, actions, space, **options):
    """Return the gradients of one `train` by parameter, on a policy that is a table.

    Args:
        algorithm: "PPO" or "A2C".
        steps: The batch, with recorded values.
        actions: [B, n] of the buffer.
        space: The environment's actions.
        options: Of the algorithm.
    """
    count = len(steps.logits)
    sizes = {"n_steps": count}
    if algorithm == "PPO":
        sizes |= {"batch_size": count, "n_epochs": 1}
    policy_options = {
        "net_arch": [],
        "features_extractor_class": Float64,
        "optimizer_class": Recorder,
    }
    model = getattr(sb3, algorithm)(
        "MlpPolicy",
        Never(count, space),
        gamma=GAMMA,
        max_grad_norm=np.inf,
        policy_kwargs=policy_options,
        device="cpu",
        **sizes,
        **options,
    )
    model.set_logger(logger.Logger(None, []))
    policy = model.policy.double()
    with torch.no_grad():
        policy.action_net.weight.copy_(torch.tensor(steps.logits.T))
        policy.value_net.weight.copy_(torch.tensor(steps.values[None]))
        for layer in (policy.action_net, policy.value_net):
            layer.bias.zero_()
    fill(model.rollout_buffer, steps, actions)
    model.train()
    names = [name for name, _ in policy.named_parameters()]
    (gradients,) = policy.optimizer.seen
    by_name = {name: x.numpy() for name, x in zip(names, gradients, strict=True)}
    return SimpleNamespace(
        logits=by_name["action_net.weight"].T,
        values=by_name["value_net.weight"][0],
        log_std=by_name.get("log_std"),
        buffer=model.rollout_buffer,
    )


def fill(buffer, steps, actions):
    """Fill a rollout buffer with one environment's steps, in double precision."""
    fields, count = steps.fields, len(steps.logits)
    starts = np.zeros(count)
    ends = np.cumsum(fields["episode_lengths"]) - 1
    starts[0], starts[ends[:-1] + 1] = 1, 1
    rewards = fields["rewards"].copy()
    # Where an episode is truncated before the buffer ends, the collector adds the bootstrap here.
    inner = ends[:-1][~fields["terminated"][:-1]]
    rewards[inner] += GAMMA * fields["final_values"][:-1][~fields["terminated"][:-1]]
    columns = {
        "rewards": rewards,
        "episode_starts": starts,
        "values": fields["values"],
        "log_probs": fields["log_probs"],
        "advantages": np.zeros(count),
    }
    for name, column in columns.items():
        setattr(buffer, name, column[:, None].astype(np.float64))
    buffer.observations = np.arange(count).reshape(count, 1, 1)
    buffer.actions = actions.reshape(count, 1, -1)
    buffer.full = True
    buffer.compute_returns_and_advantage(
        torch.tensor(fields["final_values"][-1:]), ~fields["terminated"][-1:] * 0.0
    )


@pytest.fixture
def recorded(steps):
    """Steps whose values at the time were up to half a unit from the current ones."""
    moved = steps.values + np.random.default_rng(2).uniform(-0.5, 0.5, len(steps.values))
    return steps._replace(fields=steps.fields | {"values": moved})


def discrete(algorithm, steps, **options):
    space = gymnasium.spaces.Discrete(steps.logits.shape[1])
    return trained(algorithm, steps, steps.fields["actions"], space, **options)


PPO = {
    "default": ({}, {"value_coefficient": 1.0}),
    "plain": (
        {"normalize_advantage": False, "ent_coef": 0.1, "vf_coef": 0.3, "clip_range": 0.3},
        {"normalise": "none", "entropy_coefficient": 0.1, "value_coefficient": 0.6, "clip": 0.3},
    ),
    "lambda": ({"gae_lambda": 0.5}, {"gae_lambda": 0.5, "value_coefficient": 1.0}),
}


@pytest.mark.parametrize("case", PPO)
def test_ppo(recorded, rows, agree, case):
    """`vf_coef` weighs the square, and `value_coefficient` its half."""
    options, fields = PPO[case]
    theirs = discrete("PPO", recorded, **options)
    estimator = pg.estimator("ppo", gamma=GAMMA, **fields)
    ours = rows(estimator, recorded.logits, recorded.fields, recorded.values)
    agree(ours.logits, theirs.logits)
    agree(ours.values, theirs.values)


def test_ppo_takes_the_clipped_value_alone(recorded, rows, agree):
    theirs = discrete("PPO", recorded, clip_range_vf=0.2)
    critic = {"name": "clipped", "clip": 0.2, "take": "held", "half": False}
    advantage = {"name": "gae", "gamma": GAMMA}
    parts = {"advantage": advantage, "critic": critic, "normalise": "minibatch"}
    estimator = pg.estimator("policy_gradient", **parts)
    ours = rows(estimator, recorded.logits, recorded.fields, recorded.values)
    agree(ours.logits, theirs.logits)
    agree(ours.values, theirs.values)
    assert 0 < (theirs.values == 0).sum() < len(theirs.values)


def test_ppos_value_clip_is_the_larger_loss(recorded, rows):
    """OpenAI Baselines takes the larger loss, as the preset does, and stable-baselines3 does not."""
    theirs = discrete("PPO", recorded, clip_range_vf=0.2)
    estimator = pg.estimator("ppo", gamma=GAMMA, value_clip=0.2, value_coefficient=1.0)
    ours = rows(estimator, recorded.logits, recorded.fields, recorded.values)
    differ = ~np.isclose(ours.values, theirs.values, rtol=1e-12, atol=0)
    assert 0 < differ.sum() < len(differ)
    # A value that has moved away from its target is not held.
    assert not theirs.values[differ].any()


A2C = {
    "default": (
        {},
        {"gae_lambda": 1.0, "entropy_coefficient": 0.0, "value_coefficient": 1.0},
    ),
    "normalised": (
        {"normalize_advantage": True, "ent_coef": 0.05, "vf_coef": 0.25, "gae_lambda": 0.9},
        {
            "normalise": "batch",
            "entropy_coefficient": 0.05,
            "value_coefficient": 0.5,
            "gae_lambda": 0.9,
        },
    ),
}


@pytest.mark.parametrize("case", A2C)
def test_a2c(recorded, rows, agree, case):
    options, fields = A2C[case]
    theirs = discrete("A2C", recorded, **options)
    estimator = pg.estimator("a2c", gamma=GAMMA, **fields)
    ours = rows(estimator, recorded.logits, recorded.fields, recorded.values)
    agree(ours.logits, theirs.logits)
    agree(ours.values, theirs.values)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.6, 1.0])
def test_the_buffers_advantages_and_returns(recorded, table, batch, agree, gae_lambda):
    theirs = discrete("PPO", recorded, gae_lambda=gae_lambda).buffer
    advantage = {"name": "gae", "gamma": GAMMA, "gae_lambda": gae_lambda}
    estimator = pg.estimator("policy_gradient", advantage=advantage)
    policy = table(recorded.logits, recorded.values)
    signals = pg.signals(policy, estimator, batch(recorded.fields))
    agree(signals["advantage"], theirs.advantages[:, 0])
    if gae_lambda > 0:
        agree(signals["return_"], theirs.returns[:, 0])


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_continuous_actions(recorded, agree, batch, algorithm):
    """A diagonal normal distribution with a shared deviation; [B, 2] means are the table."""
    rng = np.random.default_rng(4)
    means, log_std = rng.standard_normal((14, 2)), np.zeros(2)
    # The buffer casts actions to float32, which holds these.
    actions = np.round(8 * (means + rng.standard_normal((14, 2)))) / 8
    z = actions - means
    log_pi = -0.5 * (z**2).sum(axis=1) - np.log(2 * np.pi)
    old = {"log_probs": log_pi + rng.uniform(-1, 1, 14), "actions": actions}
    steps = recorded._replace(logits=means, fields=recorded.fields | old)
    space = gymnasium.spaces.Box(-99.0, 99.0, (2,))
    theirs = trained(algorithm, steps, actions, space, ent_coef=0.1)
    spec = pg.PolicySpec(pg.Table(14), pg.DiagonalGaussian(2), "separate")
    policy = pg.policy(spec, dtype="float64")
    tables = {"network.table": means, "critic.table": steps.values[:, None]}
    policy.load(tables | {"head.log_std": log_std})
    fields = {"gamma": GAMMA, "entropy_coefficient": 0.1, "value_coefficient": 1.0}
    ours = pg.gradient(policy, pg.estimator(algorithm.lower(), **fields), batch(steps.fields))
    agree(ours.numpy()["network.table"], theirs.logits)
    agree(ours.numpy()["head.log_std"], theirs.log_std)
    agree(ours.numpy()["critic.table"][:, 0], theirs.values)
