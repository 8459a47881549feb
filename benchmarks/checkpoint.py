"""Time of a checkpoint beside that of its bytes; `python benchmarks/checkpoint.py`.

A policy of 1e7 float32 parameters with Adam's two moments is written as `pgcore train` writes it. The same number of
bytes is written to the same folder by one call, and both are put on the disk itself. Pairs in turn, the median ratio.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from rich.progress import track

from pgcore_train.config.config import RunConfig
from pgcore_train.run.folder import RunFolder
from pgcore_train.training import Training

PAIRS = 9


def main() -> None:
    """Print the times and their ratio."""
    config = RunConfig.of(
        {
            "environment": {"name": "CartPole-v1"},
            "network": {"hidden": [2230, 2230], "critic": "separate"},
        }
    )
    training = Training(config)
    parameters = sum(value.size for value in training.policy.parameters().values())
    times: dict[str, list[float]] = {"checkpoint": [], "bytes": []}
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd()) as name,
        RunFolder(name).open("", updates=None) as folder,
    ):
        size = 0
        for _ in track(range(PAIRS), "pairs"):
            started = time.perf_counter()
            folder.save(training.checkpoint())
            times["checkpoint"].append(time.perf_counter() - started)
            size = folder.checkpoint.stat().st_size
            content = np.random.default_rng(0).bytes(size)
            started = time.perf_counter()
            with (folder.path / "bytes").open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            times["bytes"].append(time.perf_counter() - started)
    ratio = median(np.array(times["checkpoint"]) / np.array(times["bytes"]))
    print(f"{parameters:,} parameters, {size / 1e6:.0f} MB")
    for what, seconds in times.items():
        print(f"{what:<12}{median(seconds):.3f} s")
    print(f"{'ratio':<12}{ratio:.2f}")


if __name__ == "__main__":
    main()
