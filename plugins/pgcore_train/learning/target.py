"""A target policy: an older copy of the current one, which bootstrapped action values are taken from."""

from __future__ import annotations

from collections.abc import Mapping

from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array

__all__ = ["Target"]


class Target:
    """A copy of a policy that follows it, by copying it now and then or by going a part of the way at every step.

    Attributes:
        policy: The copy; `pgcore.signals` takes it as `target`.
        every: Optimizer steps from one copy to the next, or None where `rate` is given.
        rate: tau in target <- (1 - tau) target + tau policy after every optimizer step, or None.
    """

    def __init__(
        self, policy: Policy, *, every: int | None = None, rate: float | None = None
    ) -> None:
        """Take over a policy that starts as the current one's equal.

        Args:
            policy: Of the current one's spec, backend and dtype, with its parameters; changed from now on.
            every: At least 1, or None.
            rate: In (0, 1], or None; one of the two is given.
        """
        assert (every is None) != (rate is None)
        self.policy, self.every, self.rate = policy, every, rate

    def follow(self, current: Policy, steps_taken: int) -> None:
        """Follow the current policy.

        Args:
            current: As an optimizer step left it.
            steps_taken: The optimizer's, that one included.
        """
        if self.rate is None:
            assert self.every is not None
            if steps_taken % self.every == 0:
                self.policy.load(current.parameters())
            return
        own = self.policy.parameters()
        # In the parameters' dtype on every backend, so that all of them have the same target.
        self.policy.load(
            {
                name: own[name] + self.rate * (new - own[name])
                for name, new in current.parameters().items()
            }
        )

    def state(self) -> dict[str, Array]:
        """Return the parameters that `load` takes."""
        return self.policy.parameters()

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from what `state` returned.

        Raises:
            ParameterError: it is not of the policy's shape.
        """
        self.policy.load(state)
