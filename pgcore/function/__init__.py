"""The loss as a function of the caller's own arrays."""

__all__: list[str] = []
