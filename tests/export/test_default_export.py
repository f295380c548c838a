"""`vprm export` without flags, and model ids of the hub."""

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
from vprm_export.command import _chosen
from vprm_export.hub import NEEDED, local_checkpoint
from vprm_runtime import Bundle, CheckpointError, native
from vprm_runtime.cli.main import main

COMMIT = "a" * 40
CHECKPOINT = vprm_demo.checkpoint_dir()


def test_without_flags_it_is_float16_and_names_the_better_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(CHECKPOINT), str(tmp_path / "bundle")]) == 0
    graphs = Bundle.open(tmp_path / "bundle").manifest.graphs
    assert (graphs.llm.precision, graphs.vision.precision) == ("fp16", "fp16")
    assert f"vprm optimize {CHECKPOINT}" in capfd.readouterr().err


def test_with_a_calibration_it_is_int8_for_this_machine(tmp_path: Path) -> None:
    assert _chosen(None, None, tmp_path) == ("int8", "cpu-native" if native.level() else "cpu")
    assert _chosen(None, "tensorrt", tmp_path) == ("int8", "tensorrt")
    assert _chosen("w8", None, tmp_path) == ("w8", "cpu")


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


def test_a_model_id_is_downloaded_pinned_and_named(hub: list[str], tmp_path: Path) -> None:
    lines: list[str] = []
    folder = local_checkpoint("Owner/Model", lines.append)
    assert folder.name == COMMIT and folder.parent.name == "snapshots"
    assert COMMIT in lines[0]
    fetched = {path.rsplit("/", 1)[1] for path in hub if "/resolve/" in path}
    assert "config.json" in fetched
    assert not fetched & {"modeling.py", "a.bin"}  # only what an export reads
    assert main(["export", str(folder), str(tmp_path / "bundle")]) == 0
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.model.name == "Owner/Model"
    assert manifest.provenance.revision == COMMIT
    asked = len([path for path in hub if "/resolve/" in path and not path.endswith("/config.json")])
    local_checkpoint("Owner/Model")
    assert len([path for path in hub if "/resolve/" in path and not path.endswith("/config.json")]) <= 2 * asked


def test_a_model_that_the_hub_does_not_have_is_an_error_with_the_command(hub: list[str]) -> None:
    with pytest.raises(CheckpointError, match="hf download Owner/Other --local-dir Other"):
        local_checkpoint("Owner/Other")


def test_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    assert local_checkpoint(str(tmp_path)) == tmp_path
    assert local_checkpoint("some/deep/path") == Path("some/deep/path")
    assert local_checkpoint("name") == Path("name")


def test_without_the_library_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install huggingface_hub.*hf download Owner/Model --revision v1 "):
        local_checkpoint("Owner/Model@v1")


def test_an_export_reads_only_files_that_are_downloaded() -> None:
    from fnmatch import fnmatch

    for file in CHECKPOINT.iterdir():
        assert any(fnmatch(file.name, pattern) for pattern in NEEDED), file.name
