"""TRL's GRPO: a real trainer's advantages, corrections and loss, on a model that is a table of logits."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import pgcore as pg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    gmpo = pytest.importorskip("trl.experimental.gmpo")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning"),
]

WORDS = 6
PAD, END = 0, 1
PROMPT = [2, 3]
# Two prompts with four answers each; the second and the sixth lack the end's token.
LENGTHS = (3, 5, 1, 4, 2, 5, 3, 4)
TRUNCATED = (1, 5)
# Numbers that the trainer's float32 holds.
REWARDS = (1.0, 0.25, -0.5, 2.0, 0.125, 1.5, -1.0, 0.375)
OTHERS = (-3.0, 4.0, 0.5, 1.0, 2.5, -2.0, 8.0, 1.25)
EPISODE = np.repeat(np.arange(8), LENGTHS)
INSIDE = np.concatenate([np.arange(length) for length in LENGTHS])


class Tabular(transformers.PreTrainedModel):
    """A causal model whose logits are its parameters: one row for each answer and position."""

    config_class = transformers.LlamaConfig

    def __init__(self, seed):
        sizes = {"hidden_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1}
        super().__init__(transformers.LlamaConfig(vocab_size=WORDS, **sizes))
        self.generation_config = transformers.GenerationConfig()
        generator = torch.Generator().manual_seed(seed)
        shape = (len(LENGTHS), len(PROMPT) + max(LENGTHS), WORDS)
        logits = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.logits = torch.nn.Parameter(logits)
        self.head = torch.nn.Linear(1, 1)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask, labels, *, fused_lm_head):
        """Return log-probabilities and entropies as the trainer's fused head does, in float64."""
        log_pi = torch.log_softmax(self.logits[:, :-1], -1)
        following = labels[:, 1:]
        taken = log_pi.gather(-1, following.clamp(min=0)[..., None])[..., 0]
        entropy = -(log_pi.exp() * log_pi).sum(-1)
        ignored = following == -100
        return SimpleNamespace(
            log_probs=taken.masked_fill(ignored, 0.0), entropy=entropy.masked_fill(ignored, 0.0)
        )

    @staticmethod
    def of_tokens(logits):
        """Return [B, A] rows of the answers' tokens: a position's logits are the next token's."""
        return logits[EPISODE, len(PROMPT) - 1 + INSIDE]

    def log_probs(self, actions):
        """Return [B] log-probabilities of the answers' tokens."""
        with torch.no_grad():
            log_pi = torch.log_softmax(self.of_tokens(self.logits), -1).numpy()
        return log_pi[np.arange(len(actions)), actions]


@pytest.fixture
def train(torch_float64, tmp_path):
    """Return a function that runs a real trainer's advantages and loss once, up to `backward`."""
    return lambda kind="GRPO", **options: run(str(tmp_path), kind, **options)


def run(
    folder, kind, *, rewards=(REWARDS,), beta=0.0, vllm=False, moved=0.4, tools=None, **options
):
    """Return a trainer's loss and its gradient in the logits of the answers' tokens, and pgcore's batch.

    Args:
        folder: The trainer's.
        kind: The trainer's algorithm.
        rewards: A number for each answer, from each reward function.
        beta: Coefficient of the penalty.
        vllm: Whether the answers count as an inference engine's.
        moved: Distance of the current policy from the old one.
        tools: A mask for each answer, 0 for tokens that are not the policy's.
        options: Of the trainer's configuration.
    """
    tokens, model = answers(), Tabular(0)
    sampled = sampler_of(model).log_probs(np.concatenate(tokens))
    trainer = trainer_of(folder, kind, model, rewards, rolled(tokens, sampled, tools), options)
    # The trainer's own head computes in float32, whatever the model does.
    del model.forward
    trainer.current_gradient_accumulation_steps = 1
    # A configuration with these asks for a reference by its name on a hub, and for an engine.
    trainer.beta, trainer.ref_model = beta, Tabular(2)
    trainer.use_vllm, trainer._last_loaded_step = vllm, trainer.state.global_step

    inputs = trainer._generate_and_score_completions([{"prompt": "2 3"}] * len(LENGTHS))
    actions = inputs["completion_ids"][EPISODE, INSIDE].numpy()
    fields = {
        "actions": actions,
        "rewards": at_the_end(rewards[0]),
        "episode_lengths": LENGTHS,
        "terminated": [answer not in TRUNCATED for answer in range(len(LENGTHS))],
        "log_probs": model.log_probs(actions),
        "extras": {
            "group": EPISODE // 4,
            "rollout_log_probs": sampled,
            "reference_log_probs": trainer.ref_model.log_probs(actions),
            "rewards": np.stack([np.array(column)[EPISODE] for column in rewards], axis=1),
        },
    }
    with torch.no_grad():
        model.logits.add_(moved * Tabular(3).logits)
    loss = trainer.compute_loss(model, inputs)
    loss.backward()
    assert model.logits.grad is not None
    gradient = model.of_tokens(model.logits.grad).numpy()
    # Nothing but the answers' tokens has a gradient.
    assert np.abs(gradient).sum() == pytest.approx(model.logits.grad.abs().sum().item())
    logits = model.of_tokens(model.logits).detach().numpy()
    return SimpleNamespace(
        loss=loss.item(), gradient=gradient, logits=logits, inputs=inputs, fields=fields
    )


