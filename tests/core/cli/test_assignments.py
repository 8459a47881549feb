"""One parser of `--set` for every command."""

import pytest

from pgcore.cli.assignments import nested, overlaid, read_assignments, read_value, without_none
from pgcore.errors import SpecError
from pgcore_derive import command as derive
from pgcore_estimators.parts.clip import Clip
from pgcore_estimators.parts.gae import GAE
from pgcore_estimators.policy_gradient import PolicyGradient
from pgcore_estimators.preset_classes import PPO
from pgcore_exact import command as audit


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        (".5", 0.5),
        ("1e-3", 1e-3),
        ("200_000", 200_000),
        ("-inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("[8, 8]", [8, 8]),
        ("'a b'", "a b"),
        ("fixed", "fixed"),
        ("none", "none"),
        ("", ""),
    ],
)
def test_a_value_is_what_it_looks_like(text, value):
    read = read_value(text)
    assert (read, type(read)) == (value, type(value))


def test_assignments_are_read_by_name():
    assert read_assignments([" a = 1", "b=x=y", "a=2"]) == {"a": 2, "b": "x=y"}
    for wrong in ("a", "=1", " =1", ""):
        with pytest.raises(
            SpecError, match=rf"--set: expected k=v, got '{wrong}'; write it as in --set a=1"
        ):
            read_assignments([wrong], form="k=v", example="a=1")


@pytest.mark.parametrize(
    ("values", "tables"),
    [
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x"}),
        ({"part": "clip", "part.high": 0.3}, {"part": {"name": "clip", "high": 0.3}}),
        ({"part.high": 0.3, "part": "clip"}, {"part": {"name": "clip", "high": 0.3}}),
        ({"part.high": 0.3, "part.low": 0.1}, {"part": {"high": 0.3, "low": 0.1}}),
        ({"a.b.c": 1, "a.b": "x"}, {"a": {"b": {"name": "x", "c": 1}}}),
        ({"a": 1, "a.b": 2}, {"a": {"b": 2}}),
    ],
)
def test_dotted_names_are_tables(values, tables):
    assert nested(values) == tables


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("clip", {"high": 0.3}, {"name": "clip", "high": 0.3}),
        ({"name": "clip", "low": 0.1}, {"high": 0.3}, {"name": "clip", "low": 0.1, "high": 0.3}),
        ({"name": "clip", "low": 0.1}, {"name": "sapo"}, {"name": "sapo"}),
        ({"name": "clip", "low": 0.1}, "sapo", "sapo"),
        (None, {"high": 0.3}, {"high": 0.3}),
        (0.1, 0.2, 0.2),
    ],
)
def test_a_table_without_a_name_changes_options_of_the_earlier_one(old, new, expected):
    assert overlaid(old, new) == expected


@pytest.mark.parametrize("none", ["none", "None"])
def test_none_is_none_where_a_field_takes_it(none):
    assert without_none(PPO, {"kl_target": none, "objective": none}) == {
        "kl_target": None,
        "objective": none,
    }


def test_audit_and_derive_read_alike():
    settings = ["kl_target=none", "clip=.1", "objective=clip"]
    estimator = PPO(kl_target=None, clip=0.1, gamma=1.0)
    assert audit.one_subject("ppo", settings) == estimator
    assert derive.derivation_of("ppo", [*settings, "gamma=1"]).estimator == estimator
    parts = ["objective.high=0.28", "advantage=gae", "advantage.gamma=1", "critic=none"]
    estimator = derive.derivation_of("policy_gradient", parts).estimator
    assert estimator == PolicyGradient(GAE(1.0), Clip(high=0.28), critic=None)
    assert audit.one_subject("policy_gradient", parts) == estimator
