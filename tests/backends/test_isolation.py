"""Whoever uses a framework beside pgcore notices nothing: no setting is changed, none is assumed, and backends do not meet.

Settings are those of a process, so that this file is also the program that looks at them in one of its own.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.registry.registry import registry
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants

ESTIMATORS = variants("estimators")
HEADS = variants("heads")

REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
ENTRIES = {entry.provider.name: entry for entry in registry().providers("backends")}
ABSENT = {
    name: f"{name}: {entry.reason}"
    for name, entry in ENTRIES.items()
    if entry.status != "usable" and name not in REQUIRED
}
NAMES = list(dict.fromkeys([*ENTRIES, *REQUIRED]))


def combination(*names):
    """Return a parameter of one or several backends, skipped where one is absent."""
    marks = [pytest.mark.skip(ABSENT[name]) for name in names if name in ABSENT]
    return pytest.param(*names, marks=marks, id="-".join(names))


each_backend = pytest.mark.parametrize("backend", [combination(name) for name in NAMES])
each_two = pytest.mark.parametrize(
    ("first", "second"), [combination(*two) for two in itertools.combinations(NAMES, 2)]
)


def module(name) -> Any:
    """Return a module that may not be there, and whose types nobody checks."""
    return importlib.import_module(name)


def python_settings() -> dict[str, Any]:
    handlers = {
        name.name: signal.getsignal(name)
        for name in signal.valid_signals()
        if isinstance(name, signal.Signals)
    }
    return {
        "numpy errors": (np.geterr(), np.geterrcall()),
        "numpy legacy random state": np.random.get_state(),  # noqa: NPY002 - it is what others still use
        "numpy print options": np.get_printoptions(),
        # 0 where somebody made the processor flush subnormal numbers.
        "subnormal numbers": float(np.array([sys.float_info.min])[0] * 0.5),
        "random state": random.getstate(),
        "environment": dict(os.environ),
        "warning filters": list(warnings.filters),
        # Not the recursion limit, which PyTorch's compiler raises whenever it compiles.
        "hooks": (sys.excepthook, threading.excepthook, sys.getswitchinterval()),
        "signal handlers": handlers,
        "path": list(sys.path),
        "directory": Path.cwd(),
    }


def torch_settings() -> dict[str, Any]:
    torch = module("torch")
    flags = torch.backends
    return {
        "default dtype and device": (torch.get_default_dtype(), torch.get_default_device()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad mode": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_anomaly_enabled(),
        ),
        "autocast": torch.is_autocast_enabled("cpu"),
        "random state": torch.get_rng_state().tolist(),
        "determinism": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "precision": torch.get_float32_matmul_precision(),
        "flags": (
            flags.cudnn.benchmark,
            flags.cudnn.deterministic,
            flags.mkldnn.enabled,
            module("torch.backends.opt_einsum").enabled,
        ),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "warns always": torch.is_warn_always_enabled(),
        **{
            # A set is copied when it is first read, and a copy may have another order.
            f"{name}.{key}": sorted(value, key=str) if isinstance(value, set) else value
            for name in ("_dynamo", "_inductor", "_functorch")
            for key, value in module(f"torch.{name}.config").get_config_copy().items()
        },
    }


def tensorflow_settings() -> dict[str, Any]:
    tf, keras = module("tensorflow"), module("keras")
    context = module("tensorflow.python.eager.context").context()
    config = module("tensorflow.python.framework.config")
    return {
        "eager mode": (
            tf.executing_eagerly(),
            tf.config.functions_run_eagerly(),
            tf.inside_function(),
        ),
        "default graph": len(tf.compat.v1.get_default_graph().get_operations()),
        "threads": (
            tf.config.threading.get_inter_op_parallelism_threads(),
            tf.config.threading.get_intra_op_parallelism_threads(),
        ),
        "placement": (tf.config.get_soft_device_placement(), tf.constant(0).device),
        "optimizer": (
            tf.config.optimizer.get_jit(),
            tf.config.optimizer.get_experimental_options(),
        ),
        "determinism": (
            config.is_op_determinism_enabled(),
            config.tensor_float_32_execution_enabled(),
        ),
        "synchronous": tf.config.experimental.get_synchronous_execution(),
        "random state": (tf.random.get_global_generator().state.numpy().tolist(), context._seed),
        "keras": (keras.config.floatx(), keras.config.epsilon(), keras.config.dtype_policy().name),
        "keras layout": (keras.config.backend(), keras.config.image_data_format()),
    }


def jax_settings() -> dict[str, Any]:
    jax = module("jax")
    # `values` is the process's, and attributes are what this thread sees.
    seen = ("enable_x64", "default_matmul_precision", "default_device", "debug_nans", "disable_jit")
    return {
        "configuration": dict(jax.config.values),
        "configuration of this thread": {name: getattr(jax.config, f"jax_{name}") for name in seen},
        "default dtype": str(jax.numpy.asarray(1.0).dtype),
    }


def torch_warm_up() -> None:
    torch = module("torch")
    given = torch.ones(3, requires_grad=True)
    torch.compile(lambda value: (value * value).sum())(given).backward()


def tensorflow_warm_up() -> None:
    tf = module("tensorflow")
    tf.function(lambda value: value * value, jit_compile=True)(tf.ones(3))


def jax_warm_up() -> None:
    jax = module("jax")
    jax.jit(lambda value: value * value)(np.ones(3))


# What a framework says of itself, and what it does when it is first used, which is its own affair.
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": torch_settings,
    "tensorflow": tensorflow_settings,
    "jax": jax_settings,
}
WARM_UPS: dict[str, Callable[[], None]] = {
    "torch": torch_warm_up,
    "tensorflow": tensorflow_warm_up,
    "jax": jax_warm_up,
}
# What a careless backend might do; each must show.
CARELESS = {
    "numpy": [
        "np.seterr(over='raise')",
        "np.random.rand()",
        "random.random()",
        "os.environ.update(OMP_NUM_THREADS='3')",
        "warnings.simplefilter('ignore')",
        "sys.path.append('elsewhere')",
        "signal.signal(signal.SIGINT, print)",
    ],
    "torch": [
        "torch.set_default_dtype(torch.float16)",
        "torch.set_num_threads(torch.get_num_threads() + 1)",
        "torch.set_grad_enabled(True)",
        "torch.rand(1, device='cpu')",
        "torch.use_deterministic_algorithms(False)",
        "setattr(module('torch._dynamo.config'), 'recompile_limit', 1000)",
        "torch.set_flush_denormal(True)",
        "torch.set_autocast_enabled('cpu', False)",
        "torch.set_default_device('cpu')",
    ],
    "tensorflow": [
        "tf.config.run_functions_eagerly(True)",
        "tf.random.set_seed(4)",
        "tf.random.get_global_generator().normal([1])",
        "tf.config.optimizer.set_jit(True)",
        "tf.config.set_soft_device_placement(not tf.config.get_soft_device_placement())",
        "keras.config.set_floatx('float16')",
        "keras.config.set_dtype_policy('mixed_bfloat16')",
    ],
    "jax": [
        "jax.config.update('jax_enable_x64', False)",
        "jax.config.update('jax_default_matmul_precision', 'highest')",
        "jax.config.update('jax_debug_nans', False)",
        "jax.config.update('jax_default_device', None)",
        "jax.config.update('jax_numpy_rank_promotion', 'allow')",
    ],
}
# What a user may have set; gradients are the same with it.
USERS = {
    "numpy": ["np.seterr(all='warn', under='ignore')", "np.random.seed(3)", "random.seed(3)"],
    "torch": [
        "torch.set_default_dtype(torch.float64)",
        "inference = torch.inference_mode(); inference.__enter__()",
        "torch.manual_seed(3)",
        "torch.use_deterministic_algorithms(True)",
        "torch.set_autocast_enabled('cpu', True)",
        "torch.set_default_device('meta')",
        "torch.autograd.set_detect_anomaly(True)",
    ],
    "tensorflow": [
        "tf.random.set_seed(3)",
        "keras.config.set_floatx('float64')",
        "keras.config.set_dtype_policy('mixed_float16')",
    ],
    "jax": [
        "jax.config.update('jax_enable_x64', True)",
        "jax.config.update('jax_default_matmul_precision', 'bfloat16')",
        "jax.config.update('jax_default_prng_impl', 'rbg')",
        "jax.config.update('jax_default_device', jax.devices()[-1])",
        "jax.config.update('jax_debug_nans', True)",
        "jax.config.update('jax_debug_infs', True)",
        "jax.config.update('jax_numpy_rank_promotion', 'raise')",
        "jax.config.update('jax_numpy_dtype_promotion', 'strict')",
        "jax.config.update('jax_check_tracer_leaks', True)",
    ],
}


def settings(backend) -> dict[str, str]:
    found = python_settings() | (SETTINGS[backend]() if backend in SETTINGS else {})
    # Written out at once: a processor that flushes subnormal numbers does so while it prints them too.
    return {name: repr(value) for name, value in found.items()}


def changes(before, after) -> dict[str, str]:
    """Return what is no longer as it was, with a few words of both."""
    return {
        name: f"{before[name][:300]} -> {value[:300]}"
        for name, value in after.items()
        if value != before[name]
    }


def bits(*named) -> bytes:
    return b"".join(
        np.ascontiguousarray(value).tobytes() for each in named for value in each.values()
    )


def case(backend, dtype):
    """Return a policy, small since all is compiled again under a user's settings, and a batch."""
    spec = pg.PolicySpec(NETWORKS["linear"], HEADS["categorical"], "separate")
    return make_case(spec, backend, dtype, seed=30)


