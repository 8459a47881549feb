"""`pgcore derive`: the closed form of an estimator's cotangents, from its surrogate."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pgcore import api
from pgcore.cli.assignments import nested, read_assignments, without_none
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.registry.registry import registry

if TYPE_CHECKING:
    from pgcore_derive.derivation import Derivation

__all__ = ["derive_command"]


def derive_command(
    name: Annotated[
        str, typer.Argument(metavar="ESTIMATOR", help="A registered name, such as ppo.")
    ],
    *,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="A hyper-parameter, such as clip=0.1; repeatable."
        ),
    ] = None,
    as_latex: Annotated[
        bool, typer.Option("--latex", help="Print LaTeX, to paste where amsmath is loaded.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: text and LaTeX of each.")
    ] = False,
) -> None:
    """Differentiate an estimator's surrogate symbolically and print the closed forms.

    There is one for each quantity of the policy. In text the names are those of the surrogate's
    keywords; a is any one action. In LaTeX they are the field's: log pi, A, R, V, H. Cotangents that
    the estimator writes itself are compared with these; the exit status is 1 where one departs.
    """
    if as_latex and as_json:
        raise typer.BadParameter("expected --latex or --json, got both; choose one")
    derivation = derivation_of(name, assignments or [])
    write = latex_of if as_latex else json_of if as_json else text_of
    sys.stdout.write(write(derivation))
    # The closed form is not all of such an estimator's gradient.
    if isinstance(derivation.estimator, ScoreEstimator):
        sys.stderr.write(
            f"note: {name} weighs scores under these hyper-parameters; "
            "its gradient is the result of `combine`\n"
        )
    errors = [*departures(derivation.estimator)]
    for line in errors:
        sys.stderr.write(f"error: {line}\n")
    if errors:
        raise typer.Exit(1)


def derivation_of(name: str, assignments: list[str]) -> Derivation:
    """Return the derivation of a registered estimator with these `field=value` assignments."""
    # The import loads SymPy, which bad options need not wait for.
    from pgcore_derive.derivation import derive

    cls = cast("type", registry().load("estimators", name))
    return derive(api.estimator(name, **without_none(cls, nested(read_assignments(assignments)))))


def departures(estimator: Estimator) -> Iterator[str]:
    """Yield a line for each cotangent that an estimator writes itself and that is not derived."""
    from pgcore_derive.differences import LIMIT, differences

    if type(estimator).cotangents is Estimator.cotangents:
        return
    for quantity, distance in differences(estimator).items():
        if not distance <= LIMIT:
            yield (
                f"{estimator.name}.cotangents[{quantity!r}]: expected the derivative of the "
                f"surrogate, got one {distance:.3g} away; correct it, or leave cotangents out"
            )


def text_of(derivation: Derivation) -> str:
    """Return the surrogate and each derivative in text."""
    sections = {"surrogate": derivation.surrogate_text}
    for name, text in derivation.text.items():
        sections[f"d surrogate / d {name}"] = text
    return "".join(
        f"{title} =\n{textwrap.indent(text, '    ')}\n\n" for title, text in sections.items()
    )


def latex_of(derivation: Derivation) -> str:
    """Return the surrogate and each derivative as one aligned display."""
    symbols = derivation.symbols
    rows = [rf"\ell &= {derivation.surrogate_latex}"]
    for name, latex in derivation.latex.items():
        rows.append(rf"\frac{{\partial \ell}}{{\partial {symbols[name]}}} &= {latex}")
    # The comment tells a reader of the paste which package it needs.
    head = f"% {derivation.estimator.name}; \\usepackage{{amsmath}}\n\\begin{{align*}}\n"
    return head + " \\\\\n".join(f"  {row}" for row in rows) + "\n\\end{align*}\n"


def json_of(derivation: Derivation) -> str:
    """Return all texts, formulas and symbols as JSON."""
    latex, symbols = derivation.latex, derivation.symbols
    cotangents = {
        name: {"text": text, "latex": latex[name], "symbol": symbols[name]}
        for name, text in derivation.text.items()
    }
    document = {
        "estimator": derivation.estimator.name,
        "surrogate": {"text": derivation.surrogate_text, "latex": derivation.surrogate_latex},
        "cotangents": cotangents,
    }
    return json.dumps(document, indent=1) + "\n"
