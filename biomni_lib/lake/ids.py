"""Ids as databases print them, and the rows that they stand for."""

import numpy as np


def number_in(text: str, prefix: str, digits: int, optional: bool = False) -> int:
    """The number inside a database id, -1 when the text is not such an id."""
    body = str(text).strip()
    if body.upper().startswith(prefix):
        body = body[len(prefix) :]
    elif not optional:
        return -1
    return int(body) if len(body) == digits and body.isascii() and body.isdigit() else -1


def row_of(keys: np.ndarray, number: int) -> int:
    """Row of a number among sorted ones, -1 when it is not there."""
    row = int(np.searchsorted(keys, number))
    return row if row < len(keys) and keys[row] == number else -1


def shown(value: object) -> str:
    """A value as an error message shows it: at most 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
