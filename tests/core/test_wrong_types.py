"""Every public call with an object of the wrong kind in each argument: an error of ours comes out, or a result."""

# Arguments of the wrong kind are what these tests are about.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportCallIssue=false

import dataclasses
import linecache
import math
from pathlib import Path

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import PgcoreError
from pgcore.registry.registry import registry
from pgcore_check.proofs import variants

OURS = Path(pg.__file__).parents[1]
STEPS, EPISODES, ACTIONS = 6, 2, 3


class Objects:
    """One valid object of each kind, made anew where a call may change them."""

    def __init__(self, folder):
        self.folder = folder
        self.head = pg.Categorical(ACTIONS)
        self.network = pg.Linear(2)
        self.spec = pg.PolicySpec(self.network, self.head, "separate")
        self.policy = pg.policy(self.spec, backend="numpy")
        self.estimator = pg.estimator("ppo")
        self.batch = pg.Batch(**batch_arguments())
        self.episodes = pg.Episodes(**episode_arguments())
        self.signals = pg.signals(self.policy, self.estimator, self.batch)
        self.laid_out = pg.signals(self.estimator, self.episodes)
        self.gradient = pg.gradient(self.policy, self.estimator, self.batch, signals=self.signals)
        self.optimizer = pg.optimizer("adam", learning_rate=1e-3)
        self.rng = pg.generator(0)
        self.file = folder / "policy.safetensors"
        self.policy.save(self.file)

    @property
    def wrong(self):
        """Objects by label; each is of the wrong kind nearly everywhere."""
        return {
            "None": None,
            "True": True,
            "-1": -1,
            "1.5": 1.5,
            "nan": math.nan,
            "10**400": 10**400,
            "'x'": "x",
            "''": "",
            "NUL": "a\0b",
            "5000 characters": "x" * 5000,
            "b'x'": b"x",
            "[]": [],
            "[None]": [None],
            "ragged": [[1], [1, 2]],
            "{}": {},
            "{'x': 1}": {"x": 1},
            "{1: None}": {1: None},
            "object()": object(),
            "a class": pg.Policy,
            "a function": len,
            "an array": np.zeros((2, 2, 2)),
            "objects": np.array([None, "x"]),
            "a policy": self.policy,
            "an estimator": self.estimator,
            "a batch": self.batch,
            "episodes": self.episodes,
            "a spec": self.spec,
            "a head": self.head,
            "a network": self.network,
            "signals": self.signals,
            "laid-out signals": self.laid_out,
            "a gradient": self.gradient,
            "an optimizer": self.optimizer,
            "a generator": self.rng,
        }


def episode_arguments():
    """Return the arguments of `pg.Episodes`."""
    steps = np.linspace(-1.0, 1.0, STEPS)
    return {
        "rewards": steps,
        "episode_lengths": [2, 4],
        "terminated": [True, False],
        "log_probs": -np.ones(STEPS),
        "values": steps,
        "final_values": np.zeros(EPISODES),
        "step_weights": np.ones(STEPS),
        "discount": np.ones(STEPS),
        "extras": {"reference_log_probs": steps},
    }


def batch_arguments():
    """Return the arguments of `pg.Batch`."""
    return {
        "observations": np.ones((STEPS, 2)),
        "actions": np.arange(STEPS) % ACTIONS,
        "final_observations": np.ones((EPISODES, 2)),
        "action_mask": np.ones((STEPS, ACTIONS), bool),
        **episode_arguments(),
    }


def flat(batch):
    """Return the arguments of `from_steps`; those of a batch have observations too."""
    names = ("rewards", "log_probs", "values", "discount", "extras")
    steps = {name: episode_arguments()[name] for name in names}
    ends = np.zeros(STEPS, bool)
    ends[[1, 5]] = True
    terminated = ends & (np.arange(STEPS) < 2)
    steps |= {
        "terminated": terminated,
        "truncated": ends & ~terminated,
        "final_values": np.zeros(2),
    }
    steps["episode"] = None
    if batch:
        steps |= {name: batch_arguments()[name] for name in ("observations", "actions")}
        steps |= {"final_observations": np.ones((2, 2)), "next_observations": None}
        steps["action_mask"] = np.ones((STEPS, ACTIONS), bool)
    return steps


