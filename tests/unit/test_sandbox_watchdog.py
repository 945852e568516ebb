"""Reading a process tree while its processes come and go."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from biomni_lib.sandbox.watchdog import tree_pids

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_process_that_has_ended_is_no_fault():
    child = subprocess.Popen(["true"])
    child.wait()
    assert list(tree_pids(child.pid)) == [child.pid]


def test_a_tree_can_be_read_while_its_processes_end():
    parent = subprocess.Popen(["sh", "-c", "for i in $(seq 200); do (true) & done; wait"])

    def read_until_it_ends() -> int:
        readings = 0
        while parent.poll() is None:
            readings += bool(list(tree_pids(parent.pid)))
        return readings

    with ThreadPoolExecutor() as pool:
        assert pool.submit(read_until_it_ends).result() > 0
