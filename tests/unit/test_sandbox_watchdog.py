"""Reading a process tree while its processes come and go, and what a scratch folder really holds."""

import mmap
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from biomni_lib.sandbox.watchdog import scratch_use, tree_pids

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


def test_scratch_counts_files_removed_but_still_open_or_mapped(tmp_path):
    empty, others = scratch_use(tmp_path, [os.getpid()])  # what this process holds open elsewhere on the device
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "seen").write_bytes(b"x" * 100_000)
    seen, files = scratch_use(tmp_path, [os.getpid()])
    assert 100_000 <= seen - empty < 150_000 and files == others + 2
    with (tmp_path / "removed").open("w+b") as file:
        file.write(b"x" * 200_000)
        file.flush()
        (tmp_path / "removed").unlink()
        opened, files = scratch_use(tmp_path, [os.getpid()])
        assert opened - seen >= 200_000 and files == others + 3
        mapped = mmap.mmap(file.fileno(), 200_000)
    assert scratch_use(tmp_path, [os.getpid()])[0] - seen >= 200_000
    mapped.close()
    assert scratch_use(tmp_path, [os.getpid()]) == (seen, others + 2)


def test_scratch_that_is_gone_holds_nothing(tmp_path):
    assert scratch_use(tmp_path / "gone", [os.getpid()]) == (0, 0)
