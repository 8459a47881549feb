"""Identities of heads' distributions, and heads that break each of them."""

from __future__ import annotations

import numpy as np
import pytest
from strangers import HalvedLaplace, Kumaraswamy, Laplace

import pgcore as pg
from pgcore.registry.registry import forget_registry
from pgcore_check.bounds.forward_mode import Dual, constant
from pgcore_check.head_outcomes import identity_outcome
from pgcore_check.outcomes import reason
from pgcore_check.proofs import variants
from pgcore_check.stages import integration
from pgcore_check.stages.identities import ADVICE, identities, obstacle

HEADS = variants("heads")


class Single(Laplace):
    """One dimension, and actions of shape [B]."""

    def __init__(self):
        super().__init__(1)

    def log_prob(self, xp, distribution, actions):
        return super().log_prob(xp, distribution, actions[:, None])

    def sample(self, distribution, rng):
        return super().sample(distribution, rng)[:, 0]

    def mode(self, distribution):
        return distribution[:, 0]

    fisher = Laplace.fisher


HONEST = {
    **HEADS,
    "laplace": Laplace(),
    "single": Single(),
    "kumaraswamy": Kumaraswamy(),
    "a thousand": pg.Categorical(1000),
    "512 in three": pg.MultiCategorical((8, 8, 8)),
}


@pytest.mark.parametrize("label", HONEST)
def test_an_honest_head_meets_each_identity_far_within_its_tolerance(label):
    head = HONEST[label]
    assert obstacle(head) == ""
    rows = identities(head)
    names = [row.name for row in rows]
    total = "sum of probabilities" if head.discrete else "integral of the density"
    assert names[:2] == [total, "mean score"]
    # Once without and once with a mask.
    assert names.count(total) == (2 if head.discrete else 1)
    divergences = {"entropy": "entropy", "kl": "KL"}
    assert {name for name in names if name in divergences.values()} == {
        name for quantity, name in divergences.items() if quantity in head.quantities
    }
    assert [row for row in rows if not row.error <= 2e-4] == []


class Wide(pg.DiagonalGaussian):
    """The constant of the density is another's."""

    def log_prob(self, xp, distribution, actions):
        return super().log_prob(xp, distribution, actions) - 1e-5

    fisher = pg.DiagonalGaussian.fisher


class Tempered(pg.Categorical):
    """The temperature is applied behind the softmax."""

    def log_prob(self, xp, distribution, actions):
        return super().log_prob(xp, distribution, actions) * 1.0000001

    fisher = pg.Categorical.fisher


class Leaky(pg.Categorical):
    """A masked action retains a little probability."""

    def distribution(self, xp, outputs, parameters, mask):
        if mask is None:
            return super().distribution(xp, outputs, parameters, None)
        clear = super().distribution(xp, outputs, parameters, mask)
        return xp.where(mask, clear, -20.0)


class Reachable(pg.Categorical):
    """A masked action is unlikely."""

    def distribution(self, xp, outputs, parameters, mask):
        logits = outputs if mask is None else xp.where(mask, outputs, -20.0)
        return super().distribution(xp, logits, parameters, None)


class Detached(Laplace):
    """The normalising constant is held constant where it is differentiated."""

    def log_prob(self, xp, distribution, actions):
        log_scale = distribution[:, self.n :]
        fixed = constant(log_scale.value) if isinstance(log_scale, Dual) else log_scale
        return super().log_prob(xp, distribution, actions) + xp.sum(log_scale - fixed, 1)

    fisher = Laplace.fisher


class Coarse(pg.DiagonalGaussian):
    """A quadrature of three points, and one of them in a wrong place."""

    def log_prob(self, xp, distribution, actions):
        return super().log_prob(xp, distribution, actions)

    def quadrature(self, distribution):
        mean, std = distribution[:, : self.n], np.exp(distribution[:, self.n :])
        points = np.stack([mean - 2 * std, mean, mean + 2 * std], 1)
        return points, np.tile([1 / 6, 2 / 3, 1 / 6], (len(mean), 1))


class Unsquashed(pg.SquashedGaussian):
    """The density of u, not of the bounded action."""

    def log_prob(self, xp, distribution, actions):
        return pg.DiagonalGaussian.log_prob(self, xp, distribution, actions)

    fisher = pg.DiagonalGaussian.fisher


