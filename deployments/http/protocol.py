"""HTTP/1 for clients that uvicorn's fast parser does not serve.

Serve starts uvicorn without a choice of its parser, so uvicorn takes httptools. That one refuses a request
that offers an upgrade to HTTP/2, as Java's HttpClient does, and sends chunks to clients of HTTP/1.0. h11 does
both right, but costs twice as much for each piece of a stream.
"""

from __future__ import annotations

import re

import uvicorn.config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 65_536  # how much of a request is searched for what it needs

# What may become a head: its first line, or the beginning of one.
_BEGUN = re.compile(rb"[A-Z]+ [^ \r\n]+ HTTP/1\.[01]\r\n|[A-Z]{1,16}(?: [^\r\n]*\r?)?\Z")
# A request of HTTP/1.0, or one that offers to upgrade to anything but a web socket.
_NEEDS_H11 = re.compile(
    rb"[A-Z]+ [^ \r\n]+ HTTP/1\.0\r\n"
    rb"|[A-Z]+ [^ \r\n]+ HTTP/1\.1\r\n(?:[^\r\n]+\r\n)*?(?i:upgrade):[ \t]*(?!(?i:websocket))"
)


class HttpProtocol(HttpToolsProtocol):
    """Uses httptools until a request needs h11, which then keeps the connection.

    It decides anew at every request: a proxy sends requests of different clients through one connection.
    """

    _held = b""  # the beginning of a head

    def data_received(self, data: bytes) -> None:
        if not self._begins_request:
            super().data_received(data)
            return
        data, self._held = self._held + data, b""
        head = data[:MAX_HEAD_BYTES]
        if _NEEDS_H11.match(head):
            self._continue_with_h11(data)
        elif _BEGUN.match(head) and b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES:
            self._unset_keepalive_if_required()
            self._held = data
        else:
            super().data_received(data)

    @property
    def _begins_request(self) -> bool:
        """Whether the next byte can only be the first one of a request."""
        if self.cycle is None:
            return self.headers is None
        return self.cycle.response_complete and not self.cycle.more_body

    def _continue_with_h11(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        protocol = H11Protocol(self.config, self.server_state, self.app_state, self.loop)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(data)


def install() -> None:
    """Make uvicorn use this protocol in this process, wherever no other is asked for."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{HttpProtocol.__name__}"
