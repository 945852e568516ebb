"""Results of tool calls that a session repeats. Tools are pure: the same call on the same lake has the same answer.

One cache lives and dies with one session. A shared one would have to be written by trusted code alone, since a session
runs code that nobody trusts, and does not pay: a call costs 10 to 150 us, less than a question to another process; and
handing sessions a filled cache would show them what others asked. Measured on the scripted teacher's trajectories, two
cores: 15% of the calls repeat one of their own session (34% for the strategy `verified`) and take a fifth (two fifths)
of the 1 to 2 ms that a block spends in tools. That is little; it pays more with slower tools.

Kept as bytes, since a caller may change the list that it got. Calls that raise, and calls with arguments other than
texts, whole numbers and flat lists of them, are not kept.
"""

import functools
import pickle
from collections.abc import Callable
from typing import Any

ENTRIES_MAX, ENTRY_BYTES_MAX = 1024, 16 * 1024
"""Together 16 MiB of a session's memory at most."""
_SCALARS = frozenset({str, int, bool, type(None)})

Key = tuple[Any, ...]


class ResultCache:
    """Answers of one session's calls on one lake.

    Args:
        lake_version: what the answers depend on beside the call; part of every key.
        entries_max: results kept; the oldest makes room.
    """

    def __init__(self, lake_version: str, entries_max: int = ENTRIES_MAX) -> None:
        self.hits = self.misses = 0
        self._version, self._entries_max = lake_version, entries_max
        self._entries: dict[Key, bytes] = {}

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, answered from here where the call was made before."""
        name = function.__name__

        @functools.wraps(function)
        def cached(*args: object, **kwargs: object) -> object:
            key = self._key(name, args, kwargs)
            if key is None:
                return function(*args, **kwargs)
            if key in self._entries:
                self.hits += 1
                return pickle.loads(self._entries[key])
            result = function(*args, **kwargs)
            self._keep(key, result)
            return result

        del cached.__wrapped__  # as of the function itself, what it wraps stays out of sight
        return cached

    def _key(self, name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Key | None:
        """The call by value and by type (1 and True are two calls); None for one that is not kept."""
        parts = [_part(value) for value in (*args, *kwargs.values())]
        return None if None in parts else (self._version, name, len(args), *kwargs, *parts)

    def _keep(self, key: Key, result: object) -> None:
        self.misses += 1
        stored = pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
        if len(stored) > ENTRY_BYTES_MAX:
            return
        if len(self._entries) >= self._entries_max:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = stored


def _part(value: object) -> Key | None:
    kind = type(value)
    if kind in _SCALARS:
        return kind, value
    if isinstance(value, list | tuple) and kind in (list, tuple) and all(type(item) in _SCALARS for item in value):
        return kind, *map(type, value), *value
    return None
