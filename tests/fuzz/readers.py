"""Every reader of a file, a valid file for each, and the rule: a result or an error of pgcore's."""

import json
import tempfile
from pathlib import Path

import numpy as np

import pgcore as pg
from pgcore.data import files
from pgcore.errors import PgcoreError
from pgcore_train.config.config import RunConfig, read_assignments, read_toml
from pgcore_train.run.checkpoint import Checkpoint, generator_state, read_checkpoint
from pgcore_train.run.history import History
from pgcore_train.run.metrics import update_of

SPEC = pg.PolicySpec(pg.MLP(2, (3,)), pg.Categorical(2), "separate")


def spec_of_text(path):
    """Read a spec, as a policy's file holds it."""
    return pg.PolicySpec.from_json(path.read_text(encoding="utf-8", errors="surrogateescape"))


def settings_of(path):
    """Read the settings of a run."""
    return RunConfig.of(read_toml(path))


def settings_of_words(path):
    """Read settings as the command line has them, one a line."""
    words = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return RunConfig.of({"environment": {"name": "x"}, **read_assignments(words)})


def updates_of(path):
    """Read the updates of a run's metrics."""
    return [update_of(line) for line in path.read_bytes().splitlines(keepends=True)]


READERS = {
    "policy": pg.load,
    "batch": pg.Batch.load,
    "episodes": pg.Episodes.load,
    "checkpoint": read_checkpoint,
    "arrays": lambda path: files.read(path, "fuzz"),
    "spec": spec_of_text,
    "settings": settings_of,
    "assignments": settings_of_words,
    "metrics": updates_of,
}


def write_seed(name, path):
    """Write a valid file of a reader."""
    if name == "policy":
        pg.policy(SPEC).save(path)
    elif name == "batch":
        steps = {"observations": np.ones((3, 2)), "actions": [0, 1, 0], "rewards": np.ones(3)}
        ends = {"episode_lengths": [1, 2], "terminated": [True, False]}
        extras = {"group": [0, 1, 1]}
        pg.Batch(**steps, **ends, final_observations=np.ones((2, 2)), extras=extras).save(path)
    elif name == "episodes":
        rewards, mask = np.ones((2, 2)), [[True, True], [True, False]]
        pg.Episodes.from_padded(rewards=rewards, mask=mask).save(path)
    elif name == "checkpoint":
        policy = pg.policy(SPEC)
        Checkpoint(
            config={"estimator": {"name": "ppo"}},
            policy=policy.parameters(),
            optimizer=pg.optimizer("adam", learning_rate=0.1).state(policy),
            optimizer_steps=3,
            estimator={"clip": 0.1},
            normalisers={},
            random=generator_state(pg.generator(0)),
            history=History(),
            replay={},
            target={},
        ).save(path)
    elif name == "arrays":
        files.write(path, "fuzz", {"a": np.eye(2), "b": np.array([True])}, {"note": "text"})
    else:
        path.write_text(TEXTS[name], encoding="utf-8")


TEXTS = {
    "spec": SPEC.to_json(),
    "settings": RunConfig.of(
        {
            "environment": {"name": "CartPole-v1"},
            "estimator": {"name": "ppo", "clip": 0.1},
            "network": {"hidden": [8, 4]},
            "run": {"seed": 3, "out": "runs/x"},
        }
    ).to_toml(),
    "assignments": "estimator.clip=0.1\nnetwork.hidden=[8, 4]\nrun.out=x\nhead.log_std=none\n",
    "metrics": "".join(json.dumps({"update": k, "loss": 0.5 * k}) + "\n" for k in range(3)),
}


def seed_of(name):
    """Return the bytes of a valid file of a reader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write_seed(name, path)
        return path.read_bytes()


def read(name, content, path):
    """Return a reader's result of a file with this content, None where an error of pgcore's refuses it.

    Any other error goes through: it is a fault of the reader.
    """
    path.write_bytes(content)
    try:
        return READERS[name](path)
    except PgcoreError as error:
        text = str(error)
    assert ": expected " in text, text
    assert ", got " in text, text
    return None
