"""Values in messages: on one line, and short."""

from __future__ import annotations

__all__ = ["SHOWN", "abbreviated", "shown"]

# Characters of a value in a message, our choice: the most that a line of a terminal holds.
SHOWN = 80


def shown(value: object) -> str:
    """Return the value's repr on one line, short enough for a message."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - of a very long integer, or any object's own
        text = f"a {type(value).__name__} that cannot be written out"
    return abbreviated(" ".join(text.split()) if "\n" in text else text)


def abbreviated(text: str) -> str:
    """Return a text, such as a path, short enough for a message."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
