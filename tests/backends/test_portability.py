"""Files that cannot be read into a policy, and parameters that are NaN; what holds for all: `pgcore_check.suite.test_portability`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.data import files
from pgcore.errors import NonFiniteError, ParameterError, SpecError
from pgcore_check.cases.cases import make_case
from pgcore_check.suite.material import ESTIMATORS
from pgcore_check.suite.test_portability import SAVED, SPECS
from pgcore_check.testing import parametrize_backends


def test_what_a_policy_to_load_into_is_cannot_be_asked_for_otherwise(tmp_path):
    file = tmp_path / "policy.safetensors"
    policy = pg.policy(SAVED, backend="numpy", dtype="float64")
    policy.save(file)
    asked: list[dict[str, Any]] = [
        {"backend": "other"},
        {"dtype": "float32"},
        {"device": "cpu"},
        {"compiled": True},
    ]
    for options in asked:
        (name,) = options
        with pytest.raises(
            SpecError,
            match=rf"load {name}: expected that of the policy to load into, .*; leave it out, or leave out `into`",
        ):
            pg.load(file, into=policy, **options)
    for spec in ("{}", "[]", "no JSON"):
        files.write(file, "pgcore.policy", policy.parameters(), {"spec": spec, "dtype": "float64"})
        with pytest.raises(SpecError, match=r"policy\.safetensors: expected "):
            pg.load(file, into=policy)


def poisoned(backend, name):
    """Return a policy with a NaN in one of its parameters, as a bad step of the user's own would leave it, and a batch."""
    policy, batch = make_case(SPECS["deep"], backend, "float64", seed=23)
    native: Any = policy
    if backend == "numpy":
        dict(native.layout.named(native.vector))[name][...] = np.nan
    elif backend == "jax":
        native.native[name] = native.native_array(np.full(native.native[name].shape, np.nan))
    elif backend == "tensorflow":
        native.native[name].assign(native.native[name] * np.nan)
    else:
        native.native[name].data *= np.nan
    assert np.isnan(policy.parameters()[name]).all()
    return policy, batch


@parametrize_backends()
@pytest.mark.parametrize("name", ["network.1.weight", "critic.0.bias", "head.log_std"])
def test_a_parameter_that_is_nan_is_named(tmp_path, backend, name):
    policy, batch = poisoned(backend, name)
    sound, _ = make_case(SPECS["deep"], backend, "float64", seed=23)
    signals = pg.signals(sound, ESTIMATORS["ppo"], batch)
    words = rf"expected finite parameters.*, got NaN or infinity in {name}; load a good checkpoint"
    with pytest.raises(NonFiniteError, match=rf"gradient of ppo: {words}"):
        pg.gradient(policy, ESTIMATORS["ppo"], batch, signals=signals)
    with pytest.raises(NonFiniteError, match=words):
        pg.gradient(policy, ESTIMATORS["ppo"], batch)
    if not name.startswith("critic"):
        with pytest.raises(NonFiniteError, match=rf"act: {words}"):
            policy.act(batch.observations, pg.generator(0))
        with pytest.raises(NonFiniteError, match=rf"episode_scores: {words}"):
            policy.episode_scores(batch)
        with pytest.raises(NonFiniteError, match=rf"fisher_vector_product: {words}"):
            policy.fisher_vector_product(
                batch, np.ones(sum(value.size for value in policy.parameters().values()))
            )
    file = tmp_path / "policy.safetensors"
    for before in (None, b"what was there"):
        if before is not None:
            file.write_bytes(before)
        with pytest.raises(ParameterError, match=words):
            policy.save(file)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == (
            [] if before is None else [before]
        )
