"""How often backends trace and compile: bounded over all batch sizes, never again for what was compiled, and equal results."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import os

import numpy as np
import pytest

import pgcore as pg
from pgcore.autodiff.inputs import padded_size
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.errors import SpecError
from pgcore.registry.registry import registry
from pgcore.xp.numpy import host
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants
from pgcore_check.results import gradient_row, loss_row
from pgcore_estimators.reinforce import Reinforce

ESTIMATORS = variants("estimators")
HEADS = variants("heads")

REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
ENTRIES = {entry.provider.name: entry for entry in registry().providers("backends")}
USABLE = [name for name, entry in ENTRIES.items() if entry.status == "usable" or name in REQUIRED]
ABSENT = [
    pytest.param(name, "", marks=pytest.mark.skip(f"{name} is absent"))
    for name in ENTRIES
    if name not in USABLE
]
MODES = [(name, mode) for name in USABLE for mode in pg.backend(name).modes]

# Small networks, which compile sooner.
SPEC = pg.PolicySpec(NETWORKS["linear"], HEADS["categorical"], "separate")
SMALL = pg.PolicySpec(NETWORKS["linear"], HEADS["categorical"])
MOST_STEPS = 300
# Two padded sizes a doubling: 1, 2, 3, 4, 6, 8, ..., 256, 384.
BOUND = 17

traced = pytest.mark.parametrize(
    ("backend", "mode"), [*(each for each in MODES if each[1] != "eager"), *ABSENT]
)


def make(spec, backend, mode, dtype="float64", **options):
    """Return a policy in one of a backend's modes, and a batch."""
    policy, batch = make_case(spec, backend, dtype, **options)
    if mode != "compiled":
        return policy, batch
    compiled = pg.policy(spec, backend=backend, dtype=dtype, compiled=True)
    assert compiled.compiled
    compiled.load(policy.parameters())
    return compiled, batch


@pytest.fixture
def counting(monkeypatch):
    """Return a function from a backend to an estimator and a list that grows with everything that is traced for its gradient."""

    def make_estimator(backend):
        traces: list[None] = []
        if backend == "torch":
            # Its compiler repeats at every call what a traced function does to lists, so that graphs are counted instead.
            torch = importlib.import_module("torch")

            def keep(graph, inputs, **options):
                traces.append(None)
                return graph.forward

            monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=keep))
            return Reinforce(), traces

        # A class of its own each time, so that nobody has compiled it before.
        @dataclasses.dataclass(frozen=True)
        class Counting(Reinforce):
            def surrogate(self, xp, *, log_prob, advantage, value=None, entropy=None, return_=None):
                # An estimator is prepared by NumPy's arrays where it is made.
                if xp is not host:
                    traces.append(None)
                return super().surrogate(
                    xp,
                    log_prob=log_prob,
                    advantage=advantage,
                    value=value,
                    entropy=entropy,
                    return_=return_,
                )

        return Counting(), traces

    return make_estimator


def sizes():
    """Return 60 batch sizes from 1 to `MOST_STEPS` in no order, as many small as large ones."""
    rng = np.random.default_rng(0)
    found = dict.fromkeys(
        [1, MOST_STEPS, *np.exp(rng.uniform(0, np.log(MOST_STEPS), 300)).astype(int).tolist()]
    )
    return [int(size) for size in rng.permutation(list(found)[:60])]


@traced
def test_sixty_sizes_of_a_batch_need_few_traces(backend, mode, counting):
    estimator, traces = counting(backend)
    policy, batch = make(SMALL, backend, mode, seed=41, steps=MOST_STEPS)
    signals = pg.signals(policy, estimator, batch)
    assert isinstance(policy, AutodiffPolicy)
    assert len(sizes()) == 60
    for size in sizes():
        part, own = batch.steps(slice(0, size)), signals.steps(slice(0, size))
        gradient = pg.gradient(policy, estimator, part, signals=own)
        assert gradient.arguments()["log_prob"].shape == gradient.terms().shape == (size,)
    needed = len({padded_size(size) for size in sizes()})
    assert len(traces) == (needed if policy.pads else 1)
    assert needed <= BOUND == len({padded_size(size) for size in range(1, MOST_STEPS + 1)})
    for size in (77, *sizes()):
        pg.gradient(
            policy, estimator, batch.steps(slice(0, size)), signals=signals.steps(slice(0, size))
        )
    assert len(traces) == (needed if policy.pads else 1)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_gradient_is_one_graph_of_pytorchs_for_each_network(counting, monkeypatch, network):
    torch = pytest.importorskip("torch")
    estimator, traces = counting("torch")
    # Where a graph breaks, its compiler would run the rest uncompiled and say nothing.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, fullgraph=True))
    spec = pg.PolicySpec(NETWORKS[network], HEADS["categorical"], "separate")
    policy, batch = make(spec, "torch", "compiled", seed=43)
    pg.gradient(policy, estimator, batch)
    assert len(traces) == 1


