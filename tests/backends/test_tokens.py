"""The group-relative estimators on a small language model, as the example has it: it learns to copy from reward alone."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

EXAMPLE = Path(__file__).parents[2] / "examples" / "copy_digits.py"


@pytest.fixture(scope="module")
def example():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield runpy.run_path(str(EXAMPLE))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("estimator", ["rloo", "grpo", "dr_grpo", "gspo", "cispo", "reinforce_pp"])
def test_a_model_learns_to_copy_from_reward_alone(estimator, example):
    shares = example["learn"](estimator, updates=400, seed=1)
    assert np.mean(shares[:25]) < 0.02  # one in a thousand by chance
    assert np.mean(shares[-25:]) > 0.8


def test_rewards_are_for_right_digits(example):
    class Certain:
        """Answers 7 to everything."""

        def act(self, tokens, rng):
            return np.full(len(tokens), 7), np.zeros(len(tokens))

    batch = example["answers"](Certain(), np.array([[7, 7, 7], [7, 0, 7], [1, 2, 3]]), None)
    np.testing.assert_array_equal(batch.rewards.reshape(3, 3)[:, -1], [1.0, 0.2, 0.0])
    np.testing.assert_array_equal(batch.extras["group"][::3], [777, 707, 123])
