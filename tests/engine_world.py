"""What tests of engines share: questions, answers, and expert tokens that win where they are told to."""

from __future__ import annotations

from typing import Any

import torch

from experts.engine.base import Call, Chunk, Engine
from experts.token import ExpertToken, head_fingerprint
from tests.reference import ReferenceModel
from tests.tiny_models import HIDDEN_SIZE


def question(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


async def run(engine: Engine, text: str = "hello", **options: Any) -> list[Chunk]:
    settings: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12, **options}
    return [chunk async for chunk in engine.generate(Call("r", messages=question(text), **settings))]


def ids_of(chunks: list[Chunk]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk.token_ids]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def token(reference: ReferenceModel, name: str, vector: torch.Tensor, bias: float = 0.0) -> ExpertToken:
    fingerprint = head_fingerprint(reference.model.lm_head.weight)
    return ExpertToken(name, vector, bias, "meta", fingerprint)


def wins_after(reference: ReferenceModel, text: str, num_tokens: int) -> torch.Tensor:
    """A vector whose expert beats every word where `num_tokens` of the answer to `text` are written."""
    ids, _ = reference.write(question(text), "", num_tokens)
    prompt = prompt_ids(reference, text)
    with torch.no_grad():
        hidden = reference.model.model(torch.tensor([[*prompt, *ids]])).last_hidden_state[0]
    here, before = hidden[-1], hidden[len(prompt) - 1 : -1]
    # Orthogonal to the earlier states, so that it wins here and not before.
    basis = torch.linalg.qr(before.T).Q if len(before) else torch.zeros(HIDDEN_SIZE, 1)
    residual = here - basis @ (basis.T @ here)
    return 1000 * residual / (residual @ here)


def prompt_ids(reference: ReferenceModel, text: str) -> list[int]:
    ids: list[int] = reference.tokenizer.apply_chat_template(
        list(question(text)), add_generation_prompt=True, return_dict=False
    )
    return ids
