"""Settings and fixtures that all tests share."""

import hypothesis
import numpy as np
import pytest

from pgcore.batch import Batch

# The same examples in every run, and no health check that looks at the clock.
hypothesis.settings.register_profile(
    "pgcore",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("pgcore")


@pytest.fixture
def batch_fields():
    """What `Batch` takes: two episodes of 2 and 4 steps, the second one cut, three actions, every optional array but weights."""
    rng = np.random.default_rng(20)
    actions = np.array([0, 2, 1, 1, 0, 2])
    mask = rng.random((6, 3)) < 0.5
    mask[np.arange(6), actions] = True
    return {
        "observations": rng.standard_normal((6, 3)),
        "actions": actions,
        "rewards": rng.standard_normal(6),
        "episode_lengths": np.array([2, 4]),
        "terminated": np.array([True, False]),
        "final_observations": rng.standard_normal((2, 3)),
        "log_probs": -rng.random(6),
        "action_mask": mask,
        "extras": {"reference": np.log(np.full((6, 3), 1 / 3)), "teacher": np.arange(6)},
    }


@pytest.fixture
def make_batch(batch_fields):
    """Return a function that makes a batch of `batch_fields`, with those replaced that it is given; None leaves one out."""
    return lambda **replaced: Batch(
        **{name: value for name, value in (batch_fields | replaced).items() if value is not None}
    )
