"""The exceptions pgcore raises.

Every one derives from `PgcoreError` and from the builtin a caller would expect, and its message reads
`{where}: expected {rule}, got {shape or dtype or name}; {what to do next}`.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.wording import SHOWN, shown

__all__ = [
    "BatchError",
    "DependencyError",
    "EstimatorError",
    "FileError",
    "MDPError",
    "NonFiniteError",
    "OptimizerError",
    "ParameterError",
    "PgcoreError",
    "PluginError",
    "ShapeError",
    "SpecError",
    "UnknownNameError",
    "UnsupportedEnvironmentError",
]


class PgcoreError(Exception):
    """Base of every exception pgcore raises on bad input."""


class BatchError(PgcoreError, ValueError):
    """A batch holds values that no policy gradient can be computed from."""


class ShapeError(BatchError):
    """An array has the wrong number of dimensions or the wrong length."""


class SpecError(PgcoreError, ValueError):
    """A policy, network, head or schedule has a wrong specification."""


class EstimatorError(PgcoreError, ValueError):
    """An estimator's hyper-parameters are wrong, or it does not fit the policy or the batch."""


class OptimizerError(PgcoreError, ValueError):
    """An optimizer's hyper-parameters are wrong, or it does not fit the policy or the gradient."""


class ParameterError(PgcoreError, ValueError):
    """Parameters do not have the names, shapes or values that a policy's spec asks for."""


class NonFiniteError(PgcoreError, FloatingPointError):
    """A quantity or a gradient is infinite or NaN; no parameter was changed."""


class UnsupportedEnvironmentError(PgcoreError, ValueError):
    """An environment is unknown, or its spaces have no head or network here."""


class FileError(PgcoreError, OSError):
    """A file cannot be read or written, or has other contents than its name says."""


class MDPError(PgcoreError, ValueError):
    """A finite decision process has a wrong specification, or is too large to enumerate."""


class PluginError(PgcoreError, RuntimeError):
    """A plugin is broken, misspells a hook, or registers a name that another has."""


class DependencyError(PgcoreError, ModuleNotFoundError):
    """A package that a provider declared is not installed."""


class UnknownNameError(PgcoreError, LookupError):
    """A name that is not registered."""

    def __init__(self, where: str, name: str, names: Iterable[str], note: str = "") -> None:
        """Keep the arguments, from which another process rebuilds the error."""
        self.name = name
        self.known = tuple(sorted(names))
        super().__init__(where, name, self.known, note)

    def __str__(self) -> str:
        """Return the message: near matches, then every registered name, then a note on others."""
        import difflib  # here, since few programs end in it

        where, _, _, note = self.args
        # At most three suggestions, each at least half alike by difflib's ratio.
        # An object that is no text is near to none, and a long text is compared slowly.
        name: object = self.name
        comparable = isinstance(name, str) and len(name) <= SHOWN  # pyright: ignore[reportUnnecessaryIsInstance]
        near = difflib.get_close_matches(name, self.known, 3, 0.5) if comparable else []
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        listing = ", ".join(self.known) or "none are registered"
        message = f"{where}: expected a known name, got {shown(name)}; {hint}known: {listing}"
        return f"{message}; {note}" if note else message
