"""TRL's GRPO with pgcore's loss: `PgcoreGRPOTrainer` in place of `GRPOTrainer`.

The trainer generates, scores and computes advantages as before; `_compute_loss` alone is replaced. It
takes the loss types of `REDUCTIONS`, `beta`, `epsilon`, `epsilon_high` and `delta` at the level of tokens.
"""

from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

import pgcore as pg

# How each loss type makes one number of the terms of tokens.
REDUCTIONS = {"grpo": "episode_step", "bnpo": "step", "dapo": "step", "dr_grpo": "constant"}


class PgcoreGRPOTrainer(GRPOTrainer):
    """A trainer whose loss is `pgcore.loss`, and its numbers the parent's."""

    def estimator(self) -> pg.Estimator:
        """Return the estimator of the trainer's settings.

        Raises:
            NotImplementedError: a setting has no part here.
        """
        off = (
            self.importance_sampling_level == "token",
            self.top_entropy_quantile == 1.0,
            self.off_policy_mask_threshold is None,
            not (self.use_vllm or self.aux_loss_enabled or self._entropy_bonus_enabled),
        )
        if self.loss_type not in REDUCTIONS or not all(off):
            raise NotImplementedError("PgcoreGRPOTrainer: expected GRPO's own loss on tokens")
        reduction: Any = REDUCTIONS[self.loss_type]
        if reduction == "constant":
            reduction = {"name": "constant", "divisor": self.max_completion_length}
        ratio = "differentiated" if self.args.use_bias_correction_kl else "none"
        penalty = {"name": "k3", "coefficient": self.beta, "ratio": ratio} if self.beta else None
        bounds = {"low": self.epsilon_low, "high": self.epsilon_high, "delta": self.args.delta}
        return pg.estimator(
            "policy_gradient",
            advantage="given",
            objective={"name": "clip", **bounds},
            penalty=penalty,
            critic=None,
            reduction=reduction,
        )

    def log_probs(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Return [E, T] log-probabilities of the answers' tokens."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        length = inputs["completion_ids"].shape[1]
        return self._get_per_token_logps_and_entropies(model, ids, attention, length)[0]

    def totals(self, mask: Tensor, inputs: dict[str, Any]) -> tuple[pg.Totals, float]:
        """Return the numbers that a micro-batch's reduction divides by, and a factor on its loss."""
        training, steps = self.model.training, mask.sum()
        factor = 1 / self.current_gradient_accumulation_steps if training else 1.0
        if self.loss_type == "dapo":
            # The tokens of a generation, which is a whole number of optimizer steps, of all processes.
            steps = inputs["num_items_in_batch"]
            factor *= self.args.steps_per_generation if training else 1
            factor *= self.accelerator.num_processes
        return pg.Totals(steps=max(int(steps), 1), episodes=len(mask)), factor

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Return the loss of a micro-batch."""
        log_probs, mask = self.log_probs(model, inputs), inputs["completion_mask"].bool()
        if "tool_mask" in inputs:
            mask = mask & inputs["tool_mask"].bool()
        # Answers without a token are no episodes; they count in the totals alone.
        rows = mask.any(1)
        if not rows.any():
            return 0.0 * log_probs.sum()
        totals, factor = self.totals(mask, inputs)
        old = inputs.get("old_per_token_logps")
        recorded = {"log_probs": log_probs.detach() if old is None else old}
        if self.beta:
            recorded["reference_log_probs"] = inputs["ref_per_token_logps"]
        advantages = inputs["advantages"]
        episodes = pg.Episodes.from_padded(
            mask=mask[rows],
            rewards=advantages[rows],  # not read: the advantages are given
            extras={"advantages": advantages[rows, None].expand_as(mask[rows])},
            **{name: value[rows] for name, value in recorded.items()},
        )
        estimator = self.estimator()
        signals = pg.signals(estimator, episodes, totals=totals)
        out = pg.loss(estimator, signals, log_prob=log_probs[rows])
        for name, figure in out.metrics.items():
            self._metrics["train" if self.model.training else "eval"][name].append(figure)
        return factor * out.loss
