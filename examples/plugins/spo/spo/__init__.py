"""A part of estimators for pgcore."""
