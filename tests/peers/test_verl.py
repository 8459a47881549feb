"""verl's formulas, retyped from verl 0.9.1 and differentiated by PyTorch.

Line numbers are of verl/trainer/ppo/core_algos.py, with `corr:` of rollout_corr_helper.py beside it.
verl needs an inference engine's packages to run, so that nothing of it is imported here.
"""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg

torch = pytest.importorskip("torch")

GROUPS = np.array([0, 0, 1, 1, 1])  # of the episodes of `steps`
# Reductions by the name of verl's; lines 1170 to 1202.
REDUCTIONS = {
    "token-mean": "step",
    "token-sum": "sum",
    "seq-mean-token-sum": "trajectory",
    "seq-mean-token-mean": "episode_step",
    "seq-mean-token-sum-norm": {"name": "constant", "divisor": 6},
}
# The smallest number that verl adds to most denominators.
TINY = 1e-8


class Padded:
    """The batch as verl has it: [E, T] arrays that are 0 beyond an answer's end."""

    def __init__(self, steps):
        fields = steps.fields
        lengths = fields["episode_lengths"]
        self.inside = np.arange(lengths.max()) < lengths[:, None]
        self.logits = torch.tensor(steps.logits, requires_grad=True)
        self.mask = torch.tensor(self.inside).double()
        count = len(steps.logits)
        log_pi = torch.log_softmax(self.logits, -1)[np.arange(count), fields["actions"]]
        self.log_prob = torch.zeros(self.inside.shape, dtype=torch.float64)
        self.log_prob[torch.tensor(self.inside)] = log_pi
        self.old = self.rows(fields["log_probs"])
        self.advantage = self.rows(fields["extras"]["advantages"])
        self.reward = self.rows(fields["rewards"])
        self.log_ratio = self.log_prob - self.old
        self.ratio = self.log_ratio.exp()
        self.rollout = self.old

    def rows(self, column):
        """Return [E, T] of [B]."""
        padded = np.zeros(self.inside.shape)
        padded[self.inside] = column
        return torch.tensor(padded)

    def steps(self, array):
        """Return [B] of [E, T]."""
        return np.asarray(array.detach())[self.inside]

    def mean(self, array):
        return (array * self.mask).sum() / self.mask.sum()

    def of_answers(self, array):
        """Return [E, 1] means over answers."""
        return ((array * self.mask).sum(1) / self.mask.sum(1))[:, None]

    def aggregate(self, terms, mode, mask=None, tiny=0.0):
        """Return the loss of [E, T] terms; lines 1170 to 1204, `tiny` being 1e-8 there."""
        mask = self.mask if mask is None else mask
        answers = (mask * terms).sum(1)
        present = (mask.sum(1) > 0).double()
        if mode == "token-mean":
            return answers.sum() / mask.sum()
        if mode == "token-sum":
            return answers.sum()
        if mode == "seq-mean-token-mean":
            answers = answers / (mask.sum(1) + tiny)
        loss = (answers * present).sum() / present.sum()
        return loss / 6 if mode == "seq-mean-token-sum-norm" else loss

    def gradient(self, loss):
        """Return d loss / d logits, [B, A]."""
        (gradient,) = torch.autograd.grad(loss, self.logits, retain_graph=True)
        return gradient.numpy()


def composed(reduction="step", **parts):
    parts = {"advantage": "given", "critic": None} | parts
    return pg.estimator("policy_gradient", reduction=reduction, **parts)


# Terms of policy losses, each with pgcore's parts


def vanilla(p, low=0.2, high=0.28, dual=1.5):
    """Lines 1336 to 1361."""
    unclipped, clipped = -p.advantage * p.ratio, -p.advantage * p.ratio.clamp(1 - low, 1 + high)
    larger = torch.maximum(unclipped, clipped)
    return torch.where(p.advantage < 0, torch.minimum(larger, -p.advantage * dual), larger)


def dppo_tv(p, delta=0.1):
    """Lines 1418 to 1439, where no ratio is above the bound of 20."""
    moved = (p.log_prob.exp() - p.old.exp()).detach()
    keeps = torch.where(p.advantage > 0, moved <= delta, moved >= -delta)
    return -p.advantage * p.ratio.detach() * p.log_prob * keeps


