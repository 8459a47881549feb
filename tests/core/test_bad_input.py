"""Every kind of bad input that the core must refuse: which error, and what its message names."""

# Arguments of the wrong kind are what some of these tests are about.
# pyright: reportArgumentType=false

import math
import re

import numpy as np
import pytest

import pgcore as pg
from pgcore.data.batch import Batch
from pgcore.errors import (
    BatchError,
    EstimatorError,
    FileError,
    NonFiniteError,
    OptimizerError,
    ParameterError,
    PgcoreError,
    ShapeError,
    SpecError,
)

FORM = re.compile(r"^.+: expected .+, got .+; .+", re.DOTALL)


def refused(error, *words):
    """Expect this very error, in the form that all messages have, with these words in this order."""
    pattern = ".*".join(map(re.escape, words))
    return _Refusal(error, pattern)


class _Refusal:
    def __init__(self, error, pattern):
        self.error = error
        self.raises = pytest.raises(error, match=pattern)

    def __enter__(self):
        self.caught = self.raises.__enter__()
        return self.caught

    def __exit__(self, *details):
        handled = self.raises.__exit__(*details)
        message = str(self.caught.value)
        assert type(self.caught.value) is self.error
        assert isinstance(self.caught.value, PgcoreError)
        assert FORM.match(message), message
        assert len(message) < 500, "never a whole array"
        return handled


def with_value(array, place, value):
    array = np.array(array, float)
    array[place] = value
    return array


OBSERVATIONS = np.ones((6, 3))

