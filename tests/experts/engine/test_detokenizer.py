"""Streamed text: over all chunks it is what the answer adds to the decoded prompt, however both are cut."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from os.path import commonprefix

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experts.engine.detokenizer import IncrementalDetokenizer
from experts.text.decoder import TokenDecoder, unfinished
from tests.tiny import tokenizers as tiny_tokenizers

TOKENIZERS = {
    "byte_level": tiny_tokenizers.byte_level(),
    "torn": tiny_tokenizers.torn(),
    "sentencepiece": tiny_tokenizers.sentencepiece_like(),
    "legacy": tiny_tokenizers.sentencepiece_like(legacy=True),
    "gemma": tiny_tokenizers.gemma_like(num_unused=3),
}
DECODERS = {name: TokenDecoder(tokenizer.backend_tokenizer) for name, tokenizer in TOKENIZERS.items()}
BYTE_LEVEL = ("byte_level", "torn")
BYTE_FALLBACK = ("sentencepiece", "legacy", "gemma")

FAMILY = "👨\u200d👩\u200d👧"
FRAGMENTS = (
    *(
        "a",
        "b ",
        " ",
        "  ",
        "\n",
        "x\n\n你",
        "你好",
        "😀",
        "é",
        FAMILY,
        "▁",
        "\ufffd",
        "<|im_end|>",
        "[INST]",
    ),
    *("นี่คือ", "答えは東京", "\u2028", "ß", "\r\n", "The answer is"),
)
words = st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=3))
texts = st.lists(words, max_size=8).map("".join)
chunk_sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def ids_of(name: str, text: str) -> list[int]:
    return list(TOKENIZERS[name](text, add_special_tokens=False)["input_ids"])


def stream(name: str, prompt: Sequence[int], answer: Sequence[int], sizes: Sequence[int] = (1,)):
    """(text, ids) of each chunk."""
    detokenizer = IncrementalDetokenizer(DECODERS[name], prompt)
    chunks, end = [], 0
    for size in itertools.cycle(sizes):
        end = min(end + size, len(answer))
        chunks.append(detokenizer.add(answer[:end], last=end == len(answer)))
        if end == len(answer):
            return chunks
    raise AssertionError


def added_text(name: str, prompt: Sequence[int], answer: Sequence[int]) -> str:
    """By the tokenizer's own decoding of everything at once."""
    before, whole = (DECODERS[name].decode(ids) for ids in (prompt, [*prompt, *answer]))
    return whole[len(commonprefix([before, whole])) :]


def num_in_whole_characters(name: str, ids: Sequence[int]) -> int:
    """How many of `ids`, which spell a text or its beginning, end with a character."""
    ends = [end for end in range(len(ids) + 1) if not unfinished(spelling(name, ids[:end]))]
    return ends[-1]


def spelling(name: str, ids: Sequence[int]) -> bytes:
    return b"".join(map(DECODERS[name].bytes_of, ids))


def text_of(chunks: list[tuple[str, tuple[int, ...]]]) -> str:
    return "".join(text for text, _ in chunks)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=texts, sizes=chunk_sizes)
@example(text="นี่คือabc", sizes=[1])
@example(text="what is this: \ufffd[/INST]It is", sizes=[2])
@example(text="family 👨‍👩‍👧 go", sizes=[1])
@settings(max_examples=40, deadline=None)
def test_no_text_is_lost_doubled_or_invented_wherever_the_answer_begins(name, text, sizes):
    ids = ids_of(name, text)
    for cut in range(len(ids) + 1):
        if spelling(name, ids[:cut]).endswith((b"\xef", b"\xef\xbf")):
            continue  # in the middle of U+FFFD, which a cut character looks like
        prompt, answer = ids[:cut], ids[cut:]
        chunks = stream(name, prompt, answer, sizes)
        whole = num_in_whole_characters(name, prompt)
        assert text_of(chunks) == added_text(name, ids[:whole], ids[whole:])
        assert [i for _, part in chunks for i in part] == answer


