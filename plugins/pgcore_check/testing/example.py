"""The fixture `pg_case`: a policy and a batch that fit an estimator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.errors import EstimatorError
from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore_check.cases.builders import builder_of
from pgcore_check.cases.cases import NETWORKS, fits, make_case, twinned
from pgcore_check.cases.design import CRITICS, spec_of
from pgcore_check.proofs import variants

__all__ = ["MakeCase", "make_example"]

# A network with hidden layers and without non-differentiable points.
NETWORK = next(name for name, network in NETWORKS.items() if network.has_torso)


class MakeCase(Protocol):
    """The function that the fixture `pg_case` returns."""

    def __call__(
        self,
        estimator: Estimator,
        head: Head | None = None,
        *,
        backend: str | None = None,
        dtype: str | None = None,
        seed: int = 0,
        steps: int = 23,
    ) -> tuple[Policy, Batch]:
        """Return a policy with random parameters, and a batch that a slightly older one recorded.

        Args:
            estimator: Which loss the policy must fit.
            head: The head; None takes the first registered one that fits.
            backend: A registered name; None takes the first usable one that can build the policy.
            dtype: "float32" or "float64"; None takes `--pg-dtype`, or else float64.
            seed: Of all random numbers.
            steps: B, at least 9, in five episodes.

        Raises:
            EstimatorError: no policy fits the estimator.
            RefusalError: no usable backend can build the policy.
        """
        ...


def make_example(default_dtype: str) -> MakeCase:
    """Return the function; see `MakeCase`."""

    def make(
        estimator: Estimator,
        head: Head | None = None,
        *,
        backend: str | None = None,
        dtype: str | None = None,
        seed: int = 0,
        steps: int = 23,
    ) -> tuple[Policy, Batch]:
        heads = variants("heads").values() if head is None else [head]
        for plain in itertools.chain.from_iterable(map(specs_of, heads)):
            spec = twinned(plain, estimator)
            if fits(estimator, spec):
                chosen = (backend or builder_of(spec), dtype or default_dtype, seed, steps)
                return make_case(spec, *chosen, extras=estimator.used_extras)
        raise EstimatorError(
            f"pg_case: expected an estimator that fits a policy, got {estimator.name}; "
            "name a head that has its quantities"
        )

    return make


def specs_of(head: Head) -> Iterator[PolicySpec]:
    """Yield the policies with a head: with each kind of critic."""
    for critic in CRITICS:
        spec = spec_of(head, NETWORK, critic)
        if spec is not None:
            yield spec
