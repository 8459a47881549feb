"""The table of presets: estimators named after their papers, each a row of parts.

A row's parts are registered names or tables of options, so that reading it imports none of them;
`pgcore_estimators.preset_classes` makes the classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["PRESETS", "Row"]


class Row(NamedTuple):
    """See `pgcore.parts.presets.Preset`, whose fields follow the class's name."""

    class_name: str
    name: str
    summary: str
    parts: dict[str, Any]
    options: dict[str, str]
    settings: dict[str, Any] = {}  # noqa: RUF012 - no row changes it
    sources: tuple[str, ...] = ()
    notes: str = ""


# Flat options that several rows have.
GROUP = {
    "ddof": "advantage.ddof",
    "eps": "advantage.eps",
    "scale": "advantage.scale",
    "lone": "advantage.lone",
    "group": "advantage.group",
    "count_masked": "advantage.count_masked",
}
BOUNDS = {"clip_low": "objective.low", "clip_high": "objective.high"}
PENALTY = {"kl_coefficient": "penalty.coefficient"}
OWN = {**PENALTY, "entropy_coefficient": "entropy_coefficient", "reduction": "reduction"}
COMMON = {**GROUP, **OWN}
# Those of score functions: no ratio, and no bounds of one.
SCORE = {"entropy_coefficient": "entropy_coefficient", "reduction": "reduction"}
CRITIC = {
    "gamma": "advantage.gamma",
    "value_coefficient": "value_coefficient",
    "entropy_coefficient": "entropy_coefficient",
    "normalise": "normalise",
    "reduction": "reduction",
}
RELATIVE = {**GROUP, "leave_one_out": "advantage.leave_one_out"}

DIVERGENCE = {
    "delta": "objective.delta",
    "symmetric": "objective.symmetric",
    "behaviour": "objective.behaviour",
}
NO_PENALTY = {"name": "k3", "coefficient": 0.0}

