"""Batches of arrays on an accelerator: a policy there uses them as they are, and samples there.

A CPU stands in for the device: `resident` is set by hand, and every copy to the host is counted.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from masked_batches import EPISODES, LENGTH, STEPS, make_batch

import pgcore as pg
from pgcore.data.device_array import Device
from pgcore.data.native import arrays_of
from pgcore.errors import BatchError, ShapeError
from pgcore_check.cases.cases import NETWORKS, cases
from pgcore_check.proofs import variants
from pgcore_estimators.preset_classes import GSPO

FRAMEWORKS = ("torch", "jax", "tensorflow")
HEADS = variants("heads")
PER_STEP = ("observations", "actions", "action_mask", "rewards", "log_probs", "values", "discount")


class Accelerator:
    """A framework whose CPU counts as an accelerator.

    Attributes:
        copies: The shapes of the arrays that were copied to the host.
    """

    def __init__(self, framework, monkeypatch):
        """Replace the methods that copy."""
        module = pytest.importorskip("jax.numpy" if framework == "jax" else framework)
        convert = {"torch": "as_tensor", "jax": "asarray", "tensorflow": "convert_to_tensor"}
        self.framework, self.convert = framework, getattr(module, convert[framework])
        self.arrays: Any = arrays_of(self.convert(np.zeros(1, np.float32)))
        self.copies: list[tuple[int, ...]] = []
        self.monkeypatch, self.host = monkeypatch, type(self.arrays).host

        def counted(arrays, x):
            self.copies.append(tuple(x.shape))
            # A device's memory is not the host's.
            return self.host(arrays, x).copy()

        monkeypatch.setattr(type(self.arrays), "host", counted)
        monkeypatch.setattr(type(self.arrays), "resident", lambda *_: True)

    def native(self, x, dtype="float64"):
        """Return an array of the framework."""
        x = np.asarray(x)
        kind = {"f": dtype, "i": "int32" if self.framework == "jax" else "int64"}.get(x.dtype.kind)
        return self.convert(np.array(x, kind))

    def policy(self, spec, dtype="float64", *, compiled=False):
        """Return a resident policy, whose results are counted too."""
        made: Any = pg.policy(spec, backend=self.framework, seed=3, dtype=dtype, compiled=compiled)
        made.resident, convert = True, made.to_numpy

        def counted(array):
            self.copies.append(tuple(array.shape))
            return convert(array)

        self.monkeypatch.setattr(made, "to_numpy", counted)
        return made

    def batch(self, batch, dtype="float64"):
        """Return a batch with all floats and actions on the accelerator."""
        native = {
            name: self.native(value, dtype)
            for name in PER_STEP
            if (value := getattr(batch, name)) is not None
        }
        final = batch.final_observations
        return pg.Batch(
            **native,
            episode_lengths=batch.episode_lengths,
            terminated=batch.terminated,
            step_weights=batch.step_weights,
            final_observations=None if final is None else self.native(final, dtype),
            final_values=batch.final_values,
            extras={name: self.native(value, dtype) for name, value in batch.extras.items()},
        )

    def steps_copied(self, steps):
        """Return the copies of arrays with that many rows."""
        return [shape for shape in self.copies if shape[:1] == (steps,)]


@pytest.fixture(params=FRAMEWORKS)
def accelerator(request, monkeypatch):
    """Each framework's CPU as an accelerator; a user of float64 in JAX has it switched on."""
    dtype = getattr(request.node, "callspec", request).params.get("dtype", "float64")
    made = Accelerator(request.param, monkeypatch)
    with made.arrays.computing(dtype):
        yield made


def examples(dtype="float64"):
    """Return the first case of each variant of an estimator, by label."""
    labels = {id(estimator): label for label, estimator in variants("estimators").items()}
    result = {}
    for case in cases((dtype,)):
        result.setdefault(labels[id(case.estimator)], case)
    return result


CASES = examples()


def spec_of(head="categorical"):
    """Return a small network's spec."""
    return pg.PolicySpec(NETWORKS["tanh"], HEADS[head], "separate")


