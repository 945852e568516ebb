"""Checks of a table before it is counted or drawn: a missing part is said by name."""

from collections.abc import Iterable

import pandas as pd

from biomni_lib.errors import DataError


def require(table: pd.DataFrame | None, columns: Iterable[str], what: str) -> pd.DataFrame:
    """The table itself, when it has rows and the columns.

    Args:
        what: the table's name, as the message shall say it.
    Raises: DataError when there is no table, no row, or a column is missing.
    """
    if table is None or table.empty:
        raise DataError(f"{what}: no rows; run the stage that makes them, or widen the selection")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(f"{what}: no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    return table


def select(table: pd.DataFrame, what: str, **values: str) -> pd.DataFrame:
    """The rows where each named column has the given value.

    Raises: DataError when a value does not occur, with those that do, and when no row has all of them.
    """
    require(table, values, what)
    for column, value in values.items():
        if not (table[column] == value).any():
            known = ", ".join(map(str, pd.unique(table[column])))
            raise DataError(f"{what}: no {column} = {value!r}; it has {known}")
    chosen = table
    for column, value in values.items():
        chosen = chosen[chosen[column] == value]
    return require(chosen, values, f"{what} with {', '.join(f'{key} = {value}' for key, value in values.items())}")
