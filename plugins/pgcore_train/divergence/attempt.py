"""Files of one attempted step: a batch with its estimator, and maybe its signals and its optimizer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pgcore.api import optimizer
from pgcore.data import files
from pgcore.data.batch import Batch
from pgcore.data.episodes import BESIDE, saved_arrays
from pgcore.errors import FileError
from pgcore.interfaces.optimizer import Optimizer
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import Signals
from pgcore.validation.arrays import Array

__all__ = ["Attempt", "OptimizerState", "load_attempt"]

# Names of arrays beside those of the batch, and of texts.
SIGNAL, SLOT, WEIGHTS, REAL = "signal.", "slot.", "weights", "real"
ESTIMATOR, BACKEND, PADDED, OPTIMIZER = "estimator", "backend", "padded", "optimizer"


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer between two steps, as plain data.

    Attributes:
        name: The registered one.
        fields: Its hyper-parameters; a schedule is the rate of the next step.
        steps_taken: Before the next step.
        slots: See `Optimizer.state`.
    """

    name: str
    fields: Mapping[str, Any]
    steps_taken: int
    slots: Mapping[str, Array]

    @staticmethod
    def of(source: Optimizer, policy: Policy) -> OptimizerState | None:
        """Return the state of an optimizer; None if a hyper-parameter is no plain value."""
        spec = source.spec
        fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
        if "learning_rate" in fields and hasattr(spec, "rate"):
            fields["learning_rate"] = spec.rate(source.steps_taken)
        if not all(isinstance(value, str | int | float | None) for value in fields.values()):
            return None
        return OptimizerState(spec.name, fields, source.steps_taken, source.state(policy))

    def restored(self, policy: Policy) -> Optimizer:
        """Return the optimizer, bound to a policy."""
        result = optimizer(self.name, **self.fields)
        result.load(policy, self.slots, self.steps_taken)
        return result


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The origin of a step, beside its policy.

    Attributes:
        batch: The batch; of one that cannot be made, such as one with NaN for a reward, its arguments
            by name.
        estimator: Name and hyper-parameters; empty in a file that holds a batch alone.
        backend: The registered name; empty in a file that holds a batch alone.
        signals: Those of the batch, or None where they could not be computed.
        optimizer: Where the step itself failed, else None.
    """

    batch: Batch | Mapping[str, Any]
    estimator: Mapping[str, Any] = field(default_factory=dict)
    backend: str = ""
    signals: Signals | None = None
    optimizer: OptimizerState | None = None

    def save(self, path: str | Path) -> None:
        """Write a file that `load_attempt` and `pgcore.Batch.load` read.

        Raises:
            FileError: the file cannot be written.
        """
        texts = {ESTIMATOR: json.dumps(self.estimator), BACKEND: self.backend}
        arrays: dict[str, Array] = {}
        if (signals := self.signals) is not None:
            arrays |= {f"{SIGNAL}{name}": np.asarray(x) for name, x in signals.values.items()}
            arrays[WEIGHTS] = np.asarray(signals.weights)
            if signals.real is not None:
                arrays[REAL] = signals.real
            texts[PADDED] = json.dumps(signals.padded)
        if (state := self.optimizer) is not None:
            arrays |= {f"{SLOT}{name}": value for name, value in state.slots.items()}
            plain = {"name": state.name, "fields": state.fields, "steps_taken": state.steps_taken}
            texts[OPTIMIZER] = json.dumps(plain)
        if isinstance(self.batch, Batch):
            self.batch.save(path, beside=arrays, texts=texts)
            return
        # Numbers that a batch refuses are written as they are, for `Batch.load` to refuse again.
        others = {f"{BESIDE}{name}": value for name, value in arrays.items()}
        files.write(path, Batch.file_format, saved_arrays(self.batch) | others, texts)


def load_attempt(path: str | Path) -> Attempt:
    """Return the attempt of a file, or the batch alone of one that `pgcore.Batch.save` wrote.

    Raises:
        FileError: the file cannot be read, or is no batch.
        BatchError: the batch cannot be made; of a batch that the guard refused, the same error.
    """
    batch = Batch.load(path)
    arrays, texts = files.read(path, Batch.file_format)
    beside = {name.removeprefix(BESIDE): x for name, x in arrays.items() if name.startswith(BESIDE)}
    try:
        state = json.loads(texts[OPTIMIZER]) if OPTIMIZER in texts else None
        return Attempt(
            batch=batch,
            estimator=dict(json.loads(texts.get(ESTIMATOR, "{}"))),
            backend=texts.get(BACKEND, ""),
            signals=read_signals(beside, texts, batch.num_steps),
            optimizer=state and OptimizerState(**state, slots=with_prefix(SLOT, beside)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{path}: expected a batch that this version wrote, got one with a part that cannot be "
            f"read ({error}); give --estimator to use the batch alone"
        ) from error


def read_signals(
    beside: Mapping[str, Array], texts: Mapping[str, str], steps: int
) -> Signals | None:
    """Return the signals of a file's arrays; raise ValueError unless each has a row a step."""
    if WEIGHTS not in beside:
        return None
    values, real = with_prefix(SIGNAL, beside), beside.get(REAL)
    for name, array in {**values, WEIGHTS: beside[WEIGHTS], REAL: real}.items():
        if array is not None and array.shape[:1] != (steps,):
            raise ValueError(f"{name} of shape {list(array.shape)} for {steps} steps")
    padded = bool(json.loads(texts[PADDED]))
    return Signals(values, beside[WEIGHTS], padded=padded, real=real)


def with_prefix(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
