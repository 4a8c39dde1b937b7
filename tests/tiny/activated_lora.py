"""A tiny model and an activated LoRA on it, made by PEFT: its own answers are what engines have to give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from experts.engine.chunk import EngineChunk
from experts.token import ExpertToken
from tests.support.engine_world import ids_of, prompt_ids, token
from tests.support.reference_loop import ReferenceModel
from tests.tiny.models import save_tiny_llama
from tests.tiny.peft_adapters import save_peft_adapter
from tests.tiny.tokenizers import byte_level

INVOCATION = "<|im_start|>assistant\n"
NUM_TOKENS = 16
# What a request says of an expert `law` that may take over with the adapter `law`.
ALLOWED: Mapping[str, Any] = {"allowed": ("law",), "in_place": {"law": "law"}}


@dataclass(frozen=True)
class ActivatedLora:
    """`base` and `folder` hold the model and the adapter, `model` is PEFT's, `reference` that of the base."""

    base: Path
    folder: Path
    invocation: list[int]
    model: PeftModel
    reference: ReferenceModel

    @classmethod
    def save(cls, folder: Path) -> ActivatedLora:
        base = folder / "base"
        save_tiny_llama(base, byte_level(), head_dim=32)
        reference = ReferenceModel(base)
        invocation: list[int] = reference.tokenizer(INVOCATION, add_special_tokens=False)["input_ids"]
        settings: dict[str, Any] = {"target_modules": "all-linear", "r": 8}
        settings["alora_invocation_tokens"] = invocation
        return cls(
            base, folder / "law", invocation, save_peft_adapter(base, folder / "law", **settings), reference
        )

    def answer(self, text: str) -> list[int]:
        """PEFT's greedy answer."""
        return self.greedy(prompt_ids(self.reference, text))

    def greedy(self, ids: Sequence[int], **options: Any) -> list[int]:
        """What PEFT's model adds to `ids`."""
        return greedy(self.model, ids, self.reference.stop_ids, **options)

    @property
    def always(self) -> ExpertToken:
        """The token of an expert `law` that wins at the first position of every prompt."""
        return token(self.reference, "law", torch.zeros(self.reference.head.shape[1]), bias=1000.0)


@torch.no_grad()
def greedy(model: Any, ids: Sequence[int], stop_ids: set[int], **options: Any) -> list[int]:
    output = model.generate(
        input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=NUM_TOKENS, eos_token_id=-1, **options
    )
    found = [int(each) for each in output[0, len(ids) :]]
    return found[: next((i for i, each in enumerate(found) if each in stop_ids), None)]


def by_author(chunks: list[EngineChunk]) -> tuple[list[int], list[int]]:
    """The ids of the meta, and those of the expert."""
    at = next(i for i, chunk in enumerate(chunks) if chunk.expert is not None)
    assert chunks[at].finish is None
    return ids_of(chunks[: at + 1]), ids_of(chunks[at + 1 :])