def trainer_of(folder, kind, model, rewards, rollout, options):
    """Return a trainer of one step over all answers."""
    config, trainer_class = {
        "GRPO": (trl.GRPOConfig, trl.GRPOTrainer),
        "RLOO": (trl.RLOOConfig, trl.RLOOTrainer),
        "GMPO": (gmpo.GMPOConfig, gmpo.GMPOTrainer),
    }[kind]
    # With two passes over a batch the trainer evaluates the old policy before the first.
    settings = {"num_iterations": 2, "max_completion_length": 7, "beta": 0.0} | options
    words = {str(word): word for word in range(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    rollouts = {} if kind == "RLOO" else {"rollout_func": lambda *_: dict(rollout)}
    trainer = trainer_class(
        model,
        [lambda column=column, **_: list(column) for column in rewards],
        args=config(
            folder,
            per_device_train_batch_size=len(LENGTHS),
            num_generations=4,
            report_to="none",
            use_cpu=True,
            bf16=False,
            **settings,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": "2 3"}] * 2),
        processing_class=transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=str(END), pad_token=str(PAD)
        ),
        **rollouts,
    )
    if kind == "RLOO":
        # It takes no rollouts, so that they stand in for its generation.
        texts = [""] * len(LENGTHS)
        trainer._generate = lambda _: (rollout["prompt_ids"], rollout["completion_ids"], texts)
    return trainer


def answers():
    """Return the tokens of each answer."""
    rng = np.random.default_rng(5)
    tokens = [rng.integers(2, WORDS, length).tolist() for length in LENGTHS]
    for answer in set(range(len(LENGTHS))) - set(TRUNCATED):
        tokens[answer][-1] = END
    return tokens


def sampler_of(model):
    """Return a model that differs from another as an inference engine's copy does, but by more."""
    sampler = Tabular(1)
    with torch.no_grad():
        sampler.logits.copy_(model.logits + 0.3 * sampler.logits)
    return sampler


def rolled(tokens, log_probs, tools):
    """Return what a rollout function returns."""
    pieces = np.split(log_probs, np.cumsum(LENGTHS)[:-1])
    rollout = {
        "prompt_ids": [PROMPT] * len(LENGTHS),
        "completion_ids": tokens,
        "logprobs": [piece.tolist() for piece in pieces],
    }
    return rollout if tools is None else rollout | {"env_mask": tools}


def at_the_end(rewards):
    """Return [B] rewards, one at each answer's last token."""
    steps = np.zeros(len(EPISODE))
    steps[np.cumsum(LENGTHS) - 1] = rewards
    return steps


def composed(reduction, **parts):
    """Return pgcore's estimator of parts, with the trainer's advantages by default."""
    parts = {"advantage": GROUP, "critic": None} | parts
    return pg.estimator("policy_gradient", reduction=reduction, **parts)


def clip(**options):
    return {"name": "clip", **options}


# The trainer adds 1e-4 to the deviation of rewards.
GROUP = {"name": "group_relative", "eps": 1e-4}
# The penalty alone, without the ratio that it has by default.
UNWEIGHED = {"use_bias_correction_kl": False}
CONSTANT = {"name": "constant", "divisor": 7}
# Loss types that reduce alike and take the same options.
CLIPPED = {
    "grpo": "episode_step",
    "bnpo": "step",
    "dapo": "step",
    "dr_grpo": CONSTANT,
    "luspo": "trajectory",
}


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", CLIPPED)
@pytest.mark.parametrize(
    ("options", "bounds"),
    [
        ({}, {}),
        ({"epsilon": 0.1, "epsilon_high": 0.28}, {"low": 0.1, "high": 0.28}),
        ({"delta": 1.5}, {"delta": 1.5}),
        ({"delta": 1.1}, {"delta": 1.1}),
    ],
    ids=["clip", "higher", "delta", "low-delta"],
)
def test_clipped_losses(train, rows, agree, loss_type, level, options, bounds):
    theirs = train(loss_type=loss_type, importance_sampling_level=level, **options)
    estimator = composed(CLIPPED[loss_type], objective=clip(**bounds), level=level)
    ours = rows(estimator, theirs.logits, theirs.fields)
    agree(ours.logits, theirs.gradient)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)


def test_a_wrong_bound_is_seen(train, rows):
    theirs = train(loss_type="dapo", epsilon=0.1, epsilon_high=0.28)
    for bounds in ({"low": 0.28, "high": 0.28}, {"low": 0.1, "high": 0.1}):
        ours = rows(composed("step", objective=clip(**bounds)), theirs.logits, theirs.fields)
        assert np.abs(ours.logits - theirs.gradient).max() > 1e-3


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("cap", [1.1, 5.0])
def test_cispo(train, rows, agree, level, cap):
    """`epsilon_high` is the largest ratio, where it is the ratio less 1 for the clipped losses."""
    theirs = train(loss_type="cispo", importance_sampling_level=level, epsilon_high=cap)
    estimator = composed("step", objective={"name": "cispo", "high": cap - 1}, level=level)
    agree(rows(estimator, theirs.logits, theirs.fields).logits, theirs.gradient)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_sapo(train, rows, agree, level):
    taus = {"sapo_temperature_pos": 1.2, "sapo_temperature_neg": 2.0}
    theirs = train(loss_type="sapo", importance_sampling_level=level, **taus)
    objective = {"name": "sapo", "tau_positive": 1.2, "tau_negative": 2.0}
    estimator = composed("episode_step", objective=objective, level=level)
    ours = rows(estimator, theirs.logits, theirs.fields)
    agree(ours.logits, theirs.gradient)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)


