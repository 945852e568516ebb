"""Calls that give power over the machine, each asked of the kernel directly."""

from tests.attacks.arena import ATTACKS, ENOSYS, EPERM, SYSCALL, Arena

CALLS = {
    "mount a file system": "libc.mount(b'none', b'.', b'tmpfs', 0, None)",
    "remount the libraries writable": "libc.mount(None, b'/usr', None, 32 | 4096, None)",
    "unmount the scratch": "libc.umount2(b'.', 2)",
    "unshare the user namespace": "libc.unshare(0x10000000)",
    "unshare the mount namespace": "libc.unshare(0x00020000)",
    "enter a namespace": "libc.setns(0, 0)",
    "clone into namespaces": "libc.syscall(56, 0x10000011, None, None, None, None)",
    "chroot": "libc.chroot(b'.')",
    "make a device": "libc.mknod(b'disk', 0o60666, 0xFE00)",
    "trace a process": "libc.ptrace(16, VICTIM, 0, 0)",
    "read a process's memory": "libc.process_vm_readv(VICTIM, None, 0, None, 0, 0)",
    "become root": "libc.setuid(0)",
    "become root's group": "libc.setgid(0)",
    "rename the host": "libc.sethostname(b'x', 1)",
    "use io_uring": "libc.syscall(425, 8, None)",
    "use clone3": "libc.syscall(435, None, 0)",
    "load a BPF program": "libc.syscall(321, 0, None, 0)",
    "count events of processes": "libc.syscall(298, None, 0, -1, -1, 0)",
    "open by handle": "libc.syscall(304, -100, None, 0)",
    "use the key ring": "libc.syscall(250, 0, 0)",
    "make anonymous files": "libc.memfd_create(b'm', 0)",
    "share System V memory": "libc.shmget(1, 4096, 0o1600)",
    "take another's descriptor": "libc.syscall(438, 0, 0, 0)",
}


def kernel_call(name: str, call: str) -> None:
    async def refused(arena: Arena) -> None:
        observation = await arena.run(f"{SYSCALL}errno({call.replace('VICTIM', str(arena.victim.pid))})")
        allowed = {str(EPERM), str(ENOSYS)} | ({"22"} if "libc.set" in call else set())
        assert observation.text in allowed, observation.text

    ATTACKS[name.replace(" ", "_").replace("'", "")] = refused


for _name, _call in CALLS.items():
    kernel_call(_name, _call)
