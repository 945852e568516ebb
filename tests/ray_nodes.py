"""A Ray cluster of two nodes on this machine, and how its actors' processes are ended."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from biomni_lib import cluster
from biomni_lib.engines.ray_engine import RayEngine

NODE = {"num_cpus": 0, "object_store_memory": 100 << 20, "include_log_monitor": False, "no_monitor": True}
"""Our actors ask for no CPU, so no idle worker is started beside them."""
PORTS = ("metrics_agent_port", "runtime_env_agent_port", "dashboard_agent_listen_port", "metrics_export_port")
"""Given, so that Ray waits for fewer files of helper processes, which come late on a busy machine."""
GONE_WITHIN_S = 30


@dataclass
class Nodes:
    """The cluster, and its node without this process."""

    cluster: Cluster
    other: Any

    def lose_other(self) -> None:
        """End the other node at once, with all that runs there, and start one in its place."""
        self.cluster.remove_node(self.other, allow_graceful=False)
        self.other = _add_node(self.cluster)


def _add_node(to: Cluster, **more: Any) -> Any:
    with contextlib.ExitStack() as free:
        sockets = [free.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        ports = {name: bound.getsockname()[1] for name, bound in zip(PORTS, sockets, strict=True)}
    return to.add_node(**NODE, **ports, **more)


@contextlib.contextmanager
def two_nodes() -> Iterator[Nodes]:
    """This process joins; at the end nothing that was started may be left."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ[cluster.NICENESS] = "0"
    nodes = Cluster()
    try:
        _add_node(nodes, include_dashboard=False)
        other = _add_node(nodes)
        assert cluster.join(nodes.address, "a test's cluster")
        nodes.wait_for_nodes()
        while sum(node["Alive"] for node in ray.nodes()) < 2:  # what a driver sees comes later still
            time.sleep(0.1)
        yield Nodes(nodes, other)
    finally:
        started = [process for process in psutil.Process().children(recursive=True) if "ray" in _said(process)]
        ray.shutdown()
        nodes.shutdown()
        _, left = psutil.wait_procs(started, GONE_WITHIN_S)
    assert started and not left


def _said(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


async def process_of(engine: RayEngine) -> int:
    """The process of an engine's actor."""
    actor = await engine._running()
    return await actor.handle.__ray_call__.remote(lambda _: os.getpid())


async def kill(engine: RayEngine) -> None:
    """SIGKILL the process of an engine's actor."""
    os.kill(await process_of(engine), signal.SIGKILL)
