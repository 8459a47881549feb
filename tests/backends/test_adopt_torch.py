"""What only PyTorch's modules can be: trained in place, in training mode, frozen, tied, on other devices, compiled."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, ParameterError, ShapeError, SpecError
from pgcore.heads import Head

torch = (
    importlib.import_module("torch")
    if "torch" in os.environ.get("PGCORE_REQUIRE_BACKENDS", "")
    else pytest.importorskip("torch")
)
nn = torch.nn

# PyTorch's compiler warns of PyTorch's own code when it is first imported.
COMPILES = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)

HEAD = pg.Categorical(3)
PPO = pg.estimator("ppo", entropy_coefficient=0.01)
REINFORCE = pg.estimator("reinforce")


def adopt(module, critic=None, head: Head = HEAD, **options) -> Any:
    return pg.backend("torch").adopt(module, head=head, critic=critic, **options)


def mlp(outputs=3, dtype=torch.float64, seed=0, middle=None):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), middle or nn.Tanh(), nn.Linear(5, outputs)).to(dtype)


class Wrapped(nn.Module):
    """A module that does something with another one's inputs or outputs."""

    def __init__(self, change, inner=None):
        super().__init__()
        self.inner = inner or mlp()
        self.change = change

    def forward(self, observations):
        return self.change(self.inner, observations)


def gradient(policy, batch, estimator=REINFORCE):
    return pg.gradient(policy, estimator, batch).numpy()


def test_the_modules_own_parameters_are_trained_in_place(make_batch):
    network, critic = mlp(), mlp(1, seed=1)
    tensors = [*network.parameters(), *critic.parameters()]
    policy = adopt(network, critic)
    before = [tensor.detach().clone() for tensor in tensors]
    pg.optimizer("adam").step(policy, pg.gradient(policy, PPO, make_batch()))
    after = [*network.parameters(), *critic.parameters()]
    for tensor, now, old, (name, value) in zip(
        tensors, after, before, policy.parameters().items(), strict=True
    ):
        assert now is tensor
        assert not torch.equal(now, old), name
        np.testing.assert_array_equal(now.detach().numpy(), value, err_msg=name)
    assert list(policy.parameters()) == ["0.weight", "0.bias", "2.weight", "2.bias"] + [
        f"critic.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")
    ]
    assert all(tensor.grad is None for tensor in tensors)


