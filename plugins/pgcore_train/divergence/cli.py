"""The command `pgcore gradient`; heavy imports wait until the arguments are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["gradient"]


def gradient(
    *,
    policy: Annotated[Path, typer.Option(help="A file of Policy.save.", show_default=False)],
    batch: Annotated[
        Path, typer.Option(help="A file of Batch.save, or of a diverged run.", show_default=False)
    ],
    target: Annotated[
        Path | None,
        typer.Option(
            help="The target policy's file; the policy itself by default.", show_default=False
        ),
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(help="Which estimator; that beside the batch by default.", show_default=False),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A hyper-parameter of the estimator, such as clip=0.1; repeatable.",
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Which backend; that beside the batch by default.", show_default=False),
    ] = None,
) -> None:
    """Print loss, metrics and gradient norms of a policy on a batch, or the error that they end in.

    A batch that `pgcore train` wrote at a number that was not finite has its estimator, its signals and,
    where the step itself failed, the optimizer, with which the step is taken again.
    """
    from pgcore_train.divergence.command import run_gradient

    run_gradient(
        policy,
        batch,
        target=target,
        name=estimator,
        assignments=assignments or (),
        backend=backend,
    )
