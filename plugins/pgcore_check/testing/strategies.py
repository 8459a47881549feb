"""Strategies of hypothesis: specs, batches, parts and settings of all that is registered.

A plugin's classes occur as soon as they are registered, and each object is valid: a property that
fails for one of them is a bug of the property's subject. Hypothesis is a package of its own,
`pip install hypothesis`.

    from hypothesis import given
    from pgcore_check.testing import strategies

    @given(strategies.specs())
    def test_a_spec_survives_its_file(spec):
        assert pg.PolicySpec.from_json(spec.to_json()) == spec
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any, cast

import numpy as np
from hypothesis import strategies as st

from pgcore.data.batch import Batch
from pgcore.data.spec import Network, PolicySpec
from pgcore.errors import PgcoreError
from pgcore.heads import Head
from pgcore.parts import Part
from pgcore.registry.registry import Registry, load_class, registry
from pgcore.validation.fields import declared_checks
from pgcore_check.cases.cases import random_actions, random_observations
from pgcore_check.kinds import PART_KINDS, PARTS
from pgcore_check.proofs import proofs, variants

__all__ = ["batches", "instances", "networks", "parts", "settings", "specs", "tables", "values"]

# Values that a field may take; each field tries those that its own checks let through.
POOL = (
    *(0, 1, 2, 3, 5, 0.0, 0.1, 0.5, 0.9, 1.0, 1.5, 10.0, -0.5, 1e-8, 1e4, float("inf")),
    *(True, False, "none", "auto"),
)
# The sizes that a spec's networks have, our choice: large enough that no two axes are alike.
SIZES = st.integers(1, 7)


@st.composite
def instances(draw: st.DrawFn, kind: str) -> Any:
    """Return objects of every registered class of a kind, with varied options.

    Args:
        draw: Hypothesis's.
        kind: "estimators", "heads", "optimizers" or "reductions".
    """
    return varied(draw, draw(st.sampled_from(objects(kind, registry()))))


@st.composite
def parts(draw: st.DrawFn) -> Any:
    """Return parts of estimators, such as advantages and masks, with varied options."""
    return varied(draw, draw(st.sampled_from(objects(PARTS, registry()))))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Return networks of every registered kind, of small sizes."""
    cls: Any = load_class("networks", draw(st.sampled_from(names("networks", registry()))), Network)
    # The fields that `pgcore train` fills, of which a plugin's network declares some.
    fields: dict[str, Any] = {"inputs": SIZES, "states": SIZES}
    fields["image"] = st.tuples(SIZES, SIZES, SIZES)
    fields["hidden"] = st.lists(SIZES, min_size=1, max_size=2).map(tuple)
    fields["activation"] = st.sampled_from(names("activations", registry()))
    declared = [field.name for field in dataclasses.fields(cls)]
    return cls(**{key: draw(fields[key]) for key in declared if key in fields})


@st.composite
def specs(draw: st.DrawFn, head: Head | None = None) -> PolicySpec:
    """Return specs of policies: a network, a head and a critic that fit each other.

    Args:
        draw: Hypothesis's.
        head: The head; None draws one.
    """
    network = draw(networks())
    chosen: Head = draw(instances("heads")) if head is None else head
    critic = draw(st.sampled_from(["none", "separate", "shared"]))
    values = draw(st.sampled_from(["state", "action", "twin"]))
    # A combination that does not exist becomes the nearest that does.
    for options in ((critic, values), (critic, "state"), ("separate", "state"), ("none", "state")):
        try:
            return PolicySpec(network, chosen, *options)
        except PgcoreError:
            continue
    return PolicySpec(network, chosen)