BATCHES = {
    # Wrong shapes and lengths
    "no axis": (
        {"observations": 1.0},
        BatchError,
        "Batch.observations",
        "at least 1 step",
        "got none",
    ),
    "ragged observations": (
        {"observations": [[1, 2, 3], [1]]},
        ShapeError,
        "Batch.observations",
        "rectangular",
    ),
    "words": (
        {"observations": [["a"]] * 6},
        BatchError,
        "Batch.observations",
        "real numbers",
        "dtype <U1",
    ),
    "objects": (
        {"rewards": [None] * 6},
        BatchError,
        "Batch.rewards",
        "real numbers",
        "dtype object",
    ),
    "complex rewards": (
        {"rewards": [1j] * 6},
        BatchError,
        "Batch.rewards",
        "real numbers",
        "complex128",
    ),
    "short actions": (
        {"actions": [0, 1]},
        ShapeError,
        "Batch.actions",
        "expected 6 rows, one for each step",
        "got shape [2]",
    ),
    "three axes of actions": (
        {"actions": np.zeros((6, 1, 1))},
        ShapeError,
        "Batch.actions",
        "1-dimensional or 2-dimensional",
        "[6, 1, 1]",
    ),
    "two axes of rewards": (
        {"rewards": np.ones((2, 3))},
        ShapeError,
        "Batch.rewards",
        "1-dimensional",
        "got shape [2, 3]",
        "flatten",
    ),
    "long rewards": (
        {"rewards": np.ones(7)},
        ShapeError,
        "Batch.rewards",
        "expected 6 rows",
        "got shape [7]",
    ),
    "short log_probs": (
        {"log_probs": np.ones(5)},
        ShapeError,
        "Batch.log_probs",
        "expected 6 rows",
        "got shape [5]",
    ),
    "one axis of mask": (
        {"action_mask": np.ones(6)},
        ShapeError,
        "Batch.action_mask",
        "2-dimensional",
        "got shape [6]",
    ),
    "short mask": (
        {"action_mask": np.ones((5, 3))},
        ShapeError,
        "Batch.action_mask",
        "expected 6 rows",
        "got shape [5, 3]",
    ),
    "mask of twos": (
        {"action_mask": np.full((6, 3), 2)},
        BatchError,
        "Batch.action_mask",
        "booleans",
        "int64",
    ),
    "short weights": (
        {"step_weights": np.ones(5)},
        ShapeError,
        "Batch.step_weights",
        "expected 6 rows",
        "got shape [5]",
    ),
    "lengths' sum": (
        {"episode_lengths": [2, 3]},
        ShapeError,
        "Batch.episode_lengths",
        "sum to 6",
        "got a sum of 5",
    ),
    "lengths' dtype": (
        {"episode_lengths": [2.0, 4.0]},
        BatchError,
        "Batch.episode_lengths",
        "integers",
        "got dtype float64",
    ),
    "lengths' axes": (
        {"episode_lengths": [[2, 4]]},
        ShapeError,
        "Batch.episode_lengths",
        "1-dimensional",
        "got shape [1, 2]",
    ),
    "terminated's length": (
        {"terminated": [True]},
        ShapeError,
        "Batch.terminated",
        "expected 2 rows, one for each episode",
        "[1]",
    ),
    "terminated's values": (
        {"terminated": [0.5, 1.0]},
        BatchError,
        "Batch.terminated",
        "booleans",
        "float64 with other values",
    ),
    "finals' length": (
        {"final_observations": np.ones((3, 3))},
        ShapeError,
        "Batch.final_observations",
        "[2, 3]",
        "got [3, 3]",
    ),
    "finals' width": (
        {"final_observations": np.ones((2, 4))},
        ShapeError,
        "Batch.final_observations",
        "[2, 3]",
        "got [2, 4]",
    ),
    "an extra's length": (
        {"extras": {"a": np.ones(5)}},
        ShapeError,
        "Batch.extras['a']",
        "expected 6 rows",
        "got shape [5]",
    ),
    "an extra without axes": (
        {"extras": {"a": 1.0}},
        ShapeError,
        "Batch.extras['a']",
        "one row for each step",
        "a single number",
    ),
    "an extra of words": (
        {"extras": {"a": ["x"] * 6}},
        BatchError,
        "Batch.extras['a']",
        "real numbers",
        "<U1",
    ),
    "extras without names": (
        {"extras": [np.ones(6)]},
        BatchError,
        "Batch.extras",
        "arrays by name",
        "got list",
    ),
    "an extra named by number": (
        {"extras": {1: np.ones(6)}},
        BatchError,
        "Batch.extras",
        "arrays by name",
        "dict from strings",
    ),
    # Nothing in it
    "an empty batch": (
        {"observations": np.ones((0, 3))},
        BatchError,
        "Batch.observations",
        "at least 1 step",
        "got none",
    ),
    "no episodes": (
        {"episode_lengths": np.zeros(0, int)},
        BatchError,
        "Batch.episode_lengths",
        "got no episodes",
    ),
    "an episode without steps": (
        {"episode_lengths": [6, 0]},
        BatchError,
        "Batch.episode_lengths",
        "at least 1 step in every",
        "episode 1",
    ),
    "an episode of -1 steps": (
        {"episode_lengths": [7, -1]},
        BatchError,
        "Batch.episode_lengths",
        "0 or less in episode 1",
    ),
    "only padding": (
        {"step_weights": np.zeros(6)},
        BatchError,
        "Batch.step_weights",
        "at least 1 step that is not padding",
        "none",
    ),
    # NaN and infinity
    "NaN observation": (
        {"observations": with_value(OBSERVATIONS, (4, 1), math.nan)},
        BatchError,
        "Batch.observations",
        "NaN at step 4",
    ),
    "infinite observation": (
        {"observations": with_value(OBSERVATIONS, (0, 2), -math.inf)},
        BatchError,
        "Batch.observations",
        "infinity at step 0",
    ),
    "NaN reward": (
        {"rewards": with_value(np.ones(6), 2, math.nan)},
        BatchError,
        "Batch.rewards",
        "finite",
        "got NaN at step 2",
    ),
    "infinite reward": (
        {"rewards": with_value(np.ones(6), 5, math.inf)},
        BatchError,
        "Batch.rewards",
        "got infinity at step 5",
    ),
    "too large a reward": (
        {"rewards": np.array([1] * 5 + ["1e400"], np.longdouble)},
        BatchError,
        "Batch.rewards",
        "infinity at step 5",
    ),
    "NaN log_prob": (
        {"log_probs": with_value(-np.ones(6), 1, math.nan)},
        BatchError,
        "Batch.log_probs",
        "got NaN at step 1",
    ),
    "infinite log_prob": (
        {"log_probs": with_value(-np.ones(6), 3, -math.inf)},
        BatchError,
        "Batch.log_probs",
        "got infinity at step 3",
    ),
    "NaN action": (
        {"actions": with_value(OBSERVATIONS, (3, 0), math.nan), "action_mask": None},
        BatchError,
        "Batch.actions",
        "NaN at step 3",
    ),
    "NaN weight": (
        {"step_weights": with_value(np.ones(6), 1, math.nan)},
        BatchError,
        "Batch.step_weights",
        "NaN at step 1",
    ),
    "NaN extra": (
        {"extras": {"a": with_value(OBSERVATIONS, (5, 2), math.nan)}},
        BatchError,
        "Batch.extras['a']",
        "NaN at step 5",
    ),
    "NaN final observation": (
        {"final_observations": with_value(np.ones((2, 3)), (1, 0), math.nan)},
        BatchError,
        "Batch.final_observations",
        "got NaN at episode 1",
    ),
    # Actions and masks
    "a negative action": (
        {"actions": [0, 1, 2, -1, 0, 0]},
        BatchError,
        "Batch.actions",
        "integers of at least 0",
        "got -1 at step 3",
    ),
    "a huge action": (
        {"actions": np.array([0, 2**63, 0, 0, 0, 0], np.uint64)},
        BatchError,
        "Batch.actions",
        "at step 1",
    ),
    "an action beyond the mask": (
        {"actions": [0, 2, 1, 1, 0, 3], "action_mask": np.ones((6, 3))},
        BatchError,
        "Batch.actions",
        "integers in [0, 3), the mask's width",
        "got 3 at step 5",
    ),
    "every action masked": (
        {"action_mask": with_value(np.ones((6, 3)), 2, 0)},
        BatchError,
        "Batch.action_mask",
        "a possible action at every step",
        "none at step 2",
    ),
    "the chosen action masked": (
        {"action_mask": with_value(np.ones((6, 3)), (4, 0), 0)},
        BatchError,
        "Batch.actions",
        "actions that the mask allows",
        "got 0 at step 4",
    ),
    # Weights that are no padding
    "a weight of a half": (
        {"step_weights": np.full(6, 0.5)},
        BatchError,
        "Batch.step_weights",
        "expected 1, or 0 for padding",
    ),
    "padding inside an episode": (
        {"step_weights": [1, 1, 1, 1, 0, 0]},
        BatchError,
        "Batch.step_weights",
        "one weight throughout an episode",
        "step 4",
    ),
}


