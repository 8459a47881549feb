"""What benchmarks beside experts share: their settings, a process for each row, and the comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import numpy as np

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
