"""The system-call filter, run call by call in a small interpreter of its BPF program."""

import errno
import struct

import pytest

from biomni_lib.sandbox.seccomp import Without, filter_program

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
OLD_KERNEL, NEW_KERNEL = Without(own_pid=77, signal_scope=False), Without(own_pid=77, signal_scope=True)
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(
    machine: str, number: int, *arguments: int, architecture: int | None = None, without: Without | None = None
) -> int:
    """What the kernel would answer; the five instructions used are those of linux/bpf_common.h."""
    arch = ARCHITECTURE[machine] if architecture is None else architecture
    data = {0: number, 4: arch} | {16 + 8 * place: (*arguments, 0, 0, 0)[place] for place in range(3)}
    program = list(struct.iter_unpack("=HBBI", filter_program(machine, without)))
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
    assert decide("x86_64", 0, architecture=0x40000003, without=OLD_KERNEL) == KILL
    assert decide("x86_64", 0x40000000 + 41) == KILL


@pytest.mark.parametrize(("machine", "socketpair"), [("x86_64", 53), ("aarch64", 199)])
def test_socketpairs_carry_streams_only(machine, socketpair):
    """SOCK_STREAM, SOCK_SEQPACKET against SOCK_DGRAM, SOCK_RAW; with SOCK_CLOEXEC and SOCK_NONBLOCK."""
    flags = 0o2004000
    assert [decide(machine, socketpair, 1, kind | flags) for kind in (1, 5, 2, 3)] == [ALLOW, ALLOW, EPERM, EPERM]


@pytest.mark.parametrize(("machine", "number"), [("x86_64", n) for n in (90, 92, 109, 112, 132, 188, 280, 76, 46)]
                         + [("aarch64", n) for n in (53, 54, 154, 157, 88, 5, 45, 211)])  # fmt: skip
def test_metadata_groups_and_handed_files_are_denied_without_namespaces_only(machine, number):
    """chmod, chown, setpgid, setsid, utime, setxattr, utimensat, truncate, sendmsg."""
    assert decide(machine, number, without=NEW_KERNEL) == EPERM
    assert decide(machine, number) == ALLOW


@pytest.mark.parametrize("machine", ARCHITECTURE)
def test_what_every_tier_denies_stays_denied_without_namespaces(machine):
    for without in (OLD_KERNEL, NEW_KERNEL):
        assert decide(machine, {"x86_64": 41, "aarch64": 198}[machine], without=without) == EPERM
        assert decide(machine, 425, without=without) == ENOSYS
        assert decide(machine, {"x86_64": 0, "aarch64": 63}[machine], without=without) == ALLOW


OPENS = [("x86_64", 2, 1), ("x86_64", 257, 2), ("aarch64", 56, 2)]


@pytest.mark.parametrize(("machine", "number", "place"), OPENS)
@pytest.mark.parametrize("mode", range(4))
def test_truncation_is_for_files_opened_to_write(machine, number, place, mode):
    """Access modes are O_RDONLY 0, O_WRONLY 1, O_RDWR 2, and the undocumented 3; O_TRUNC is 0o1000, O_CREAT 0o100."""
    arguments = [0] * place
    assert decide(machine, number, *arguments, mode | 0o100, without=NEW_KERNEL) == ALLOW
    expected = ALLOW if mode in (1, 2) else EPERM
    assert decide(machine, number, *arguments, mode | 0o1100, without=NEW_KERNEL) == expected
    assert decide(machine, number, *arguments, mode | 0o1100) == ALLOW


def test_limits_of_others_and_being_watched_are_out_of_reach_without_namespaces():
    """prlimit64(pid), prctl(PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NAME), fcntl and ioctl that set owners."""
    allowed = [(302, 0), (157, 15), (72, 0, 3), (16, 0, 0x5401)]
    denied = [(302, 1), (157, 4), (157, 36), (72, 0, 8), (72, 0, 15), (72, 0, 1024), (16, 0, 0x8901), (16, 0, 0x8902)]
    assert {decide("x86_64", *call, without=NEW_KERNEL) for call in allowed} == {ALLOW}
    assert {decide("x86_64", *call, without=NEW_KERNEL) for call in denied} == {EPERM}
    assert {decide("x86_64", *call) for call in denied} == {ALLOW}


def test_signals_are_denied_where_landlock_does_not_keep_them_inside():
    """kill, tkill, pidfd_send_signal; tgkill to the session's first process is how it aborts."""
    for number in (62, 200, 424):
        assert decide("x86_64", number, 1, without=OLD_KERNEL) == EPERM
        assert decide("x86_64", number, 1, without=NEW_KERNEL) == ALLOW
    assert [decide("x86_64", 234, pid, without=OLD_KERNEL) for pid in (77, 78)] == [ALLOW, EPERM]