def assert_close(actual, expected, tolerance):
    """Raise unless arrays by name agree, relative to the largest entry of each."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        bound = tolerance * max(float(np.abs(value).max()), 1e-3)
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=bound, err_msg=name)


# Estimators whose signals are read where a batch of steps is asked for, and the reason.
READ = {
    "optimal baseline": "a baseline from scores",
    "masked by token, top entropies": "the steps that count in a denominator of its own",
    "bypass, covariance": "the steps to choose from at random",
}


@pytest.mark.parametrize("label", CASES)
def test_every_estimator_has_the_gradient_of_the_host_batch(label, monkeypatch):
    accelerator = Accelerator("torch", monkeypatch)
    source, batch = CASES[label].make("numpy")
    estimator, policy = CASES[label].estimator, accelerator.policy(source.spec)
    policy.load(source.parameters())
    native = accelerator.batch(batch)
    accelerator.copies.clear()
    actual = pg.gradient(policy, estimator, native)
    assert bool(accelerator.steps_copied(batch.num_steps)) == (label in READ)
    assert_close(actual.numpy(), pg.gradient(source, estimator, batch).numpy(), 1e-9)


@pytest.mark.parametrize("label", ["ppo", "vtrace", "dapo", "double q-learning", "gmpo", "trpo"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_frameworks_have_the_gradient_of_the_host_batch(accelerator, label, dtype):
    case = examples(dtype)[label]
    source, batch = case.make("numpy")
    policy = accelerator.policy(source.spec, dtype)
    policy.load(source.parameters())
    native = accelerator.batch(batch, dtype)
    accelerator.copies.clear()
    actual = pg.gradient(policy, case.estimator, native)
    assert not accelerator.steps_copied(batch.num_steps)
    expected = pg.gradient(source, case.estimator, batch)
    assert_close(actual.numpy(), expected.numpy(), 1e-9 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("normalise", ["minibatch", "batch"])
def test_an_inner_loop_copies_nothing(accelerator, normalise, compiled):
    if compiled and len(pg.backend(accelerator.framework).modes) == 1:
        pytest.skip("one mode")
    batch = make_batch()
    policy = accelerator.policy(spec_of(), compiled=compiled)
    reference = pg.policy(spec_of(), backend="numpy", seed=3, dtype="float64")
    estimator = pg.estimator("ppo", normalise=normalise, entropy_coefficient=0.01)
    native = accelerator.batch(batch)
    accelerator.copies.clear()
    both = [(policy, native), (reference, batch)]
    signals = [pg.signals(learner, estimator, given) for learner, given in both]
    optimizers = [pg.optimizer("adam") for _ in both]
    rng = np.random.default_rng(0)
    for _ in range(2):
        for index in batch.minibatches(20, rng):
            for (learner, given), whole, optimizer in zip(both, signals, optimizers, strict=True):
                part = whole.steps(index)
                gradient = pg.gradient(learner, estimator, given.steps(index), signals=part)
                optimizer.step(learner, gradient)
    assert accelerator.copies == []
    assert_close(policy.parameters(), reference.parameters(), 1e-9)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("head", ["categorical", "shared"])
def test_a_trust_region_and_losses_copy_nothing(accelerator, monkeypatch, head, compiled):
    if compiled and len(pg.backend(accelerator.framework).modes) == 1:
        pytest.skip("one mode")
    actions = {"actions": np.random.default_rng(1).standard_normal((STEPS, 2)), "action_mask": None}
    padded = {"step_weights": [1.0] * (STEPS - LENGTH) + [0.0] * LENGTH}
    batch = make_batch(**padded, **(actions if head == "shared" else {}))
    policy = accelerator.policy(spec_of(head), compiled=compiled)
    reference = pg.policy(spec_of(head), backend="numpy", seed=3, dtype="float64")
    policy.load(reference.parameters())
    estimator = pg.estimator("trpo")
    both = [(policy, accelerator.batch(batch)), (reference, batch)]
    accelerator.copies.clear()
    moved, convert = [], policy.to_native
    monkeypatch.setattr(policy, "to_native", lambda x: (moved.append(x), convert(x))[1])
    reports, losses = [], []
    for learner, given in both:
        optimizer = pg.optimizer("trpo")
        gradients = [pg.gradient(learner, estimator, given) for _ in range(2)]
        reports += [optimizer.step(learner, gradient) for gradient in gradients]
        losses.append([gradients[0].loss, gradients[0].plus(gradients[1]).loss])
    assert not accelerator.steps_copied(batch.num_steps)
    # Weights and marks of padding are moved for each gradient's signals, and for no product with the
    # Fisher information, no try of the line search and no step of the critic.
    steps = [len(x) for x in moved if isinstance(x, np.ndarray) and x.ndim]
    assert len([rows for rows in steps if rows >= batch.num_steps]) < 10
    assert_close(policy.parameters(), reference.parameters(), 1e-7)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)
    for actual, expected in zip(reports[:2], reports[2:], strict=True):
        assert actual.accepted
        np.testing.assert_allclose(
            [actual.kl, actual.improvement], [expected.kl, expected.improvement], rtol=1e-5
        )


def test_parts_of_episodes_and_padding_are_gathered_there(accelerator):
    batch = make_batch(step_weights=[1.0] * (STEPS - LENGTH) + [0.0] * LENGTH)
    policy = accelerator.policy(spec_of())
    reference = pg.policy(spec_of(), backend="numpy", seed=3, dtype="float64")
    for estimator in (pg.estimator("gspo", group="all"), pg.estimator("ppo")):
        native = accelerator.batch(batch)
        both = [(policy, native), (reference, batch)]
        signals = [pg.signals(learner, estimator, given) for learner, given in both]
        accelerator.copies.clear()
        for index in ([3, 0, 1], slice(10, 16)):
            actual, expected = (
                pg.gradient(
                    learner,
                    estimator,
                    given.episodes(index),
                    signals=whole.episodes(given, index),
                )
                for (learner, given), whole in zip(both, signals, strict=True)
            )
            assert accelerator.copies == []
            assert_close(actual.numpy(), expected.numpy(), 1e-9)
            np.testing.assert_allclose(actual.loss, expected.loss, rtol=1e-9)
            accelerator.copies.clear()


def test_a_part_says_what_it_holds_where_it_is_read(accelerator):
    batch = make_batch(values=np.arange(STEPS) / 7)
    native = accelerator.batch(batch)
    accelerator.copies.clear()
    index = np.array([5, 2, 2])
    part, whole = native.steps(index), batch.steps(index)
    inner = native.steps(slice(4, 40)).steps([1, -1])
    assert (part.num_steps, part.num_episodes, inner.num_steps) == (3, 3, 2)
    assert accelerator.copies == []
    for name in PER_STEP:
        actual, expected = getattr(part, name), getattr(whole, name)
        np.testing.assert_array_equal(actual, expected, err_msg=name)
    np.testing.assert_array_equal(inner.rewards, batch.rewards[[5, 39]])
    np.testing.assert_array_equal(part.final_values, whole.final_values)
    with pytest.raises(BatchError, match=r"Batch.steps: expected step numbers in \[0, 96\)"):
        native.steps([STEPS])
    with pytest.raises(BatchError, match="expected at least 1 step"):
        native.steps(slice(5, 5))
    with pytest.raises(BatchError, match="expected a one-dimensional index"):
        native.steps(np.array([[0, 1]]))


def test_a_copy_of_native_signals_is_one_of_numpy_arrays(accelerator):
    policy, estimator = accelerator.policy(spec_of()), pg.estimator("reinforce")
    native = accelerator.batch(make_batch())
    signals = pg.signals(policy, estimator, native)
    assert signals.native
    for other in (copy.deepcopy(signals), pickle.loads(pickle.dumps(signals))):
        assert not other.native
        np.testing.assert_array_equal(other["advantage"], signals["advantage"])
    actual = pg.gradient(policy, estimator, native, signals=copy.deepcopy(signals))
    expected = pg.gradient(policy, estimator, native, signals=signals)
    assert_close(actual.numpy(), expected.numpy(), 1e-12)


@pytest.mark.parametrize("none", [False, True])
def test_masked_actions_are_told_where_numbers_are_read(accelerator, none):
    batch = make_batch()
    mask = np.array(batch.action_mask)
    mask[7] = False if none else np.arange(3) != batch.actions[7]
    native = pg.Batch(
        observations=accelerator.native(batch.observations),
        actions=accelerator.native(batch.actions),
        rewards=accelerator.native(batch.rewards),
        action_mask=accelerator.native(mask),
        episode_lengths=[LENGTH] * EPISODES,
        terminated=[True] * EPISODES,
    )
    policy = accelerator.policy(spec_of())
    gradient = pg.gradient(policy, pg.estimator("reinforce"), native)
    with pytest.raises(BatchError, match=r"actions that the mask allows, got \d at step 7"):
        gradient.numpy()
    if none:
        with pytest.raises(BatchError, match="a possible action at every step, got none at step 7"):
            native.check_numbers()


@pytest.mark.parametrize("fault", ["observations", "rewards", "actions"])
def test_numbers_that_are_not_finite_are_told_where_numbers_are_read(accelerator, fault):
    arrays = {
        name: np.array(value)
        for name in ("observations", "actions", "rewards", "log_probs")
        if (value := getattr(make_batch(), name)) is not None
    }
    arrays[fault][7] = 99 if fault == "actions" else np.nan
    native = pg.Batch(
        **{name: accelerator.native(value) for name, value in arrays.items()},
        episode_lengths=[LENGTH] * EPISODES,
        terminated=[True] * EPISODES,
    )
    policy, optimizer = accelerator.policy(spec_of()), pg.optimizer("sgd", learning_rate=0.1)
    before = policy.parameters()

    kept = []

    def learn():
        kept.append(pg.gradient(policy, pg.estimator("reinforce"), native))
        optimizer.step(policy, kept[-1])
        return policy.parameters()

    # The check of actions waits for no device, so that a step may come first.
    if fault == "actions":
        with pytest.raises(
            BatchError, match=r"actions: expected integers in \[0, 3\), got 99 at step 7"
        ):
            learn()
        return
    with pytest.raises(BatchError, match=rf"Batch.{fault}: expected finite numbers, .* at step 7"):
        learn()
    for name, value in before.items():
        np.testing.assert_array_equal(policy.parameters()[name], value)


def test_a_policy_elsewhere_reads_a_native_batch(accelerator):
    batch = make_batch()
    native, estimator = accelerator.batch(batch), pg.estimator("ppo")
    numpy_policy = pg.policy(spec_of(), backend="numpy", seed=3, dtype="float64")
    on_host = pg.policy(spec_of(), backend=accelerator.framework, seed=3, dtype="float64")
    expected = pg.gradient(numpy_policy, estimator, batch)
    for policy in (numpy_policy, on_host):
        assert_close(pg.gradient(policy, estimator, native).numpy(), expected.numpy(), 1e-9)
    wrong = pg.Batch(
        observations=accelerator.native(np.zeros((2, 4))),
        actions=accelerator.native(np.array([0, 3])),
        rewards=accelerator.native(np.zeros(2)),
        episode_lengths=[2],
        terminated=[True],
    )
    with pytest.raises(BatchError, match=r"expected integers in \[0, 3\), got 3 at step 1"):
        pg.gradient(numpy_policy, pg.estimator("reinforce"), wrong)


def test_a_target_elsewhere_bootstraps_a_native_batch(accelerator):
    case = CASES["q-learning"]
    source, batch = case.make("numpy")
    policy = accelerator.policy(source.spec)
    policy.load(source.parameters())
    target = pg.policy(source.spec, backend="numpy", seed=9, dtype="float64")
    native = accelerator.batch(batch)
    actual = pg.gradient(policy, case.estimator, native, target=target)
    expected = pg.gradient(source, case.estimator, batch, target=target)
    assert_close(actual.numpy(), expected.numpy(), 1e-9)


def test_steps_without_signals_are_gathered_there(accelerator):
    batch, estimator = make_batch(), pg.estimator("reinforce")
    policy = accelerator.policy(spec_of())
    reference = pg.policy(spec_of(), backend="numpy", seed=3, dtype="float64")
    native = accelerator.batch(batch)
    actual = pg.gradient(policy, estimator, native.steps([4, 2, 60]))
    expected = pg.gradient(reference, estimator, batch.steps([4, 2, 60]))
    assert_close(actual.numpy(), expected.numpy(), 1e-9)


def test_an_adopted_network_is_tried_on_few_rows(monkeypatch):
    torch = pytest.importorskip("torch")
    accelerator = Accelerator("torch", monkeypatch)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    ).double()
    policy: Any = pg.backend("torch").adopt(net, HEADS["categorical"], critic=None)
    policy.resident = True
    native = accelerator.batch(make_batch())
    accelerator.copies.clear()
    gradient = pg.gradient(policy, pg.estimator("reinforce"), native)
    assert not accelerator.steps_copied(STEPS)
    reference: Any = pg.backend("torch").adopt(
        copy.deepcopy(net), HEADS["categorical"], critic=None
    )
    expected = pg.gradient(reference, pg.estimator("reinforce"), make_batch())
    assert_close(gradient.numpy(), expected.numpy(), 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("head", HEADS)
def test_actions_are_drawn_there(accelerator, head, dtype):
    spec = spec_of(head)
    policy = accelerator.policy(spec, dtype)
    reference = pg.policy(spec, backend="numpy", seed=3, dtype=dtype)
    observations = np.random.default_rng(1).standard_normal((40, 4)).astype(dtype)
    given = accelerator.native(observations, dtype)
    accelerator.copies.clear()
    actions, log_probs = policy.act(given, pg.generator(0))
    modes = policy.mode(given)
    # A copy is made where a head's own code takes NumPy's arrays alone.
    assert accelerator.copies == []
    assert all(accelerator.arrays.owns(x) for x in (actions, log_probs, modes))
    expected, theirs = reference.act(observations, pg.generator(0))
    tolerance = 1e-9 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(np.asarray(actions), expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        np.asarray(log_probs), theirs, rtol=10 * tolerance, atol=10 * tolerance
    )
    np.testing.assert_allclose(np.asarray(modes), reference.mode(observations), atol=tolerance)
    assert accelerator.arrays.dtype(log_probs) == dtype


def test_possible_actions_alone_are_drawn_there(accelerator):
    policy, rng = accelerator.policy(spec_of()), np.random.default_rng(2)
    observations = accelerator.native(rng.standard_normal((200, 4)))
    mask = rng.random((200, 3)) < 0.5
    mask[:, 1] = True
    for given in (mask, accelerator.native(mask)):
        actions, log_probs = policy.act(observations, pg.generator(1), given)
        assert mask[np.arange(200), np.asarray(actions)].all()
        assert np.isfinite(np.asarray(log_probs)).all()
    with pytest.raises(ShapeError, match="observations: expected shape"):
        policy.act(accelerator.native(np.zeros((3, 5))), pg.generator(0))


def test_what_was_drawn_there_makes_a_batch_there(accelerator):
    policy, rng = accelerator.policy(spec_of(), "float32"), pg.generator(0)
    rows = []
    for _ in range(5):
        seen = accelerator.native(rng.standard_normal((7, 4)), "float32")
        actions, log_probs = policy.act(seen, rng)
        rows.append((seen, actions, log_probs, accelerator.native(rng.random(7), "float32")))
    stacked = [np.stack([np.asarray(row[k]) for row in rows]) for k in range(4)]
    names = ("observations", "actions", "log_probs", "rewards")
    arrays = {
        name: accelerator.native(value, "float32")
        for name, value in zip(names, stacked, strict=True)
    }
    truncated = np.zeros((5, 7), bool)
    accelerator.copies.clear()
    batch = pg.Batch.from_rollout(
        **arrays,
        terminated=truncated,
        truncated=truncated,
        last_observations=accelerator.native(rng.standard_normal((7, 4)), "float32"),
    )
    gradient = pg.gradient(policy, pg.estimator("ppo"), batch)
    pg.optimizer("adam").step(policy, gradient)
    assert accelerator.copies == []
    assert np.isfinite(gradient.loss)


class Joined:
    """A torch module that joins a dict of arrays, and one that reads the other of them."""

    def __new__(cls, torch, seed=0):
        """Return actor and critic."""
        torch.manual_seed(seed)

        class Net(torch.nn.Module):
            def __init__(self, names, inputs, outputs):
                super().__init__()
                self.names, self.layer = names, torch.nn.Linear(inputs, outputs)

            def forward(self, seen):
                return self.layer(torch.cat([seen[name].flatten(1) for name in self.names], 1))

        return Net(("image", "speed"), 5, 3).double(), Net(("speed", "hidden"), 3, 1).double()


def observations_by_name(shape, seed=0):
    """Return a dict of arrays of a shape, the critic's own among them."""
    rng = np.random.default_rng(seed)
    trailing = {"image": (2, 2), "speed": (1,), "hidden": (2,)}
    return {name: rng.standard_normal((*shape, *rest)) for name, rest in trailing.items()}


