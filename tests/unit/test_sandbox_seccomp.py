"""The system-call filter, run call by call in a small interpreter of its BPF program."""

import errno
import struct

import pytest

from biomni_lib.sandbox.seccomp import filter_program

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(machine: str, number: int, argument: int = 0, architecture: int | None = None) -> int:
    """What the kernel would answer; the four instructions used are those of linux/bpf_common.h."""
    arch = ARCHITECTURE[machine] if architecture is None else architecture
    data = {0: number, 4: arch, 16: argument}
    program = list(struct.iter_unpack("=HBBI", filter_program(machine)))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            accumulator = data[value]
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize(
    ("machine", "number"),
    [("x86_64", n) for n in (41, 42, 101, 155, 161, 165, 272, 308, 310, 319, 321)]
    + [("aarch64", n) for n in (198, 203, 117, 41, 51, 40, 97, 268, 270, 279, 280)],
)
def test_dangerous_calls_answer_eperm(machine, number):
    """socket, connect, ptrace, pivot_root, chroot, mount, unshare, setns, process_vm_readv, memfd_create, bpf."""
    assert decide(machine, number) == EPERM


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 0), ("x86_64", 53), ("x86_64", 436), ("aarch64", 63)])
def test_ordinary_calls_pass(machine, number):
    """read, socketpair, close_range, read."""
    assert decide(machine, number) == ALLOW


@pytest.mark.parametrize("machine", ARCHITECTURE)
def test_io_uring_clone3_new_mounts_and_calls_of_the_future_do_not_exist(machine):
    assert all(decide(machine, number) == ENOSYS for number in (425, 428, 429, 435, 438, 442, 447, 500, 9999))


@pytest.mark.parametrize(("machine", "clone"), [("x86_64", 56), ("aarch64", 220)])
def test_clone_passes_without_new_namespaces_only(machine, clone):
    threads = 0x003D0F00
    assert decide(machine, clone, threads) == ALLOW
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(machine, clone, threads | flag) == EPERM


def test_foreign_architectures_are_killed():
    assert decide("x86_64", 0, architecture=0x40000003) == KILL
    assert decide("x86_64", 0x40000000 + 41) == KILL
