"""The sequential loop of published code: one process, one request at a time, `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from experts.token import ExpertToken

Messages = Sequence[Mapping[str, str]]


class ReferenceLoop:
    """All models in this process. The meta's head has an extra row for each expert. `generate` stops when
    such a row wins, and the expert continues the text to the end of the answer."""

    def __init__(self, models: Path, tokens: Path, experts: Sequence[str]) -> None:
        self._experts = {name: LoopModel(models / name) for name in experts}
        self._meta = LoopModel(
            models / "meta", [ExpertToken.load(tokens / f"{name}.safetensors") for name in experts]
        )

    def answer(self, messages: Messages, max_tokens: int) -> tuple[str, int]:
        """Returns the greedy text and its number of tokens."""
        text, num_tokens, expert = self._meta.write(messages, "", max_tokens)
        if expert is None or num_tokens == max_tokens:
            return text, num_tokens
        more, num_more, _ = self._experts[expert].write(messages, text, max_tokens - num_tokens)
        return text + more, num_tokens + num_more


class LoopModel:
    def __init__(self, folder: Path, tokens: Sequence[ExpertToken] = ()) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._num_words = self._model.lm_head.out_features
        self._names = [token.name for token in tokens]
        if tokens:
            self._model.lm_head = _extended(self._model.lm_head, tokens)
        configured = self._model.generation_config.eos_token_id
        self._stop_ids = {
            self._tokenizer.eos_token_id,
            *(configured if isinstance(configured, list) else [configured]),
        }
        self._stop_ids |= {self._num_words + i for i in range(len(tokens))}

    def write(self, messages: Messages, written: str, max_tokens: int) -> tuple[str, int, str | None]:
        """Returns the text, its number of tokens, and the expert that takes over (None: no expert)."""
        rendered = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        inputs = self._tokenizer(rendered + written, add_special_tokens=False, return_tensors="pt")
        ids = self._model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=sorted(self._stop_ids),
            pad_token_id=self._tokenizer.eos_token_id,
        )[0, inputs["input_ids"].shape[1] :].tolist()
        expert = None
        if ids[-1] in self._stop_ids:
            last = ids.pop()
            expert = self._names[last - self._num_words] if last >= self._num_words else None
        return self._tokenizer.decode(ids, skip_special_tokens=True), len(ids), expert


def _extended(head: nn.Linear, tokens: Sequence[ExpertToken]) -> nn.Linear:
    """The head [W_V; W_E] as one layer."""
    extended = nn.Linear(head.in_features, head.out_features + len(tokens))
    with torch.no_grad():
        extended.weight.copy_(torch.cat([head.weight, *(token.vector[None] for token in tokens)]))
        words = torch.zeros(head.out_features) if head.bias is None else head.bias
        extended.bias.copy_(torch.cat([words, torch.tensor([token.bias for token in tokens])]))
    return extended.requires_grad_(False)
