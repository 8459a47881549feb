"""One parser of `--set` for every command."""

import pytest

from pgcore.cli.assignments import read_assignments, read_value, without_none
from pgcore.errors import SpecError
from pgcore_derive import command as derive
from pgcore_estimators.ppo import PPO
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
