"""torchrl's losses and value estimators, on policies and critics that are tables."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import pgcore as pg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tensordict = pytest.importorskip("tensordict")
    td_nn = pytest.importorskip("tensordict.nn")
    objectives = pytest.importorskip("torchrl.objectives")
    estimators = pytest.importorskip("torchrl.objectives.value")
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    llm = pytest.importorskip("torchrl.objectives.llm")
    distributions = pytest.importorskip("torchrl.modules.distributions.discrete")

pytestmark = pytest.mark.usefixtures("torch_float64")

GAMMA = 0.9


class Networks:
    """An actor and a critic whose parameters are [B, A] logits and [B + E, 1] values.

    The last E rows are those of the episodes' final states.
    """

    def __init__(self, steps):
        values = np.append(steps.values, steps.fields["final_values"])
        self.logits = nn.Embedding.from_pretrained(torch.tensor(steps.logits), freeze=False)
        self.values = nn.Embedding.from_pretrained(torch.tensor(values[:, None]), freeze=False)
        self.actor = td_nn.ProbabilisticTensorDictSequential(
            td_nn.TensorDictModule(self.logits, ["observation"], ["logits"]),
            td_nn.ProbabilisticTensorDictModule(
                ["logits"],
                ["action"],
                distribution_class=torch.distributions.Categorical,
                return_log_prob=True,
            ),
        )
        self.critic = td_nn.TensorDictModule(self.values, ["observation"], ["state_value"])

    def gradients(self, losses):
        """Return the derivatives of the sum of a module's losses, and that sum."""
        parts = [loss for name, loss in losses.items() if name.startswith("loss_")]
        total = torch.stack([part.reshape(()) for part in parts]).sum()
        total.backward()
        logits, values = self.logits.weight.grad, self.values.weight.grad
        assert logits is not None
        return SimpleNamespace(
            loss=total.item(),
            logits=logits.numpy(),
            values=None if values is None else values[: len(logits), 0].numpy(),
        )


def data_of(steps, **columns):
    """Return a tensordict of one row of B steps, in which episodes follow one another."""
    fields, count = steps.fields, len(steps.logits)
    ends = np.cumsum(fields["episode_lengths"]) - 1
    done, terminated = np.zeros((2, count), bool)
    done[ends], terminated[ends] = True, fields["terminated"]
    following = np.arange(1, count + 1)
    following[ends] = count + np.arange(len(ends))
    after = {"reward": fields["rewards"], "done": done, "terminated": terminated}
    after = {name: torch.tensor(column)[None, :, None] for name, column in after.items()}
    after["observation"] = torch.tensor(following)[None]
    data = {
        "observation": torch.arange(count)[None],
        "action": torch.tensor(fields["actions"])[None],
        "action_log_prob": torch.tensor(fields["log_probs"])[None],
        "next": tensordict.TensorDict(after, [1, count]),
    }
    data |= {name: torch.tensor(column)[None, :, None] for name, column in columns.items()}
    return tensordict.TensorDict(data, [1, count])


@pytest.fixture
def recorded(steps):
    """Steps whose values at the time were up to half a unit from the current ones."""
    moved = steps.values + np.random.default_rng(6).uniform(-0.5, 0.5, len(steps.values))
    return steps._replace(fields=steps.fields | {"values": moved})


@pytest.fixture
def signals(table, batch):
    """Return a function of steps: what torchrl's losses read, from pgcore's GAE of recorded values."""

    def columns(steps):
        policy = table(steps.logits, steps.values)
        computed = pg.signals(policy, composed(critic="auto", **WITH_GAE), batch(steps.fields))
        return {
            "advantage": computed["advantage"],
            "value_target": computed["return_"],
            "state_value": steps.fields["values"],
        }

    return columns


WITH_GAE = {"advantage": {"name": "gae", "gamma": GAMMA, "gae_lambda": 0.8}}


def composed(**parts):
    return pg.estimator("policy_gradient", **{"advantage": "given", "critic": None} | parts)


# Losses of steps


CLIPS = {
    "symmetric": (0.2, {}),
    "asymmetric": ((0.1, 0.3), {"low": 0.1, "high": 0.3}),
}