def dppo_kl(p, delta=0.05):
    """Lines 1499 to 1523."""
    pi, mu = p.log_prob.detach().exp(), p.old.exp()
    others = (1 - mu) * torch.log((1 - mu + TINY) / (1 - pi + TINY))
    near = mu * (p.old - p.log_prob.detach()) + others <= delta
    keeps = torch.where(p.advantage > 0, near | (pi <= mu), near | (pi >= mu))
    return -p.advantage * p.ratio.detach() * p.log_prob * keeps


def gspo(p, low=0.1, high=0.15):
    """Lines 1578 to 1597."""
    level = p.log_prob - p.log_prob.detach() + p.of_answers(p.log_ratio).detach()
    ratio = level.clamp(max=10).exp()
    return torch.maximum(-p.advantage * ratio, -p.advantage * ratio.clamp(1 - low, 1 + high))


def sapo(p):
    """Lines 1657 to 1681."""
    tau = torch.where(p.advantage > 0, p.mask.new_tensor(1.0), p.mask.new_tensor(1.05))
    return -p.advantage * torch.sigmoid(tau * (p.ratio - 1)) * 4 / tau


def gpg(p):
    """Line 1731."""
    return -p.log_prob * p.advantage


def clip_cov(p, low=0.1, high=2.0):
    """Lines 1797 to 1832, with a share that takes every candidate, so that none is drawn."""
    unclipped, clipped = -p.advantage * p.ratio, -p.advantage * p.ratio.clamp(0.8, 1.2)
    covariance = (p.advantage - p.mean(p.advantage)) * (p.log_prob - p.mean(p.log_prob)).detach()
    candidate = (covariance > low) & (covariance < high) & (clipped <= unclipped)
    return torch.maximum(unclipped, clipped) * ~candidate


def kl_cov(p, share=0.3, coefficient=0.7):
    """Lines 1889 to 1913."""
    covariance = (p.advantage - p.mean(p.advantage)) * (p.log_prob - p.mean(p.log_prob)).detach()
    covariance = torch.where(p.mask > 0, covariance, -torch.inf)
    count = max(1, int(p.mask.sum() * share))
    bound = covariance.flatten().topk(count).values[-1]
    return -p.advantage * p.ratio + coefficient * p.log_ratio.abs() * (covariance >= bound)


def dro(p, beta=0.4):
    """Lines 2032 to 2033."""
    return -(p.log_prob * p.advantage - 0.5 * beta * p.log_ratio.square())


def cispo(p, low=0.3, high=0.2):
    """Lines 2069 to 2084."""
    return -p.ratio.clamp(1 - low, 1 + high).detach() * p.advantage * p.log_prob


POLICIES = {
    vanilla: {"objective": {"name": "clip", "low": 0.2, "high": 0.28, "dual": 1.5}},
    dppo_tv: {"objective": {"name": "dppo_tv", "delta": 0.1, "behaviour": "old"}},
    dppo_kl: {"objective": {"name": "dppo_kl", "delta": 0.05, "behaviour": "old"}},
    gspo: {"objective": {"name": "clip", "low": 0.1, "high": 0.15}, "level": "gspo_token"},
    sapo: {"objective": "sapo"},
    gpg: {"objective": "score"},
    kl_cov: {
        "objective": "ratio",
        "penalty": {"name": "kl_cov", "fraction": 0.3, "coefficient": 0.7},
    },
    dro: {"objective": "score", "penalty": {"name": "k2", "coefficient": 0.4}},
    cispo: {"objective": {"name": "cispo", "low": 0.3, "high": 0.2}},
}


@pytest.fixture
def referred(steps):
    """Steps with groups, and the old policy as a reference policy."""
    extras = {"reference_log_probs": steps.fields["log_probs"]}
    extras["group"] = GROUPS.repeat(steps.fields["episode_lengths"])
    return steps._replace(fields=steps.fields | {"extras": steps.fields["extras"] | extras})


