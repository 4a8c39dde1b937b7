"""The media of a prompt: fetched if they are elsewhere, checked, and in `data:` URIs from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b

from router.errors import InvalidRequest
from router.media.checks import check_audio, check_file, check_image
from router.media.data_uri import CODE, parse_data_uri, to_data_uri
from router.media.fetcher import MediaFetcher
from router.media_rules import MediaRules
from router.prompt import Media, Prompt

MAX_CHECKS = 2  # at a time: each may decode a picture of `max_pixels`
_ALIASES = {"image/jpg": "image/jpeg", "audio/mp3": "audio/mpeg", "audio/x-wav": "audio/wav"}


class MediaLoader:
    """Shared by all requests of a router."""

    def __init__(self, fetcher: MediaFetcher | None = None) -> None:
        self._fetcher = fetcher or MediaFetcher()
        self._checks = asyncio.Semaphore(MAX_CHECKS)

    async def load(self, prompt: Prompt, rules: MediaRules) -> Prompt:
        """The prompt with its media in `data:` URIs, each checked.

        Raises InvalidRequest: one of them cannot be fetched, is too large, or is not what it says.
        """
        media = [*prompt.media]
        if not media:  # nearly always
            return prompt
        if len(media) > rules.max_images:
            raise InvalidRequest(
                f"messages: at most {rules.max_images} media are allowed, not {len(media)}", "messages", CODE
            )
        fetched = await self._fetched(media, rules)
        loaded, num_bytes_left = [], rules.max_bytes
        for number, each in enumerate(media):
            with _named(each, number):
                async with self._checks:
                    one, num_bytes = await asyncio.to_thread(
                        _checked, each, fetched.get(number), rules, num_bytes_left
                    )
            loaded.append(one)
            num_bytes_left -= num_bytes
        return prompt.with_media(loaded)

    async def _fetched(self, media: Sequence[Media], rules: MediaRules) -> dict[int, bytes]:
        """The pictures that are elsewhere, by their numbers."""
        fetched: dict[int, bytes] = {}
        number = 0
        try:
            async with asyncio.timeout(rules.timeout_s):
                for number, each in enumerate(media):
                    if each.url.startswith("data:"):
                        continue
                    with _named(each, number):
                        if each.modality != "image":
                            raise InvalidRequest(
                                "only pictures are fetched; send a data: URI", "messages", CODE
                            )
                        left = rules.max_bytes - sum(map(len, fetched.values()))
                        fetched[number] = await self._fetcher.fetch(each.url, rules, left)
        except TimeoutError as error:
            with _named(media[number], number):
                raise InvalidRequest(
                    f"it did not come within {rules.timeout_s:g} s", "messages", CODE
                ) from error
        return fetched


@contextmanager
def _named(media: Media, number: int) -> Iterator[None]:
    """Names the media in an error about it."""
    try:
        yield
    except InvalidRequest as error:
        what = f"{media.modality} {number + 1}"
        raise InvalidRequest(f"messages: {what}: {error}", error.param, error.code) from error


def _checked(media: Media, fetched: bytes | None, rules: MediaRules, max_bytes: int) -> tuple[Media, int]:
    """The media with its data, and their size in bytes."""
    said, data = parse_data_uri(media.url, max_bytes) if fetched is None else (None, fetched)
    kind = _kind(media, data, rules)
    if said is not None and _ALIASES.get(said, said) != kind:
        raise InvalidRequest(f"it says {said}, but it is {kind}", "messages", CODE)
    url = media.url if fetched is None else to_data_uri(kind, data)
    digest = blake2b(data, digest_size=16).hexdigest()
    return replace(media, url=url, digest=digest), len(data)


def _kind(media: Media, data: bytes, rules: MediaRules) -> str:
    match media.modality:
        case "audio":
            return check_audio(data)
        case "file":
            return check_file(data)
        case _:
            return check_image(data, rules.max_pixels)
