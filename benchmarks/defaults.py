"""Greedy returns after training with default settings, pgcore's beside stable-baselines3's.

Each cell is one run: an environment, a learner and a seed, with equal environment steps for every
learner. pgcore trains with its NumPy backend; stable-baselines3 with one environment, as its own
defaults have it. Both are evaluated by the same code, on 100 episodes of the most probable actions.
pgcore uses the masks of actions that Taxi gives; stable-baselines3's three have none. Finished cells
are lines of a file, so the script may be stopped and started again.

    OMP_NUM_THREADS=1 python benchmarks/defaults.py [--environments CartPole-v1 --learners ppo 'SB3 PPO']
    python benchmarks/defaults.py --tabulate [--picture docs/images/defaults.svg]

It needs `pip install '.[peers]' 'gymnasium[box2d]'`; a learner or environment that is not installed
is left out with a line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from rich.console import Console
from rich.progress import Progress, TextColumn

from pgcore import Categorical, DiagonalGaussian
from pgcore.errors import EstimatorError, SpecError, UnsupportedEnvironmentError
from pgcore_train.config.config import RunConfig
from pgcore_train.rollout.environments import make_environments
from pgcore_train.rollout.evaluation import evaluate
from pgcore_train.training import Ending, Training

# Environment steps, all environments together: a first try on such a task.
STEPS = {
    "CartPole-v1": 50_000,
    "Acrobot-v1": 50_000,
    "Pendulum-v1": 50_000,
    "MountainCarContinuous-v0": 50_000,
    "FrozenLake-v1": 50_000,
    "CliffWalking-v1": 50_000,
    "Taxi-v4": 50_000,
    "LunarLander-v3": 50_000,
}
ESTIMATORS = ("ppo", "a2c", "actor_critic", "reinforce", "trpo", "q_learning")
PEERS = {"SB3 PPO": "PPO", "SB3 A2C": "A2C", "SB3 DQN": "DQN"}
RANDOM = "random"
OURS, THEIRS = "#0072B2", "#D55E00"  # colours that colour-blind readers can tell apart
SEEDS = range(5)

# Evaluation: episodes, and the steps after which an endless one counts with its return so far.
EPISODES, LIMIT = 100, 1_000
# Entropy of the evaluation's episodes, apart from those of training.
EVALUATION = (1_000_003,)


@dataclass(frozen=True)
class Cell:
    """One run: an environment by its name, a learner, a seed and environment steps."""

    environment: str
    learner: str
    seed: int
    steps: int


class Player:
    """A function of observations in the form that `evaluate` plays."""

    def __init__(self, act: Any, *, discrete: bool) -> None:
        """Take a function from [N, ...] observations to [N, ...] actions of the environment."""
        self._act = act
        # The head stands for actions that the environment takes as they are.
        self.spec = SimpleNamespace(head=Categorical(2) if discrete else DiagonalGaussian(1))

    def mode(self, observations: Any, action_mask: Any = None) -> Any:
        """Return the actions, whatever the mask."""
        return self._act(observations)


def play(cell: Cell, policy: Any, normalise: Any = None) -> float:
    """Return the mean return of a policy's greedy episodes."""
    environments = make_environments(cell.environment, EPISODES, entropy=EVALUATION)
    try:
        return float(evaluate(policy, environments, normalise=normalise, limit=LIMIT).mean())
    finally:
        environments.close()


def train_estimator(cell: Cell) -> float:
    """Train an estimator of pgcore with default settings.

    Raises:
        EstimatorError: it does not fit the environment.
        SpecError: it has no policy for the environment.
        UnsupportedEnvironmentError: it needs whole episodes, and one does not end.
    """
    layer = {
        "environment": {"name": cell.environment},
        "estimator": {"name": cell.learner},
        "run": {"backend": "numpy", "seed": cell.seed, "steps": cell.steps},
    }
    training = Training(RunConfig.of(layer))
    try:
        # A run takes signals for its own end; a cell that one cut short is none.
        if training.run(lambda _: None) is Ending.INTERRUPT:
            raise KeyboardInterrupt
        return play(cell, training.policy, training.observations)
    finally:
        training.close()


def train_peer(cell: Cell) -> float:
    """Train an algorithm of stable-baselines3 with its default settings."""
    # Not installed where the types are checked.
    peers, torch = import_module("stable_baselines3"), import_module("torch")
    torch.set_num_threads(1)
    environment = gymnasium.make(cell.environment)
    algorithm = getattr(peers, PEERS[cell.learner])
    model = algorithm("MlpPolicy", environment, seed=cell.seed, device="cpu")
    model.learn(cell.steps)
    environment.close()
    discrete = isinstance(environment.action_space, Discrete)
    return play(
        cell, Player(lambda seen: model.predict(seen, deterministic=True)[0], discrete=discrete)
    )


def play_randomly(cell: Cell) -> float:
    """Play uniformly random actions."""
    space = gymnasium.make(cell.environment).action_space
    space.seed(cell.seed)
    draw = lambda seen: np.array([space.sample() for _ in seen])  # noqa: E731 - a policy
    return play(cell, Player(draw, discrete=isinstance(space, Discrete)))


def run(cell: Cell) -> float | None:
    """Return a cell's mean return; None where learner and environment do not fit."""
    if cell.learner == RANDOM:
        return play_randomly(cell)
    if cell.learner not in PEERS:
        try:
            return train_estimator(cell)
        except (EstimatorError, SpecError, UnsupportedEnvironmentError):
            return None
    space = gymnasium.make(cell.environment).action_space
    # DQN lists the values of all actions.
    if cell.learner == "SB3 DQN" and not isinstance(space, Discrete):
        return None
    return train_peer(cell)