@pytest.mark.parametrize("constructor", ["flat", "rollout", "padded", "steps", "replay"])
def test_observations_by_name_stay_there(monkeypatch, constructor):
    torch = pytest.importorskip("torch")
    accelerator = Accelerator("torch", monkeypatch)
    rng, actor_critic = np.random.default_rng(3), Joined(torch)
    shape = (6, 4) if constructor in ("rollout", "padded") else (24,)
    seen = observations_by_name(shape)
    arrays: dict[str, Any] = {
        "observations": seen,
        "actions": rng.integers(0, 3, shape),
        "rewards": rng.standard_normal(shape),
        "log_probs": np.full(shape, -1.1),
    }
    flags: dict[str, Any]
    if constructor == "flat":
        flags = {"episode_lengths": [12, 12], "terminated": [True, False]}
        arrays["final_observations"] = observations_by_name((2,), 1)
    elif constructor == "rollout":
        flags = {"terminated": rng.random(shape) < 0.2, "truncated": np.zeros(shape, bool)}
        flags["autoreset"] = "disabled"
        arrays["last_observations"] = observations_by_name((4,), 1)
    elif constructor == "padded":
        flags = {"mask": np.arange(4) < rng.integers(1, 5, (6, 1))}
    elif constructor == "steps":
        flags = {"terminated": np.arange(24) % 6 == 5, "truncated": np.arange(24) % 8 == 7}
        following = {name: np.roll(value, -1, 0) for name, value in seen.items()}
        arrays["next_observations"] = following
    else:
        flags = {"terminated": rng.random(24) < 0.3}
        arrays["next_observations"] = observations_by_name((24,), 1)
    made = {"flat": pg.Batch, "rollout": pg.Batch.from_rollout, "padded": pg.Batch.from_padded}
    made |= {"steps": pg.Batch.from_steps, "replay": pg.Batch.from_replay}
    make = made[constructor]

    def there(value):
        if isinstance(value, dict):
            return {name: accelerator.native(x) for name, x in value.items()}
        return accelerator.native(value)

    batch = make(**arrays, **flags)
    accelerator.copies.clear()
    native = make(**{name: there(value) for name, value in arrays.items()}, **flags)
    assert accelerator.copies == []
    policies = []
    for resident in (True, False):
        actor, critic = copy.deepcopy(actor_critic)
        policy: Any = pg.backend("torch").adopt(actor, HEADS["categorical"], critic=critic)
        policy.resident = resident
        policies.append(policy)
    estimator = pg.estimator("actor_critic")
    for _ in range(20):
        policies[0].try_out(native)
    accelerator.copies.clear()
    whole = pg.signals(policies[0], estimator, native)
    actual = pg.gradient(policies[0], estimator, native.steps([5, 1]), signals=whole.steps([5, 1]))
    assert accelerator.copies == []
    theirs = pg.signals(policies[1], estimator, batch).steps([5, 1])
    expected = pg.gradient(policies[1], estimator, batch.steps([5, 1]), signals=theirs)
    assert_close(actual.numpy(), expected.numpy(), 1e-9)
    for name in ("image", "speed", "hidden"):
        np.testing.assert_array_equal(native.observations[name], batch.observations[name])
    drawn, _ = policies[0].act(there(observations_by_name((9,), 4)), pg.generator(0))
    others, _ = policies[1].act(observations_by_name((9,), 4), pg.generator(0))
    np.testing.assert_array_equal(np.asarray(drawn), others)


