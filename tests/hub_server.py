"""A Hugging Face hub over HTTP for tests: one repository of a folder's files, by the routes that a download asks."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The repository `toy/model` with one commit, on its branch main.

    `stall`: name of a file of which nothing is sent but its first half, until the server closes; then `stalled` is set.
    `cut`: name of a file whose connection breaks off in the middle, once. `lost`: whether the list of files is refused,
    as by a hub that goes down. `seen`: (path, Range) of every GET.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, list[tuple[str, str | None]]()
        self.stall: str | None = None
        self.cut: str | None = None
        self.lost = False
        self.stalled, self.over = threading.Event(), threading.Event()
        self.url = ""

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())


def _file_facts(path: Path) -> dict[str, object]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    facts: dict[str, object] = {"size": path.stat().st_size, "oid": digest[:40]}
    if path.suffix == ".safetensors":  # large files have their sha256
        facts["lfs"] = {"oid": digest, "sha256": digest, "size": path.stat().st_size, "pointerSize": 130}
    return facts


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            hub.seen.append((self.path, self.headers.get("Range")))
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            named = parts[2:] if parts[:2] == ["api", "models"] else parts
            if named[:2] != ["toy", "model"]:
                return self._refuse(404, "RepoNotFound")
            route, revision, *rest = named[2:] or ["revision", "main"]
            if revision not in ("main", COMMIT):
                return self._refuse(404, "RevisionNotFound")
            if route == "revision":
                siblings = [{"rfilename": p.name, **_file_facts(p)} for p in hub.files]
                return self._json(
                    {"id": "toy/model", "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}}
                )
            if route == "tree":
                tree = [{"type": "file", "path": p.name, **_file_facts(p)} for p in hub.files]
                return self._refuse(403, "Down") if hub.lost else self._json(tree)
            return self._file(hub.folder / rest[0], body)

        def _file(self, path: Path, body: bool) -> None:
            if not path.is_file():
                return self._refuse(404, "EntryNotFound")
            content, begin = path.read_bytes(), 0
            asked = self.headers.get("Range")
            if asked:
                begin = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if not body:
                return
            broken = path.name in (hub.stall, hub.cut)
            self.wfile.write(content[begin : len(content) // 2] if broken else content[begin:])
            if path.name == hub.stall:
                hub.stalled.set()
                hub.over.wait()
            elif broken:
                hub.cut = None
                self.close_connection = True

        def _json(self, answer: object) -> None:
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Serve a folder as the repository `toy/model`."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
