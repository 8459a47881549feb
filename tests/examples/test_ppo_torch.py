"""PPO in PyTorch: the hand-written loss, and pgcore's in its place."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

SIZES = {"updates": 3, "steps": 24, "environments": 3, "epochs": 2, "minibatch": 18}


@pytest.fixture
def ppo(loop, double):
    return loop("ppo_torch")


def parameters(agent):
    return torch.nn.utils.parameters_to_vector(agent.parameters()).detach().numpy()


def test_every_minibatch_has_the_same_loss_and_gradient(ppo, slopes, assert_swap):
    resets, minibatches = [], []

    def both(agent, rollout):
        done = rollout.terminated | rollout.truncated
        resets.append(int(rollout.previous_done.sum() + done[:-1].sum()))
        usual, ours = ppo.usual(agent, rollout), ppo.by_pgcore(agent, rollout)

        def loss(index):
            expected = usual(index)
            minibatches.append(index)
            assert_swap(slopes(ours(index), agent), slopes(expected, agent))
            return expected

        return loss

    ppo.train(both, **SIZES)
    assert len(minibatches) == 3 * 2 * 4
    assert min(resets) > 0


def test_clipped_steps_too(ppo, slopes, assert_swap):
    agent = ppo.Agent(8)
    rollout = ppo.Collector(3, 0).rollout(agent, 40)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.mul_(1.5).add_(0.1)
    log_probs = agent(rollout.observations)[0].log_prob(rollout.actions)
    assert ((log_probs - rollout.log_probs).exp() - 1).abs().max() > ppo.CLIP
    for index in torch.arange(120).split(50):
        losses = (loss(agent, rollout)(index) for loss in (ppo.by_pgcore, ppo.usual))
        assert_swap(*(slopes(loss, agent) for loss in losses))


def test_training_ends_at_the_same_parameters(ppo, assert_swap):
    usual, ours = (parameters(ppo.train(loss, **SIZES)) for loss in (ppo.usual, ppo.by_pgcore))
    assert_swap(ours, usual)
    untrained = parameters(ppo.train(ppo.usual, **SIZES | {"updates": 0}))
    assert abs(usual - untrained).max() > 1e-3


def test_a_reset_row_that_counts_is_seen(ppo, slopes):
    collector = ppo.Collector(3, 0)
    agent = ppo.Agent(8)
    rollout = collector.rollout(agent, 40)
    index = torch.arange(120)
    right = slopes(ppo.by_pgcore(agent, rollout)(index), agent)
    # Without its end, the row after an episode is a step like any other.
    first = int(rollout.terminated.flatten().to(torch.uint8).argmax())
    ends = rollout.terminated.clone()
    ends[first // 3, first % 3] = False
    wrong = slopes(ppo.usual(agent, rollout._replace(terminated=ends))(index), agent)
    assert abs(wrong - right).max() > 1e-3 * abs(right).max()
