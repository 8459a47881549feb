"""A backend of pgcore on HIPS autograd."""
