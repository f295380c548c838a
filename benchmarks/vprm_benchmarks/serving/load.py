"""Load: closed loop (each client waits for its answer) and open loop (requests leave when they are due).

Requests are bytes made beforehand and sent over plain sockets, so that the generator takes little of the CPU that it
shares with the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

Value = TypeVar("Value")


@dataclass(frozen=True)
class Request:
    """A row to send, its body made, and a name for what kind of request it is."""

    row: dict[str, Any] = field(repr=False)
    body: bytes = field(repr=False)
    kind: str = ""

    @staticmethod
    def of(row: dict[str, Any], kind: str = "") -> Request:
        """The request of a row."""
        return Request(row, json.dumps(row).encode(), kind)


@dataclass(frozen=True)
class Reply:
    """What came of a request: status 0 if the connection was refused, reset or closed.

    latency_s counts from when the request was due; late_s of it passed before it was sent, which is the generator's.
    """

    request: Request
    due_s: float
    latency_s: float
    status: int
    body: bytes = field(repr=False, default=b"")
    headers: dict[str, str] = field(repr=False, default_factory=dict)
    late_s: float = 0.0


class Connection:
    """One connection to a server; opened anew if the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: Request, due_s: float | None = None) -> Reply:
        """One request and its answer. Latency counts from `due_s` (of time.monotonic), or from now."""
        sent = time.monotonic()
        started = sent if due_s is None else due_s
        try:
            status, headers, body = await self._exchange(request.body)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return Reply(request, started, time.monotonic() - started, 0)
        return Reply(request, started, time.monotonic() - started, status, body, headers, sent - started)

    async def _exchange(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
        reader, writer = self._streams
        head = f"POST /v1/score HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        writer.write(head + body)
        await writer.drain()
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.close()
        return int(first.split()[1]), headers, content

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def run(load: Coroutine[Any, Any, Value]) -> Value:
    """Put a load on a server, with an event loop that takes little of the CPU."""
    return uvloop.run(load)


async def closed_loop(port: int, clients: int, requests: Sequence[Request], seconds: float) -> list[Reply]:
    """`clients` connections that send one request after the other, taken from the list in turn."""
    until = time.monotonic() + seconds
    numbers = iter(range(1 << 60))
    replies: list[Reply] = []

    async def client() -> None:
        connection = Connection(port)
        while time.monotonic() < until:
            reply = await connection.send(requests[next(numbers) % len(requests)])
            replies.append(reply)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


async def open_loop(
    port: int, rate_per_s: float, requests: Sequence[Request], seconds: float, seed: int = 0
) -> list[Reply]:
    """Requests at exponential intervals, whatever the server does; latencies count from when each was due.

    On a machine that the server shares, the generator goes first if the system lets it: callers have their own CPU.
    """
    with _going_first():
        return await _open_loop(port, rate_per_s, requests, seconds, seed)


@contextmanager
def _going_first() -> Iterator[None]:
    """Give this process a higher priority, if it may have one."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, before - 10)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


async def _open_loop(
    port: int, rate_per_s: float, requests: Sequence[Request], seconds: float, seed: int
) -> list[Reply]:
    rng = random.Random(seed)
    idle: list[Connection] = []
    tasks = []
    start = due = time.monotonic()
    number = 0

    async def one(request: Request, due_s: float) -> Reply:
        connection = idle.pop() if idle else Connection(port)
        reply = await connection.send(request, due_s)
        idle.append(connection)
        return reply

    while (due := due + rng.expovariate(rate_per_s)) < start + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(one(requests[number % len(requests)], due)))
        number += 1
    replies = list(await asyncio.gather(*tasks))
    for connection in idle:
        connection.close()
    return replies


async def burst(port: int, requests: Sequence[Request]) -> list[Reply]:
    """All requests at once, each on a new connection."""
    connections = [Connection(port) for _ in requests]
    replies = await asyncio.gather(*(c.send(r) for c, r in zip(connections, requests, strict=True)))
    for connection in connections:
        connection.close()
    return list(replies)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The value below which `percent` of the values lie; None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))] if ordered else None
