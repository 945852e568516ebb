"""The process that has everything loaded and forks a session in milliseconds.

`python -m biomni_lib.sandbox.zygote FD`, with an empty environment and one inherited socket. It reads its settings,
loads the libraries and the tools' names, shuts itself in (`tiers.py`), freezes the garbage collector so that pages
stay shared, and then forks one session for each socket that the parent hands over (SCM_RIGHTS). End of file on the
control socket ends it, and every session ends with it.
"""

import array
import contextlib
import gc
import importlib
import importlib.util
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from biomni_lib.sandbox.interpreter import Interpreter
from biomni_lib.sandbox.limits import Limits
from biomni_lib.sandbox.protection import IsolationError
from biomni_lib.sandbox.tiers import Isolation, choose
from biomni_lib.sandbox.wire import encode_frame, receive_frame

_STANDARD_DESCRIPTORS = 3


def load_names(provider: str, lake_dir: Path | None) -> dict[str, Any]:
    """Call `module:function` with the lake's folder for the names that user code finds defined."""
    module, _, function = provider.partition(":")
    provide: Callable[[Path | None], Mapping[str, Any]] = getattr(importlib.import_module(module), function)
    return dict(provide(lake_dir))


def preload(modules: list[str]) -> list[str]:
    """Load modules for all sessions; those whose package is not installed."""
    absent = [module for module in modules if importlib.util.find_spec(module.partition(".")[0]) is None]
    for module in modules:
        if module not in absent:
            importlib.import_module(module)
    return absent


def _open_descriptors() -> set[int]:
    listed = [int(name) for name in os.listdir("/dev/fd")]
    return {descriptor for descriptor in listed if os.path.exists(f"/dev/fd/{descriptor}")}


def _send_with_descriptors(control: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    control.sendmsg([encode_frame(message)], rights)


def serve_session(peer: socket.socket, interpreter: Interpreter) -> None:
    """Run blocks in the order in which they come, until the parent goes."""
    while True:
        try:
            request = receive_frame(peer)
        except EOFError:
            return
        outcome = interpreter.run(request["code"], request["timeout_s"])
        reply = {"id": request["id"], "text": outcome.text, "ok": outcome.ok, "truncated": outcome.truncated}
        peer.sendall(encode_frame(reply))


class Zygote:
    """Forks sessions on request.

    Args:
        control: socket to the parent.
        isolation: how this process and its sessions are shut in.
        settings: as sent by the parent (`ZygoteSettings`).
    """

    def __init__(self, control: socket.socket, isolation: Isolation, settings: dict[str, Any]) -> None:
        self._control, self._isolation, self._settings = control, isolation, settings

    def prepare(self) -> None:
        """Load what sessions need, then shut this process in."""
        before = _open_descriptors()
        self.absent = preload(self._settings["preload"])
        lake_dir = self._settings["lake_dir"]
        self._names = load_names(self._settings["provider"], Path(lake_dir) if lake_dir else None)
        self._provided = _open_descriptors() - before
        self._isolation.enter_zygote()
        self._watch_children()
        gc.collect()
        gc.disable()
        gc.freeze()

    def serve(self) -> None:
        """Answer the parent's requests until it goes, and tidy up after every session that ends."""
        while True:
            readable, _, _ = select.select([self._control, self._child_ended], [], [])
            if self._child_ended in readable:
                self._child_ended.recv(4096)
                self._isolation.tidy()
            if self._control in readable:
                data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 1)
                if not data:
                    return
                self._open_session(int.from_bytes(data, "big"), descriptors[0])

    def _watch_children(self) -> None:
        """Have the end of a child wake `serve`."""
        self._child_ended, wakeup = socket.socketpair()
        for end in (self._child_ended, wakeup):
            end.setblocking(False)
        signal.set_wakeup_fd(wakeup.detach(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _open_session(self, seed: int, descriptor: int) -> None:
        pidfds: list[int] = []
        try:
            pid = self._isolation.fork()
            if pid == 0:
                self._become_session(seed, descriptor)
            if hasattr(os, "pidfd_open"):
                pidfds.append(os.pidfd_open(pid))
            _send_with_descriptors(self._control, {"pid": pid}, pidfds)
        except OSError as error:
            self._control.sendall(encode_frame({"error": f"fork: {error}"}))
        finally:
            for used in (descriptor, *pidfds):
                os.close(used)

    def _become_session(self, seed: int, descriptor: int) -> None:
        """The child's whole life; never returns into the zygote's loop."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            gc.enable()
            peer = socket.socket(fileno=descriptor)
            os.set_inheritable(descriptor, False)
            if self._shut_in(peer):
                serve_session(peer, Interpreter(self._names, seed, self._settings["limits"]["output_chars"]))
                status = 0
        finally:
            os._exit(status)

    def _shut_in(self, peer: socket.socket) -> bool:
        """Give up every right and every descriptor that user code must not have, and report to the parent."""
        try:
            self._isolation.enter_session()
            keep = {peer.fileno(), *self._provided}
            for descriptor in range(_STANDARD_DESCRIPTORS, self._settings["limits"]["files"]):
                if descriptor not in keep:
                    try:
                        os.close(descriptor)
                    except OSError:
                        continue
            self._isolation.seal_session()
        except (IsolationError, OSError) as error:
            peer.sendall(encode_frame({"error": str(error)}))
            return False
        peer.sendall(encode_frame({"ready": True}))
        return True


def _choose(settings: dict[str, Any]) -> tuple[Isolation, tuple[str, ...]]:
    lake_dir = Path(settings["lake_dir"]) if settings["lake_dir"] else None
    return choose(settings["isolation"], Limits(**settings["limits"]), lake_dir, Path(settings["scratch_dir"]))


def main(descriptor: int) -> int:
    """Choose the isolation, launch the zygote as the first child, wait for its end and clear up after it."""
    control = socket.socket(fileno=descriptor)
    settings = receive_frame(control)
    try:
        isolation, missing = _choose(settings)
        isolation.enter_launcher()
        scratch_dir = Path(settings["scratch_dir"])
        above = os.open(scratch_dir.parent, os.O_RDONLY)  # the zygote takes this process's root away
        pid = os.fork()
        if pid:
            control.close()
            os.waitpid(pid, 0)
            isolation.end()
            with contextlib.suppress(OSError):  # the parent may be quicker
                os.rmdir(scratch_dir.name, dir_fd=above)
            return 0
        os.close(above)
        zygote = Zygote(control, isolation, settings)
        zygote.prepare()
    except Exception as error:  # noqa: BLE001 - what a provider raises while loading is the parent's to report
        control.sendall(encode_frame({"error": str(error) or type(error).__name__, "kind": type(error).__name__}))
        return 1
    missing += tuple(f"module {module}" for module in zygote.absent)
    control.sendall(encode_frame({"ready": True, "tier": isolation.name, "missing": missing}))
    zygote.serve()
    isolation.end()
    return 0


if __name__ == "__main__":
    os._exit(main(int(sys.argv[1])))
