"""Derived expressions as text in the surrogate's own names and as LaTeX in the field's."""

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
    Expression,
    OfAction,
    RowSymbol,
    symbol,
    sympy,
)

__all__ = ["latex_of", "symbol_latex", "text_of"]

# `sympy.printing.latex` as an attribute is a function; the module needs an import.
LATEX_PRINTER: Any = import_module("sympy.printing.latex").LatexPrinter

# The symbol of a probability, by the keyword of its logarithm.
PROBABILITIES = {
    "log_prob": r"\pi",
    "log_probs": r"\pi",
    "old_log_prob": r"\pi_{\mathrm{old}}",
    "old_log_probs": r"\pi_{\mathrm{old}}",
    "behaviour_log_prob": r"\mu",
    "reference_log_prob": r"\pi_{\mathrm{ref}}",
}
# The field's symbol of a keyword.
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
PREFIXES = ("old", "target", "twin", "behaviour", "reference")
# LaTeX of SymPy's relations.
RELATIONS = {"<": "<", "<=": r"\leq", ">": ">", ">=": r"\geq", "==": "=", "!=": r"\neq"}
# Names of the action outside of sums, inside one sum, inside two, ...
ACTIONS = "abcdefgh"


def text_of(expression: Expression) -> str:
    """Return an expression as text, with a line for each case of its terms."""
    plain, parts = sympy.Integer(0), list[str]()
    for term in sympy.Add.make_args(expression):
        if has_cases(term):
            parts.append(case_table(term))
        else:
            plain += term
    # The terms without cases come first, in one line.
    if plain != 0 or not parts:
        parts.insert(0, TextPrinter().doprint(plain))
    return "\nplus\n".join(parts)


def has_cases(term: Expression) -> bool:
    """Return whether a term is a decision tree, or a sum over an episode of one."""
    return isinstance(term, Choose) or (
        isinstance(term, EpisodeSum | EpisodeMean) and has_cases(term.args[0])
    )


def case_table(tree: Expression) -> str:
    """Return a decision tree or an episode's sum of one as text, with a line for each case."""
    if isinstance(tree, EpisodeSum | EpisodeMean):
        name = "episode_sum" if isinstance(tree, EpisodeSum) else "episode_mean"
        return f"{name} of\n{case_table(tree.args[0])}"
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
    """Yield each value of a decision tree with its conditions, the most frequent value last."""
    leaves = list(branches(expression))
    values = [value for value, _ in leaves]
    usual = max(reversed(values), key=values.count)
    for value, path in leaves:
        if value != usual:
            yield value, path
    # "otherwise" needs no conditions.
    yield usual, ()


class Printing:
    """The methods that text and LaTeX share, over one of SymPy's printers."""

    def __init__(self) -> None:
        """Start outside of any sum."""
        super().__init__()
        # The action's name in each sum around the current expression.
        self.actions: list[str] = [ACTIONS[0]]

    def _as_ordered_terms(self, expression: Expression, order: Any = None) -> list[Expression]:
        """Return the terms of a sum, those to add before those to subtract."""
        return sorted(
            expression.as_ordered_terms(order),
            key=lambda term: bool(term.could_extract_minus_sign()),
        )

    def _print_Float(self, number: Expression) -> str:
        return f"{float(number):.6g}"

    def print_for(self, action: str, expression: Expression) -> str:
        """Return a row's expression with this name for the action."""
        self.actions.append(action)
        try:
            return self._print(expression)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
        finally:
            self.actions.pop()

    def next_action(self) -> str:
        """Return a new name, for the actions of an inner sum."""
        return ACTIONS[len(self.actions)]


