import inspect

import pytest

from pgcore import errors
from pgcore.errors import PgcoreError, UnknownNameError

ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, PgcoreError)
]


@pytest.mark.parametrize("error", [error for error in ERRORS if error is not PgcoreError])
def test_every_error_is_a_pgcore_error_and_a_builtin(error):
    builtin = [
        base
        for base in error.__mro__
        if base.__module__ == "builtins" and base not in (Exception, BaseException, object)
    ]
    assert builtin, f"{error.__name__} derives from no builtin that a caller would catch"


def test_all_lists_every_error():
    assert {error.__name__ for error in ERRORS} == set(errors.__all__)


def test_an_unknown_name_lists_near_and_known_names():
    error = UnknownNameError("pgcore.estimator", "poo", ["ppo", "reinforce"])
    assert (
        str(error)
        == "pgcore.estimator: expected a known name, got 'poo'; did you mean 'ppo'? known: ppo, reinforce"
    )
    assert (error.name, error.known) == ("poo", ("ppo", "reinforce"))


def test_an_unknown_name_far_from_all_gets_no_guess():
    assert (
        str(UnknownNameError("x", "zzz", ["b", "a"]))
        == "x: expected a known name, got 'zzz'; known: a, b"
    )


def test_an_unknown_name_among_none_says_so_and_ends_with_the_note():
    assert str(UnknownNameError("x", "y", [], "one is broken")).endswith(
        "known: none are registered; one is broken"
    )
