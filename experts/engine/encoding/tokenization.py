"""Requests to token ids: the chat template, the context window, and the ids that end a turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from os.path import commonprefix
from typing import Any

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from experts.engine.encoding.encoded_request import EncodedRequest
from experts.engine.encoding.template_variables import template_variables
from experts.engine.encoding.thoughts import ThoughtMarks
from experts.engine.parsing.call_grammar import with_forced_calls
from experts.engine.parsing.part_stream import PartStream
from experts.engine.parsing.registry import REASONING_PARSERS, ParserChoice
from experts.engine.request import EngineRequest
from experts.errors import ContextLengthExceeded, InvalidPrompt, ModelLoadError
from experts.prompt import PromptRenderer
from experts.text.decoder import TokenDecoder

NUM_TAIL_TOKENS = 64  # of a prompt, at whose end a think block may be open


@dataclass(frozen=True)
class ModelTokenizer:
    """A model's tokenizer and what belongs to it, the same for every engine that runs the model.

    `name` is the model's; `max_model_len` is the context window in tokens, prompt and answer together;
    `stop_ids` are the token ids that end a turn; `decoder` turns ids into text; `fingerprint` is the SHA-256
    of the tokenizer, equal if token ids mean the same. `parsers` read the model's output, and
    `template_kwargs` are variables of the chat template that a request may change.
    """

    name: str
    renderer: PromptRenderer
    max_model_len: int
    stop_ids: frozenset[int]
    decoder: TokenDecoder
    fingerprint: str
    parsers: ParserChoice = ParserChoice()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        renderer: PromptRenderer,
        config: PretrainedConfig,
        generation: GenerationConfig | None,
        max_model_len: int | None,
    ) -> ModelTokenizer:
        """`max_model_len`: the window that the operator configured; None: the model's own.

        Raises:
            ModelLoadError: the window is unknown or larger than the model's, or no token ends a turn.
        """
        window = _max_model_len(name, config, max_model_len)
        stop_ids = _stop_ids(name, generation, renderer.tokenizer)
        backend = renderer.tokenizer.backend_tokenizer
        # Now, because of a large vocabulary it takes a second, in which the process does nothing else.
        fingerprint = sha256(backend.to_str().encode()).hexdigest()
        return cls(name, renderer, window, stop_ids, TokenDecoder(backend), fingerprint)

    def parsed_by(self, parsers: ParserChoice, template_kwargs: Mapping[str, Any]) -> ModelTokenizer:
        return replace(self, parsers=parsers, template_kwargs=template_kwargs)

    def shortened_to(self, max_model_len: int) -> ModelTokenizer:
        """The same with a shorter window, for an engine whose KV cache does not hold this one."""
        return replace(self, max_model_len=max_model_len)

    @property
    def hf_tokenizer(self) -> PreTrainedTokenizerBase:
        return self.renderer.tokenizer

    @property
    def end_id(self) -> int:
        """One of `stop_ids`, the same in every process."""
        return min(self.stop_ids)

    @cached_property
    def vocabulary(self) -> str:
        """The SHA-256 of what each token id means; two with the same may split texts differently."""
        ids = self.hf_tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
        return sha256(json.dumps(sorted(ids.items())).encode()).hexdigest()

    @cached_property
    def marked_decoder(self) -> TokenDecoder:
        """Also shows the marks of thoughts and tool calls."""
        return self.decoder.showing(self.parsers.shown_tokens)

    def encode(self, request: EngineRequest) -> EncodedRequest:
        """Raises InvalidPrompt, ContextLengthExceeded."""
        request = with_forced_calls(request)
        prompt = self._prompt(request)
        request = _with_large_enough(request, len(prompt))
        encoded = EncodedRequest(request, prompt, self.decoder)
        if request.messages is None or request.probe:
            return encoded
        beginnings = self.parsers.call_beginnings(request)
        thinks = self.parsers.reasoning_parser is not None
        if not thinks and request.chat is None:
            return encoded
        tail, own = self._tail(request, prompt), request.resumed.text if request.resumed else ""
        parser = self.parsers.parser(request, tail)
        return replace(
            encoded,
            call_beginnings=beginnings,
            decoder=self.decoder if parser is None else self.marked_decoder,
            parts=None if parser is None else PartStream(parser, own),
            thoughts=self._thoughts(request, tail, own) if request.is_routed or request.has_grammar else None,
        )

    def lengthened(self, encoded: EncodedRequest, prompt: list[int]) -> EncodedRequest:
        """The same request with more tokens in the places of its pictures."""
        return replace(encoded, request=_with_large_enough(encoded.request, len(prompt)), prompt=prompt)

    def tokenize(self, request: EngineRequest, *, add_special_tokens: bool) -> list[int]:
        """The ids of a prompt of any length; `add_special_tokens` is of raw text. Raises InvalidPrompt."""
        if request.text is not None and not add_special_tokens:
            return self.renderer.text(request.text, add_special_tokens=False)
        return self._encode_all(request, request.written, "", None)

    def known_ids(self, ids: Sequence[int], param: str) -> list[int]:
        """Raises InvalidPrompt if there are none, or one that the tokenizer does not have."""
        num_ids = len(self.hf_tokenizer)
        if not ids or not all(0 <= i < num_ids for i in ids):
            raise InvalidPrompt(param, f"token ids must be one or more numbers from 0 to {num_ids - 1}")
        return list(ids)

    def parts_after(self, encoded: EncodedRequest, written: Sequence[int]) -> PartStream | None:
        """The parts of what another writer adds to the same answer after the tokens `written`."""
        request = encoded.request
        if encoded.parts is None:
            return None
        if written:  # only whether anything stands in the turn counts
            request = replace(request, written="written")
        tail = self.marked_decoder.decode([*encoded.prompt[-NUM_TAIL_TOKENS:], *written][-NUM_TAIL_TOKENS:])
        parser = self.parsers.parser(request, tail)
        return None if parser is None else PartStream(parser)

    def _thoughts(self, request: EngineRequest, tail: str, own: str) -> ThoughtMarks | None:
        name = self.parsers.reasoning_parser
        return ThoughtMarks(name, tail, bool(request.written), own) if name in REASONING_PARSERS else None

    def _tail(self, request: EngineRequest, prompt: Sequence[int]) -> str:
        """The end of the prompt's text, without what was written before a replica was lost."""
        if request.resumed is not None:
            prompt = self._encode(request, request.written)
        return self.marked_decoder.decode(prompt[-NUM_TAIL_TOKENS:])

    def _prompt(self, request: EngineRequest) -> list[int]:
        resumed = request.resumed
        if resumed is not None and resumed.tokenizer != self.fingerprint:
            return self._encode(request, request.written, resumed.text)
        return [*self._encode(request, request.written), *(resumed.ids if resumed else ())]

    def end_ids(self, request: EngineRequest) -> frozenset[int]:
        """The token ids that end the answer to `request`."""
        options = request.sampling
        if options is None:
            return self.stop_ids
        # Nothing can follow a matched grammar, so it ends the answer in any case.
        own = frozenset() if options.ignore_eos and options.grammar is None else self.stop_ids
        return own | frozenset(options.stop_token_ids)

    def own_ids(self, request: EngineRequest, prompt: Sequence[int]) -> tuple[int, ...]:
        """The tokens at the end of `prompt`, as encoded, that `written` and `resumed` add to it."""
        if not request.written and request.resumed is None:
            return ()
        before = self._encode(request, "")
        num_shared = len(commonprefix([before, list(prompt)]))
        return tuple(prompt[num_shared:])

    def num_resumed(self, request: EngineRequest, prompt: Sequence[int]) -> int:
        """How many tokens at the end of `prompt`, as encoded, `resumed` adds to it."""
        return len(prompt) - len(commonprefix([self._encode(request, request.written), list(prompt)]))

    def max_new_tokens(self, num_prompt_tokens: int, request: EngineRequest) -> int:
        """How many tokens may be generated. Raises ContextLengthExceeded if the prompt fills the window."""
        room = self.max_model_len - num_prompt_tokens
        if room < 1:
            raise ContextLengthExceeded(num_prompt_tokens, self.max_model_len - 1)
        if request.probe:
            return 1
        return room if request.max_tokens is None else min(request.max_tokens, room)

    def _encode(self, request: EngineRequest, written: str, own: str = "") -> list[int]:
        num_kept = request.chat.truncate_prompt_tokens if request.chat else None
        if num_kept == -1:  # what fits beside the whole answer, however much of it is written
            num_kept = max(1, self.max_model_len - request.position - (request.max_tokens or 1))
        ids = self._encode_all(request, written, own, self.max_model_len - 1 if num_kept is None else None)
        return ids if num_kept is None else ids[-num_kept:]

    def _encode_all(
        self, request: EngineRequest, written: str, own: str, max_tokens: int | None
    ) -> list[int]:
        if request.messages is not None:
            return self.renderer.chat(
                request.messages,
                written,
                own,
                variables=template_variables(request.chat, self.template_kwargs),
                opens_turn=request.chat is None or request.chat.add_generation_prompt,
                max_tokens=max_tokens,
            )
        written += own
        if request.text is not None:
            return self.renderer.text(request.text, written, max_tokens=max_tokens)
        ids = self.known_ids(request.ids or (), "prompt")
        return ids + (self.renderer.text("", written) if written else [])


def _with_large_enough(request: EngineRequest, num_prompt_tokens: int) -> EngineRequest:
    """Without the experts whose window does not hold the prompt and at least one token more."""
    windows = request.windows
    allowed = tuple(n for n in request.allowed if windows.get(n, num_prompt_tokens + 1) > num_prompt_tokens)
    return request if allowed == request.allowed else replace(request, allowed=allowed)


def _max_model_len(name: str, config: PretrainedConfig, configured: int | None) -> int:
    trained: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    if trained is None and configured is None:
        raise ModelLoadError(f"{name}: config.json names no context window; set engine.max_model_len")
    if trained and configured is not None and configured > trained:
        raise ModelLoadError(
            f"{name}: engine.max_model_len is {configured}, but the model takes {trained} tokens"
        )
    return configured or trained or 0


def _stop_ids(
    name: str, generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    configured = generation.eos_token_id if generation else None
    listed = configured if isinstance(configured, list) else [configured]
    found = frozenset(int(i) for i in [*listed, tokenizer.eos_token_id] if i is not None)
    if not found:  # answers, hand-overs and cancelled requests could not end
        raise ModelLoadError(f"{name}: no token ends a turn; set eos_token_id in its generation_config.json")
    return found
