"""Derived expressions in writing: text in the surrogate's own names, and LaTeX in the field's symbols."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pgcore_derive.choices import branches
from pgcore_derive.functions import (
    NUM_ACTIONS,
    REDUCTIONS,
    Choose,
    EpisodeMean,
    EpisodeSum,
    OfAction,
    RowSymbol,
    symbol,
)
from pgcore_derive.library import Expression, sympy

__all__ = ["latex_of", "symbol_latex", "text_of"]

# The module's name is that of a function in the package.
LATEX_PRINTER: Any = import_module("sympy.printing.latex").LatexPrinter

# Probabilities by the keyword that is their logarithm.
PROBABILITIES = {
    "log_prob": r"\pi",
    "log_probs": r"\pi",
    "old_log_prob": r"\pi_{\mathrm{old}}",
    "old_log_probs": r"\pi_{\mathrm{old}}",
    "behaviour_log_prob": r"\mu",
    "reference_log_prob": r"\pi_{\mathrm{ref}}",
}
SYMBOLS = {
    "action_value": "Q",
    "action_values": "Q",
    "advantage": "A",
    "entropy": "H",
    "kl": r"\mathrm{KL}",
    "reverse_kl": r"\mathrm{KL}^{-}",
    "return_": "R",
    "reward": "r",
    "target": "y",
    "value": "V",
} | {name: rf"\log {probability}" for name, probability in PROBABILITIES.items()}
# `old_value` is V_old.
PREFIXES = ("old", "target", "behaviour", "reference")
RELATIONS = {"<": "<", "<=": r"\leq", ">": ">", ">=": r"\geq", "==": "=", "!=": r"\neq"}
# What an action is called inside one sum, two sums, ...
ACTIONS = "abcdefgh"


def text_of(expression: Expression) -> str:
    """Return an expression as text, a line for each case, and below each other the terms that have cases."""
    terms = sympy.Add.make_args(expression)
    chosen = [term for term in terms if has_cases(term)]
    plain = sympy.Add(*(term for term in terms if not has_cases(term)))
    parts = [table(term) for term in chosen]
    return "\nplus\n".join(
        parts if plain == 0 and chosen else [TextPrinter().doprint(plain), *parts]
    )


def has_cases(term: Expression) -> bool:
    """Return whether a term is a decision tree, or a sum over an episode of one."""
    return isinstance(term, Choose) or (
        isinstance(term, EpisodeSum | EpisodeMean) and has_cases(term.args[0])
    )


def table(tree: Expression) -> str:
    """Return a decision tree as text, a line for each case."""
    if isinstance(tree, EpisodeSum | EpisodeMean):
        return (
            f"episode_{'sum' if isinstance(tree, EpisodeSum) else 'mean'} of\n{table(tree.args[0])}"
        )
    printer = TextPrinter()
    rows = [(printer.doprint(value), printer.conditions(path)) for value, path in cases(tree)]
    width = max(len(value) for value, _ in rows)
    return "\n".join(
        f"{value:<{width}}  {f'if {path}' if path else 'otherwise'}" for value, path in rows
    )


def latex_of(expression: Expression) -> str:
    """Return an expression in LaTeX, choices in the environment `cases`."""
    return SymbolPrinter().doprint(expression)


def symbol_latex(name: str, *, row: bool) -> str:
    """Return a quantity's or signal's symbol in LaTeX."""
    return SymbolPrinter().doprint(symbol(name, RowSymbol if row else sympy.Symbol))


def cases(expression: Expression) -> Iterator[tuple[Expression, tuple[Expression, ...]]]:
    """Yield each value of a decision tree with its conditions; the value that most branches have comes last, without any."""
    found = list(branches(expression))
    values = [value for value, _ in found]
    usual = max(reversed(values), key=values.count)
    yield from ((value, path) for value, path in found if value != usual)
    yield usual, ()


class Printing:
    """What both ways of writing share, over one of SymPy's printers."""

    def __init__(self) -> None:
        """Start outside of any sum."""
        super().__init__()
        self.actions: list[str] = [ACTIONS[0]]

    def _as_ordered_terms(self, expression: Expression, order: Any = None) -> list[Expression]:
        """Return the terms of a sum, those to add before those to subtract."""
        return sorted(
            expression.as_ordered_terms(order),
            key=lambda term: bool(term.could_extract_minus_sign()),
        )

    def _print_Float(self, number: Expression) -> str:
        return f"{float(number):.6g}"

    def under(self, action: str, expression: Expression) -> str:
        """Return an expression of a row for an action of that name."""
        self.actions.append(action)
        try:
            return self._print(expression)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
        finally:
            self.actions.pop()

    def next_action(self) -> str:
        """Return a name for the actions of one more sum."""
        return ACTIONS[len(self.actions)]


