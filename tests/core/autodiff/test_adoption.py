"""What the probe of an adopted network sees, and what it lets be."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from pgcore.autodiff.adoption import BATCHES, Probe, refusal, refused_derivative
from pgcore.errors import BatchError, SpecError

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((3, 2))
ROWS = RNG.standard_normal((6, 3))


def linear(observations):
    return observations @ WEIGHT, None


def centred(observations):
    return linear(observations - observations.mean(0))


def as_a_sequence(observations):
    """What a recurrent network does that takes the batch for a sequence."""
    return linear(np.cumsum(observations, axis=0))


def backwards(observations):
    return linear(np.cumsum(observations[::-1], axis=0)[::-1])


def by_place(observations):
    return linear(observations * np.linspace(0, 1, len(observations))[:, None])


def by_number(observations):
    return linear(observations / len(observations))


def valued(observations):
    """Outputs are much larger than what the values have of other steps."""
    return 1e9 * linear(observations)[0], observations[:, 0] - observations[:, 0].mean()


class Counted:
    """A network that counts its calls and may add something to its outputs."""

    def __init__(self, change=lambda outputs, calls: outputs):
        self.calls = 0
        self.change = change

    def __call__(self, observations):
        self.calls += 1
        return self.change(observations @ WEIGHT, self.calls), None


@pytest.mark.parametrize(
    "forward", [centred, as_a_sequence, backwards, by_place, by_number, valued]
)
@pytest.mark.parametrize(
    "rows",
    [ROWS, ROWS[:2], ROWS[[0, 0, 0, 1]], ROWS[[0, 1, 0, 0]]],
    ids=["6", "2", "last", "first"],
)
def test_outputs_that_depend_on_other_steps_are_refused(forward, rows):
    with pytest.raises(
        SpecError,
        match=r"net: expected outputs that depend on one observation alone, got others at step \d",
    ):
        Probe("net")(forward, rows)


@pytest.mark.parametrize(
    "rows", [ROWS, ROWS[:1], np.ones((4, 3))], ids=["batch", "one", "all alike"]
)
def test_outputs_that_do_not_repeat_are_refused(rows):
    noisy = Counted(lambda outputs, calls: outputs + 1e-3 * calls)
    with pytest.raises(
        SpecError,
        match=r"net: expected the same outputs whenever .*, got others at a second call, first at step 0",
    ):
        Probe("net")(noisy, rows)


def test_a_network_is_tried_out_once():
    forward, probe = Counted(), Probe("net")
    for _ in range(5):
        probe(forward, ROWS)
    assert forward.calls == 4


def test_what_nothing_follows_from_is_tried_out_again():
    forward, probe = Counted(), Probe("net")
    for _ in range(5):
        probe(forward, ROWS[:1])
    assert forward.calls == 2  # one observation alone shows no more
    with pytest.raises(SpecError, match="depend on one observation alone"):
        probe(centred, ROWS)
    zero = Counted(lambda outputs, calls: 0 * outputs)
    probe = Probe("net")
    probe(zero, ROWS)
    with pytest.raises(SpecError, match="expected the same outputs"):
        probe(Counted(lambda outputs, calls: outputs * calls), ROWS)
    probe = Probe("net")
    for _ in range(3 * BATCHES):
        probe(zero, ROWS)
    assert zero.calls == 4 * (BATCHES + 1)


def test_another_mode_is_tried_out_too():
    forward, modes = Counted(), iter("aaabb")
    probe = Probe("net", mode=lambda: next(modes))
    for _ in range(4):
        probe(forward, ROWS)
    assert forward.calls == 8


@pytest.mark.parametrize("size", [1e-8, 1e-12])
def test_rounding_is_no_difference(size):
    forward = Counted(
        lambda outputs, calls: (
            outputs * (1 + size * calls * RNG.standard_normal(outputs.shape) / 100)
        )
    )
    Probe("net")(forward, ROWS)
    single = Counted(
        lambda outputs, calls: outputs.astype(np.float32) * np.float32(1 + 1e-6 * calls)
    )
    Probe("net")(single, ROWS.astype(np.float32))


def test_numbers_that_are_not_finite_are_left_to_others():
    Probe("net")(lambda observations: (np.full((len(observations), 2), np.nan), None), ROWS)
    Probe("net")(
        lambda observations: (linear(observations)[0], np.full(len(observations), np.inf)), ROWS
    )


def test_what_was_changed_is_put_back_before_the_refusal():
    events = []

    @contextmanager
    def preserved():
        events.append("kept")
        try:
            yield
        finally:
            events.append("put back")

    with pytest.raises(SpecError):
        Probe("net", preserved)(centred, ROWS)
    assert events == ["kept", "put back"]


def test_what_a_framework_says_stands_in_the_refusal():
    error = refusal("net", np.zeros((4, 3), int), ValueError("\nwrong width\nand more"))
    assert isinstance(error, BatchError)
    assert str(error) == (
        "net: expected a network that takes observations [B, 3] int64, got ValueError (wrong width); check the observations' shape and dtype, "
        "and the network"
    )
    assert "got RuntimeError (); write to no array in place" in str(
        refused_derivative("net", RuntimeError())
    )
