"""Gradient accumulation over micro-batches of unequal answers: `python examples/loops/accumulation.py`.

A language model's answers are padded to [E, T], and its loss is a mean over their tokens. Micro-batches
have different numbers of tokens, so the mean of their means is another loss than the mean.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import pgcore as pg

VOCABULARY, LENGTH = 12, 10
GRPO = pg.estimator("grpo", reduction="step")


class Model(nn.Module):
    """A small causal model: [E, T] tokens to [E, T] log-probabilities of each token after the first."""

    def __init__(self, width: int = 16) -> None:
        """Build the layers."""
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.memory, self.head = (
            nn.GRU(width, width, batch_first=True),
            nn.Linear(width, VOCABULARY),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the log-probability of each token; the first follows token 0."""
        before = nn.functional.pad(tokens[:, :-1], (1, 0))
        log_pi = torch.log_softmax(self.head(self.memory(self.embedding(before))[0]), -1)
        return log_pi.gather(-1, tokens[..., None])[..., 0]


class Answers:
    """Eight answers to two prompts, of unequal lengths, and their rewards."""

    def __init__(self, model: Model, seed: int = 0) -> None:
        """Draw the answers, with log-probabilities of the model at this moment."""
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(1, VOCABULARY, (8, LENGTH), generator=generator)
        lengths = torch.tensor([2, 10, 1, 3, 9, 10, 2, 8])
        self.mask = torch.arange(LENGTH) < lengths[:, None]
        self.rewards = torch.rand(8, generator=generator)
        self.group = torch.arange(8) // 4
        with torch.no_grad():
            self.log_probs = model(self.tokens)


def gains(model: Model, answers: Answers, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the sum of a micro-batch's clipped gains, and its number of tokens, by hand."""
    groups = answers.rewards.reshape(2, 4)
    advantages = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-8)
    columns = (answers.tokens, answers.mask, answers.log_probs, advantages.reshape(-1, 1))
    for tokens, mask, old, advantage in zip(*(x.split(size) for x in columns), strict=True):
        ratio = torch.exp(model(tokens) - old)
        gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        yield (gain * mask).sum(), mask.sum()


def usual(model: Model, answers: Answers, size: int) -> Iterator[Tensor]:
    """Yield the losses of micro-batches, each over the number of all tokens."""
    for gain, _ in gains(model, answers, size):
        yield -gain / answers.mask.sum()


def mean_of_means(model: Model, answers: Answers, size: int) -> Iterator[Tensor]:
    """Yield the losses of micro-batches, each over its own tokens and their number: another loss."""
    for gain, tokens in gains(model, answers, size):
        yield -gain / tokens * size / len(answers.rewards)


def by_pgcore(model: Model, answers: Answers, size: int) -> Iterator[Tensor]:
    """Yield the same losses of `pgcore.loss`: signals of all answers, and their rows in parts."""
    episodes = pg.Episodes.from_padded(
        rewards=answers.rewards,
        mask=answers.mask,
        group=answers.group,
        log_probs=answers.log_probs,
    )
    signals = pg.signals(GRPO, episodes)
    for rows in torch.arange(len(answers.rewards)).split(size):
        log_probs = model(answers.tokens[rows])
        yield pg.loss(GRPO, signals.episode_part(rows), log_prob=log_probs).loss


def accumulated(losses: Iterator[Tensor], model: Model) -> tuple[float, Tensor]:
    """Return the sum of some losses and its gradient, with one micro-batch in memory at a time."""
    model.zero_grad()
    total = 0.0
    for loss in losses:
        loss.backward()
        total += loss.item()
    return total, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def moved(model: Model) -> Model:
    """Return the model away from the policy that wrote the answers, so that ratios are not 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.sin(100 * parameter))
    return model


if __name__ == "__main__":
    torch.manual_seed(0)
    model = Model()
    answers = Answers(model)
    moved(model)
    whole = accumulated(usual(model, answers, 8), model)[1]
    for losses in (usual, by_pgcore, mean_of_means):
        gradient = accumulated(losses(model, answers, 2), model)[1]
        distance = (gradient - whole).norm() / whole.norm()
        print(
            f"{losses.__name__:15}  relative distance from the whole batch's gradient {distance:.1e}"
        )