@pytest.mark.parametrize("moved", [0.1, 0.4])
def test_vespo(train, rows, agree, moved):
    options = {"k_pos": 2.5, "lambda_pos": 2.8, "k_neg": 3.5, "lambda_neg": 1.5}
    theirs = train(
        loss_type="vespo", moved=moved, **{f"vespo_{name}": x for name, x in options.items()}
    )
    names = ("k_positive", "lambda_positive", "k_negative", "lambda_negative")
    objective = {"name": "vespo", **dict(zip(names, options.values(), strict=True))}
    estimator = composed("step", objective=objective, level="sequence_product")
    agree(rows(estimator, theirs.logits, theirs.fields).logits, theirs.gradient)


PRESETS = {
    "bnpo": ("bnpo", {}, {}),
    "dapo": ("dapo", {"epsilon_high": 0.28}, {}),
    "sapo": ("sapo", {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}, {}),
    "vespo": ("vespo", {}, {}),
    "luspo": (
        "luspo",
        {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        {},
    ),
    "kl": ("bnpo", {"beta": 0.3, "use_bias_correction_kl": False}, {"kl_coefficient": 0.3}),
}


@pytest.mark.parametrize("case", PRESETS)
def test_presets_with_the_trainers_eps(train, rows, agree, case):
    name, options, fields = PRESETS[case]
    theirs = train(loss_type=name, **options)
    ours = rows(pg.estimator(name, eps=1e-4, **fields), theirs.logits, theirs.fields)
    agree(ours.logits, theirs.gradient)


def test_grpo_differs_by_eps_alone(train, rows, agree):
    """The trainer adds 1e-4 to a group's deviation, and the preset 1e-8."""
    theirs = train(loss_type="grpo")
    ours = rows(pg.estimator("grpo"), theirs.logits, theirs.fields)
    deviation = np.std(np.reshape(REWARDS, (2, 4)), axis=1, ddof=1).repeat(4)[EPISODE]
    shrunk = ours.logits * ((deviation + 1e-8) / (deviation + 1e-4))[:, None]
    agree(shrunk, theirs.gradient)
    assert np.abs(ours.logits - theirs.gradient).max() > 1e-6


# Advantages


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_scales_of_rewards(train, rows, agree, scale):
    theirs = train(loss_type="dr_grpo", scale_rewards=scale)
    estimator = composed(CONSTANT, advantage=GROUP | {"scale": scale})
    agree(rows(estimator, theirs.logits, theirs.fields).logits, theirs.gradient)


def test_a_group_of_equal_rewards(train, rows, agree):
    rewards = (0.5, 0.5, 0.5, 0.5, *REWARDS[4:])
    theirs = train(loss_type="bnpo", rewards=(rewards,))
    ours = rows(composed("step"), theirs.logits, theirs.fields)
    agree(ours.logits, theirs.gradient)
    assert not ours.logits[EPISODE < 4].any()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_several_rewards_are_summed_first(train, rows, agree, scale):
    theirs = train(
        loss_type="bnpo",
        rewards=(REWARDS, OTHERS),
        reward_weights=[1.0, 0.25],
        scale_rewards=scale,
    )
    advantage = {"name": "several_rewards", "weights": [1.0, 0.25], "rows": "episode"}
    estimator = composed("step", advantage={**advantage, "eps": 1e-4, "scale": scale})
    agree(rows(estimator, theirs.logits, theirs.fields).logits, theirs.gradient)


def test_several_rewards_are_normalised_first_and_then_again_by_trl(train, rows, agree):
    """The trainer centres and scales the weighted sum once more, over the batch's answers.

    That is Liu et al. 2026, arXiv:2601.05242; `several_rewards` ends with the sum, and an
    estimator's `normalise` is over steps. Given the trainer's advantages the gradients are equal.
    """
    theirs = train(
        loss_type="bnpo",
        rewards=(REWARDS, OTHERS),
        reward_weights=[1.0, 0.25],
        multi_objective_aggregation="normalize_then_sum",
    )
    advantage = {"name": "several_rewards", "weights": [1.0, 0.25], "rows": "episode"}
    advantage |= {"first": "normalise", "eps": 1e-4}
    policy = pg.policy(
        pg.PolicySpec(pg.Table(len(EPISODE)), pg.Categorical(WORDS)), dtype="float64"
    )
    batch = pg.Batch(observations=np.arange(len(EPISODE)), **theirs.fields)
    estimator = composed("step", advantage=advantage)
    sums = pg.signals(policy, estimator, batch)["advantage"][batch.episode_starts]
    again = (sums - sums.mean()) / (sums.std(ddof=1) + 1e-4)
    agree(again, theirs.inputs["advantages"].numpy())
    assert np.abs(again - sums).max() > 0.05
    fields = theirs.fields | {"extras": {"advantages": again[EPISODE]}}
    agree(rows(composed("step", advantage="given"), theirs.logits, fields).logits, theirs.gradient)


# Penalties and masks


@pytest.mark.parametrize("loss_type", CLIPPED)
@pytest.mark.parametrize("ratio", ["none", "differentiated"])
def test_penalties(train, rows, agree, loss_type, ratio):
    weighed = ratio == "differentiated"
    theirs = train(loss_type=loss_type, beta=0.3, use_bias_correction_kl=weighed)
    penalty = {"name": "k3", "coefficient": 0.3, "ratio": ratio}
    estimator = composed(CLIPPED[loss_type], penalty=penalty)
    ours = rows(estimator, theirs.logits, theirs.fields)
    agree(ours.logits, theirs.gradient)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)


