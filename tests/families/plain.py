"""A checkpoint in Hugging Face's own hands: its `generate`, its template, plain forward passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerFast

from experts.engine.chunk import FinishReason
from experts.token import ExpertToken

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Written:
    """`ids` without the one that ends the turn; `expert` if one took over."""

    ids: tuple[int, ...]
    finish: FinishReason
    expert: str | None = None


class PlainModel:
    """The checkpoint in `folder` in float32; nothing of it is ours."""

    def __init__(self, folder: Path) -> None:
        # Neither by an Auto class: the file itself, and the class that the checkpoint names.
        self.tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
        architecture = getattr(transformers, AutoConfig.from_pretrained(folder).architectures[0])
        # Eager attention, because the library's default leaves out Gemma 2's cap.
        self.model: Any = architecture.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        ends = self.model.generation_config.eos_token_id
        self.end_ids = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    def open_turn(self, messages: Messages) -> list[int]:
        return self._ids(self._render(messages, opens=True))

    def turn_with(self, messages: Messages, written: str) -> list[int]:
        """The ids up to the end of `written`, where the template renders it as the assistant's message."""
        rendered = self._render([*messages, {"role": "assistant", "content": written}], opens=False)
        return self._ids(rendered[: rendered.rindex(written) + len(written)])

    def raw(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def text_after(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text of `ids` where it stands behind a prompt: a first space may belong to it."""
        before, whole = (
            self.tokenizer.decode(part, skip_special_tokens=True) for part in (list(prompt), [*prompt, *ids])
        )
        assert whole.startswith(before)
        return str(whole[len(before) :])

    @torch.no_grad()
    def generate(self, ids: Sequence[int], max_tokens: int) -> Written:
        """Greedy, with Hugging Face's own loop and cache."""
        prompt = torch.tensor([list(ids)])
        output = self.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=max_tokens
        )
        new = tuple(output[0, len(ids) :].tolist())
        if new and new[-1] in self.end_ids:
            return Written(new[:-1], FinishReason.STOP)
        return Written(new, FinishReason.LENGTH)

    def route(
        self, ids: Sequence[int], tokens: Sequence[ExpertToken], max_tokens: int
    ) -> tuple[Written, Tensor]:
        """The paper's loop over plain forward passes, and the probabilities [E] at its first position.

        Where the prompt opens a think block, experts take part at the first position only.
        """
        new: list[int] = []
        is_thinking = self.tokenizer.decode(ids).rstrip().endswith("<think>")
        first: Tensor | None = None
        while len(new) < max_tokens:
            logits = self.logits([*ids, *new], tokens)
            first = logits.softmax(dim=-1)[-len(tokens) :] if first is None else first
            choice = int(logits[: self._num_words if is_thinking and new else None].argmax())
            if choice >= self._num_words:
                expert = tokens[choice - self._num_words].name
                return Written(tuple(new), FinishReason.EXPERT, expert), first
            if choice in self.end_ids:
                return Written(tuple(new), FinishReason.STOP), first
            new.append(choice)
        assert first is not None
        return Written(tuple(new), FinishReason.LENGTH), first

    @torch.no_grad()
    def logits(self, ids: Sequence[int], tokens: Sequence[ExpertToken]) -> Tensor:
        """Of the next token, float32 [V + E]: the model's own, with the experts as rows of its head."""
        head = self.model.get_output_embeddings()
        rows = [token.vector[None] for token in tokens]
        extended = torch.nn.Linear(head.in_features, self._num_words + len(rows))
        extended.weight.copy_(torch.cat([head.weight, *rows]))
        bias = torch.zeros(self._num_words) if head.bias is None else head.bias
        extended.bias.copy_(torch.cat([bias, torch.tensor([token.bias for token in tokens])]))
        self.model.set_output_embeddings(extended)
        try:
            output: Tensor = self.model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
        finally:
            self.model.set_output_embeddings(head)
        return output

    @cached_property
    def _num_words(self) -> int:
        num_words: int = self.model.get_output_embeddings().weight.shape[0]
        return num_words

    def _render(self, messages: Messages, opens: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=opens)
        )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