@pytest.mark.parametrize("mode", REDUCTIONS)
@pytest.mark.parametrize("terms", POLICIES, ids=lambda terms: terms.__name__)
def test_policy_losses(referred, rows, agree, terms, mode):
    padded = Padded(referred)
    theirs = padded.gradient(padded.aggregate(terms(padded), mode))
    estimator = composed(REDUCTIONS[mode], **POLICIES[terms])
    agree(rows(estimator, referred.logits, referred.fields).logits, theirs)


def test_a_mean_of_answers_differs_by_1e_8(referred, rows):
    """verl adds 1e-8 to an answer's number of tokens, line 1196."""
    padded = Padded(referred)
    loss = padded.aggregate(vanilla(padded), "seq-mean-token-mean", tiny=TINY)
    estimator = composed("episode_step", **POLICIES[vanilla])
    ours = rows(estimator, referred.logits, referred.fields).logits
    error = np.abs(ours - padded.gradient(loss)).max() / np.abs(ours).max()
    assert 1e-9 < error < 1e-7


def test_clip_cov_counts_no_step_that_is_clipped_among_its_candidates(referred, rows, agree):
    """Line 1816 leaves them out; their gradient is 0 anyway. Where all are taken nothing differs."""
    padded = Padded(referred)
    theirs = padded.gradient(padded.aggregate(clip_cov(padded), "token-mean"))
    mask = {"name": "clip_cov", "low": 0.1, "high": 2.0, "fraction": 1.0}
    estimator = composed(objective="clip", mask=mask)
    agree(rows(estimator, referred.logits, referred.fields).logits, theirs)
    plain = rows(composed(objective="clip"), referred.logits, referred.fields).logits
    assert np.abs(plain - theirs).max() > 1e-3


def test_geometric_mean(referred, rows, agree):
    """Lines 1971 to 2000, of one advantage an answer and without the 1e-8 beside its length."""
    constant = GROUPS.repeat(referred.fields["episode_lengths"]) - 0.4
    extras = referred.fields["extras"] | {"advantages": constant}
    steps = referred._replace(fields=referred.fields | {"extras": extras})
    padded = Padded(steps)
    sign = torch.sign(padded.advantage)
    limited = torch.minimum(sign * padded.log_ratio, sign * padded.log_ratio.clamp(-0.4, 0.3))
    ratio = padded.of_answers(sign * limited).exp()
    theirs = padded.gradient((-padded.of_answers(padded.advantage) * ratio).mean())
    objective = {"name": "gmpo", "low": 0.4, "high": 0.3}
    estimator = composed("episode_step", objective=objective, level="sequence")
    agree(rows(estimator, steps.logits, steps.fields).logits, theirs)


# Penalties, lines 2188 to 2245