def rollout(batch):
    """Return the arguments of `from_rollout`."""
    shape, ends = (3, 2), np.zeros((3, 2), bool)
    steps = {name: np.zeros(shape) for name in ("rewards", "log_probs", "values", "final_values")}
    steps |= {"terminated": ends, "truncated": ends, "discount": np.ones(shape), "extras": {}}
    steps |= {"last_values": np.zeros(2), "previous_done": [False, False]}
    steps |= {"order": "time", "autoreset": "disabled"}
    if batch:
        steps |= {"observations": np.zeros((*shape, 2)), "actions": np.zeros(shape, int)}
        steps |= {"final_observations": None, "last_observations": np.zeros((2, 2))}
        steps["action_mask"] = np.ones((*shape, ACTIONS), bool)
    return steps


def padded(batch):
    """Return the arguments of `from_padded`."""
    shape = (2, 3)
    names = ("log_probs", "rollout_log_probs", "reference_log_probs", "values")
    steps = {name: np.zeros(shape) for name in names}
    steps |= {"rewards": [1.0, 2.0], "mask": [[1, 1, 0], [1, 0, 0]], "truncated": [False, False]}
    steps |= {"loss_mask": np.ones(shape, bool), "group": [0, 0], "final_values": np.zeros(2)}
    steps |= {"discount": np.ones(shape), "extras": {}}
    if batch:
        steps |= {"observations": np.zeros((*shape, 2)), "actions": np.zeros(shape, int)}
        steps |= {"final_observations": None, "action_mask": np.ones((*shape, ACTIONS), bool)}
    return steps


def replay(batch):
    """Return the arguments of `from_replay`."""
    names = ("rewards", "log_probs", "values", "next_values")
    steps = {name: np.zeros(STEPS) for name in names}
    steps |= {"discount": np.ones(STEPS), "weights": np.ones(STEPS), "extras": {}}
    steps["terminated"] = np.ones(STEPS, bool)
    if batch:
        steps |= {name: batch_arguments()[name] for name in ("observations", "actions")}
        steps |= {"next_observations": np.zeros((STEPS, 2))}
        steps["action_mask"] = np.ones((STEPS, ACTIONS), bool)
    return steps


CONSTRUCTORS = {
    "from_steps": flat,
    "from_rollout": rollout,
    "from_padded": padded,
    "from_replay": replay,
}


def functions(o):
    """Return the functions of the namespace, each with valid arguments by name."""
    triple = {"policy": o.policy, "estimator": o.estimator, "batch": o.batch}
    options = {"backend": "numpy", "dtype": "float32", "device": None, "compiled": False}
    log_prob = np.full(STEPS, -1.0)
    return {
        "policy": (pg.policy, {"spec": o.spec, "seed": 0, **options}),
        "load": (pg.load, {"path": o.file, "into": None, **options}),
        "load into": (pg.load, {"path": o.file, "into": o.policy}),
        "backend": (pg.backend, {"name": "numpy"}),
        "estimator": (pg.estimator, {"name": "ppo"}),
        "optimizer": (pg.optimizer, {"name": "adam", "learning_rate": 1e-3}),
        "generator": (pg.generator, {"seed": 0}),
        "gradient": (pg.gradient, {**triple, "signals": o.signals, "target": o.policy}),
        "gradient alone": (pg.gradient, {**triple, "signals": None, "target": None}),
        "loss": (
            pg.loss,
            {"estimator": o.estimator, "signals": o.laid_out}
            | {"log_prob": log_prob, "value": log_prob},
        ),
        "check": (pg.check, {**triple, "optimizer": "sgd"}),
        "compare": (
            pg.compare,
            {"spec": o.spec, "estimator": o.estimator, "batch": o.batch}
            | {"backends": ["numpy"], "seed": 0, "dtype": "float64", "parameters": None}
            | {"optimizer": "sgd", "compiled": False},
        ),
        "compare_policies": (
            pg.compare_policies,
            {"left": o.policy, "right": o.policy}
            | {"estimator": o.estimator, "batch": o.batch, "optimizer": "sgd"},
        ),
        "KL": (pg.KL, {"form": "k3", "coefficient": 0.1}),
        "derive": (pg.derive, {"estimator": o.estimator}),
        "Derivation": (pg.Derivation, {"estimator": o.estimator}),
        "register": (
            pg.register,
            {"target": metric, "name": "a_metric", "kind": "metrics", "summary": "One."},
        ),
        "signals": (
            signals_of_policy,
            {**triple, "totals": None, "target": None},
        ),
        "signals of episodes": (
            signals_of_episodes,
            {"estimator": o.estimator, "episodes": o.episodes, "totals": None}
            | {"log_prob": log_prob, "final_action_values": np.zeros((2, ACTIONS))},
        ),
    }


