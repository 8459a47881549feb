"""Functions of the user, which settings name as `module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgcore.errors import SpecError

__all__ = ["load_function"]


def load_function(where: str, target: object, of: str, example: str) -> Callable[..., Any]:
    """Import and return a function, from this folder or an installed package.

    Args:
        where: The setting.
        target: `module:function`.
        of: The function's argument, for messages.
        example: An option that sets it, for messages.

    Raises:
        SpecError: it is not of that form, cannot be imported, or is no function.
    """
    module, _, attribute = str(target).partition(":")
    expected = f"{where}: expected module:function, got {target!r}"
    if not module or not attribute.isidentifier():
        raise SpecError(f"{expected}; write it as in {example}")
    # A command's script is elsewhere, so Python does not look in this folder.
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise SpecError(
            f"{expected}, which fails with {type(error).__name__} ({error}); "
            f"check the name, and that the module is installed or in {folder}"
        ) from error
    if not callable(function):
        raise SpecError(f"{expected}, of type {type(function).__name__}; name a function of {of}")
    return function
