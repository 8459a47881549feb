"""stable-baselines3's PPO and its subclass with pgcore's loss: the same parameters after training."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("stable_baselines3")
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    torch_layers = pytest.importorskip("stable_baselines3.common.torch_layers")

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")

COLUMNS = ("rewards", "values", "log_probs", "advantages", "returns")


class Buffer(buffers.RolloutBuffer):
    """A buffer in double precision, where the library's is in float32."""

    def reset(self):
        super().reset()
        for name in COLUMNS:
            setattr(self, name, getattr(self, name).astype(np.float64))


class Extractor(torch_layers.FlattenExtractor):
    """Observations in double precision; the library casts them to float32 before."""

    def forward(self, observations):
        return super().forward(observations).double()


@pytest.fixture
def train(loop, torch_float64):
    """Return a function that trains an algorithm by name for two rollouts, and returns its parameters."""
    module = loop("sb3_ppo")

    def run(name, **options):
        settings = {
            "n_steps": 32,
            "n_epochs": 2,
            "batch_size": 48,  # a smaller last minibatch
            "rollout_buffer_class": Buffer,
            "policy_kwargs": {"features_extractor_class": Extractor, "net_arch": [16]},
        }
        # Some episodes end before the time limit, and others at it.
        algorithm = module.train(getattr(module, name), 256, limit=20, **settings | options)
        assert algorithm._n_updates == 4
        parameters = torch.nn.utils.parameters_to_vector(algorithm.policy.parameters())
        return parameters.detach().numpy()

    return run


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_advantage": False, "vf_coef": 0.3, "ent_coef": 0.0},
        {"gae_lambda": 0.7, "clip_range": lambda remaining: 0.01 * remaining + 0.001},
    ],
    ids=["default", "plain", "schedule"],
)
def test_the_subclass_ends_at_the_same_parameters(train, assert_swap, options):
    usual = train("PPO", **options)
    assert_swap(train("PgcorePPO", **options), usual)


def test_another_weight_of_the_critic_is_seen(train):
    usual = train("PPO", vf_coef=0.5)
    assert abs(train("PgcorePPO", vf_coef=0.25) - usual).max() > 1e-4
