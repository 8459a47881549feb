"""A target policy: an older copy of the current one, the source of bootstrapped action values."""

from __future__ import annotations

from collections.abc import Mapping

from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array

__all__ = ["Target"]


class Target:
    """A copy of a policy that follows it: by a new copy now and then, or by a part of every step.

    Attributes:
        policy: The copy; `pgcore.signals` takes it as `target`.
        every: Optimizer steps from one copy to the next, or None if `rate` is set.
        rate: tau in target <- (1 - tau) target + tau policy after every optimizer step, or None.
    """

    def __init__(
        self, policy: Policy, *, every: int | None = None, rate: float | None = None
    ) -> None:
        """Take over a policy that equals the current one.

        Args:
            policy: Same spec, backend, dtype and parameters as the current one; it will change.
            every: At least 1, or None.
            rate: In (0, 1], or None; exactly one of the two is set.
        """
        assert (every is None) != (rate is None)
        self.policy, self.every, self.rate = policy, every, rate

    def follow(self, current: Policy, steps_taken: int) -> None:
        """Follow the current policy.

        Args:
            current: After an optimizer step.
            steps_taken: The optimizer's count, that step included.
        """
        if self.rate is None:
            assert self.every is not None
            if steps_taken % self.every == 0:
                self.policy.load(current.parameters())
            return
        parameters = current.parameters()
        # On the host in the parameters' dtype, so that every backend has the same target.
        for name, value in self.policy.parameters().items():
            parameters[name] = value + self.rate * (parameters[name] - value)
        self.policy.load(parameters)

    def state(self) -> dict[str, Array]:
        """Return the parameters that `load` takes."""
        return self.policy.parameters()

    def load(self, state: Mapping[str, Array]) -> None:
        """Continue from a state that `state` returned.

        Raises:
            ParameterError: it is not of the policy's shape.
        """
        self.policy.load(state)
