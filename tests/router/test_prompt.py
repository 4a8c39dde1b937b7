"""The parts of a message: text, and media at their places in it."""

from hypothesis import given
from hypothesis import strategies as st

from router.prompt import Media, Message, Prompt, joined

# Texts that look like placeholders and like the ends of lines around them.
TEXT = st.text("a\n[image]", max_size=12)
MEDIA = st.builds(Media, st.sampled_from(["image", "audio", "file"]), st.just("data:"), digest=st.text("0f"))
PARTS = st.lists(TEXT | MEDIA, max_size=8)


def message_of(parts: list[str | Media]) -> Message:
    content, media = joined(parts)
    return Message("user", content, media=media)


def merged(parts: list[str | Media]) -> list[tuple[str, str]]:
    """The parts without their offsets; texts in a row are one, and empty ones none."""
    found: list[tuple[str, str]] = []
    is_open = False
    for part in parts:
        if isinstance(part, Media):
            found.append((part.modality, part.digest))
        elif is_open:
            found[-1] = ("", f"{found[-1][1]}\n{part}")
        else:
            found.append(("", part))
        is_open = isinstance(part, str)
    return [each for each in found if each != ("", "")]


@given(PARTS)
def test_the_parts_of_a_message_are_those_that_were_joined(parts: list[str | Media]):
    message = message_of(parts)
    assert merged([*message.parts()]) == merged(parts)
    assert all(message.content.startswith(each.placeholder, each.offset) for each in message.media)


@given(PARTS, TEXT, TEXT, st.booleans())
def test_a_message_in_other_words_keeps_its_media(
    parts: list[str | Media], before: str, after: str, is_quoted: bool
):
    message = message_of(parts)
    content = f"{before}{message.content if is_quoted else ''}{after}"
    reworded = message.reworded(content)
    assert [(each.modality, each.digest) for each in reworded.media] == [
        (each.modality, each.digest) for each in message.media
    ]
    assert all(reworded.content.startswith(each.placeholder, each.offset) for each in reworded.media)


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_media_are_replaced_in_order_or_left_out(messages: list[list[str | Media]]):
    prompt = Prompt(tuple(map(message_of, messages)))
    assert prompt.with_media(prompt.media) == prompt
    bare = prompt.without_media()
    assert not bare.modalities
    assert [each.content for each in bare.messages or ()] == [each.content for each in prompt.messages or ()]