def signals_of_policy(policy, estimator, batch, **options):
    return pg.signals(policy, estimator, batch, **options)


def signals_of_episodes(estimator, episodes, **options):
    return pg.signals(estimator, episodes, **options)


def metric(*, weights):
    """Sum of weights."""
    return weights.sum()


def methods(o):
    """Return methods of the objects that users hold, each with valid arguments by name."""
    state = o.optimizer.state(o.policy)
    observations, mask = np.ones((2, 2)), np.ones((2, ACTIONS), bool)
    path = o.folder / "written.safetensors"
    o.batch.save(o.folder / "batch.safetensors")
    acting = {"observations": observations, "action_mask": mask}
    fitting = {"policy": o.policy, "gradient": o.gradient}
    return {
        "Policy.evaluate": (o.policy.evaluate, {"batch": o.batch, "names": ("log_prob",)}),
        "Policy.act": (o.policy.act, {**acting, "rng": o.rng}),
        "Policy.mode": (o.policy.mode, acting),
        "Policy.check": (o.policy.check, {"batch": o.batch}),
        "Policy.check_fits": (o.policy.check_fits, {"estimator": o.estimator}),
        "Policy.load": (o.policy.load, {"parameters": o.policy.parameters()}),
        "Policy.save": (o.policy.save, {"path": path}),
        "Policy.episode_scores": (
            o.policy.episode_scores,
            {"batch": o.batch, "step_weights": np.ones(STEPS)},
        ),
        "Policy.fisher_vector_product": (
            o.policy.fisher_vector_product,
            {"batch": o.batch, "vector": np.ones(o.policy.size)},
        ),
        "Gradient.plus": (o.gradient.plus, {"other": o.gradient}),
        "Gradient.scaled": (o.gradient.scaled, {"factor": 2.0}),
        "Gradient.clipped": (o.gradient.clipped, {"max_norm": 1.0}),
        "Optimizer": (pg.Optimizer, {"spec": o.optimizer.spec}),
        "Optimizer.step": (o.optimizer.step, fitting),
        "first Optimizer.step": (pg.optimizer("sgd", learning_rate=0.1).step, fitting),
        "Optimizer.state": (o.optimizer.state, {"policy": o.policy}),
        "Optimizer.load": (
            o.optimizer.load,
            {"policy": o.policy, "state": state, "steps_taken": 1},
        ),
        "Signals.steps": (o.signals.steps, {"index": [0]}),
        "Signals.part": (o.signals.part, {"index": [0]}),
        "Signals.episodes": (o.signals.episodes, {"batch": o.batch, "index": [0]}),
        "Signals.episode_part": (o.signals.episode_part, {"batch": o.batch, "index": [0]}),
        "laid-out signals.steps": (o.laid_out.steps, {"index": [0]}),
        "laid-out signals.part": (o.laid_out.part, {"index": [0]}),
        **of_episodes(pg.Batch, o.batch, path, o.rng),
        **of_episodes(pg.Episodes, o.episodes, path, o.rng),
    }


def of_episodes(cls, episodes, path, rng):
    """Return the methods of episodes or of a batch."""
    saved = path.with_name(f"{cls.__name__}.safetensors")
    episodes.save(saved)
    calls = {
        "steps": (episodes.steps, {"index": [0]}),
        "episodes": (episodes.episodes, {"index": [0]}),
        "minibatches": (lambda **given: [*episodes.minibatches(**given)], {"size": 2, "rng": rng}),
        "pad": (episodes.pad, {"num_steps": 8}),
        "concatenate": (cls.concatenate, {"batches": [episodes, episodes]}),
        "record": (
            episodes.record,
            {"values": np.zeros(STEPS), "final_values": np.zeros(EPISODES)},
        ),
        "with_extras": (episodes.with_extras, {"mine": np.zeros(STEPS)}),
        "save": (episodes.save, {"path": path}),
        "load": (cls.load, {"path": saved}),
    }
    return {f"{cls.__name__}.{name}": call for name, call in calls.items()}