class Narrow(Laplace):
    """The entropy of a scale alone."""

    def entropy(self, xp, distribution):
        return super().entropy(xp, distribution) - self.n


class Backwards(pg.Bernoulli):
    """The divergence of the reference from the distribution."""

    def kl(self, xp, reference, distribution):
        return super().kl(xp, distribution, reference)


BROKEN = {
    "wide": (Wide(2), "integral of the density"),
    "tempered": (Tempered(3), "sum of probabilities"),
    "leaky": (Leaky(3), "sum of probabilities"),
    "reachable": (Reachable(3), "probability of masked actions"),
    "halved": (HalvedLaplace(), "Fisher information"),
    "detached": (Detached(), "mean score"),
    "coarse": (Coarse(1), "Fisher information"),
    "unsquashed": (Unsquashed(1), "integral of the density"),
    "narrow": (Narrow(1), "entropy"),
    "backwards": (Backwards(2), "KL"),
}


@pytest.mark.parametrize("label", BROKEN)
def test_a_broken_head_breaks_the_identity_of_its_bug(label):
    head, expected = BROKEN[label]
    failed = [row for row in identities(head) if not row.holds]
    assert failed[0].name == expected
    assert failed[0].where.startswith(f"{expected} at step ")
    assert failed[0].values.startswith("expected ")


def test_a_divergence_may_be_infinite_on_both_sides():
    head = pg.EpsilonGreedy(3, 0.0)
    rows = {row.name: row for row in identities(head)}
    assert rows["KL"].error == 0
    assert "inf" in rows["KL"].values
    assert rows["entropy"].error == 0


def test_heads_beyond_the_limits_are_not_tried():
    assert (
        obstacle(pg.Categorical(1025))
        == f"expected at most 1,024 actions to sum over, got 1,025; {ADVICE}"
    )
    assert (
        obstacle(pg.DiagonalGaussian(3))
        == f"expected at most 2 dimensions to integrate over, got 3; {ADVICE}"
    )


def test_the_support_of_a_head_ends_where_its_log_density_does():
    head = Kumaraswamy()
    low, high = integration.supports(head, np.zeros((2, 2)))
    np.testing.assert_allclose(low.stop, 0.0, atol=1e-15)
    np.testing.assert_allclose(high.stop, 1.0, rtol=1e-15)
    assert all(np.isinf(r.stop).all() for r in integration.supports(Laplace(), np.zeros((2, 4))))


def test_without_an_adaptive_quadrature_a_head_is_not_checked(monkeypatch):
    monkeypatch.delattr("scipy.integrate.cubature")
    outcome = identity_outcome("fixed", variants("heads")["fixed"])
    assert outcome.unchecked.startswith("check: expected scipy 1.15 or later")
    assert outcome.agrees


def install(site, head):
    """Install a distribution with a head of `strangers`."""
    target = f"strangers:{head.__name__}"
    site.plugin(
        "mine_plugin",
        f"@hookimpl\ndef pgcore_heads():\n    return [Provider({head.name!r}, {target!r}, '')]",
    )
    site.distribution("mine-dist", {"mine": "mine_plugin"})
    forget_registry()


def test_a_registered_head_with_a_wrong_fisher_is_one_row(site, pgcore):
    install(site, HalvedLaplace)
    outcome = identity_outcome("halved_laplace", HalvedLaplace())
    assert (outcome.stage, outcome.label) == ("identities", "head halved_laplace: identities")
    assert reason(outcome).startswith("departs at identities, Fisher information at step ")
    assert "at step 0, log_scale[0] and log_scale[0]: expected 1, got 0.5; " in reason(outcome)
    words = (
        "--backends",
        "torch",
        "--heads",
        "halved_laplace",
        "--estimators",
        "reinforce",
        "--quick",
    )
    status, out, _ = pgcore("check", *words, "--processes", "1")
    assert status == 1
    lines = [
        line for line in out.splitlines() if line.startswith("head halved_laplace: identities: ")
    ]
    assert len(lines) == 1


def test_a_head_that_raises_is_one_row(site, monkeypatch):
    install(site, Laplace)
    monkeypatch.setattr(type(variants("heads")["laplace"]), "mode", lambda self, d: d)
    assert "mode: expected the shape of a sample, [2, 2], got [2, 4]" in reason(
        identity_outcome("laplace", variants("heads")["laplace"])
    )
