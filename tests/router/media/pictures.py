"""Pictures for tests, and pictures that are not what they seem."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from functools import cache

from PIL import Image


@cache
def picture(kind: str = "PNG", size: tuple[int, int] = (8, 6), *, noisy: bool = False) -> bytes:
    """With `noisy`, it cannot be compressed."""
    image = Image.new("RGB", size, "teal")
    if noisy:
        image.frombytes(random.Random(1).randbytes(3 * size[0] * size[1]))
    file = io.BytesIO()
    best = {"quality": 100, "subsampling": 0} if noisy and kind == "JPEG" else {}
    image.save(file, kind, **best)
    return file.getvalue()


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_bomb(width: int, height: int) -> bytes:
    """A small file whose header promises many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def moving() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 99, 200)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
