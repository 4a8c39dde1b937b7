"""Pictures in `data:` URIs: what is refused and why, and how much memory a check takes."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from router.errors import InvalidRequest
from router.media.loader import MediaLoader
from router.media_rules import MediaRules
from router.prompt import Media, Message, Prompt, joined
from tests.router.media.pictures import data_uri, moving, picture, png_bomb

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>'
RULES = MediaRules(max_bytes=100_000, max_images=2, max_pixels=10_000)


def prompt_of(*media: Media) -> Prompt:
    text, placed = joined(["look", *media])
    return Prompt((Message("user", text, media=placed),))


def image(url: str) -> Media:
    return Media("image", url)


async def load(*media: Media, rules: MediaRules = RULES) -> Sequence[Media]:
    return [*(await MediaLoader().load(prompt_of(*media), rules)).media]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
async def test_a_picture_stays_as_it_is(kind: str):
    url = data_uri(picture(kind), f"image/{kind.lower()}")
    (loaded,) = await load(image(url))
    assert replace(loaded, digest="") == replace(image(url), offset=len("look\n"))
    assert loaded.digest


async def test_recordings_and_files_are_checked_too():
    wav = Media("audio", data_uri(b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"))
    pdf = Media("file", data_uri(b"%PDF-1.7", "application/pdf"), name="a.pdf")
    assert [each.url for each in await load(wav, pdf)] == [wav.url, pdf.url]
    for wrong in (
        replace(wav, url=pdf.url),
        replace(pdf, url=wav.url),
        replace(pdf, url="https://x.example"),
    ):
        with pytest.raises(InvalidRequest):
            await load(wrong)


REFUSED = [
    (data_uri(png_bomb(60_000, 60_000)), "more than 10000 pixels"),
    (data_uri(png_bomb(200, 51)), "more than 10000 pixels"),
    (data_uri(SVG, "image/svg+xml"), "not a PNG, JPEG, WebP or GIF"),
    (data_uri(SVG, "image/png"), "not a PNG, JPEG, WebP or GIF"),
    (data_uri(picture("JPEG", (60, 60))[:-40], "image/jpeg"), "damaged or not complete"),
    (data_uri(picture("WEBP", (60, 60))[:-10], "image/webp"), "damaged or not complete|not a PNG"),
    (data_uri(picture("PNG")[:-16]), "damaged or not complete"),
    (data_uri(picture("PNG").replace(b"IDATx", b"IDATy")), "damaged or not complete"),
    (data_uri(picture("JPEG"), "image/png"), "says image/png, but it is image/jpeg"),
    (data_uri(picture("PNG"), "text/plain"), "says text/plain, but it is image/png"),
    (data_uri(moving(), "image/gif"), "it moves"),
    (data_uri(picture(size=(200, 200), noisy=True)), "more than the 99923 bytes that are left"),
    ("data:image/png,AAAA", "must begin with"),
    ("data:image/png;base64,", "empty"),
    ("data:image/png;base64,AAA", "not valid base64"),
    ("data:image/png;base64,ÄÄÄÄ", "not valid base64"),
    ("https://example.org/a.png", "its host is not one"),
    ("file:///etc/passwd", "must begin with"),
    ("/etc/passwd", "must begin with"),
]


@pytest.mark.parametrize(("url", "why"), REFUSED)
async def test_what_is_no_good_picture_is_refused_with_the_reason(url: str, why: str):
    good = image(data_uri(picture()))
    with pytest.raises(InvalidRequest, match=f"^messages: image 2: .*({why})") as refused:
        await load(good, image(url))
    assert (refused.value.param, refused.value.code) == ("messages", "invalid_media")
    assert "AAA" not in str(refused.value)


async def test_the_media_of_a_request_are_few_and_small_together():
    png = image(data_uri(picture(size=(100, 90), noisy=True)))
    num_bytes = len(base64.b64decode(png.url.partition(",")[2]))
    await load(png, png, rules=RULES.model_copy(update={"max_bytes": 2 * num_bytes}))
    with pytest.raises(InvalidRequest, match=f"image 2: .*{num_bytes - 1} bytes that are left"):
        await load(png, png, rules=RULES.model_copy(update={"max_bytes": 2 * num_bytes - 1}))
    png = image(data_uri(picture()))
    with pytest.raises(InvalidRequest, match="at most 2 media are allowed, not 3"):
        await load(png, png, png)


async def test_a_large_picture_takes_little_more_memory_than_its_bytes_and_a_bomb_none():
    rules = MediaRules()
    jpeg = picture("JPEG", (1640, 1240), noisy=True)
    assert 8_000_000 < len(jpeg) < 9_000_000
    large, bomb = image(data_uri(jpeg, "image/jpeg")), image(data_uri(png_bomb(60_000, 60_000)))
    await load(image(data_uri(picture("JPEG"), "image/jpeg")))  # Pillow is imported
    with pytest.raises(InvalidRequest), at_most_bytes(2_000_000):
        await load(bomb, rules=rules)
    with at_most_bytes(4 * len(jpeg)):
        await load(large, rules=rules)


@contextmanager
def at_most_bytes(num_bytes: int) -> Iterator[None]:
    """The process grows by no more while the block runs."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before_bytes = _peak_bytes()
    try:
        yield
    finally:
        assert _peak_bytes() - before_bytes < num_bytes


def _peak_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return 1024 * int(line.split()[1])
