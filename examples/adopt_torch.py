"""One PPO update of a network of your own in PyTorch: `python examples/adopt_torch.py`."""

import numpy as np
import torch
from torch import nn

import pgcore as pg


class Net(nn.Module):
    """Images [B, 8, 8, 3] of bytes to two logits and a value."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.torso = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.policy, self.value = nn.Linear(72, 2), nn.Linear(72, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return [B, 2] logits and [B, 1] values."""
        features = self.torso(images.permute(0, 3, 1, 2) / 255)
        return self.policy(features), self.value(features)


torch.manual_seed(0)
net = Net()
policy = pg.backend("torch").adopt(net, head=pg.Categorical(2), critic="shared")
images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
actions, log_probs = policy.act(images, pg.generator(0))
batch = pg.Batch(
    observations=images,
    actions=actions,
    rewards=actions == 1,
    episode_lengths=[32, 32],
    terminated=[True, True],
    log_probs=log_probs,
)
ppo, adam = pg.estimator("ppo"), pg.optimizer("adam", learning_rate=1e-3)
signals = pg.signals(policy, ppo, batch)
before = pg.gradient(policy, ppo, batch, signals=signals).loss
for _ in range(10):
    adam.step(policy, pg.gradient(policy, ppo, batch, signals=signals))  # `net` itself is trained
after = pg.gradient(policy, ppo, batch, signals=signals).loss
print("PPO's loss before and after:", before, after)
