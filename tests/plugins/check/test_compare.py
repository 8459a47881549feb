"""`pg.compare`: what it reports, on backends that agree and on one that does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pgcore as pg
from pgcore import api
from pgcore.errors import BatchError, EstimatorError, SpecError, UnknownNameError
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.compare import STAGES, Report, Row, stages, worst
from pgcore_check.proofs import variants
from pgcore_check.stages.truth import Expected, Truth
from pgcore_estimators.preset_classes import PPO
from pgcore_numpy.backend import NumpyBackend
from pgcore_numpy.policy import NumpyPolicy
from pgcore_optimizers.first_order import Adam

ESTIMATORS = variants("estimators")
HEADS = variants("heads")

SPEC = pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "separate")


@pytest.fixture
def batch():
    return make_case(SPEC, "numpy", "float64", seed=50)[1]


class Halved(NumpyBackend):
    """Computes half of every gradient."""

    def policy(self, spec, **options):
        options.pop("compiled")
        return HalvedPolicy(self.name, spec, np.dtype(options["dtype"]), options["seed"])


class HalvedPolicy(NumpyPolicy):
    def gradient(self, surrogate):
        return super().gradient(surrogate).times(0.5)


def test_a_backend_that_agrees_is_within_the_rule_at_every_stage(batch):
    report = pg.compare(SPEC, ESTIMATORS["ppo"], batch, backends=["numpy"])
    assert report.agrees
    assert report.divergences == {}
    assert [row.stage for row in report.rows] == list(STAGES)
    assert all(0 <= row.ratio <= row.limit for row in report.rows)
    text = str(report)
    assert "numpy: agrees" in text
    assert all(stage in text for stage in STAGES)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_first_stage_that_departs_is_named(batch, monkeypatch, dtype):
    monkeypatch.setitem(api._backends, "halved", Halved())
    report = pg.compare(SPEC, ESTIMATORS["gae"], batch, backends=["numpy", "halved"], dtype=dtype)
    assert not report.agrees
    assert set(report.divergences) == {"halved"}
    first = report.divergences["halved"]
    assert first.stage == "gradient"
    assert first.ratio > 100
    assert f"halved: departs at gradient, in {first.where}" in str(report)
    before = STAGES[: STAGES.index("gradient")]
    assert all(row.agrees for row in report.rows if row.backend == "halved" and row.stage in before)


def test_parameters_and_optimizer_are_those_that_were_asked_for(batch):
    policy, _ = make_case(SPEC, "numpy", "float64", seed=51)
    for optimizer in ("sgd", "rmsprop"):
        assert pg.compare(
            SPEC,
            ESTIMATORS["reinforce"],
            batch,
            backends=["numpy"],
            parameters=policy.parameters(),
            optimizer=optimizer,
        ).agrees


def test_bad_input_is_refused(batch):
    with pytest.raises(UnknownNameError, match="numpi"):
        pg.compare(SPEC, ESTIMATORS["ppo"], batch, backends=["numpi"])
    with pytest.raises(EstimatorError, match="critic"):
        pg.compare(
            dataclasses.replace(SPEC, critic="none"), ESTIMATORS["ppo"], batch, backends=["numpy"]
        )
    assert pg.compare(
        SPEC, ESTIMATORS["ppo"], batch, backends=["numpy"], compiled=True
    ).agrees  # there is nothing to choose
    assert pg.compare(SPEC, ESTIMATORS["ppo"], batch, backends=[]).rows == ()
    with pytest.raises(SpecError, match="float16"):
        pg.compare(SPEC, ESTIMATORS["ppo"], batch, backends=["numpy"], dtype="float16")


def test_a_ratio_that_is_no_number_never_agrees():
    assert not Row("x", "gradient", float("nan"), "").agrees
    assert not Report((Row("x", "gradient", float("nan"), ""),)).agrees


@pytest.mark.parametrize(
    "found",
    [
        np.array([1.0, np.nan]),
        np.array([1.0, 2.0], np.float32),
        np.array([[1.0, 2.0]]),
        np.array([1.0, -np.inf]),
        None,
    ],
)
def test_nan_and_a_wrong_dtype_or_shape_are_infinitely_far(found):
    expected = {"a": Expected(np.array([1.0, 2.0], np.longdouble), np.ones(2, np.longdouble))}
    assert worst({} if found is None else {"a": found}, expected, np.dtype(np.float64))[0] == float(
        "inf"
    )


def test_the_worst_entry_is_named():
    expected = {
        "a": Expected(np.zeros((2, 2), np.longdouble), np.full((2, 2), 1e-3, np.longdouble)),
        "b": Expected(np.array([-np.inf, 0.0], np.longdouble), np.full(2, 1e-3, np.longdouble)),
    }
    found = {"a": np.array([[0.0, 0.0], [2e-3, 0.0]]), "b": np.array([-np.inf, 1e-3])}
    ratio, name, position = worst(found, expected, np.dtype(np.float64))
    assert (ratio, name, position) == (pytest.approx(2.0), "a", (1, 0))


def test_an_estimator_without_a_reference_implementation_is_held_to_its_own_surrogate(batch):
    @dataclasses.dataclass(frozen=True)
    class Stranger(PPO):
        name = "stranger"

        def finalise(self, signals, padding):
            return super().finalise(signals, padding)

    estimator = Stranger(clip=0.2, entropy_coefficient=0.01)
    policy, _ = make_case(SPEC, "numpy", "float64", seed=50)
    truth = Truth(SPEC, policy.parameters(), estimator, batch, Adam(1e-3), (1,))
    rows = list(stages(policy, truth, "numpy"))
    assert [row.stage for row in rows] == list(STAGES[: STAGES.index("1 step") + 1])
    assert all(row.agrees for row in rows)
    assert truth.signals == {}


def test_a_batch_without_a_declared_extra_is_refused(batch):
    bare = dataclasses.replace(ESTIMATORS["grpo"], kl_coefficient=0.0)
    fields = ("observations", "actions", "rewards", "episode_lengths", "terminated")
    plain = pg.Batch(**{name: getattr(batch, name) for name in (*fields, "final_observations")})
    policy = pg.policy(SPEC, backend="numpy", dtype="float64")
    for use in (
        lambda: pg.compare(SPEC, bare, plain, backends=["numpy"]),
        lambda: pg.check(policy, bare, plain),
        lambda: pg.compare_policies(policy, policy, bare, plain),
    ):
        with pytest.raises(BatchError, match=r"extras\['group'\]: expected \[B\] integers, .*none"):
            use()