def in_turn(policy, batch) -> Iterator[bytes]:
    """Take three steps, and yield the bits of all numbers that come up, little by little."""
    optimizer = pg.optimizer("adam", max_grad_norm=0.5)
    for _ in range(3):
        gradient = pg.gradient(policy, ESTIMATORS["ppo"], batch)
        yield bits(gradient.numpy())
        optimizer.step(policy, gradient)
        yield repr((gradient.loss, gradient.norm(), gradient.metrics)).encode()
        yield bits(policy.parameters(), optimizer.state(policy))


def train(backend) -> list[bytes]:
    """Take steps in both dtypes and return the bits."""
    return [part for dtype in ("float64", "float32") for part in in_turn(*case(backend, dtype))]


def compile_too(backend) -> None:
    """Take steps compiled, where a backend has the choice."""
    for dtype in ("float64", "float32"):
        policy, batch = case(backend, dtype)
        compiled = pg.policy(policy.spec, backend=backend, dtype=dtype, compiled=True)
        compiled.load(policy.parameters())
        assert len(list(in_turn(compiled, batch))) == 9


def use(backend, dtype) -> list[bytes]:
    """Do what a policy can do beside training, and return the bits of what was found."""
    policy, batch = case(backend, dtype)
    weighed = pg.estimator("reinforce", baseline="optimal_per_component")
    count = sum(value.size for value in policy.parameters().values())
    actions, log_probs = policy.act(batch.observations, pg.generator(0), batch.action_mask)
    with tempfile.TemporaryDirectory() as folder:
        policy.save(Path(folder) / "policy.safetensors")
        again = pg.load(Path(folder) / "policy.safetensors", backend=policy.backend)
    other, visits = make_case(
        pg.PolicySpec(NETWORKS["table"], HEADS["hot"], "none"),
        policy.backend,
        policy.dtype.name,
        seed=31,
    )
    return [
        bits(pg.gradient(policy, weighed, batch).scaled(0.5).numpy(), again.parameters()),
        bits(pg.gradient(other, ESTIMATORS["reinforce"], visits).numpy()),
        policy.episode_scores(batch).tobytes()
        + policy.fisher_vector_product(batch, np.ones(count)).tobytes(),
        bits(
            policy.evaluate(
                batch, ("log_prob", "entropy", "kl", "value", "distribution", "final_value")
            )
        ),
        actions.tobytes() + log_probs.tobytes() + policy.mode(batch.observations).tobytes(),
    ]


