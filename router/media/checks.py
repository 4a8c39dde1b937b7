"""Checks of media: they are what they say, and not more than a model should have to decode.

Pillow, of the extra `images`, is imported when the first picture comes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from router.errors import InvalidRequest, ModelFailed
from router.media.data_uri import CODE

if TYPE_CHECKING:
    from PIL.Image import Image

# By Pillow's names. MPO is JPEG with further pictures behind the first, as phones write it.
TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}
_MP3 = (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")


def check_image(data: bytes, max_pixels: int) -> str:
    """The type of a picture. Blocks for as long as it takes to decode it once.

    Its pixels are counted in its header, before anything is decoded. A PNG is never decoded, as it has
    checksums, and a JPEG only at an eighth of its size.

    Raises:
        InvalidRequest: it is no PNG, JPEG, WebP or GIF, has more pixels, moves, or is damaged.
        ModelFailed: Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ModelFailed("pictures need the extra `images` on every node that runs a router") from error
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
            _require_few_pixels(image, max_pixels)
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise _invalid("it moves; send one picture")
            kind = TYPES[image.format or ""]
            if image.format == "PNG":
                image.verify()
            else:
                image.draft("L", (1, 1))
                image.load()
    except UnidentifiedImageError as error:
        raise _invalid("it is not a PNG, JPEG, WebP or GIF picture") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(max_pixels) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise
        raise _invalid("it is damaged or not complete") from error
    return kind


def check_audio(data: bytes) -> str:
    """The type of a recording. Raises InvalidRequest: it is neither WAV nor MP3."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    if data.startswith(_MP3):
        return "audio/mpeg"
    raise _invalid("it is neither a WAV nor an MP3 recording")


def check_file(data: bytes) -> str:
    """The type of a file. Raises InvalidRequest: it is no PDF."""
    if not data.startswith(b"%PDF-"):
        raise _invalid("it is not a PDF")
    return "application/pdf"


def _require_few_pixels(image: Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_many_pixels(max_pixels)


def _too_many_pixels(max_pixels: int) -> InvalidRequest:
    return _invalid(f"it has more than {max_pixels} pixels")


def _invalid(problem: str) -> InvalidRequest:
    return InvalidRequest(problem, "messages", CODE)
