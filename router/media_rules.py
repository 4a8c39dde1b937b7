"""Which media a request may hold: pictures, recordings and files, and from where they come."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from router.frozen import Frozen

Modality = Literal["text", "image", "audio", "file"]
# Pillow itself refuses pictures with twice as many.
MAX_PIXELS = 89_478_485
_HOST = r"^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$"

Host = Annotated[str, StringConstraints(pattern=_HOST)]


class MediaRules(Frozen):
    """The limits of the media in one request."""

    allowed_hosts: Annotated[tuple[Host, ...], Field(strict=False)] = Field(
        (),
        description="Hosts from which the router fetches pictures: `images.example.org`, or `*.example.org` "
        "for all below it; with a port if it is not that of http or https. By default none: clients send "
        "pictures in `data:` URIs.",
    )
    max_bytes: int = Field(
        16 * 2**20,
        ge=1024,
        le=2**28,
        description="Bytes of all pictures, recordings and files in one request together. If a model reads "
        "any, a body may be larger than `http.max_body_bytes` by as much as they take in base64.",
    )
    max_images: int = Field(
        16, ge=1, le=256, description="Maximum number of pictures, recordings and files in one request."
    )
    max_pixels: int = Field(
        4096 * 4096, ge=1, le=MAX_PIXELS, description="Maximum number of pixels of one picture."
    )
    timeout_s: float = Field(5.0, gt=0, le=60, description="Seconds to fetch all pictures of a request.")

    @property
    def max_encoded_bytes(self) -> int:
        """The size of `max_bytes` in base64."""
        return -(-self.max_bytes // 3) * 4