@pytest.mark.parametrize("loss_type", [*CLIPPED, "cispo", "sapo"])
def test_the_gain_at_high_entropies(train, rows, agree, loss_type):
    """The trainer's quantile is in float32; here it falls between two entropies."""
    options = {"epsilon_high": 1.2} if loss_type == "cispo" else {}
    theirs = train(loss_type=loss_type, top_entropy_quantile=0.4, beta=0.3, **UNWEIGHED, **options)
    objectives = {"cispo": {"name": "cispo", "high": 0.2}}
    objectives["sapo"] = {"name": "sapo", "tau_positive": 1.0, "tau_negative": 1.05}
    estimator = composed(
        {"cispo": "step", "sapo": "episode_step"}.get(loss_type, CLIPPED.get(loss_type)),
        objective=objectives.get(loss_type, "clip"),
        mask={"name": "entropy_quantile", "fraction": 0.4, "denominator": "loss"},
        penalty={"name": "k3", "coefficient": 0.3},
    )
    agree(rows(estimator, theirs.logits, theirs.fields).logits, theirs.gradient)


@pytest.mark.parametrize("loss_type", [*CLIPPED, "vespo"])
def test_truncated_answers_are_masked(train, rows, agree, loss_type):
    """An answer that is masked counts in the trainer's number of answers; `Totals` says so."""
    theirs = train(loss_type=loss_type, mask_truncated_completions=True, beta=0.3, **UNWEIGHED)
    vespo = {"objective": "vespo", "level": "sequence_product"} if loss_type == "vespo" else {}
    penalty = {"name": "k3", "coefficient": 0.3}
    reduction = CLIPPED.get(loss_type, "step")
    estimator = composed(reduction, mask="truncated", penalty=penalty, **vespo)
    totals = None if reduction == "step" else pg.Totals(episodes=len(LENGTHS))
    ours = rows(estimator, theirs.logits, theirs.fields, totals=totals)
    agree(ours.logits, theirs.gradient)
    assert not ours.logits[np.isin(EPISODE, TRUNCATED)].any()


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", [*CLIPPED, "vespo"])
def test_tokens_of_tools(train, rows, agree, loss_type, level):
    mask = [[1] * length for length in LENGTHS]
    mask[1][1:3], mask[3][0], mask[7][2] = [0, 0], 0, 0
    theirs = train(loss_type=loss_type, importance_sampling_level=level, tools=mask)
    vespo = {"objective": "vespo", "level": "sequence_product"} if loss_type == "vespo" else {}
    parts = {"level": level} | vespo
    estimator = composed(CLIPPED.get(loss_type, "step"), mask="loss", **parts)
    counted = np.concatenate(mask).astype(bool)
    fields = theirs.fields | {"extras": theirs.fields["extras"] | {"loss_mask": counted}}
    ours = rows(estimator, theirs.logits, fields)
    agree(ours.logits, theirs.gradient)
    assert not ours.logits[~counted].any()


