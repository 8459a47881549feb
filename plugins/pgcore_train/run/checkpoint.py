"""Checkpoints: the state of a run in one safetensors file."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pgcore.data import files
from pgcore.errors import FileError
from pgcore.interfaces.estimator import Estimator
from pgcore.validation.arrays import Array
from pgcore_train.config.config import Layer
from pgcore_train.run.history import History

__all__ = ["Checkpoint", "checkpoint_files", "find_checkpoint", "generator_state"]
__all__ += ["has_checkpoint", "load_checkpoint", "restore_generator", "updates_of"]

# Marks the file in its metadata, so that a saved policy is no checkpoint by mistake.
FORMAT = "pgcore.checkpoint"

KEPT = 3  # checkpoints in a run's folder


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run's state between two updates.

    An environment is saved as the seed and the actions of its episode, which a resumed run plays
    again.

    Attributes:
        config: The run's configuration as plain data.
        policy: Parameters by canonical name.
        optimizer: From `Optimizer.state`.
        optimizer_steps: Number of its steps.
        estimator: Fields of the estimator that its `adapted` changed.
        normalisers: State of each normaliser by name.
        random: State of the random generator, arrays by name.
        history: Counters and finished episodes.
        replay: State of the replay buffer; empty for none.
        target: Parameters of the target policy by canonical name; empty for none.
        rollouts: From `Rollouts.moment`; empty before the first rollout.
    """

    config: Layer
    policy: dict[str, Array]
    optimizer: dict[str, Array]
    optimizer_steps: int
    estimator: dict[str, float]
    normalisers: dict[str, dict[str, Array]]
    random: dict[str, Array]
    history: History
    replay: dict[str, Array] = field(default_factory=dict)
    target: dict[str, Array] = field(default_factory=dict)
    rollouts: dict[str, Array] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            FileError: the file cannot be written.
        """
        history = self.history
        groups: dict[str, Mapping[str, Array]] = {
            "policy": self.policy,
            "optimizer": self.optimizer,
            "random": self.random,
            "replay": self.replay,
            "target": self.target,
            "rollouts": self.rollouts,
            "episodes": {
                "returns": np.array(history.returns, np.float64),
                "finished_at": np.array(history.finished_at, np.int64),
            },
            **{f"normaliser.{name}": state for name, state in self.normalisers.items()},
        }
        # A safetensors file is flat: groups become prefixes.
        arrays: dict[str, Array] = {}
        for group, values in groups.items():
            arrays |= {f"{group}:{name}": value for name, value in values.items()}
        counters = {
            "updates": history.updates,
            "steps": history.steps,
            "seconds": history.seconds,
            "skipped": history.skipped,
            "shrunk": history.shrunk,
            "optimizer_steps": self.optimizer_steps,
        }
        texts = {"config": self.config, "counters": counters, "estimator": self.estimator}
        files.write(
            path, FORMAT, arrays, {name: json.dumps(value) for name, value in texts.items()}
        )


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the places of a run's checkpoints, the latest first."""
    earlier = [folder / f"checkpoint-{age}.safetensors" for age in range(1, KEPT)]
    return [folder / "checkpoint.safetensors", *earlier]


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Return the checkpoint of a file, or the latest sound one of a run's folder.

    See `find_checkpoint`.
    """
    return find_checkpoint(path)[1]


def find_checkpoint(path: str | Path) -> tuple[Path, Checkpoint]:
    """Return a checkpoint's file and its content: the file itself, or a folder's latest sound one.

    A damaged one in a folder is told on stderr, and the one before it used.

    Raises:
        FileError: there is none, or the file is not a checkpoint.
    """
    place = Path(path)
    if not place.is_dir():
        return place, read_checkpoint(place)
    problem = None
    for file in checkpoint_files(place):
        if problem is not None and not file.exists():
            continue
        try:
            checkpoint = read_checkpoint(file)
        except FileError as error:
            problem = problem or error
            continue
        if problem is not None:
            sys.stderr.write(f"{problem}\ngoing on from the one before it, {file}\n")
        return file, checkpoint
    assert problem is not None
    raise problem


def has_checkpoint(path: Path) -> bool:
    """Return whether a file is a checkpoint, or a folder has one, be it a damaged one."""
    if path.is_dir():
        return any(file.exists() for file in checkpoint_files(path))
    return updates_of(path) is not None


def read_checkpoint(file: Path) -> Checkpoint:
    """Return the checkpoint of a file; see `load_checkpoint`."""
    # An empty group has no prefix in the file, hence `get` below.
    arrays, metadata = files.read(file, FORMAT)
    groups: dict[str, dict[str, Array]] = {}
    for name, value in arrays.items():
        group, _, key = name.partition(":")
        groups.setdefault(group, {})[key] = value
    normalisers: dict[str, dict[str, Array]] = {}
    for group, state in groups.items():
        if group.startswith("normaliser."):
            normalisers[group.partition(".")[2]] = state
    # The metadata says `FORMAT`, so a part that lacks or does not parse is another version's.
    try:
        counters = json.loads(metadata["counters"])
        episodes = groups["episodes"]
        return Checkpoint(
            config=json.loads(metadata["config"]),
            policy=groups["policy"],
            optimizer=groups.get("optimizer", {}),
            optimizer_steps=counters.pop("optimizer_steps"),
            estimator=json.loads(metadata["estimator"]),
            normalisers=normalisers,
            random=groups["random"],
            history=History(
                **counters,
                returns=episodes["returns"].tolist(),
                finished_at=episodes["finished_at"].tolist(),
            ),
            replay=groups.get("replay", {}),
            target=groups.get("target", {}),
            rollouts=groups.get("rollouts", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{file}: expected a checkpoint that this version wrote, got one that lacks {error}; "
            "train anew"
        ) from error


def updates_of(file: Path) -> int | None:
    """Return the number of updates of a checkpoint; None for a file that is not one."""
    try:
        return int(json.loads(files.read_texts(file, FORMAT)["counters"])["updates"])
    except (FileError, KeyError, TypeError, ValueError):
        return None


def adapted_fields(configured: Estimator, current: Estimator) -> dict[str, float]:
    """Return the current estimator's fields that differ from the configured one's."""
    before, after = vars(configured), vars(current)
    instance: Any = configured
    names = [field.name for field in dataclasses.fields(instance)]
    return {name: after[name] for name in names if before[name] != after[name]}


def generator_state(rng: np.random.Generator) -> dict[str, Array]:
    """Return the state of a Philox generator as arrays."""
    state: Any = rng.bit_generator.state
    # Philox's place in its buffer, and the unused half of a 64-bit word.
    scalars = [state["buffer_pos"], state["has_uint32"], state["uinteger"]]
    return {**state["state"], "buffer": state["buffer"], "rest": np.array(scalars, np.uint64)}


def restore_generator(rng: np.random.Generator, arrays: Mapping[str, Array]) -> None:
    """Continue a Philox generator from a state that `generator_state` returned."""
    state: Any = rng.bit_generator.state
    position, has_uint32, uinteger = (int(value) for value in arrays["rest"])
    inner = {"counter": arrays["counter"], "key": arrays["key"]}
    rng.bit_generator.state = state | {
        "state": inner,
        "buffer": arrays["buffer"],
        "buffer_pos": position,
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