@pytest.mark.parametrize("case", CLIPS)
def test_clipped_ppo(recorded, signals, rows, agree, case):
    epsilon, bounds = CLIPS[case]
    networks = Networks(recorded)
    module = objectives.ClipPPOLoss(
        networks.actor,
        networks.critic,
        clip_epsilon=epsilon,
        entropy_coeff=0.3,
        critic_coeff=0.7,
        loss_critic_type="l2",
    )
    theirs = networks.gradients(module(data_of(recorded, **signals(recorded))))
    estimator = composed(
        objective={"name": "clip", **bounds},
        entropy_coefficient=0.3,
        critic={"name": "squared", "half": False},
        value_coefficient=0.7,
        **WITH_GAE,
    )
    ours = rows(estimator, recorded.logits, recorded.fields, recorded.values)
    agree(ours.logits, theirs.logits)
    agree(ours.values, theirs.values)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)


CRITICS = {
    "l2": ({"loss_critic_type": "l2"}, {"name": "squared", "half": False}),
    "smooth_l1": ({}, {"name": "huber", "bound": 1.0}),
    "clipped": (
        {"loss_critic_type": "l2", "clip_value": 0.25},
        {"name": "clipped", "clip": 0.25, "half": False},
    ),
}


@pytest.mark.parametrize("case", CRITICS)
def test_critics(recorded, signals, rows, agree, case):
    options, critic = CRITICS[case]
    networks = Networks(recorded)
    module = objectives.ClipPPOLoss(
        networks.actor, networks.critic, critic_coeff=1.0, entropy_bonus=False, **options
    )
    theirs = networks.gradients(module(data_of(recorded, **signals(recorded))))
    estimator = composed(critic=critic, value_coefficient=1.0, **WITH_GAE)
    ours = rows(estimator, recorded.logits, recorded.fields, recorded.values)
    agree(ours.values, theirs.values)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)


def test_normalised_advantages_differ_by_eps(recorded, signals, rows, agree):
    """torchrl limits the deviation from below, and pgcore adds 1e-8 to it."""
    networks, columns = Networks(recorded), signals(recorded)
    module = objectives.ClipPPOLoss(
        networks.actor, None, normalize_advantage=True, entropy_bonus=False, critic_coeff=None
    )
    theirs = networks.gradients(module(data_of(recorded, **columns)))
    estimator = composed(normalise="minibatch", **WITH_GAE)
    ours = rows(estimator, recorded.logits, recorded.fields, recorded.values)
    deviation = np.std(columns["advantage"], ddof=1)
    agree(ours.logits * (deviation + 1e-8) / deviation, theirs.logits)


def test_a2c(recorded, signals, rows, agree):
    networks = Networks(recorded)
    module = objectives.A2CLoss(
        networks.actor,
        networks.critic,
        entropy_coeff=0.3,
        critic_coeff=0.7,
        loss_critic_type="l2",
    )
    theirs = networks.gradients(module(data_of(recorded, **signals(recorded))))
    estimator = pg.estimator(
        "a2c", gamma=GAMMA, gae_lambda=0.8, entropy_coefficient=0.3, value_coefficient=1.4
    )
    ours = rows(estimator, recorded.logits, recorded.fields, recorded.values)
    agree(ours.logits, theirs.logits)
    agree(ours.values, theirs.values)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)


def test_reinforce(recorded, signals, rows, agree):
    networks = Networks(recorded)
    module = objectives.ReinforceLoss(networks.actor, networks.critic, loss_critic_type="l2")
    theirs = networks.gradients(module(data_of(recorded, **signals(recorded))))
    estimator = composed(
        objective="score",
        critic={"name": "squared", "half": False},
        value_coefficient=1.0,
        **WITH_GAE,
    )
    ours = rows(estimator, recorded.logits, recorded.fields, recorded.values)
    agree(ours.logits, theirs.logits)
    agree(ours.values, theirs.values)


# PPO with a KL penalty


