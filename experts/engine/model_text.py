"""What a model's engine must know to turn calls into token ids: template, window, where its turns end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from experts.engine.base import Call
from experts.errors import ContextLengthExceeded, InvalidPrompt, ModelLoadError
from experts.prompt import PromptRenderer


@dataclass(frozen=True)
class ModelText:
    """One model's side of text, the same for every engine that runs it."""

    name: str
    renderer: PromptRenderer
    max_model_len: int
    stop_ids: frozenset[int]

    @classmethod
    def of(
        cls,
        name: str,
        renderer: PromptRenderer,
        config: PretrainedConfig,
        generation: GenerationConfig | None,
        max_model_len: int | None,
    ) -> ModelText:
        """`max_model_len` is what the operator asks for; None: all that the model takes.

        Raises:
            ModelLoadError: the window is unknown or larger than the model's.
        """
        window = _max_model_len(name, config, max_model_len)
        return cls(name, renderer, window, _stop_ids(generation, renderer.tokenizer))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.renderer.tokenizer

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        return sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    def encode(self, call: Call) -> list[int]:
        """The prompt of `call`, with all that stands in the open turn. Raises InvalidPrompt."""
        resumed = call.resumed
        if resumed is None:
            return self._read(call, call.written)
        if resumed.tokenizer != self.tokenizer_fingerprint:
            return self._read(call, call.written + resumed.text)
        return self._read(call, call.written) + list(resumed.ids)

    def budget(self, num_prompt_tokens: int, call: Call) -> int:
        """How many tokens may be written. Raises ContextLengthExceeded where there is room for none."""
        room = self.max_model_len - num_prompt_tokens
        if room < 1:
            raise ContextLengthExceeded(num_prompt_tokens, self.max_model_len - 1)
        if call.probe:
            return 1
        return room if call.max_tokens is None else min(call.max_tokens, room)

    def _read(self, call: Call, written: str) -> list[int]:
        if call.messages is not None:
            return self.renderer.chat(call.messages, written)
        if call.text is not None:
            return self.renderer.text(call.text, written)
        ids = list(call.ids or ())
        num_ids = len(self.tokenizer)
        if not ids or not all(0 <= i < num_ids for i in ids):
            raise InvalidPrompt("prompt", f"token ids must be one or more numbers from 0 to {num_ids - 1}")
        return ids + (self.renderer.text("", written) if written else [])


def _max_model_len(name: str, config: PretrainedConfig, asked: int | None) -> int:
    trained: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    if trained is None and asked is None:
        raise ModelLoadError(f"{name}: config.json names no context window; set engine.max_model_len")
    if trained and asked is not None and asked > trained:
        raise ModelLoadError(f"{name}: engine.max_model_len is {asked}, but the model takes {trained} tokens")
    return asked or trained or 0


def _stop_ids(generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = generation.eos_token_id if generation else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*listed, tokenizer.eos_token_id] if i is not None)
