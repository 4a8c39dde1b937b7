"""The headers that a client cannot send to Serve's proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.http_util import validate_http_proxy_callback_return
from ray.serve._private.utils import call_function_from_import_path
from starlette.types import Message, Receive, Scope, Send

from cluster.ray_env import RAY_ENV
from deployments.http.header_filter import HeaderFilter


async def passed(*headers: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    await HeaderFilter(app)({"type": "http", "headers": [*headers]}, receive, send)
    return list(seen[0]["headers"])


@pytest.mark.parametrize(
    "name",
    [
        b"x-request-disconnect-disabled",
        b"X-Request-Timeout-Seconds",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        "x-réquest".encode(),
    ],
)
async def test_headers_that_control_the_proxy_are_removed(name: bytes):
    kept = (b"authorization", b"Bearer key")
    assert await passed((name, b"1"), kept) == [kept]


@pytest.mark.parametrize(
    ("request_id", "is_kept"), [(b"mine-1.a_B", True), (b"\xe9\xff", False), (b"", False), (b"a b", False)]
)
async def test_a_request_id_is_kept_if_it_is_plain(request_id: bytes, is_kept: bool):
    """Serve's proxy answered 500 to one that was not UTF-8."""
    headers = await passed((b"x-request-id", request_id))
    assert headers == ([(b"x-request-id", request_id)] if is_kept else [])


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=40))))
async def test_every_header_that_passes_is_valid_text(headers: list[tuple[bytes, bytes]]):
    kept = await passed(*headers)
    assert [pair for pair in headers if pair in kept] == kept
    for name, value in kept:
        assert name.decode()
        assert name.lower() != b"x-request-id" or value.decode()


def test_the_filter_is_in_the_environment_of_every_node():
    path = RAY_ENV["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    middlewares = validate_http_proxy_callback_return(call_function_from_import_path(path))
    classes: list[object] = [middleware.cls for middleware in middlewares]
    assert classes == [HeaderFilter]
