"""Compiles grammars for one tokenizer, in threads of its own: a large schema takes seconds."""

from __future__ import annotations

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
import xgrammar

from experts.engine.grammar.json_schema import unsupported_part
from experts.engine.grammar.state import CompiledGrammar
from experts.engine.grammar.utf8 import Utf8Rules
from experts.engine.grammar.words import Words
from experts.engine.request import Grammar, GrammarKind
from experts.errors import InvalidCall
from experts.text.decoder import TokenDecoder

TIME_LIMIT_S = 30.0
MAX_SOURCE_CHARS = 131_072
MAX_CACHE_BYTES = 2**28
MAX_CACHED_GRAMMARS = 256
NUM_THREADS = 2
# One token lengthens what completes an answer by a few others, and by more if it begins a long part.
MIN_GROWTH = 8
CHARS_PER_GROWTH = 16
# The library lets strings of limited length hold control characters, which JSON does not. Line breaks it
# excludes there, and they may stand between two parts of a structural tag.
_CONTROL = re.compile(rb"[\x00-\x09\x0b\x0c\x0e-\x1f]")
_JSON_KINDS = (GrammarKind.JSON_OBJECT, GrammarKind.JSON_SCHEMA, GrammarKind.STRUCTURAL_TAG)
_PLACE_IN_LIBRARY = re.compile(r"^\[[\d:]+\] \S+: (Check failed: \(.*\) is (false|true): )?")


