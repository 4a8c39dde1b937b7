"""The paper's loop, written independently of the system under test: one process, one request, no cache.

Plain Hugging Face forward passes over the whole sequence, at every step, and an argmax over [W_V; W_E] h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experts.token import ExpertToken


class ReferenceModel:
    def __init__(self, folder: Path, tokens: Sequence[ExpertToken] = ()) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.names = [token.name for token in tokens]
        self.num_words = self.model.lm_head.weight.shape[0]
        rows = [token.vector for token in tokens]
        self.head = torch.cat([self.model.lm_head.weight.detach(), *(row[None] for row in rows)])
        self.bias = torch.tensor([0.0] * self.num_words + [token.bias for token in tokens])
        configured = self.model.generation_config.eos_token_id
        self.stop_ids = {
            self.tokenizer.eos_token_id,
            *(configured if isinstance(configured, list) else [configured]),
        }

    def write(
        self, messages: Sequence[Mapping[str, str]], written: str, max_tokens: int
    ) -> tuple[list[int], str | None]:
        """The ids this model goes on with, and the expert it hands over to, if any."""
        rendered = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        prompt = self.tokenizer(rendered + written, add_special_tokens=False)["input_ids"]
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
        hidden = self.model.model(torch.tensor([list(ids)]), use_cache=False).last_hidden_state[0, -1]
        return self.head @ hidden + self.bias

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def reference_answer(
    meta: ReferenceModel,
    experts: Mapping[str, ReferenceModel],
    messages: Sequence[Mapping[str, str]],
    max_tokens: int,
) -> tuple[str, list[tuple[str, list[int]]]]:
    """The visible text, and who wrote which ids."""
    ids, expert = meta.write(messages, "", max_tokens)
    text, spans = meta.text(ids), [("meta", ids)]
    if expert is not None and len(ids) < max_tokens:
        more, _ = experts[expert].write(messages, text, max_tokens - len(ids))
        text += experts[expert].text(more)
        spans.append((expert, more))
    return text, spans
