import pytest
import typer

import pgcore as pg
from pgcore.cli.app import application

NAMES = """
    Backend Batch Bernoulli Categorical Claims Clip ConstantDivisor ConstantSchedule Conv CosineSchedule Derivation DiagonalGaussian
    Episodes EpsilonGreedy Estimator Extra GAE Gradient GroupMean GroupRelative Head KL LinearSchedule Linear MLP MultiCategorical Optimizer
    OptimizerSpec PgcoreError Policy PolicySpec Reduction Returns Schedule Signals SquashedGaussian StepSum Table Totals WeightedSteps
    backend check compare compare_policies derive estimator generator gradient load loss optimizer policy register signals
"""

# Arguments in capitals, then options; a command's options are part of what users' scripts hold.
COMMANDS = {
    "list": "KINDS --json",
    "doctor": "--json --quick",
    "check": "--backends --estimators --heads --optimizers --set --case --quick --full --processes --json --html",
    "audit": "ESTIMATOR --set --all --penalties --states --actions --horizon --seed --batch --time-in-state --json --picture",
    "gradient": "--policy --batch --target --estimator --set --backend",
    "new": "KIND NAME --folder",
    "derive": "NAME --set --latex --json",
    "train": """
        ENVIRONMENT --estimator --backend --network --seed --dtype --steps --envs --processes --no-processes --stop-at --evaluation-episodes
        --normalise-observations --no-normalise-observations --normalise-rewards --no-normalise-rewards
        --out --resume --config --extras --set
    """,
}


def words_of(command):
    """Return a command's arguments in capitals and its options."""
    group = typer.main.get_command(application(command))
    for parameter in group.commands[command].params:  # pyright: ignore[reportAttributeAccessIssue]
        if parameter.param_type_name == "argument":
            yield parameter.name.upper()
        else:
            yield from (*parameter.opts, *parameter.secondary_opts)


def test_the_public_names_stay():
    assert set(pg.__all__) == set(NAMES.split())
    assert len(pg.__all__) == len(NAMES.split())
    assert all(getattr(pg, name) is not None for name in NAMES.split())


def test_the_commands_stay():
    assert set(typer.main.get_command(application(None)).commands) == set(COMMANDS)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_a_command_stay(command):
    assert set(words_of(command)) - {"--help"} == set(COMMANDS[command].split())