class GrammarCompiler:
    """Compiled grammars stay in a cache of limited size. `end_id`: an id that ends a turn.

    JSON is written compactly, as `json.dumps` does: small models otherwise write blanks until their tokens
    are used up. Parts of a structural tag may have blanks.
    """

    def __init__(self, decoder: TokenDecoder, end_id: int) -> None:
        self._decoder = decoder
        self._end_id = end_id
        self._threads = ThreadPoolExecutor(NUM_THREADS, "grammar")
        self._lock = Lock()
        self._library: xgrammar.GrammarCompiler | None = None
        self._without_controls = np.empty(0, dtype=bool)  # by token id
        self._words = Words([])
        self._utf8 = Utf8Rules([])
        self._sorted: Future[Words] | None = None
        self._futures: OrderedDict[Grammar, Future[CompiledGrammar]] = OrderedDict()

    async def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Raises InvalidCall: it is malformed, takes too long to compile, or cannot be followed exactly."""
        future = asyncio.wrap_future(self.submit(grammar))
        try:
            return await asyncio.wait_for(asyncio.shield(future), TIME_LIMIT_S)
        except TimeoutError as error:
            raise too_slow(grammar) from error

    def submit(self, grammar: Grammar) -> Future[CompiledGrammar]:
        """As `compile`, but without a time limit. To be called from one thread."""
        future = self._futures.get(grammar)
        if future is None:
            future = self._futures[grammar] = self._threads.submit(self._compile, grammar)
        self._futures.move_to_end(grammar)
        if len(self._futures) > MAX_CACHED_GRAMMARS:
            self._futures.popitem(last=False)
        return future

    def submit_words(self) -> Future[Words]:
        """The vocabulary, for the beginnings of texts. The first call of a process takes a second."""
        if self._sorted is None:
            self._sorted = self._threads.submit(self._sorted_words)
        return self._sorted

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _compile(self, grammar: Grammar) -> CompiledGrammar:
        if len(grammar.source) > MAX_SOURCE_CHARS:
            raise _invalid(grammar, f"it is longer than {MAX_SOURCE_CHARS} characters")
        try:
            library = self._library_compiler()
            compiled = _METHODS[grammar.kind](library, grammar)
            allowed = self._without_controls if grammar.kind in _JSON_KINDS else self._utf8.valid
            max_growth = MIN_GROWTH + len(grammar.source) // CHARS_PER_GROWTH
            return CompiledGrammar(compiled, allowed, self._words, self._utf8, max_growth)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise _invalid(grammar, _PLACE_IN_LIBRARY.sub("", reason)) from error

    def _sorted_words(self) -> Words:
        self._library_compiler()
        self._words.beginning(b" ")  # sorts them, once
        return self._words

    def _library_compiler(self) -> xgrammar.GrammarCompiler:
        """Created with the first grammar: it reads the whole vocabulary."""
        with self._lock:
            if self._library is None:
                words = self._decoder.vocabulary()
                info = xgrammar.TokenizerInfo(words, xgrammar.VocabType.RAW, stop_token_ids=[self._end_id])
                self._words = Words(words)
                self._utf8 = Utf8Rules(words)
                without_controls = np.array([not _CONTROL.search(word) for word in words])
                self._without_controls = without_controls & self._utf8.valid
                self._library = xgrammar.GrammarCompiler(
                    info, max_threads=NUM_THREADS, cache_limit_bytes=MAX_CACHE_BYTES
                )
            return self._library


def too_slow(grammar: Grammar) -> InvalidCall:
    """The error for a grammar that was not compiled within the time limit."""
    return _invalid(grammar, f"it takes more than {TIME_LIMIT_S:.0f} s to compile; simplify it")


def _invalid(grammar: Grammar, reason: str) -> InvalidCall:
    is_json = grammar.kind in (GrammarKind.JSON_OBJECT, GrammarKind.JSON_SCHEMA)
    param = "response_format" if is_json else "structured_outputs"
    return InvalidCall("invalid_grammar", param, f"this {grammar.kind.value} cannot be used: {reason}")


def _json_object(library: xgrammar.GrammarCompiler, _grammar: Grammar) -> xgrammar.CompiledGrammar:
    return library.compile_json_schema({"type": "object"}, any_whitespace=False)


def _json_schema(library: xgrammar.GrammarCompiler, grammar: Grammar) -> xgrammar.CompiledGrammar:
    _require_supported(_parsed(grammar), grammar)
    return library.compile_json_schema(grammar.source, any_whitespace=False)


def _regex(library: xgrammar.GrammarCompiler, grammar: Grammar) -> xgrammar.CompiledGrammar:
    if "\0" in grammar.source:
        raise ValueError("it holds a NUL character")
    return library.compile_regex(grammar.source)


def _choice(library: xgrammar.GrammarCompiler, grammar: Grammar) -> xgrammar.CompiledGrammar:
    choices = _parsed(grammar)
    if not choices or not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
        raise ValueError("it must be a list of one or more texts")
    # JSON escapes what a string of a grammar must escape.
    texts = (json.dumps(text, ensure_ascii=False) for text in choices)
    return library.compile_grammar(f"root ::= {' | '.join(texts)}")


def _ebnf(library: xgrammar.GrammarCompiler, grammar: Grammar) -> xgrammar.CompiledGrammar:
    return library.compile_grammar(grammar.source)


def _structural_tag(library: xgrammar.GrammarCompiler, grammar: Grammar) -> xgrammar.CompiledGrammar:
    tag = _parsed(grammar)
    if not isinstance(tag, dict):
        raise ValueError("it must be an object")
    for schema in _schemas(tag):
        _require_supported(schema, grammar)
    return library.compile_structural_tag(_with_format(tag))


def _with_format(tag: dict[str, Any]) -> dict[str, Any]:
    """Clients may also send the older form, with `structures` and `triggers`."""
    if "structures" not in tag:
        return tag
    tags = [
        {
            "begin": each["begin"],
            "content": {"type": "json_schema", "json_schema": each.get("schema", {})},
            "end": each["end"],
        }
        for each in tag["structures"]
    ]
    triggered = {"type": "triggered_tags", "triggers": tag.get("triggers", []), "tags": tags}
    return {"type": "structural_tag", "format": triggered}


def _schemas(tag: Any) -> list[Any]:
    """Every JSON schema in a structural tag."""
    if isinstance(tag, list):
        return [schema for item in tag for schema in _schemas(item)]
    if not isinstance(tag, dict):
        return []
    own = [tag[key] for key in ("json_schema", "schema") if key in tag]
    return own + [
        s for key, value in tag.items() if key not in ("json_schema", "schema") for s in _schemas(value)
    ]


def _parsed(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.source)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _require_supported(schema: Any, grammar: Grammar) -> None:
    if reason := unsupported_part(schema):
        raise ValueError(reason)


_METHODS: dict[GrammarKind, Callable[[xgrammar.GrammarCompiler, Grammar], xgrammar.CompiledGrammar]] = {
    GrammarKind.JSON_OBJECT: _json_object,
    GrammarKind.JSON_SCHEMA: _json_schema,
    GrammarKind.REGEX: _regex,
    GrammarKind.CHOICE: _choice,
    GrammarKind.GRAMMAR: _ebnf,
    GrammarKind.STRUCTURAL_TAG: _structural_tag,
}