def test_an_lstm_over_a_window_has_the_gradient_that_autograd_finds(make_batch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(2, 4, num_layers=2, batch_first=True, dtype=torch.float64)
            self.out = nn.Linear(4, 3, dtype=torch.float64)

        def forward(self, windows):
            return self.out(self.cell(windows)[0][:, -1])

    torch.manual_seed(0)
    network = Net()
    batch = make_batch(
        observations=np.random.default_rng(0).standard_normal((6, 4, 2)), final_observations=None
    )
    policy = adopt(network)
    weights = torch.tensor(pg.signals(policy, REINFORCE, batch)["advantage"])
    logits = network(torch.tensor(batch.observations)).masked_fill(
        ~torch.tensor(batch.action_mask), -torch.inf
    )
    log_probs = torch.log_softmax(logits, 1)[torch.arange(6), torch.tensor(batch.actions)]
    (-(weights * log_probs).sum() / 2).backward()
    for name, value in gradient(policy, batch).items():
        np.testing.assert_allclose(
            value, network.get_parameter(name).grad.numpy(), rtol=1e-11, atol=1e-14
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda inner, x: inner(x)[:, :2],
            r"Adopted\(torch Wrapped\): expected outputs of shape \[6, 3\] for .*, got \[6, 2\]",
        ),
        (
            lambda inner, x: inner(x)[:3],
            r"expected outputs of shape \[6, 3\] .*, got \[3, 3\]; return one row of natural parameters a step",
        ),
        (
            lambda inner, x: inner(x).float(),
            "expected outputs in float64, as its parameters are, got torch.float32",
        ),
        (
            lambda inner, x: inner(x).argmax(1, keepdim=True).expand(-1, 3),
            "expected outputs in float64, .*, got torch.int64",
        ),
        (
            lambda inner, x: (inner(x), inner(x)[:, 0]),
            r"expected outputs of shape \[6, 3\] .*, got tuple",
        ),
        (lambda inner, x: {"logits": inner(x)}, r"expected outputs of shape \[6, 3\] .*, got dict"),
        (
            lambda inner, x: inner(x).detach(),
            "Wrapped: expected outputs that carry a gradient, got detached ones",
        ),
    ],
    ids=["width", "rows", "dtype", "integers", "tuple", "dict", "detached"],
)
def test_outputs_that_are_no_natural_parameters_are_refused(make_batch, change, words):
    policy = adopt(Wrapped(change))
    with pytest.raises((ShapeError, SpecError), match=words):
        gradient(policy, make_batch())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda inner, x: inner(x),
            r"expected values of shape \[1\] for .*, got NoneType; return one value a step",
        ),
        (
            lambda inner, x: (inner(x), inner(x)),
            r"expected values of shape \[1\] for .*, got \[1, 3\]",
        ),
        (
            lambda inner, x: (inner(x), inner(x)[:, 0].float()),
            "expected values in float64, .* got torch.float32",
        ),
        (lambda inner, x: (inner(x), 0.0), r"expected values of shape \[1\] for .*, got float"),
    ],
    ids=["none", "shape", "dtype", "number"],
)
def test_values_of_a_shared_critic_that_are_none_are_refused(make_batch, change, words):
    policy = adopt(Wrapped(change), "shared")
    with pytest.raises((ShapeError, SpecError), match=words):
        gradient(policy, make_batch(), PPO)


def test_values_of_a_critic_of_its_own_may_be_a_column_and_nothing_wider(make_batch):
    assert adopt(mlp(), mlp(1)).evaluate(make_batch(), ("value",))["value"].shape == (6,)
    with pytest.raises(ShapeError, match=r"expected values of shape \[6\] for .*, got \[6, 2\]"):
        adopt(mlp(), mlp(2)).evaluate(make_batch(), ("value",))


def nan_in(module):
    with torch.no_grad():
        module[2].weight[0, 1] = torch.nan
    return module


