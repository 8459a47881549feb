"""`pg.check` and `pg.compare_policies` on networks of the user's own: a PyTorch convolution, its port to JAX, a Keras model with bugs."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import EstimatorError, ParameterError, UnknownNameError
from pgcore.interfaces.gradient import Gradient
from pgcore_check.cases.cases import make_case
from pgcore_check.compare import STAGES
from pgcore_check.proofs import hold_to_parent, proofs, variants
from pgcore_estimators.preset_classes import ActorCritic
from pgcore_optimizers.first_order import Adam

ESTIMATORS = variants("estimators")

HEAD = pg.Categorical(3, temperature=0.8)
STEPS = 12

# Of a network that the kit has no formula of, which a framework differentiates.
ABSENT = ("cotangents", "kernel", "Fisher product", "100 steps")
OWN = [stage for stage in STAGES if stage not in ABSENT]


def batch_of(observations, head: pg.Head = HEAD, seed=0):
    rng = np.random.default_rng(seed)
    steps = len(observations)
    actions = rng.integers(0, 3, steps) if head.discrete else rng.standard_normal((steps, 2))
    return pg.Batch(
        observations=observations,
        actions=actions,
        rewards=rng.standard_normal(steps),
        episode_lengths=[5, 4, steps - 9],
        terminated=[True, False, True],
        final_observations=observations[[3, 8, 2]],
        log_probs=np.log(0.2 + 0.6 * rng.random(steps)),
        values=0.3 * rng.standard_normal(steps),
        extras={"group": np.repeat([0, 1, 0], [5, 4, steps - 9])},
    )


def images(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (STEPS, 6, 6, 2)).astype(np.uint8)


def vectors(seed=0, width=4):
    return np.random.default_rng(seed).standard_normal((STEPS, width))


def unchanged(policy, before):
    after = policy.parameters()
    return all(after[name].tobytes() == value.tobytes() for name, value in before.items())


@pytest.fixture
def convolution():
    """Return a policy around a convolutional PyTorch net with a shared torso, by dtype."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def make(dtype="float64"):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.torso = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten())
                self.policy, self.value = nn.Linear(12, 3), nn.Linear(12, 1)

            def forward(self, observed):
                features = self.torso(observed.permute(0, 3, 1, 2).to(getattr(torch, dtype)) / 255)
                return self.policy(features), self.value(features)

        with torch.random.fork_rng():
            torch.manual_seed(3)
            net = Net().to(getattr(torch, dtype))
        return pg.backend("torch").adopt(net, HEAD, "shared")

    return make


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("variant", ["gae", "ppo value clip", "gspo", "reinforce++ group"])
def test_a_convolution_is_held_to_the_closed_forms(convolution, variant, dtype):
    policy = convolution(dtype)
    before = policy.parameters()
    report = pg.check(policy, ESTIMATORS[variant], batch_of(images()))
    assert report.agrees, str(report)
    assert [row.stage for row in report.rows] == [*OWN]
    assert all(row.power > 0.5 for row in report.rows if dtype == "float64"), report.rows
    assert unchanged(policy, before)


@pytest.mark.parametrize("variant", ["optimal baseline", "component baseline"])
def test_scores_of_ones_own_network_are_held_to_differences(convolution, variant):
    estimator = ESTIMATORS.get(variant) or pg.estimator(
        "reinforce", gamma=0.9, baseline="optimal_per_component"
    )
    policy = convolution()
    report = pg.check(policy, estimator, batch_of(images()), optimizer="rmsprop")
    assert report.agrees, str(report)


