"""Bodies of requests: their sizes, and their compression."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator

import pytest

from router.api.body import read_body
from router.errors import BodyTooLarge, InvalidRequest, RequestError, UnsupportedMediaType

TEXT = b'{"messages": []}' * 20


async def parts(body: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def read(body: bytes, coding: str = "", max_bytes: int = 1000) -> bytes:
    return await read_body(parts(body), coding, max_bytes)


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)  # the same in every worker


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (TEXT, ""),
        (TEXT, "identity"),
        (gzipped(TEXT), "gzip"),
        (gzipped(TEXT), " GZIP "),
        (gzipped(TEXT), "x-gzip"),
        (zlib.compress(TEXT), "deflate"),
        (raw_deflate(TEXT), "deflate"),
        (raw_deflate(b"x" * 900), "deflate"),
    ],
)
async def test_a_body_is_read_in_every_coding(body: bytes, coding: str):
    assert await read(body, coding) in (TEXT, b"x" * 900)


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip, gzip", "identity, gzip", "\xff", "z" * 9000])
async def test_an_unknown_coding_is_refused_by_name_before_the_body_is_read(coding: str):
    with pytest.raises(UnsupportedMediaType) as refused:
        await read_body(parts(b"never read"), coding, 1000)
    assert (refused.value.status, refused.value.code) == (415, "unsupported_content_encoding")
    assert f"content-encoding '{coding[:64]}'" in refused.value.message
    assert len(refused.value.message) < 200


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"x" * 1001, ""),
        (gzipped(b"x" * 1001), "gzip"),
        (gzipped(b"x" * 100_000_000), "gzip"),  # as large as 97 KB: a bomb
        (zlib.compress(b"x" * 1001), "deflate"),
    ],
)
async def test_the_limit_is_for_the_body_before_and_after_it_is_decompressed(body: bytes, coding: str):
    with pytest.raises(BodyTooLarge, match="1000 bytes"):
        await read(body, coding)


async def test_a_body_may_be_as_large_as_the_limit():
    assert len(await read(gzipped(b"x" * 1000), "gzip")) == 1000


@pytest.mark.parametrize("body", [b"", TEXT, gzipped(TEXT)[:-1], gzipped(TEXT)[:10], gzipped(TEXT) + b"x"])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_body_in_another_coding_than_it_says_is_refused(body: bytes, coding: str):
    with pytest.raises(RequestError) as refused:
        await read(body, coding)
    assert isinstance(refused.value, InvalidRequest)
    assert "content-encoding" in refused.value.message