@pytest.mark.parametrize(
    ("replaced", "error", "words"),
    [(case[0], case[1], case[2:]) for case in BATCHES.values()],
    ids=BATCHES,
)
def test_a_batch_that_is_refused(make_batch, replaced, error, words):
    with refused(error, *words):
        make_batch(**replaced)


# Parts of a policy

VALUES = [0.0, -1.0, math.nan, math.inf, None, "1", True, 10**400]


@pytest.mark.parametrize("value", VALUES, ids=[*map(str, VALUES[:-1]), "1e400"])
def test_temperature_and_sigma_are_positive(value):
    with refused(SpecError, "Categorical.temperature: expected a positive number, got "):
        pg.Categorical(2, value)
    with refused(SpecError, "DiagonalGaussian.std: expected a positive number, got "):
        pg.DiagonalGaussian(2, std=value)


@pytest.mark.parametrize(
    "value", [-0.01, 1.01, math.nan, math.inf, None, "0.9", True, 10**400], ids=range(8)
)
@pytest.mark.parametrize(
    ("estimator", "field"),
    [
        ("reinforce", "gamma"),
        ("actor_critic", "gamma"),
        ("actor_critic", "gae_lambda"),
        ("ppo", "gamma"),
        ("ppo", "gae_lambda"),
    ],
)
def test_gamma_and_lambda_are_in_the_unit_interval(estimator, field, value):
    with refused(EstimatorError, f".{field}: expected a number in [0, 1], got "):
        pg.estimator(estimator, **{field: value})
    for bound in (0, 1):
        assert getattr(pg.estimator(estimator, **{field: bound}), field) == bound


