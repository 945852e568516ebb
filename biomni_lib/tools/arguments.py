"""What several tools check about their arguments."""


def count(top: int) -> int:
    """How many results are asked for. Raises: ValueError when it is no whole number from 1 to 100."""
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= 100:
        raise ValueError(f"top must be a whole number from 1 to 100, not {str(top)[:20]}")
    return top


def whole_number(name: str, value: int) -> int:
    """A position or a size. Raises: ValueError when it is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**40:
        raise ValueError(f"{name} must be a whole number of at least 1, not {str(value)[:20]}")
    return value