def mlp(weights):
    """Return a PyTorch MLP with a critic, and its port to JAX, of the same weights by name."""
    torch = pytest.importorskip("torch")
    jnp = pytest.importorskip("jax.numpy")
    from pgcore_jax.parameters import enable_x64

    nn = torch.nn

    def network(names):
        layers = []
        for name in names:
            weight = weights[name]
            layer = nn.Linear(*weight.shape, dtype=torch.float64)
            layer.load_state_dict(
                {"weight": torch.tensor(weight.T), "bias": torch.tensor(weights[f"{name} bias"])}
            )
            layers += [layer, nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    def apply(parameters, observed):
        for name in ("a", "b", "c"):
            observed = jnp.tanh(observed) if name != "a" else observed
            observed = observed @ parameters[name] + parameters[f"{name} bias"]
        return observed

    left = pg.backend("torch").adopt(network("abc"), HEAD, network("def"))
    with enable_x64(True):
        as_network = dict(zip("abcdef", "abcabc", strict=True))
        trees = [
            {
                as_network[key[0]] + key[1:]: jnp.asarray(value)
                for key, value in weights.items()
                if key[0] in names
            }
            for names in ("abc", "def")
        ]
        right = pg.backend("jax").adopt((apply, trees[0]), HEAD, (apply, trees[1]))
    return left, right


@pytest.fixture
def weights():
    rng = np.random.default_rng(7)
    shapes = {"a": (4, 6), "b": (6, 6), "c": (6, 3), "d": (4, 5), "e": (5, 5), "f": (5, 1)}
    found = {name: rng.standard_normal(shape) / 2 for name, shape in shapes.items()}
    return found | {f"{name} bias": np.zeros(shape[1]) for name, shape in shapes.items()}


def test_a_port_is_the_same_policy(weights):
    left, right = mlp(weights)
    before = left.parameters(), right.parameters()
    report = pg.compare_policies(left, right, ESTIMATORS["ppo"], batch_of(vectors()))
    assert report.agrees, str(report)
    assert [row.stage for row in report.rows] == ["parameters", *OWN]
    assert "jax beside torch: agrees" in str(report)
    assert all(row.power > 0.5 for row in report.rows if row.stage in ("signals", "gradient")), (
        report.rows
    )
    assert unchanged(left, before[0])
    assert unchanged(right, before[1])
    assert pg.check(right, ESTIMATORS["ppo"], batch_of(vectors())).agrees


def test_a_port_that_departs_is_told_where(weights, monkeypatch):
    left, right = mlp(weights)
    estimator, batch = ESTIMATORS["ppo"], batch_of(vectors())

    def first():
        return pg.compare_policies(left, right, estimator, batch).divergences["jax beside torch"]

    other = right.parameters()
    wrong = {name: value.copy() for name, value in other.items()}
    square = next(name for name, value in wrong.items() if value.shape == (6, 6))
    wrong[square] = wrong[square].T.copy()
    right.load(wrong)
    assert (
        first().stage == "quantities"
    )  # the same numbers in another order of axes are the same parameters
    wrong[square][2, 3] += 1e-9
    right.load(wrong)
    assert first().stage == "parameters"
    right.load(other)
    jax_policy = pytest.importorskip("pgcore_jax.policy").JaxPolicy
    original = jax_policy.differentiate

    def differentiate(self, surrogate, inputs):
        found, square_ = original(self, surrogate, inputs)
        return found.scaled(1 + 1e-9), square_

    monkeypatch.setattr(jax_policy, "differentiate", differentiate)
    assert first().stage == "gradient"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_heads_own_parameters_and_values_of_actions_are_held_too(dtype):
    jnp = pytest.importorskip("jax.numpy")
    from pgcore_jax.parameters import enable_x64

    rng = np.random.default_rng(8)
    arrays = {"w": rng.standard_normal((4, 2)), "scale": np.array(1.5)}
    values = {"w": rng.standard_normal((4, 3)), "scale": np.array(0.5)}

    def apply(parameters, observed):
        return jnp.tanh(observed @ parameters["w"]) * parameters["scale"]

    with enable_x64(True):
        own, critic = (
            {name: jnp.asarray(value, dtype) for name, value in each.items()}
            for each in (arrays, values)
        )
    policy = pg.backend("jax").adopt((apply, own), pg.DiagonalGaussian(2, "shared", std=0.7))
    assert "head.log_std" in policy.parameters()
    report = pg.check(policy, ESTIMATORS["mean baseline"], batch_of(vectors(), policy.spec.head))
    assert report.agrees, str(report)
    policy = pg.backend("jax").adopt((apply, critic), HEAD, (apply, critic), critic_values="action")
    report = pg.check(policy, ESTIMATORS["expected"], batch_of(vectors()))
    assert report.agrees, str(report)


def test_two_policies_with_different_numbers_of_parameters_are_no_ports():
    left, right = (
        pg.policy(pg.PolicySpec(pg.Linear(4), HEAD, critic)) for critic in ("none", "separate")
    )
    with pytest.raises(ParameterError, match="15 and 20"):
        pg.compare_policies(left, right, ESTIMATORS["reinforce"], batch_of(vectors()))


def test_a_built_policy_is_held_to_its_whole_reference():
    spec = pg.PolicySpec(pg.MLP(4, (5,)), HEAD, "separate")
    policy, batch = make_case(spec, "numpy", "float32", seed=4)
    before = policy.parameters()
    report = pg.check(policy, ESTIMATORS["ppo"], batch)
    assert report.agrees
    assert [row.stage for row in report.rows] == list(STAGES)
    assert unchanged(policy, before)


def test_bad_input_is_refused(convolution):
    policy, batch = convolution(), batch_of(images())
    with pytest.raises(UnknownNameError, match="adan"):
        pg.check(policy, ESTIMATORS["ppo"], batch, optimizer="adan")
    with pytest.raises(EstimatorError, match="action_value"):
        pg.check(policy, ESTIMATORS["expected"], batch)


def test_a_head_without_a_reference_implementation_is_held_to_its_own_formulas(
    convolution, monkeypatch
):
    monkeypatch.setattr(proofs(), "references", {})
    policy, batch = convolution(), batch_of(images())
    report = pg.check(policy, ESTIMATORS["gae"], batch)
    assert report.agrees, str(report)
    # Agreement means something: an error of a millionth would be seen.
    assert next(row for row in report.rows if row.stage == "gradient").power > 0.5


@pytest.fixture
def model():
    """Return a policy around a Keras model of two outputs."""
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another backend here")
    keras.utils.set_random_seed(5)
    inputs = keras.Input((4,), dtype="float64")
    hidden = keras.layers.Dense(6, "tanh", dtype="float64")(inputs)
    outputs = [
        keras.layers.Dense(width, dtype="float64", bias_initializer="glorot_uniform")(hidden)
        for width in (3, 1)
    ]
    return pg.backend("tensorflow").adopt(keras.Model(inputs, outputs), HEAD, "shared")


class Late(ActorCritic):
    """Leaves each step's own reward out of its advantage."""

    def signals(self, batch, evaluate):
        found = dict(super().signals(batch, evaluate))
        return found | {"advantage": found["advantage"] - batch.rewards}


class Doubled(ActorCritic):
    """Has twice the value loss."""

    def surrogate(self, xp, *, log_prob, value, advantage, return_, entropy=None):
        plain = super().surrogate(
            xp, log_prob=log_prob, value=value, advantage=advantage, return_=return_
        )
        return plain + 0.5 * self.value_coefficient * (value - return_) * (value - return_)


def in_log_prob(monkeypatch):
    original = pg.Categorical.log_prob
    monkeypatch.setattr(
        pg.Categorical,
        "log_prob",
        lambda head, xp, found, actions: original(head, xp, found, actions) * (1 + 1e-9),
    )


def in_gradient(monkeypatch):
    """Take half of one array's derivative."""
    policy = pytest.importorskip("pgcore_tensorflow.policy").TensorflowPolicy
    original = policy.differentiate

    def differentiate(self, surrogate, inputs):
        found, square = original(self, surrogate, inputs)
        name = self.names[0]
        return found.replaced(found.leaves | {name: found.leaves[name] * (1 - 1e-5)}), square

    monkeypatch.setattr(policy, "differentiate", differentiate)


def in_clipping(monkeypatch):
    monkeypatch.setattr(Gradient, "clipped", lambda g, limit: g.scaled(limit / (g.norm() + 1e-6)))


def in_step(monkeypatch):
    """Add epsilon to the root before its bias correction, as Keras does."""

    def update(self, xp, parameter, gradient, slots, *scalars):
        rate, correction = scalars
        first = self.beta1 * slots["first_moment"] + (1.0 - self.beta1) * gradient
        second = self.beta2 * slots["second_moment"] + (1.0 - self.beta2) * gradient * gradient
        return parameter - rate * first * correction / (xp.sqrt(second) + self.eps), {
            "first_moment": first,
            "second_moment": second,
        }

    optimizers = pytest.importorskip("pgcore_tensorflow.optimizers")
    original = optimizers.TensorflowOptimizer._assign
    bugged = type("Bugged", (Adam,), {"update": update})

    def assign(self, *tensors):
        self.spec = bugged(1e-3)
        return original(self, *tensors)

    monkeypatch.setattr(optimizers.TensorflowOptimizer, "_assign", assign)


def in_later_steps(monkeypatch):
    """Forget the first moment after the first step."""
    optimizers = pytest.importorskip("pgcore_tensorflow.optimizers")
    original = optimizers.TensorflowOptimizer.step

    def step(self, gradient, scalars):
        original(self, gradient, scalars)
        self._slots["first_moment"].assign(0.0 * self._slots["first_moment"])

    monkeypatch.setattr(optimizers.TensorflowOptimizer, "step", step)


GAE = pg.estimator("actor_critic", gamma=0.9, gae_lambda=0.8)


@pytest.mark.parametrize(
    ("stage", "plant", "estimator"),
    [
        (None, None, GAE),
        ("signals", None, Late(gamma=0.9, gae_lambda=0.8)),
        ("quantities", in_log_prob, GAE),
        ("surrogate", None, Doubled(gamma=0.9, gae_lambda=0.8)),
        ("gradient", in_gradient, GAE),
        ("clipped gradient", in_clipping, GAE),
        ("1 step", in_step, GAE),
        ("10 steps", in_later_steps, GAE),
    ],
)
def test_a_bug_on_a_keras_model_is_found_at_its_stage(model, monkeypatch, stage, plant, estimator):
    hold_to_parent(type(estimator))
    if plant is not None:
        plant(monkeypatch)
    before = model.parameters()
    report = pg.check(model, estimator, batch_of(vectors()))
    first = report.divergences.get("tensorflow")
    assert (first and first.stage) == stage, str(report)
    assert unchanged(model, before)


def test_a_layer_of_the_network_that_is_called_head_is_looked_at():
    torch = pytest.importorskip("torch")

    class Wrong(torch.autograd.Function):
        """x W, with seven times the derivative in W."""

        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x @ weight.T

        @staticmethod
        def backward(ctx, *grads):
            x, weight = ctx.saved_tensors
            return grads[0] @ weight, 7 * grads[0].T @ x

    class Net(torch.nn.Module):
        def __init__(self, right):
            super().__init__()
            self.right = right
            self.head = torch.nn.utils.skip_init(
                torch.nn.Linear, 4, 3, bias=False, dtype=torch.float64
            )
            torch.nn.init.constant_(self.head.weight, 0.1)

        def forward(self, x):
            return self.head(x) if self.right else Wrong.apply(x, self.head.weight)

    for right in (True, False):
        policy = pg.backend("torch").adopt(Net(right), HEAD)
        assert pg.check(policy, ESTIMATORS["reinforce"], batch_of(vectors())).agrees is right


@pytest.mark.parametrize("start", [np.eye(3), np.zeros((3, 3))], ids=["identity", "zeros"])
def test_a_square_layer_that_starts_symmetric_can_be_ported(start):
    torch = pytest.importorskip("torch")
    pytest.importorskip("jax")
    layer = torch.nn.utils.skip_init(torch.nn.Linear, 3, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start))
    left = pg.backend("torch").adopt(layer, HEAD)
    right = pg.backend("jax").adopt(
        (lambda parameters, x: x @ parameters["w"], {"w": start.T.copy()}), HEAD
    )
    report = pg.compare_policies(left, right, ESTIMATORS["reinforce"], batch_of(vectors(width=3)))
    assert report.agrees, str(report)
