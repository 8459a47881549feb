"""A head for pgcore."""
