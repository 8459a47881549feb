"""Two processes, each with its share of the answers: `python examples/loops/data_parallel.py`.

Each process knows its own answers and the numbers of all, and computes signals of its share. The
gradients are summed, by gloo, and equal the whole batch's. A wrapper that averages over processes, as
DistributedDataParallel does, needs the loss times their number.
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import pgcore as pg

VOCABULARY, LENGTH, RANKS = 12, 10, 2
GRPO = pg.estimator("dapo")
# Four answers to each of three prompts: two prompts are the first process's.
LENGTHS = torch.tensor([2, 10, 1, 3, 9, 10, 2, 8, 4, 1, 1, 2])
SHARES = (slice(0, 8), slice(8, 12))


def policy() -> nn.Module:
    """Return a model of [e, T] tokens to [e, T, 12] logits, the same in every process."""
    torch.manual_seed(0)
    layers = (nn.Embedding(VOCABULARY, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, VOCABULARY))
    return nn.Sequential(*layers)


def answers(share: slice) -> dict[str, Tensor]:
    """Return the arrays of some of the answers."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCABULARY, (len(LENGTHS), LENGTH), generator=generator)
    whole = {
        "tokens": tokens,
        "mask": torch.arange(LENGTH) < LENGTHS[:, None],
        "rewards": torch.rand(len(LENGTHS), generator=generator),
        "group": torch.arange(len(LENGTHS)) // 4,
        "log_probs": -3 + torch.rand(tokens.shape, generator=generator),
    }
    return {name: value[share] for name, value in whole.items()}


def of_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return [e, T] log-probabilities of tokens; each depends on the one before it."""
    logits = model(nn.functional.pad(tokens[:, :-1], (1, 0)))
    return torch.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0]


def usual_loss(log_probs: Tensor, share: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Return the loss of a share by hand, over the number of tokens of all."""
    groups = share["rewards"].reshape(-1, 4)
    advantages = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-8)
    advantage, ratio = advantages.reshape(-1, 1), torch.exp(log_probs - share["log_probs"])
    gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
    return -(gain * share["mask"]).sum() / tokens


def pgcore_loss(log_probs: Tensor, share: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Return the same loss of `pgcore.loss`: the reduction divides by the totals' tokens."""
    recorded = {name: value for name, value in share.items() if name != "tokens"}
    episodes = pg.Episodes.from_padded(**recorded)
    signals = pg.signals(GRPO, episodes, totals=pg.Totals(steps=int(tokens)))
    return pg.loss(GRPO, signals, log_prob=log_probs).loss


LOSSES = {"usual": usual_loss, "pgcore": pgcore_loss}


def gradient(name: str, share: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Return the flat gradient of a share's loss.

    Args:
        name: Of the loss.
        share: Some answers.
        tokens: The number of tokens of all answers.
    """
    model = policy()
    LOSSES[name](of_tokens(model, share["tokens"]), share, tokens).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def process(rank: int, name: str, folder: str, dtype: torch.dtype) -> None:
    """Sum the gradients of all processes, and write the sum to a file of the folder."""
    torch.set_default_dtype(dtype)
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS)
    share = answers(SHARES[rank])
    tokens = share["mask"].sum()
    dist.all_reduce(tokens)
    total = gradient(name, share, tokens)
    dist.all_reduce(total)
    torch.save(total, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def summed(name: str, folder: str) -> list[Tensor]:
    """Return the sum of the gradients as each process has it."""
    torch.multiprocessing.spawn(process, (name, folder, torch.get_default_dtype()), RANKS)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(RANKS)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--loss", choices=[*LOSSES], default="pgcore")
    options = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    everything = answers(slice(None))
    whole = gradient("usual", everything, everything["mask"].sum())
    with tempfile.TemporaryDirectory() as results:
        first, second = summed(options.loss, results)
    distance = (first - whole).norm() / whole.norm()
    print(f"relative distance from the whole batch's gradient {distance:.1e}, equal in both")
    assert torch.equal(first, second)
