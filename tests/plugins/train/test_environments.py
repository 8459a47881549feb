import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.vector import AutoresetMode

from pgcore.errors import UnsupportedEnvironmentError
from pgcore_train.rollout.environments import make_environments


class Still(gymnasium.Env):
    """Has any spaces and does nothing."""

    def __init__(self, observations, actions) -> None:
        self.observation_space, self.action_space = observations, actions
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.taken.append(int(action) if isinstance(self.action_space, Discrete) else action.copy())
        return self.observation_space.sample(), 0.0, False, False, {}


REAL, FEW = Box(-1.0, 1.0, (3,)), Discrete(2)


def test_an_unknown_name_is_answered_with_near_ones_and_all():
    with pytest.raises(
        UnsupportedEnvironmentError,
        match=r"got 'Cartpole-v1'; did you mean 'CartPole-v1'.* known: Acrobot-v1, .*CartPole-v1",
    ):
        make_environments("Cartpole-v1", 1)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(
        UnsupportedEnvironmentError,
        match="expected one that can be made, got Malformed environment ID",
    ):
        make_environments("no name at all", 1)


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(
        UnsupportedEnvironmentError,
        match=r"'no_such_module:Foo-v0': expected .* the module 'no_such_module'",
    ):
        make_environments("no_such_module:Foo-v0", 1)


def test_arguments_that_the_environment_does_not_take_are_refused():
    with pytest.raises(
        UnsupportedEnvironmentError, match="expected keyword arguments that it takes, got gravity"
    ):
        make_environments("CartPole-v1", 1, {"gravity": 1.0})


def test_an_error_of_the_environments_own_is_shown_unchanged(register):
    def broken():
        raise TypeError("its author's mistake")

    name = register(broken)
    with pytest.raises(TypeError, match="its author's mistake"):
        make_environments(name, 1)


@pytest.mark.parametrize(
    ("space", "part"),
    [
        (Text(3), ""),
        (Dict({"x": FEW, "y": Text(3)}), ", part y"),
        (Dict({"x": Tuple((REAL, Dict({"z": Text(3)})))}), ", part x.1.z"),
    ],
    ids=str,
)
def test_unsupported_observations_are_refused(vector_of, space, part):
    with pytest.raises(
        UnsupportedEnvironmentError,
        match=f"^observation space{part}: expected Box, Discrete, .* got Text",
    ):
        vector_of([Still(space, FEW)])


@pytest.mark.parametrize(
    "space",
    [
        Text(3),
        MultiDiscrete(np.array([[2, 3]])),
        MultiBinary([2, 3]),
        Box(0, 3, (2,), np.int64),
        Box(-1.0, 1.0, (2, 2)),
    ],
    ids=str,
)
def test_unsupported_actions_are_refused(vector_of, space):
    with pytest.raises(
        UnsupportedEnvironmentError,
        match="action space: expected Discrete, or MultiDiscrete, MultiBinary or a Box of real numbers of one dimension, got",
    ):
        vector_of([Still(REAL, space)])


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_vector_that_resets_by_itself_is_refused(vector_of, mode):
    with pytest.raises(UnsupportedEnvironmentError, match=r"expected AutoresetMode.DISABLED"):
        vector_of([Still(REAL, FEW)], mode)


def test_made_environments_do_not_reset_by_themselves():
    environments = make_environments("CartPole-v1", 2)
    observations, terminated = environments.reset(), np.zeros(2, np.bool_)
    while not terminated.any():
        observations, _, terminated, _ = environments.step(np.ones(2, np.intp))
    assert (
        abs(observations[terminated][0, 2]) > 0.2
    )  # The pole has fallen: this is the end, and no new beginning.
    again = environments.restart(terminated)
    assert abs(again[terminated][0, 2]) < 0.06
    np.testing.assert_array_equal(again[~terminated], observations[~terminated])


def test_discrete_spaces_are_numbered_from_zero(vector_of):
    instance = Still(Discrete(4, start=-2, seed=0), Discrete(3, start=5))
    environments = vector_of([instance])
    seen = [int(environments.reset()[0])]
    seen += [int(environments.step(np.array([action]))[0][0]) for action in (0, 1, 2) * 10]
    assert set(seen) == {0, 1, 2, 3}
    assert instance.taken == [5, 6, 7] * 10


@pytest.mark.parametrize(
    ("space", "actions", "taken"),
    [
        (MultiDiscrete([3, 2]), [2, 1], [2, 1]),
        (MultiDiscrete([3, 2], start=[4, -1]), [2, 1], [6, 0]),
        (MultiBinary(3), [0, 1, 1], [0, 1, 1]),
    ],
)
def test_several_choices_are_handed_on_in_the_terms_of_their_space(
    vector_of, space, actions, taken
):
    instance = Still(Discrete(2), space)
    environments = vector_of([instance])
    environments.reset()
    environments.step(np.array([actions]))
    assert instance.action_space.contains(instance.taken[0])
    assert instance.taken[0].tolist() == taken


def test_bounded_actions_are_scaled_to_their_space(vector_of):
    instance = Still(
        Discrete(2), Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
    )
    environments = vector_of([instance])
    environments.reset()
    for actions in ([-1.0, -1.0], [0.5, 0.0], [1.0, 1.0]):
        environments.step(np.array([actions]), bounded=True)
    assert np.array(instance.taken).tolist() == [[-2.0, 0.0], [1.0, 0.5], [2.0, 1.0]]


def test_seeds_decide_what_environments_do():
    first, second, other = (
        make_environments("CartPole-v1", 3, entropy=entropy) for entropy in ([7, 1], [7, 1], [7, 2])
    )
    start = first.reset().copy()
    np.testing.assert_array_equal(second.reset(), start)
    assert len(np.unique(start[:, 0])) == 3
    assert not np.array_equal(other.reset(), start)
    # Every episode has a seed of its own.
    again = first.restart(np.array([False, True, False]))
    assert (again == start).all(axis=1).tolist() == [True, False, True]
