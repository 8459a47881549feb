"""What a plugin gives the kit to prove one of its estimators, heads or optimizers with: the hook `pgcore_proofs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pgcore.data.spec import PolicySpec
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array

__all__ = ["Build", "Kink", "Process", "Proof"]

Build = Callable[[PolicySpec], Policy]


class Process(Protocol):
    """The decision process of an audit; see `pgcore_exact.process.mdp.MDP`."""

    @property
    def states(self) -> int:
        """How many states there are."""
        ...

    @property
    def actions(self) -> int:
        """How many actions there are."""
        ...


@dataclass(frozen=True)
class Kink:
    """A point where a derivative has two sides, or an extreme one, and what the gradient must be there.

    Attributes:
        name: Short, for a test's name.
        group: Points of a group have one architecture and one estimator, so that what is compiled for one serves all.
        estimator: The registered name of the estimator it is about, "" where it is about the head alone.
        head: The registered name of the head it is about.
        compute: `compute(build)` returns the gradient by canonical parameter name; `build(spec)` makes a policy.
        expected: The parameters it settles, by name.
        atol: What float64's rounding may add where the plain formula cancels; else only what is flushed to 0.
        everywhere: Whether backends differ enough in how they compute it to look in each of their modes.
    """

    name: str
    group: str
    estimator: str
    head: str
    compute: Callable[[Build], dict[str, Array]]
    expected: dict[str, Array]
    atol: float = 0.0
    everywhere: bool = False


@dataclass(frozen=True, eq=False)
class Proof:
    """What one estimator, head or optimizer is tried on and held to.

    Attributes:
        of: Its class.
        variants: Options to try, by a label that no other variant has. The label of an optimizer's first is its name.
        reference: The reference implementation, a subclass of `pgcore_check.reference.estimator_form.EstimatorForm` or of
            `pgcore_check.reference.head_form.HeadForm`. It holds for this class, and for a subclass that changes no formula of it.
        kinks: Non-differentiable and extreme points.
        policies: Architectures that estimators are audited with, by label, made for a process; the first that suits is taken.
        extras: [S, A, ...] extras that a batch carries in an audit, by name, from the process and the behaviour policy's
            [S, A] probabilities.
    """

    of: type[Any]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    reference: type[Any] | None = None
    kinks: tuple[Kink, ...] = ()
    policies: Mapping[str, Callable[[Process], PolicySpec]] = field(
        default_factory=dict[str, Callable[[Process], PolicySpec]]
    )
    extras: Mapping[str, Callable[[Process, Array], Array]] = field(
        default_factory=dict[str, Callable[[Process, Array], Array]]
    )