def named(name, value):
    module = mlp()
    module.add_module(name, nn.ParameterDict({"log_std": nn.Parameter(value)}))
    return module


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nn.Tanh, "torch.adopt Tanh: expected a module with parameters to train, got none"),
        (
            lambda: mlp().requires_grad_(requires_grad=False),
            "expected a module with parameters to train, got none",
        ),
        (
            lambda: mlp(dtype=torch.float16),
            "expected parameters all float32 or all float64, got 0.weight torch.float16",
        ),
        (
            lambda: mlp(dtype=torch.bfloat16),
            "got 0.weight torch.bfloat16; call .float\\(\\) or .double\\(\\)",
        ),
        (
            lambda: nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3).double()),
            "all float32 or all float64, got 1.weight torch.float64",
        ),
        (
            lambda: mlp().to("meta"),
            "expected parameters on one device that holds numbers, got 0.weight on meta",
        ),
        (
            lambda: nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3, device="meta")),
            "one device that holds numbers, got 1.weight on meta",
        ),
        (
            lambda: nn.LazyLinear(3),
            "expected parameters that have a shape, got weight without; call the module once",
        ),
        (
            lambda: named("head", torch.zeros(2, dtype=torch.float64)),
            "expected head.log_std to name one parameter, got two",
        ),
        (lambda: 3, "torch.adopt module: expected a torch.nn.Module, got int"),
        (
            lambda: torch.tanh,
            "torch.adopt module: expected a torch.nn.Module, got builtin_function_or_method",
        ),
    ],
    ids=[
        "no parameters",
        "all frozen",
        "half",
        "bfloat16",
        "mixed",
        "meta",
        "two devices",
        "lazy",
        "head's name",
        "number",
        "function",
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_modules_that_cannot_be_trained_are_refused(make, words):
    with pytest.raises(SpecError, match=words):
        adopt(make(), head=pg.DiagonalGaussian(2, "shared"))


def test_a_parameter_that_is_nan_is_refused_by_name():
    with pytest.raises(
        ParameterError, match=r"expected finite parameters, got NaN or infinity in 2.weight"
    ):
        adopt(nan_in(mlp()))
    with pytest.raises(ParameterError, match=r"got NaN or infinity in critic.2.weight"):
        adopt(mlp(), nan_in(mlp(1)))


def test_a_network_that_has_a_parameter_of_the_critics_name_is_refused():
    network = mlp()
    network.add_module("critic", mlp(1))
    with pytest.raises(
        SpecError, match=r"expected critic.0.weight to name one parameter, got two; rename"
    ):
        adopt(network, mlp(1, seed=1))
    assert "critic.0.weight" in adopt(network).parameters()


def test_a_critic_that_is_no_module_is_refused():
    with pytest.raises(
        SpecError, match=r"torch.adopt critic: expected a torch.nn.Module, got function"
    ):
        adopt(mlp(), lambda observations: observations[:, 0])


STOCHASTIC = {
    "Dropout": nn.Dropout(0.5),
    "AlphaDropout": nn.AlphaDropout(0.5),
    "BatchNorm1d": nn.BatchNorm1d(5),
    "RReLU": nn.RReLU(),
    "TransformerEncoderLayer": nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.TransformerEncoderLayer(5, 1, 4, batch_first=True), nn.Flatten()
    ),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_layers_that_differ_in_training_are_refused_until_they_are_in_evaluation_mode(
    make_batch, name
):
    layer = STOCHASTIC[name].train()
    network = mlp(middle=layer)
    with pytest.raises(
        SpecError,
        match=r"Sequential: expected outputs that depend on one observation alone, got .* in training mode",
    ) as refused:
        adopt(network)
    assert "pass evaluation_mode=True, or call .eval() on the module" in str(refused.value)
    with pytest.raises(SpecError, match=r"expected outputs that depend on one observation alone"):
        adopt(mlp(), mlp(1, middle=layer))
    policy = adopt(network, evaluation_mode=True)
    assert not any(module.training for module in network.modules())
    batch = make_batch()
    first, again = (gradient(policy, batch) for _ in range(2))
    for parameter, value in first.items():
        np.testing.assert_array_equal(value, again[parameter], err_msg=parameter)
    assert adopt(network).parameters().keys() == first.keys()


def test_recurrent_layers_without_dropout_stay_as_cudnn_can_differentiate_them():
    critic = nn.Sequential(
        nn.LSTM(3, 4, dtype=torch.float64), nn.Dropout(0.5), nn.GRU(4, 1, 2, dropout=0.5).double()
    )
    adopt(mlp(), critic, evaluation_mode=True)
    assert [module.training for module in critic.modules()] == [False, True, False, False]


def test_going_back_to_training_mode_is_refused_at_the_next_gradient(make_batch):
    network = mlp(middle=nn.Dropout(0.5))
    policy = adopt(network, evaluation_mode=True)
    gradient(policy, make_batch())
    network.train()
    refused = (
        r"Sequential: expected Dropout in evaluation mode, .* got training mode; call .eval\(\)"
    )
    with pytest.raises(SpecError, match=refused):
        gradient(policy, make_batch())
    with pytest.raises(SpecError, match=refused):
        policy.act(np.zeros((1, 3)), pg.generator(0))


class Net(nn.Module):
    """Two layers with something between them that no layer of its own does."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 3)
        self.between = between
        self.state: Any = 0.0

    def forward(self, observations):
        return self.second(self.between(self, torch.tanh(self.first(observations))))


def functional_dropout(net, hidden):
    return nn.functional.dropout(hidden, 0.5, net.training)


def functional_batch_norm(net, hidden):
    return nn.functional.batch_norm(hidden, torch.zeros(5), torch.ones(5), training=net.training)


def kept_state(net, hidden):
    net.state = 0.5 * net.state + hidden.detach().mean()
    return hidden + net.state


def over_the_batch(net, hidden):
    return (hidden - hidden.mean(0)) / hidden.std(0)


def taken_for_a_sequence(net, hidden):
    return hidden.cumsum(0)


@pytest.mark.parametrize("between", [functional_dropout, functional_batch_norm])
def test_functions_that_differ_in_training_are_refused_until_the_module_is_in_evaluation_mode(
    make_batch, between
):
    policy, random_state = adopt(Net(between)), torch.get_rng_state()
    with pytest.raises(
        SpecError, match=r"Adopted\(torch Net\): expected .* evaluation_mode=True switches off"
    ):
        gradient(policy, make_batch())
    with pytest.raises(
        SpecError, match=r"Adopted\(torch Net\): expected .* evaluation_mode=True switches off"
    ):
        policy.evaluate(make_batch(), ("log_prob",))
    assert torch.equal(torch.get_rng_state(), random_state)
    policy = adopt(
        Net(between),
        Net(between),
        evaluation_mode=True,
        head=pg.Categorical(3),
        critic_values="action",
    )
    first, again = (policy.evaluate(make_batch(), ("log_prob", "action_values")) for _ in range(2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    policy.module.critic.train()
    with pytest.raises(SpecError, match="expected"):
        gradient(policy, make_batch())


@pytest.mark.parametrize("between", [kept_state, over_the_batch, taken_for_a_sequence])
def test_modules_that_are_no_function_of_one_observation_are_refused(make_batch, between):
    for mode in (False, True):
        with pytest.raises(
            SpecError,
            match=r"Adopted\(torch Net\): expected (the same outputs|outputs that depend on one)",
        ):
            gradient(adopt(Net(between), evaluation_mode=mode), make_batch())


def test_a_critic_is_tried_out_too(make_batch):
    critic = Wrapped(
        lambda inner, observations: inner(observations) - inner(observations).mean(0), mlp(1)
    )
    with pytest.raises(SpecError, match="expected outputs that depend on one observation alone"):
        gradient(adopt(mlp(), critic), make_batch(), PPO)


CHANGED = {
    "InstanceNorm1d": (lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten()), "running_mean"),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5)), "_u"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_modules_that_change_their_buffers_are_refused_and_their_buffers_put_back(make_batch, name):
    make, buffer = CHANGED[name]
    network = mlp(middle=make())
    before = {name: value.clone() for name, value in network.named_buffers()}
    with pytest.raises(
        SpecError,
        match=rf"Sequential: expected buffers that stay as they are, got one that a call changes, .*{buffer}; pass",
    ):
        gradient(adopt(network), make_batch())
    policy = adopt(network, evaluation_mode=True)
    first, again = (gradient(policy, make_batch()) for _ in range(2))
    for parameter, value in first.items():
        np.testing.assert_array_equal(value, again[parameter])
    assert before
    for key, value in network.named_buffers():
        assert torch.equal(value, before[key]), key


class Logged(nn.Module):
    """A module that makes a new buffer of the old one."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, observations):
        self.calls = self.calls + 1
        return self.inner(observations)


def test_a_buffer_that_is_replaced_is_put_back_as_well(make_batch):
    network = Logged()
    calls = network.calls
    with pytest.raises(SpecError, match=r"got one that a call changes, network\.calls"):
        gradient(adopt(network), make_batch())
    assert network.calls is calls
    assert calls == 0


@COMPILES
def test_a_failure_on_observations_names_the_module_and_what_it_was_given(make_batch):
    policy = adopt(mlp())
    words = r"torch Sequential: expected a network that takes observations \[B, {}\] torch.{}, got RuntimeError \(.*mat1 and mat2"
    with pytest.raises(BatchError, match=words.format(4, "float64")) as refused:
        gradient(
            policy, make_batch(observations=np.zeros((6, 4)), final_observations=np.zeros((2, 4)))
        )
    assert isinstance(refused.value.__cause__, RuntimeError)
    with pytest.raises(BatchError, match=words.format(3, "int64")):
        gradient(policy, make_batch(observations=np.zeros((6, 3), int), final_observations=None))
    with pytest.raises(BatchError, match=words.format(2, "float64")):
        policy.act(np.zeros((1, 2)), pg.generator(0))
    compiled = adopt(nn.Sequential(nn.Linear(3, 3, dtype=torch.float64)), compiled=True)
    gradient(compiled, make_batch())
    with pytest.raises(BatchError, match=words.format(3, "int64")):
        gradient(compiled, make_batch(observations=np.zeros((6, 3), int), final_observations=None))
    valued = adopt(mlp(), Wrapped(lambda inner, observations: inner(observations).nothing))
    with pytest.raises(
        BatchError,
        match=r"torch Wrapped: expected .*, got AttributeError \('Tensor' object has no attribute 'nothing'\)",
    ):
        gradient(valued, make_batch())


def test_writing_in_place_to_what_the_derivative_needs_is_refused(make_batch):
    def written(inner, observations):
        hidden = inner[0](observations).exp()
        outputs = inner[2](hidden)
        hidden.add_(1)
        return outputs

    policy = adopt(Wrapped(written))
    words = r"Adopted\(torch Wrapped\): expected outputs that can be differentiated, got RuntimeError \(one of the variables .*; write to no array"
    for use in (
        lambda: gradient(policy, make_batch()),
        lambda: policy.episode_scores(make_batch()),
    ):
        with pytest.raises(SpecError, match=words):
            use()


def replaced(network):
    network[2] = nn.Linear(5, 3, dtype=torch.float64)


def removed(network):
    network[2] = nn.Linear(5, 3, bias=False, dtype=torch.float64)


def frozen(network):
    network[2].requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced, r"torch Sequential: expected the parameters that it was adopted with, got another 2.weight; adopt the module again"),
        (removed, "got another 2.weight"),
        (lambda network: network.to("meta"), "got another 0.weight"),
        (lambda network: network.float(), r"expected parameters to train in torch.float64 on cpu, .*, got 0.weight torch.float32 on cpu; change"),
        (frozen, "got 2.weight torch.float64 on cpu, frozen; change it back"),
    ],
    ids=["replaced", "removed", "meta", "dtype", "frozen"],
)  # fmt: skip
def test_parameters_that_are_no_longer_those_adopted_are_refused(make_batch, change, words):
    network, batch = mlp(), make_batch()
    policy = adopt(network)
    gradient(policy, batch)
    parameters = policy.parameters()
    change(network)
    for use in (
        lambda: gradient(policy, batch),
        lambda: policy.episode_scores(batch),
        lambda: policy.fisher_vector_product(batch, np.ones(policy.size)),
        lambda: policy.load(parameters),
        policy.parameters,
    ):
        with pytest.raises(ParameterError, match=words):
            use()