def penalised(steps, columns, *, beta=1.0, logits=None, **options):
    """Return a module's networks and losses; the old policy's logits are the current ones halved."""
    networks = Networks(steps if logits is None else steps._replace(logits=logits))
    module = objectives.KLPENPPOLoss(
        networks.actor, None, beta=beta, entropy_bonus=False, critic_coeff=None, **options
    )
    data = data_of(steps, **columns)
    data["logits"] = torch.tensor(steps.logits / 2)[None]
    return networks, module(data)


def with_reference(steps):
    extras = steps.fields["extras"] | {"reference": log_softmax(steps.logits / 2)}
    return steps.fields | {"extras": extras}


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def penalty_rows(rows, steps, beta):
    penalty = {"name": "exact", "coefficient": beta}
    estimator = composed(objective="ratio", penalty=penalty, **WITH_GAE)
    return rows(estimator, steps.logits, with_reference(steps), steps.values)


def test_ppo_with_a_fixed_penalty(recorded, signals, rows, agree):
    options = {"increment": 1.0, "decrement": 1.0, "beta": 0.8}
    networks, losses = penalised(recorded, signals(recorded), **options)
    theirs = networks.gradients(losses)
    ours = penalty_rows(rows, recorded, 0.8)
    agree(ours.logits, theirs.logits)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
    preset = pg.estimator(
        "ppo",
        objective="kl",
        kl_coefficient=0.8,
        gamma=GAMMA,
        gae_lambda=0.8,
        normalise="none",
        value_coefficient=0.0,
    )
    agree(
        rows(preset, recorded.logits, with_reference(recorded), recorded.values).logits,
        theirs.logits,
    )


@pytest.mark.parametrize(("target", "scaled"), [(0.001, 2.0), (10.0, 0.5)])
def test_torchrl_differentiates_another_penalty_than_it_returns(
    recorded, signals, rows, agree, target, scaled
):
    """torchrl adapts beta in place between the loss and `backward`, which reads the new one.

    The loss is of beta 1, and finite differences of that loss agree with pgcore's gradient; the
    gradient is of the beta of the next update.
    """
    columns = signals(recorded)
    networks, losses = penalised(recorded, columns, dtarg=target)
    theirs = networks.gradients(losses)
    ours = penalty_rows(rows, recorded, 1.0)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
    agree(penalty_rows(rows, recorded, scaled).logits, theirs.logits)
    difference = theirs.logits - ours.logits
    assert np.linalg.norm(difference) > 0.05 * np.linalg.norm(ours.logits)

    def loss(logits):
        _, losses = penalised(recorded, columns, logits=logits, dtarg=target)
        return losses["loss_objective"].item()

    # Along the line on which the two gradients differ most.
    direction = difference / np.linalg.norm(difference)
    ahead, behind = (loss(recorded.logits + step * direction) for step in (1e-6, -1e-6))
    slope = (ahead - behind) / 2e-6
    assert slope == pytest.approx((ours.logits * direction).sum(), abs=1e-8)
    assert abs(slope - (theirs.logits * direction).sum()) > 1e-3


# Advantages and targets


ESTIMATORS = {
    "gae": (estimators.GAE, {"lmbda": 0.8}, WITH_GAE["advantage"]),
    "td0": (estimators.TD0Estimator, {}, {"name": "td", "gamma": GAMMA}),
    "td1": (
        estimators.TD1Estimator,
        {},
        {"name": "gae", "gamma": GAMMA, "gae_lambda": 1.0},
    ),
    "td_lambda": (estimators.TDLambdaEstimator, {"lmbda": 0.8}, WITH_GAE["advantage"]),
}


@pytest.mark.parametrize("case", ESTIMATORS)
def test_value_estimators(steps, table, batch, agree, case):
    estimator_class, options, advantage = ESTIMATORS[case]
    networks = Networks(steps)
    module = estimator_class(gamma=GAMMA, value_network=networks.critic, **options)
    data = module(data_of(steps))
    computed = pg.signals(
        table(steps.logits, steps.values),
        pg.estimator("policy_gradient", advantage=advantage),
        batch(steps.fields),
    )
    agree(computed["advantage"], data["advantage"][0, :, 0].numpy())
    agree(computed["return_"], data["value_target"][0, :, 0].numpy())


TRACES = [(1.0, 1.0), (1.4, 0.9)]


