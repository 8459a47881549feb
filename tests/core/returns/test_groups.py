"""Groups of episodes, and slices of whole episodes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError
from pgcore.returns import by_group, episode_rewards, group_of_episode, group_ranks
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants

HEADS = variants("heads")

LENGTHS = [2, 1, 3, 1]


def batch_of(group=None, **fields):
    """Return four episodes whose rewards are 0, 1, 2, ..."""
    extras = {} if group is None else {"group": np.asarray(group)}
    return pg.Batch(
        observations=np.zeros((7, 1)),
        actions=np.zeros(7, int),
        rewards=np.arange(7.0),
        episode_lengths=LENGTHS,
        terminated=[True] * 4,
        extras=extras,
        **fields,
    )


POLICY = pg.policy(pg.PolicySpec(pg.Linear(1), pg.Categorical(2)), dtype="float64")
GROUPED = {name: pg.estimator(name) for name in ("rloo", "grpo", "dr_grpo", "gspo", "cispo")}
GROUPED["reinforce_pp"] = pg.estimator("reinforce_pp", baseline="group")


@pytest.mark.parametrize("estimator", GROUPED.values(), ids=GROUPED)
def test_a_batch_without_groups_is_one_only_where_that_is_asked_for(estimator):
    with pytest.raises(
        BatchError,
        match=r"extras\['group'\]: expected \[B\] integers, .*got none; number .*(group='all'|one group)",
    ):
        pg.gradient(POLICY, estimator, batch_of())
    asked = dataclasses.replace(estimator, group="all")
    expected = pg.signals(POLICY, estimator, batch_of(np.zeros(7, int)))["advantage"]
    for group in (None, np.repeat([5, 2, 5, 2], LENGTHS)):
        np.testing.assert_array_equal(
            pg.signals(POLICY, asked, batch_of(group))["advantage"], expected
        )
        padded = pg.signals(POLICY, asked, batch_of(group).pad(9))["advantage"]
        np.testing.assert_allclose(padded[:7], expected, rtol=1e-14)
    with pytest.raises(EstimatorError, match=r"group: expected one of 'extra', 'all', got 'none'"):
        dataclasses.replace(estimator, group="none")


def test_groups_of_joined_batches_are_not_compared_with_each_other():
    def of_rewards(rewards):
        fields = {"observations": np.zeros((2, 1)), "actions": [0, 0], "rewards": rewards}
        return pg.Batch(
            **fields, episode_lengths=[1, 1], terminated=[True] * 2, extras={"group": [0, 0]}
        )

    joined = pg.Batch.concatenate([of_rewards([1.0, 0.0]), of_rewards([11.0, 10.0])])
    found = pg.signals(POLICY, pg.estimator("grpo"), joined)["advantage"]
    np.testing.assert_allclose(found, np.sqrt(0.5) * np.array([1, -1, 1, -1]), rtol=1e-7)


def test_a_group_is_numbered_on_every_step():
    batch = batch_of(np.repeat([5, 2, 5, 2], LENGTHS))
    np.testing.assert_array_equal(group_of_episode(batch), [5, 2, 5, 2])
    np.testing.assert_array_equal(group_ranks(batch), [1, 0, 1, 0])
    np.testing.assert_array_equal(group_ranks(batch_of(np.full(7, 5))), [0, 0, 0, 0])
    np.testing.assert_array_equal(group_ranks(batch, "all"), [0, 0, 0, 0])
    np.testing.assert_array_equal(episode_rewards(batch), [1.0, 2.0, 12.0, 6.0])
    np.testing.assert_array_equal(
        by_group(lambda x: x - x.mean(), episode_rewards(batch), batch), [-5.5, -2, 5.5, 2]
    )


def test_padding_is_in_no_group():
    batch = batch_of(np.repeat([5, 2, 5, 2], LENGTHS)).pad(9)
    found = by_group(lambda x: x - x.mean(), episode_rewards(batch), batch)
    np.testing.assert_array_equal(found, [-5.5, -2, 5.5, 2, 0, 0])


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (np.zeros(7), r"expected \[B\] integers, got float64"),
        (np.zeros((7, 2), int), r"expected \[B\] integers, got int64 of shape \[7, 2\]"),
        ([0, 0, 1, 2, 2, 3, 4], "got another at step 5"),
    ],
)
def test_bad_groups_are_named(group, words):
    with pytest.raises(BatchError, match=words):
        group_of_episode(batch_of(group))
    with pytest.raises(BatchError, match=words):
        group_ranks(batch_of(group))


def test_a_group_of_one_has_nothing_to_leave_out():
    policy = pg.policy(pg.PolicySpec(pg.Linear(1), pg.Categorical(2)), dtype="float64")
    batch = batch_of(np.repeat([5, 2, 5, 5], LENGTHS))
    with pytest.raises(
        BatchError,
        match=r"group 2: advantage 'group_relative': expected at least 2 episodes in each group, got 1",
    ):
        pg.signals(policy, pg.estimator("rloo"), batch)
    assert pg.signals(policy, pg.estimator("grpo"), batch)["advantage"][2] == 0.0


@pytest.mark.parametrize("name", ["rloo", "grpo", "reinforce_pp"])
def test_a_penalty_needs_the_references_log_probs(name):
    policy = pg.policy(pg.PolicySpec(pg.Linear(1), pg.Categorical(2)), dtype="float64")
    with pytest.raises(
        BatchError,
        match=r"reference_log_probs.*got none; add them, or set the penalty's coefficient to 0",
    ):
        pg.signals(policy, pg.estimator(name, kl_coefficient=0.1), batch_of(np.zeros(7, int)))


def test_equal_rewards_move_nothing():
    policy = pg.policy(pg.PolicySpec(pg.Linear(1), pg.Categorical(2)), dtype="float64")
    rewards = np.zeros(7)
    rewards[[1, 2, 5, 6]] = 0.1
    batch = batch_of()
    same = pg.Batch(
        observations=batch.observations,
        actions=batch.actions,
        rewards=rewards,
        episode_lengths=LENGTHS,
        terminated=[True] * 4,
    )
    for name in ("rloo", "grpo", "dr_grpo", "gspo", "cispo"):
        found = pg.gradient(policy, pg.estimator(name, group="all"), same).numpy()
        # The mean of the others is rounded by itself.
        assert all(
            np.abs(value).max() <= (1e-16 if name == "rloo" else 0.0) for value in found.values()
        ), name


def test_every_group_weighs_the_same_in_cispo_however_long_its_episodes():
    policy, made = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["hot"]), "numpy", "float64", seed=4
    )
    whole = made.episodes([0, 1, 2, 4])
    group = np.repeat([8, 8, 5, 5], whole.episode_lengths)
    names = (
        "observations",
        "actions",
        "rewards",
        "episode_lengths",
        "terminated",
        "log_probs",
        "action_mask",
    )
    fields = {name: getattr(whole, name) for name in names}
    batch = pg.Batch(**fields, final_observations=whole.final_observations, extras={"group": group})
    estimator = pg.estimator("cispo", clip_low=0.1)
    found = pg.gradient(policy, estimator, batch.pad(40)).numpy()
    alone = [
        pg.gradient(policy, estimator, batch.episodes(own)).numpy() for own in ([0, 1], [2, 3])
    ]
    assert len({batch.episodes(own).num_steps for own in ([0, 1], [2, 3])}) == 2
    for name, value in found.items():
        np.testing.assert_allclose(
            value, (alone[0][name] + alone[1][name]) / 2, rtol=1e-12, atol=1e-15
        )


# Slices of whole episodes


@pytest.fixture
def case():
    return make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["hot"]), "numpy", "float64", seed=3, padding=4
    )


@pytest.mark.parametrize("name", ["gspo", "trajectory_is", "grpo"])
def test_the_mean_over_parts_of_equally_many_episodes_is_the_whole_gradient(case, name):
    policy, batch = case
    batch = batch.episodes([0, 1, 2, 3])
    estimator = pg.estimator(name)
    signals = pg.signals(policy, estimator, batch)
    whole = pg.gradient(policy, estimator, batch, signals=signals).numpy()
    parts = [
        pg.gradient(
            policy, estimator, batch.episodes(index), signals=signals.episodes(batch, index)
        ).numpy()
        for index in ([3, 0], [1, 2])
    ]
    for key, value in whole.items():
        np.testing.assert_allclose(
            (parts[0][key] + parts[1][key]) / 2, value, rtol=1e-12, atol=1e-15
        )


def test_padding_counts_for_nothing_in_a_slice(case):
    policy, batch = case
    estimator = pg.estimator("gspo")
    signals = pg.signals(policy, estimator, batch)
    part, padded = [2, 4], [2, 4, 5]
    found = [
        pg.gradient(
            policy, estimator, batch.episodes(index), signals=signals.episodes(batch, index)
        ).numpy()
        for index in (part, padded)
    ]
    for key, value in found[0].items():
        np.testing.assert_allclose(found[1][key], value, rtol=1e-13, atol=1e-16)


def test_steps_of_an_estimator_that_sees_episodes_are_refused(case):
    policy, batch = case
    signals = pg.signals(policy, pg.estimator("gspo"), batch)
    with pytest.raises(EstimatorError, match=r"slice with Batch\.episodes and Signals\.episodes"):
        signals.steps(slice(0, 4))
    with pytest.raises(BatchError, match=r"Batch\.episodes: expected episode numbers"):
        signals.episodes(batch, [99])


def test_steps_of_an_estimator_that_weighs_episodes_scores_are_refused(case):
    """Left out would be a step, not an episode: with parts of single steps the baseline would know of the own episode's rewards."""
    policy, batch = case
    estimator = pg.estimator("reinforce", baseline="optimal_per_component")
    assert estimator.sees_episodes
    signals = pg.signals(policy, estimator, batch)
    with pytest.raises(EstimatorError, match=r"slice with Batch\.episodes and Signals\.episodes"):
        signals.steps(slice(0, 4))
    order = [2, 0, 3, 1, *range(4, batch.num_episodes)]
    whole = pg.gradient(policy, estimator, batch, signals=signals).numpy()
    moved = pg.gradient(
        policy, estimator, batch.episodes(order), signals=signals.episodes(batch, order)
    ).numpy()
    for key, value in whole.items():
        np.testing.assert_allclose(moved[key], value, rtol=1e-12, atol=1e-15)


def test_long_batches_are_cut_where_episodes_end():
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["linear"], HEADS["hot"]), "numpy", "float64", seed=3, steps=1500
    )
    estimator = pg.estimator("gspo", clip_low=0.2, clip_high=0.3)
    whole = pg.gradient(policy, estimator, batch).numpy()
    signals = pg.signals(policy, estimator, batch)
    single = [
        pg.gradient(
            policy, estimator, batch.episodes([e]), signals=signals.episodes(batch, [e])
        ).numpy()
        for e in range(batch.num_episodes)
    ]
    for key, value in whole.items():
        np.testing.assert_allclose(
            np.mean([each[key] for each in single], axis=0), value, rtol=1e-11, atol=1e-14
        )
