"""Requests to token ids: the chat template, the context window, and the ids that end a turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from os.path import commonprefix

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from experts.engine.request import EngineRequest
from experts.errors import ContextLengthExceeded, InvalidPrompt, ModelLoadError
from experts.prompt import PromptRenderer
from experts.text.decoder import TokenDecoder


@dataclass(frozen=True)
class ModelTokenizer:
    """A model's tokenizer and what belongs to it, the same for every engine that runs the model.

    `name` is the model's; `max_model_len` is the context window in tokens, prompt and answer together;
    `stop_ids` are the token ids that end a turn; `decoder` turns ids into text; `fingerprint` is the SHA-256
    of the tokenizer, equal if token ids mean the same.
    """

    name: str
    renderer: PromptRenderer
    max_model_len: int
    stop_ids: frozenset[int]
    decoder: TokenDecoder
    fingerprint: str

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

    def encode(self, request: EngineRequest) -> list[int]:
        """The ids of the prompt, with everything that stands in the open turn. Raises InvalidPrompt."""
        resumed = request.resumed
        if resumed is None:
            return self._encode(request, request.written)
        if resumed.tokenizer != self.fingerprint:
            return self._encode(request, request.written, resumed.text)
        return self._encode(request, request.written) + list(resumed.ids)

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

    def max_new_tokens(self, num_prompt_tokens: int, request: EngineRequest) -> int:
        """How many tokens may be generated. Raises ContextLengthExceeded if the prompt fills the window."""
        room = self.max_model_len - num_prompt_tokens
        if room < 1:
            raise ContextLengthExceeded(num_prompt_tokens, self.max_model_len - 1)
        if request.probe:
            return 1
        return room if request.max_tokens is None else min(request.max_tokens, room)

    def _encode(self, request: EngineRequest, written: str, own: str = "") -> list[int]:
        if request.messages is not None:
            return self.renderer.chat(request.messages, written, own, max_tokens=self.max_model_len - 1)
        written += own
        if request.text is not None:
            return self.renderer.text(request.text, written, max_tokens=self.max_model_len - 1)
        ids = list(request.ids or ())
        num_ids = len(self.hf_tokenizer)
        if not ids or not all(0 <= i < num_ids for i in ids):
            raise InvalidPrompt("prompt", f"token ids must be one or more numbers from 0 to {num_ids - 1}")
        return ids + (self.renderer.text("", written) if written else [])


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
