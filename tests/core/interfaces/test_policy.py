# Arguments of the wrong kind are what some of these tests are about.
# pyright: reportArgumentType=false

import tracemalloc

import numpy as np
import pytest

import pgcore as pg
from pgcore.data import files
from pgcore.data.files import read, write
from pgcore.errors import (
    BatchError,
    EstimatorError,
    FileError,
    ParameterError,
    ShapeError,
    SpecError,
)
from pgcore.interfaces.quantities import quantities_of
from pgcore.xp.numpy import host

MLP = pg.MLP(3, (5,))
RNG = np.random.default_rng(0)
OBSERVATIONS = RNG.standard_normal((7, 3))


@pytest.fixture
def rng():
    """Random numbers of the test's own."""
    return np.random.default_rng(9)


def policy(head=None, network=MLP, critic="separate", dtype="float64", seed=0):
    """Return a policy with random parameters: the initial ones give nearly the same distribution everywhere."""
    made = pg.policy(pg.PolicySpec(network, head or pg.Categorical(3), critic), dtype=dtype)
    rng = np.random.default_rng(seed)
    made.load({name: rng.standard_normal(value.shape) for name, value in made.parameters().items()})
    return made


@pytest.fixture
def batch(make_batch):
    return make_batch(action_mask=None)


@pytest.mark.parametrize("head", [pg.Categorical(3), pg.DiagonalGaussian(2)], ids=repr)
def test_acting_is_sampling_from_the_distribution_by_seed(head):
    made = policy(head)
    actions, log_probs = made.act(OBSERVATIONS, pg.generator(4))
    distribution = made.distribution(OBSERVATIONS)
    np.testing.assert_array_equal(actions, head.sample(distribution, pg.generator(4)))
    np.testing.assert_array_equal(log_probs, head.log_prob(host, distribution, actions))
    assert {distribution.dtype, log_probs.dtype} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(made.act(OBSERVATIONS, pg.generator(4))[0], actions)
    np.testing.assert_array_equal(made.mode(OBSERVATIONS), head.mode(distribution))


def test_acting_under_a_mask_takes_possible_actions_only(rng):
    mask = np.eye(3, dtype=bool)[rng.integers(0, 3, 7)]
    actions, log_probs = policy().act(OBSERVATIONS, pg.generator(0), mask)
    np.testing.assert_array_equal(actions, mask.argmax(axis=1))
    assert not log_probs.any()
    np.testing.assert_array_equal(
        policy().mode(OBSERVATIONS, mask.astype(int).tolist()), mask.argmax(axis=1)
    )


def test_lists_are_observations_too():
    np.testing.assert_array_equal(policy().mode(OBSERVATIONS.tolist()), policy().mode(OBSERVATIONS))
    states = policy(network=pg.Table(4))
    assert states.act([3, 0], pg.generator(0))[0].shape == (2,)


@pytest.mark.parametrize(
    ("observations", "mask", "error", "words"),
    [
        (
            OBSERVATIONS[0],
            None,
            ShapeError,
            r"observations: expected shape \[B, 3\] for MLP.*, got \[3\]",
        ),
        (
            OBSERVATIONS[:, :2],
            None,
            ShapeError,
            r"observations: expected shape \[B, 3\] for MLP.*, got \[7, 2\]; check the network's",
        ),
        (
            OBSERVATIONS * [[np.inf], *[[1.0]] * 6],
            None,
            BatchError,
            "observations: expected finite numbers, got infinity at step 0",
        ),
        ([["a", "b", "c"]], None, BatchError, "observations: expected real numbers, got dtype <U1"),
        (
            OBSERVATIONS,
            np.ones((7, 2)),
            ShapeError,
            r"action_mask: expected shape \[7, 3\] for Categorical.*, got \[7, 2\]",
        ),
        (
            OBSERVATIONS,
            np.ones((6, 3)),
            ShapeError,
            r"action_mask: expected shape \[7, 3\] for Categorical.*, got \[6, 3\]",
        ),
        (
            OBSERVATIONS,
            np.full((7, 3), 2),
            BatchError,
            "action_mask: expected booleans, got dtype int64 with other values",
        ),
        (
            OBSERVATIONS,
            np.arange(21).reshape(7, 3) < 6,
            BatchError,
            "action_mask: expected a possible action at every step, got none at step 2; the episode should have ended there",
        ),
    ],
)
@pytest.mark.parametrize("use", ["act", "mode"])
def test_observations_and_masks_that_do_not_fit_are_refused(use, observations, mask, error, words):
    made = policy()
    with pytest.raises(error, match=words):
        made.act(observations, pg.generator(0), mask) if use == "act" else made.mode(
            observations, mask
        )


