import http.server
import runpy
import threading
from pathlib import Path

import pytest

HEALTH = runpy.run_path(str(Path(__file__).parents[2] / "environment" / "health.py"))


def test_what_was_started_is_asked_and_must_answer(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setitem(HEALTH["ADDRESSES"], "lab", f"http://127.0.0.1:{server.server_port}/")
        HEALTH["check"](["make", "lab", "LAB_ARGS=--no-browser"])
        server.shutdown()
    with pytest.raises(OSError):
        HEALTH["check"](["make", "lab", "LAB_ARGS=--no-browser"])
    HEALTH["check"](["make", "reproduce", "PRESET=cpu"])  # serves nothing


def test_it_asks_where_the_image_serves():
    image = (Path(__file__).parents[2] / "Dockerfile").read_text()
    ports = [address.rsplit(":", 1)[1].split("/")[0] for address in HEALTH["ADDRESSES"].values()]
    assert f"EXPOSE {' '.join(ports)}" in image and "environment/health.py" in image
