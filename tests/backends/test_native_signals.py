"""Signals of arrays on an accelerator: computed there, and those of the host's arrays."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import pgcore as pg
from pgcore.data.native import arrays_of
from pgcore.interfaces.evaluation import Evaluation
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore_check.cases.cases import cases
from pgcore_check.proofs import variants
from pgcore_check.stages.function import PolicyNeededError, evaluations_of, rows_of

FRAMEWORKS = ("torch", "jax", "tensorflow")
ESTIMATORS = {
    label: estimator
    for label, estimator in variants("estimators").items()
    if not isinstance(estimator, ScoreEstimator)
}
# The steps that count in the gain's own denominator decide shapes, so [B] booleans are read.
OWN_DENOMINATOR = {label for label, e in ESTIMATORS.items() if e.own_denominator}
# NumPy's generator chooses among the steps that a condition holds for: the same.
AT_RANDOM = {
    label
    for label, e in ESTIMATORS.items()
    if any(getattr(part, "seed", None) is not None for part in getattr(e, "composition", ()))
}
FIELDS = ("rewards", "log_probs", "values", "discount")


@pytest.fixture(scope="module")
def examples():
    """A case of each variant in float64, with a batch and the evaluations that signals need."""
    result = {}
    for case in cases(("float64",)):
        label = next(name for name in ESTIMATORS if case.estimator is ESTIMATORS[name])
        if label in result:
            continue
        policy, batch = case.make("numpy")
        rng = np.random.default_rng(3)
        fields = {**batch.__dict__, "discount": rng.uniform(0.5, 1.0, batch.num_steps)}
        batch = pg.Batch.trusted(fields)
        with contextlib.suppress(PolicyNeededError):
            given = evaluations_of(case.estimator, batch, Evaluation(policy, batch))
            result[label] = case.estimator, batch, given
    return result


class Forced:
    """A framework whose arrays count as an accelerator's, and the arrays that it copies to the host."""

    def __init__(self, framework, dtype, monkeypatch):
        """Replace both methods."""
        module = pytest.importorskip("jax.numpy" if framework == "jax" else framework)
        convert = {"torch": "as_tensor", "jax": "asarray", "tensorflow": "convert_to_tensor"}
        self.convert, self.dtype = getattr(module, convert[framework]), dtype
        self.arrays = arrays_of(self.convert(np.zeros(1, np.float32)))
        self.copies = []
        self.host = type(self.arrays).host

        def counted(arrays, x):
            self.copies.append((tuple(x.shape), arrays.dtype(x)))
            return self.host(arrays, x)

        monkeypatch.setattr(type(self.arrays), "host", counted)
        monkeypatch.setattr(type(self.arrays), "resident", lambda *_: True)

    def native(self, x):
        """Return an array of the framework."""
        x = np.asarray(x)
        return self.convert((x.astype(self.dtype) if x.dtype.kind == "f" else x).copy())

    def steps_copied(self, *shapes):
        """Return the copies of arrays with one of these axes of steps."""
        return [
            copy for copy in self.copies if any(copy[0][: len(shape)] == shape for shape in shapes)
        ]


@pytest.fixture(params=FRAMEWORKS)
def forced(request, monkeypatch):
    """Return `Forced` of a dtype."""
    return lambda dtype: Forced(request.param, dtype, monkeypatch)


def flat_episodes(batch, make):
    """Return [B] episodes of a batch, by a function of its arrays."""
    fields = {name: getattr(batch, name) for name in FIELDS}
    extras = {name: make(value) for name, value in batch.extras.items()}
    return pg.Episodes(
        **{name: make(x) for name, x in fields.items() if x is not None},
        episode_lengths=make(batch.episode_lengths),
        terminated=make(batch.terminated),
        extras=extras,
    )


def padded_episodes(batch, make):
    """Return [E, T] episodes with holes that hold NaN."""
    layout = rows_of(batch)

    def row(x):
        return make(layout.spread(x, np.nan if x.dtype.kind == "f" else 0))

    fields = {name: getattr(batch, name) for name in FIELDS}
    return pg.Episodes.from_padded(
        **{name: row(x) for name, x in fields.items() if x is not None},
        mask=make(layout.steps),
        truncated=make(~batch.terminated),
        extras={name: row(value) for name, value in batch.extras.items()},
    )


def laid_out(episodes, given, make):
    """Return evaluations as the episodes are laid out."""
    layout = episodes.layout
    return {
        name: make(x if layout is None or "final_" in name else layout.spread(x, np.nan))
        for name, x in given.items()
    }


@pytest.mark.parametrize("label", ESTIMATORS)
def test_signals_and_loss_are_the_hosts_and_no_step_is_copied(forced, examples, label):
    if label not in examples:
        pytest.skip("its signals need a policy's scores")
    estimator, batch, given = examples[label]
    framework = forced("float64")
    arrays = framework.arrays
    with arrays.computing("float64"):
        for episodes_of in (flat_episodes, padded_episodes):
            host = episodes_of(batch, np.asarray)
            expected = pg.signals(estimator, host, **laid_out(host, given, np.asarray))
            episodes = episodes_of(batch, framework.native)
            evaluations = laid_out(host, given, framework.native)
            framework.copies.clear()
            signals = pg.signals(estimator, episodes, **evaluations)
            assert arrays.dtype(signals.weights) == "float64"
            copies = framework.steps_copied((batch.num_steps,), expected.shape)
            marks = [("bool",)] if label in OWN_DENOMINATOR | AT_RANDOM else []
            assert [copy[1:] for copy in copies] == marks, copies
            assert signals.values.keys() == expected.values.keys()
            for name, value in expected.values.items():
                found = framework.host(arrays, signals[name])
                np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-11, err_msg=name)
            found = framework.host(arrays, signals.weights)
            np.testing.assert_allclose(found, expected.weights, rtol=1e-12)
            assert (signals.real is None) == (expected.real is None)