def digest(found) -> str:
    return hashlib.sha256(b"".join(found)).hexdigest()


def report(backend) -> dict[str, Any]:
    """Return what using a backend changed, in a process that does nothing else."""
    names = {
        "np": np,
        "os": os,
        "random": random,
        "signal": signal,
        "sys": sys,
        "warnings": warnings,
        "module": module,
    }
    if backend in SETTINGS:
        WARM_UPS[backend]()
        SETTINGS[backend]()  # which imports what it looks at
        names |= {short: module(name) for short, name in imports(backend).items()}
    # Importing TensorFlow imports Keras, which imports JAX where it is installed: what came with a framework does not count.
    imported = set(sys.modules)
    before = settings(backend)
    trained = train(backend)
    for dtype in ("float64", "float32"):
        assert all(use(backend, dtype))
    if "compiled" in pg.backend(backend).modes[1:]:
        compile_too(backend)
    found: dict[str, Any] = {"changed": changes(before, settings(backend))}
    for statement in USERS.get(backend, []):
        exec(statement, names)
    before = settings(backend)
    again = train(backend)
    found["differing"] = [number for number, part in enumerate(trained) if part != again[number]]
    found["changed of a user's"] = changes(before, settings(backend))
    found["unseen"] = []
    for statement in CARELESS.get(backend, []):
        before = settings(backend)
        exec(statement, names)
        if not changes(before, settings(backend)):
            found["unseen"].append(statement)
    found["trained"] = digest(trained)
    found["loaded"] = sorted({name.partition(".")[0] for name in set(sys.modules) - imported})
    return found