@pytest.mark.parametrize("loss_type", ["bnpo", "dapo"])
def test_entropy_bonus(train, rows, agree, loss_type):
    theirs = train(loss_type=loss_type, entropy_coef=0.2)
    estimator = composed("step", entropy_coefficient=0.2)
    agree(rows(estimator, theirs.logits, theirs.fields).logits, theirs.gradient)


def test_entropy_bonus_is_a_token_mean_beside_a_mean_of_answers(train, rows, agree):
    """The trainer reduces the entropy over tokens whatever the loss type; pgcore reduces all terms alike."""
    theirs = train(loss_type="grpo", entropy_coef=0.2)
    plain = rows(composed("episode_step"), theirs.logits, theirs.fields).logits
    both = rows(composed("step", entropy_coefficient=0.2), theirs.logits, theirs.fields).logits
    bonus = both - rows(composed("step"), theirs.logits, theirs.fields).logits
    agree(plain + bonus, theirs.gradient)
    alike = composed("episode_step", entropy_coefficient=0.2)
    assert np.abs(rows(alike, theirs.logits, theirs.fields).logits - theirs.gradient).max() > 1e-3


# Corrections for the policy that sampled


CORRECTIONS = {
    "token_truncate": {"name": "truncated", "cap": 1.2},
    "token_mask": {"name": "masked", "low": 0.0, "high": 1.2},
    "sequence_truncate": {"name": "truncated", "cap": 1.2, "of": "sequence"},
    "sequence_mask": {"name": "masked", "low": 0.0, "high": 1.2, "of": "sequence"},
}