def constructors(o):
    """Return the constructors of the namespace's classes and of everything registered."""
    calls = {
        "Batch": (pg.Batch, batch_arguments()),
        "Episodes": (pg.Episodes, episode_arguments()),
        "PolicySpec": (pg.PolicySpec, fields_of(o.spec)),
        "Totals": (pg.Totals, fields_of(pg.Totals(steps=1, episodes=1, groups=1))),
        "Claims": (pg.Claims, fields_of(o.estimator.claims)),
        "Extra": (pg.Extra, fields_of(pg.Extra("[B] float", "x", len))),
    }
    for cls, is_batch in ((pg.Batch, True), (pg.Episodes, False)):
        for name, arguments in CONSTRUCTORS.items():
            calls[f"{cls.__name__}.{name}"] = (getattr(cls, name), arguments(is_batch))
    for kind in ("networks", "heads", "estimators", "optimizers", "schedules"):
        for instance in instances(kind):
            calls.setdefault(type(instance).__name__, (type(instance), fields_of(instance)))
    return calls


def instances(kind):
    """Return an instance of every registered class of a kind, and of every part of an estimator."""
    if kind in ("heads", "estimators", "optimizers"):
        return [*variants(kind).values(), *PARTS]
    classes = [registry().load(kind, name) for name in registry().names(kind)]
    sizes = {"initial": 1.0, "final": 0.0, "steps": 10, "value": 1.0, "inputs": 2, "states": 2}
    sizes |= {"hidden": (3,), "image": (4, 3, 2)}
    return [
        cls(**{f.name: sizes[f.name] for f in dataclasses.fields(cls) if f.name in sizes})
        for cls in classes
    ]


PARTS = (
    *(pg.GAE(), pg.Clip(), pg.GroupRelative(), pg.Returns()),
    *(pg.ConstantDivisor(10), pg.GroupMean(), pg.StepSum(), pg.WeightedSteps()),
)


def fields_of(instance):
    """Return a dataclass's fields by name, as its constructor takes them."""
    fields = (field for field in dataclasses.fields(instance) if field.init)
    return {field.name: getattr(instance, field.name) for field in fields}


SURFACE = {
    "functions": functions,
    "methods": methods,
    "constructors": constructors,
}


def fault_of(error):
    """Return the reason for which an error is not one of ours; empty for one that is."""
    if isinstance(error, PgcoreError):
        text = str(error)
        if len(text) > 1000:
            return f"{len(text)} characters"
        return "" if ": expected " in text and ", got " in text else "no sentence"
    if not isinstance(error, TypeError | ValueError):
        return "another class"
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    is_ours = Path(code.co_filename).is_relative_to(OURS)
    raising = linecache.getline(code.co_filename, trace.tb_lineno).strip().startswith("raise ")
    return "" if is_ours and raising and "expected" in str(error) else "from inside"


# None selects every installed backend there, and each takes seconds to import.
VALID = ("compare", "backends", "None")


def faults(folder, part):
    """Return the number of calls, and a line for each that ends in an error that is not ours."""
    count, lines = 0, []
    for label, (_, arguments) in SURFACE[part](Objects(folder)).items():
        for argument in arguments:
            # A call that passes may have changed an object.
            objects = Objects(folder)
            call, valid = SURFACE[part](objects)[label]
            for kind, wrong in objects.wrong.items():
                if (label, argument, kind) == VALID:
                    continue
                count += 1
                try:
                    call(**{**valid, argument: wrong})
                except Exception as error:  # noqa: BLE001 - any error is what is looked for
                    if fault := fault_of(error):
                        lines.append(f"{label}({argument}={kind}): {fault}, {error!r:.90}")
    return count, lines


@pytest.mark.parametrize(("part", "least"), [("functions", 2000), ("methods", 1500)])
def test_a_wrong_object_in_any_argument_ends_in_a_sentence(
    tmp_path, monkeypatch, registrations, part, least
):
    monkeypatch.chdir(tmp_path)
    count, lines = faults(tmp_path, part)
    assert lines == []
    assert count >= least


# Options that NumPy warns about, such as a NaN that becomes an integer, are none of a constructor's.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_wrong_object_in_any_field_of_a_constructor_ends_in_a_sentence(tmp_path):
    count, lines = faults(tmp_path, "constructors")
    assert lines == []
    assert count >= 10_000


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (AttributeError("'int' object has no attribute 'spec'"), "another class"),
        (TypeError("'int' object is not iterable"), "from inside"),
        (PgcoreError("no"), "no sentence"),
        (PgcoreError(f"x: expected a, got {'b' * 2000}; c"), "2022 characters"),
        (PgcoreError("x: expected a, got b; c"), ""),
    ],
)
def test_an_error_that_is_not_ours_is_seen(error, fault):
    with pytest.raises(type(error)) as caught:
        raise error
    assert fault_of(caught.value) == fault
