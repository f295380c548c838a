"""Servers that are full, small, slow, or no vprm servers: an answer in time, and never a number that nobody gave."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from tests.serving.conftest import running

import vprm
from vprm_client.protocol import sent_images
from vprm_runtime import ServerError, StepScorer
from vprm_serving.service import Service
from vprm_serving.settings import Settings


def answering(*answers: httpx.Response) -> vprm.Client:
    """A client whose server gives these answers in turn, the last one for ever."""
    left = list(answers)
    return vprm.Client(transport=httpx.MockTransport(lambda _: left.pop(0) if len(left) > 1 else left[0]))


@contextmanager
def trickling() -> Iterator[str]:
    """The address of a server whose answer has no end."""
    listening = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()

    def trickle(caller: socket.socket) -> None:
        with caller:
            caller.recv(1 << 16)
            try:
                caller.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[")
                while not is_over.wait(0.05):
                    caller.sendall(b" ")
            except OSError:
                return

    def listen() -> None:
        try:
            while True:
                threading.Thread(target=trickle, args=(listening.accept()[0],), daemon=True).start()
        except OSError:
            return

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        is_over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def test_an_answer_that_trickles_in_ends_with_the_deadline() -> None:
    async def ask(url: str) -> None:
        async with vprm.AsyncClient(url, timeout_s=0.5) as client:
            await client.score(None, "Which?", ["One."])

    with trickling() as url:
        with vprm.Client(url, timeout_s=0.5) as client, pytest.raises(ServerError):
            client.score(None, "Which?", ["One."])
        with pytest.raises(ServerError):
            asyncio.run(ask(url))


RESULT = {"index": 0, "score": 0.5, "steps": [{"text": "One.", "score": 0.5}], "error": None}
ODD_RESULTS: list[Any] = [
    [], [RESULT, {**RESULT, "index": 1}], [{**RESULT, "index": 1}], [{**RESULT, "score": float("nan")}],
    [{**RESULT, "score": 1.5}], [{**RESULT, "score": "0.5"}], [{**RESULT, "score": True}],
    [{**RESULT, "steps": [{"text": "One.", "score": float("inf")}]}], [None], None, {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("results", ODD_RESULTS)
def test_results_that_are_none_are_errors(results: Any) -> None:
    document = json.dumps({"tiles": [], "results": results}).encode()
    with answering(httpx.Response(200, content=document)) as client, pytest.raises(ServerError):
        client.score(None, "Which?", ["One."])


@pytest.mark.parametrize("body", [{}, [], {"ranking": None}, {"ranking": [0]}, {"ranking": [0, 0]},
                                  {"ranking": [0, 2]}, {"ranking": [True, False]}, {"ranking": [-1, 0]}])  # fmt: skip
def test_rankings_that_are_none_are_errors(body: Any) -> None:
    with answering(httpx.Response(200, json=body)) as client, pytest.raises(ServerError):
        client.select_best_response("Which?", ["One.", "Two."])


@pytest.mark.parametrize("body", [{}, [], {"session": "a"}, {"session": "a", "tiles": 1}])
def test_sessions_that_are_none_are_errors(body: Any) -> None:
    with answering(httpx.Response(201, json=body)) as client, pytest.raises(ServerError):
        client.session(None, "Which?")


def test_a_damaged_packed_answer_is_an_error() -> None:
    odd = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))
    with vprm.Client(transport=httpx.MockTransport(lambda _: odd), retries=0) as client, pytest.raises(ServerError):
        client.score(None, "Which?", ["One."])


@pytest.mark.parametrize("method", ["fork", "rewind"])
def test_what_a_full_server_refused_is_tried_again_whatever_it_is(method: str) -> None:
    facts = {"session": "a", "tiles": [], "prefix_tokens": 3, "steps": []}
    full = httpx.Response(429, json={"error": "full", "code": "overloaded"})
    with answering(httpx.Response(201, json=facts), full, full, httpx.Response(200, json=facts)) as client:
        getattr(client.session(None, "Which?"), method)()
    broken = httpx.Response(500, json={"error": "broken", "code": "server"})
    with answering(httpx.Response(201, json=facts), broken, httpx.Response(200, json=facts)) as client:
        session = client.session(None, "Which?")
        with pytest.raises(ServerError):  # it may have been done
            getattr(session, method)()


def test_images_that_the_server_does_not_keep_travel_with_the_row(
    demo_bundle: Path, demo_scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    images = [make_image(500, 300), make_image(300, 500)]
    wanted = demo_scorer.score(images, "Which?", ["One."]).scores
    largest = max(len(image.content) for image in sent_images(images))
    for cache_bytes in (0, 4 * largest + 400):  # no image is kept; none while the other is
        settings = Settings(bundle=demo_bundle, cache_bytes=cache_bytes)
        with running(Service(settings)) as server, vprm.Client(server.url) as client:
            assert client.score(images, "Which?", ["One."]).scores == pytest.approx(wanted, abs=1e-6)


def test_a_key_may_have_any_characters(demo_bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ключ: a b\n", encoding="utf-8")
    with running(Service(Settings(bundle=demo_bundle, api_key_file=keys))) as server:
        with vprm.Client(server.url, api_key="ключ: a b") as client:
            assert client.score(None, "Which?", ["One."]).best == 0
        with vprm.Client(server.url, api_key="ключ") as client, pytest.raises(ServerError, match="key"):
            client.score(None, "Which?", ["One."])
