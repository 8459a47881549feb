"""`pgcore.loss` beside the same loss as an expert writes it, in each framework's own training code.

PPO on the caller's arrays in float32: clipped ratios, advantages normalised in the minibatch, squared
value errors and an entropy bonus, value and derivatives by all three quantities. Then a small
transformer in PyTorch, with the loss of its answers' log-probabilities, forward and backward; bytes are
those that autograd keeps for the backward pass. Results are checked equal first. Both sides take
turns of 20 calls; the figure is the median over turns of pgcore's time over the expert's.

    python benchmarks/loss.py [--framework NAME]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

# Frameworks read these when they are imported.
os.environ |= {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

import numpy as np
from rich.console import Console
from rich.table import Table

import pgcore as pg

CLIP, ENTROPY_COEFFICIENT = 0.2, 0.01
LAYOUTS = ((64,), (16, 512))
TURNS, CALLS = 60, 20
NAMES = ("advantage", "old_log_prob", "return_")
WIDTH, HEADS, LAYERS, WORDS, ANSWERS = 64, 4, 2, 128, 8

Timed = tuple[Callable[[], Any], Callable[[], Any]]


def estimator() -> pg.Estimator:
    """Return the estimator that the experts' loss is."""
    return pg.estimator("ppo", clip=CLIP, entropy_coefficient=ENTROPY_COEFFICIENT)