class TextPrinter(Printing, sympy.printing.StrPrinter):
    """Text, in the surrogate's own names."""

    def conditions(self, path: tuple[Expression, ...]) -> str:
        """Return the conjunction of conditions."""
        texts: list[str] = []
        for condition in path:
            text = self._print(condition)
            texts.append(f"({text})" if condition.func is sympy.Or else text)
        return " and ".join(texts)

    def _print_Symbol(self, expression: Expression) -> str:
        return (
            f"{expression.name}[{self.actions[-1]}]"
            if isinstance(expression, RowSymbol)
            else expression.name
        )

    _print_RowSymbol = _print_Symbol

    def _print_And(self, expression: Expression) -> str:
        return " and ".join(map(self._print, expression.args))

    def _print_Or(self, expression: Expression) -> str:
        return " or ".join(map(self._print, expression.args))

    def _print_magnitude(self, expression: Expression) -> str:
        return f"|{self._print(expression.args[0])}|"

    def _print_held(self, expression: Expression) -> str:
        return f"stop_gradient({self._print(expression.args[0])})"

    def _print_Choose(self, expression: Expression) -> str:
        return f"where({', '.join(map(self._print, expression.args))})"

    def _print_IsAction(self, expression: Expression) -> str:
        return f"[{self.actions[-1]} = {self._print(expression.args[0])}]"

    def _print_OfAction(self, expression: Expression) -> str:
        return self._atom(
            expression.args[0], self.print_for(self._print(expression.args[1]), expression.args[0])
        )

    def _print_RowSum(self, expression: Expression) -> str:
        action = self.next_action()
        return f"sum_{action}({self.print_for(action, expression.args[0])})"

    def _print_LogSumExp(self, expression: Expression) -> str:
        action = self.next_action()
        return f"logsumexp_{action}({self.print_for(action, expression.args[0])})"

    def _print_EpisodeSum(self, expression: Expression) -> str:
        return f"episode_sum({self._print(expression.args[0])})"

    def _print_EpisodeMean(self, expression: Expression) -> str:
        return f"episode_mean({self._print(expression.args[0])})"

    def _atom(self, expression: Expression, text: str) -> str:
        return text if expression.is_Symbol else f"({text})"