def test_observations_by_name_are_laid_out_alike(monkeypatch):
    native = Accelerator("torch", monkeypatch).native
    seen = {"image": native(np.zeros((3, 2))), "speed": native(np.zeros((2, 2)))}
    with pytest.raises(ShapeError, match=r"observations\['speed'\]: expected shape \[3, '...'\]"):
        pg.Batch(
            observations=seen,
            actions=[0, 1, 0],
            rewards=native(np.zeros(3)),
            episode_lengths=[3],
            terminated=[True],
        )


def wrong_batch(accelerator):
    """Return a batch with an action that is none, in step 7."""
    actions = np.array(make_batch().actions)
    actions[7] = 99
    return pg.Batch(
        observations=accelerator.native(make_batch().observations),
        actions=accelerator.native(actions),
        rewards=accelerator.native(make_batch().rewards),
        episode_lengths=[LENGTH] * EPISODES,
        terminated=[True] * EPISODES,
    )


def test_a_failed_check_fails_again(accelerator):
    wrong, estimator, message = (
        wrong_batch(accelerator),
        pg.estimator("reinforce"),
        "got 99 at step 7",
    )
    policy = accelerator.policy(spec_of())
    host = pg.policy(policy.spec, backend="numpy", dtype="float64")
    for _ in range(2):
        with pytest.raises(BatchError, match=message):
            _ = pg.gradient(policy, estimator, wrong).loss
        with pytest.raises(BatchError, match=message):
            pg.gradient(host, estimator, wrong)
    signals = pg.signals(policy, estimator, wrong)
    with pytest.raises(BatchError, match=message):
        pg.gradient(host, estimator, wrong, signals=copy.deepcopy(signals))
    for other in (wrong.steps([6, 7, 8]), wrong.pad(STEPS + 4), copy.copy(wrong)):
        with pytest.raises(BatchError, match="expected integers in"):
            pg.gradient(host, estimator, other)