@pytest.mark.parametrize(("own_code", "count"), [(True, BOUND), (False, 8)])
def test_before_isolation_pytorch_compiles_every_size_by_a_code_object_of_its_own(
    counting, monkeypatch, own_code, count
):
    module = pytest.importorskip("pgcore_torch.policy")
    monkeypatch.setattr(module, "ISOLATION", {})
    if not own_code:
        monkeypatch.setattr(module, "with_own_code", lambda function: function)
    estimator, traces = counting("torch")
    policy, batch = make(SMALL, "torch", "compiled", seed=41, steps=MOST_STEPS)
    signals = pg.signals(policy, estimator, batch)
    for size in sorted({padded_size(size) for size in range(1, MOST_STEPS)}):
        part = slice(0, min(size, MOST_STEPS))
        pg.gradient(policy, estimator, batch.steps(part), signals=signals.steps(part))
    # PyTorch's own limit is eight compilations of a code object.
    assert len(traces) == count


@traced
def test_what_is_traced_is_kept_for_an_equal_estimator_and_other_parameters(
    backend, mode, counting
):
    estimator, traces = counting(backend)
    policy, batch = make(SMALL, backend, mode, seed=42)
    optimizer = pg.optimizer("adam")
    for _ in range(3):
        for same in (estimator, dataclasses.replace(estimator)):
            optimizer.step(policy, pg.gradient(policy, same, batch))
    policy.load(policy.spec.initial_parameters(seed=1))
    pg.gradient(policy, estimator, batch)
    assert len(traces) == 1
    pg.gradient(policy, dataclasses.replace(estimator, entropy_coefficient=0.1), batch)
    assert len(traces) == 2


@traced
def test_sizes_are_kept_for_the_estimators_that_were_used_last(
    backend, mode, counting, monkeypatch
):
    module = importlib.import_module(
        f"{type(pg.backend(backend)).__module__.partition('.')[0]}.policy"
    )
    monkeypatch.setattr(module, "KEPT", 2, raising=False)
    estimator, traces = counting(backend)
    policy, batch = make(SMALL, backend, mode, seed=49, steps=40)
    others = [dataclasses.replace(estimator, entropy_coefficient=0.1 * number) for number in (1, 2)]
    assert isinstance(policy, AutodiffPolicy)

    def use(used):
        """Return how much is traced for an estimator on batches of four padded sizes."""
        before = len(traces)
        signals = pg.signals(policy, used, batch)
        for size in (1, 2, 3, 4):
            pg.gradient(
                policy, used, batch.steps(slice(0, size)), signals=signals.steps(slice(0, size))
            )
        return len(traces) - before

    needed = 4 if policy.pads else 1
    assert use(estimator) == needed
    assert use(others[0]) == needed
    assert use(estimator) == 0
    assert use(others[1]) == needed
    assert use(estimator) == 0


# 1,030 steps are padded by 506. The ratio of the last step, to that power, is beyond float32.
@pytest.mark.parametrize(("backend", "mode"), [*MODES, *ABSENT])
@pytest.mark.parametrize("variant", ["trajectory is", "per-decision is", "gspo"])
def test_much_padding_changes_no_product_of_ratios(backend, mode, variant):
    estimator = ESTIMATORS[variant]
    policy, batch = make(SMALL, backend, mode, "float32", seed=50, steps=1030)
    lengths = np.full(206, 5)
    assert batch.log_probs is not None
    log_probs = policy.evaluate(batch, ("log_prob",))["log_prob"] - 0.3
    fields = {
        name: getattr(batch, name) for name in ("observations", "actions", "rewards", "action_mask")
    }
    whole = pg.Batch(
        **fields,
        episode_lengths=lengths,
        terminated=np.ones(206, bool),
        log_probs=log_probs,
        extras={"group": np.repeat(np.arange(103), 10)},
    )
    for given in (whole, whole.pad(1530)):
        signals = pg.signals(policy, estimator, given)
        gradient = pg.gradient(policy, estimator, given, signals=signals)
        assert gradient_row(policy, estimator, given, signals, gradient.numpy()).agrees


