"""Losses under `torch.compile`: weights that users change, and what compiled code looks at."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

import pgcore as pg

torch = pytest.importorskip("torch")

E, T = 4, 6
MASK = np.arange(T) < np.array([[3], [6], [1], [4]])
FULL = np.ones((E, T), np.bool_)
PPO: Any = type(pg.estimator("ppo"))
MINE = {"dapo": pg.estimator("dapo", group="all"), "grpo": pg.estimator("grpo", group="all")}


def case(name, mask):
    """Return an estimator, its signals and log-probabilities of their layout."""
    rng = np.random.default_rng(0)
    old, log_prob = torch.as_tensor(rng.standard_normal((2, E, T)).astype(np.float32))
    rewards = torch.as_tensor(rng.standard_normal(E).astype(np.float32))
    episodes = pg.Episodes.from_padded(rewards=rewards, mask=mask, log_probs=old)
    return MINE[name], pg.signals(MINE[name], episodes), log_prob


def agree(estimator, signals, log_prob):
    """Check that the compiled loss and its derivative are the eager ones; return the loss."""
    torch.compiler.reset()

    def loss(signals, log_prob):
        return pg.loss(estimator, signals, log_prob=log_prob).loss

    results = []
    # Compiled first: the eager loss must not change what compiled code is of.
    for function in (torch.compile(loss, backend="eager", fullgraph=True), loss):
        leaf = log_prob.clone().requires_grad_()
        value = function(signals, leaf)
        results.append((value.detach(), *torch.autograd.grad(value, leaf)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)
    return results[1][0].item()


@pytest.mark.parametrize("name", ["dapo", "grpo"])
@pytest.mark.parametrize(("mask", "averaged"), [(FULL, True), (MASK, False)])
def test_a_loss_without_padding_is_a_mean(name, mask, averaged):
    estimator, signals, log_prob = case(name, mask)
    assert signals.averaged == averaged
    agree(estimator, signals, log_prob)
    assert not signals.part(np.arange(3)).averaged
    assert signals.steps(np.arange(3)).averaged == averaged
    assert signals.episodes([1]).averaged == averaged
    # Of a larger whole it is none.
    episodes = pg.Episodes.from_padded(rewards=torch.zeros(E), mask=FULL, log_probs=log_prob)
    assert not pg.signals(estimator, episodes, totals=pg.Totals(steps=99, episodes=9)).averaged


@pytest.mark.parametrize("mask", [FULL, MASK], ids=["full", "padded"])
def test_weights_that_are_changed_are_those_of_compiled_code(mask):
    estimator, signals, log_prob = case("dapo", mask)
    before = agree(estimator, signals, log_prob)
    signals.weights[1, 2] = 0.0
    changed = agree(estimator, signals, log_prob)
    assert changed != pytest.approx(before, rel=1e-3)
    signals.weights = 2 * signals.weights
    assert agree(estimator, signals, log_prob) == pytest.approx(2 * changed)
    whole = dataclasses.replace(case("dapo", mask)[1], weights=signals.weights)
    assert agree(estimator, whole, log_prob) == pytest.approx(2 * changed)


@pytest.mark.parametrize("mask", [FULL, MASK], ids=["full", "padded"])
def test_weights_of_minibatches_are_those_of_compiled_code(mask):
    estimator, signals, log_prob = case("dapo", mask)
    rows = [3, 1]
    whole = agree(estimator, signals, log_prob)
    parts = [agree(estimator, signals.episode_part(x), log_prob[x]) for x in (rows, [0, 2])]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)
    minibatch = agree(estimator, signals.episodes(rows), log_prob[rows])
    assert minibatch == pytest.approx(parts[0] * E / len(rows), rel=1e-5)
    flat = np.flatnonzero(mask)[::2]
    part = agree(estimator, signals.part(flat), log_prob.reshape(-1)[flat])
    steps = agree(estimator, signals.steps(flat), log_prob.reshape(-1)[flat])
    assert steps == pytest.approx(part * mask.sum() / len(flat), rel=1e-5)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_may_share_weights(copied):
    """An edit of either is seen by compiled code of both, where they share the array."""
    for edited in (0, 1):
        estimator, signals, log_prob = case("dapo", FULL)
        both = signals, copied(signals)
        both[edited].weights[1] = 0.0
        values = [agree(estimator, each, log_prob) for each in both]
        assert (values[0] == values[1]) == (copied is copy.copy)
    assert agree(estimator, pickle.loads(pickle.dumps(signals)), log_prob) == values[0]


def test_an_assigned_mask_is_that_of_compiled_code():
    estimator, signals, log_prob = case("dapo", FULL)
    signals.real = torch.as_tensor(MASK)
    agree(estimator, signals, log_prob)
    index = np.arange(1, 9)
    agree(estimator, signals.steps(index), log_prob.reshape(-1)[index])
    agree(estimator, signals.episodes([2, 0]), log_prob[[2, 0]])


def test_code_that_is_compiled_already_sees_changed_weights():
    estimator, signals, log_prob = case("dapo", FULL)

    @torch.compile(backend="eager", fullgraph=True)
    def compiled(log_prob):
        return pg.loss(estimator, signals, log_prob=log_prob).loss

    before = compiled(log_prob)
    signals.weights[0] = 0.0
    changed = pg.loss(estimator, signals, log_prob=log_prob).loss
    assert changed != before
    torch.testing.assert_close(compiled(log_prob), changed)


@pytest.mark.parametrize(
    "change", [lambda x: x[:1], lambda x: torch.cat([x, x]), torch.Tensor.double]
)
def test_terms_of_another_shape_or_dtype_are_refused_as_in_eager_code(change):
    @dataclasses.dataclass(frozen=True)
    class Odd(PPO):
        name = "odd"

        def surrogate(self, xp, **inputs):
            return change(super().surrogate(xp, **inputs))

    zeros = torch.zeros(4)
    ends = {"episode_lengths": [4], "terminated": [True]}
    episodes = pg.Episodes(rewards=zeros, values=zeros, log_probs=zeros, **ends)
    estimator = Odd()
    signals = pg.signals(estimator, episodes)
    assert signals.averaged

    def loss(zeros):
        return pg.loss(estimator, signals, log_prob=zeros, value=zeros).loss

    for function in (loss, torch.compile(loss, backend="eager", fullgraph=True)):
        with pytest.raises(RuntimeError):
            function(zeros)


def test_compiled_code_looks_at_little():
    """At the loss, its class, and attributes of estimator and signals, in every call."""
    looked_at = []

    def keep(entries):
        looked_at.extend((entry.guard_type, entry.name) for entry in entries)
        return [True] * len(entries)

    shape = (64,)
    columns = {"rewards": torch.ones(shape), "log_probs": -torch.ones(shape)}
    ends = {"episode_lengths": [64], "terminated": [True]}
    episodes = pg.Episodes(**columns, values=torch.zeros(shape), **ends)
    estimator = pg.estimator("ppo", entropy_coefficient=0.01)
    signals = pg.signals(estimator, episodes)

    @torch.compile(backend="eager", fullgraph=True, options={"guard_filter_fn": keep})
    def compiled(given):
        return pg.loss(estimator, signals, **given).loss

    compiled({name: torch.zeros(shape) for name in estimator.quantities})
    modules = [name for _, name in looked_at if "__import_pgcore" in name]
    assert modules
    assert {name.rpartition("'].")[2] for name in modules if "']." in name} == {"Loss"}
    others = [name for kind, name in looked_at if name and not kind.startswith(("TENSOR", "DIM"))]
    assert 20 < len(others) < 80
