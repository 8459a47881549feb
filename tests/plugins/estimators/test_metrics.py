import math

import numpy as np
import pytest

from pgcore.registry.registry import registry
from pgcore_estimators import metrics

LOG_RATIO = np.log([1.0, 2.0, 0.5])
VALUE, RETURN = np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 0.0])

# Name, what the metric is given, and its value worked out by hand.
BY_HAND = {
    "entropy": ({"entropy": np.array([1.0, 3.0])}, 2.0),
    "kl": ({"kl": np.array([0.25, 0.75])}, 0.5),
    # Logarithms of 2 and 1/2 cancel in (0 + (2 - 1 - log 2) + (1/2 - 1 + log 2)) / 3.
    "approx_kl": ({"log_ratio": LOG_RATIO}, 1 / 6),
    "clip_fraction": ({"clipped": np.array([True, False, False, False])}, 0.25),
    # The ratios add up to 7/2, and their squares to 21/4.
    "effective_sample_size": ({"log_ratio": LOG_RATIO}, 7 / 3),
    # The weights add up to 3, and their squares to 5.
    "gain_weight_sample_size": ({"gain_weight": np.array([1.0, 2.0, 0.0])}, 9 / 5),
    "gain_weight_max": ({"gain_weight": np.array([1.0, 2.0, 0.0])}, 2.0),
    "ratio_min": ({"log_ratio": LOG_RATIO}, 0.5),
    "ratio_max": ({"log_ratio": LOG_RATIO}, 2.0),
    "action_value": ({"action_value": np.array([2.0, -1.0])}, 0.5),
    # Half the mean of the squared errors 0, 4 and 9.
    "value_loss": ({"value": VALUE, "return_": RETURN}, 13 / 6),
    # Errors 0, 2, -3 have the variance 38/9, and returns 26/9.
    "explained_variance": ({"value": VALUE, "return_": RETURN}, -6 / 13),
    "gradient_norm": ({"gradient_norm": 1.5}, 1.5),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_metric_is_the_number_worked_out_by_hand(name):
    given, expected = BY_HAND[name]
    assert getattr(metrics, name)(**given) == pytest.approx(expected, rel=1e-14)


def test_every_built_in_metric_is_worked_out_here_and_registered():
    assert set(metrics.__all__) == BY_HAND.keys() == set(registry().names("metrics"))
    assert all(registry().load("metrics", name) is getattr(metrics, name) for name in BY_HAND)


@pytest.mark.parametrize("level", [0.1, 0.0, -7.3])
def test_the_explained_variance_of_equal_returns_is_not_a_number(level):
    # Rounding gives three returns of 0.1 a variance above 0.
    assert math.isnan(metrics.explained_variance(value=VALUE, return_=np.full(3, level)))


def test_ratios_that_overflow_have_an_effective_size_all_the_same():
    log_ratio = np.array([5000.0, 5000.0, -5000.0])
    assert metrics.effective_sample_size(log_ratio=log_ratio) == 2.0
    with np.errstate(over="ignore"):
        assert metrics.ratio_max(log_ratio=log_ratio) == math.inf
        assert metrics.approx_kl(log_ratio=log_ratio) == math.inf