def policy(head=None, critic="none", dtype="float64", network=None):
    return pg.policy(
        pg.PolicySpec(network or pg.Linear(3), head or pg.Categorical(3), critic), dtype=dtype
    )


def test_an_estimator_and_a_policy_that_do_not_fit_are_both_named(make_batch):
    batch = make_batch()
    with refused(
        EstimatorError,
        "PPO(",
        "on Categorical(n=3",
        "critic='none'",
        "got no value",
        "critic='separate'",
    ):
        pg.gradient(policy(), pg.estimator("ppo"), batch)
    with refused(
        EstimatorError, "Reinforce(", "on Categorical(n=3", "critic='none'", "got no value"
    ):
        pg.signals(policy(), pg.estimator("reinforce", baseline="value"), batch)


@pytest.mark.parametrize(
    ("head", "replaced", "error", "words"),
    [
        (
            pg.Categorical(2),
            {"action_mask": None},
            BatchError,
            ("Batch.actions", "[0, 2)", "got 2 at step 1", "the head's number of actions"),
        ),
        (
            pg.Categorical(4),
            {},
            ShapeError,
            ("Batch.action_mask", "[B, 4] for Categorical(n=4", "got [6, 3]"),
        ),
        (
            pg.Categorical(3),
            {"actions": np.ones(6), "action_mask": None},
            BatchError,
            ("Batch.actions", "integers for Categorical", "float64"),
        ),
        (
            pg.DiagonalGaussian(2),
            {},
            ShapeError,
            ("Batch.actions", "[B, 2] for DiagonalGaussian", "got [6]"),
        ),
        (
            pg.DiagonalGaussian(3),
            {"actions": OBSERVATIONS},
            BatchError,
            ("Batch.action_mask", "none for DiagonalGaussian", "got a mask"),
        ),
    ],
)
def test_a_batch_and_a_head_that_do_not_fit(make_batch, head, replaced, error, words):
    batch = make_batch(**({"extras": None} | replaced))
    with refused(error, *words):
        pg.gradient(policy(head), pg.estimator("reinforce"), batch)


@pytest.mark.parametrize(
    ("network", "replaced", "error", "words"),
    [
        (
            pg.Linear(4),
            {},
            ShapeError,
            ("Batch.observations", "[B, 4] for Linear(inputs=4)", "got [6, 3]"),
        ),
        (
            pg.MLP(3),
            {"observations": np.ones(6), "final_observations": None},
            ShapeError,
            ("Batch.observations", "[B, 3]", "got [6]"),
        ),
        (
            pg.Table(9),
            {},
            ShapeError,
            ("Batch.observations", "[B] integers for Table(states=9)", "got [6, 3] float64"),
        ),
        (
            pg.Table(9),
            {"observations": [0, 8, 9, 0, 0, 0], "final_observations": None},
            BatchError,
            ("Batch.observations", "states in [0, 9)", "got 9 at step 2"),
        ),
    ],
)
def test_a_batch_and_a_network_that_do_not_fit(make_batch, network, replaced, error, words):
    with refused(error, *words):
        pg.gradient(policy(network=network), pg.estimator("reinforce"), make_batch(**replaced))


def test_a_final_state_that_a_table_does_not_have(make_batch):
    batch = make_batch(observations=[0, 1, 2, 0, 1, 2], final_observations=[0, 3])
    with refused(BatchError, "Batch.final_observations", "states in [0, 3)", "got 3"):
        pg.gradient(
            policy(network=pg.Table(3), critic="separate"), pg.estimator("actor_critic"), batch
        )