def traced(steps, table, batch, rho_bar, c_bar):
    """Return pgcore's V-trace advantages and targets, [1, B, 1] each."""
    estimator = pg.estimator("vtrace", gamma=GAMMA, rho_bar=rho_bar, c_bar=c_bar)
    policy = table(steps.logits, steps.values)
    signals = pg.signals(policy, estimator, batch(steps.fields))
    return signals["advantage"][None, :, None], signals["return_"][None, :, None]


@pytest.mark.parametrize(("rho_bar", "c_bar"), TRACES)
def test_vtrace(steps, table, batch, agree, rho_bar, c_bar):
    networks, data = Networks(steps), data_of(steps)
    following = data["next"]
    with torch.no_grad():
        log_pi = networks.actor.get_dist(data).log_prob(data["action"])
        advantage, target = functional.vtrace_advantage_estimate(
            GAMMA,
            log_pi[..., None],
            data["action_log_prob"][..., None],
            networks.values(data["observation"]),
            networks.values(following["observation"]),
            following["reward"],
            following["done"],
            following["terminated"],
            rho_thresh=rho_bar,
            c_thresh=c_bar,
        )
    ours = traced(steps, table, batch, rho_bar, c_bar)
    agree(ours[0], advantage.numpy())
    agree(ours[1], target.numpy())


@pytest.mark.parametrize(("rho_bar", "c_bar"), TRACES)
def test_torchrls_vtrace_module_takes_the_ratio_of_another_action(
    steps, table, batch, agree, rho_bar, c_bar
):
    """Espeholt et al. 2018, eq. 1, weigh by pi(a) / mu(a) of the action that was taken.

    The module asks the actor for an action of its own, by default the most probable one, and divides
    its probability by mu of the one that was taken.
    """
    networks = Networks(steps)
    module = estimators.VTrace(
        gamma=GAMMA,
        actor_network=networks.actor,
        value_network=networks.critic,
        rho_thresh=rho_bar,
        c_thresh=c_bar,
    )
    data = module(data_of(steps))
    mode = steps.fields | {"actions": steps.logits.argmax(axis=1)}
    of_mode = traced(steps._replace(fields=mode), table, batch, rho_bar, c_bar)
    of_action = traced(steps, table, batch, rho_bar, c_bar)
    for index, name in enumerate(("advantage", "value_target")):
        theirs = data[name].detach().numpy()
        agree(of_mode[index], theirs)
        assert np.abs(of_action[index] - theirs).max() > 0.1


# Losses of language models


class Answers(nn.Module):
    """An actor of padded answers, whose parameters are [E, T, A] logits."""

    in_keys = ()

    def __init__(self, steps):
        super().__init__()
        lengths = steps.fields["episode_lengths"]
        self.mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        self.logits = nn.Parameter(self.padded(steps.logits))

    def padded(self, rows):
        """Return [E, T, ...] of [B, ...], 0 where there is no step."""
        rows = torch.tensor(rows)
        array = torch.zeros(*self.mask.shape, *rows.shape[1:], dtype=rows.dtype)
        array[self.mask] = rows
        return array

    def get_dist(self, _, logits_key=None):
        return distributions.LLMMaskedCategorical(logits=self.logits, mask=self.mask)


def answered(module_class, steps, **options):
    """Return a module's gradient in the logits of the steps, and its loss."""
    actor, fields = Answers(steps), steps.fields
    module = module_class(actor, **options)
    extras = {"advantages": 0.0, "reference_log_probs": 0.0} | fields["extras"]
    padded = {
        ("tokens", "full"): fields["actions"],
        ("log_probs", "full"): fields["log_probs"],
        "advantage": np.asarray(extras["advantages"])[:, None],
        ("next", "ref_log_probs", "full"): fields["log_probs"] - 0.5,
    }
    shape = actor.mask.shape
    data = tensordict.TensorDict({}, shape[:1])
    for key, column in padded.items():
        data[key] = actor.padded(column)
    losses = module(data)
    parts = [loss for name, loss in losses.to_tensordict().items() if name.startswith("loss_")]
    total = torch.stack([part.reshape(()) for part in parts if part is not None]).sum()
    total.backward()
    assert actor.logits.grad is not None
    return SimpleNamespace(loss=total.item(), logits=actor.logits.grad[actor.mask].numpy())


