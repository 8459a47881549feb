"""The loss as a function of the caller's own arrays."""
