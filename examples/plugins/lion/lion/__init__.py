"""An optimizer for pgcore."""
