"""The registry: everything that plugins provide, by kind and name, and whether it is usable."""

__all__: list[str] = []