def imports(backend) -> dict[str, str]:
    return {
        "torch": {"torch": "torch"},
        "tensorflow": {"tf": "tensorflow", "keras": "keras"},
        "jax": {"jax": "jax"},
    }[backend]


def reported(backend) -> dict[str, Any]:
    """Return what `report` found in a process of its own."""
    # JAX has a second device then, which a user may have made the default.
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, __file__, backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@each_backend
def test_using_a_backend_leaves_its_process_alone(backend):
    # One test, since its process is what takes the time.
    found = reported(backend)
    assert found["changed"] == {}
    # A user's settings stay, and gradients are the same to the bit with them.
    assert found["changed of a user's"] == {}
    assert found["differing"] == []
    assert found["unseen"] == []
    others = [entry.provider for name, entry in ENTRIES.items() if name != backend]
    packages = {provider.target.partition(".")[0] for provider in others}
    frameworks = {provider.requires for provider in others if provider.requires}
    assert ENTRIES[backend].provider.target.partition(".")[0] in found["loaded"]
    assert set(found["loaded"]) & (packages | frameworks | {"gymnasium", "matplotlib"}) == set()
    # In this process other frameworks may be loaded and in use.
    assert digest(train(backend)) == found["trained"]


@each_two
def test_two_backends_in_turn_find_what_each_finds_alone(first, second):
    found: dict[str, list[bytes]] = {first: [], second: []}
    for dtype in ("float64", "float32"):
        turns = [in_turn(*case(name, dtype)) for name in found]
        for parts in zip(*turns, strict=True):
            for name, part in zip(found, parts, strict=True):
                found[name].append(part)
    assert found == {name: train(name) for name in found}


@each_two
def test_two_backends_at_once_find_what_each_finds_alone(first, second):
    expected = {name: train(name) for name in (first, second)}
    start = threading.Barrier(2)
    found: dict[str, list[list[bytes]]] = {first: [], second: []}

    def work(name):
        start.wait()
        for _ in range(3):
            found[name].append(train(name))

    threads = [threading.Thread(target=work, args=(name,)) for name in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [expected[name]] * 3 for name in found}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(report(sys.argv[1])))