@pytest.mark.parametrize(
    "backend", [name for name in USABLE if pg.backend(name).modes == ("compiled",)]
)
def test_policies_of_one_spec_share_their_traces(backend, counting):
    estimator, traces = counting(backend)
    for seed, dtype in itertools.product((42, 43), ("float64", "float32")):
        policy, batch = make_case(SMALL, backend, dtype, seed=seed)
        pg.gradient(policy, estimator, batch)
        assert len(traces) == (2 if seed == 43 or dtype == "float32" else 1)


def test_padded_sizes_are_two_a_doubling():
    found = [padded_size(size) for size in range(1, 5000)]
    assert all(size <= padded <= 1.5 * size + 1 for size, padded in enumerate(found, 1))
    assert sorted(set(found))[:9] == [1, 2, 3, 4, 6, 8, 12, 16, 24]


# 11 and 23 steps are padded, by one step each; 48 are not.
@traced
@pytest.mark.parametrize("steps", [11, 23, 48])
def test_traced_gradients_are_within_the_rule_at_any_size(backend, mode, steps):
    estimator = ESTIMATORS["ppo value clip"]
    policy, batch = make(SPEC, backend, mode, seed=44, steps=steps)
    signals = pg.signals(policy, estimator, batch)
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    assert gradient_row(policy, estimator, batch, signals, gradient.numpy()).agrees
    assert loss_row(policy, estimator, batch, signals, gradient.loss).agrees
    check_beside_numpy(policy, estimator, batch, signals, gradient)


@traced
def test_traced_gradients_in_float32_are_within_the_rule(backend, mode):
    estimator = ESTIMATORS["ppo kl"]
    spec = pg.PolicySpec(NETWORKS["relu"], HEADS["per-state"], "shared")
    policy, batch = make(spec, backend, mode, "float32", seed=45, steps=13)
    signals = pg.signals(policy, estimator, batch)
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    assert gradient_row(policy, estimator, batch, signals, gradient.numpy()).agrees
    assert loss_row(policy, estimator, batch, signals, gradient.loss).agrees
    check_beside_numpy(policy, estimator, batch, signals, gradient)


def check_beside_numpy(policy, estimator, batch, signals, gradient):
    """Check that terms, loss, metrics and what the surrogate was given are of the batch's own steps, and NumPy's."""
    beside = pg.policy(policy.spec, backend="numpy", dtype=policy.dtype.name)
    beside.load(policy.parameters())
    plain = pg.gradient(beside, estimator, batch, signals=signals)
    tolerance = 1e-12 if policy.dtype == np.float64 else 1e-4
    assert gradient.terms().shape == (batch.num_steps,)
    np.testing.assert_allclose(gradient.terms(), plain.terms(), rtol=tolerance, atol=tolerance)
    assert gradient.arguments().keys() == plain.arguments().keys()
    for name, value in plain.arguments().items():
        assert gradient.arguments()[name].shape == value.shape, name
        np.testing.assert_allclose(
            gradient.arguments()[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )
    assert gradient.metrics == pytest.approx(plain.metrics, rel=10 * tolerance, abs=10 * tolerance)
    assert gradient.metrics["loss"] == gradient.loss


@pytest.mark.parametrize(
    "backend", [name for name in USABLE if "compiled" not in pg.backend(name).modes]
)
def test_nothing_is_compiled_where_there_is_nothing_to_compile(backend):
    words = rf"{backend}\.policy compiled: expected False, got True; nothing is compiled here"
    with pytest.raises(SpecError, match=words):
        pg.policy(SPEC, backend=backend, compiled=True)


@pytest.mark.parametrize("backend", USABLE)
def test_a_policy_says_whether_it_is_compiled(backend):
    modes = pg.backend(backend).modes
    assert pg.policy(SMALL, backend=backend).compiled == (modes[0] == "compiled")
