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
    options: dict[str, Any]
    settings: dict[str, Any] = {}  # noqa: RUF012 - no row changes it
    sources: tuple[str, ...] = ()
    notes: str = ""
    claims: dict[str, Any] = {}  # noqa: RUF012
    usual_optimizer: str = "adam"


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
RELATIVE = {**GROUP, "leave_one_out": "advantage.leave_one_out"}
GAE = {"gamma": "advantage.gamma", "gae_lambda": "advantage.gae_lambda"}
VALUE = {
    "value_coefficient": "value_coefficient",
    "entropy_coefficient": "entropy_coefficient",
    "normalise": "normalise",
    "ddof": "ddof",
    "reduction": "reduction",
}
TRACE = {
    "rho_bar": "advantage.rho_bar",
    "c_bar": "advantage.c_bar",
    "trace_lambda": "advantage.trace_lambda",
    "gamma": "advantage.gamma",
}
# One bound for both sides, and bounds that differ.
CLIP = {
    "clip": ("objective.low", "objective.high"),
    **BOUNDS,
    "dual": "objective.dual",
    "delta": "objective.delta",
}

DIVERGENCE = {
    "delta": "objective.delta",
    "symmetric": "objective.symmetric",
    "behaviour": "objective.behaviour",
}
NO_PENALTY = {"name": "k3", "coefficient": 0.0}
# The parts of GRPO.
CLIPPED = {"advantage": "group_relative", "objective": "clip", "penalty": NO_PENALTY}

