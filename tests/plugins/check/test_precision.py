"""Signals that leave float64, at each place where they can, and honest ones that do not."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy import asarray
from strangers import ESTIMATORS, Dapo

import pgcore as pg
from pgcore.interfaces.evaluation import Evaluation
from pgcore.parts import Correction
from pgcore.returns import returns
from pgcore_check.cases.cases import NETWORKS, fits, make_case
from pgcore_check.proofs import variants
from pgcore_check.stages.precision import coarse_number

HEADS = variants("heads")
VARIANTS = variants("estimators")
SPECS = [
    pg.PolicySpec(NETWORKS["linear"], HEADS[head], "separate", values)
    for head, values in (
        ("categorical", "state"),
        ("categorical", "action"),
        ("categorical", "twin"),
        ("shared", "state"),
    )
] + [pg.PolicySpec(NETWORKS["linear"], HEADS["epsilon greedy"])]


def found(estimator, dtype="float64") -> Any:
    spec = next(spec for spec in SPECS if fits(estimator, spec))
    policy, batch = make_case(spec, "numpy", dtype, seed=7, padding=7)
    return coarse_number(estimator, batch, Evaluation(policy, batch))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("label", VARIANTS)
def test_no_built_in_estimator_leaves_float64(label, dtype):
    assert found(VARIANTS[label], dtype) is None


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda cls: cls.name)
def test_no_stranger_leaves_float64(estimator):
    assert found(estimator()) is None


def test_the_arrays_are_guarded_throughout():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Honest(Dapo):
        def signals(self, batch, evaluate):
            x, steps = batch.rewards, batch.num_steps
            whole = np.where(x > 0, x, 0.5 * x) ** 2 / (1 + np.arange(steps, dtype=np.int8))
            whole += batch.terminated[batch.episode_of_step] * batch.log_probs.astype(np.float64)
            whole[0] = max(float(whole[1]), 0.0)
            pieces = np.concatenate([whole[:3], np.clip(whole[3:], -1.0, 1.0)]) - whole.mean()
            pieces -= np.median(pieces) + np.sqrt(np.einsum("i,i->", pieces, pieces))
            parts = [returns(pieces, batch.episode_lengths, 0.9), np.full(steps, np.float64(2.0))]
            total = np.stack(parts, 1).sum(axis=1) * x.var() + pieces.cumsum() + pieces.max()
            seen.append(type(total).__name__)
            observed = np.asarray(np.ones((steps, 2), np.float32), np.float64)[:, 0]
            following = np.zeros(steps)
            for t in reversed(range(steps)):
                following[t] = x[t] + 0.9 * (following[t + 1] if t + 1 < steps else 0.0)
            np.add.at(following, batch.episode_starts, np.array([y.max() for y in pieces]).sum())
            total = np.ascontiguousarray(total) + following * observed
            seen.append(type(total).__name__)
            return {"advantage": np.asarray(total), "old_log_prob": batch.log_probs}

    assert found(Honest()) is None
    assert seen == ["Precise", "Precise"]


SINGLE: Any = np.float32(0.9)
COARSE = np.ones(30, np.float32)
PLANTED = {
    "constant": lambda x, batch: x * np.float32(0.9),
    "cast": lambda x, batch: x.astype(np.float32).astype(np.float64),
    "half": lambda x, batch: x + np.float16(0.1),
    "array": lambda x, batch: x + np.ones(len(x), np.float32),
    "ufunc's dtype": lambda x, batch: np.multiply(x, 0.9, dtype=np.float32, casting="unsafe"),
    "conversion": lambda x, batch: np.asarray(x, np.float32),
    "number": lambda x, batch: x - x[3] * np.float32(0.1),
    "mean's dtype": lambda x, batch: x - x.mean(dtype=np.float32),
    "factor of the library": lambda x, batch: returns(x, batch.episode_lengths, SINGLE),
    "result": lambda x, batch: np.float32(0.9) * returns(x, batch.episode_lengths, 1.0),
    "joined": lambda x, batch: np.concatenate([x[:1], np.zeros(len(x) - 1, np.float32)]),
    "chosen": lambda x, batch: np.where(x > 0, x, np.float32(0.1)),
    "plain array": lambda x, batch: np.asarray(x) * SINGLE,
    "copy": lambda x, batch: np.array([SINGLE * y for y in x.tolist()]) + np.array(x),
    "list": lambda x, batch: np.array([x[0] * 0.9, *([SINGLE] * (len(x) - 1))]),
    "cast and back": lambda x, batch: np.asarray(x, np.float32).astype(np.float64),
    "array to fill": lambda x, batch: np.zeros(len(x)) - SINGLE,
    "function alone": lambda x, batch: asarray(x) * SINGLE,
}


def filled(x, batch):
    total = np.empty(len(x))
    for t in range(len(x)):
        total[t] = SINGLE * float(x[t])
    return total


PLANTED["assignment"] = filled
# How far below its first line a function has its bug.
BELOW = {"assignment": 3}


@dataclasses.dataclass(frozen=True)
class Planted(Dapo):
    """One line that leaves float64."""

    bug: str = "constant"

    def signals(self, batch, evaluate):
        advantage = PLANTED[self.bug](batch.rewards, batch)
        return {"advantage": advantage, "old_log_prob": batch.log_probs}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_line_that_leaves_float64_is_named(bug):
    where, how = found(Planted(bug=bug))
    line = inspect.getsourcelines(PLANTED[bug])[1] + BELOW.get(bug, 0)
    assert where == f"s_dapo.signals, {__file__}:{line}"
    assert how.startswith("expected float64, got float")


@pytest.mark.parametrize("select", ["steps", "episodes"])
def test_the_arrays_of_a_part_on_a_device_are_guarded(select):
    @dataclasses.dataclass(frozen=True)
    class OfLogProbs(Dapo):
        def signals(self, batch, evaluate):
            return {"advantage": batch.log_probs * SINGLE, "old_log_prob": batch.log_probs}

    policy, batch = make_case(SPECS[0], "numpy", "float64", seed=7)
    batch.remember_device()
    part = getattr(batch, select)([1, 0])
    where, how = coarse_number(OfLogProbs(), part, Evaluation(policy, part)) or ("", "")
    assert where.startswith("s_dapo.signals")
    assert how == "expected float64, got float32 in multiply"


def test_a_coarse_result_that_is_returned_as_it_is_is_named():
    @dataclasses.dataclass(frozen=True)
    class Returned(Dapo):
        def signals(self, batch, evaluate):
            return {"advantage": COARSE, "old_log_prob": batch.log_probs}

    where, how = found(Returned())
    assert where.startswith(f"s_dapo.signals, {__file__}:")
    assert how == "expected float64, got float32 in the signal 'advantage'"


def test_a_function_of_another_module_of_the_package_is_guarded(monkeypatch):
    helper = ModuleType("precise_package.helper")
    source = "import numpy as np\ndef scaled(x):\n    return np.asarray(x) * np.float32(0.9)\n"
    exec(compile(source, "helper.py", "exec"), vars(helper))
    monkeypatch.setitem(sys.modules, helper.__name__, helper)

    @dataclasses.dataclass(frozen=True)
    class Helped(Dapo):
        def signals(self, batch, evaluate):
            advantage = vars(helper)["scaled"](batch.rewards)
            return {"advantage": advantage, "old_log_prob": batch.log_probs}

    monkeypatch.setattr(Helped, "__module__", "precise_package.estimator")
    assert found(Helped()) == (
        "s_dapo.signals, helper.py:3",
        "expected float64, got float32 in multiply",
    )
    assert vars(helper)["np"] is np


def test_the_modules_of_parts_are_guarded():
    @dataclasses.dataclass(frozen=True)
    class Rolled(Correction):
        name = "rolled"

        def weights(self, batch, evaluate, advantage):
            return np.asarray(advantage) * SINGLE

    where, _ = found(pg.estimator("policy_gradient", correction=Rolled()))
    assert where.startswith(f"policy_gradient.signals, {__file__}:")


def test_quantities_of_the_policy_are_guarded_too():
    @dataclasses.dataclass(frozen=True)
    class Valued(Dapo):
        def signals(self, batch, evaluate):
            values = evaluate.target("value")["value"] * np.float32(0.5)
            return {"advantage": values, "old_log_prob": batch.log_probs}

    assert found(Valued())[1] == "expected float64, got float32 in multiply"


def test_code_that_takes_no_subclass_is_not_accused():
    @dataclasses.dataclass(frozen=True)
    class Particular(Dapo):
        def signals(self, batch, evaluate):
            if type(batch.rewards) is not np.ndarray:
                raise TypeError("arrays of NumPy alone")
            return super().signals(batch, evaluate)

    assert found(Particular()) is None


def test_it_is_a_row_at_the_stage_of_the_signals():
    spec = SPECS[0]
    policy, batch = make_case(spec, "numpy", "float64", seed=7)
    row = pg.check(policy, Planted(), batch).divergences["numpy"]
    assert row.stage == "signals"
    assert row.where.startswith("s_dapo.signals, ")
    assert row.values == "expected float64, got float32 in multiply"
