"""What vLLM tells after each of its steps, as the counters of an engine."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator
from typing import Any

from biomni_lib.engines.base import EngineStats


class Counter:
    """What vLLM tells after each step, added up; and how long it had requests."""

    def __init__(self) -> None:
        self._stats = EngineStats()
        self._requests = 0
        self._since = time.perf_counter()

    def as_stat_logger(self, vllm_config: Any, engine_index: int = 0) -> Counter:
        """The factory that vLLM asks for a stat logger (vllm/v1/metrics/loggers.py)."""
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
        """Called by vLLM after a step."""
        if iteration_stats is None:
            return
        prompt = iteration_stats.prompt_token_stats
        self._stats.generated_tokens += iteration_stats.num_generation_tokens
        self._stats.prefilled_tokens += prompt.computed
        self._stats.cached_tokens += prompt.cached_tokens
        self._stats.decode_steps += 1

    def log(self) -> None:
        """Called by vLLM; nothing is printed."""

    def log_engine_initialized(self) -> None:
        """Called by vLLM; nothing is printed."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Called by vLLM; nothing is kept."""

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._requests > 0

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """For as long as a request is under way."""
        self._settle()
        self._requests += 1
        try:
            yield
        finally:
            self._settle()
            self._requests -= 1

    def swapped(self, seconds: float) -> None:
        """Weights were swapped, which kept requests waiting when there were any."""
        self._settle()
        self._stats.swaps += 1
        self._stats.swap_s += seconds
        if self._requests:
            self._stats.decode_s -= seconds
        else:
            self._stats.idle_s -= seconds

    def stats(self) -> EngineStats:
        """A copy of the counters of now."""
        self._settle()
        return copy.copy(self._stats)

    def _settle(self) -> None:
        now = time.perf_counter()
        if self._requests:
            self._stats.decode_s += now - self._since
        else:
            self._stats.idle_s += now - self._since
        self._since = now