def test_casting_automatically_and_a_default_device_change_nothing(make_batch):
    policy, batch = adopt(mlp(dtype=torch.float32), mlp(1, dtype=torch.float32)), make_batch()

    def found():
        numbers = gradient(policy, batch, PPO)
        numbers |= {
            f"step {name}": value
            for name, value in policy.evaluate(batch, ("log_prob", "value")).items()
        }
        fisher = policy.fisher_vector_product(batch, np.ones(policy.size))
        return numbers | {
            "scores": policy.episode_scores(batch),
            "fisher": fisher,
            "pi": policy.distribution(batch.observations),
        }

    expected = found()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = found()
    with torch.device("meta"):
        elsewhere = found()
    for name, value in expected.items():
        np.testing.assert_array_equal(cast[name], value, err_msg=name)
        np.testing.assert_array_equal(elsewhere[name], value, err_msg=name)


def test_a_vector_that_is_read_only_is_copied(make_batch):
    policy = adopt(mlp(dtype=torch.float32))
    vector = np.ones(policy.size, np.float32)
    vector.flags.writeable = False
    assert policy.fisher_vector_product(make_batch(), vector).any()


def test_batch_norm_without_running_statistics_is_refused_in_every_mode():
    network = mlp(middle=nn.BatchNorm1d(5, track_running_stats=False))
    for evaluation_mode in (False, True):
        with pytest.raises(
            SpecError, match=r"got BatchNorm1d without running statistics, which mixes the batch"
        ):
            adopt(network.eval(), evaluation_mode=evaluation_mode)


