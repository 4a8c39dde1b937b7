"""Grammars are compiled beside the event loop, within limits, and matched token by token."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from experts.engine.grammar import compiler
from experts.engine.grammar.compiler import GrammarCompiler
from experts.engine.grammar.state import GrammarState
from experts.engine.request import Grammar, GrammarKind
from experts.errors import InvalidCall
from experts.text.decoder import TokenDecoder
from tests.tiny.tokenizers import byte_level, sentencepiece_like

TOKENIZER = byte_level()
DECODER = TokenDecoder(TOKENIZER.backend_tokenizer)
END_ID = TOKENIZER.eos_token_id
ANY_OBJECT = Grammar(GrammarKind.JSON_OBJECT)


@pytest.fixture
def grammars():
    grammars = GrammarCompiler(DECODER, END_ID)
    yield grammars
    grammars.close()


def state_of(grammars: GrammarCompiler, schema: Any, text: str) -> GrammarState:
    grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))
    state = GrammarState(grammars.submit(grammar).result(), [END_ID])
    assert state.accept_text(text)
    return state


def allowed(state: GrammarState) -> set[int]:
    mask = state.forbidden(len(TOKENIZER))
    assert mask is not None
    return set((~mask).nonzero().flatten().tolist())


def test_after_a_match_only_the_end_follows_and_after_the_end_anything(grammars):
    state = state_of(grammars, {"const": 1}, "1")
    assert allowed(state) == {END_ID}
    assert state.accept(END_ID)
    assert state.forbidden(len(TOKENIZER)) is None
    assert not state.accept(END_ID)
    state.undo()
    state.undo()
    assert allowed(state) == {END_ID}


def test_ids_without_a_token_and_special_tokens_never_match(grammars):
    state = state_of(grammars, {"type": "string", "maxLength": 9}, '"a')
    special = {i for i in range(len(TOKENIZER)) if not DECODER.bytes_of(i)}
    assert special
    assert not special & allowed(state)
    mask = state.forbidden(len(TOKENIZER) + 5)
    assert mask is not None
    assert mask[len(TOKENIZER) :].all()


def test_strings_of_limited_length_hold_no_control_characters(grammars):
    """Regression: the library allows them there, and JSON does not."""
    state = state_of(grammars, {"type": "string", "minLength": 2, "maxLength": 9}, '"a')
    assert not {i for i in allowed(state) if any(byte < 0x20 for byte in DECODER.bytes_of(i))}


@pytest.mark.parametrize(
    ("begun", "right", "wrong"),
    [(0xE0, 0xA0, 0x9F), (0xED, 0x9F, 0xA0), (0xF0, 0x90, 0x8F), (0xF4, 0x8F, 0x90), (0xC3, 0x80, 0xC0)],
)
def test_a_character_is_continued_as_utf8_has_it(grammars, begun, right, wrong):
    """Regression: the library takes a surrogate for one character, and in text it is three."""
    state = state_of(grammars, {"type": "string", "maxLength": 9}, '"a')
    ids = {DECODER.bytes_of(i): i for i in range(len(TOKENIZER)) if len(DECODER.bytes_of(i)) == 1}
    assert ids[bytes([begun])] in allowed(state)
    assert state.accept(ids[bytes([begun])])
    assert ids[bytes([right])] in allowed(state)
    assert ids[bytes([wrong])] not in allowed(state)
    state.undo()
    assert ids[b"a"] in allowed(state)


@pytest.mark.parametrize("kind", [GrammarKind.JSON_OBJECT, GrammarKind.REGEX])
def test_bytes_that_are_no_text_are_never_allowed(grammars, kind):
    state = GrammarState(grammars.submit(Grammar(kind, "[^a]*")).result(), [END_ID])
    assert not {i for i in allowed(state) if set(DECODER.bytes_of(i)) & {0xC0, 0xC1, *range(0xF5, 0x100)}}


def test_tokens_with_a_space_of_their_own_kind_match_as_a_space():
    tokenizer = sentencepiece_like()
    decoder = TokenDecoder(tokenizer.backend_tokenizer)
    grammars = GrammarCompiler(decoder, tokenizer.eos_token_id)
    compiled = grammars.submit(Grammar(GrammarKind.REGEX, "a b")).result()
    grammars.close()
    state = GrammarState(compiled, [tokenizer.eos_token_id])
    vocabulary = tokenizer.get_vocab()
    assert [state.accept(vocabulary[token]) for token in ("a", "▁", "b")] == [True, True, True]


async def test_a_grammar_that_takes_too_long_is_refused_and_the_event_loop_goes_on(grammars, monkeypatch):
    monkeypatch.setattr(compiler, "TIME_LIMIT_S", 0.01)
    is_done = threading.Event()
    monkeypatch.setitem(compiler._METHODS, GrammarKind.JSON_OBJECT, lambda *args: is_done.wait(10))
    try:
        with pytest.raises(InvalidCall, match="to compile; simplify it") as caught:
            await grammars.compile(ANY_OBJECT)
        assert caught.value.param == "response_format"
    finally:
        is_done.set()


async def test_the_same_grammar_is_compiled_once_and_only_so_many_are_kept(grammars, monkeypatch):
    monkeypatch.setattr(compiler, "MAX_CACHED_GRAMMARS", 2)
    first = await asyncio.gather(*(grammars.compile(ANY_OBJECT) for _ in range(3)))
    assert first[0] is first[1] is first[2]
    for number in range(3):
        await grammars.compile(Grammar(GrammarKind.REGEX, str(number)))
    assert len(grammars._futures) == 2


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        (GrammarKind.JSON_SCHEMA, "[" * 100_000, "nested too deeply"),
        (GrammarKind.JSON_SCHEMA, " " * 200_000, "longer than 131072 characters"),
        (GrammarKind.REGEX, "a\0", "NUL"),
        (GrammarKind.CHOICE, '["a", 1]', "one or more texts"),
        (GrammarKind.STRUCTURAL_TAG, "[]", "must be an object"),
        (GrammarKind.STRUCTURAL_TAG, '{"structures": [{"begin": "<f>"}]}', "end"),
        (GrammarKind.STRUCTURAL_TAG, '{"format": {"content": {"json_schema": {"not": {}}}}}', "'not'"),
    ],
)
async def test_a_grammar_that_cannot_be_used_is_refused_in_one_line(grammars, kind, source, reason):
    with pytest.raises(InvalidCall, match=reason) as caught:
        await grammars.compile(Grammar(kind, source))
    assert "\n" not in str(caught.value)
    assert ".cc" not in str(caught.value)
