"""A policy on a device that was asked for: what it computes is the same, and what it keeps stays there."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import ParameterError
from pgcore.registry.registry import registry
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants
from pgcore_check.results import gradient_row

ESTIMATORS = variants("estimators")
HEADS = variants("heads")

REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
ABSENT = {
    entry.provider.name: f"{entry.provider.name}: {entry.reason}"
    for entry in registry().providers("backends")
    if entry.status != "usable" and entry.provider.name not in REQUIRED
}
CPUS = [
    ("numpy", "cpu"),
    ("torch", "cpu"),
    ("torch", "cpu:0"),
    ("tensorflow", "cpu"),
    ("tensorflow", "CPU:0"),
    ("jax", "cpu"),
    ("jax", "cpu:0"),
]
CASES = {
    "ppo": pg.PolicySpec(NETWORKS["tanh"], HEADS["shared"], "separate"),
    "gae": pg.PolicySpec(NETWORKS["relu"], HEADS["categorical"], "shared"),
    "reinforce": pg.PolicySpec(NETWORKS["table"], HEADS["hot"], "none"),
    "q-learning": pg.PolicySpec(NETWORKS["tanh"], HEADS["epsilon greedy"], "none"),
}


def gpu(name) -> str | None:
    """Return what a framework calls its last GPU, None where it has none."""
    framework: Any = importlib.import_module(name)
    if name == "torch":
        count = framework.cuda.device_count() if framework.cuda.is_available() else 0
        return f"cuda:{count - 1}" if count else None
    if name == "tensorflow":
        found = framework.config.list_logical_devices("GPU")
        return f"gpu:{len(found) - 1}" if found else None
    try:
        return f"gpu:{len(framework.devices('gpu')) - 1}"
    except RuntimeError:
        return None


@pytest.fixture(params=["torch", "tensorflow", "jax"])
def on_gpu(request):
    """Return a backend and its GPU; TensorFlow multiplies float32 in less on some, which is a setting of the process."""
    if request.param in ABSENT:
        pytest.skip(ABSENT[request.param])
    device = gpu(request.param)
    if device is None:
        pytest.skip(f"{request.param} has no GPU here")
    if request.param != "tensorflow":
        yield request.param, device
        return
    config: Any = importlib.import_module("tensorflow").config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    yield request.param, device
    config.enable_tensor_float_32_execution(before)


def placed(policy) -> set[str]:
    """Return where a policy's native parameters are, as `device=` says it."""
    devices = {value.device for value in policy.native.values()}
    if policy.backend == "jax":
        return {f"{device.platform}:{device.id}" for device in devices}
    return {str(device).rpartition("device:")[2].lower() for device in devices}


def made(name, backend, dtype, **options):
    """Return a policy with the parameters of a case, and its batch."""
    source, batch = make_case(CASES[name], "numpy", dtype, seed=40)
    policy: Any = pg.policy(CASES[name], backend=backend, dtype=dtype, **options)
    policy.load(source.parameters())
    return policy, batch


def three_steps(policy, estimator, batch):
    optimizer = pg.optimizer("adam", learning_rate=0.01, max_grad_norm=0.5)
    for _ in range(3):
        optimizer.step(policy, pg.gradient(policy, estimator, batch))
    return policy.parameters() | optimizer.state(policy)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("backend", "device"), CPUS, ids=map(" ".join, CPUS))
def test_the_processor_asked_for_by_name_is_the_usual_one(backend, device, name):
    if backend in ABSENT:
        pytest.skip(ABSENT[backend])
    usual, batch = made(name, backend, "float32")
    asked, _ = made(name, backend, "float32", device=device)
    for found, expected in (
        (
            pg.gradient(asked, ESTIMATORS[name], batch).numpy(),
            pg.gradient(usual, ESTIMATORS[name], batch).numpy(),
        ),
        (three_steps(asked, ESTIMATORS[name], batch), three_steps(usual, ESTIMATORS[name], batch)),
    ):
        assert list(found) == list(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_finds_what_numpy_finds(on_gpu, name, dtype):
    backend, device = on_gpu
    estimator = ESTIMATORS[name]
    plain, batch = made(name, "numpy", dtype)
    tolerance: dict[str, Any] = (
        {"rtol": 1e-10, "atol": 1e-12} if dtype == "float64" else {"rtol": 1e-3, "atol": 1e-5}
    )
    for mode in pg.backend(backend).modes:
        policy, _ = made(name, backend, dtype, device=device, compiled=mode == "compiled")
        assert placed(policy) == {device}
        signals = pg.signals(plain, estimator, batch)
        found = gradient_row(
            plain,
            estimator,
            batch,
            signals,
            pg.gradient(policy, estimator, batch, signals=signals).numpy(),
        )
        assert found.agrees, (mode, found)
        observed = policy.evaluate(batch, ("distribution",))["distribution"]
        np.testing.assert_allclose(
            observed, plain.evaluate(batch, ("distribution",))["distribution"], **tolerance
        )
        if not plain.spec.head.action_values:
            vector = np.random.default_rng(0).standard_normal(policy.size)
            np.testing.assert_allclose(
                policy.episode_scores(batch), plain.episode_scores(batch), **tolerance
            )
            products = (each.fisher_vector_product(batch, vector) for each in (policy, plain))
            np.testing.assert_allclose(*products, **tolerance)
        stepped, expected = (
            three_steps(each, estimator, batch) for each in (policy, made(name, "numpy", dtype)[0])
        )
        for key, value in expected.items():
            np.testing.assert_allclose(stepped[key], value, **tolerance, err_msg=f"{mode} {key}")
        assert placed(policy) == {device}


def test_a_module_on_a_gpu_is_tried_out_and_trained_there():
    if "torch" in ABSENT:
        pytest.skip(ABSENT["torch"])
    torch: Any = importlib.import_module("torch")
    device = gpu("torch")
    if device is None:
        pytest.skip("torch has no GPU here")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.LSTM(4, 5, batch_first=True)
            self.out = torch.nn.Linear(5, 3)
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, observations):
            return self.out(self.drop(self.cell(observations[:, None])[0][:, -1]))

    network = Net().to(device)
    before = torch.cuda.get_rng_state(device)
    policy = pg.backend("torch").adopt(network, head=HEADS["categorical"], evaluation_mode=True)
    _, batch = make_case(
        pg.PolicySpec(NETWORKS["linear"], HEADS["categorical"]), "numpy", "float32", seed=41
    )
    pg.optimizer("adam").step(policy, pg.gradient(policy, ESTIMATORS["reinforce"], batch))
    assert placed(policy) == {device}
    assert torch.equal(torch.cuda.get_rng_state(device), before)
    network.cpu()
    with pytest.raises(
        ParameterError,
        match=rf"on {device}, as they were adopted, got cell.weight_ih_l0 torch.float32 on cpu",
    ):
        pg.gradient(policy, ESTIMATORS["reinforce"], batch)
