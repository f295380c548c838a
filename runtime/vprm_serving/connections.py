"""Connections that cannot be held for nothing: heads have a size and a time, and answers have to be read.

uvicorn bounds none of them: a head without end fills the memory, and connections that say nothing stay for ever.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 1 << 16
"""Of a request's line and headers, or of what follows a chunked body; the first packet is not counted."""
HEAD_S = 30.0
"""Seconds from the connection, or from a request's first byte, to the end of its headers."""
UNREAD_S = 60.0
"""Seconds that a caller may leave an answer unread that does not fit the system's buffers."""
_TOO_LARGE = b'{"error":"the headers have more than 65,536 bytes: send fewer","code":"too_large"}'
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_TOO_LARGE), _TOO_LARGE)
)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with these bounds."""

    _head_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _bytes_since = 0
    _has_moved = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has connected, and has to say what it wants."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._end_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; what brings neither the end of a head nor more of a body is counted."""
        self._has_moved = False
        super().data_received(data)
        self._bytes_since = 0 if self._has_moved else self._bytes_since + len(data)
        if not self._has_moved and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        if self._bytes_since > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_REFUSAL)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._has_moved = True
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        self._has_moved = True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of its body is there."""
        self._has_moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._has_moved = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The caller does not read its answer."""
        super().pause_writing()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read some."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        super().resume_writing()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _end_timers(self) -> None:
        for timer in (self._head_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._unread_timer = None
