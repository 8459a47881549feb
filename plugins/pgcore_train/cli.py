"""The command `pgcore train`; heavy imports wait until the arguments are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["train"]


def integer(text: str) -> int:
    """Return an integer, also one that is written as 1e6; its name is that of the type in the help."""
    if "e" not in text.lower():
        return int(text)
    if not (number := float(text)).is_integer():
        raise ValueError(f"expected a whole number, got {text}")
    return int(number)


def train(
    environment: Annotated[
        str | None,
        typer.Argument(
            metavar="ENV", help="A Gymnasium environment, such as CartPole-v1.", show_default=False
        ),
    ] = None,
    *,
    estimator: Annotated[
        str | None, typer.Option(help="Which estimator; ppo by default.", show_default=False)
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Which backend; PGCORE_BACKEND, else numpy, by default.", show_default=False
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|MODULE:FUNCTION",
            help="A registered network, or a function that makes one of your own.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(parser=integer, help="Seeds everything; 0 by default.", show_default=False),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float64.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            parser=integer,
            help="Environment steps to train for; 100000 by default.",
            show_default=False,
        ),
    ] = None,
    envs: Annotated[
        int | None,
        typer.Option(
            parser=integer, help="Environments side by side; 8 by default.", show_default=False
        ),
    ] = None,
    processes: Annotated[
        bool | None,
        typer.Option(help="A process for each environment.", show_default=False),
    ] = None,
    stop_at: Annotated[
        float | None,
        typer.Option(
            help="Stop when the last 20 episodes' mean return is this; exit 1 if it never is.",
            show_default=False,
        ),
    ] = None,
    evaluation_episodes: Annotated[
        int | None,
        typer.Option(
            parser=integer,
            help="Episodes to play after training; 10 by default.",
            show_default=False,
        ),
    ] = None,
    normalise_observations: Annotated[
        bool | None, typer.Option(help="Running normalisation of observations.", show_default=False)
    ] = None,
    normalise_rewards: Annotated[
        bool | None, typer.Option(help="Running scaling of rewards.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results; runs/ENV-ESTIMATOR-SEED-n by default.", show_default=False
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on from this checkpoint, or this run's folder.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file with a table for each section.", show_default=False),
    ] = None,
    extras: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODULE:FUNCTION",
            help="A function of a rollout's batch for an extra of the estimator; repeatable.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Any setting, such as estimator.clip=0.1; repeatable.",
        ),
    ] = None,
) -> None:
    """Train a policy on a Gymnasium environment: progress, metrics, a picture and a checkpoint.

    Settings come from --config, then the options, then --set; later ones win.
    """
    # `pgcore --help` and a mistyped option need neither NumPy nor Gymnasium.
    from pgcore_train.command import run_command
    from pgcore_train.config.config import read_extras, read_network

    # The options by section and key of a configuration file; all others come through --set.
    options: dict[str, dict[str, Any]] = {
        "environment": {"name": environment},
        "estimator": {"name": estimator},
        "run": {
            "backend": backend,
            "seed": seed,
            "dtype": dtype,
            "steps": steps,
            "stop_at": stop_at,
            "out": None if out is None else str(out),
            "evaluation_episodes": evaluation_episodes,
        },
        "rollout": {
            "envs": envs,
            "processes": processes,
            "normalise_observations": normalise_observations,
            "normalise_rewards": normalise_rewards,
        },
        "network": read_network(network),
        "extras": {**read_extras(extras or [])},
    }
    # An absent option must not override the file or the checkpoint.
    layer: dict[str, dict[str, Any]] = {}
    for section, values in options.items():
        layer[section] = {key: value for key, value in values.items() if value is not None}
    status = run_command(layer, assignments or [], config=config, resume=resume)
    raise typer.Exit(status)
