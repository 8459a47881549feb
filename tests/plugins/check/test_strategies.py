"""What the kit's strategies draw: valid objects of all that is registered, a stranger's too."""

# Objects of any kind are what some of these tests are about.
# pyright: reportArgumentType=false

import dataclasses
import os
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

import pgcore as pg
from pgcore.errors import PgcoreError
from pgcore.heads import Categorical
from pgcore.registry.registry import forget_registry
from pgcore_check.kinds import PART_KINDS
from pgcore_check.proofs import variants
from pgcore_check.testing import strategies
from pgcore_train.config.config import RunConfig, merge, read_assignments, read_toml

# Cases of these properties and of those in `tests/fuzz`; PGCORE_FUZZ_CASES=100000 looks longer.
CASES = int(os.environ.get("PGCORE_FUZZ_CASES", "10000"))


def share(part):
    """Return the settings of a property that takes a part of the cases."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=max(1, int(part * CASES)), suppress_health_check=checks)


def refused_in_a_sentence(make):
    """Return what is made, or None where an error of pgcore's refuses to."""
    try:
        return make()
    except PgcoreError as error:
        text = str(error)
    assert ": expected " in text
    assert ", got " in text
    assert len(text) < 1500
    return None


KINDS = ("estimators", "heads", "optimizers", "reductions")


@share(0.05)
@given(strategies.specs())
def test_a_spec_survives_its_text(spec):
    assert pg.PolicySpec.from_json(spec.to_json()) == spec
    assert sum(int(np.prod(shape)) for shape in spec.parameter_shapes.values()) > 0


@share(0.04)
@given(st.data())
def test_a_batch_fits_its_spec_and_comes_back_in_parts(data):
    spec = data.draw(strategies.specs())
    batch = data.draw(strategies.batches(spec))
    parts = [batch.episodes([number]) for number in range(batch.num_episodes)]
    joined = pg.Batch.concatenate(parts)
    for name in ("observations", "actions", "rewards", "values", "log_probs", "action_mask"):
        left, right = getattr(batch, name), getattr(joined, name)
        assert (left is None) == (right is None)
        if left is not None:
            np.testing.assert_array_equal(left, right)


@share(0.02)
@given(strategies.batches())
def test_a_batch_survives_its_file(batch):
    with tempfile.TemporaryDirectory() as folder:
        batch.save(f"{folder}/batch")
        loaded = pg.Batch.load(f"{folder}/batch")
    for name in (*pg.Batch.per_step, *pg.Batch.per_episode):
        left, right = getattr(batch, name), getattr(loaded, name)
        if left is not None:
            np.testing.assert_array_equal(left, right)


@share(0.03)
@given(st.data())
def test_a_policy_of_any_spec_evaluates_any_batch_that_fits(data):
    spec = data.draw(strategies.specs())
    batch = data.draw(strategies.batches(spec))
    policy = refused_in_a_sentence(lambda: pg.policy(spec, backend="numpy"))
    if policy is not None:
        policy.check(batch)
        distribution = policy.evaluate(batch, ("distribution",))["distribution"]
        assert distribution.shape == (batch.num_steps, spec.head.width)


@share(0.08)
@given(st.sampled_from(KINDS).flatmap(strategies.instances))
def test_an_object_is_made_again_of_its_own_options(instance):
    assert dataclasses.replace(instance) == instance


@share(0.06)
@given(strategies.parts())
def test_a_part_is_made_again_of_its_own_options(part):
    assert part.registered_as in PART_KINDS
    assert dataclasses.replace(part) == part


SECTIONS = {"estimators": "estimator", "heads": "head", "optimizers": "optimizer"}


@share(0.04)
@given(st.sampled_from(sorted(SECTIONS)), st.data())
def test_settings_survive_toml_and_the_command_line(kind, data):
    section = SECTIONS[kind]
    table = data.draw(strategies.settings(kind))
    layer = {"environment": {"name": "CartPole-v1"}, section: table}
    config = RunConfig.of(layer)
    assert RunConfig.of(tomllib.loads(config.to_toml())) == config
    words = [f"{section}.{key}={value!r}" for key, value in table.items()]
    typed = merge({"environment": {"name": "CartPole-v1"}}, read_assignments(words))
    assert RunConfig.of(typed) == config


@share(0.04)
@given(st.data())
def test_any_value_of_a_setting_is_taken_or_refused_in_a_sentence(data):
    kind = data.draw(st.sampled_from(sorted(SECTIONS)))
    table = data.draw(strategies.settings(kind))
    table[data.draw(st.sampled_from(sorted(table)))] = data.draw(strategies.values())
    layer = {"environment": {"name": "CartPole-v1"}, SECTIONS[kind]: table}
    refused_in_a_sentence(lambda: RunConfig.of(layer))
    make = {"estimators": pg.estimator, "optimizers": pg.optimizer}.get(kind)
    if make is not None:
        refused_in_a_sentence(lambda: make(**table))


@share(0.04)
@given(st.sampled_from(["run", "network", "rollout", "training", "replay", "target"]), st.data())
def test_any_value_of_a_section_is_taken_and_written_or_refused(section, data):
    names = [
        field.name for field in dataclasses.fields(getattr(settings_module(), CLASSES[section]))
    ]
    value = data.draw(st.one_of(strategies.values(), st.text()))
    layer = {"environment": {"name": "x"}, section: {data.draw(st.sampled_from(names)): value}}
    config = refused_in_a_sentence(lambda: RunConfig.of(layer))
    if config is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.toml"
            path.write_text(config.to_toml(), encoding="utf-8", newline="")
            assert RunConfig.of(read_toml(path)) == config


CLASSES = {
    "run": "RunSettings",
    "network": "NetworkSettings",
    "rollout": "RolloutSettings",
    "training": "TrainingSettings",
    "replay": "ReplaySettings",
    "target": "TargetSettings",
}


def settings_module():
    from pgcore_train.config import settings as module

    return module


# What is drawn


@pytest.mark.parametrize("label", variants("heads"))
def test_every_variant_of_a_head_is_drawn(label):
    variant = variants("heads")[label]
    assert find(strategies.instances("heads"), lambda drawn: drawn == variant) == variant


def test_a_strangers_network_and_head_occur(registrations):
    @pg.register
    @dataclasses.dataclass(frozen=True)
    class Strange(Categorical):
        """A head of a plugin."""

        n: int = 3
        name = "strange"

    forget_registry()
    drawn = find(strategies.specs(), lambda spec: spec.head.name == "strange")
    assert type(drawn.head).__name__ == "Strange"
