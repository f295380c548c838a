"""A hub on this machine that has one model, Owner/Model: the demo PRM's checkpoint."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

import vprm_demo

COMMIT = "a" * 40
CHECKPOINT = vprm_demo.checkpoint_dir()


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks for when a snapshot is downloaded, answered from the demo's checkpoint."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        files = {
            **{file.name: file.read_bytes() for file in CHECKPOINT.iterdir()},
            "modeling.py": b"code",
            "a.bin": b"",
        }
        path = self.path.split("?")[0]
        self.asked.append(path)
        if path.startswith("/api/models/Owner/Model"):
            listed = [{"rfilename": name} for name in files]
            content = json.dumps({"id": "Owner/Model", "sha": COMMIT, "siblings": listed}).encode()
            if "/tree/" in path:  # later versions of the library ask for this
                tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": COMMIT} for name in files]
                content = json.dumps(tree).encode()
            headers = {"Content-Type": "application/json"}
        elif path.startswith(f"/Owner/Model/resolve/{COMMIT}/"):
            content = files[path.rsplit("/", 1)[1]]
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on this machine; what it was asked for."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: huggingface_hub.hf_api.HfApi(endpoint=endpoint))
    Hub.asked.clear()
    yield Hub.asked
    server.shutdown()
    thread.join()
    server.server_close()