def rollout(shape: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return columns for episodes, and quantities, as NumPy arrays of float32."""
    rng = np.random.default_rng(0)

    def numbers(scale: float, shift: float = 0.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape) + shift).astype(np.float32)

    columns = {"rewards": numbers(1.0), "log_probs": numbers(0.2, -1.0), "values": numbers(1.0)}
    quantities = {"log_prob": numbers(0.2, -1.0), "value": numbers(1.0), "entropy": numbers(0.1, 1)}
    return columns, quantities


def signals_of(columns: dict[str, Any]) -> Any:
    """Return PPO's signals: flat, of one episode; or padded, without padding."""
    rewards = columns["rewards"]
    if len(rewards.shape) > 1:
        mask = np.ones(tuple(rewards.shape), np.bool_)
        return pg.signals(estimator(), pg.Episodes.from_padded(mask=mask, **columns))
    one = {"episode_lengths": [rewards.shape[0]], "terminated": [True]}
    return pg.signals(estimator(), pg.Episodes(**one, **columns))


def torch_case(shape: tuple[int, ...], *, compiled: bool, guarded: bool = True) -> Timed:
    """Return both sides in PyTorch; compiled code that is not `guarded` looks at tensors alone."""
    import torch

    torch.set_num_threads(1)
    torch.compiler.reset()  # the guards of earlier cases would be looked at too
    columns, quantities = rollout(shape)
    signals = signals_of({name: torch.from_numpy(value) for name, value in columns.items()})
    leaves = {n: torch.from_numpy(q).requires_grad_() for n, q in quantities.items()}
    constants = {name: signals[name] for name in NAMES}
    chosen = estimator()

    def mine(given: dict[str, Any]) -> Any:
        return pg.loss(chosen, signals, **given).loss

    def usual(given: dict[str, Any]) -> Any:
        advantage = constants["advantage"]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        ratio = torch.exp(given["log_prob"] - constants["old_log_prob"])
        limited = torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
        gain = torch.min(ratio * advantage, limited * advantage).mean()
        value_loss = 0.5 * ((given["value"] - constants["return_"]) ** 2).mean()
        return 0.5 * value_loss - gain - ENTROPY_COEFFICIENT * given["entropy"].mean()

    options = {} if guarded else {"guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe}

    def derived(function: Callable[..., Any]) -> Callable[[], Any]:
        run = torch.compile(function, fullgraph=True, options=options) if compiled else function

        def call() -> list[Any]:
            return [*torch.autograd.grad(run(leaves), [*leaves.values()])]

        return call

    return derived(mine), derived(usual)


def jax_case(shape: tuple[int, ...]) -> Timed:
    """Return both sides in JAX."""
    import jax
    from jax import numpy as jnp

    columns, quantities = rollout(shape)
    signals = signals_of({name: jnp.asarray(value) for name, value in columns.items()})
    given = {name: jnp.asarray(value) for name, value in quantities.items()}
    constants = {name: signals[name] for name in NAMES}
    chosen = estimator()

    def mine(given: dict[str, Any], signals: Any) -> Any:
        return pg.loss(chosen, signals, **given).loss

    def usual(given: dict[str, Any], constants: dict[str, Any]) -> Any:
        advantage = constants["advantage"]
        advantage = (advantage - advantage.mean()) / (advantage.std(ddof=1) + 1e-8)
        ratio = jnp.exp(given["log_prob"] - constants["old_log_prob"])
        limited = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
        gain = jnp.minimum(ratio * advantage, limited * advantage).mean()
        value_loss = 0.5 * ((given["value"] - constants["return_"]) ** 2).mean()
        return 0.5 * value_loss - gain - ENTROPY_COEFFICIENT * given["entropy"].mean()

    ours, theirs = (jax.jit(jax.grad(function)) for function in (mine, usual))
    return (
        lambda: [x.block_until_ready() for x in ours(given, signals).values()],
        lambda: [x.block_until_ready() for x in theirs(given, constants).values()],
    )


def tensorflow_case(shape: tuple[int, ...], *, compiled: bool) -> Timed:
    """Return both sides in TensorFlow."""
    import tensorflow as tf

    columns, quantities = rollout(shape)
    signals = signals_of({name: tf.constant(value) for name, value in columns.items()})
    given = {name: tf.constant(value) for name, value in quantities.items()}
    constants = {name: signals[name] for name in NAMES}
    chosen = estimator()

    def mine(given: dict[str, Any], signals: Any) -> Any:
        return pg.loss(chosen, signals, **given).loss

    def usual(given: dict[str, Any], constants: dict[str, Any]) -> Any:
        advantage = constants["advantage"]
        count = tf.cast(tf.size(advantage), tf.float32)
        std = tf.math.reduce_std(advantage) * tf.sqrt(count / (count - 1))
        advantage = (advantage - tf.reduce_mean(advantage)) / (std + 1e-8)
        ratio = tf.exp(given["log_prob"] - constants["old_log_prob"])
        limited = tf.clip_by_value(ratio, 1 - CLIP, 1 + CLIP)
        gain = tf.reduce_mean(tf.minimum(ratio * advantage, limited * advantage))
        value_loss = 0.5 * tf.reduce_mean((given["value"] - constants["return_"]) ** 2)
        return 0.5 * value_loss - gain - ENTROPY_COEFFICIENT * tf.reduce_mean(given["entropy"])

    def derived(function: Callable[..., Any]) -> Any:
        @tf.function(jit_compile=compiled)
        def run(given: dict[str, Any], rest: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(given)
                loss = function(given, rest)
            return tape.gradient(loss, given)

        return run

    ours, theirs = derived(mine), derived(usual)
    return (
        lambda: [*ours(given, signals).values()],
        lambda: [*theirs(given, constants).values()],
    )


def transformer_case(length: int) -> tuple[Timed, Callable[[], tuple[int, int]]]:
    """Return both sides for a transformer in PyTorch, and a function to the bytes that each keeps."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True)
    body = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    model = nn.ModuleList([nn.Embedding(WORDS, WIDTH), body, nn.Linear(WIDTH, WORDS)])
    rng = np.random.default_rng(0)
    shape = (ANSWERS, length)
    tokens = torch.from_numpy(rng.integers(0, WORDS, shape))
    mask = torch.from_numpy(np.arange(length) < rng.integers(length // 2, length + 1, (ANSWERS, 1)))
    causal = nn.Transformer.generate_square_subsequent_mask(length)
    rewards = torch.from_numpy(rng.standard_normal(ANSWERS).astype(np.float32))

    def log_probs() -> Any:
        hidden = model[1](model[0](tokens), mask=causal, is_causal=True)
        return torch.log_softmax(model[2](hidden), -1).gather(-1, tokens[..., None])[..., 0]

    with torch.no_grad():
        old = log_probs() + 0.1 * torch.randn(shape)
    chosen = pg.estimator("dapo", group="all")
    signals = pg.signals(chosen, pg.Episodes.from_padded(rewards=rewards, mask=mask, log_probs=old))
    advantage, bounds = signals["advantage"], (1 - 0.2, 1 + 0.28)

    def mine() -> Any:
        return pg.loss(chosen, signals, log_prob=log_probs()).loss

    def usual() -> Any:
        ratio = torch.exp(log_probs() - old)
        gain = torch.min(ratio * advantage, torch.clamp(ratio, *bounds) * advantage)
        return -(gain * mask).sum() / mask.sum()

    def derived(function: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: [*torch.autograd.grad(function(), [*model.parameters()])]

    def kept(function: Callable[[], Any]) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = function()
        del loss
        return sum(sizes.values())

    return (derived(mine), derived(usual)), lambda: (kept(mine), kept(usual))


def ratio(pair: Timed) -> tuple[float, float, float]:
    """Return both medians in microseconds, and the median of the ratios, after a check of equality."""
    mine, usual = pair
    for left, right in zip(mine(), usual(), strict=True):
        exact = np.asarray(right)
        np.testing.assert_allclose(left, exact, rtol=2e-4, atol=3e-6 * np.abs(exact).max())
    medians: tuple[list[float], list[float]] = ([], [])
    for turn in range(TURNS + 1):
        for function, record in zip(pair, medians, strict=True):
            times: list[float] = []
            for _ in range(CALLS):
                start = time.perf_counter()
                function()
                times.append(time.perf_counter() - start)
            if turn:  # the first warms up
                record.append(statistics.median(times) * 1e6)
    ratios = (left / right for left, right in zip(*medians, strict=True))
    return statistics.median(medians[0]), statistics.median(medians[1]), statistics.median(ratios)


CASES: dict[str, tuple[str, Callable[[tuple[int, ...]], Timed]]] = {
    "torch, eager": ("torch", partial(torch_case, compiled=False)),
    "torch.compile": ("torch", partial(torch_case, compiled=True)),
    "torch.compile, few guards": ("torch", partial(torch_case, compiled=True, guarded=False)),
    "jax.jit": ("jax", jax_case),
    "tf.function": ("tensorflow", partial(tensorflow_case, compiled=False)),
    "tf.function, XLA": ("tensorflow", partial(tensorflow_case, compiled=True)),
}


def rows(only: str | None) -> Iterator[tuple[str, ...]]:
    """Yield the table's rows."""
    for name, (framework, case) in CASES.items():
        if only in (None, framework) and importlib.util.find_spec(framework):
            for shape in LAYOUTS:
                ours, theirs, quotient = ratio(case(shape))
                yield name, str([*shape]), f"{ours:.0f}", f"{theirs:.0f}", f"{quotient:.2f}", ""
    if only in (None, "torch") and importlib.util.find_spec("torch"):
        for length in (32, 256):
            pair, kept = transformer_case(length)
            ours, theirs, quotient = ratio(pair)
            mine, usual = kept()
            shape = str([ANSWERS, length])
            figures = f"{ours:.0f}", f"{theirs:.0f}", f"{quotient:.2f}", f"{mine / usual:.2f}"
            yield "transformer, torch eager", shape, *figures


def main() -> None:
    """Time every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--framework", choices=["torch", "jax", "tensorflow"])
    only = parser.parse_args().framework
    console = Console()
    table = Table("framework", "layout", "pgcore.loss, us", "expert's, us", "ratio", "bytes, ratio")
    with console.status("timing"):
        for row in rows(only):
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