def test_checks_of_dead_batches_are_few(accelerator):
    policy = accelerator.policy(spec_of())
    for _ in range(20):
        pg.signals(policy, pg.estimator("actor_critic"), accelerator.batch(make_batch()))
    assert len(policy.unread.checks) <= 8


def test_native_signals_refuse_changes_and_take_others(accelerator):
    policy, estimator = accelerator.policy(spec_of()), pg.estimator("reinforce")
    native = accelerator.batch(make_batch())
    signals = pg.signals(policy, estimator, native)
    with pytest.raises(ValueError, match="read-only"):
        signals.values["advantage"][:] = 0.0
    with pytest.raises(ValueError, match="read-only"):
        signals.values["advantage"] *= 2
    before = pg.gradient(policy, estimator, native, signals=signals).loss
    signals.values["advantage"] = np.asarray(signals.values["advantage"]) * 2
    after = pg.gradient(policy, estimator, native, signals=signals)
    np.testing.assert_allclose(after.loss, 2 * before, rtol=1e-12)


@pytest.mark.parametrize(
    ("of_batch", "of_policy"), [("float32", "float64"), ("float64", "float32")]
)
def test_signals_have_the_policys_dtype_and_the_wider_ones_digits(accelerator, of_batch, of_policy):
    batch, estimator = make_batch(), pg.estimator("ppo")
    rounded = pg.Batch(
        **{
            name: value.astype(of_batch) if value.dtype.kind == "f" else value
            for name in PER_STEP
            if (value := getattr(batch, name)) is not None
        },
        episode_lengths=batch.episode_lengths,
        terminated=batch.terminated,
    )
    policy = accelerator.policy(spec_of(), of_policy)
    reference = pg.policy(spec_of(), backend="numpy", seed=3, dtype=of_policy)
    native = accelerator.batch(batch, of_batch)
    signals = pg.signals(policy, estimator, native)
    assert signals.native
    for value in (*signals.values.values(), signals.steps([3, 1]).values["advantage"]):
        assert value.dtype == of_policy
    actual = pg.gradient(policy, estimator, native, signals=signals)
    expected = pg.gradient(reference, estimator, rounded)
    assert_close(actual.numpy(), expected.numpy(), 1e-12 if of_policy == "float64" else 1e-5)
    part = signals.steps(slice(0, 12))
    part.values["advantage"] = np.ones(12, of_policy)
    gradient = pg.gradient(policy, estimator, native.steps(slice(0, 12)), signals=part)
    assert np.isfinite(gradient.norm())


