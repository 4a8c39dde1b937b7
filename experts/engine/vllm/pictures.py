"""Pictures of a prompt, as vLLM takes them."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image, UnidentifiedImageError
from vllm.inputs import MultiModalInput, TokensPrompt
from vllm.multimodal.image import convert_image_mode, normalize_image

from experts.errors import InvalidPrompt, ModelLoadError


class PictureReader:
    """Prepares pictures for the model of one engine. `llm` is vLLM's client.

    Raises ModelLoadError: the model cannot read them.
    """

    def __init__(self, llm: Any, name: str) -> None:
        self._renderer = llm.renderer
        self._turn = asyncio.Semaphore(1)  # decoded pictures take much memory
        processor = self._renderer.mm_processor
        if processor is None or "image" not in processor.info.supported_mm_limits:
            raise ModelLoadError(f"{name}: vLLM knows no pictures for this model; set modalities: [text]")

    async def read(self, ids: Sequence[int], urls: Sequence[str], cache_salt: str | None) -> MultiModalInput:
        """A prompt in which every picture has as many tokens as the model needs for it.

        `ids`: the prompt with one placeholder for each picture. `urls`: the pictures as `data:` URIs.
        Raises:
            InvalidPrompt: one of them cannot be decoded, or the model cannot take it.
        """
        async with self._turn:
            images = await asyncio.to_thread(_decoded_all, urls)
            prompt = TokensPrompt(prompt_token_ids=list(ids), multi_modal_data={"image": images})
            if cache_salt is not None:
                prompt["cache_salt"] = cache_salt
            try:
                found: MultiModalInput = await self._renderer.process_for_engine_async(prompt, time.time())
            except ValueError as error:
                raise unusable(error) from error
            return found


def unusable(error: ValueError) -> InvalidPrompt:
    """The refusal of a picture, for example one with more tokens than one step computes."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InvalidPrompt("messages", f"this model cannot take the pictures: {reason}")


def _decoded_all(urls: Sequence[str]) -> list[Image.Image]:
    return [_decoded(url, number) for number, url in enumerate(urls, 1)]


def _decoded(url: str, number: int) -> Image.Image:
    """As RGB, upright, and white where it is transparent."""
    header, _, data = url.partition(",")
    try:
        if not (header.startswith("data:image/") and header.endswith(";base64")):
            raise ValueError("it is not a picture in a data: URI")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            rgb: Image.Image = convert_image_mode(normalize_image(image), "RGB")
            rgb.load()
            return rgb
    except (ValueError, OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InvalidPrompt("messages", f"picture {number} cannot be read: {error}") from error