class SymbolPrinter(Printing, LATEX_PRINTER):
    """LaTeX, in the field's symbols."""

    def _print_Symbol(self, expression: Expression, style: str = "plain") -> str:
        if expression == NUM_ACTIONS:
            return r"|\mathcal{A}|"
        text = keyword_latex(expression.name)
        return self._of_action(text) if isinstance(expression, RowSymbol) else text

    _print_RowSymbol = _print_Symbol

    def _of_action(self, text: str) -> str:
        """Return a symbol with the action as its index, after an index that it has."""
        head, brace, index = text.partition("_{")
        before = f"{index.removesuffix('}')}," if brace else ""
        return f"{head}_{{{before}{self.actions[-1]}}}"

    def _print_ExpBase(self, expression: Expression, exp: Any = None) -> str:
        ratio = self._ratio(expression.args[0])
        if ratio is None:
            # A sum is too large for a superscript.
            if expression.has(*REDUCTIONS):
                return self._called(r"\exp", self._print(expression.args[0]), exp)
            return super()._print_ExpBase(expression, exp)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return ratio if exp is None else self._called("", ratio, exp)

    def _ratio(self, exponent: Expression) -> str | None:
        """Return exp of log-probabilities as a quotient of probabilities; None for all else."""
        above, below = list[str](), list[str]()
        for term in sympy.Add.make_args(exponent):
            factor = -1 if term.could_extract_minus_sign() else 1
            log_prob = factor * term
            if not log_prob.is_Symbol or log_prob.name not in PROBABILITIES:
                return None
            text = PROBABILITIES[log_prob.name]
            text = self._of_action(text) if isinstance(log_prob, RowSymbol) else text
            (above if factor == 1 else below).append(text)
        if not below:
            return " ".join(above)
        return rf"\frac{{{' '.join(above) or 1}}}{{{' '.join(below)}}}"

    def _print_Mul(self, expression: Expression) -> str:
        """Return a product as a fraction, its sign in front."""
        coefficient, factors = expression.as_coeff_mul()
        above, below = list[Expression](), list[Expression]()
        for factor in factors:
            divides = factor.is_Pow and factor.exp.is_number and factor.exp.is_negative
            (below if divides else above).append(1 / factor if divides else factor)
        # 2/3 x is a fraction too: 2 x over 3.
        size = abs(coefficient)
        if size.is_Rational and size.q != 1:
            size, below = sympy.Integer(size.p), [sympy.Integer(size.q), *below]
        text = self._factors(above if size == 1 and above else [size, *above])
        if below:
            text = rf"\frac{{{text}}}{{{self._factors(below)}}}"
        return f"- {text}" if coefficient.is_negative else text

    def _factors(self, factors: list[Expression]) -> str:
        """Return factors side by side: numbers first, an open factor last without brackets."""
        *front, last = sorted(
            factors, key=lambda factor: (not factor.is_number, self._is_open(factor))
        )
        texts: list[str] = []
        for factor in front:
            text = self._print(factor)
            brackets = factor.is_Add or self._is_open(factor)
            texts.append(rf"\left({text}\right)" if brackets else text)
        text = self._print(last)
        texts.append(rf"\left({text}\right)" if front and last.is_Add else text)
        return " ".join(texts)

    def _is_open(self, factor: Expression) -> bool:
        """Whether a factor has no visible end: a logarithm, a sum over actions."""
        if factor.is_Symbol:
            return keyword_latex(factor.name).startswith(r"\log")
        return isinstance(factor, REDUCTIONS) and not (
            isinstance(factor, OfAction) and factor.args[0].is_Symbol
        )

    def _print_Relational(self, expression: Expression) -> str:
        """Return a relation; a bound of a log ratio as the ratio's bound."""
        ratio = self._ratio(expression.lhs)
        if ratio is None or not (expression.rhs.is_number and expression.rhs.is_finite):
            return super()._print_Relational(expression)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return f"{ratio} {RELATIONS[expression.rel_op]} {self._print(sympy.exp(expression.rhs))}"

    def _print_magnitude(self, expression: Expression, exp: Any = None) -> str:
        return self._raised(rf"\left|{self._print(expression.args[0])}\right|", exp)

    def _print_held(self, expression: Expression, exp: Any = None) -> str:
        return self._called(r"\mathrm{sg}", self._print(expression.args[0]), exp)

    def _called(self, function: str, argument: str, exp: Any) -> str:
        return self._raised(rf"{function}\left({argument}\right)", exp)

    def _raised(self, text: str, exp: Any) -> str:
        return text if exp is None else f"{text}^{{{exp}}}"

    def _print_Choose(self, expression: Expression) -> str:
        rows: list[str] = []
        for value, path in cases(expression):
            conditions = r" \text{ and } ".join(map(self._print, path))
            case = rf"\text{{if }} {conditions}" if path else r"\text{otherwise}"
            rows.append(f"{self._print(value)} & {case}")
        return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}"

    def _print_IsAction(self, expression: Expression) -> str:
        return rf"\mathbf{{1}}[{self.actions[-1]} = {self._print(expression.args[0])}]"

    def _print_OfAction(self, expression: Expression) -> str:
        return self._bracketed(
            expression.args[0], self.print_for(self._print(expression.args[1]), expression.args[0])
        )

    def _print_RowSum(self, expression: Expression) -> str:
        action = self.next_action()
        return rf"\sum_{{{action}}} " + self._bracketed(
            expression.args[0], self.print_for(action, expression.args[0])
        )

    def _print_LogSumExp(self, expression: Expression) -> str:
        action = self.next_action()
        return (
            rf"\log \sum_{{{action}}} \exp\left({self.print_for(action, expression.args[0])}\right)"
        )

    def _print_EpisodeSum(self, expression: Expression) -> str:
        return self._over_episode("", expression)

    def _print_EpisodeMean(self, expression: Expression) -> str:
        return self._over_episode(r"\frac{1}{T}", expression)

    def _over_episode(self, factor: str, expression: Expression) -> str:
        return (
            rf"{factor}\sum_{{t' \in \tau}} \left[{self._print(expression.args[0])}\right]_{{t'}}"
        )

    def _bracketed(self, expression: Expression, text: str) -> str:
        return rf"\left({text}\right)" if expression.is_Add else text


def keyword_latex(name: str) -> str:
    """Return a keyword's symbol, upright text where the field has none."""
    if name in SYMBOLS:
        return SYMBOLS[name]
    prefix, _, stem = name.partition("_")
    if prefix in PREFIXES and stem in SYMBOLS:
        return rf"{SYMBOLS[stem]}_{{\mathrm{{{prefix}}}}}"
    return name if len(name) == 1 else r"\mathrm{" + name.strip("_").replace("_", r"\_") + "}"
