"""Reading a process tree while its processes come and go."""

import subprocess
import sys
import threading

import pytest

from biomni_lib.sandbox.watchdog import tree_pids

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_process_that_has_ended_is_no_fault():
    child = subprocess.Popen(["true"])
    child.wait()
    assert list(tree_pids(child.pid)) == [child.pid]


def test_a_tree_can_be_read_while_its_processes_end():
    stop = threading.Event()
    faults: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                list(tree_pids(parent.pid))
        except BaseException as fault:
            faults.append(fault)

    parent = subprocess.Popen(["sh", "-c", "for i in $(seq 200); do (true) & done; wait"])
    reader = threading.Thread(target=read)
    reader.start()
    parent.wait()
    stop.set()
    reader.join()
    assert not faults