PENALTIES = {
    "k1": lambda gap: gap,
    "abs_k1": lambda gap: gap.abs(),
    "k2": lambda gap: gap.square() / 2,
    "k3": lambda gap: (-gap).exp() + gap - 1,
    "k3_straight": lambda gap: (
        gap.square() / 2 + ((-gap).exp() + gap - 1 - gap.square() / 2).detach()
    ),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties(referred, rows, agree, name):
    padded = Padded(referred)
    terms = gpg(padded) + 0.3 * PENALTIES[name](padded.log_ratio)
    theirs = padded.aggregate(terms, "token-mean")
    estimator = composed(objective="score", penalty={"name": name, "coefficient": 0.3})
    ours = rows(estimator, referred.logits, referred.fields)
    agree(ours.logits, padded.gradient(theirs))
    assert ours.loss == pytest.approx(theirs.item(), rel=1e-12)


def test_value_loss(referred, rows, agree):
    """Lines 2171 to 2183; advantages and returns of lines 244 to 261."""
    rng = np.random.default_rng(8)
    old = referred.values + rng.uniform(-0.5, 0.5, len(referred.values))
    ended = {"terminated": np.ones(5, bool), "final_values": np.zeros(5), "values": old}
    steps = referred._replace(fields=referred.fields | ended)
    padded = Padded(steps)
    _, returns = gae(padded, padded.rows(old))
    value = padded.rows(steps.values).requires_grad_()
    before = padded.rows(old)
    held = torch.minimum(torch.maximum(value, before - 0.2), before + 0.2)
    larger = torch.maximum((value - returns) ** 2, (held - returns) ** 2)
    loss = 0.5 * padded.aggregate(larger, "token-mean")
    (theirs,) = torch.autograd.grad(loss, value)
    critic = {"name": "clipped", "clip": 0.2}
    advantage = {"name": "gae", "gamma": 0.9, "gae_lambda": 0.8}
    estimator = composed(advantage=advantage, critic=critic, value_coefficient=1.0)
    ours = rows(estimator, steps.logits, steps.fields, steps.values)
    agree(ours.values, padded.steps(theirs))


# Advantages


def gae(p, values, gamma=0.9, trace=0.8):
    """Lines 244 to 261, of answers that end."""
    following, advantage = torch.zeros(len(values)), torch.zeros(len(values))
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        inside = p.mask[:, t] > 0
        error = p.reward[:, t] + gamma * following - values[:, t]
        advantage = torch.where(inside, error + gamma * trace * advantage, advantage)
        following = torch.where(inside, values[:, t], following)
        advantages[:, t] = advantage
    return advantages * p.mask, advantages + values


def whitened(p, array, tiny=0.0):
    """Return an array of mean 0 and deviation 1; torch_functional.py, lines 311 to 346."""
    centred = array - p.mean(array)
    variance = (centred**2 * p.mask).sum() / (p.mask.sum() - 1)
    return centred / torch.sqrt(variance + tiny) * p.mask


def by_group(p, function):
    """Return [E, T] of a function of the [n] rewards, and [n] lengths, of each group's answers."""
    scores, lengths = (p.reward * p.mask).sum(1), p.mask.sum(1)
    result = torch.zeros_like(scores)
    for group in np.unique(GROUPS):
        members = torch.tensor(group == GROUPS)
        result[members] = function(scores[members], lengths[members])
    return result[:, None] * p.mask


def best_alone(scores, _):
    """Lines 501 to 529 of `grpo_passk`."""
    best = scores.topk(2).values
    only = torch.zeros_like(scores)
    only[scores.argmax()] = (best[0] - best[1]) / (scores.std() + 1e-6)
    return only


def returns_of(p):
    """Return [E, T] undiscounted rewards to go."""
    return (p.reward * p.mask).flip(1).cumsum(1).flip(1)


def gpg_advantage(p):
    """Lines 802 to 828."""
    scores = (p.reward * p.mask).sum(1)
    factor = len(scores) / torch.count_nonzero(scores)
    return factor * by_group(p, lambda scores, _: scores - scores.mean())


ADVANTAGES = {
    # Lines 304 to 329, and 350 to 357.
    "grpo": (
        lambda p: by_group(p, lambda x, _: (x - x.mean()) / (x.std() + 1e-6)),
        {"name": "group_relative", "eps": 1e-6},
    ),
    "grpo without a deviation": (
        lambda p: by_group(p, lambda x, _: x - x.mean()),
        {"name": "group_relative", "scale": "none"},
    ),
    "grpo_passk": (lambda p: by_group(p, best_alone), {"name": "best_alone", "eps": 1e-6}),
    # Lines 612 to 634, and 858 to 866.
    "rloo": (
        lambda p: by_group(p, lambda x, _: (x - x.mean()) * len(x) / (len(x) - 1)),
        {"name": "group_relative", "scale": "none", "leave_one_out": True},
    ),
    # Lines 664 to 688.
    "opo": (
        lambda p: by_group(p, lambda x, n: x - (n * x).sum() / n.sum()),
        {"name": "group_relative", "scale": "none", "mean": "steps"},
    ),
    "gpg": (gpg_advantage, "gpg"),
    # Lines 764 to 765.
    "remax": (
        lambda p: (returns_of(p) - 0.3) * p.mask,
        {"name": "greedy_baseline"},
    ),
}


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages(referred, table, batch, agree, name):
    formula, advantage = ADVANTAGES[name]
    padded = Padded(referred)
    extras = referred.fields["extras"] | {"greedy_rewards": np.full(len(referred.values), 0.3)}
    fields = referred.fields | {"extras": extras}
    signals = pg.signals(table(referred.logits), composed(advantage=advantage), batch(fields))
    agree(signals["advantage"], padded.steps(formula(padded)))


def reinforce_pp(p):
    """Lines 717 to 729, before they whiten."""
    return returns_of(p), pg.estimator("reinforce_pp")


def reinforce_pp_baseline(p):
    """Lines 562 to 582, before they whiten."""
    return by_group(p, lambda x, _: x - x.mean()), pg.estimator("reinforce_pp_baseline")


def gdpo(p):
    """Lines 449 to 464, before they whiten; the second reward is the first one's square."""
    first, second = (
        by_group(
            p, lambda x, _, power=power: (x**power - (x**power).mean()) / ((x**power).std() + 1e-6)
        )
        for power in (1, 2)
    )
    advantage = {"name": "several_rewards", "weights": [1.0, 0.25], "first": "normalise"}
    advantage |= {"rows": "episode", "eps": 1e-6}
    return first + 0.25 * second, composed(advantage=advantage, normalise="batch")


@pytest.mark.parametrize("case", [reinforce_pp, reinforce_pp_baseline, gdpo])
def test_whitened_advantages(referred, table, batch, agree, case):
    """Of one reward an answer, at its last token.

    verl's 1e-8 stands inside the root, torch_functional.py line 343, and pgcore's outside: both are
    left out here, and with them the results lie less than 1e-7 apart.
    """
    ends = np.cumsum(referred.fields["episode_lengths"]) - 1
    scores, rewards = np.array([1.0, -0.5, 2.0, 0.25, 1.5]), np.zeros(len(referred.values))
    rewards[ends] = scores
    answers = scores.repeat(referred.fields["episode_lengths"])
    extras = referred.fields["extras"] | {"rewards": np.stack([answers, answers**2], axis=1)}
    fields = referred.fields | {"rewards": rewards, "extras": extras}
    padded = Padded(referred._replace(fields=fields))
    plain, estimator = case(padded)
    signals = pg.signals(table(referred.logits), estimator, batch(fields))
    deviation = padded.steps(plain).std(ddof=1)
    exact = signals["advantage"] * (deviation + 1e-8) / deviation
    agree(exact, padded.steps(whitened(padded, plain)))
    inside = padded.steps(whitened(padded, plain, TINY))
    error = np.abs(signals["advantage"] - inside).max() / np.abs(inside).max()
    assert 1e-10 < error < 1e-7


def test_gae(referred, table, batch, agree):
    """Lines 244 to 262; verl whitens the advantages afterwards, as `normalise` "batch" does."""
    ended = {"terminated": np.ones(5, bool), "final_values": np.zeros(5)}
    fields = referred.fields | ended | {"values": referred.values}
    padded = Padded(referred)
    advantages, returns = gae(padded, padded.rows(referred.values))
    advantage = {"name": "gae", "gamma": 0.9, "gae_lambda": 0.8}
    estimator = composed(advantage=advantage, critic="squared")
    policy = table(referred.logits, referred.values)
    signals = pg.signals(policy, estimator, batch(fields))
    agree(signals["advantage"], padded.steps(advantages))
    agree(signals["return_"], padded.steps(returns))


def token_baseline(p, squares, tiny=0.0):
    """Lines 924 to 985, with `handle_zero_tail`; the last argument is 1e-8 there."""
    returns = returns_of(p)
    energy = ((1 - 2 * p.old.exp() + squares) * p.mask).cumsum(1)
    baseline = torch.zeros_like(returns)
    for group in np.unique(GROUPS):
        members = torch.tensor(group == GROUPS)
        weight = energy[members] * p.mask[members]
        mean = (returns[members] * weight).sum(0) / (weight.sum(0) + tiny)
        alone = p.mask[members].sum(0) < 2
        baseline[members] = torch.where(alone, 0.0, mean)
    return (returns - baseline) * p.mask


def test_optimal_token_baseline(referred, table, batch, agree):
    """verl's advantage of a lone longest answer's end is the return, as lone="raw" has it."""
    log_probs = referred.fields["log_probs"]
    squares = np.exp(2 * log_probs) + 0.5 * (1 - np.minimum(np.exp(log_probs), 1)) ** 2
    extras = referred.fields["extras"] | {"squared_probs": squares}
    padded = Padded(referred)
    advantage = {"name": "optimal_token_baseline", "lone": "raw"}
    signals = pg.signals(
        table(referred.logits),
        composed(advantage=advantage),
        batch(referred.fields | {"extras": extras}),
    )
    exact, added = (
        padded.steps(token_baseline(padded, padded.rows(squares), tiny)) for tiny in (0.0, TINY)
    )
    agree(signals["advantage"], exact)
    assert 0 < np.abs(added - exact).max() < 1e-7


# Corrections for the policy that sampled


def weight_of(p, level):
    """Return [E, T] ratios of the old policy to the one that sampled; corr: 572 to 592."""
    gap = p.old - p.rollout
    return (gap if level == "token" else (gap * p.mask).sum(1, keepdim=True)).exp() * p.mask


@pytest.fixture
def sampled(referred):
    """Steps whose rollout policy differs from the old one by up to half a nat."""
    moved = np.random.default_rng(9).uniform(-0.5, 0.5, len(referred.values))
    extras = {"rollout_log_probs": referred.fields["log_probs"] + moved}
    extras = referred.fields["extras"] | extras
    steps = referred._replace(fields=referred.fields | {"extras": extras})
    padded = Padded(steps)
    padded.rollout = padded.rows(extras["rollout_log_probs"])
    return steps, padded


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("kind", ["truncated", "masked"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_corrections(sampled, rows, agree, level, kind, normalise):
    """corr: 594 to 655; a range of bounds masks, one bound truncates."""
    steps, padded = sampled
    weights = weight_of(padded, level)
    if kind == "truncated":
        weights, bounds = weights.clamp(max=1.2), {"cap": 1.2}
    else:
        weights = weights * ((weights >= 0.8) & (weights <= 1.4))
        bounds = {"low": 0.8, "high": 1.4}
    if normalise:
        means = padded.of_answers(weights).mean()
        weights = weights / (padded.mean(weights) if level == "token" else means)
    terms = vanilla(padded) * weights
    theirs = padded.gradient(padded.aggregate(terms, "token-mean"))
    correction = {"name": kind, "of": level, "normalise": normalise, **bounds}
    estimator = composed(correction=correction, **POLICIES[vanilla])
    agree(rows(estimator, steps.logits, steps.fields).logits, theirs)


@pytest.mark.parametrize("level", ["token", "answer"])
def test_rejected_tokens_are_a_loss_mask(sampled, rows, agree, level):
    """corr: 262 to 263, 312 to 316 and 347 to 349, with bounds of the ratio.

    Rejection drops tokens from denominators as well and weighs none, as no correction does. The
    mask that it makes is given to pgcore as a loss mask.
    """
    steps, padded = sampled
    gap = padded.rollout - padded.old
    if level == "answer":
        gap = padded.of_answers(gap)
    passed = padded.mask * ((gap >= np.log(0.9)) & (gap <= np.log(1.3)))
    theirs = padded.gradient(padded.aggregate(vanilla(padded), "token-mean", passed))
    mask = padded.steps(passed).astype(bool)
    assert 0 < mask.sum() < len(mask)
    fields = steps.fields | {"extras": steps.fields["extras"] | {"loss_mask": mask}}
    estimator = composed(mask={"name": "loss", "empty": "leave_out"}, **POLICIES[vanilla])
    agree(rows(estimator, steps.logits, fields).logits, theirs)


def test_bypass(sampled, rows, agree):
    """Lines 2517 to 2541: the ratio to the rollout policy, clipped; or its weight on the score."""
    steps, padded = sampled
    padded.old, padded.log_ratio = padded.rollout, padded.log_prob - padded.rollout
    padded.ratio = padded.log_ratio.exp()
    theirs = padded.gradient(padded.aggregate(vanilla(padded), "token-mean"))
    estimator = composed(correction="bypass", **POLICIES[vanilla])
    agree(rows(estimator, steps.logits, steps.fields).logits, theirs)
    # A weight of the current policy's own ratio, truncated: the objective `cispo`.
    weights = padded.ratio.detach().clamp(max=1.2)
    theirs = padded.gradient(padded.aggregate(gpg(padded) * weights, "token-mean"))
    objective = {"name": "cispo", "low": 1.0, "high": 0.2}
    estimator = composed(correction="bypass", objective=objective)
    agree(rows(estimator, steps.logits, steps.fields).logits, theirs)