AGGREGATIONS = {"token_mean": "step", "prompt_mean": "episode_step"}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("name", ["GRPOLoss", "DAPO"])
def test_grpo_and_dapo(steps, rows, agree, name, aggregation):
    epsilon, bounds = CLIPS["symmetric" if name == "GRPOLoss" else "asymmetric"]
    theirs = answered(
        getattr(llm, name),
        steps,
        clip_epsilon=epsilon,
        aggregation=aggregation,
        entropy_coeff=0.3,
    )
    estimator = composed(
        objective={"name": "clip", **bounds},
        entropy_coefficient=0.3,
        reduction=AGGREGATIONS[aggregation],
    )
    ours = rows(estimator, steps.logits, steps.fields)
    agree(ours.logits, theirs.logits)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)


def test_torchrls_cispo_has_no_gradient_beyond_its_bounds(steps, rows, agree):
    """It differentiates the clipped ratio, where MiniMax 2025, eq. 4, holds it constant.

    Within the bounds the two gradients are equal; beyond them CISPO's own keeps the score.
    """
    theirs = answered(llm.CISPOLoss, steps, clip_epsilon=(0.3, 0.2), entropy_bonus=False)
    estimator = composed(objective={"name": "cispo", "low": 0.3, "high": 0.2})
    ours = rows(estimator, steps.logits, steps.fields).logits
    log_pi = steps.logits - np.log(np.exp(steps.logits).sum(axis=1, keepdims=True))
    log_pi = log_pi[np.arange(len(log_pi)), steps.fields["actions"]]
    ratio = np.exp(log_pi - steps.fields["log_probs"])
    beyond = (ratio < 0.7) | (ratio > 1.2)
    assert 0 < beyond.sum() < len(beyond)
    assert not theirs.logits[beyond].any()
    assert ours[beyond].any(axis=1).all()
    agree(ours[~beyond], theirs.logits[~beyond])


def test_torchrls_penalty_is_a_mean_over_padding(steps, rows, agree):
    """The penalty's mean counts padded positions as steps, and that of the loss does not."""
    theirs = answered(llm.GRPOLoss, steps, entropy_bonus=False, kl_to_ref_coeff=0.4)
    extras = steps.fields["extras"]
    extras = extras | {"reference_log_probs": steps.fields["log_probs"] - 0.5}
    fields = steps.fields | {"extras": extras}
    lengths = steps.fields["episode_lengths"]
    share = lengths.sum() / (len(lengths) * lengths.max())
    for coefficient, equal in ((0.4 * share, True), (0.4, False)):
        penalty = {"name": "k3", "coefficient": coefficient}
        ours = rows(composed(penalty=penalty), steps.logits, fields).logits
        if equal:
            agree(ours, theirs.logits)
        else:
            assert np.abs(ours - theirs.logits).max() > 1e-3


def test_group_advantages(agree):
    """torchrl divides by the deviation itself, limited from below; pgcore with eps 0 too."""
    rewards = np.array([1.0, 0.25, -0.5, 2.0])
    transform = llm.MCAdvantage(grpo_size=4, prompt_key="group")
    written = []
    for reward in rewards:
        steps = {
            "group": torch.zeros(1, dtype=torch.int64),
            "next": tensordict.TensorDict(
                {"reward": torch.tensor([[reward]]), "done": torch.ones(1, 1, dtype=torch.bool)},
                [1],
            ),
        }
        written.append(transform.inv(tensordict.TensorDict(steps, [1])))
    batch = pg.Batch(
        observations=np.zeros(4, int),
        actions=np.zeros(4, int),
        rewards=rewards,
        episode_lengths=np.ones(4, int),
        terminated=np.ones(4, bool),
        extras={"group": np.zeros(4, int)},
    )
    policy = pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2)), dtype="float64")
    estimator = composed(advantage={"name": "group_relative", "eps": 0.0})
    agree(pg.signals(policy, estimator, batch)["advantage"], written[-1]["advantage"][:, 0].numpy())