PRESETS = (
    # With a critic.
    Row(
        "ActorCritic",
        "actor_critic",
        "n-step, TD(0) or GAE advantages from a critic",
        {"objective": "score", "critic": "squared"},
        {
            "advantage": {
                "gae": {"advantage": "gae"},
                "td": {"advantage": "td"},
                "n_step": {"advantage": "n_step"},
            },
            "n_steps": "advantage.n",
            **GAE,
            **VALUE,
        },
        {"reduction": "step"},
        (
            "Sutton and Barto 2018, sec. 13.5",
            "Mnih et al. 2016, algorithm S3, arXiv:1602.01783",
            "Schulman et al. 2016, eq. 16, arXiv:1506.02438",
        ),
    ),
    Row(
        "A2C",
        "a2c",
        "actor-critic with bootstrapped returns and an entropy bonus",
        # At lambda 1, GAE is the bootstrapped return less V.
        {
            "advantage": {"name": "gae", "gae_lambda": 1.0},
            "objective": "score",
            "critic": "squared",
        },
        {**GAE, **VALUE},
        {"reduction": "step", "entropy_coefficient": 0.01},
        ("Mnih et al. 2016, algorithm S3, arXiv:1602.01783",),
        "A rollout of n steps makes n-step returns.",
    ),
    Row(
        "PPO",
        "ppo",
        "clipped surrogate or adaptive KL penalty, value loss, entropy bonus",
        # Schulman et al. 2017, sec. 6.1 and table 3: clip 0.2, gamma 0.99, lambda 0.95.
        {"advantage": "gae", "critic": {"name": "clipped", "clip": None}},
        {
            "objective": {
                "clip": {"objective": "clip"},
                "kl": {"objective": "ratio", "penalty": {"name": "exact", "target": 0.01}},
            },
            **CLIP,
            "kl_coefficient": "penalty.coefficient",
            "kl_target": "penalty.target",
            **GAE,
            "value_clip": "critic.clip",
            **VALUE,
        },
        {"normalise": "minibatch", "reduction": "step"},
        (
            "Schulman et al. 2017, eqs. 7 and 8, arXiv:1707.06347",
            "Schulman et al. 2016, eq. 16, arXiv:1506.02438 (GAE)",
            "Ye et al. 2020, arXiv:1912.09729 (dual)",
        ),
        "With objective='kl' the penalty's coefficient doubles after an update whose mean KL exceeds "
        "1.5 kl_target, and halves below kl_target / 1.5; kl_target=None keeps it. A value_clip "
        "needs the batch's recorded values: around the current critic's nothing would be clipped.",
    ),
    Row(
        "TRPO",
        "trpo",
        "ratio times advantage, unclipped; for the optimizer of the same name",
        {"advantage": "gae", "objective": "ratio", "critic": "squared"},
        {**GAE, **VALUE},
        # On by default: the entropy bonus then weighs alike in every unit of reward.
        {"normalise": "batch", "reduction": "step"},
        (
            "Schulman et al. 2015, eq. 14, arXiv:1502.05477",
            "Schulman et al. 2016, eqs. 16 and 31, arXiv:1506.02438 (GAE)",
        ),
        "The optimizer keeps the policy near the old one, the loss does not. At r = 1 its gradient "
        "is that of `actor_critic`: with the optimizer `natural_gradient` either is the natural "
        "policy gradient.",
        usual_optimizer="trpo",
    ),
    # Another policy's episodes.
    Row(
        "VTrace",
        "vtrace",
        "actor-critic on another policy's episodes, as in IMPALA",
        {"advantage": "vtrace", "objective": "score", "critic": "squared"},
        {
            **TRACE,
            "pg_rho_bar": "advantage.pg_rho_bar",
            "bootstrap": "advantage.bootstrap",
            **VALUE,
        },
        {"reduction": "step"},
        ("Espeholt et al. 2018, eq. 1 and sec. 4.2, arXiv:1802.01561",),
        "Below rho_bar = infinity the critic's fixed point is the value of a policy between the two.",
    ),
    Row(
        "AWR",
        "awr",
        "regression on actions, weighted by exponentiated advantages",
        {"advantage": "gae", "objective": "exponential", "critic": "squared"},
        {
            "temperature": "objective.temperature",
            "max_weight": "objective.max_weight",
            **GAE,
            **VALUE,
        },
        {"reduction": "step"},
        ("Peng et al. 2019, eqs. 4 and 5, arXiv:1910.00177",),
        # It regresses on any policy's actions, without ratios.
        claims={"off_policy": "limited"},
    ),
    Row(
        "TrajectoryIS",
        "trajectory_is",
        "returns weighted by whole episodes' ratios",
        {
            "advantage": {"name": "returns", "reward_to_go": False},
            "objective": "ratio",
            "level": "sequence_product",
        },
        {"gamma": "advantage.gamma"},
        # A step's term is the episode's, and counts 1/T.
        {"reduction": "episode_step"},
        ("Precup, Sutton and Singh 2000, eq. 4", "Tang and Abbeel 2010, eq. 3"),
        "The ratio of whole episodes is differentiated.",
        {"unbiased": True, "off_policy": "exact"},
    ),
    Row(
        "PerDecisionIS",
        "pdis",
        "rewards weighted by the ratios up to them",
        {"advantage": "per_decision", "objective": "score"},
        {
            "gamma": "advantage.gamma",
            "discount_state": "advantage.discount_state",
            "ratio": "advantage.ratio",
        },
        {"reduction": "trajectory"},
        ("Precup, Sutton and Singh 2000, eq. 6",),
    ),
    Row(
        "WeightedIS",
        "wis",
        "self-normalised ratios of whole episodes, biased",
        {"advantage": "self_normalised", "objective": "score"},
        {"gamma": "advantage.gamma", "discount_state": "advantage.discount_state"},
        {"reduction": "trajectory"},
        ("Precup, Sutton and Singh 2000, eq. 5",),
    ),
    Row(
        "AveragedRatio",
        "averaged_ratio",
        "mean ratio of single steps times the return, biased",
        {"advantage": {"name": "returns", "reward_to_go": False}, "objective": "ratio"},
        {"gamma": "advantage.gamma"},
        {"reduction": "episode_step"},
        ("docs/formulas.md, row B10",),
        "It does not correct for the episode's other actions, which were the behaviour policy's too; "
        "`pdis` does.",
        {"off_policy": "limited"},
    ),
    # Groups of answers to one prompt.
    Row(
        "RLOO",
        "rloo",
        "group rewards less the mean of the others, unbiased",
        {
            "advantage": {
                "name": "group_relative",
                "scale": "none",
                "leave_one_out": True,
                "lone": "error",
            },
            "objective": "score",
            "penalty": {"name": "k1", "coefficient": 0.0, "place": "reward"},
        },
        {**PENALTY, "group": "advantage.group", "lone": "advantage.lone", **SCORE},
        {"reduction": "trajectory"},
        ("Ahmadian et al. 2024, eq. 8, arXiv:2402.14740", "Kool, van Hoof and Welling 2019"),
    ),
    Row(
        "GRPO",
        "grpo",
        "standardised group rewards, clipped ratios",
        CLIPPED,
        {**BOUNDS, "dual": "objective.dual", "delta": "objective.delta", **COMMON},
        {"reduction": "episode_step"},
        ("Shao et al. 2024, eqs. 3 and 4, arXiv:2402.03300",),
    ),
    Row(
        "DrGRPO",
        "dr_grpo",
        "GRPO without dividing by deviation or by length",
        {
            **CLIPPED,
            "advantage": {"name": "group_relative", "scale": "none"},
        },
        {**BOUNDS, "delta": "objective.delta", **COMMON},
        {"reduction": "trajectory"},
        ("Liu et al. 2025, sec. 3.2, arXiv:2503.20783",),
        "The mean over a group of G episodes includes the episode itself, which shrinks the "
        "gradient by 1 - 1/G.",
    ),
    Row(
        "GSPO",
        "gspo",
        "group rewards, ratios of whole trajectories clipped",
        # Bounds of Zheng et al. 2025: the mean of T log ratios varies less than one does.
        {
            **CLIPPED,
            "objective": {"name": "clip", "low": 3e-4, "high": 4e-4},
            "level": "sequence",
        },
        {**BOUNDS, **COMMON},
        # A trajectory's terms are all the same, so their mean is one of them.
        {"reduction": "episode_step"},
        ("Zheng et al. 2025, eqs. 5 to 7, arXiv:2507.18071",),
    ),
    Row(
        "CISPO",
        "cispo",
        "group rewards, clipped ratios held constant",
        {**CLIPPED, "objective": "cispo"},
        {**BOUNDS, **COMMON, "group": ("advantage.group", "reduction.group")},
        {"reduction": "group_step"},
        ("MiniMax 2025, eqs. 4 and 5, arXiv:2506.13585",),
        "TRL takes the token mean, reduction='step'.",
    ),
    Row(
        "ReinforcePP",
        "reinforce_pp",
        "clipped ratios, returns normalised over the batch",
        {
            "objective": "clip",
            "penalty": {"name": "k1", "coefficient": 0.0, "place": "reward"},
        },
        {
            "baseline": {
                "none": {"advantage": {"name": "returns", "gamma": 1.0}},
                "group": {"advantage": "group_returns"},
            },
            **CLIP,
            **PENALTY,
            "gamma": "advantage.gamma",
            "ddof": "ddof",
            "group": "advantage.group",
            **SCORE,
        },
        {"normalise": "batch", "reduction": "step"},
        ("Hu 2025, sec. 3, arXiv:2501.03262",),
    ),
    Row(
        "DAPO",
        "dapo",
        "clipped ratios with a higher upper bound, standardised group rewards, token mean",
        {**CLIPPED, "objective": {"name": "clip", "low": 0.2, "high": 0.28}},
        {**BOUNDS, "dual": "objective.dual", **COMMON},
        {"reduction": "step"},
        ("Yu et al. 2025, eq. 8, arXiv:2503.14476",),
    ),
    Row(
        "BNPO",
        "bnpo",
        "clipped ratios, standardised group rewards, token mean of the minibatch",
        CLIPPED,
        {**BOUNDS, "delta": "objective.delta", **COMMON},
        {"reduction": "step"},
        ("Yu et al. 2025, eq. 8, arXiv:2503.14476 (token mean)", "TRL, loss_type 'bnpo'"),
    ),
    Row(
        "GMPO",
        "gmpo",
        "geometric mean of limited ratios, standardised group rewards",
        {**CLIPPED, "objective": "gmpo", "level": "sequence"},
        {**BOUNDS, **COMMON},
        {"reduction": "episode_step"},
        ("Zhao et al. 2025, arXiv:2507.20673",),
    ),
    Row(
        "SAPO",
        "sapo",
        "soft gate of the ratios, standardised group rewards",
        {**CLIPPED, "objective": "sapo"},
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
            **CLIPPED,
            "objective": {"name": "clip", "low": 3e-4, "high": 4e-4},
            "level": "gspo_token",
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
            **CLIPPED,
            "objective": {"name": "clip", "low": 3e-4, "high": 4e-4},
            "level": "sequence",
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
        {**CLIPPED, "advantage": "best_alone"},
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
            **TRACE,
            "bootstrap": "advantage.bootstrap",
            **VALUE,
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
        {**CLIPPED, "correction": "truncated"},
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
        "IcePop",
        "icepop",
        "GRPO with the importance weights for the rollout policy that are within bounds, else 0",
        {**CLIPPED, "correction": {"name": "masked", "high": 5.0}},
        {
            **BOUNDS,
            "low": "correction.low",
            "high": "correction.high",
            "correction_of": "correction.of",
            **COMMON,
        },
        {"reduction": "episode_step"},
        ("Ling Team 2025, arXiv:2510.18855",),
    ),
    Row(
        "Bypass",
        "bypass",
        "GRPO of two policies: ratios to the rollout policy, without a correction",
        {**CLIPPED, "correction": "bypass"},
        {**BOUNDS, **COMMON},
        {"reduction": "episode_step"},
        ("verl 2025, documentation of rollout correction",),
    ),
    Row(
        "DPPOTotalVariation",
        "dppo_tv",
        "ratios to the rollout policy within a total variation, standardised group rewards",
        {**CLIPPED, "objective": "dppo_tv"},
        {**DIVERGENCE, **COMMON},
        {"reduction": "step"},
        ("DPPO 2026, eqs. 11 to 13, arXiv:2602.04879",),
    ),
    Row(
        "DPPOBinaryKL",
        "dppo_kl",
        "ratios to the rollout policy within a binary KL divergence, standardised group rewards",
        {**CLIPPED, "objective": "dppo_kl"},
        {**DIVERGENCE, **COMMON},
        {"reduction": "step"},
        ("DPPO 2026, eqs. 11 to 13, arXiv:2602.04879",),
    ),
    Row(
        "VESPO",
        "vespo",
        "scores weighed by a gamma density of whole sequences' ratios",
        {**CLIPPED, "objective": "vespo", "level": "sequence_product"},
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
        {**CLIPPED, "mask": "clip_cov"},
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