class TextPrinter(Printing, sympy.printing.StrPrinter):
    """Text, in the surrogate's own names."""

    def conditions(self, path: tuple[Expression, ...]) -> str:
        """Return conditions that all hold."""
        return " and ".join(
            f"({self._print(each)})" if each.func is sympy.Or else self._print(each)
            for each in path
        )

    def _print_Symbol(self, found: Expression) -> str:
        return f"{found.name}[{self.actions[-1]}]" if isinstance(found, RowSymbol) else found.name

    _print_RowSymbol = _print_Symbol

    def _print_And(self, found: Expression) -> str:
        return " and ".join(map(self._print, found.args))

    def _print_Or(self, found: Expression) -> str:
        return " or ".join(map(self._print, found.args))

    def _print_magnitude(self, found: Expression) -> str:
        return f"|{self._print(found.args[0])}|"

    def _print_Choose(self, found: Expression) -> str:
        return f"where({', '.join(map(self._print, found.args))})"

    def _print_IsAction(self, found: Expression) -> str:
        return f"[{self.actions[-1]} = {self._print(found.args[0])}]"

    def _print_OfAction(self, found: Expression) -> str:
        return self._atom(found.args[0], self.under(self._print(found.args[1]), found.args[0]))

    def _print_RowSum(self, found: Expression) -> str:
        action = self.next_action()
        return f"sum_{action}({self.under(action, found.args[0])})"

    def _print_LogSumExp(self, found: Expression) -> str:
        action = self.next_action()
        return f"logsumexp_{action}({self.under(action, found.args[0])})"

    def _print_EpisodeSum(self, found: Expression) -> str:
        return f"episode_sum({self._print(found.args[0])})"

    def _print_EpisodeMean(self, found: Expression) -> str:
        return f"episode_mean({self._print(found.args[0])})"

    def _atom(self, expression: Expression, text: str) -> str:
        return text if expression.is_Symbol else f"({text})"