def test_a_cut_episode_cannot_be_bootstrapped_from_nothing(make_batch):
    batch = make_batch(final_observations=None)
    with refused(
        BatchError,
        "Batch.final_observations",
        "every truncated episode",
        "episode 1 did not terminate",
    ):
        pg.gradient(policy(critic="separate"), pg.estimator("actor_critic"), batch)


@pytest.mark.parametrize("baseline", ["leave_one_out", "optimal", "optimal_per_component"])
def test_one_episode_has_no_others_to_leave(make_batch, baseline):
    with refused(BatchError, "expected at least 2 episodes", "got 1", "another baseline"):
        pg.gradient(
            policy(), pg.estimator("reinforce", baseline=baseline), make_batch().episodes([0])
        )


# Results that are not finite


def unchanged(made):
    """Return a check that the policy's parameters are still what they are now."""
    before = made.parameters()

    def check():
        for name, value in made.parameters().items():
            np.testing.assert_array_equal(value, before[name])

    return check


def test_an_overflowing_signal_names_itself_and_the_step(make_batch):
    made, opt = policy(dtype="float32"), pg.optimizer("sgd")
    check = unchanged(made)
    batch = make_batch(rewards=[1, 1, 1, 1e39, 1, 1], episode_lengths=[3, 3])
    with refused(NonFiniteError, "reinforce.signals['advantage']", "finite", "got inf at step 3"):
        opt.step(made, pg.gradient(made, pg.estimator("reinforce"), batch))
    check()
    assert opt.steps_taken == 0


@pytest.mark.parametrize("normalise", ["batch", "minibatch"])
@pytest.mark.parametrize("padded", [6, 8])
def test_advantages_whose_variance_overflows_name_the_step(make_batch, normalise, padded):
    policy = pg.policy(pg.PolicySpec(pg.Linear(3), pg.Categorical(3), "separate"), dtype="float64")
    batch = make_batch(rewards=[1.0, 2.0, 0.0, 1e300, 0.0, 1.0]).pad(padded)
    estimator = pg.estimator("ppo", normalise=normalise, gamma=0.0)
    with refused(
        NonFiniteError,
        "normalise: expected numbers with a finite variance, got 1e+300 at step 3; scale",
    ):
        pg.gradient(policy, estimator, batch)


def test_a_group_whose_variance_overflows_is_named(make_batch):
    policy = pg.policy(pg.PolicySpec(pg.Linear(3), pg.Categorical(3)), dtype="float64")
    batch = make_batch(rewards=[0.0, 0.0, 1e300, 0.0, 0.0, 0.0])
    with refused(NonFiniteError, "group_relative", "got 1e+300 at episode 1;"):
        pg.signals(policy, pg.estimator("grpo", group="all"), batch)
    joined = Batch.concatenate(
        [
            make_batch(extras={"group": [4] * 6}),
            make_batch(rewards=batch.rewards, extras={"group": [4] * 6}),
        ]
    )
    with refused(NonFiniteError, "group 1: advantage 'group_relative'", "got 1e+300 at episode 1;"):
        pg.signals(policy, pg.estimator("grpo"), joined)


def test_a_loss_that_overflows_where_its_gradient_does_not_names_the_step(make_batch):
    policy = pg.policy(pg.PolicySpec(pg.Linear(3), pg.Categorical(3), "separate"), dtype="float64")
    batch = make_batch(rewards=[1.0, 2.0, 0.0, 0.0, 1e300, 1.0])
    gradient = pg.gradient(policy, pg.estimator("a2c", gamma=0.0), batch.pad(8))
    assert math.isfinite(gradient.norm())
    for read in (lambda: gradient.loss, lambda: gradient.metrics):
        with refused(
            NonFiniteError,
            "loss of a2c: expected a finite number, got inf at step 4; scale the rewards down",
        ):
            read()


