"""Clients that offer HTTP/2, or speak HTTP/1.0, over real connections."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn.config

from deployments.http.header_filter import middlewares
from deployments.http.protocol import HttpProtocol
from router.dialects.app import build_app
from tests.fakes.models import FakeGateway, hands_over, models, served, writes

CHAT = "/v1/chat/completions"
H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"
PLAIN = json.dumps({"messages": [{"role": "user", "content": "9?"}]}).encode()
STREAMED = json.dumps({"messages": [{"role": "user", "content": "9?"}], "stream": True}).encode()

Response = tuple[int, dict[str, str], bytes]


class Connection:
    """One connection, to send what no HTTP library would."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=20)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def response(self) -> Response:
        status = int(self._file.readline().split()[1])
        pairs = (line.decode().rstrip().split(": ", 1) for line in iter(self._file.readline, b"\r\n"))
        headers = {name.lower(): value for name, value in pairs}
        if "content-length" in headers:
            return status, headers, self._file.read(int(headers["content-length"]))
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, b"".join(self._chunks())
        return status, headers, self._file.read()

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._file.readline(), 16):
            yield self._file.read(size)
            self._file.readline()
        self._file.readline()


@pytest.fixture(scope="module")
def connect() -> Iterator[Callable[[], Connection]]:
    gateway = FakeGateway(models(meta=hands_over("roman"), roman=writes("I", "X")))
    with served(build_app(gateway), HttpProtocol) as url:
        parts = urlsplit(url)
        yield lambda: Connection((parts.hostname or "", parts.port or 0))


def request(body: bytes, headers: str = "", version: str = "1.1", *, chunked: bool = False) -> bytes:
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = f"POST {CHAT} HTTP/{version}\r\nHost: router\r\n{headers}{length}\r\n\r\n".encode()
    return head + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)


def assert_answered(response: Response) -> None:
    status, _, body = response
    assert status == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"] == "IX"


def assert_streamed(response: Response) -> None:
    status, _, body = response
    assert status == 200
    assert body.startswith(b"data: ")
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_of_http_2_is_ignored(connect: Callable[[], Connection], chunked: bool):
    with connect() as connection:
        for _ in range(2):
            connection.send(request(PLAIN, H2C, chunked=chunked))
            assert_answered(connection.response())
        connection.send(request(STREAMED, H2C, chunked=chunked))
        assert_streamed(connection.response())


@pytest.mark.parametrize("cut", [1, 5, 30, 60, 120, 200])
def test_a_request_may_come_in_pieces(connect: Callable[[], Connection], cut: int):
    for headers in (H2C, "Accept: */*\r\n"):
        data = request(PLAIN, headers)
        with connect() as connection:
            connection._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(data), cut):
                connection.send(data[start : start + cut])
            assert_answered(connection.response())


def test_a_client_of_http_1_0_gets_no_chunks(connect: Callable[[], Connection]):
    with connect() as connection:
        connection.send(request(STREAMED, version="1.0"))
        response = connection.response()
    assert_streamed(response)
    assert "transfer-encoding" not in response[1]
    with connect() as connection:
        connection.send(request(PLAIN, version="1.0"))
        assert_answered(connection.response())


@pytest.mark.parametrize(("headers", "version"), [(H2C, "1.1"), ("", "1.0")])
def test_a_connection_that_another_client_has_used_is_good(
    connect: Callable[[], Connection], headers: str, version: str
):
    """A proxy sends requests of many clients through one connection."""
    with connect() as connection:
        for _ in range(2):
            connection.send(request(PLAIN))
            assert_answered(connection.response())
        connection.send(request(STREAMED, headers, version))
        response = connection.response()
        assert_streamed(response)
        assert ("transfer-encoding" in response[1]) is (version == "1.1")


def test_a_body_that_looks_like_a_request_is_a_body(connect: Callable[[], Connection]):
    inner = request(PLAIN, version="1.0")
    body = json.dumps({"messages": [{"role": "user", "content": inner.decode()}]}).encode()
    with connect() as connection:
        head, _, _ = request(body).partition(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        connection.send(body)
        assert_answered(connection.response())
        connection.send(request(PLAIN))
        assert_answered(connection.response())


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nbad\r\n\r\n"],
)
def test_garbage_is_refused_at_once(connect: Callable[[], Connection], garbage: bytes):
    with connect() as connection:
        connection.send(garbage)
        assert connection.response()[0] == 400


def test_serve_starts_uvicorn_with_this_protocol(monkeypatch: pytest.MonkeyPatch):
    chosen: dict[str, Any] = dict(uvicorn.config.HTTP_PROTOCOLS)
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", chosen)
    middlewares()
    config = uvicorn.Config(build_app(FakeGateway({})))
    config.load()
    assert config.http_protocol_class is HttpProtocol
