"""Callers that send slowly, without end, or not at all: they get an end, and keep nobody out meanwhile."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.serving.conftest import RunningServer
from tests.serving.test_faults import eventually, text_row

from vprm_serving import connections

HEAD = b"POST /v1/score HTTP/1.1\r\nhost: x\r\n"
BODY = json.dumps(text_row()).encode()
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


def connected(server: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=30)


def read_to_end(caller: socket.socket) -> bytes:
    found = b""
    try:
        while more := caller.recv(1 << 16):
            found += more
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize(
    ("start", "more"),
    [(HEAD + b"x-a: ", b"a" * 8000), (HEAD, b"x-a: b\r\n" * 1000), (b"POST /", b"a" * 8000),
     (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n", b"x-a: b\r\n" * 1000),
     (HEAD + b"transfer-encoding: chunked\r\n\r\n1;", b"a" * 8000)],
)  # fmt: skip
def test_heads_without_end_are_refused(server: RunningServer, start: bytes, more: bytes) -> None:
    with connected(server) as caller:
        sent = 0
        try:
            caller.sendall(start)
            time.sleep(0.05)
            while sent < 40 << 20:
                caller.sendall(more)
                sent += len(more)
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert sent < 20 << 20  # what fits the system's buffers may have gone out
    assert server.score(text_row()).status_code == 200


def test_headers_of_a_usual_size_are_taken(server: RunningServer) -> None:
    for size in (100, 8_000, 60_000):
        assert server.http.post("/v1/score", json=text_row(), headers={"x-a": "a" * size}).status_code == 200


def test_connections_that_say_nothing_are_closed(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    for start in (b"", HEAD, WHOLE + HEAD, WHOLE + b"\r\n"):
        with connected(server) as caller:
            caller.sendall(start)
            assert read_to_end(caller).count(b"HTTP/1.1 200") == start.count(BODY)
    with connected(server) as caller:  # a body may take longer
        caller.sendall(WHOLE[:-5])
        time.sleep(0.5)
        caller.sendall(WHOLE[-5:])
        assert caller.recv(12) == b"HTTP/1.1 200"


def test_an_answer_that_is_not_read_ends_the_connection(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_S", 0.2)
    whole = len(server.http.get("/openapi.json").content)
    count = (64 << 20) // whole
    with connected(server) as caller:
        caller.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * count)
        time.sleep(1.5)
        assert len(read_to_end(caller)) < count * whole


def test_slow_bodies_keep_nobody_out(serve: Callable[..., RunningServer]) -> None:
    server = serve(limits={"max_queue_tokens": 1200, "max_held_bytes": 1 << 20, "max_body_bytes": 1 << 19})
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(server)) for _ in range(12)]
        for caller in slow[:2]:  # more than may be held, and nothing comes
            caller.sendall(HEAD + b"content-length: %d\r\n\r\n{" % (1 << 19))
        eventually(lambda: server.service.admission.requests == 2)
        eventually(lambda: server.score(text_row()).status_code == 200)
        for caller in slow[2:]:
            before = server.service.admission.requests
            caller.sendall(WHOLE[:-5])
            eventually(lambda before=before: server.service.admission.requests == before + 1)  # type: ignore[misc]
            eventually(lambda: server.service.admission.tokens == 0)
        assert server.score(text_row()).status_code == 200
        for caller in slow[2:]:
            caller.sendall(WHOLE[-5:])
            assert caller.recv(12) == b"HTTP/1.1 200"
    eventually(lambda: server.service.admission.requests == 0)
    assert (server.service.admission.tokens, server.service.admission.held_bytes) == (0, 0)


def test_errors_about_paths_do_not_tell_where_the_root_is(serve: Callable[..., RunningServer], tmp_path: Path) -> None:
    root = tmp_path / "secret-root"
    (root / "folder").mkdir(parents=True)
    os.mkfifo(root / "pipe")
    (root / "dangling").symlink_to("secret-name")
    (root / "text.png").write_text("no image")
    (root / "link.png").symlink_to("text.png")
    (root / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 100)
    server = serve(image_root=root)
    for name in ("folder", "pipe", "dangling", "text.png", "link.png", "damaged.png", "absent", "x" * 3000, "."):
        answer = server.score({**text_row(), "image": name})
        assert answer.status_code == 422
        assert "secret" not in answer.text
        assert name[:100] in answer.text
