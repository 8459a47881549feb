"""TRL's GRPO and its subclass with pgcore's loss, on a tiny model with random weights."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")

WORDS, LENGTH = 12, 6
# Of one rounding in float32, in which the trainer computes log-probabilities.
UNIT = 2.0**-24


def model_of(seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=WORDS, pad_token_id=0, bos_token_id=1, eos_token_id=1, **sizes, **heads
    )
    return transformers.LlamaForCausalLM(config)


def reward(completion_ids, **_):
    """Pay for small words, and for different answers differently."""
    return [float(np.mean(np.array(answer) < 5)) for answer in completion_ids]


def trainer_of(kind, folder, model=None, **options):
    words = {str(word): word for word in range(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    settings = {
        "learning_rate": 0.3,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "num_iterations": 2,
        "max_completion_length": LENGTH,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    return kind(
        model or model_of(),
        reward,
        args=trl.GRPOConfig(str(folder), **settings | options),
        train_dataset=datasets.Dataset.from_list([{"prompt": "2 3"}, {"prompt": "4 5 6"}] * 4),
        processing_class=transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token="1", pad_token="0"
        ),
    )


@pytest.fixture
def ours(loop):
    return loop("trl_grpo").PgcoreGRPOTrainer


def keeping(kind, calls):
    """Return a trainer class that keeps of each call the loss, its derivatives in the log-probabilities,
    and the number of tokens times the largest advantage."""

    class Keeping(kind):
        def _get_per_token_logps_and_entropies(self, *arguments, **keywords):
            result = super()._get_per_token_logps_and_entropies(*arguments, **keywords)
            self.computed = result[0]
            return result

        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            (slopes,) = torch.autograd.grad(loss, self.computed, retain_graph=True)
            terms = inputs["completion_mask"].sum() * inputs["advantages"].abs().max()
            calls.append((loss.item(), slopes.numpy(), terms.item()))
            return loss

    return Keeping


CASES = {
    "dapo": {},
    "grpo": {"loss_type": "grpo", "epsilon": 0.05},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "truncated": {"mask_truncated_completions": True},
    "truncated-grpo": {"loss_type": "grpo", "mask_truncated_completions": True},
    "penalty": {"loss_type": "bnpo", "delta": 1.1},
}


@pytest.mark.parametrize("case", CASES)
def test_training_has_the_same_losses_and_gradients(ours, tmp_path, case):
    calls, parameters = {}, {}
    for kind in (trl.GRPOTrainer, ours):
        torch.manual_seed(0)
        calls[kind] = []
        trainer = trainer_of(keeping(kind, calls[kind]), tmp_path, **CASES[case])
        if case == "penalty":
            # A configuration with a penalty asks for a reference by its name on a hub.
            reference = trainer_of(trl.GRPOTrainer, tmp_path, model=model_of(1)).model
            trainer.beta, trainer.ref_model = 0.5, reference
        trainer.train()
        vector = torch.nn.utils.parameters_to_vector(trainer.model.parameters())
        parameters[kind] = vector.detach().numpy()
    pairs = list(zip(calls[trl.GRPOTrainer], calls[ours], strict=True))
    assert len(pairs) == 8
    for (their_loss, theirs, terms), (our_loss, slopes, _) in pairs:
        # A token's derivative is a product of ratio, advantage, weight and factor, and of a penalty's.
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(slopes, theirs, rtol=0, atol=16 * UNIT * scale)
        # Weights sum to 1 at most and ratios that count are below 2: a sum of so many such terms.
        assert our_loss == pytest.approx(their_loss, rel=0, abs=2 * UNIT * terms)
    assert any(np.abs(theirs).max() > 1e-3 for (_, theirs, _), _ in pairs)
    start = torch.nn.utils.parameters_to_vector(model_of().parameters()).detach().numpy()
    assert np.abs(parameters[ours] - start).max() > 1e-3
    # Four steps, each with a sum of two products rounded in float32.
    scale = np.abs(parameters[ours]).max()
    np.testing.assert_allclose(
        parameters[ours], parameters[trl.GRPOTrainer], rtol=0, atol=8 * UNIT * scale
    )