@pytest.mark.parametrize("name", TOKENIZERS)
@given(prompt=texts, answer=texts)
@example(prompt="นี่คือ", answer="abc")
@example(prompt="my secret prompt\ufffd", answer=" hello")
@example(prompt="", answer=" hello")
@settings(max_examples=60, deadline=None)
def test_text_that_another_model_wrote_before_changes_nothing(name, prompt, answer):
    """After a hand-over, the end of the prompt is text that was tokenized apart from what follows."""
    before, ids = ids_of(name, prompt), ids_of(name, answer)
    assert text_of(stream(name, before, ids)) == added_text(name, before, ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data(), sizes=chunk_sizes)
@settings(max_examples=60, deadline=None)
def test_an_answer_goes_on_after_a_resumption_as_if_it_had_not_been_interrupted(name, data, sizes):
    ids = data.draw(st.lists(st.integers(0, len(TOKENIZERS[name]) - 1), max_size=20))
    cut = data.draw(st.integers(0, len(ids)))
    prompt, answer = ids[:cut], ids[cut:]
    chunks = stream(name, prompt, answer, sizes)
    for end in range(1, len(chunks)):
        sent = [i for _, part in chunks[:end] for i in part]
        rest = stream(name, [*prompt, *sent], answer[len(sent) :])
        assert text_of(rest) == text_of(chunks[end:])


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(data=st.data(), sizes=chunk_sizes)
@settings(max_examples=150, deadline=None)
def test_stray_bytes_of_a_byte_level_tokenizer_are_streamed_as_it_decodes_them(name, data, sizes):
    ids = data.draw(st.lists(st.integers(0, len(TOKENIZERS[name]) - 1), max_size=12))
    for cut in range(len(ids) + 1):
        prompt, answer = ids[:cut], ids[cut:]
        assert text_of(stream(name, prompt, answer, sizes)) == added_text(name, prompt, answer)


@pytest.mark.parametrize("name", BYTE_FALLBACK)
@given(data=st.data(), sizes=chunk_sizes)
@settings(max_examples=150, deadline=None)
def test_stray_bytes_of_a_byte_fallback_tokenizer_cost_no_whole_character(name, data, sizes):
    """Decoded at once they would: one stray byte makes U+FFFD of every byte token in the same row."""
    pieces = st.one_of(st.sampled_from([*"你😀é", "a", " ", "\xff"]), st.binary(min_size=1, max_size=2))
    parts = [p if isinstance(p, bytes) else p.encode() for p in data.draw(st.lists(pieces, max_size=8))]
    ids = [byte_token(name, byte) for part in parts for byte in part]
    whole = b"".join(parts).decode(errors="ignore")
    chunks = stream(name, ids_of(name, "a"), ids, sizes)
    assert text_of(chunks).replace("\ufffd", "") == re.sub("\ufffd", "", whole)
    assert [i for _, part in chunks for i in part] == ids


def byte_token(name: str, byte: int) -> int:
    token_id = TOKENIZERS[name].backend_tokenizer.token_to_id(f"<0x{byte:02X}>")
    assert token_id is not None
    return token_id


@pytest.mark.parametrize("name", BYTE_FALLBACK)
def test_an_answer_survives_a_stray_byte_after_a_character_in_bytes(name):
    """Regression: it ended with "Invalid prefix encountered while decoding stream"."""
    stray = [byte_token(name, 0xE5)]
    answer = [*ids_of(name, "你")[-3:], *stray, *ids_of(name, "x")[-1:], *ids_of(name, "好")[-3:]]
    assert text_of(stream(name, ids_of(name, "hi"), answer)) == "你\ufffdx好"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_prompt_cut_in_a_character_is_completed_and_not_repeated(name):
    ids = ids_of(name, "hi 😀")
    assert text_of(stream(name, ids[:-1], ids[-1:])) == "😀"
    broken = stream(name, ids[:-1], ids_of(name, "hi x")[-1:])
    assert text_of(broken) == "x"


def test_a_character_is_held_back_until_its_last_byte_and_given_out_at_the_end():
    ids = ids_of("byte_level", "é")
    assert stream("byte_level", [], ids) == [("", ()), ("é", tuple(ids))]
    assert stream("byte_level", [], ids[:1]) == [("\ufffd", tuple(ids[:1]))]


def test_an_endless_row_of_first_bytes_is_not_held_back():
    first = byte_token("gemma", 0xF0)
    chunks = stream("gemma", [], [first] * 50)
    assert [text for text, _ in chunks] == ["", *["\ufffd"] * 48, "\ufffd\ufffd"]