@dataclasses.dataclass(frozen=True)
class Numbered(GSPO):
    """An estimator whose `finalise` reads the numbers of episodes."""

    name = "numbered"

    def finalise(self, signals, padding):
        """Add a multiple of the number."""
        return signals | {"advantage": signals["advantage"] + 0.1 * signals["episode"]}


def test_episodes_of_a_part_are_numbered_before_signals_are_finalised(accelerator):
    batch, estimator = make_batch(), Numbered(group="all")
    policy = accelerator.policy(spec_of())
    reference = pg.policy(spec_of(), backend="numpy", seed=3, dtype="float64")
    both = [(policy, accelerator.batch(batch)), (reference, batch)]
    actual, expected = (
        pg.gradient(
            learner,
            estimator,
            given.episodes([3, 0, 9]),
            signals=pg.signals(learner, estimator, given).episodes(given, [3, 0, 9]),
        )
        for learner, given in both
    )
    assert_close(actual.numpy(), expected.numpy(), 1e-9)


def test_a_mask_on_the_device_has_the_policys_shape(accelerator):
    policy, seen = accelerator.policy(spec_of()), accelerator.native(np.zeros((5, 4)))
    for shape in ((3,), (1, 3), (5, 1), (5, 4)):
        with pytest.raises(ShapeError, match=r"action_mask: expected shape \[5, 3\]"):
            policy.act(seen, pg.generator(0), accelerator.native(np.ones(shape, bool)))


