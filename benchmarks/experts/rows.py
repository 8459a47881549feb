"""What benchmarks beside experts share: their settings, a process for each row, and the comparison."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pgcore.registry.registry import registry

CLIP, ENTROPY_COEFFICIENT = 0.2, 0.01
# Parts of the largest entry, at 4,096 steps or fewer; beyond that they grow with the steps, as the
# rounding of a sum in order does: TensorFlow's of 65,536 equal rows is off by 5e-4.
TOLERANCES = {"float32": 4e-6, "float64": 1e-12}

# By backend and mode: the expert, whether it compiles, and options of `pg.policy`.
MODES: dict[tuple[str, str], tuple[str, bool, dict[str, Any]]] = {
    ("torch", "eager"): ("torch_expert", False, {}),
    ("torch", "compiled"): ("torch_expert", True, {"compiled": True}),
    ("torch", "compiled, beside torch.func"): ("torch_functional_expert", True, {"compiled": True}),
    ("tensorflow", "tf.function"): ("tensorflow_expert", False, {}),
    ("tensorflow", "XLA"): ("tensorflow_expert", True, {"compiled": True}),
    ("jax", "jit"): ("jax_expert", True, {}),
}

# Environment variables of a row's process: one thread, no accelerator.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "NPROC": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
}
WIDE = {"JAX_ENABLE_X64": "1"}  # for rows in float64


def arguments_of(
    parser: argparse.ArgumentParser, measure: Callable[[dict[str, Any]], dict[str, Any]]
) -> argparse.Namespace | None:
    """Return a benchmark's arguments; None in a row's own process, which prints the row's result.

    Args:
        parser: With the benchmark's own options.
        measure: Returns the result of a row, which comes as a dict.
    """
    backends, modes = zip(*MODES, strict=True)
    for name, choices in (("backend", {*backends}), ("mode", {*modes})):
        parser.add_argument(
            f"--{name}", action="append", choices=sorted(choices), help="only this; can be repeated"
        )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(json.loads(arguments.row))))
        return None
    status = {entry.provider.name: entry.status for entry in registry().providers("backends")}
    chosen = [
        (backend, mode)
        for backend, mode in MODES
        if backend in (arguments.backend or backends) and mode in (arguments.mode or modes)
    ]
    for backend in dict.fromkeys(backend for backend, _ in chosen):
        if status.get(backend) != "usable":
            print(f"{backend}: absent ({status.get(backend, 'not registered')})")
    arguments.modes = [entry for entry in chosen if status.get(entry[0]) == "usable"]
    return arguments


def in_own_process(script: str, row: Any, **variables: str) -> dict[str, Any]:
    """Return what a benchmark prints for one of its rows, in a new process on one thread."""
    command = [sys.executable, script, "--row", json.dumps(asdict(row))]
    environment = os.environ | ONE_THREAD | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip()}
    return json.loads(done.stdout.splitlines()[-1])


def difference(
    side: str, gradient: dict[str, Any], reference: dict[str, Any], dtype: str, steps: int
) -> float:
    """Return a gradient's distance from the reference, beside the largest entry, or raise."""
    assert gradient.keys() == reference.keys(), f"{side}: {sorted(gradient)}"
    largest = max(float(np.abs(value).max()) for value in reference.values())
    error = 0.0
    for name, value in reference.items():
        assert gradient[name].dtype == dtype, f"{side}: {name} is {gradient[name].dtype}"
        assert gradient[name].shape == value.shape, f"{side}: {name} is {gradient[name].shape}"
        error = max(error, float(np.abs(gradient[name] - value).max()) / largest)
    limit = TOLERANCES[dtype] * max(1.0, steps / 4096)
    assert error < limit, f"{side}: off by {error:.2g} of the largest"
    return error