PRESETS = (
    Row(
        "DAPO",
        "dapo",
        "clipped ratios with a higher upper bound, standardised group rewards, token mean",
        {
            "advantage": "group_relative",
            "objective": {"name": "clip", "low": 0.2, "high": 0.28},
            "penalty": NO_PENALTY,
        },
        {**BOUNDS, "dual": "objective.dual", **COMMON},
        {"reduction": "step"},
        ("Yu et al. 2025, eq. 8, arXiv:2503.14476",),
    ),
    Row(
        "BNPO",
        "bnpo",
        "clipped ratios, standardised group rewards, token mean of the minibatch",
        {"advantage": "group_relative", "objective": "clip", "penalty": NO_PENALTY},
        {**BOUNDS, "delta": "objective.delta", **COMMON},
        {"reduction": "step"},
        ("Yu et al. 2025, eq. 8, arXiv:2503.14476 (token mean)", "TRL, loss_type 'bnpo'"),
    ),
    Row(
        "GMPO",
        "gmpo",
        "geometric mean of limited ratios, standardised group rewards",
        {
            "advantage": "group_relative",
            "objective": "gmpo",
            "level": "sequence",
            "penalty": NO_PENALTY,
        },
        {**BOUNDS, **COMMON},
        {"reduction": "episode_step"},
        ("Zhao et al. 2025, arXiv:2507.20673",),
    ),
    Row(
        "SAPO",
        "sapo",
        "soft gate of the ratios, standardised group rewards",
        {"advantage": "group_relative", "objective": "sapo", "penalty": NO_PENALTY},
        {
            "tau_positive": "objective.tau_positive",
            "tau_negative": "objective.tau_negative",
            **COMMON,
        },
        {"reduction": "episode_step"},
        ("Gao et al. 2025, arXiv:2511.20347",),
    ),
    Row(
        "GSPOToken",
        "gspo_token",
        "clipped ratios of whole sequences with gradients of single tokens",
        {
            "advantage": "group_relative",
            "objective": {"name": "clip", "low": 3e-4, "high": 4e-4},
            "level": "gspo_token",
            "penalty": NO_PENALTY,
        },
        {**BOUNDS, **COMMON},
        {"reduction": "episode_step"},
        ("Zheng et al. 2025, arXiv:2507.18071",),
    ),
    Row(
        "OPO",
        "opo",
        "group rewards less their mean weighted by lengths, token mean",
        {
            "advantage": {"name": "group_relative", "scale": "none", "mean": "steps"},
            "objective": "score",
            "penalty": NO_PENALTY,
        },
        {**RELATIVE, **OWN},
        {"reduction": "step"},
        ("Hao et al. 2025, arXiv:2505.23585",),
    ),
    Row(
        "LUSPO",
        "luspo",
        "clipped ratios of whole sequences, weighted by their lengths",
        {
            "advantage": "group_relative",
            "objective": {"name": "clip", "low": 3e-4, "high": 4e-4},
            "level": "sequence",
            "penalty": NO_PENALTY,
        },
        {**BOUNDS, **COMMON},
        {"reduction": "trajectory"},
        ("LUSPO 2026, arXiv:2602.05261",),
    ),
    # Other advantages.
    Row(
        "ReinforcePPBaseline",
        "reinforce_pp_baseline",
        "clipped ratios, returns less the group's mean reward, normalised over the batch",
        {
            "advantage": "group_returns",
            "objective": "clip",
            "penalty": {"name": "k1", "coefficient": 0.0, "place": "reward"},
        },
        {
            **BOUNDS,
            "gamma": "advantage.gamma",
            "lone": "advantage.lone",
            "group": "advantage.group",
            "count_masked": "advantage.count_masked",
            "ddof": "ddof",
            **PENALTY,
            **SCORE,
        },
        {"normalise": "batch", "reduction": "step"},
        ("Hu 2025, sec. 3, arXiv:2501.03262",),
        "`reinforce_pp` with baseline='group' is the same with one bound for both sides.",
    ),
    Row(
        "PassAtK",
        "pass_at_k",
        "clipped ratios, the best answer of a group alone",
        {"advantage": "best_alone", "objective": "clip", "penalty": NO_PENALTY},
        {**BOUNDS, **COMMON},
        {"reduction": "step"},
        ("Tang et al. 2025, arXiv:2503.19595",),
    ),
    Row(
        "GPG",
        "gpg",
        "group rewards less their mean, over the share of rewards that are not 0",
        {"advantage": "gpg", "objective": "score"},
        {"norm": "advantage.norm", **RELATIVE, **SCORE},
        {"reduction": "step"},
        ("Chu et al. 2025, arXiv:2504.02546",),
    ),
    Row(
        "MaxRL",
        "maxrl",
        "group rewards less their mean, over that mean",
        {"advantage": "success_normalised", "objective": "score"},
        {
            "eps": "advantage.eps",
            "leave_one_out": "advantage.leave_one_out",
            "lone": "advantage.lone",
            "group": "advantage.group",
            "count_masked": "advantage.count_masked",
            **SCORE,
        },
        {"reduction": "trajectory"},
        ("Tajwar et al. 2026, arXiv:2602.02710",),
    ),
    Row(
        "ReMax",
        "remax",
        "returns less the reward of the greedy answer",
        {"advantage": "greedy_baseline", "objective": "score"},
        {"gamma": "advantage.gamma", **SCORE},
        {"reduction": "step"},
        ("Li et al. 2024, arXiv:2310.10505",),
    ),
    Row(
        "OTB",
        "optimal_token_baseline",
        "returns less the group's weighted mean at each position",
        {"advantage": "optimal_token_baseline", "objective": "score"},
        {
            "gamma": "advantage.gamma",
            "corrected": "advantage.corrected",
            "lone": "advantage.lone",
            "group": "advantage.group",
            "count_masked": "advantage.count_masked",
            **SCORE,
        },
        {"reduction": "step"},
        ("verl, docs/algo/otb.md; arXiv:2602.07078 (2026)",),
    ),
    Row(
        "APPO",
        "appo",
        "clipped ratios to the behaviour policy, V-trace targets",
        {
            "advantage": {"name": "vtrace", "weighted": False},
            "objective": "clip",
            "critic": "squared",
        },
        {
            **BOUNDS,
            "rho_bar": "advantage.rho_bar",
            "c_bar": "advantage.c_bar",
            "trace_lambda": "advantage.trace_lambda",
            "bootstrap": "advantage.bootstrap",
            **CRITIC,
        },
        {"reduction": "step"},
        ("Luo et al. 2020, arXiv:1912.00167 (IMPACT)", "Espeholt et al. 2018, arXiv:1802.01561"),
        "The ratio to the behaviour policy is the objective's alone. RLlib weighs the advantage by "
        "it too, as weighted=True does in `policy_gradient`.",
    ),
    # Corrections for a rollout policy, and objectives that lean on it.
    Row(
        "TIS",
        "tis",
        "GRPO with truncated importance weights for the rollout policy",
        {
            "advantage": "group_relative",
            "objective": "clip",
            "correction": "truncated",
            "penalty": NO_PENALTY,
        },
        {
            **BOUNDS,
            "cap": "correction.cap",
            "correction_of": "correction.of",
            "normalise_correction": "correction.normalise",
            **COMMON,
        },
        {"reduction": "episode_step"},
        (
            "Yao et al. 2025, 'Your efficient RL framework secretly brings you off-policy RL training'",
        ),
        "The batch's log_probs are the old policy's, its extra rollout_log_probs those of the sampler.",
    ),
    Row(
        "Bypass",
        "bypass",
        "GRPO of two policies: ratios to the rollout policy, without a correction",
        {
            "advantage": "group_relative",
            "objective": "clip",
            "correction": "bypass",
            "penalty": NO_PENALTY,
        },
        {**BOUNDS, **COMMON},
        {"reduction": "episode_step"},
        ("verl 2025, documentation of rollout correction",),
    ),
    Row(
        "DPPOTotalVariation",
        "dppo_tv",
        "ratios to the rollout policy within a total variation, standardised group rewards",
        {"advantage": "group_relative", "objective": "dppo_tv", "penalty": NO_PENALTY},
        {**DIVERGENCE, **COMMON},
        {"reduction": "step"},
        ("DPPO 2026, eqs. 11 to 13, arXiv:2602.04879",),
    ),
    Row(
        "VESPO",
        "vespo",
        "scores weighed by a gamma density of whole sequences' ratios",
        {
            "advantage": "group_relative",
            "objective": "vespo",
            "level": "sequence_product",
            "penalty": NO_PENALTY,
        },
        {
            "k_positive": "objective.k_positive",
            "lambda_positive": "objective.lambda_positive",
            "k_negative": "objective.k_negative",
            "lambda_negative": "objective.lambda_negative",
            **COMMON,
        },
        {"reduction": "step"},
        ("VESPO 2026, arXiv:2602.10693",),
    ),
    # Steps where advantage and log-probability move together.
    Row(
        "ClipCov",
        "clip_cov",
        "clipped ratios without the gradient of a few steps of high covariance",
        {
            "advantage": "group_relative",
            "objective": "clip",
            "mask": "clip_cov",
            "penalty": NO_PENALTY,
        },
        {
            **BOUNDS,
            "cov_low": "mask.low",
            "cov_high": "mask.high",
            "cov_fraction": "mask.fraction",
            "seed": "mask.seed",
            **COMMON,
        },
        {"reduction": "step"},
        ("Cui et al. 2025, arXiv:2505.22617",),
        "The covariances are of the signals' policy; public code recomputes them in each minibatch.",
    ),
    Row(
        "KLCov",
        "kl_cov",
        "ratios, with a distance to the old policy at steps of high covariance",
        {"advantage": "group_relative", "objective": "ratio", "penalty": "kl_cov"},
        {"cov_fraction": "penalty.fraction", **COMMON},
        {"reduction": "step"},
        ("Cui et al. 2025, arXiv:2505.22617",),
        "The covariances are of the signals' policy; public code recomputes them in each minibatch.",
    ),
)
