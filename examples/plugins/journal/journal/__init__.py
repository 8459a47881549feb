"""A logger for pgcore."""