@pytest.mark.parametrize(
    ("observations", "error", "words"),
    [
        (
            [0.0, 1.0],
            ShapeError,
            r"observations: expected \[B\] integers for Table\(states=4\), got \[2\] float64; number",
        ),
        ([[0], [1]], ShapeError, r"got \[2, 1\] int64"),
        (
            [0, 1, 4],
            BatchError,
            r"observations: expected states in \[0, 4\), got 4 at step 2; check the table's states",
        ),
        ([0, -1], BatchError, "got -1 at step 1"),
    ],
)
def test_states_that_a_table_does_not_have_are_refused(observations, error, words):
    with pytest.raises(error, match=words):
        policy(network=pg.Table(4)).act(observations, pg.generator(0))


def test_a_gaussian_head_takes_no_mask():
    with pytest.raises(
        BatchError,
        match=r"action_mask: expected none for DiagonalGaussian.*, got a mask; only discrete",
    ):
        policy(pg.DiagonalGaussian(3)).act(OBSERVATIONS, pg.generator(0), np.ones((7, 3)))


@pytest.mark.parametrize(
    ("head", "critic", "names"),
    [
        (pg.Categorical(3), "none", {"log_prob", "entropy", "kl", "reverse_kl", "log_probs"}),
        (
            pg.Categorical(3),
            "shared",
            {"log_prob", "entropy", "kl", "reverse_kl", "log_probs", "value"},
        ),
        (pg.DiagonalGaussian(2), "separate", {"log_prob", "entropy", "kl", "reverse_kl", "value"}),
    ],
)
def test_quantities_follow_from_head_and_critic(head, critic, names):
    assert quantities_of(policy(head, critic=critic).spec) == names


def test_an_estimator_that_needs_a_critic_does_not_fit_a_policy_without(batch):
    made = policy(critic="none")
    words = (
        r"PPO\(.*\) on Categorical\(n=3, temperature=1\.0\) with critic='none': expected a policy with log_prob, value, "
        "got no value; give the spec critic='separate' or 'shared'"
    )
    for use in (
        lambda: made.check_fits(pg.estimator("ppo")),
        lambda: pg.gradient(made, pg.estimator("ppo"), batch),
    ):
        with pytest.raises(EstimatorError, match=words):
            use()


class DiscreteOnly(pg.Estimator):
    """Fits discrete heads."""

    name = "discrete_only"

    @property
    def claims(self):
        return pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=True)

    def signals(self, batch, evaluate):
        return {}

    def surrogate(self, xp, *, log_prob):
        return log_prob


class AllActions(DiscreteOnly):
    """Asks for every action's log-probability."""

    def surrogate(self, xp, *, log_probs):  # pyright: ignore[reportIncompatibleMethodOverride]
        return log_probs[:, 0]


@pytest.mark.parametrize(
    ("estimator", "lack"),
    [(DiscreteOnly(), "actions that cannot be listed"), (AllActions(), "no log_probs")],
)
def test_an_estimator_of_discrete_actions_does_not_fit_a_gaussian(estimator, lack):
    policy().check_fits(estimator)
    words = rf"on DiagonalGaussian\(n=3, .* got {lack}; choose another head or another estimator"
    with pytest.raises(EstimatorError, match=words):
        policy(pg.DiagonalGaussian(3)).check_fits(estimator)


@pytest.mark.parametrize(
    ("name", "critic"), [("reinforce", "none"), ("ppo", "separate"), ("grpo", "none")]
)
def test_an_estimator_of_probabilities_does_not_fit_action_values(name, critic):
    words = r"on EpsilonGreedy\(n=3, .* expected an estimator of action values, .* got one of log_prob.*; choose one that uses action_value"
    with pytest.raises(EstimatorError, match=words):
        policy(pg.EpsilonGreedy(3), critic=critic).check_fits(pg.estimator(name))


