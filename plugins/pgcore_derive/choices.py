"""Choices brought to the top, so that each branch is an expression by itself and no branch meets what another one overflowed to."""

from __future__ import annotations

from collections.abc import Iterator

from pgcore_derive.functions import REDUCTIONS, Choose
from pgcore_derive.library import Expression, sympy

__all__ = ["branches", "settled", "tree_or_term"]

# Beyond this many branches a term's choices stay where they are.
MOST_BRANCHES = 64

# How x may stand to y where a relation of theirs holds.
OUTCOMES: dict[type, frozenset[str]] = {
    sympy.Lt: frozenset("<"),
    sympy.Le: frozenset("<="),
    sympy.Gt: frozenset(">"),
    sympy.Ge: frozenset(">="),
    sympy.Eq: frozenset("="),
    sympy.Ne: frozenset("<>"),
}
MIRROR = {"<": ">", "=": "=", ">": "<"}
ANY = frozenset("<=>")


class TooManyBranches(Exception):  # noqa: N818 - no error: the choices stay where they are
    """A term has more branches than anybody would read."""


def settled(expression: Expression) -> Expression:
    """Return an equal expression: a sum whose terms are decision trees, conditions above and plain expressions at the leaves."""
    inside = {
        found: found.func(settled(found.args[0]), *found.args[1:])
        for found in outermost_reductions(expression)
    }
    plain = list[Expression]()
    # What the same relations decide is one tree; independent choices stay apart.
    together: dict[frozenset[Expression], list[Expression]] = {}
    for term in sympy.Add.make_args(expression.xreplace(inside)):
        if first_relation(term) is None:
            plain.append(term)
        else:
            tree = tree_or_term(term)
            together.setdefault(frozenset(tree.atoms(sympy.core.relational.Relational)), []).append(
                tree
            )
    return sympy.Add(*plain, *(tree_or_term(sympy.Add(*trees)) for trees in together.values()))


def tree_or_term(term: Expression) -> Expression:
    """Return the decision tree of a term, or the term where that would have too many branches."""
    try:
        return tree_of(term, [MOST_BRANCHES])
    except TooManyBranches:
        return term


def branches(
    expression: Expression, path: tuple[Expression, ...] = ()
) -> Iterator[tuple[Expression, tuple[Expression, ...]]]:
    """Yield each leaf of a decision tree with the conditions on the way to it."""
    if not isinstance(expression, Choose):
        yield expression, needed(path)
        return
    condition, x, y = expression.args
    yield from branches(x, (*path, condition))
    yield from branches(y, (*path, sympy.Not(condition)))


def needed(path: tuple[Expression, ...]) -> tuple[Expression, ...]:
    """Return the conditions of a path without those that others of it imply."""
    kept = list(path)
    for condition in path:
        others = [other for other in kept if other is not condition]
        if any(implied(other, condition, holds=True) for other in others):
            kept = others
    return tuple(kept)


def outermost_reductions(expression: Expression) -> Iterator[Expression]:
    """Yield the reductions that stand in no other one."""
    if isinstance(expression, REDUCTIONS):
        yield expression
        return
    for part in expression.args:
        yield from outermost_reductions(part)


def tree_of(term: Expression, left: list[int]) -> Expression:
    """Return the decision tree of a term; `left` counts down the branches that it may still have."""
    relation = first_relation(term)
    if relation is None:
        left[0] -= 1
        if left[0] < 0:
            raise TooManyBranches
        return term
    x, y = (tree_of(assuming(term, relation, holds=holds), left) for holds in (True, False))
    return Choose(relation, x, y)


def first_relation(expression: Expression) -> Expression | None:
    """Return a relation that decides a choice and holds no choice itself, or None; what is reduced is not looked into."""
    return next(undecided(expression), None)


def undecided(expression: Expression) -> Iterator[Expression]:
    """Yield the relations that decide choices and hold none themselves."""
    if isinstance(expression, REDUCTIONS):
        return
    if isinstance(expression, Choose):
        condition = expression.args[0]
        inner = list(undecided(condition))
        yield from inner or sympy.ordered(set(relations(condition)))
    for part in expression.args:
        yield from undecided(part)


def relations(condition: Expression) -> Iterator[Expression]:
    """Yield the relations that a condition is made of, without those of what is reduced, which are other steps' too."""
    if isinstance(condition, sympy.core.relational.Relational):
        yield condition
        return
    for part in condition.args:
        yield from relations(part)


def assuming(expression: Expression, relation: Expression, *, holds: bool) -> Expression:
    """Return the expression where a relation holds, or where it does not."""
    if isinstance(expression, REDUCTIONS) or not expression.args:
        return expression
    if isinstance(expression, sympy.core.relational.Relational):
        known = implied(relation, expression, holds=holds)
        if known is not None:
            return sympy.true if known else sympy.false
    parts = [assuming(part, relation, holds=holds) for part in expression.args]
    return expression if parts == list(expression.args) else expression.func(*parts)


def implied(relation: Expression, other: Expression, *, holds: bool) -> bool | None:
    """Return whether another relation holds too, or None where that is open."""
    if not (type(relation) in OUTCOMES and type(other) in OUTCOMES):
        return None
    possible, wanted = OUTCOMES[type(relation)], OUTCOMES[type(other)]
    if not holds:
        possible = ANY - possible
    if (other.lhs, other.rhs) == (relation.rhs, relation.lhs):
        wanted = frozenset(MIRROR[outcome] for outcome in wanted)
    elif other.lhs != relation.lhs:
        return None
    elif other.rhs != relation.rhs:
        if not (other.rhs.is_number and relation.rhs.is_number):
            return None
        possible = beside(possible, lower=other.rhs < relation.rhs)
    return True if possible <= wanted else False if not possible & wanted else None


def beside(possible: frozenset[str], *, lower: bool) -> frozenset[str]:
    """Return how x may stand to a lower or higher number, given how it may stand to this one."""
    away = ">" if lower else "<"
    return frozenset(away) if possible <= {away, "="} else ANY