def test_dropout_of_nothing_is_no_dropout(make_batch):
    assert gradient(adopt(mlp(middle=nn.Dropout(0.0))), make_batch())


def test_running_statistics_stay_as_they_are(make_batch):
    network = mlp(middle=nn.BatchNorm1d(5))
    with torch.no_grad():
        network(torch.randn(20, 3, dtype=torch.float64))
    before = {name: value.clone() for name, value in network.named_buffers()}
    policy = adopt(network, evaluation_mode=True)
    pg.optimizer("sgd").step(policy, pg.gradient(policy, REINFORCE, make_batch()))
    assert before
    for name, value in network.named_buffers():
        assert torch.equal(value, before[name]), name
    assert "1.weight" in policy.parameters()
    assert "1.running_mean" not in policy.parameters()


def test_a_module_that_writes_to_its_input_leaves_the_batch_as_it_is(make_batch):
    def written(inner, observations):
        return inner(observations.mul_(2).add_(1))

    def computed(inner, observations):
        return inner(observations * 2 + 1)

    batch = make_batch()
    before = batch.observations.copy()
    estimator = pg.estimator("actor_critic")
    found, expected = (
        gradient(adopt(Wrapped(change), Wrapped(change, mlp(1))), batch, estimator)
        for change in (written, computed)
    )
    np.testing.assert_array_equal(batch.observations, before)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    given = np.ones((2, 3))
    adopt(Wrapped(written)).act(given, pg.generator(0))
    np.testing.assert_array_equal(given, 1.0)


