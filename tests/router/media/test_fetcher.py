"""Pictures of other hosts: fetched over loopback, with a resolver of its own in place of DNS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from router.errors import InvalidRequest
from router.media.fetcher import MediaFetcher
from router.media.loader import MediaLoader
from router.media_rules import MediaRules
from router.prompt import Media, Message, Prompt, joined
from tests.fakes.models import served
from tests.router.media.pictures import data_uri, picture

PUBLIC = "93.184.215.14"
RULES = MediaRules(allowed_hosts=("pictures.example", "*.cdn.example", "odd.example:8443"), timeout_s=2.0)


class Loopback(httpx.AsyncHTTPTransport):
    """Stands for the network: the public address is the server on this machine. Others are not reached."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._port = urlsplit(url).port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert request.url.host == PUBLIC
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await super().handle_async_request(request)


@dataclass
class Names:
    """A resolver. `addresses` are those of each name; every other name has the public one."""

    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.addresses.get(host, (PUBLIC,))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    app = FastAPI()

    @app.get("/{path:path}")
    async def get(path: str, request: Request) -> Response:
        if path == "elsewhere":
            return Response(status_code=302, headers={"location": "http://169.254.169.254/latest/meta-data"})
        if path == "slow":
            await request.receive()
            while not await request.is_disconnected():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        if path == "large":
            return Response(bytes(3_000), media_type="image/png")
        status = 200 if path == "a.png" else 404
        return Response(picture(), status)

    with served(app) as url:
        yield url


def loader(server: str, names: Names) -> MediaLoader:
    return MediaLoader(MediaFetcher(names, Loopback(server)))


async def load(loader: MediaLoader, url: str, rules: MediaRules = RULES) -> str:
    text, media = joined([Media("image", url)])
    loaded = await loader.load(Prompt((Message("user", text, media=media),)), rules)
    return next(loaded.media).url


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://pictures.example/a.png", ("pictures.example", 80)),
        ("http://PICTURES.example:80/a.png?size=2", ("pictures.example", 80)),
        ("http://eu.west.cdn.example/a.png", ("eu.west.cdn.example", 80)),
        ("http://odd.example:8443/a.png", ("odd.example", 8443)),
    ],
)
async def test_a_picture_of_an_allowed_host_becomes_a_data_uri(server: str, url: str, asked: tuple[str, int]):
    names = Names()
    assert await load(loader(server, names), url) == data_uri(picture())
    assert names.asked == [asked]  # once: the address that was checked is the one that is used


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/a.png",
        "http://cdn.example/a.png",
        "http://evilcdn.example/a.png",
        "http://pictures.example.evil.example/a.png",
        "http://pictures.example:8080/a.png",
        "http://odd.example/a.png",
        "http://user:word@pictures.example/a.png",
        "http://pictures.example@evil.example/a.png",
        "http://127.0.0.1/a.png",
        "http://[::1]/a.png",
        "ftp://pictures.example/a.png",
        "gopher://pictures.example/a.png",
        "http://pictures.example:port/a.png",
    ],
)
async def test_no_other_host_is_even_looked_up(server: str, url: str):
    names = Names()
    with pytest.raises(InvalidRequest, match="^messages: image 1: its (host|address)"):
        await load(loader(server, names), url)
    assert names.asked == []


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("10.1.2.3",),
        ("172.16.0.1",),
        ("192.168.1.1",),
        ("169.254.169.254",),
        ("100.64.0.1",),
        ("0.0.0.0",),
        ("224.0.0.1",),
        ("::1",),
        ("fe80::1%eth0",),
        ("fd00::1",),
        ("::ffff:127.0.0.1",),
        ("64:ff9b::7f00:1",),
        ("2002:7f00:1::",),
        (PUBLIC, "127.0.0.1"),
        (),
    ],
)
async def test_an_address_that_is_not_public_is_refused(server: str, addresses: tuple[str, ...]):
    names = Names({"pictures.example": addresses})
    with pytest.raises(InvalidRequest, match="pictures.example is not at a public address"):
        await load(loader(server, names), "http://pictures.example/a.png")


@pytest.mark.parametrize(
    ("path", "rules", "why"),
    [
        ("elsewhere", RULES, "redirects are not followed"),
        ("missing", RULES, "answered with status 404"),
        ("large", RULES.model_copy(update={"max_bytes": 2_000}), "more than the 2000 bytes"),
        ("large", RULES, "it is not a PNG"),
        ("slow", RULES.model_copy(update={"timeout_s": 0.1}), "did not come within 0.1 s"),
    ],
)
async def test_what_is_not_there_in_time_is_refused_with_the_reason(
    server: str, path: str, rules: MediaRules, why: str
):
    with pytest.raises(InvalidRequest, match=f"^messages: image 1: .*{why}"):
        await load(loader(server, Names()), f"http://pictures.example/{path}", rules)


async def test_a_host_without_an_address_or_a_server_is_named():
    async def fails(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    with pytest.raises(InvalidRequest, match="pictures.example has no address"):
        await load(MediaLoader(MediaFetcher(fails)), "http://pictures.example/a.png")
    with pytest.raises(InvalidRequest, match=r"pictures.example cannot be reached \(ConnectError\)"):
        await load(loader("http://127.0.0.1:1", Names()), "http://pictures.example/a.png")


async def test_the_server_sees_the_name_that_the_client_wrote(server: str):
    fetched: list[httpx.Request] = []

    class Recording(Loopback):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            fetched.append(request)
            return await super().handle_async_request(request)

    await load(MediaLoader(MediaFetcher(Names(), Recording(server))), "http://odd.example:8443/a.png")
    (request,) = fetched
    assert request.headers["host"] == "odd.example:8443"
    assert request.extensions["sni_hostname"] == "odd.example"
    assert request.headers["accept-encoding"] == "identity"
