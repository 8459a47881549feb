"""The array namespace that formulas are written against, and NumPy's implementation of it."""

__all__: list[str] = []