def test_half_precision_is_widened(accelerator):
    policy = accelerator.policy(spec_of(), "float32")
    seen = np.random.default_rng(0).integers(-4, 4, (6, 4)) / 4
    halves = accelerator.arrays.cast(accelerator.native(seen, "float32"), "bfloat16")
    actions, log_probs = policy.act(halves, pg.generator(0))
    others, theirs = policy.act(accelerator.native(seen, "float32"), pg.generator(0))
    np.testing.assert_array_equal(np.asarray(actions), np.asarray(others))
    np.testing.assert_array_equal(np.asarray(log_probs), np.asarray(theirs))


def test_parts_of_a_native_batch_copy_what_is_read_alone(accelerator):
    policy = accelerator.policy(spec_of())
    native = accelerator.batch(make_batch())
    accelerator.copies.clear()
    policy.evaluate(native.steps([4, 2]), ("log_prob",))
    assert accelerator.steps_copied(STEPS) == []


def test_a_native_batch_keeps_no_array_of_the_caller(monkeypatch):
    pytest.importorskip("torch")
    accelerator = Accelerator("torch", monkeypatch)
    batch: Any = accelerator.batch(make_batch())
    for empty in (batch.like, batch.device.like):
        assert empty.untyped_storage().nbytes() == 0


def test_float64_on_a_device_is_kept_where_jax_has_none():
    """Code outside of pgcore's own, such as an optimizer's, runs under the process's setting."""
    jnp = pytest.importorskip("jax.numpy")
    enable_x64 = importlib.import_module("pgcore_jax.parameters").enable_x64
    numbers = np.random.default_rng(0).standard_normal((4, 3))
    with enable_x64(True):
        native = jnp.asarray(numbers)
        arrays: Any = arrays_of(native)
        device = Device(arrays, native[:0], "float64")

    def changed(x):
        x = x.copy()
        x[1] = 0.1
        return x

    functions = [
        lambda x: np.ones_like(x[:, 0]) / 3.0,
        lambda x: x * x + 0.1,
        lambda x: np.exp(x).sum(axis=1),
        lambda x: np.vdot(x[0], x[1]),
        lambda x: np.where(x > 0, x, 0.1),
        lambda x: x.reshape(3, 4)[[2, 0]],
        lambda x: np.asarray(x, np.float64).astype(np.float64),
        changed,
    ]
    with enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        for function in functions:
            found, expected = function(device.array(native)), function(numbers)
            assert found.dtype == np.float64
            np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-15)
