"""Fetches pictures from hosts that the operator allows, and from no address that is not public."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

from router.errors import InvalidRequest
from router.media.data_uri import CODE, too_large
from router.media_rules import MediaRules

# The IP addresses of a host, in the order in which to try them. Raises OSError if there are none.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_PORTS = {"http": 80, "https": 443}
_NAT64 = ip_network("64:ff9b::/96")  # counts as public, whatever IPv4 address is in it


async def resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class MediaFetcher:
    """A name is resolved once, and the connection is made to the address that was checked: a name that has
    another address a moment later leads nowhere else. Redirects are not followed, and no proxy is used."""

    def __init__(self, resolve: Resolve = resolve, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._resolve = resolve
        self._transport = transport

    async def fetch(self, url: str, rules: MediaRules, max_bytes: int) -> bytes:
        """What is at `url`.

        Raises InvalidRequest: the host is not allowed, its address is not public, or it does not answer with
        status 200 and at most `max_bytes`.
        """
        parsed = _parse(url, rules)
        try:
            return await self._read(parsed, await self._public_address(parsed), max_bytes)
        except httpx.HTTPError as error:
            raise _invalid(f"{parsed.host} cannot be reached ({type(error).__name__})") from error

    async def _public_address(self, url: httpx.URL) -> str:
        try:
            found = await self._resolve(url.host, _port(url))
        except OSError as error:
            raise _invalid(f"{url.host} has no address") from error
        if not found or not all(_is_public(ip_address(address.partition("%")[0])) for address in found):
            raise _invalid(f"{url.host} is not at a public address")
        return found[0]

    async def _read(self, url: httpx.URL, address: str, max_bytes: int) -> bytes:
        # Without a client that outlives the request: no connection is kept to a host that a client chose.
        async with httpx.AsyncClient(transport=self._transport, trust_env=False, timeout=None) as client:
            request = client.build_request(
                "GET",
                url.copy_with(host=address),
                headers={"host": url.netloc.decode(), "accept": "image/*", "accept-encoding": "identity"},
                extensions={"sni_hostname": url.host},
            )
            response = await client.send(request, stream=True)
            try:
                return await _body(response, url.host, max_bytes)
            finally:
                await response.aclose()


async def _body(response: httpx.Response, host: str, max_bytes: int) -> bytes:
    if response.is_redirect:
        raise _invalid(
            f"{host} redirects to another address, and redirects are not followed; send that address"
        )
    if response.status_code != httpx.codes.OK:
        raise _invalid(f"{host} answered with status {response.status_code}")
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > max_bytes:
            raise too_large(max_bytes)
    return bytes(data)


def _parse(url: str, rules: MediaRules) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise _invalid("its address is not valid") from error
    if parsed.scheme not in _PORTS or not parsed.host or parsed.userinfo:
        raise _invalid("its address must begin with data:, http:// or https://, and hold no credentials")
    if not any(_matches(parsed, allowed) for allowed in rules.allowed_hosts):
        raise _invalid(
            "its host is not one from which pictures are fetched here; send the picture in a data: URI"
        )
    return parsed


def _matches(url: httpx.URL, allowed: str) -> bool:
    host, _, port = allowed.partition(":")
    is_host = url.host.endswith(host[1:]) if host.startswith("*.") else url.host == host
    return is_host and _port(url) == (int(port) if port else _PORTS[url.scheme])


def _port(url: httpx.URL) -> int:
    return url.port or _PORTS[url.scheme]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inside:
            return _is_public(inside)
        if address in _NAT64:
            return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast


def _invalid(problem: str) -> InvalidRequest:
    return InvalidRequest(problem, "messages", CODE)
