"""An estimator for pgcore."""