def read(path: Path) -> dict[Cell, float | None]:
    """Return the finished cells of a file; empty without one."""
    finished: dict[Cell, float | None] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            row = json.loads(line)
            cell = Cell(row["environment"], row["learner"], row["seed"], row["steps"])
            finished[cell] = row["mean_return"]
    return finished


def cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    """Yield the cells that the arguments ask for, one environment after the other."""
    for environment in arguments.environments:
        for learner in arguments.learners:
            for seed in arguments.seeds:
                yield Cell(environment, learner, seed, STEPS[environment])


def fill(arguments: argparse.Namespace) -> None:
    """Run the cells that are not finished, each a new line of the file."""
    arguments.cells.parent.mkdir(parents=True, exist_ok=True)
    finished = read(arguments.cells)
    waiting = [cell for cell in cells(arguments) if cell not in finished]
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[cell]}"))
    with Progress(*columns) as progress, arguments.cells.open("a") as handle:
        task = progress.add_task("training", total=len(waiting), cell="")
        for cell in waiting:
            progress.update(task, cell=f"{cell.environment} {cell.learner} {cell.seed}")
            started = time.process_time()
            mean = run(cell)
            row = {**vars(cell), "mean_return": mean}
            row["seconds"] = round(time.process_time() - started, 1)
            handle.write(json.dumps(row) + "\n")
            handle.flush()
            progress.advance(task)


def means(finished: dict[Cell, float | None], environment: str, learner: str) -> list[float]:
    """Return one mean return for each finished seed of an environment and a learner."""
    wanted = [Cell(environment, learner, seed, STEPS[environment]) for seed in SEEDS]
    values = [finished.get(cell) for cell in wanted]
    return [value for value in values if value is not None]


def number(value: float) -> str:
    """Return three significant digits, or a whole number from 100 on."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def entry(values: list[float]) -> str:
    """Return the mean over the seeds with the lowest and the highest."""
    if not values:
        return "-"
    return f"{number(statistics.mean(values))} ({number(min(values))}, {number(max(values))})"


def tabulate(arguments: argparse.Namespace) -> str:
    """Return the table of means, lowest and highest over the seeds, in Markdown."""
    finished = read(arguments.cells)
    lines = [
        "| learner | " + " | ".join(arguments.environments) + " |",
        "|---" * (1 + len(arguments.environments)) + "|",
        "| steps | " + " | ".join(f"{STEPS[name]:,}" for name in arguments.environments) + " |",
    ]
    for learner in arguments.learners:
        row = [entry(means(finished, name, learner)) for name in arguments.environments]
        lines.append(f"| {learner} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def draw(arguments: argparse.Namespace) -> None:
    """Write the picture of all seeds as SVG, the same bytes for the same numbers."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    finished = read(arguments.cells)
    learners = [name for name in arguments.learners if name != RANDOM]
    # Ids by a fixed salt and no date: the file changes only with its numbers.
    with mpl.rc_context({"svg.hashsalt": "pgcore", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10.0, 5.6), layout="constrained")
        panels = figure.subplots(
            2, -(-len(arguments.environments) // 2), sharey=True, squeeze=False
        )
        for axes, environment in zip(panels.flat, arguments.environments, strict=False):
            for row, learner in enumerate(learners):
                returns = means(finished, environment, learner)
                colour = THEIRS if learner in PEERS else OURS
                axes.plot(returns, [row] * len(returns), "o", color=colour, alpha=0.45, zorder=3)
                if returns:
                    axes.plot([statistics.mean(returns)], [row], "|", color=colour, ms=16, mew=2.2)
            low, high = axes.get_xlim()
            by_chance = statistics.mean(means(finished, environment, RANDOM) or [low])
            if by_chance >= low - (high - low):
                axes.axvline(by_chance, color="#999999", linestyle=(0, (4, 3)), linewidth=1.0)
            axes.set_title(environment, loc="left", fontsize=10)
            axes.set_xlabel(f"mean return (random: {number(by_chance)})")
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
            axes.set_yticks(range(len(learners)), learners)
            axes.grid(color="#e5e5e5", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0, 0].invert_yaxis()
        FigureCanvasSVG(figure).print_svg(str(arguments.picture), metadata={"Date": None})


def installed(name: str) -> bool:
    """Return whether an environment is registered and its packages are there."""
    try:
        gymnasium.make(name).close()
    except gymnasium.error.Error as error:
        Console(stderr=True).print(f"{name} is left out: {error}")
        return False
    return True


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environments", nargs="+", default=list(STEPS), choices=STEPS)
    learners = (*ESTIMATORS, *PEERS, RANDOM)
    parser.add_argument("--learners", nargs="+", default=list(learners))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--cells", type=Path, default=Path("runs/defaults/cells.jsonl"))
    parser.add_argument("--tabulate", action="store_true", help="train nothing")
    parser.add_argument("--picture", type=Path, help="SVG file of every seed's return")
    arguments = parser.parse_args()
    if not arguments.tabulate:
        arguments.environments = [*filter(installed, arguments.environments)]
        if find_spec("stable_baselines3") is None:
            Console(stderr=True).print("stable-baselines3 is left out: it is not installed")
            arguments.learners = [name for name in arguments.learners if name not in PEERS]
        fill(arguments)
    if arguments.picture is not None:
        draw(arguments)
    print(tabulate(arguments))


if __name__ == "__main__":
    main()