class SymbolPrinter(Printing, LATEX_PRINTER):
    """LaTeX, in the field's symbols."""

    def _print_Symbol(self, found: Expression, style: str = "plain") -> str:
        if found == NUM_ACTIONS:
            return r"|\mathcal{A}|"
        text = named(found.name)
        return self._of_action(text) if isinstance(found, RowSymbol) else text

    _print_RowSymbol = _print_Symbol

    def _of_action(self, text: str) -> str:
        """Return a symbol with the action below it: an index that it has stays in front of it."""
        head, brace, old = text.partition("_{")
        return (
            f"{head}_{{{old.removesuffix('}')},{self.actions[-1]}}}"
            if brace
            else f"{head}_{{{self.actions[-1]}}}"
        )

    def _print_ExpBase(self, found: Expression, exp: Any = None) -> str:
        ratio = self._ratio(found.args[0])
        if ratio is None:
            if found.has(*REDUCTIONS):  # too much for a superscript
                return self._called(r"\exp", self._print(found.args[0]), exp)
            return super()._print_ExpBase(found, exp)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return ratio if exp is None else self._called("", ratio, exp)

    def _ratio(self, exponent: Expression) -> str | None:
        """Return e to a sum of log-probabilities as a quotient of probabilities, or None for any other exponent."""
        above, below = list[str](), list[str]()
        for term in sympy.Add.make_args(exponent):
            factor = -1 if term.could_extract_minus_sign() else 1
            found = factor * term
            if not found.is_Symbol or found.name not in PROBABILITIES:
                return None
            text = PROBABILITIES[found.name]
            (above if factor == 1 else below).append(
                self._of_action(text) if isinstance(found, RowSymbol) else text
            )
        return (
            " ".join(above)
            if not below
            else rf"\frac{{{' '.join(above) or 1}}}{{{' '.join(below)}}}"
        )

    def _print_Mul(self, found: Expression) -> str:
        """Return a product: numbers, then what is closed to both sides, then what a reader reads on to the end."""
        coefficient, factors = found.as_coeff_mul()
        below = [
            1 / factor
            for factor in factors
            if factor.is_Pow and factor.exp.is_number and factor.exp.is_negative
        ]
        above = [factor for factor in factors if 1 / factor not in below]
        size = abs(coefficient)
        if size.is_Rational and size.q != 1:
            size, below = sympy.Integer(size.p), [sympy.Integer(size.q), *below]
        text = self._factors(above if size == 1 and above else [size, *above])
        if below:
            text = rf"\frac{{{text}}}{{{self._factors(below)}}}"
        return f"- {text}" if coefficient.is_negative else text

    def _factors(self, factors: list[Expression]) -> str:
        """Return factors side by side."""
        *closed, last = sorted(
            factors, key=lambda factor: (not factor.is_number, self._is_open(factor))
        )
        texts = [self._print(each) for each in closed]
        texts = [
            rf"\left({text}\right)" if each.is_Add or self._is_open(each) else text
            for each, text in zip(closed, texts, strict=True)
        ]
        alone = not closed or not last.is_Add
        return " ".join(
            [*texts, self._print(last) if alone else rf"\left({self._print(last)}\right)"]
        )

    def _is_open(self, factor: Expression) -> bool:
        """Whether it is not clear where a factor ends: a logarithm, a sum."""
        if factor.is_Symbol:
            return named(factor.name).startswith(r"\log")
        return isinstance(factor, REDUCTIONS) and not (
            isinstance(factor, OfAction) and factor.args[0].is_Symbol
        )

    def _print_Relational(self, found: Expression) -> str:
        """Return a relation; a bound of a log ratio as one of the ratio."""
        ratio = self._ratio(found.lhs)
        if ratio is None or not (found.rhs.is_number and found.rhs.is_finite):
            return super()._print_Relational(found)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return f"{ratio} {RELATIONS[found.rel_op]} {self._print(sympy.exp(found.rhs))}"

    def _print_magnitude(self, found: Expression, exp: Any = None) -> str:
        return self._raised(rf"\left|{self._print(found.args[0])}\right|", exp)

    def _called(self, function: str, argument: str, exp: Any) -> str:
        return self._raised(rf"{function}\left({argument}\right)", exp)

    def _raised(self, text: str, exp: Any) -> str:
        return text if exp is None else f"{text}^{{{exp}}}"

    def _print_Choose(self, found: Expression) -> str:
        rows = [
            f"{self._print(value)} & "
            + (rf"\text{{if }} {self._conditions(path)}" if path else r"\text{otherwise}")
            for value, path in cases(found)
        ]
        return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}"

    def _conditions(self, path: tuple[Expression, ...]) -> str:
        return r" \text{ and } ".join(map(self._print, path))

    def _print_IsAction(self, found: Expression) -> str:
        return rf"\mathbf{{1}}[{self.actions[-1]} = {self._print(found.args[0])}]"

    def _print_OfAction(self, found: Expression) -> str:
        return self._bracketed(found.args[0], self.under(self._print(found.args[1]), found.args[0]))

    def _print_RowSum(self, found: Expression) -> str:
        action = self.next_action()
        return rf"\sum_{{{action}}} " + self._bracketed(
            found.args[0], self.under(action, found.args[0])
        )

    def _print_LogSumExp(self, found: Expression) -> str:
        action = self.next_action()
        return rf"\log \sum_{{{action}}} \exp\left({self.under(action, found.args[0])}\right)"

    def _print_EpisodeSum(self, found: Expression) -> str:
        return self._over_episode("", found)

    def _print_EpisodeMean(self, found: Expression) -> str:
        return self._over_episode(r"\frac{1}{T}", found)

    def _over_episode(self, factor: str, found: Expression) -> str:
        return rf"{factor}\sum_{{t' \in \tau}} \left[{self._print(found.args[0])}\right]_{{t'}}"

    def _bracketed(self, expression: Expression, text: str) -> str:
        return rf"\left({text}\right)" if expression.is_Add else text


def named(name: str) -> str:
    """Return a keyword's symbol."""
    if name in SYMBOLS:
        return SYMBOLS[name]
    prefix, _, rest = name.partition("_")
    if prefix in PREFIXES and rest in SYMBOLS:
        return rf"{SYMBOLS[rest]}_{{\mathrm{{{prefix}}}}}"
    return name if len(name) == 1 else r"\mathrm{" + name.strip("_").replace("_", r"\_") + "}"