class Overclaiming(DiscreteOnly):
    """Uses more than its claims say."""

    asked = "value"

    @property
    def claims(self):
        return pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def surrogate(self, xp, *, value=None, log_probs=None, action_value=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        return value

    def uses(self, name):
        return name == self.asked


@pytest.mark.parametrize(
    ("asked", "claim"),
    [("value", "needs_critic"), ("log_probs", "discrete_only"), ("action_value", "discrete_only")],
)
def test_claims_that_contradict_the_surrogate_are_refused(asked, claim):
    estimator = type("Asking", (Overclaiming,), {"asked": asked})()
    words = rf"claims: expected {claim}=True for a surrogate that uses {asked}, got False; claim {claim}=True"
    with pytest.raises(EstimatorError, match=words):
        policy(critic="separate").check_fits(estimator)


def test_a_batch_is_checked_once_for_a_spec_and_its_parts_never(batch, monkeypatch):
    made, calls = policy(), []
    monkeypatch.setattr(pg.Categorical, "check_actions", lambda *_: calls.append(1))
    made.check(batch)
    for part in (batch, batch.steps([1, 2]), batch.steps([1, 2]).steps([0])):
        made.check(part)
    assert len(calls) == 1
    policy(critic="none").check(batch)
    assert len(calls) == 2, "another spec is checked anew"


@pytest.mark.parametrize(
    ("replaced", "error", "words"),
    [
        (
            {"observations": np.ones((6, 2)), "final_observations": None},
            ShapeError,
            r"Batch\.observations: expected shape \[B, 3\]",
        ),
        (
            {"actions": [0, 1, 2, 3, 0, 1]},
            BatchError,
            r"Batch\.actions: expected integers in \[0, 3\), got 3 at step 3; check the head's",
        ),
        (
            {"actions": np.ones((6, 1))},
            ShapeError,
            r"Batch\.actions: expected shape \[B\] for Categorical.*, got \[6, 1\]",
        ),
        (
            {"extras": {"reference": np.zeros((6, 2))}},
            ShapeError,
            r"Batch\.extras\['reference'\]: expected shape \[B, 3\]",
        ),
    ],
)
def test_a_batch_that_does_not_fit_the_policy_is_refused(make_batch, replaced, error, words):
    batch = make_batch(**({"action_mask": None} | replaced))
    for use in (
        policy().check,
        lambda batch: pg.gradient(policy(), pg.estimator("reinforce"), batch),
    ):
        with pytest.raises(error, match=words):
            use(batch)


def test_evaluation_gives_what_is_asked_for(batch):
    made = policy()
    found = made.evaluate(
        batch, ("log_prob", "entropy", "kl", "log_probs", "value", "distribution", "final_value")
    )
    np.testing.assert_array_equal(found["log_probs"], found["distribution"])
    np.testing.assert_array_equal(found["log_prob"], found["log_probs"][range(6), batch.actions])
    np.testing.assert_allclose(
        found["entropy"], made.spec.head.entropy(host, found["distribution"]), rtol=1e-13
    )
    np.testing.assert_allclose(
        found["kl"],
        made.spec.head.kl(host, batch.extras["reference"], found["distribution"]),
        rtol=1e-12,
    )
    assert found["final_value"][0] == 0.0, "the first episode terminated"
    last = pg.Batch(
        observations=batch.final_observations[1:],
        actions=[0],
        rewards=[0],
        episode_lengths=[1],
        terminated=[True],
    )
    assert found["final_value"][1] == pytest.approx(
        made.evaluate(last, ("value",))["value"][0], rel=1e-14
    )


def test_what_a_policy_does_not_have_cannot_be_evaluated(batch, make_batch):
    words = "expected names among entropy, kl, log_prob, log_probs, reverse_kl, value and distribution, final_value, .* got odds; give"
    with pytest.raises(EstimatorError, match=words):
        policy().evaluate(batch, ("odds",))
    for name in ("value", "final_value"):
        with pytest.raises(
            EstimatorError, match=f"with critic='none', got {name}; give the policy what is missing"
        ):
            policy(critic="none").evaluate(batch, (name,))
    with pytest.raises(
        EstimatorError, match="expected a batch with the extra 'reference' for a KL, got none"
    ):
        policy().evaluate(make_batch(extras=None, action_mask=None), ("kl",))
    with pytest.raises(
        BatchError, match=r"Batch\.final_observations: .* episode 1 did not terminate"
    ):
        policy().evaluate(make_batch(final_observations=None, action_mask=None), ("final_value",))


WRONG_PARAMETERS = {
    "a missing name": (
        lambda given: given.pop("critic.1.bias"),
        r"parameters: expected the names network\.0\.weight, .*, got missing \['critic\.1\.bias'\], surplus \[\]; rename them",
    ),
    "a surplus name": (
        lambda given: given.update(extra=np.ones(1)),
        r"got missing \[\], surplus \['extra'\]",
    ),
    "a shape": (
        lambda given: given.update({"network.0.weight": given["network.0.weight"].T}),
        r"parameters\['network\.0\.weight'\]: expected float \[3, 5\], got float64 \[5, 3\]; check the spec",
    ),
    "a dtype": (
        lambda given: given.update({"critic.0.bias": np.zeros(5, int)}),
        r"parameters\['critic\.0\.bias'\]: expected float \[5\], got int64 \[5\]",
    ),
    "NaN": (
        lambda given: given["critic.1.weight"].__setitem__(2, np.nan),
        r"parameters\['critic\.1\.weight'\]: expected finite numbers in float32, got NaN or infinity; load a good checkpoint",
    ),
    "too large a number": (
        lambda given: given.update({"network.1.bias": np.array([0.0, 1e39, 0.0])}),
        r"parameters\['network\.1\.bias'\]: expected finite numbers in float32, got NaN or infinity",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), WRONG_PARAMETERS.values(), ids=WRONG_PARAMETERS)
def test_wrong_parameters_are_refused_and_change_nothing(spoil, words):
    made = policy(dtype="float32")
    before = made.parameters()
    given = {name: value.astype(np.float64) + 1.0 for name, value in before.items()}
    spoil(given)
    with pytest.raises(ParameterError, match=words):
        made.load(given)
    for name, value in made.parameters().items():
        np.testing.assert_array_equal(value, before[name])


def test_parameters_are_the_callers_own():
    made = policy()
    given = made.parameters()
    kept = {name: value.copy() for name, value in given.items()}
    made.load(given)
    for value in given.values():
        value[...] = 9.0
    for name, value in made.parameters().items():
        np.testing.assert_array_equal(value, kept[name])
        assert value.dtype == np.float64


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_policy_comes_back_from_its_file(tmp_path, dtype):
    made = policy(pg.DiagonalGaussian(2, std=0.5), critic="shared", dtype=dtype)
    made.save(tmp_path / "p.safetensors")
    loaded = pg.load(tmp_path / "p.safetensors")
    assert (loaded.spec, loaded.dtype) == (made.spec, np.dtype(dtype))
    for name, value in made.parameters().items():
        np.testing.assert_array_equal(loaded.parameters()[name], value, strict=True)
    assert pg.load(tmp_path / "p.safetensors", dtype="float32").dtype == np.float32


def test_a_file_that_is_no_policy_is_refused(tmp_path, make_batch):
    make_batch().save(tmp_path / "batch")
    with pytest.raises(
        FileError, match=r"batch: expected a pgcore\.policy file, got format 'pgcore\.batch'"
    ):
        pg.load(tmp_path / "batch")
    with pytest.raises(FileError, match="got nothing of that name"):
        pg.load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        ({}, SpecError, r"PolicySpec\.from_json: expected what to_json writes, got ''"),
        ({"spec": "{}"}, SpecError, r"expected what to_json writes, got '\{\}'"),
        ({"dtype": "float16"}, SpecError, "expected one of 'float32', 'float64', got 'float16'"),
        (
            {"spec": pg.PolicySpec(pg.Linear(3), pg.Categorical(3)).to_json()},
            ParameterError,
            "parameters: expected the names",
        ),
    ],
)
def test_a_policy_file_with_another_header_is_refused(tmp_path, metadata, error, words):
    policy().save(tmp_path / "p")
    arrays, own = read(tmp_path / "p", "pgcore.policy")
    del own["format"]
    write(tmp_path / "p", "pgcore.policy", arrays, own | metadata if metadata else {})
    with pytest.raises(error, match=words):
        pg.load(tmp_path / "p")


def test_an_unwritable_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        FileError, match="expected a place to write to, got Not a directory; choose a folder"
    ):
        policy().save(tmp_path / "file" / "p")


def test_a_file_whose_spec_is_larger_than_its_parameters_is_refused_before_a_policy_is_built(
    tmp_path,
):
    small, large = (
        pg.policy(pg.PolicySpec(pg.Linear(inputs), pg.Categorical(2))) for inputs in (2, 3)
    )
    metadata = {"spec": large.spec.to_json().replace("3", "10000000"), "dtype": "float32"}
    files.write(tmp_path / "policy", "pgcore.policy", small.parameters(), metadata)
    tracemalloc.start()
    try:
        with pytest.raises(
            ParameterError, match=r"parameters\['network\.0\.weight'\]: expected float"
        ):
            pg.load(tmp_path / "policy")
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
