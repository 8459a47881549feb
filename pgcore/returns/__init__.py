"""Pure functions of rewards and values: returns, advantages, baselines, off-policy corrections, group statistics."""
