"""The suite's comparison of trust regions finds a backend that is a little off."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.interfaces.policy import Policy
from pgcore_check.suite.material import flat
from pgcore_check.suite.test_trust_regions import ROUNDOFFS, gap, run


@pytest.mark.parametrize("what", ["fisher", "gradient"])
def test_a_backend_that_is_a_little_off_is_found(monkeypatch, what):
    """One part in a billion, on NumPy: well beyond rounding, and well below what anybody would see in a learning curve."""
    expected, _ = run("numpy", "trpo", "categorical", "tanh", "float64", 1)
    owner: type[Policy] = type(
        pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2)), backend="numpy")
    )
    if what == "fisher":
        original = owner.fisher_vector_product

        def product(self, batch, vector):
            return (
                original(self, batch, vector) + 1e-9 * np.arange(len(vector)) / len(vector) * vector
            )

        monkeypatch.setattr(owner, "fisher_vector_product", product)
    else:
        gradient = owner.gradient

        def tilted(self, surrogate):
            found = gradient(self, surrogate)
            return found if found.norm() == 0 else self.gradient_from(flat_tilted(found), surrogate)

        def flat_tilted(found):
            vector = flat(found.numpy())
            return vector * (1.0 + 1e-9 * np.arange(len(vector)) / len(vector))

        monkeypatch.setattr(owner, "gradient", tilted)
    found, _ = run("numpy", "trpo", "categorical", "tanh", "float64", 1)
    assert gap(found[0], expected[0], "float64") > ROUNDOFFS
