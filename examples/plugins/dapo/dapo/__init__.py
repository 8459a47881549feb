"""An estimator for pgcore, with extras of its own."""
