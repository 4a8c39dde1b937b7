"""The paper's loop, independent of the system under test: one process, one request, no cache.

Each step is a plain Hugging Face forward pass over the whole sequence, and an argmax over [W_V; W_E] h. The
matrix stands in the model as its head, so a model that scales or caps its logits does so with all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experts.token import ExpertToken, head_fingerprint


class ReferenceModel:
    """A model with the experts of `tokens`, greedy and without a cache."""

    def __init__(self, folder: Path, tokens: Sequence[ExpertToken] = ()) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.names = [token.name for token in tokens]
        head = self.model.lm_head
        self.num_words = head.out_features
        self.fingerprint = head_fingerprint(head.weight)
        rows = [token.vector for token in tokens]
        self.head = torch.cat([head.weight.detach(), *(row[None] for row in rows)])
        word_bias = torch.zeros(self.num_words) if head.bias is None else head.bias.detach()
        self.bias = torch.cat([word_bias, torch.tensor([token.bias for token in tokens])])
        self.model.lm_head = torch.nn.Linear(*self.head.T.shape)
        self.model.lm_head.weight.data, self.model.lm_head.bias.data = self.head, self.bias
        configured = self.model.generation_config.eos_token_id
        self.stop_ids = {
            self.tokenizer.eos_token_id,
            *(configured if isinstance(configured, list) else [configured]),
        }

    def write(
        self, messages: Sequence[Mapping[str, str]], written: str, max_tokens: int
    ) -> tuple[list[int], str | None]:
        """The ids that follow `written`, and the expert that the model hands over to, if any."""
        rendered = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return self.follow(
            self.tokenizer(rendered + written, add_special_tokens=False)["input_ids"], max_tokens
        )

    def follow(self, prompt: Sequence[int], max_tokens: int) -> tuple[list[int], str | None]:
        """As `write`, after the ids of a prompt."""
        ids: list[int] = []
        while len(ids) < max_tokens:
            choice = int(self.logits([*prompt, *ids]).argmax())
            if choice >= self.num_words:
                return ids, self.names[choice - self.num_words]
            if choice in self.stop_ids:
                return ids, None
            ids.append(choice)
        return ids, None

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Of the next token, float32 [V + E]."""
        logits: torch.Tensor = self.model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
        return logits

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def reference_answer(
    meta: ReferenceModel,
    experts: Mapping[str, ReferenceModel],
    messages: Sequence[Mapping[str, str]],
    max_tokens: int,
) -> tuple[str, list[tuple[str, list[int]]]]:
    """The visible text, and for each model the ids that it generated."""
    ids, expert = meta.write(messages, "", max_tokens)
    text, spans = meta.text(ids), [("meta", ids)]
    if expert is not None and len(ids) < max_tokens:
        more, _ = experts[expert].write(messages, text, max_tokens - len(ids))
        text += experts[expert].text(more)
        spans.append((expert, more))
    return text, spans