@pytest.mark.parametrize("loss_type", [*CLIPPED, "sapo"])
@pytest.mark.parametrize("mode", CORRECTIONS)
def test_corrections(train, rows, agree, loss_type, mode):
    theirs = train(
        loss_type=loss_type,
        vllm=True,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=1.2,
    )
    weights = theirs.inputs["importance_sampling_ratio"]
    assert 0 < (weights == (0.0 if "mask" in mode else 1.2)).double().mean() < 1
    objective = {"name": "sapo", "tau_positive": 1.0, "tau_negative": 1.05}
    estimator = composed(
        CLIPPED.get(loss_type, "episode_step"),
        objective=objective if loss_type == "sapo" else "clip",
        correction=CORRECTIONS[mode],
    )
    ours = rows(estimator, theirs.logits, theirs.fields)
    agree(ours.logits, theirs.gradient)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)


@pytest.mark.parametrize("mode", ["token_mask", "sequence_mask"])
def test_corrections_with_a_lower_bound(train, rows, agree, mode):
    bounds = {"vllm_importance_sampling_clip_min": 0.8, "vllm_importance_sampling_clip_max": 1.2}
    theirs = train(loss_type="bnpo", vllm=True, vllm_importance_sampling_mode=mode, **bounds)
    estimator = composed("step", correction=CORRECTIONS[mode] | {"low": 0.8})
    agree(rows(estimator, theirs.logits, theirs.fields).logits, theirs.gradient)


def test_vespo_of_the_policy_that_sampled(train, rows, agree):
    """The trainer multiplies the token weights into the sequence's ratio, and not into the gain.

    Without a bound on them the product is the ratio to the rollout policy, the correction `bypass`.
    """
    cap = {"vllm_importance_sampling_clip_max": 1e6}
    theirs = train(
        loss_type="vespo", vllm=True, vllm_importance_sampling_mode="token_truncate", **cap
    )
    parts = {"objective": "vespo", "level": "sequence_product", "correction": "bypass"}
    agree(rows(composed("step", **parts), theirs.logits, theirs.fields).logits, theirs.gradient)


def test_off_policy_sequences_of_a_first_pass(train, rows, agree):
    theirs = train(loss_type="bnpo", num_iterations=1, moved=0.0, off_policy_mask_threshold=0.02)
    estimator = composed("step", mask={"name": "off_policy_sequence", "delta": 0.02})
    ours = rows(estimator, theirs.logits, theirs.fields)
    agree(ours.logits, theirs.gradient)
    dropped = ~ours.logits.any(axis=1)
    assert 0 < dropped.sum() < len(dropped)


def test_off_policy_sequences_of_a_second_pass(train, rows, agree):
    """The drift is to the current policy, and not to the old one of the ratios."""
    theirs = train(loss_type="bnpo", off_policy_mask_threshold=0.02)
    estimator = composed("step", mask={"name": "off_policy_sequence", "delta": 0.02})
    ours = rows(estimator, theirs.logits, theirs.fields)
    agree(ours.logits, theirs.gradient)


# Other trainers


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_rloo(train, rows, agree, beta):
    """One ratio for an answer, the product over its tokens; the penalty is in the reward."""
    theirs = train("RLOO", beta=beta, epsilon=0.3)
    advantage = {"name": "group_relative", "scale": "none", "leave_one_out": True}
    parts = {
        "advantage": advantage,
        "level": "sequence_product",
        "objective": clip(low=0.3, high=0.3),
    }
    penalty = {"name": "k1", "coefficient": beta, "place": "reward"}
    estimator = composed("episode_step", penalty=penalty, **parts)
    ours = rows(estimator, theirs.logits, theirs.fields)
    agree(ours.logits, theirs.gradient)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_gmpo(train, rows, agree, beta):
    theirs = train("GMPO", beta=beta, epsilon=0.2, epsilon_high=0.3)
    fields = {"clip_low": 0.2, "clip_high": 0.3, "eps": 1e-4, "kl_coefficient": beta}
    ours = rows(pg.estimator("gmpo", **fields), theirs.logits, theirs.fields)
    agree(ours.logits, theirs.gradient)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