def test_masked_arrays_are_refused_wherever_arrays_come_in(make_batch):
    policy = pg.policy(pg.PolicySpec(pg.Linear(3), pg.Categorical(3)), dtype="float64")
    masked = np.ma.masked_array(np.ones((6, 3)), mask=np.eye(6, 3, dtype=bool))
    masked.flags.writeable = False
    parameters = policy.parameters()
    for use in (
        lambda: make_batch(observations=masked),
        lambda: make_batch(rewards=masked[:, 0]),
        lambda: make_batch(terminated=np.ma.masked_array([True, False], [True, False])),
        lambda: make_batch(extras={"teacher": masked}),
        lambda: policy.act(masked, pg.generator(0)),
        lambda: policy.act(np.ones((6, 3)), pg.generator(0), action_mask=masked > 0),
        lambda: policy.load(
            {name: np.ma.masked_array(value) for name, value in parameters.items()}
        ),
    ):
        with refused(BatchError, "expected an array without a mask, got a masked array"):
            use()


def test_an_overflowing_derivative_names_the_quantity_and_the_step(make_batch):
    made, opt = policy(dtype="float32", critic="separate"), pg.optimizer("adam")
    check = unchanged(made)
    batch = make_batch(rewards=[0, 0, 0, 0, 1e30, 0], terminated=[True, True])
    est = pg.estimator("actor_critic", value_coefficient=1e20, gamma=0.0)
    with refused(
        NonFiniteError,
        "gradient of actor_critic",
        "d surrogate / d value = -inf at step 4",
        "parameters are unchanged",
    ):
        opt.step(made, pg.gradient(made, est, batch))
    check()


def test_a_log_prob_that_is_not_finite_names_the_step(make_batch):
    head = pg.DiagonalGaussian(3, "fixed", 1e-15)
    made = policy(head, dtype="float32")
    check = unchanged(made)
    batch = make_batch(
        actions=with_value(np.zeros((6, 3)), (2, 1), 1e10), action_mask=None, extras=None
    )
    with refused(
        NonFiniteError,
        "gradient of reinforce",
        "log_prob = -inf at step 2",
        "parameters are unchanged",
    ):
        pg.gradient(made, pg.estimator("reinforce"), batch)
    check()


def test_a_sum_over_steps_that_overflows_names_the_parameter(make_batch):
    made = policy(dtype="float32")
    batch = make_batch(observations=np.full((6, 3), 1e20), rewards=np.full(6, 1e30))
    check = unchanged(made)
    with refused(
        NonFiniteError, "gradient of reinforce", "overflow in network.0.weight", "use float64"
    ):
        pg.gradient(made, pg.estimator("reinforce"), batch)
    check()


# Parameters, gradients and vectors that belong elsewhere


def test_parameters_of_another_spec_leave_the_policy_as_it_was():
    made = policy(critic="separate")
    check = unchanged(made)
    for spoil, words in (
        (
            lambda p: p.pop("critic.0.bias"),
            ("parameters:", "missing ['critic.0.bias']", "surplus []"),
        ),
        (lambda p: p.update(more=np.ones(1)), ("parameters:", "surplus ['more']")),
        (
            lambda p: p.update({"critic.0.weight": np.ones((1, 3))}),
            ("parameters['critic.0.weight']", "[3, 1]", "[1, 3]"),
        ),
        (
            lambda p: p["critic.0.bias"].fill(math.nan),
            ("parameters['critic.0.bias']", "finite", "NaN"),
        ),
    ):
        given = {name: value + 1.0 for name, value in made.parameters().items()}
        spoil(given)
        with refused(ParameterError, *words):
            made.load(given)
        check()


def test_a_gradient_of_another_policy_is_not_stepped_with(make_batch):
    first, second, opt = policy(), policy(), pg.optimizer("sgd")
    gradient = pg.gradient(second, pg.estimator("reinforce"), make_batch())
    check = unchanged(first)
    with refused(OptimizerError, "Optimizer.step", "a gradient of this policy", "one of another"):
        opt.step(first, gradient)
    check()