def test_frozen_parameters_are_left_out_and_stay_to_the_bit(make_batch):
    network = mlp()
    whole = gradient(adopt(network), make_batch())
    network[0].requires_grad_(requires_grad=False)
    frozen = {name: value.clone() for name, value in network[0].named_parameters()}
    policy = adopt(network)
    assert list(policy.parameters()) == ["2.weight", "2.bias"]
    found = pg.gradient(policy, REINFORCE, make_batch())
    for name, value in found.numpy().items():
        np.testing.assert_array_equal(value, whole[name])
    pg.optimizer("adam").step(policy, found)
    for name, value in network[0].named_parameters():
        assert torch.equal(value, frozen[name]), name


def test_frozen_parameters_may_have_another_dtype(make_batch):
    network = nn.Sequential(
        nn.Linear(3, 5).requires_grad_(requires_grad=False), nn.Linear(5, 2, dtype=torch.float64)
    )
    network[0].weight.data = network[0].weight.data.half()

    def forward(_, observations):
        return network[1](nn.functional.linear(observations, network[0].weight.double()))

    policy = adopt(Wrapped(forward, network), head=pg.DiagonalGaussian(2, "shared"))
    assert policy.dtype == np.float64
    batch = make_batch(actions=np.zeros((6, 2)), action_mask=None, extras=None)
    assert list(gradient(policy, batch)) == ["inner.1.weight", "inner.1.bias", "head.log_std"]


def test_tensors_that_network_and_critic_share_are_trained_once_with_both_gradients(make_batch):
    network, critic = mlp(), mlp(1)
    apart = gradient(adopt(network, critic), make_batch(), PPO)
    critic[0] = network[0]  # `mlp` starts both with the same first layer
    policy = adopt(network, critic)
    assert list(policy.parameters()) == [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
        "critic.2.weight",
        "critic.2.bias",
    ]
    for name, value in gradient(policy, make_batch(), PPO).items():
        expected = apart[name] + (apart[f"critic.{name}"] if name.startswith("0.") else 0)
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-15, err_msg=name)


