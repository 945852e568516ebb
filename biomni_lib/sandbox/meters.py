"""What an environment server counts and times, as Prometheus text."""

import contextlib
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from biomni_lib.sandbox.observation import Observation

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
"""Upper bounds of the histograms' buckets."""


class Meters:
    """Counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._opened = self._counter("sessions_opened", "Sessions opened.")
        self._ended = self._counter("sessions_ended", "Sessions ended: closed, expired, lost, shutdown.", "why")
        self._executions = self._counter("executions", "Blocks of code run, by whether they ended well.", "ok")
        self._refusals = self._counter("refusals", "Requests refused, by kind.", "kind")
        self._running = Gauge("biomni_sandbox_running", "Blocks of code running now.", registry=self._registry)
        self._queue_s = self._histogram("queue_seconds", "Seconds that a block waited for its place.")
        self._run_s = self._histogram("run_seconds", "Seconds that a block ran.")

    def watch(self, *, sessions: Callable[[], int], queue: Callable[[], int]) -> None:
        """Read the numbers of open sessions and of waiting blocks whenever metrics are asked for."""
        Gauge("biomni_sandbox_sessions", "Sessions open now.", registry=self._registry).set_function(sessions)
        Gauge("biomni_sandbox_queue", "Blocks of code waiting now.", registry=self._registry).set_function(queue)

    def opened(self) -> None:
        """A session was opened."""
        self._opened.inc()

    def ended(self, why: str) -> None:
        """A session ended: closed, expired, lost or shutdown."""
        self._ended.labels(why).inc()

    def executed(self, observation: Observation) -> None:
        """A block has run."""
        self._executions.labels(str(observation.ok).lower()).inc()
        self._run_s.observe(observation.seconds)

    def refused(self, kind: str) -> None:
        """A request was refused."""
        self._refusals.labels(kind).inc()

    @contextlib.contextmanager
    def running(self, waited_s: float) -> Iterator[None]:
        """A block runs that waited so long."""
        self._queue_s.observe(waited_s)
        with self._running.track_inprogress():
            yield

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"biomni_sandbox_{name}", help_text, labels, registry=self._registry)

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"biomni_sandbox_{name}", help_text, buckets=SECONDS, registry=self._registry)
