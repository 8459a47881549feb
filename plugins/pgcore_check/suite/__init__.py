"""The conformance suite of backends: `pytest --pyargs pgcore_check.suite --pg-backends=NAME`.

It holds an installed backend to everything that is proven of the built-in ones. The built-in
estimators, heads and optimizers are its material, by their labels.
"""

from __future__ import annotations

__all__: list[str] = []
