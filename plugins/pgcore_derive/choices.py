"""Choices hoisted to the top of an expression, so that each branch is a plain expression.

A branch then meets no value to which another branch overflowed.
"""

from __future__ import annotations

from collections.abc import Iterator

from pgcore_derive.functions import REDUCTIONS, Choose, Expression, sympy

__all__ = ["branches", "hoist_choices", "tree_or_term"]

# Branches of a term. Beyond them its choices stay in place: such a tree would not be read.
MOST_BRANCHES = 64

# The orders of x and y in which a relation between them holds.
ORDERS: dict[type, frozenset[str]] = {
    sympy.Lt: frozenset("<"),
    sympy.Le: frozenset("<="),
    sympy.Gt: frozenset(">"),
    sympy.Ge: frozenset(">="),
    sympy.Eq: frozenset("="),
    sympy.Ne: frozenset("<>"),
}
MIRROR = {"<": ">", "=": "=", ">": "<"}
ANY = frozenset("<=>")


class TooManyBranches(Exception):  # noqa: N818 - no error: the choices stay in place
    """A term has more than `MOST_BRANCHES` branches."""


def hoist_choices(expression: Expression) -> Expression:
    """Return an equal sum of decision trees: conditions above, plain expressions at the leaves."""
    # Inside a reduction a choice is of another step or action, so it is hoisted there alone.
    inside: dict[Expression, Expression] = {}
    for reduction in outermost_reductions(expression):
        argument, *parameters = reduction.args
        inside[reduction] = reduction.func(hoist_choices(argument), *parameters)
    plain = list[Expression]()
    # Terms that the same relations decide are one tree; independent choices stay apart.
    together: dict[frozenset[Expression], list[Expression]] = {}
    for term in sympy.Add.make_args(expression.xreplace(inside)):
        if first_relation(term) is None:
            plain.append(term)
            continue
        tree = tree_or_term(term)
        relations = frozenset(tree.atoms(sympy.core.relational.Relational))
        together.setdefault(relations, []).append(tree)
    return sympy.Add(*plain, *(tree_or_term(sympy.Add(*trees)) for trees in together.values()))


def tree_or_term(term: Expression) -> Expression:
    """Return the decision tree of a term, or the term if its tree has too many branches."""
    try:
        return tree_of(term, [MOST_BRANCHES])
    except TooManyBranches:
        return term


def branches(
    expression: Expression, path: tuple[Expression, ...] = ()
) -> Iterator[tuple[Expression, tuple[Expression, ...]]]:
    """Yield each leaf of a decision tree with the conditions on the way to it."""
    if not isinstance(expression, Choose):
        yield expression, drop_implied(path)
        return
    condition, x, y = expression.args
    yield from branches(x, (*path, condition))
    yield from branches(y, (*path, sympy.Not(condition)))


def drop_implied(path: tuple[Expression, ...]) -> tuple[Expression, ...]:
    """Return the conditions of a path without those that follow from the remaining ones."""
    remaining = list(path)
    for condition in path:
        candidates = [candidate for candidate in remaining if candidate is not condition]
        if any(is_implied(candidate, condition, holds=True) for candidate in candidates):
            remaining = candidates
    return tuple(remaining)


def outermost_reductions(expression: Expression) -> Iterator[Expression]:
    """Yield the reductions that are inside no other reduction."""
    if isinstance(expression, REDUCTIONS):
        yield expression
        return
    for part in expression.args:
        yield from outermost_reductions(part)


def tree_of(term: Expression, budget: list[int]) -> Expression:
    """Return the decision tree of a term.

    Args:
        term: The term.
        budget: One number, the branches that the tree may still have; counted down here.

    Raises:
        TooManyBranches: the budget is spent.
    """
    relation = first_relation(term)
    if relation is None:
        budget[0] -= 1
        if budget[0] < 0:
            raise TooManyBranches
        return term
    x, y = (tree_of(assume(term, relation, holds=holds), budget) for holds in (True, False))
    return Choose(relation, x, y)


def first_relation(expression: Expression) -> Expression | None:
    """Return a relation that decides a choice and holds none itself, or None; see `REDUCTIONS`."""
    return next(open_relations(expression), None)


def open_relations(expression: Expression) -> Iterator[Expression]:
    """Yield the relations outside of reductions that decide choices and hold none themselves."""
    if isinstance(expression, REDUCTIONS):
        return
    # A condition may itself hold a choice: that one is decided first.
    if isinstance(expression, Choose):
        condition = expression.args[0]
        inner = list(open_relations(condition))
        yield from inner or sympy.ordered(set(relations_of(condition)))
    for part in expression.args:
        yield from open_relations(part)


def relations_of(condition: Expression) -> Iterator[Expression]:
    """Yield the relations of a condition, but not the relations inside of those."""
    if isinstance(condition, sympy.core.relational.Relational):
        yield condition
        return
    for part in condition.args:
        yield from relations_of(part)


def assume(expression: Expression, relation: Expression, *, holds: bool) -> Expression:
    """Return the expression under the assumption that a relation holds, or that it does not."""
    # The relation is this step's; a reduction is over other steps and actions.
    if isinstance(expression, REDUCTIONS) or not expression.args:
        return expression
    if isinstance(expression, sympy.core.relational.Relational):
        verdict = is_implied(relation, expression, holds=holds)
        if verdict is not None:
            return sympy.true if verdict else sympy.false
    parts = [assume(part, relation, holds=holds) for part in expression.args]
    return expression if parts == list(expression.args) else expression.func(*parts)


def is_implied(relation: Expression, second: Expression, *, holds: bool) -> bool | None:
    """Return whether a second relation follows from the first, or None where that is open.

    Args:
        relation: The first relation.
        second: The relation in question.
        holds: Whether the first one is true.
    """
    if not (type(relation) in ORDERS and type(second) in ORDERS):
        return None
    possible, required = ORDERS[type(relation)], ORDERS[type(second)]
    if not holds:
        possible = ANY - possible
    # y > x is x < y; x < 1 bears on x < 2 where both bounds are numbers.
    if (second.lhs, second.rhs) == (relation.rhs, relation.lhs):
        required = frozenset(MIRROR[order] for order in required)
    elif second.lhs != relation.lhs:
        return None
    elif second.rhs != relation.rhs:
        if not (second.rhs.is_number and relation.rhs.is_number):
            return None
        possible = orders_to(possible, lower=second.rhs < relation.rhs)
    return True if possible <= required else False if not possible & required else None


def orders_to(possible: frozenset[str], *, lower: bool) -> frozenset[str]:
    """Return the possible orders of x to another number, from those to this one.

    Args:
        possible: The orders to this number.
        lower: Whether the other number is lower.
    """
    away = ">" if lower else "<"
    return frozenset(away) if possible <= {away, "="} else ANY
