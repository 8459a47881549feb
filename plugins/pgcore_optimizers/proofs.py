"""Proofs of the built-in optimizers: the options to try them with."""

from __future__ import annotations

from pgcore_check.proof import Proof
from pgcore_optimizers.first_order import SGD, Adam, AdamW, RMSprop
from pgcore_optimizers.natural_gradient import TRPO, EuclideanTrustRegion, NaturalGradient

__all__ = ["PROOFS"]

# A first-order formula is its own reference, in extended precision. Trust regions have none: their
# parts, gradients and Fisher products, are checked.
PROOFS = (
    Proof(Adam, {"adam": {}, "adam clipped": {"max_grad_norm": 0.5}}),
    Proof(SGD, {"sgd": {}, "sgd nesterov": {"momentum": 0.9, "nesterov": True}}),
    Proof(
        RMSprop,
        {
            "rmsprop": {},
            "rmsprop momentum": {"momentum": 0.5},
            "rmsprop inside": {"eps_inside": True},
        },
    ),
    Proof(AdamW, {"adamw": {}, "adamw decay": {"weight_decay": 0.1}}),
    Proof(TRPO, {"trpo": {"max_kl": 0.05}}),
    Proof(NaturalGradient, {"natural gradient": {"damping": 0.01}}),
    Proof(EuclideanTrustRegion, {"trust region": {"eps": 0.1}}),
)