@st.composite
def batches(draw: st.DrawFn, spec: PolicySpec | None = None) -> Batch:
    """Return batches that fit policies of a spec, with and without each optional array.

    Args:
        draw: Hypothesis's.
        spec: The policies'; None draws one.
    """
    spec = draw(specs()) if spec is None else spec
    lengths = np.array(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps, episodes = int(lengths.sum()), len(lengths)
    mask, actions, anchor = random_actions(spec.head, steps, rng)
    fields: dict[str, Any] = {
        "observations": random_observations(spec, steps, rng),
        "actions": actions,
        "rewards": rng.standard_normal(steps),
        "episode_lengths": lengths,
        "terminated": draw(st.lists(st.booleans(), min_size=episodes, max_size=episodes)),
    }
    optional: dict[str, Any] = {
        "final_observations": random_observations(spec, episodes, rng),
        "action_mask": mask,
        "log_probs": -rng.random(steps),
        "values": rng.standard_normal(steps),
        "final_values": rng.standard_normal(episodes),
        "discount": rng.random(steps),
        "extras": {"reference": anchor, "group": np.repeat(rng.integers(0, 2, episodes), lengths)},
    }
    present = draw(st.sets(st.sampled_from(sorted(optional))))
    return Batch(**fields, **{name: optional[name] for name in sorted(present)})


@st.composite
def settings(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """Return sections of settings, as a TOML file has them: a registered name and options by name.

    Args:
        draw: Hypothesis's.
        kind: Any kind of frozen dataclasses, such as "estimators", "heads" or "optimizers".
    """
    made = draw(instances(kind))
    options = {key: value for key, value in tables(made).items() if draw(st.booleans())}
    return {"name": made.name, **options}


def values() -> st.SearchStrategy[Any]:
    """Return objects of any kind, for arguments that refuse most of them by an error of pgcore's."""
    plain = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=4),
        st.sampled_from(POOL),
    )
    nested = st.recursive(
        plain,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=4,
    )
    others = st.sampled_from([object(), len, int, np.zeros((2, 2)), np.array([None]), Batch])
    return st.one_of(nested, instances("heads"), parts(), others)


def tables(instance: Any) -> dict[str, Any]:
    """Return an object's options that TOML can write, by name: all but None and other objects."""
    fields = (field.name for field in dataclasses.fields(instance) if field.init)
    present = {name: getattr(instance, name) for name in fields}
    return {
        name: list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
        for name, value in present.items()
        if is_plain(value)
    }


def is_plain(value: Any) -> bool:
    """Whether a value is one of TOML's: a finite number, a text, a boolean, or a list of those."""
    if isinstance(value, tuple):
        return all(map(is_plain, cast("tuple[Any, ...]", value)))
    return isinstance(value, str | bool | int) or (isinstance(value, float) and np.isfinite(value))


@lru_cache(maxsize=16)
def names(kind: str, source: Registry) -> list[str]:
    """Return the registered names of a kind; once for each registry, which never changes."""
    return source.names(kind)


@lru_cache(maxsize=16)
def objects(kind: str, source: Registry) -> tuple[Any, ...]:
    """Return the objects of a kind that the kit tries; once for each registry, which never changes."""
    assert source is registry()
    return tuple(variants(kind).values()) if kind != PARTS else tuple(registered_parts())


def registered_parts() -> Iterator[Any]:
    """Yield the parts of proofs, those that estimators have as options, and those of default options."""
    yield from proofs().parts[0].values()
    for estimator in variants("estimators").values():
        options = (getattr(estimator, field.name) for field in dataclasses.fields(estimator))
        yield from (option for option in options if isinstance(option, Part))
    for kind in PART_KINDS:
        for name in registry().names(kind):
            # One with an option without default occurs in the estimators above, or nowhere.
            with suppress(TypeError, PgcoreError):
                yield load_class(kind, name, Part)()


def varied(draw: st.DrawFn, instance: Any) -> Any:
    """Return an object with up to two of its options changed; itself where they do not go together."""
    choices = candidates(cast("type[Any]", type(instance)))
    changes: dict[str, Any] = {}
    for _ in range(draw(st.integers(0, 2)) if choices else 0):
        name = draw(st.sampled_from([*choices]))
        changes[name] = draw(st.sampled_from(choices[name]))
    try:
        return dataclasses.replace(instance, **changes) if changes else instance
    except PgcoreError:
        return instance


@cache
def candidates(cls: type[Any]) -> Mapping[str, tuple[Any, ...]]:
    """Return the values of `POOL`, and of a choice, that pass a field's checks, by name."""
    checks: dict[str, list[Any]] = {}
    for name, check, _ in declared_checks(cls):
        checks.setdefault(name, []).append(check)
    passing: dict[str, tuple[Any, ...]] = {}
    for name, rules in checks.items():
        pool = [*POOL, *(choice for rule in rules for choice in getattr(rule, "choices", ()))]
        passing[name] = tuple(value for value in pool if passes(name, value, rules))
    return {name: options for name, options in passing.items() if options}


def passes(name: str, value: Any, rules: list[Any]) -> bool:
    """Whether a value passes all checks of a field."""
    try:
        for rule in rules:
            rule(name, value)
    except PgcoreError:
        return False
    return True
