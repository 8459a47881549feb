"""Environments that show a number, and pay for the action of that number."""

import gymnasium


class Guessing(gymnasium.Env):
    """Pays for the `goal` that the last observation showed; a subclass draws and shows it in `_observe`."""

    length = 5
    goal: int

    def _observe(self):
        raise NotImplementedError

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.length
        return self._observe(), {}

    def step(self, action):
        reward = float(action == self.goal)
        self.left -= 1
        return self._observe(), reward, False, self.left == 0, {}