@pytest.mark.parametrize("vector", [np.ones(11), np.ones(13), np.ones((12, 1)), np.float64(1.0)])
def test_a_fisher_vector_has_one_entry_for_each_parameter(make_batch, vector):
    assert policy().fisher_vector_product(make_batch(), np.ones(12)).shape == (12,)
    with refused(
        ShapeError,
        "fisher_vector_product",
        "expected [12], one number for each parameter",
        f"got {list(np.shape(vector))}",
    ):
        policy().fisher_vector_product(make_batch(), vector)


# Files


def test_files_that_cannot_be_written(make_batch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "x", tmp_path / "no" / "such" / "x", tmp_path):
        for save in (make_batch().save, policy().save):
            with refused(
                FileError, str(path), "a place to write to", "choose a folder you can write to"
            ):
                save(path)


def test_files_that_are_something_else(make_batch, tmp_path):
    make_batch().save(tmp_path / "batch")
    policy().save(tmp_path / "policy")
    (tmp_path / "words").write_text("not a file of ours")
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    whole = (tmp_path / "policy").read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    for load, kind, wrong in (
        (Batch.load, "pgcore.batch", "policy"),
        (pg.load, "pgcore.policy", "batch"),
    ):
        with refused(FileError, wrong, f"expected a {kind} file", f"got format 'pgcore.{wrong}'"):
            load(tmp_path / wrong)
        for name in ("words", "pickle.npy", "half"):
            with refused(FileError, name, f"expected a {kind} file", "not safetensors"):
                load(tmp_path / name)
        with refused(FileError, "nowhere", "nothing of that name"):
            load(tmp_path / "nowhere")


# The form of it all


def test_a_message_never_holds_a_whole_array():
    wide = np.ones(10_000)
    with refused(SpecError, "Categorical.temperature", "positive"):
        pg.Categorical(2, wide)
    with refused(SpecError, "MLP.activation"):
        pg.MLP(2, (3,), "x" * 10_000)


def test_an_observation_that_overflows_is_refused_by_its_step():
    policy = pg.policy(pg.PolicySpec(pg.MLP(2, (4,)), pg.Categorical(2)), dtype="float32")
    observations = np.array([[0.0, 0.0], [1e300, -1e300]])
    with pytest.raises(
        NonFiniteError, match="act: expected a distribution at every step, got NaN at step 1"
    ):
        policy.act(observations, pg.generator(0))


def test_signals_do_not_make_an_estimator_fit(make_batch):
    batch = make_batch()
    network = pg.Linear(batch.observations.shape[1])
    with_critic = pg.policy(pg.PolicySpec(network, pg.Categorical(3), "separate"))
    without = pg.policy(pg.PolicySpec(network, pg.Categorical(3)))
    estimator = pg.estimator("actor_critic")
    signals = pg.signals(with_critic, estimator, batch)
    with pytest.raises(
        EstimatorError, match=r"ActorCritic\(.*Categorical.*expected a policy with .*value"
    ):
        pg.gradient(without, estimator, batch, signals=signals)


@pytest.mark.parametrize(
    "names", [(), ("log_prob",), ("log_prob", "entropi"), ("log_prob", "entropy", "value")]
)
def test_derivatives_of_other_quantities_are_refused(make_batch, names, monkeypatch):
    batch, estimator = make_batch(), pg.estimator("reinforce", entropy_coefficient=0.1)
    found = {name: np.ones(batch.num_steps) for name in names}
    monkeypatch.setattr(type(estimator), "cotangents", lambda *_, **__: found)
    policy = pg.policy(
        pg.PolicySpec(pg.Linear(batch.observations.shape[1]), pg.Categorical(3)), backend="numpy"
    )
    words = rf"reinforce\.cotangents: expected derivatives for log_prob, entropy, got them for {', '.join(names)};"
    with pytest.raises(EstimatorError, match=words):
        pg.gradient(policy, estimator, batch)


