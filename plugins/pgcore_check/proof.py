"""The objects of the hook `pgcore_proofs`: proofs of estimators, parts, heads and the like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pgcore.data.spec import PolicySpec
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array

__all__ = ["Bug", "Build", "Kink", "Process", "Proof"]

Build = Callable[[PolicySpec], Policy]


class Process(Protocol):
    """The decision process of an audit; see `pgcore_exact.process.mdp.MDP`."""

    @property
    def states(self) -> int:
        """The number of states."""
        ...

    @property
    def actions(self) -> int:
        """The number of actions."""
        ...


@dataclass(frozen=True)
class Kink:
    """A non-differentiable or extreme point, with the gradient that the conventions give there.

    Or any other point whose gradient was worked out by hand.

    Attributes:
        name: Short, for a test's name.
        group: Points of a group have one architecture and one estimator, so that one compilation
            serves all.
        estimator: The registered name of the point's estimator; "" for a point of the head alone.
        head: The registered name of the point's head.
        compute: `compute(build)` returns the gradient by canonical parameter name; `build(spec)`
            makes a policy.
        expected: The gradient's arrays by parameter name; a parameter that is not among them is
            not compared.
        atol: The rounding error that float64 may add where the plain formula cancels; 0 allows
            results flushed to 0 alone.
        everywhere: Whether each mode of a backend is compared, since backends differ in how they
            compute the point.
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
class Bug:
    """A planted bug: an object that is wrong, and where the kit must find that.

    Attributes:
        name: Short, for a test's name.
        planted: An estimator, a head or a part, such as an instance of a subclass with the bug.
        stage: The first stage that must disagree, such as "cotangents".
    """

    name: str
    planted: Any
    stage: str


@dataclass(frozen=True, eq=False)
class Proof:
    """Options, reference implementation and kinks of one class.

    Attributes:
        of: The class of an estimator, a part, a head, an optimizer or a reduction.
        variants: Options to try, by a label that no other variant has. The label of an optimizer's
            first is its name. A part is tried in the first estimator that takes it; without
            variants its proof leaves it to kinks.
        reference: The reference implementation, a subclass of `EstimatorForm`, `HeadForm` or
            `ReductionForm` in the modules of these names in `pgcore_check.reference`. It holds for this class, and for a subclass
            that changes no formula of it.
        kinks: Non-differentiable and extreme points.
        policies: Architectures for the audit of estimators, by label, made for a process; the first
            that suits an estimator is used.
        extras: [S, A, ...] extras that a batch carries in an audit, by name, from the process and
            the behaviour policy's [S, A] probabilities.
        bugs: Planted bugs, which the suite finds or fails.
    """

    registered_as = "proofs"  # the kind
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
    bugs: tuple[Bug, ...] = ()