@COMPILES
def test_a_compiled_operation_with_another_layout_than_announced_is_an_error(make_batch):
    # The gradient would read its result in the announced order, and be wrong without a word.
    name, schema = "pgcore_tests::by_columns", "(Tensor x) -> Tensor"

    @torch.library.custom_op(name, mutates_args=(), schema=schema)
    def by_columns(x):
        return (2 * x).T.contiguous().T

    by_columns.register_fake(torch.empty_like)
    by_columns.register_autograd(lambda _, cotangent: 2 * cotangent)
    network = Wrapped(lambda inner, observations: by_columns(inner(observations)))
    gradient(adopt(network), make_batch())
    with pytest.raises(AssertionError, match=r"expected size 6==6, stride 1==3 at dim=0"):
        gradient(adopt(network, compiled=True), make_batch())


@COMPILES
def test_a_compiled_module_has_the_same_gradient_whatever_the_padding(make_batch):
    network, critic = mlp(middle=nn.Dropout(0.5)), mlp(1, seed=1)
    eager, compiled = (
        adopt(network, critic, compiled=compiled, evaluation_mode=True)
        for compiled in (False, True)
    )

    def compare(batch):
        expected = gradient(eager, batch, PPO)
        for name, value in gradient(compiled, batch, PPO).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-11, atol=1e-14, err_msg=name)

    batch = make_batch()
    compare(batch)
    compare(batch.steps(range(5)))  # padded to 6 steps as well
    pg.optimizer("adam").step(compiled, pg.gradient(compiled, PPO, batch))
    compare(batch)
    network.train()
    with pytest.raises(SpecError, match=r"expected Dropout in evaluation mode"):
        gradient(compiled, batch, PPO)


def test_tensors_without_numbers_are_refused_where_they_are_read(make_batch):
    policy = adopt(mlp())
    batch = make_batch(observations=torch.ones(6, 3, device="meta"))
    words = r"expected an array whose numbers can be read, got Tensor .*meta"
    with pytest.raises(BatchError, match=words):
        pg.gradient(policy, pg.estimator("reinforce"), batch)
    with pytest.raises(BatchError, match=words):
        _ = batch.steps([0]).observations


def test_a_batch_takes_the_numbers_of_a_tensor_that_is_differentiated(make_batch):
    values = torch.ones(6, 3, requires_grad=True)
    np.testing.assert_array_equal(make_batch(observations=values).observations, 1.0)


@pytest.mark.parametrize(
    "values",
    [torch.ones(6, 3, requires_grad=True), torch.ones(6, 3, device="meta")],
    ids=["requires grad", "meta"],
)
def test_observations_that_numpy_cannot_read_are_refused(values):
    with pytest.raises(
        BatchError, match=r"observations: expected an array that NumPy can read, got Tensor"
    ):
        adopt(mlp()).act(values, pg.generator(0))


@pytest.mark.parametrize(
    "values", [torch.ones(6, 3), nn.Parameter(torch.ones(6, 3), requires_grad=False)]
)
def test_tensors_that_numpy_can_read_are_copied(make_batch, values):
    batch = make_batch(observations=values)
    with torch.no_grad():
        values.zero_()
    np.testing.assert_array_equal(batch.observations, 1.0)


@pytest.mark.parametrize("device", ["nonsense", "cpu:x", "hpu"])
def test_a_device_that_is_not_here_is_refused(device):
    spec = pg.PolicySpec(pg.Linear(2), HEAD)
    with pytest.raises(
        SpecError,
        match=r"torch.policy device: expected a device that PyTorch can use here, got .*; choose 'cpu'",
    ):
        pg.policy(spec, backend="torch", device=device)
    with pytest.raises(SpecError, match=r"expected a device that holds numbers, got 'meta'"):
        pg.policy(spec, backend="torch", device="meta")


def test_a_refused_module_stays_in_its_mode():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(SpecError, match="track_running_stats=True"):
        pg.backend("torch").adopt(module, pg.Categorical(3), evaluation_mode=True)
    assert module.training