def test_ragged_parameters_and_observations_are_refused():
    policy = pg.policy(pg.PolicySpec(pg.Table(2), pg.Categorical(2)))
    with pytest.raises(
        ShapeError, match=r"parameters\['network.table'\]: expected a rectangular array"
    ):
        policy.load({"network.table": [[1.0, 2.0], [3.0]]})
    with pytest.raises(ShapeError, match="observations: expected a rectangular array"):
        pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(2))).act(
            [[1.0, 2.0], [3.0]], pg.generator(0)
        )


def test_an_infinite_value_is_named_with_its_step(make_batch):
    batch = make_batch()
    policy = pg.policy(
        pg.PolicySpec(pg.Linear(batch.observations.shape[1]), pg.Categorical(3), "separate")
    )
    huge = {
        name: np.full_like(value, 3e38 if name == "critic.0.weight" else 0.0)
        for name, value in policy.parameters().items()
    }
    policy.load(huge)
    with pytest.raises(
        NonFiniteError, match=r"value: expected finite numbers, got -?(inf|nan) at step \d+"
    ):
        pg.gradient(policy, pg.estimator("actor_critic"), batch)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("ppo", {"ddof": -3.5}, r"PPO\.ddof: expected one of 0, 1, got -3\.5"),
        ("actor_critic", {"ddof": 2}, r"ActorCritic\.ddof: expected one of 0, 1, got 2"),
        (
            "reinforce",
            {"discount_state": "a"},
            r"Reinforce\.discount_state: expected True or False, got 'a'",
        ),
        (
            "reinforce",
            {"reward_to_go": 1},
            r"Reinforce\.reward_to_go: expected True or False, got 1",
        ),
    ],
)
def test_estimator_fields_of_another_kind_are_refused(name, fields, words):
    with pytest.raises(EstimatorError, match=words):
        pg.estimator(name, **fields)


@pytest.mark.parametrize(("name", "field"), [("sgd", "nesterov"), ("rmsprop", "eps_inside")])
def test_optimizer_flags_of_another_kind_are_refused(name, field):
    with pytest.raises(OptimizerError, match=f"{field}: expected True or False, got 'yes'"):
        pg.optimizer(name, **{field: "yes"})


def test_signal_steps_out_of_range_are_refused(make_batch):
    batch = make_batch()
    policy = pg.policy(pg.PolicySpec(pg.Linear(batch.observations.shape[1]), pg.Categorical(3)))
    signals = pg.signals(policy, pg.estimator("reinforce"), batch)
    with pytest.raises(
        EstimatorError, match=r"Signals\.steps: expected step numbers in \[0, \d+\)"
    ):
        signals.steps([10**6])


def test_signals_of_whole_episodes_are_not_sliced_by_steps(make_batch):
    batch = make_batch(extras={"group": np.zeros(6, int)})
    policy = pg.policy(pg.PolicySpec(pg.Linear(batch.observations.shape[1]), pg.Categorical(3)))
    signals = pg.signals(policy, pg.estimator("gspo"), batch)
    with pytest.raises(
        EstimatorError, match=r"Signals\.steps: expected the signals of .* single steps"
    ):
        signals.steps([0])
    with pytest.raises(BatchError, match=r"Batch\.episodes: expected episode numbers in \[0, 2\)"):
        signals.episodes(batch, [2])


def test_a_reference_that_is_not_finite_is_refused_by_its_step(make_batch):
    plain = make_batch()
    reference = np.log(np.full((plain.num_steps, 3), 1 / 3))
    reference[2, 1] = np.inf
    batch = make_batch(extras={"reference": reference})
    policy = pg.policy(
        pg.PolicySpec(pg.Linear(batch.observations.shape[1]), pg.Categorical(3), "separate")
    )
    with pytest.raises(
        NonFiniteError, match="expected a distribution at every step, got NaN or infinity at step 2"
    ):
        pg.signals(policy, pg.estimator("ppo", objective="kl"), batch)


def test_a_network_too_large_to_exist_is_refused():
    with pytest.raises(SpecError, match="PolicySpec: expected sizes that fit into memory"):
        pg.policy(pg.PolicySpec(pg.Table(10**30), pg.Categorical(2)))
