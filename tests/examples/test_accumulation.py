"""Gradient accumulation: sums of parts are the whole, and means of parts are not."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")


@pytest.fixture
def accumulate(loop, double):
    """Return a function from the name of a loss and a micro-batch's size to the loss and gradient."""
    module = loop("accumulation")
    torch.manual_seed(0)
    model = module.Model()
    answers = module.Answers(model)
    module.moved(model)

    def run(name, size):
        losses = getattr(module, name)(model, answers, size)
        loss, gradient = module.accumulated(losses, model)
        return np.append(gradient.numpy(), loss)

    return run


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_any_micro_batches_sum_to_the_whole(accumulate, assert_swap, size):
    whole = accumulate("usual", 8)
    assert_swap(accumulate("usual", size), whole)
    assert_swap(accumulate("by_pgcore", size), whole)


def test_a_mean_of_means_is_another_gradient(accumulate, assert_swap):
    whole = accumulate("usual", 8)
    assert_swap(accumulate("mean_of_means", 8), whole)
    means = accumulate("mean_of_means", 2)
    assert np.linalg.norm(means - whole) > 0.1 * np.linalg.norm(whole)
